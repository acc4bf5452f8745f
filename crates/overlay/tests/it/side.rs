//! What happens on the side: attributes that change though nobody asked, of which whoever remembers them has to be told.

use acetate_layer::fault::{Calls, Plan};
use acetate_layer::mem::{Abilities, Put};
use acetate_layer::{Errno, Layer, UpperLayer};
use acetate_overlay::Config;

use crate::engine::Engine;
use crate::op::{Flags, Op, Output, p};
use crate::stack::{Dir, Node, Stack};
use crate::view::Subject;

/// Two directories with a file each, in upper and in a lower layer.
fn layers() -> Stack {
    let file = || Node::File { mode: 0o644, content: b"content".to_vec(), xattr: None };
    let dir = |children: &[(&str, Node)]| Dir {
        mode: 0o755,
        opaque: false,
        xattr: None,
        children: children.iter().map(|(name, node)| (name.as_bytes().to_vec(), node.clone())).collect(),
    };
    let tree = |name| dir(&[("a", Node::Dir(dir(&[(name, file())]))), ("b", Node::Dir(dir(&[])))]);
    vec![tree("upper"), tree("lower")]
}

fn engine() -> Engine {
    Engine::over(&layers(), Abilities::default(), Config::default())
}

/// The change time of a directory moves when an entry in it is copied up; its other times are given back. The entry's own
/// attributes are in the answer.
#[test]
fn a_copy_up_is_told_of_the_directory_too() {
    let (file, dir, root) = (p(b"/a/lower"), p(b"/a"), p(b"/"));
    let mut engine = engine();
    engine.seen(&file);
    engine.told([&root]);
    engine.apply(&Op::Chmod(file.clone(), 0o600)).unwrap();
    assert_eq!(engine.told([&file, &dir, &root]), [false, true, false]);
    engine.apply(&Op::Chmod(file.clone(), 0o644)).unwrap();
    assert_eq!(engine.told([&file, &dir, &root]), [false; 3]);
}

/// The first lookup of a merged directory marks it and its parent.
#[test]
fn a_lookup_that_marks_is_told_of_the_directory() {
    let (dir, root) = (p(b"/a"), p(b"/"));
    let engine = engine();
    assert_eq!(engine.told([&root]), [false]);
    engine.seen(&dir);
    assert_eq!(engine.told([&root]), [true]);
    engine.seen(&dir);
    assert_eq!(engine.told([&root]), [false]);
}

/// A directory is marked before it moves, which changes its change time even if it cannot be put in the place of another.
#[test]
fn a_failed_rename_is_told_of_what_was_marked() {
    let (dir, full) = (p(b"/a/new"), p(b"/full"));
    let mut engine = engine();
    for op in
        [Op::Mkdir(dir.clone(), 0o755), Op::Mkdir(full.clone(), 0o755), Op::Create(p(b"/full/f"), 0o644)]
    {
        engine.apply(&op).unwrap();
    }
    engine.told([&dir]);
    let failed = engine.apply(&Op::Rename(dir.clone(), full, Flags::None));
    assert_eq!(failed, Err(Errno::NOTEMPTY));
    assert_eq!(engine.told([&dir]), [true]);
}

/// With `lower=revalidate` files and directories that are replaced below are other ones at the next lookup; what has a part
/// in upper goes on.
#[test]
fn changes_of_lower_layers_are_seen_at_the_next_lookup() {
    let config = Config { lower_changes: true, ..Config::default() };
    let mut engine = Engine::over(&layers(), Abilities::default(), config);
    let (file, dir) = (p(b"/a/lower"), p(b"/b"));
    let content = |engine: &mut Engine| engine.apply(&Op::Read(file.clone()));
    let before = engine.numbers();
    let lower = engine.layer(1).clone();
    let a = lower.open_dir(lower.root(), b"a").unwrap();
    // A file that is replaced, one that is new, and one that goes.
    lower.unlink(&a, b"lower").unwrap();
    lower.put(b"a/lower", Put::file(b"new")).unwrap();
    assert_eq!(content(&mut engine), Ok(Output::Bytes(b"new".to_vec())));
    assert_ne!(engine.numbers()[&file], before[&file]);
    lower.put(b"a/more", Put::file(b"more")).unwrap();
    assert!(engine.walk().0.contains_key(&p(b"/a/more")));
    lower.unlink(&a, b"lower").unwrap();
    assert_eq!(content(&mut engine), Err(Errno::NOENT));
    // A directory below one of upper comes and goes; the merged one stays what it is.
    lower.rmdir(lower.root(), b"b").unwrap();
    engine.walk();
    lower.put(b"b", Put::dir()).unwrap();
    lower.put(b"b/x", Put::file(b"x")).unwrap();
    assert!(engine.walk().0.contains_key(&p(b"/b/x")));
    assert_eq!(engine.numbers()[&dir], before[&dir]);
    // Without the option nobody looks.
    let engine = Engine::over(&layers(), Abilities::default(), Config::default());
    let held = engine.held(&file);
    engine.layer(1).put(b"a/more", Put::file(b"more")).unwrap();
    assert_eq!(engine.held(&file), held);
}

/// A filesystem may have changed the times of a directory by the time that it fails to rename (ext4 does).
#[test]
fn a_failed_rename_is_told_of_both_directories() {
    let (from, to) = (p(b"/a"), p(b"/b"));
    for op in [
        Op::Rename(p(b"/a/upper"), p(b"/b/moved"), Flags::None),
        Op::Rename(p(b"/a/upper"), p(b"/b/upper"), Flags::Exchange),
    ] {
        let mut engine = engine();
        engine.apply(&Op::Create(p(b"/b/upper"), 0o644)).unwrap();
        // Marks both.
        engine.told([&from, &to]);
        let mut dry = engine.after_a_crash();
        dry.seen(&from);
        dry.faults.plan(Plan::None);
        dry.apply(&op).unwrap();
        let at = dry.faults.calls(Calls::Mutating).iter().position(|call| *call == "rename").unwrap();
        engine.faults.plan(Plan::Fail { calls: Calls::Mutating, at, errno: Errno::NOTEMPTY });
        assert_eq!(engine.apply(&op), Err(Errno::NOTEMPTY));
        assert_eq!(engine.told([&from, &to]), [true, true]);
    }
}

/// As in the kernel, where its last link is counted by then.
#[test]
fn a_removed_lower_file_gets_no_new_name() {
    let link = |path: &str| (path.as_bytes().to_vec(), Node::Link(0));
    let mut layers = layers();
    layers[1].children.extend([link("second")]);
    let mut engine = Engine::over(&layers, Abilities::default(), Config::default());
    let file = engine.held(&p(b"/a/lower"));
    engine.apply(&Op::Unlink(p(b"/a/lower"))).unwrap();
    assert_eq!(engine.link_held(file, &p(b"/a/lower")), Err(Errno::NOENT));
    assert!(!engine.is_impure(&p(b"/a")));
}

/// Its listing shows other numbers on a mount that can open handles, also where those of this one cannot be.
#[test]
fn where_copies_come_to_is_impure_and_stays_so_without_opening_handles() {
    let closed = Abilities { handles_open: false, ..Abilities::default() };
    let config = Config { handles_open: false, ..Config::default() };
    for op in [
        Op::Rename(p(b"/a/lower"), p(b"/new/moved"), Flags::None),
        Op::Link(p(b"/a/lower"), p(b"/new/linked")),
    ] {
        let mut engine = Engine::over(&layers(), closed.clone(), config.clone());
        engine.apply(&Op::Mkdir(p(b"/new"), 0o755)).unwrap();
        engine.apply(&Op::Chmod(p(b"/a/lower"), 0o600)).unwrap();
        // The copy is one that another mount has made.
        engine.remount();
        assert!(!engine.is_impure(&p(b"/new")));
        engine.apply(&op).unwrap();
        assert!(engine.is_impure(&p(b"/new")), "{op:?}");
        engine.apply(&Op::List(p(b"/new"))).unwrap();
        assert!(engine.is_impure(&p(b"/new")), "{op:?}");
    }
}
