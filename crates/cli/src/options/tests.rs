//! The option tables of the kernel's overlayfs, and round trips.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::os::unix::ffi::OsStringExt;

const PATHS: &str = "lowerdir=/l,upperdir=/u,workdir=/w";

/// What a mount with these options comes to: nothing, or the errno.
fn outcome(text: &str, mounter: Mounter) -> Option<rustix::io::Errno> {
    match parse(&[text], Unknown::Refuse).and_then(|parsed| resolve(&parsed.options, mounter)) {
        Ok(_) => None,
        Err(error) => Some(error.errno()),
    }
}

#[test]
fn words_that_the_kernel_refuses_are_refused() {
    use rustix::io::Errno;
    let cases = [
        "metacopy=on,redirect_dir=off",
        "nfs_export=on,index=off",
        "nfs_export=on,metacopy=on",
        "userxattr,redirect_dir=on",
        "userxattr,redirect_dir=follow",
        "userxattr,redirect_dir=off",
        "userxattr,metacopy=on",
        "fsync=ordered",
        "index",
        "index=yes",
        "redirect_dir=ON",
        "metacopy=1",
        "bogus",
        "userxattr=on",
        "volatile=1",
    ];
    for case in cases {
        let text = format!("{PATHS},{case}");
        assert_eq!(outcome(&text, Mounter::Admin), Some(Errno::INVAL), "{case}");
    }
}

#[test]
fn words_that_the_kernel_takes_are_taken() {
    let cases = [
        "redirect_dir=on",
        "metacopy=on",
        "metacopy=on,redirect_dir=on",
        "index=on",
        "index=on,metacopy=on",
        "nfs_export=on",
        "nfs_export=on,metacopy=off",
        "userxattr,index=on",
        "xino=on",
        "uuid=off",
        "metacopy=on,metacopy=off",
        "redirect_dir=off",
        "redirect_dir=follow",
        "redirect_dir=nofollow",
        "metacopy=off",
        "index=off",
        "verity=off",
        "userxattr",
        "userxattr,redirect_dir=nofollow",
        "xino=off",
        "xino=auto",
        "uuid=on",
        "uuid=null",
        "volatile",
        "fsync=strict",
        "default_permissions",
        "ro,nosuid,nodev,noexec,noatime",
        "",
        ",,x-systemd.automount,nofail,_netdev",
    ];
    for case in cases {
        assert_eq!(outcome(&format!("{PATHS},{case}"), Mounter::Admin), None, "{case}");
    }
}

/// The kernel's rules for options that are not spelled out (fs/overlayfs/params.c, `ovl_fs_params_verify`).
#[test]
fn options_switch_others_on_and_off() {
    let resolved = |text: &str| {
        let parsed = parse(&[text], Unknown::Refuse).unwrap();
        resolve(&parsed.options, Mounter::Admin).unwrap()
    };
    let metacopy = resolved(&format!("{PATHS},metacopy=on"));
    assert_eq!((metacopy.redirect_dir, metacopy.metacopy), (RedirectDir::On, true));
    let exported = resolved(&format!("{PATHS},nfs_export=on"));
    assert_eq!((exported.index, exported.nfs_export), (true, true));
    let user = resolved(&format!("{PATHS},userxattr"));
    assert_eq!((user.redirect_dir, user.metacopy), (RedirectDir::NoFollow, false));
    let read_only = resolved("lowerdir=/a:/b,index=on,nfs_export=on,uuid=on,volatile");
    assert_eq!((read_only.index, read_only.nfs_export, read_only.fsync), (false, false, Fsync::Auto));
    assert_eq!((read_only.redirect_dir, read_only.uuid), (RedirectDir::On, Uuid::Null));
}

#[test]
fn layer_lists_are_split_as_the_kernel_splits_them() {
    let lowers = |text: &str| parse(&[text], Unknown::Refuse).map(|parsed| parsed.options.lowers);
    assert_eq!(lowers(r"lowerdir=a\:b:c").unwrap(), ["a:b", "c"]);
    assert_eq!(lowers(r"lowerdir=a\,b").unwrap(), ["a,b"]);
    assert_eq!(lowers(r"lowerdir=a\\b").unwrap(), [r"a\b"]);
    for wrong in ["lowerdir=:a", "lowerdir=a:", "lowerdir=a:::b"] {
        assert!(lowers(wrong).is_err(), "{wrong}");
    }
    let many = |count: usize| format!("lowerdir={}", vec!["l"; count].join(":"));
    assert_eq!(lowers(&many(500)).unwrap().len(), 500);
    assert!(lowers(&many(501)).is_err());
}

#[test]
fn a_misspelt_word_is_named_with_the_one_that_was_meant() {
    let error = parse(&["lowerdir=/l,uperdir=/u"], Unknown::Refuse).unwrap_err();
    let text = format!("{error} {}", error.hint());
    assert!(text.contains("uperdir") && text.contains("upperdir"), "{text}");
}

proptest! {
    #[test]
    fn what_is_formatted_parses_back(
        lowers in prop::collection::vec(prop::collection::vec(1u8.., 1..8), 1..4),
        upper in prop::collection::vec(1u8.., 1..8),
    ) {
        let options = Options {
            lowers: lowers.into_iter().map(OsString::from_vec).collect(),
            upper: Some(OsString::from_vec(upper.clone())),
            work: Some(OsString::from_vec(upper)),
            ..Options::default()
        };
        let parsed = parse(&[options.format()], Unknown::Refuse);
        prop_assert_eq!(parsed.unwrap().options, options);
    }
}
