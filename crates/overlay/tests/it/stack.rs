//! Random stacks of layers, described as plain trees that every kind of layer can be built from.

use std::collections::BTreeMap;
use std::fmt;

use acetate_layer::Kind;
use proptest::prelude::*;

/// Names from the root to an object.
pub type Path = Vec<Vec<u8>>;

/// All objects of the layers are this old; the clocks of the layers are far ahead of it.
pub const OLD: i64 = 1000;

/// A directory of a layer.
#[derive(Clone, PartialEq, Eq)]
pub struct Dir {
    pub mode: u32,
    pub opaque: bool,
    pub xattr: Option<Vec<u8>>,
    pub children: BTreeMap<Vec<u8>, Node>,
}

/// An object of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Dir(Dir),
    File {
        mode: u32,
        content: Vec<u8>,
        xattr: Option<Vec<u8>>,
    },
    /// One more name of one of the layer's files: the n-th in the order of [`flatten`], modulo their number.
    Link(usize),
    Symlink,
    Fifo,
    Whiteout,
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}{}{}", self.mode, if self.opaque { " opaque" } else { "" }, attribute(&self.xattr))?;
        let children = self.children.iter().map(|(name, node)| (name.escape_ascii().to_string(), node));
        f.debug_map().entries(children).finish()
    }
}

fn attribute(xattr: &Option<Vec<u8>>) -> String {
    xattr.as_ref().map(|value| format!(" user.x=\"{}\"", value.escape_ascii())).unwrap_or_default()
}

/// An object with its path, links resolved.
#[derive(Clone, Debug)]
pub enum Flat<'a> {
    Dir(&'a Dir),
    File { mode: u32, content: &'a [u8], xattr: Option<&'a [u8]> },
    Link(Path),
    Symlink,
    Fifo,
    Whiteout,
}

/// The layers of an overlay, the upper one first. Roots are directories.
pub type Stack = Vec<Dir>;

/// What symlinks point to: nothing.
pub const TARGET: &[u8] = b"nowhere";

/// The objects below the root, parents before children. A link without any file to link to is an empty file.
pub fn flatten(root: &Dir) -> Vec<(Path, Flat<'_>)> {
    let mut flat = Vec::new();
    collect(root, &Vec::new(), &mut flat);
    let files: Vec<Path> = flat
        .iter()
        .filter(|(_, node)| matches!(node, Node::File { .. }))
        .map(|(path, _)| path.clone())
        .collect();
    let resolve = |node: &'_ Node| match node {
        Node::Link(at) => match files.get(at % files.len().max(1)) {
            Some(path) => Flat::Link(path.clone()),
            None => Flat::File { mode: 0o644, content: b"", xattr: None },
        },
        _ => Flat::Whiteout,
    };
    let mut objects: Vec<(Path, Flat<'_>)> = Vec::new();
    let mut links = Vec::new();
    for (path, node) in flat {
        let object = match node {
            Node::Dir(dir) => Flat::Dir(dir),
            Node::File { mode, content, xattr } => {
                Flat::File { mode: *mode, content, xattr: xattr.as_deref() }
            }
            Node::Symlink => Flat::Symlink,
            Node::Fifo => Flat::Fifo,
            Node::Link(_) => {
                links.push((path, resolve(node)));
                continue;
            }
            Node::Whiteout => Flat::Whiteout,
        };
        objects.push((path, object));
    }
    // Links come last: what they name has to be there.
    objects.extend(links);
    objects
}

fn collect<'a>(dir: &'a Dir, path: &Path, flat: &mut Vec<(Path, &'a Node)>) {
    for (name, node) in &dir.children {
        let mut path = path.clone();
        path.push(name.clone());
        flat.push((path.clone(), node));
        if let Node::Dir(dir) = node {
            collect(dir, &path, flat);
        }
    }
}

/// Removes whiteouts from directories that are not merged with another: there they hide nothing but are listed, which
/// no flat model can say.
pub fn without_strays(mut stack: Stack) -> Stack {
    clean(stack.iter_mut().collect());
    stack
}

fn clean(mut dirs: Vec<&mut Dir>) {
    if let [only] = dirs.as_mut_slice() {
        only.children.retain(|_, node| *node != Node::Whiteout);
    }
    let mut names: Vec<Vec<u8>> = dirs.iter().flat_map(|dir| dir.children.keys().cloned()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let mut found: Vec<&mut Dir> = Vec::new();
        for dir in &mut dirs {
            match dir.children.get_mut(&name) {
                None => {}
                Some(Node::Dir(dir)) => {
                    let opaque = dir.opaque;
                    found.push(dir);
                    if opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        if !found.is_empty() {
            clean(found);
        }
    }
}

/// A tiny alphabet, one name of it hostile.
pub fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => Just(b"a".to_vec()), 3 => Just(b"b".to_vec()), 2 => Just(b"c".to_vec()), 1 => Just(b"\xff\n".to_vec())]
}

/// Paths of up to three names.
pub fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(name(), 1..=3)
}

pub fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"".to_vec()),
        Just(b"x".to_vec()),
        Just(b"hello".to_vec()),
        Just([vec![0; 5000], b"end".to_vec()].concat()),
    ]
}

fn xattr() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop::option::weighted(0.2, prop_oneof![Just(b"".to_vec()), Just(b"1".to_vec())])
}

fn dir(children: impl Strategy<Value = BTreeMap<Vec<u8>, Node>>) -> impl Strategy<Value = Dir> {
    let mode = prop_oneof![4 => Just(0o755), 1 => Just(0o700), 1 => Just(0o2775), 1 => Just(0o1777)];
    let opaque = prop::bool::weighted(0.15);
    (mode, opaque, xattr(), children).prop_map(|(mode, opaque, xattr, children)| Dir {
        mode,
        opaque,
        xattr,
        children,
    })
}

fn node() -> impl Strategy<Value = Node> {
    let file = (prop_oneof![3 => Just(0o644), 1 => Just(0o4755)], content(), xattr())
        .prop_map(|(mode, content, xattr)| Node::File { mode, content, xattr });
    let leaf = prop_oneof![
        5 => file,
        1 => (0usize..4).prop_map(Node::Link),
        1 => Just(Node::Symlink),
        1 => Just(Node::Fifo),
        2 => Just(Node::Whiteout),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        dir(prop::collection::btree_map(name(), inner, 0..4)).prop_map(Node::Dir)
    })
}

fn layer() -> impl Strategy<Value = Dir> {
    prop::collection::btree_map(name(), node(), 0..4).prop_map(|children| Dir {
        mode: 0o755,
        opaque: false,
        xattr: None,
        children,
    })
}

/// An upper layer, empty more often than not, over one to three lower ones.
pub fn stack() -> impl Strategy<Value = Stack> {
    let empty = Dir { mode: 0o755, opaque: false, xattr: None, children: BTreeMap::new() };
    let upper = prop_oneof![2 => Just(empty), 1 => layer()];
    (upper, prop::collection::vec(layer(), 1..=3)).prop_map(|(upper, mut layers)| {
        layers.insert(0, upper);
        without_strays(layers)
    })
}

/// The kind of an object that is not a link.
pub fn kind(node: &Node) -> Kind {
    match node {
        Node::Dir(_) => Kind::Dir,
        Node::File { .. } | Node::Link(_) => Kind::File,
        Node::Symlink => Kind::Symlink,
        Node::Fifo => Kind::Fifo,
        Node::Whiteout => Kind::CharDevice,
    }
}

/// A path for messages.
pub fn show(path: &[Vec<u8>]) -> String {
    let names: Vec<String> = path.iter().map(|name| name.escape_ascii().to_string()).collect();
    format!("/{}", names.join("/"))
}
