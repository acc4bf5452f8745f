#![allow(clippy::unwrap_used)]
use super::*;

fn stack(lowers: &[PathBuf]) -> Stack<'_> {
    Stack { lowers, upper: Some((Path::new("/u,1"), Path::new("/w:2"))), userxattr: true, volatile: true }
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
