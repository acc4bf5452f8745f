//! Names of one file of upper are one node, whichever of them are known and left.

use acetate_layer::mem::{MemLayer, Put};
use acetate_layer::{FsId, work};
use acetate_overlay::{Config, NodeId, Overlay, RenameKind, Stack};

/// A mount of an upper layer with one file that has the names `a` and `b`.
fn two_names() -> Overlay<MemLayer> {
    let mut upper = MemLayer::new(FsId(1)).unwrap();
    upper.put(b"a", Put::file(b"x")).unwrap();
    upper.put_link(b"a", b"b").unwrap();
    let staging = work::prepare(&upper, &upper.workdir().clone(), 0, &[]).unwrap();
    upper.set_work(staging);
    let stack = Stack { upper: Some(upper), lowers: Vec::new(), data: Vec::new() };
    Overlay::new(stack, Config::default(), Box::new(|_, _| {})).unwrap()
}

fn node(overlay: &Overlay<MemLayer>, name: &[u8]) -> NodeId {
    overlay.lookup(NodeId::ROOT, name).unwrap().unwrap().node
}

#[test]
fn a_name_that_becomes_known_when_the_others_are_gone_leads_to_the_same_node() {
    let overlay = two_names();
    let file = node(&overlay, b"a");
    overlay.unlink(NodeId::ROOT, b"a").unwrap();
    assert_eq!(node(&overlay, b"b"), file);
    overlay.rename(NodeId::ROOT, b"b", NodeId::ROOT, b"c", RenameKind::Replace).unwrap();
    assert_eq!(node(&overlay, b"c"), file);
    overlay.unlink(NodeId::ROOT, b"c").unwrap();
    assert!(overlay.lookup(NodeId::ROOT, b"c").unwrap().is_none());
    assert_eq!(overlay.entry(file).unwrap().attr.nlink, 0);
}
