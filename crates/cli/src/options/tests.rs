//! The option tables of the kernel's overlayfs, and round trips.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::ffi::OsStr;
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
fn users_get_redirects_where_the_layer_is_said_to_be_extended() {
    let resolved = |text: &str, mounter| {
        parse(&[format!("{PATHS},{text}")], Unknown::Refuse)
            .and_then(|parsed| resolve(&parsed.options, mounter))
    };
    for (text, mounter) in [("compat=extended,userxattr", Mounter::Admin), ("compat=extended", Mounter::User)]
    {
        let on = resolved(text, mounter).unwrap();
        assert_eq!((on.redirect_dir, on.metacopy, on.extended), (RedirectDir::On, true, true), "{text}");
    }
    let less = resolved("compat=extended,metacopy=off", Mounter::User).unwrap();
    assert_eq!((less.redirect_dir, less.metacopy), (RedirectDir::On, false));
    let none = resolved("compat=extended,redirect_dir=nofollow", Mounter::User).unwrap();
    assert_eq!((none.redirect_dir, none.metacopy), (RedirectDir::NoFollow, false));
    assert!(resolved("compat=extended,verity=on", Mounter::User).is_err());
    assert!(!resolved("compat=kernel", Mounter::User).unwrap().extended);
}

#[test]
fn an_index_is_of_lower_layers_that_do_not_change() {
    let resolved = |text: &str| {
        parse(&[format!("{PATHS},{text}")], Unknown::Refuse)
            .and_then(|parsed| resolve(&parsed.options, Mounter::Admin))
    };
    for text in ["lower=revalidate,index=on", "nfs_export=on,lower=revalidate"] {
        assert!(matches!(resolved(text), Err(Error::Conflict { option: "lower=revalidate", .. })), "{text}");
    }
    assert!(resolved("lower=revalidate,metacopy=on").is_ok());
    assert!(resolved("lower=static,index=on").is_ok());
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

#[test]
fn tables_of_ids_are_read_as_engines_write_them() {
    use acetate_layer::view::{Ids, Range};
    let owners = |text: &str| parse(&[text], Unknown::Refuse).map(|parsed| parsed.options.owners);
    let range = |stored, shown, count| Range { stored, shown, count };
    let podman = owners("uidmapping=:0:1:3333:3333:0:1,gidmapping=:0:1:10,,volatile").unwrap();
    assert_eq!(podman.uids, [range(0, 1, 3333), range(3333, 0, 1)]);
    assert_eq!(podman.gids, [range(0, 1, 10)]);
    let manual = owners("uidmapping=0:10:100,100:10000:2000").unwrap();
    assert_eq!(manual.uids, [range(0, 10, 100), range(100, 10000, 2000)]);
    let wrong = [
        "uidmapping=0:1",
        "uidmapping=0:1:0",
        "uidmapping=0:4294967295:2",
        "gidmapping=a:b:c",
        "uidmapping=",
    ];
    for text in wrong {
        assert!(owners(text).is_err(), "{text}");
    }
    let squashed = owners("squash_to_root,squash_to_uid=7,uidmapping=0:1:1,xattr_permissions=2").unwrap();
    assert_eq!((squashed.user_ids(9), squashed.group_ids(9)), (Ids::All(7), Ids::All(0)));
    for text in ["squash_to_uid=-1", "squash_to_gid=4294967295", "squash_to_uid=x", "xattr_permissions=3"] {
        assert!(owners(text).is_err(), "{text}");
    }
}

#[test]
fn labels_have_an_end() {
    for text in [r#"userxattr,context=""#, r#"context="a,b"#, r"context=a\"] {
        let refused = parse(&[OsStr::new(text)], Unknown::Refuse).unwrap_err();
        assert!(matches!(refused, Error::Label { option: "context", .. }), "{text}: {refused}");
    }
}

#[test]
fn words_of_fuse_overlayfs_and_labels_are_taken() {
    let text = r#"context="system_u:object_r:container_file_t:s0:c1,c2",static_nlink,noacl,ino32_t,fast_ino=1,timeout=0.5,oci_whiteouts=1:3"#;
    let options = parse(&[text], Unknown::Refuse).unwrap().options;
    assert_eq!(options.contexts, [r#"context="system_u:object_r:container_file_t:s0:c1,c2""#]);
    assert!(options.static_nlink && options.noacl && options.ino32);
    let layers = options.oci_whiteouts.as_ref().unwrap();
    assert_eq!([0, 1, 2].map(|index| layers.contain(index)), [true, false, true]);
    assert_eq!(parse(&[options.format()], Unknown::Refuse).unwrap().options, options);
    assert!(parse(&["oci_whiteouts=0"], Unknown::Refuse).is_err());
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

    /// Longer: `PROPTEST_CASES=1000000 cargo test --release -p acetate fuzz`.
    #[test]
    fn fuzz_any_text_is_refused_or_means_the_same_when_written_again(words in prop::collection::vec(word(), 0..8)) {
        super::harness::read_and_write(OsString::from_vec(words.join(&b',')));
    }
}

/// A word of an option string: mostly one that is known, with a value that may be right.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<&'static str> = [names::VALUED, names::PLAIN, names::IGNORED, names::IGNORED_WITH_VALUE]
        .concat()
        .into_iter()
        .chain(names::FLAGS.iter().map(|(name, ..)| *name))
        .collect();
    let value = prop_oneof![
        prop::sample::select(vec!["on", "off", "auto", "follow", "extended", "null", "require", "strict"])
            .prop_map(|word| word.as_bytes().to_vec()),
        "[0-9:]{0,12}".prop_map(String::into_bytes),
        "[a-c/:,\\\\\"=]{0,10}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..6),
    ];
    let name = prop::sample::select(names).prop_map(|name| name.as_bytes().to_vec());
    prop_oneof![
        (name.clone(), value.clone()).prop_map(|(name, value)| [name, value].join(&b'=')),
        name,
        value,
    ]
}
