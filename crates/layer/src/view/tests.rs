//! Views over a layer in memory.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::mem::MemLayer;
use crate::{Owner, SetXattr, UpperLayer};

fn layer() -> MemLayer {
    MemLayer::new(FsId(1)).unwrap()
}

fn user(uid: u32, gid: u32) -> Owner {
    Owner::User { uid, gid }
}

fn view(inner: MemLayer, rules: Rules) -> View<MemLayer> {
    View::new(inner, Arc::new(rules), false)
}

/// Owner and mode, as shown.
fn look(view: &View<MemLayer>, name: &[u8]) -> (u32, u32, u32) {
    let stat = view.stat(At::Name(view.root(), name)).unwrap();
    (stat.uid, stat.gid, stat.mode)
}

/// Owner and mode, as stored.
fn real(view: &View<MemLayer>, name: &[u8]) -> (u32, u32, u32) {
    let stat = view.inner.stat(At::Name(view.inner.root(), name)).unwrap();
    (stat.uid, stat.gid, stat.mode)
}

fn names(view: &View<MemLayer>, dir: &<MemLayer as Layer>::Dir) -> Vec<(Vec<u8>, Option<Kind>)> {
    let mut names = Vec::new();
    view.list(dir, &mut |entry| names.push((entry.name.to_vec(), entry.kind))).unwrap();
    names.sort_by(|one, other| one.0.cmp(&other.0));
    names
}

fn mapped() -> Rules {
    let ids = Ids::Mapped { ranges: vec![Range { stored: 0, shown: 1000, count: 10 }], overflow: 65534 };
    Rules { uids: ids.clone(), gids: ids, ..Rules::default() }
}

#[test]
fn mapped_ids_are_translated_both_ways() {
    let view = view(layer(), mapped());
    let root = view.root().clone();
    view.create(&root, b"f", 0o644, user(1003, 1004)).unwrap();
    assert_eq!((look(&view, b"f"), real(&view, b"f")), ((1003, 1004, 0o644), (3, 4, 0o644)));
    assert_eq!(view.create(&root, b"g", 0o644, user(5, 5)).err(), Some(Errno::OVERFLOW));
    view.set_owner(At::Name(&root, b"f"), Some(1005), None).unwrap();
    assert_eq!(real(&view, b"f"), (5, 4, 0o644));
    assert_eq!(view.set_owner(At::Name(&root, b"f"), Some(0), None), Err(Errno::INVAL));
    let list = acl::Acl::parse(
        &[&2u32.to_le_bytes()[..]]
            .into_iter()
            .chain([
                &[1, 0, 6, 0, 255, 255, 255, 255][..],
                &[2, 0, 4, 0, 0xea, 3, 0, 0],
                &[4, 0, 4, 0, 255, 255, 255, 255],
                &[16, 0, 4, 0, 255, 255, 255, 255],
                &[32, 0, 4, 0, 255, 255, 255, 255],
            ])
            .flatten()
            .copied()
            .collect::<Vec<u8>>(),
    );
    let shown = list.unwrap().unwrap().encode();
    view.set_xattr(At::Name(&root, b"f"), acl::ACCESS, &shown, SetXattr::Any).unwrap();
    let stored = view.inner.get_xattr(At::Name(&root, b"f"), acl::ACCESS).unwrap().unwrap();
    assert_eq!(stored[16..20], 2u32.to_le_bytes());
    assert_eq!(view.get_xattr(At::Name(&root, b"f"), acl::ACCESS).unwrap(), Some(shown));
}

#[test]
fn a_copy_keeps_an_owner_that_cannot_be_shown() {
    let (lower, upper) = (view(layer(), mapped()), view(layer(), mapped()));
    lower.inner.create(lower.root(), b"f", 0o644, user(77, 88)).unwrap();
    upper.inner.create(upper.root(), b"f", 0o644, Owner::Mounter).unwrap();
    let at = |view: &View<MemLayer>| view.root().clone();
    let (from, to) = (at(&lower), at(&upper));
    let stat = lower.stat(At::Name(&from, b"f")).unwrap();
    let made = upper.stat(At::Name(&to, b"f")).unwrap();
    assert_eq!((stat.uid, stat.gid), (65534, 65534));
    let changed = upper.copy_owner(At::Name(&to, b"f"), &made, &lower, At::Name(&from, b"f"), &stat);
    assert_eq!((changed, real(&upper, b"f")), (Ok(true), (77, 88, 0o644)));
}

#[test]
fn squashed_owners_are_all_one() {
    let rules = Rules { uids: Ids::All(7), gids: Ids::All(8), ..Rules::default() };
    let view = view(layer(), rules);
    let root = view.root().clone();
    view.inner.create(&root, b"old", 0o600, user(1, 2)).unwrap();
    view.create(&root, b"new", 0o640, user(3, 4)).unwrap();
    assert_eq!((look(&view, b"old"), look(&view, b"new")), ((7, 8, 0o600), (7, 8, 0o640)));
    assert_eq!(real(&view, b"new"), (7, 8, 0o640));
    view.set_owner(At::Name(&root, b"old"), Some(5), Some(5)).unwrap();
    assert_eq!(real(&view, b"old"), (1, 2, 0o600));
}

#[test]
fn records_hold_owner_and_mode() {
    let rules = Rules { records: Some(Records::User), ..Rules::default() };
    let view = view(layer(), rules);
    let root = view.root().clone();
    view.create(&root, b"f", 0o4710, user(3, 4)).unwrap();
    view.make_dir(&root, b"d", 0o2700, user(3, 4)).unwrap();
    assert_eq!((look(&view, b"f"), real(&view, b"f").2), ((3, 4, 0o4710), 0o644));
    assert_eq!((look(&view, b"d"), real(&view, b"d").2), ((3, 4, 0o2700), 0o755));
    // Set-group-id directories are inherited from, as their record says.
    let dir = view.open_dir(&root, b"d").unwrap();
    view.create(&dir, b"in", 0o600, user(9, 9)).unwrap();
    let inner = view.stat(At::Name(&dir, b"in")).unwrap();
    assert_eq!((inner.uid, inner.gid, inner.mode), (9, 4, 0o600));
    view.set_mode(At::Name(&root, b"f"), 0).unwrap();
    assert_eq!((look(&view, b"f"), real(&view, b"f").2), ((3, 4, 0), 0o644));
    // chown(2) takes set-id bits away.
    view.set_mode(At::Name(&root, b"f"), 0o6755).unwrap();
    view.set_owner(At::Name(&root, b"f"), Some(11), None).unwrap();
    assert_eq!(look(&view, b"f"), (11, 4, 0o755));
    let at = At::Name(&root, b"f");
    assert_eq!(
        view.inner.get_xattr(at_inner(at), Records::User.attribute()).unwrap(),
        Some(b"11:4:0755".into())
    );
    assert_eq!(view.list_xattrs(at).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(view.get_xattr(at, Records::User.attribute()), Ok(None));
    assert_eq!(view.set_xattr(at, Records::User.attribute(), b"0:0:0", SetXattr::Any), Err(Errno::PERM));
    // What other tools have written.
    view.inner.create(&root, b"old", 0o755, Owner::Mounter).unwrap();
    let old = b"user.fuseoverlayfs.override_stat";
    view.inner.set_xattr(At::Name(&root, b"old"), old, b"5:6:100600", SetXattr::Any).unwrap();
    assert_eq!(look(&view, b"old"), (5, 6, 0o600));
    view.set_mode(At::Name(&root, b"old"), 0o640).unwrap();
    assert_eq!(look(&view, b"old"), (5, 6, 0o640));
}

fn at_inner(at: At<'_, View<MemLayer>>) -> At<'_, MemLayer> {
    View::at(at)
}

#[test]
fn whiteouts_of_archives_are_whiteouts() {
    let inner = layer();
    let root = inner.root().clone();
    for name in [&b".wh.gone"[..], b".wh.both", b"both", b".wh..wh.plnk", b"plain"] {
        inner.create(&root, name, 0o644, Owner::Mounter).unwrap();
    }
    for name in [&b"inside"[..], b"replaced", b"normal"] {
        inner.make_dir(&root, name, 0o755, Owner::Mounter).unwrap();
    }
    inner.create(&root, b".wh.replaced", 0o644, Owner::Mounter).unwrap();
    let inside = inner.open_dir(&root, b"inside").unwrap();
    inner.create(&inside, oci::OPAQUE, 0o644, Owner::Mounter).unwrap();
    let view = View::new(inner, Arc::new(Rules::default()), true);
    let gone = view.stat(At::Name(&root, b"gone")).unwrap();
    assert!(crate::mark::is_device_whiteout(&gone));
    assert_eq!(view.stat(At::Name(&root, b"both")).unwrap().kind, Kind::File);
    for hidden in [&b".wh.gone"[..], b".wh..wh.plnk", b"none"] {
        assert_eq!(view.stat(At::Name(&root, hidden)).err(), Some(Errno::NOENT), "{hidden:?}");
    }
    assert_eq!(view.stat(At::Name(&root, &[b'x'; 255])).err(), Some(Errno::NOENT));
    let opaque = Dialect::User.name(Mark::Opaque);
    let mark = |name| view.get_xattr(At::Name(&root, name), opaque).unwrap();
    assert_eq!(
        (mark(b"inside"), mark(b"replaced"), mark(b"normal")),
        (Some(b"y".into()), Some(b"y".into()), None)
    );
    assert_eq!(view.get_xattr(At::Dir(&inside), opaque).unwrap(), Some(b"y".into()));
    let listed: Vec<(Vec<u8>, Option<Kind>)> = names(&view, &root);
    let expected: [(&[u8], Kind); 6] = [
        (b"both", Kind::File),
        (b"gone", Kind::CharDevice),
        (b"inside", Kind::Dir),
        (b"normal", Kind::Dir),
        (b"plain", Kind::File),
        (b"replaced", Kind::Dir),
    ];
    let expected: Vec<_> = expected.iter().map(|(name, kind)| (name.to_vec(), Some(*kind))).collect();
    assert_eq!(listed, expected);
}

#[test]
fn opaque_marks_of_other_tools_count_where_asked_for() {
    let inner = layer();
    let root = inner.root().clone();
    inner.make_dir(&root, b"d", 0o755, Owner::Mounter).unwrap();
    inner.set_xattr(At::Name(&root, b"d"), FOREIGN_OPAQUE, b"y", SetXattr::Any).unwrap();
    let opaque = Dialect::Trusted.name(Mark::Opaque);
    let plain = view(inner, Rules::default());
    assert_eq!(plain.get_xattr(At::Name(&root, b"d"), opaque), Ok(None));
    let foreign = view(plain.inner, Rules { foreign_opaque: true, ..Rules::default() });
    assert_eq!(foreign.get_xattr(At::Name(&root, b"d"), opaque), Ok(Some(b"y".into())));
}

#[test]
fn without_lists_there_are_none() {
    let view = view(layer(), Rules { acls: false, ..Rules::default() });
    let root = view.root().clone();
    assert_eq!(view.get_xattr(At::Dir(&root), acl::DEFAULT), Ok(None));
    assert_eq!(view.set_xattr(At::Dir(&root), acl::DEFAULT, b"", SetXattr::Any), Err(Errno::OPNOTSUPP));
}

#[test]
fn static_link_counts() {
    let view = view(layer(), Rules { static_nlink: true, ..Rules::default() });
    assert_eq!(view.stat(At::Dir(view.root())).unwrap().nlink, 1);
}
