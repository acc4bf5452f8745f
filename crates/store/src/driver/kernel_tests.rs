#![allow(clippy::unwrap_used)]
use super::*;

fn stack(lowers: &[PathBuf]) -> Stack<'_> {
    Stack {
        lowers,
        upper: Some((Path::new("/u,1"), Path::new("/w:2"))),
        userxattr: true,
        volatile: true,
        ..Stack::PLAIN
    }
}

#[test]
fn old_option_texts_are_escaped() {
    let lowers = [PathBuf::from("/a:b"), PathBuf::from("/c,d\\e f")];
    let stack = stack(&lowers);
    let paths = ["/a:b", "/c,d\\e f", "/u,1", "/w:2"].map(|path| path.as_bytes().to_vec());
    let text = String::from_utf8(old_options(&stack, paths.into_iter())).unwrap();
    assert_eq!(
        text,
        "lowerdir=/a\\:b:/c\\,d\\\\e f,upperdir=/u\\,1,workdir=/w\\:2,redirect_dir=nofollow,index=off,\
         metacopy=off,xino=off,nfs_export=off,userxattr,volatile"
    );
}

#[test]
fn the_number_of_layers_has_limits() {
    let lowers = vec![PathBuf::from("/"); 501];
    let count = |lowers: &[PathBuf], upper| {
        let upper = if upper { stack(lowers).upper } else { None };
        check_count(&Stack { upper, ..stack(lowers) }).is_ok()
    };
    assert!(count(&lowers[..1], true) && count(&lowers[..500], true) && count(&lowers[..2], false));
    assert!(!count(&[], true) && !count(&lowers, true) && !count(&lowers[..1], false));
}

#[test]
fn what_the_kernel_says_becomes_one_line() {
    let said = [b"overlay: first".to_vec(), b"sec\nond \xff".to_vec()];
    assert_eq!(reason(Errno::INVAL, &said), "first; sec\\nond \u{fffd}");
    assert_eq!(reason(Errno::INVAL, &[]), "invalid argument");
}

/// Unmounts at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = acetate_sys::mount::umount(&self.0, acetate_sys::mount::Unmount::Detach);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}

/// How [`mount`] and [`mount_old`] look.
type Mount = fn(&Stack<'_>, &Path) -> Result<(), MountError>;

#[test]
fn hundreds_of_layers_with_any_paths_can_be_mounted() {
    use acetate_testkit::need::{Need, have};
    let needs = [Need::Root, Need::KernelOverlay];
    if !have("hundreds_of_layers_with_any_paths_can_be_mounted", &needs).unwrap() {
        return;
    }
    for (mount, count) in [(mount as Mount, 300), (mount as Mount, 500), (mount_old as Mount, 200)] {
        let scratch = acetate_testkit::scratch::Scratch::new("acetate-store").unwrap();
        let odd = |number: usize| {
            let mut name = format!("{number}:a,b\\c d=\n+").into_bytes();
            name.push(0xff);
            // A third of the paths is longer than one value of the mount API may be.
            name.resize(name.len() + if number.is_multiple_of(3) { 230 } else { 0 }, b'x');
            scratch.path().join(OsStr::from_bytes(&name))
        };
        let lowers: Vec<PathBuf> = (0..count).map(odd).collect();
        let [upper, work, target] = [1000, 1001, 1002].map(odd);
        for dir in lowers.iter().chain([&upper, &work, &target]) {
            std::fs::create_dir(dir).unwrap();
        }
        for (number, lower) in lowers.iter().enumerate() {
            std::fs::write(lower.join("shared"), number.to_string()).unwrap();
            std::fs::write(lower.join(number.to_string()), b"").unwrap();
        }
        let stack = Stack { lowers: &lowers, upper: Some((&upper, &work)), userxattr: false, ..Stack::PLAIN };
        mount(&stack, &target).unwrap();
        let mounted = Mounted(target);
        assert_eq!(std::fs::read(mounted.0.join("shared")).unwrap(), b"0", "the first is the topmost");
        assert_eq!(std::fs::read_dir(&mounted.0).unwrap().count(), count + 1);
        std::fs::remove_file(mounted.0.join("shared")).unwrap();
        std::fs::write(mounted.0.join("new"), b"x").unwrap();
        let mut changed: Vec<_> =
            std::fs::read_dir(&upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        changed.sort();
        assert_eq!(changed, ["new", "shared"]);
    }
}

#[test]
fn too_many_layers_for_an_old_kernel_are_counted() {
    let long = acetate_testkit::scratch::Scratch::new(&"x".repeat(200)).unwrap();
    let lowers = vec![long.path().to_path_buf(); 300];
    let stack = Stack { lowers: &lowers, upper: None, userxattr: false, ..Stack::PLAIN };
    let error = mount_old(&stack, long.path()).unwrap_err();
    assert!(matches!(error, MountError::Count { count: 300, most: 200..300, .. }), "{error}");
}
