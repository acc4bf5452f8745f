//! What operations cost, in calls of layers and in nodes that are kept. No time is measured.

use std::collections::BTreeMap;

use acetate_layer::fault::{Calls, Fault, Faults, Plan};
use acetate_layer::mem::{MemLayer, Put};
use acetate_layer::{FsId, work};
use acetate_overlay::{Caller, Config, LookUp, NodeId, OpenFlags, Overlay, RenameKind, Room, Stack};

const ROOT: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

struct Counted {
    overlay: Overlay<Fault<MemLayer>>,
    faults: Faults,
}

impl Counted {
    /// An upper layer over so many lower ones; each of these has `dir` with a file of its own.
    fn new(layers: usize) -> Counted {
        let faults = Faults::new();
        let lower = |number: usize| {
            let lower = MemLayer::new(FsId(1)).unwrap();
            lower.put(format!("dir/file-{number}").as_bytes(), Put::file(b"x")).unwrap();
            Fault::new(lower, &faults)
        };
        let lowers = (0..layers).map(lower).collect();
        let mut upper = MemLayer::new(FsId(2)).unwrap();
        let staging = work::prepare(&upper, &upper.workdir().clone(), 0, &[]).unwrap();
        upper.set_work(staging);
        let stack = Stack { upper: Some(Fault::new(upper, &faults)), lowers, data: Vec::new() };
        let overlay = Overlay::new(stack, Config::default(), Box::new(|_, _| {})).unwrap();
        Counted { overlay, faults }
    }

    fn node(&self, parent: NodeId, name: &str) -> NodeId {
        self.overlay.lookup(parent, name.as_bytes()).unwrap().unwrap().node
    }

    /// How often which call was made by `act`.
    fn during<T>(
        &self,
        act: impl FnOnce(&Overlay<Fault<MemLayer>>) -> T,
    ) -> (T, BTreeMap<&'static str, usize>) {
        self.faults.plan(Plan::None);
        let result = act(&self.overlay);
        let mut counts = BTreeMap::new();
        for call in self.faults.calls(Calls::All) {
            *counts.entry(call).or_default() += 1;
        }
        (result, counts)
    }

    /// The first listing of a directory, with attributes. Returns how many names it has.
    fn list(&self, dir: NodeId) -> usize {
        let mut names = 0;
        let mut take = |_: acetate_overlay::DirItem<'_>, _: Option<&acetate_overlay::Entry>| {
            names += 1;
            Room::Taken
        };
        self.overlay.readdirplus(dir, 0, LookUp::All, &mut take).unwrap();
        names
    }
}

/// Each layer is read once, and each name looked up in the layer that has it, however many lie above.
#[test]
fn the_first_listing_of_500_layers_is_linear_in_what_is_read() {
    const LAYERS: usize = 500;
    let mount = Counted::new(LAYERS);
    let dir = mount.node(NodeId::ROOT, "dir");
    let (names, calls) = mount.during(|_| mount.list(dir));
    assert_eq!(names, LAYERS + 2);
    assert_eq!((calls["list"], calls["stat"]), (LAYERS, LAYERS));
    assert!(calls["get_xattr"] <= LAYERS + 10, "{calls:?}");
    assert!(calls.values().sum::<usize>() <= 3 * LAYERS + 10, "{calls:?}");
}

#[test]
fn what_comes_and_goes_leaves_no_node() {
    let mount = Counted::new(1);
    let dir = mount.node(NodeId::ROOT, "dir");
    let before = mount.overlay.counts();
    for number in 0..20_000 {
        let name = format!("a file with quite a long name {number}");
        let flags = OpenFlags::READ_WRITE;
        let (entry, handle) = mount.overlay.create(dir, name.as_bytes(), 0o644, flags, &ROOT).unwrap();
        mount.overlay.release(handle);
        mount.overlay.unlink(dir, name.as_bytes()).unwrap();
        mount.overlay.forget(entry.node, 1);
    }
    let after = mount.overlay.counts();
    assert_eq!((after.nodes, after.handles), (before.nodes, before.handles));
}

/// What the format needs: a look at what is not known, one change, and the attributes of what is new.
#[test]
fn changes_of_names_make_few_calls() {
    let mount = Counted::new(25);
    let dir = mount.node(NodeId::ROOT, "dir");
    let calls = |pairs: &[(&'static str, usize)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
    let plain = mount.overlay.mkdir(NodeId::ROOT, b"plain", 0o755, &ROOT).unwrap().node;
    // The directory and its default ACL become known.
    for dir in [plain, dir] {
        mount.overlay.mkdir(dir, b"first", 0o755, &ROOT).unwrap();
    }
    for (dir, parts) in [(plain, 1), (dir, 26)] {
        let seen = |name: &'static [u8]| {
            let (found, looked) = mount.during(|overlay| overlay.lookup(dir, name).unwrap());
            assert!(found.is_none());
            assert_eq!(looked, calls(&[("stat", parts)]), "{name:?}");
        };
        seen(b"new");
        let flags = OpenFlags::READ_WRITE;
        let (made, cost) = mount.during(|overlay| overlay.create(dir, b"new", 0o644, flags, &ROOT).unwrap());
        // What was just found to be missing is not looked for again, in none of the layers.
        assert_eq!(cost, calls(&[("create", 1), ("stat", 1)]));
        mount.overlay.release(made.1);
        seen(b"sub");
        let (_, cost) = mount.during(|overlay| overlay.mkdir(dir, b"sub", 0o755, &ROOT).unwrap());
        assert_eq!(cost, calls(&[("known_dir", 1), ("make_dir", 1), ("stat", 1)]));
        seen(b"moved");
        let rename = |overlay: &Overlay<_>| {
            overlay.rename(dir, b"new", dir, b"moved", RenameKind::Replace).unwrap();
        };
        let ((), cost) = mount.during(rename);
        // Whether a lower layer has the old name.
        let below = parts - 1;
        let stats = if below == 0 { vec![] } else { vec![("stat", below)] };
        assert_eq!(cost, calls(&[vec![("rename", 1)], stats.clone()].concat()));
        let ((), cost) = mount.during(|overlay| overlay.unlink(dir, b"moved").unwrap());
        assert_eq!(cost, calls(&[vec![("hold", 1), ("unlink", 1)], stats].concat()));
    }
}

/// A lower file that could be opened once is opened again when it is read, whatever became of its name meanwhile.
#[test]
fn known_lower_files_are_opened_when_they_are_read() {
    let mount = Counted::new(1);
    let dir = mount.node(NodeId::ROOT, "dir");
    let file = mount.node(dir, "file-0");
    let open = |overlay: &Overlay<_>| overlay.open(file, OpenFlags::READ).unwrap();
    let (first, calls) = mount.during(open);
    assert_eq!(calls.get("open_file"), Some(&1));
    mount.overlay.release(first);
    let (unread, calls) = mount.during(open);
    assert!(calls.is_empty(), "{calls:?}");
    let ((), calls) = mount.during(|overlay| assert!(overlay.release(unread)));
    assert!(calls.is_empty(), "{calls:?}");
    let content = |handle| {
        let mut content = [0; 8];
        let length = mount.overlay.read(handle, 0, &mut content).unwrap();
        content[..length].to_vec()
    };
    let below = mount.overlay.open(file, OpenFlags::READ).unwrap();
    assert_eq!(content(below), b"x");
    let later = mount.overlay.open(file, OpenFlags::READ).unwrap();
    let writing = mount.overlay.open(file, OpenFlags::READ_WRITE).unwrap();
    assert_eq!(mount.overlay.write(writing, 0, b"new", None), Ok(3));
    mount.overlay.release(writing);
    mount.overlay.unlink(dir, b"file-0").unwrap();
    assert_eq!((content(below), content(later)), (b"new".to_vec(), b"new".to_vec()));
}

#[test]
fn a_removed_lower_file_is_opened_when_it_is_read() {
    let mount = Counted::new(1);
    let dir = mount.node(NodeId::ROOT, "dir");
    let file = mount.node(dir, "file-0");
    let [_first, later] = [(); 2].map(|()| mount.overlay.open(file, OpenFlags::READ).unwrap());
    mount.overlay.unlink(dir, b"file-0").unwrap();
    let (read, calls) = mount.during(|overlay| overlay.read(later, 0, &mut [0; 8]));
    assert_eq!((read, calls.get("open_file")), (Ok(1), Some(&1)));
}
