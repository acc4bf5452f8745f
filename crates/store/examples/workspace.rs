//! A directory becomes an image, a workspace of it is changed, and its changes become a layer of the next image.

use acetate_image::source::Input;
use acetate_store::driver::DriverName;
use acetate_store::{Base, Edit, Store};
use std::fs;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = std::env::temp_dir().join(format!("acetate-example-{}", std::process::id()));
    let tree = scratch.join("tree");
    fs::create_dir_all(&tree)?;
    fs::write(tree.join("config"), "answer = 41\n")?;

    let store = Store::open(&scratch.join("store"))?;
    let image = store.import_tree(&Input::Directory(tree.clone()), "example", "app:1", &[], &())?;
    println!("image {}", image.id);

    // Copies need no privilege; the kernel's overlay or ours would take milliseconds, and a mount by the caller.
    let workspace = store.create_workspace("job", &Base::Image("app:1".into()), DriverName::Copy)?;
    let root = store.plan(&workspace).tree.ok_or("copies are trees")?;
    fs::write(root.join("config"), "answer = 42\n")?;
    for change in store.workspace_changes(&workspace)? {
        println!("{:?} {}", change.what, String::from_utf8_lossy(&change.path));
    }
    store.commit_workspace("job", Some("app:2"), &Edit::default())?;

    assert_eq!(store.image("app:2")?.layers.len(), 2);
    assert_eq!(fs::read_to_string(tree.join("config"))?, "answer = 41\n");
    store.remove_workspace("job")?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

#[test]
fn it_runs() {
    assert!(main().is_ok());
}
