//! An overlay of layers in memory: what a test of a program that works on trees can stand on, without any mount.

use acetate_layer::mem::{MemLayer, Put};
use acetate_layer::{FsId, work};
use acetate_overlay::{Caller, Config, NodeId, OpenFlags, Overlay, Stack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lower = MemLayer::new(FsId(1))?;
    lower.put(b"etc/motd", Put::file(b"welcome\n"))?;
    lower.put(b"etc/old", Put::file(b"not needed\n"))?;
    let mut upper = MemLayer::new(FsId(2))?;
    let staging = work::prepare(&upper, &upper.workdir().clone(), 0, &[])?;
    upper.set_work(staging);

    let stack = Stack { upper: Some(upper.clone()), lowers: vec![lower.clone()], data: Vec::new() };
    let overlay = Overlay::new(stack, Config::default(), Box::new(|_node, _changed| {}))?;
    let before = lower.dump()?;

    let etc = overlay.lookup(NodeId::ROOT, b"etc")?.ok_or("no etc")?.node;
    let motd = overlay.lookup(etc, b"motd")?.ok_or("no motd")?.node;
    // The first write copies the file up.
    let file = overlay.open(motd, OpenFlags::READ_WRITE)?;
    overlay.write(file, 0, b"W", None)?;
    let mut text = [0; 7];
    let count = overlay.read(file, 0, &mut text)?;
    overlay.release(file);
    assert_eq!(&text[..count], b"Welcome");
    // A deletion leaves a whiteout.
    overlay.unlink(etc, b"old")?;
    let root = Caller { uid: 0, gid: 0, umask: 0o022 };
    overlay.mkdir(NodeId::ROOT, b"home", 0o755, &root)?;

    assert!(overlay.lookup(etc, b"old")?.is_none());
    assert_eq!(lower.dump()?, before, "what lies below never changes");
    print!("{}", upper.dump()?);
    Ok(())
}

#[test]
fn it_runs() {
    assert!(main().is_ok());
}
