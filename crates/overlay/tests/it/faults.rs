//! Every change of several steps, failing or stopped at each call.
//!
//! For each operation the number of calls is found by running it once. Then it is run anew for each call, which fails
//! or after which nothing works any more. The tree that is then seen, the tree after a remount and the tree after a
//! crash at that moment have to be the old one or the new one, and the staging directory is empty after a remount.

use acetate_layer::fault::{Calls, Plan};
use acetate_layer::mem::Abilities;
use acetate_layer::{Errno, Kind, Rdev, SetXattr};
use acetate_overlay::{Config, Index, Redirects};

use crate::engine::{Engine, with_xattr_whiteouts};
use crate::op::{Flags, Op, p};
use crate::stack::{Dir, Node, Stack};
use crate::view::{Changed, Subject, Tree, View};

fn dir(children: &[(&str, Node)]) -> Dir {
    let children = children.iter().map(|(name, node)| (name.as_bytes().to_vec(), node.clone())).collect();
    Dir { mode: 0o755, opaque: false, xattr: None, children }
}

fn file(content: &str) -> Node {
    Node::File { mode: 0o4755, content: content.into(), xattr: Some(b"v".to_vec()) }
}

/// An upper layer that has removed some things, over one with everything to change.
fn layers() -> Stack {
    let inner = dir(&[("x", file("inner")), ("y", Node::Symlink)]);
    let gone = dir(&[("x", Node::Whiteout), ("y", Node::Whiteout)]);
    let upper = dir(&[
        ("whiteout", Node::Whiteout),
        ("emptied", Node::Dir(gone)),
        ("own", file("upper only")),
        ("own-dir", Node::Dir(dir(&[("z", file("z"))]))),
        ("hides", file("hides a lower file")),
    ]);
    let lower = dir(&[
        ("file", file("lower content")),
        ("other", file("another one")),
        ("dir", Node::Dir(inner.clone())),
        ("empty", Node::Dir(dir(&[]))),
        ("link", Node::Symlink),
        ("fifo", Node::Fifo),
        ("whiteout", file("removed before")),
        ("emptied", Node::Dir(inner)),
        ("hides", file("hidden")),
    ]);
    vec![upper, lower]
}

/// The same with a lower file of two names, which only an index keeps together.
fn layers_for(config: &Config) -> Stack {
    let mut layers = layers();
    if config.index != Index::Nothing {
        let one = file("a file of two names");
        layers[1].children.insert(b"one".to_vec(), one);
        // The fifth file of the layer in the order of their paths.
        layers[1].children.insert(b"two".to_vec(), Node::Link(4));
    }
    layers
}

/// Operations that take more than one change of upper.
fn operations() -> Vec<Op> {
    let path = |path: &str| p(path.as_bytes());
    let rename = |old, new, flags| Op::Rename(path(old), path(new), flags);
    vec![
        Op::Chmod(path("/file"), 0o600),
        Op::Chmod(path("/dir/x"), 0o600),
        Op::Chmod(path("/dir"), 0o700),
        Op::Chown(path("/link"), Some(5), Some(5)),
        Op::Chmod(path("/fifo"), 0o600),
        Op::Write(path("/file"), 3, b"changed".to_vec()),
        Op::Empty(path("/file")),
        Op::Truncate(path("/file"), 4),
        Op::SetXattr(path("/dir/x"), b"user.y", b"1".to_vec(), SetXattr::Any),
        Op::RemoveXattr(path("/file"), b"user.x"),
        Op::Create(path("/dir/new"), 0o644),
        Op::Create(path("/whiteout"), 0o644),
        Op::Mkdir(path("/whiteout"), 0o755),
        Op::Mknod(path("/whiteout"), Kind::Fifo, Rdev::default()),
        Op::Symlink(path("/whiteout")),
        Op::Unnamed(path("/dir"), b"data".to_vec(), path("/whiteout")),
        Op::Link(path("/file"), path("/dir/second")),
        Op::Link(path("/file"), path("/whiteout")),
        Op::Link(path("/own"), path("/whiteout")),
        Op::Unlink(path("/file")),
        Op::Unlink(path("/dir/x")),
        Op::Unlink(path("/own")),
        Op::Unlink(path("/hides")),
        Op::Rmdir(path("/empty")),
        Op::Rmdir(path("/emptied")),
        rename("/file", "/moved", Flags::None),
        rename("/file", "/dir/moved", Flags::None),
        rename("/file", "/other", Flags::None),
        rename("/file", "/own", Flags::None),
        rename("/file", "/whiteout", Flags::None),
        rename("/own", "/whiteout", Flags::None),
        rename("/hides", "/whiteout", Flags::NoReplace),
        rename("/own", "/file", Flags::None),
        rename("/own-dir", "/moved", Flags::None),
        rename("/own-dir", "/whiteout", Flags::None),
        rename("/own-dir", "/empty", Flags::None),
        rename("/own-dir", "/emptied", Flags::None),
        rename("/own-dir", "/dir/moved", Flags::None),
        rename("/file", "/other", Flags::Exchange),
        rename("/file", "/own", Flags::Exchange),
        rename("/own", "/own-dir", Flags::Exchange),
        rename("/dir/x", "/own-dir/z", Flags::Exchange),
    ]
}

/// A tree without what a failed operation may leave changed: times, and the link counts of directories, which say
/// whether they were copied up (ancestors that were copied before the failure stay copied).
fn timeless(tree: Tree, config: &Config) -> Tree {
    let view = |view: View| {
        // With everything indexed the index counts as a name after a remount, as in the kernel.
        let any = view.kind == Kind::Dir || config.index == Index::All;
        let nlink = if any { 0 } else { view.nlink };
        View { changed: Changed::Unknown, nlink, ..view }
    };
    Tree(tree.0.into_iter().map(|(path, seen)| (path, view(seen))).collect())
}

fn is_either(tree: &Tree, old: &Tree, new: &Tree) -> Result<(), String> {
    if old.difference(tree).is_none() || new.difference(tree).is_none() {
        return Ok(());
    }
    Err(format!(
        "neither the old tree:\n{}nor the new one:\n{}",
        old.difference(tree).unwrap_or_default(),
        new.difference(tree).unwrap_or_default()
    ))
}

/// Has each operation be one request to a server that is killed at each call, and sent again to the one that takes over:
/// it succeeds, and the objects are those that the kernel knows. Returns how many servers were killed.
fn take_over(start: &dyn Fn() -> Engine, operations: &[Op], config: &Config) -> usize {
    const UNIQUE: u64 = 42;
    let start = || start().recording();
    let (mut kills, mut wrong) = (0, Vec::new());
    for op in operations {
        let mut engine = start();
        let old_ids = engine.ids();
        engine.faults.plan(Plan::None);
        if engine.request(op, (UNIQUE, false), |_| true).is_err() {
            // Not possible on such a filesystem.
            continue;
        }
        let calls = engine.faults.calls(Calls::All);
        let new = timeless(engine.walk(), config);
        let stay: Vec<_> =
            engine.ids().into_iter().filter(|(path, id)| old_ids.get(path) == Some(id)).collect();
        // The last one is killed before it can answer.
        for at in 0..=calls.len() {
            let mut engine = start();
            let before = engine.ids();
            engine.faults.plan(KILLED(at));
            let _never_answered = engine.request(op, (UNIQUE, false), |_| false);
            let mut engine = engine.taken_over();
            let outcome = engine.request(op, (UNIQUE, true), |_| true);
            kills += 1;
            let call = calls.get(at).copied().unwrap_or("the answer");
            let mut check = |what: &str, tree: Tree| {
                if let Some(difference) = new.difference(&timeless(tree, config)) {
                    wrong.push(format!("{op:?}, killed at call {at} ({call}), {what}: {difference}"));
                }
            };
            check("taken over", engine.walk());
            let ids = engine.ids();
            for (path, _) in &stay {
                assert_eq!(ids[path], before[path], "{op:?}, call {at}: another id of {path:?}");
            }
            engine.remount();
            check("remounted", engine.walk());
            let staged = engine.staged();
            if outcome.is_err() || !staged.is_empty() {
                wrong.push(format!("{op:?}, killed at call {at} ({call}): {outcome:?}, staged {staged:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong of {kills}; the first ones:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    kills
}

/// Those that are one request, and need no descriptor, which files in memory do not have.
fn requests() -> Vec<Op> {
    operations().into_iter().filter(|op| !matches!(op, Op::Unnamed(..))).collect()
}

#[test]
fn whoever_takes_over_at_any_call_does_what_was_asked_for() {
    let config = Config::default();
    let kills =
        take_over(&|| Engine::over(&layers(), Abilities::default(), config.clone()), &requests(), &config);
    println!("{kills} kills");
}

/// An id is another one once the kernel has given back all references to it, whichever servers have given them.
#[test]
fn whoever_takes_over_knows_how_often_the_kernel_refers_to_an_object() {
    let start = || Engine::over(&layers(), Abilities::default(), Config::default()).recording();
    let path = p(b"/own");
    for (given_back, stays) in [(2, true), (3, false)] {
        let engine = start();
        let id = engine.id(&path);
        let _second = engine.id(&path);
        let engine = engine.taken_over();
        assert_eq!(engine.id(&path), id);
        engine.forget(id, given_back);
        assert_eq!(engine.taken_over().id(&path) == id, stays, "{given_back} of 3 given back");
    }
    // Of an object that the next server has not been asked for.
    let engine = start();
    let id = engine.id(&path);
    let engine = engine.taken_over();
    engine.forget(id, 1);
    assert_ne!(engine.taken_over().id(&path), id);
}

#[test]
fn whoever_takes_over_refuses_a_request_that_has_brought_down_many() {
    for (crashes, servers) in [(true, 5), (false, 17)] {
        let mut engine =
            Engine::over(&layers(), Abilities::default(), Config::default()).recording().taken_over();
        let mut ended = 1;
        while engine.begin_again(42) {
            if crashes {
                engine.crash();
            }
            engine = engine.taken_over();
            ended += 1;
        }
        assert_eq!(ended, servers, "crashes: {crashes}");
        assert!(engine.begin_again(43), "another request");
    }
}

/// Also where a move that leaves a whiteout takes two steps.
#[test]
fn whoever_takes_over_finishes_what_takes_two_steps() {
    let (abilities, config) =
        (Abilities { rename_whiteout: false, ..Abilities::default() }, with_xattr_whiteouts());
    let kills =
        take_over(&|| Engine::over(&layers(), abilities.clone(), config.clone()), &requests(), &config);
    let config = Config::default();
    let kills = kills + take_over(&|| Engine::with_files(&layers()), &requests(), &config);
    println!("{kills} kills");
}

#[test]
fn whoever_takes_over_knows_redirects_copies_of_attributes_and_the_index() {
    let config =
        Config { redirects: Redirects::Make, metacopy: true, offline_changes: false, ..Config::default() };
    let kills =
        take_over(&|| Engine::over(&layers(), Abilities::default(), config.clone()), &requests(), &config);
    let config = Config { index: Index::All, offline_changes: false, ..Config::default() };
    let start = || Engine::over(&layers_for(&config), Abilities::default(), config.clone());
    println!("{} kills", kills + take_over(&start, &requests(), &config));
}

/// Runs every operation with every plan that `plans` makes for a call; returns how many there were.
fn sweep(operations: &[Op], abilities: &Abilities, config: &Config, plans: &[fn(usize) -> Plan]) -> usize {
    sweep_after(&[], operations, abilities, config, plans)
}

/// As [`sweep`], on a mount where `before` has been done already.
fn sweep_after(
    before: &[Op],
    operations: &[Op],
    abilities: &Abilities,
    config: &Config,
    plans: &[fn(usize) -> Plan],
) -> usize {
    let start = || {
        let mut engine = Engine::over(&layers_for(config), abilities.clone(), config.clone());
        for op in before {
            engine.apply(op).unwrap();
        }
        engine
    };
    sweep_from(&start, operations, config, plans)
}

/// As [`sweep`], on mounts that `start` makes.
fn sweep_from(
    start: &dyn Fn() -> Engine,
    operations: &[Op],
    config: &Config,
    plans: &[fn(usize) -> Plan],
) -> usize {
    let mut runs = 0;
    let mut wrong = Vec::new();
    for op in operations {
        let mut engine = start();
        let old = timeless(engine.walk(), config);
        engine.faults.plan(Plan::None);
        if engine.apply(op).is_err() {
            // Not possible on such a filesystem: nothing to sweep.
            continue;
        }
        let calls = engine.faults.calls(Calls::All);
        let new = timeless(engine.walk(), config);
        for plan in plans {
            for (at, call) in calls.iter().enumerate() {
                let mut engine = start();
                // The kernel has seen what it acts on, so that the operation itself is what fails.
                let _looked = engine.walk();
                engine.faults.plan(plan(at));
                let outcome = engine.apply(op);
                let crashed = engine.after_a_crash();
                let check = |wrong: &mut Vec<String>, what: &str, mut engine: Engine| {
                    let tree = timeless(engine.walk(), config);
                    if let Err(error) = is_either(&tree, &old, &new) {
                        wrong.push(format!("{op:?}, call {at} ({call}), {:?}, {what}: {error}", plan(at)));
                    }
                    let staged = engine.staged();
                    if what != "live" && !staged.is_empty() {
                        wrong
                            .push(format!("{op:?}, call {at} ({call}), {what}: left in staging: {staged:?}"));
                    }
                    engine
                };
                check(&mut wrong, "after a crash", crashed);
                // A process that was killed shows nothing any more.
                let killed = matches!(plan(at), Plan::Crash { .. });
                let mut engine = if killed { engine } else { check(&mut wrong, "live", engine) };
                if outcome.is_ok() && !killed {
                    // A failure may be harmless; then the operation is done.
                    let tree = timeless(engine.walk(), config);
                    if let Some(difference) = new.difference(&tree) {
                        wrong.push(format!("{op:?}, call {at} ({call}): success, but\n{difference}"));
                    }
                }
                engine.remount();
                check(&mut wrong, "after a remount", engine);
                runs += 1;
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong of {runs}; the first ones:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
    runs
}

const FULL: fn(usize) -> Plan = |at| Plan::Fail { calls: Calls::All, at, errno: Errno::NOSPC };
const BROKEN: fn(usize) -> Plan = |at| Plan::Fail { calls: Calls::All, at, errno: Errno::IO };
const KILLED: fn(usize) -> Plan = |at| Plan::Crash { calls: Calls::All, at };

#[test]
fn a_failure_at_any_call_leaves_the_old_tree_or_the_new_one() {
    let runs = sweep(&operations(), &Abilities::default(), &Config::default(), &[FULL, BROKEN]);
    println!("{runs} failures");
}

#[test]
fn a_crash_at_any_call_leaves_the_old_tree_or_the_new_one() {
    let runs = sweep(&operations(), &Abilities::default(), &Config::default(), &[KILLED]);
    println!("{runs} crashes");
}

#[test]
fn the_same_without_unnamed_files() {
    let abilities = Abilities { unnamed_files: false, ..Abilities::default() };
    sweep(&operations(), &abilities, &Config::default(), &[FULL, KILLED]);
}

/// Renames of directories that go on below, each of which sets a redirect first.
#[test]
fn the_same_with_redirects() {
    let path = |path: &str| p(path.as_bytes());
    let rename = |old, new, flags| Op::Rename(path(old), path(new), flags);
    let operations = [
        rename("/dir", "/moved", Flags::None),
        rename("/dir", "/own-dir/moved", Flags::None),
        rename("/dir", "/whiteout", Flags::None),
        rename("/dir", "/empty", Flags::None),
        rename("/dir", "/emptied", Flags::None),
        rename("/dir", "/empty", Flags::Exchange),
        rename("/dir", "/own-dir/z", Flags::Exchange),
        rename("/emptied", "/dir/x", Flags::Exchange),
        Op::Mkdir(path("/dir/new"), 0o755),
    ];
    let config = Config { redirects: Redirects::Make, offline_changes: false, ..Config::default() };
    sweep(&operations, &Abilities::default(), &config, &[FULL, BROKEN, KILLED]);
}

/// Metadata-only copies, which are renamed by redirects and get their data later.
#[test]
fn the_same_with_copies_of_attributes() {
    let config =
        Config { redirects: Redirects::Make, metacopy: true, offline_changes: false, ..Config::default() };
    sweep(&operations(), &Abilities::default(), &config, &[FULL, BROKEN, KILLED]);
    let path = |path: &str| p(path.as_bytes());
    let before = [Op::Chmod(path("/file"), 0o600), Op::Chmod(path("/dir/x"), 0o600)];
    let operations = [
        Op::Write(path("/file"), 3, b"changed".to_vec()),
        Op::Empty(path("/file")),
        Op::Truncate(path("/file"), 4),
        Op::Truncate(path("/dir/x"), 0),
        Op::Link(path("/file"), path("/dir/second")),
        Op::Rename(path("/file"), path("/moved"), Flags::None),
        Op::Rename(path("/dir/x"), path("/moved"), Flags::None),
        Op::Rename(path("/dir/x"), path("/file"), Flags::Exchange),
        Op::Unlink(path("/file")),
    ];
    sweep_after(&before, &operations, &Abilities::default(), &config, &[FULL, BROKEN, KILLED]);
}

/// Copies in the index, linked to each name that is used.
#[test]
fn the_same_with_an_index() {
    let path = |path: &str| p(path.as_bytes());
    let linked = [
        Op::Chmod(path("/one"), 0o600),
        Op::Write(path("/two"), 3, b"changed".to_vec()),
        Op::Link(path("/one"), path("/dir/three")),
        Op::Link(path("/two"), path("/whiteout")),
        Op::Unlink(path("/one")),
        Op::Rename(path("/one"), path("/moved"), Flags::None),
        Op::Rename(path("/one"), path("/dir/moved"), Flags::None),
        Op::Rename(path("/one"), path("/own"), Flags::None),
        Op::Rename(path("/own"), path("/two"), Flags::None),
        Op::Rename(path("/one"), path("/file"), Flags::Exchange),
    ];
    for index in [Index::Links, Index::All] {
        let config = Config { index, offline_changes: false, ..Config::default() };
        sweep(&linked, &Abilities::default(), &config, &[FULL, KILLED]);
        let copied = [Op::Chmod(path("/one"), 0o600)];
        sweep_after(&copied, &linked, &Abilities::default(), &config, &[FULL, KILLED]);
    }
    // Without the privilege to open handles.
    let abilities = Abilities { handles_open: false, ..Abilities::default() };
    let config =
        Config { index: Index::Links, handles_open: false, offline_changes: false, ..Config::default() };
    sweep(&linked, &abilities, &config, &[FULL, KILLED]);
    sweep_after(&[Op::Chmod(path("/one"), 0o600)], &linked, &abilities, &config, &[FULL, KILLED]);
    let config = Config { index: Index::All, offline_changes: false, ..Config::default() };
    sweep(&operations(), &Abilities::default(), &config, &[KILLED]);
}

/// Renames that have to leave a whiteout: with device whiteouts one call does both.
fn leaves_whiteout(op: &Op) -> bool {
    let provided = [p(b"/file"), p(b"/hides")];
    matches!(op, Op::Rename(old, _, Flags::None | Flags::NoReplace) if provided.contains(old))
}

/// What is one rename elsewhere is several steps there.
#[test]
fn the_same_with_files_for_whiteouts() {
    let config = Config::default();
    let start = || Engine::with_files(&layers_for(&config));
    sweep_from(&start, &operations(), &config, &[FULL, BROKEN, KILLED]);
    // Upper's own whiteouts were devices; those that the mount makes are files.
    let again = || {
        let mut engine = start();
        for path in ["/file", "/dir/x"] {
            engine.apply(&Op::Unlink(p(path.as_bytes()))).unwrap();
        }
        engine
    };
    let path = |path: &str| p(path.as_bytes());
    let operations = [
        Op::Mkdir(path("/file"), 0o755),
        Op::Rename(path("/own-dir"), path("/file"), Flags::None),
        Op::Rename(path("/own-dir"), path("/dir/x"), Flags::None),
        Op::Symlink(path("/file")),
    ];
    sweep_from(&again, &operations, &config, &[FULL, BROKEN, KILLED]);
}

#[test]
fn the_same_with_xattr_whiteouts() {
    let abilities = Abilities { rename_whiteout: false, ..Abilities::default() };
    let mut operations = operations();
    operations.retain(|op| !leaves_whiteout(op));
    sweep(&operations, &abilities, &with_xattr_whiteouts(), &[FULL, KILLED]);
}

/// No call both moves a file and leaves an xattr whiteout: in between the file has two names, and never none.
#[test]
fn a_move_that_leaves_an_xattr_whiteout_never_loses_the_file() {
    let abilities = Abilities { rename_whiteout: false, ..Abilities::default() };
    let start = || Engine::over(&layers(), abilities.clone(), with_xattr_whiteouts());
    for op in operations().iter().filter(|op| leaves_whiteout(op)) {
        let Op::Rename(old, new, _) = op else { continue };
        let mut engine = start();
        let content = engine.walk().0[old].content.clone();
        engine.faults.plan(Plan::None);
        engine.apply(op).unwrap();
        for at in 0..engine.faults.calls(Calls::All).len() {
            let mut engine = start();
            engine.faults.plan(KILLED(at));
            let _stopped = engine.apply(op);
            let tree = engine.after_a_crash().walk();
            let holds = |path| tree.0.get(path).is_some_and(|view| view.content == content);
            assert!(holds(old) || holds(new), "{op:?}, call {at}: {tree:?}");
        }
    }
}
