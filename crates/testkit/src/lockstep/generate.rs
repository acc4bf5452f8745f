//! Makes random scripts: a stack, and calls that mostly hit something.
//!
//! Names come from a tiny alphabet with one hostile name a case, so that layers and calls meet.
//! Every time set lies long before 2020, so that kernel-assigned times can be told from set ones.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::acl;
use super::generate_ops::Calls;
use super::guess::Guesses;
use super::script::{Body, Entry, Extent, Layer, Script, Step, Time};

const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];
const HOSTILE: [&[u8]; 8] =
    [b"\xff\xfe", b"sp ace", b"new\nline", b".wh.a", b"..x", b"#0", b"back\\slash:,", b"\xc3\xa4"];
const FILE_MODES: [u32; 9] = [0o644, 0o600, 0o4755, 0o2755, 0o6711, 0o444, 0o000, 0o755, 0o666];
const DIR_MODES: [u32; 8] = [0o755, 0o777, 0o1777, 0o2775, 0o700, 0o555, 0o000, 0o2777];

/// Steps between two hand-overs.
const BETWEEN_HANDOVERS: usize = 6;

/// A VFS capability value of revision 2 (include/uapi/linux/capability.h): cap_net_raw, effective.
pub(super) const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Returns the script that belongs to `seed`: always the same one.
pub fn script(seed: u64, options: &str) -> Script {
    let mut rng = Rng::with_seed(mix(seed));
    let names = Names::new(&mut rng);
    let prefix: &[u8] =
        if options.split(',').any(|o| o == "userxattr") { b"user.overlay." } else { b"trusted.overlay." };
    let has = |word: &str| options.split(',').any(|o| o == word);
    let files_alone = has("userxattr") && has("index=on");
    let (layers, entries) = (BTreeMap::new(), Vec::new());
    let mut stack = Stack { names, prefix: prefix.to_vec(), files_alone, layers, entries };
    let lowers = if rng.bool() { 1 } else { rng.usize(2..=5) };
    for number in (1..=lowers).rev() {
        stack.layer(&mut rng, Layer::Lower(number));
    }
    if rng.bool() {
        stack.layer(&mut rng, Layer::Upper);
    } else if rng.bool() {
        stack.root(&mut rng, Layer::Upper);
    }
    let guesses = Guesses::new(stack.names, &stack.entries);
    let steps = Calls::new(rng, guesses, stack.prefix).steps();
    Script { options: options.to_owned(), entries: stack.entries, steps }
}

/// Lets the mounts of a script change hands every few steps.
pub fn with_handovers(mut script: Script) -> Script {
    let steps = std::mem::take(&mut script.steps);
    for (index, step) in steps.into_iter().enumerate() {
        if index > 0 && index % BETWEEN_HANDOVERS == 0 {
            script.steps.push(Step::Handover);
        }
        script.steps.push(step);
    }
    script
}

/// Spreads neighbouring seeds (splitmix64), so that seed, seed + 1, ... give unrelated scripts.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The names of one case.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<Vec<u8>>);

impl Names {
    fn new(rng: &mut Rng) -> Self {
        let mut all: Vec<Vec<u8>> = NAMES.iter().map(|name| name.to_vec()).collect();
        all.push(if rng.u8(..16) == 0 { vec![b'n'; 255] } else { pick(rng, &HOSTILE).to_vec() });
        Self(all)
    }

    pub(super) fn one(&self, rng: &mut Rng) -> Vec<u8> {
        // The first names more often than the last.
        let at = rng.usize(..self.0.len()).min(rng.usize(..self.0.len()));
        self.0[at].clone()
    }

    /// Returns a path of one to three names.
    pub(super) fn path(&self, rng: &mut Rng) -> Vec<u8> {
        let depth = rng.usize(1..=3).min(rng.usize(1..=3));
        let parts: Vec<Vec<u8>> = (0..depth).map(|_| self.one(rng)).collect();
        parts.join(&b'/')
    }
}

/// Returns one item of a table.
pub(super) fn pick<'a, T: ?Sized>(rng: &mut Rng, table: &[&'a T]) -> &'a T {
    table[rng.usize(..table.len())]
}

/// Returns one number of a table.
pub(super) fn pick_number<N: Copy>(rng: &mut Rng, table: &[N]) -> N {
    table[rng.usize(..table.len())]
}

/// Returns true once in `n` times.
pub(super) fn once_in(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

/// Returns `dir/name`, or the name alone in the root.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Returns the directory part of a path, empty for the root.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |at| &path[..at])
}

pub(super) fn old_time(rng: &mut Rng) -> Time {
    Time { sec: rng.i64(0..1_500_000_000), nsec: rng.u32(..1_000_000_000) }
}

/// Returns a well-formed ACL.
pub(super) fn acl_value(rng: &mut Rng) -> Vec<u8> {
    const BITS: [&str; 5] = ["rwx", "r-x", "rw-", "r--", "---"];
    let mut text = format!("u::{}", pick(rng, &BITS));
    let named = rng.bool();
    if named {
        text.push_str(&format!(",u:1000:{}", pick(rng, &BITS)));
    }
    text.push_str(&format!(",g::{}", pick(rng, &BITS)));
    if named {
        text.push_str(&format!(",g:50:{},m::{}", pick(rng, &BITS), pick(rng, &BITS)));
    }
    text.push_str(&format!(",o::{}", pick(rng, &BITS)));
    // The text is well-formed, so this cannot fail; an empty value would only be a refused xattr.
    acl::encode(&text).unwrap_or_default()
}

struct Stack {
    names: Names,
    prefix: Vec<u8>,
    /// Only regular files get several names.
    files_alone: bool,
    /// What each layer has at each path, implied parents included: true for a directory.
    layers: BTreeMap<Layer, BTreeMap<Vec<u8>, bool>>,
    entries: Vec<Entry>,
}

impl Stack {
    fn layer(&mut self, rng: &mut Rng, layer: Layer) {
        self.root(rng, layer);
        for _ in 0..rng.usize(1..=8) {
            let path = self.place(rng);
            if self.is_free(layer, &path) {
                self.entry(rng, layer, path);
            }
        }
    }

    /// Lets ordinary users act in the root of some layers; the topmost decides.
    fn root(&mut self, rng: &mut Rng, layer: Layer) {
        if once_in(rng, 3) {
            return;
        }
        let mut entry = Entry::plain(layer, b"", Body::Dir);
        entry.mode = pick_number(rng, &[0o777, 0o1777, 0o2777, 0o755]);
        entry.mtime = old_time(rng);
        if once_in(rng, 6) {
            self.xattrs(rng, &mut entry);
        }
        self.entries.push(entry);
    }

    /// Chooses a path, often one that another layer has, so that layers merge and hide.
    fn place(&self, rng: &mut Rng) -> Vec<u8> {
        let known: Vec<&Entry> = self.entries.iter().filter(|entry| !entry.path.is_empty()).collect();
        if known.is_empty() || once_in(rng, 3) {
            return self.names.path(rng);
        }
        let other = known[rng.usize(..known.len())];
        if other.body == Body::Dir && rng.bool() && other.path.iter().filter(|b| **b == b'/').count() < 2 {
            return join(&other.path, &self.names.one(rng));
        }
        other.path.clone()
    }

    fn is_free(&self, layer: Layer, path: &[u8]) -> bool {
        let Some(objects) = self.layers.get(&layer) else { return true };
        let mut above = parent(path);
        while !above.is_empty() {
            if objects.get(above) == Some(&false) {
                return false;
            }
            above = parent(above);
        }
        !objects.contains_key(path)
    }

    fn entry(&mut self, rng: &mut Rng, layer: Layer, path: Vec<u8>) {
        let body = self.body(rng, layer, &path);
        let is_dir = body == Body::Dir;
        let mut entry = Entry::plain(layer, &path, body);
        if !matches!(entry.body, Body::Link(_)) {
            self.attributes(rng, &mut entry);
        }
        let objects = self.layers.entry(layer).or_default();
        let mut above = parent(&path);
        while !above.is_empty() {
            objects.insert(above.to_vec(), true);
            above = parent(above);
        }
        objects.insert(path, is_dir);
        self.entries.push(entry);
    }

    fn body(&self, rng: &mut Rng, layer: Layer, path: &[u8]) -> Body {
        match rng.u32(..100) {
            0..38 => Body::Dir,
            38..70 => {
                let (data, size) = file_data(rng);
                Body::File { data, size }
            }
            70..76 => Body::Symlink(symlink_target(rng, &self.names, path)),
            76..79 => Body::Fifo,
            79..81 => Body::Socket,
            81..83 => Body::Char(1, 3),
            83..85 => Body::Block(120, 9),
            85..94 => Body::Whiteout,
            _ => match self.link_target(rng, layer) {
                Some(target) => Body::Link(target),
                None => Body::File { data: Vec::new(), size: 0 },
            },
        }
    }

    fn link_target(&self, rng: &mut Rng, layer: Layer) -> Option<Vec<u8>> {
        let can = |entry: &&Entry| {
            let fits = match entry.body {
                Body::File { .. } => true,
                Body::Dir | Body::Link(_) | Body::Whiteout => false,
                // The kernel refuses to copy those that it cannot mark (docs/semantics.md, difference 26).
                _ => !self.files_alone,
            };
            entry.layer == layer && fits
        };
        let targets: Vec<&Entry> = self.entries.iter().filter(can).collect();
        if targets.is_empty() { None } else { Some(targets[rng.usize(..targets.len())].path.clone()) }
    }

    fn attributes(&self, rng: &mut Rng, entry: &mut Entry) {
        let is_dir = entry.body == Body::Dir;
        if entry.body == Body::Whiteout {
            entry.mode = 0;
            entry.mtime = old_time(rng);
            return;
        }
        if !matches!(entry.body, Body::Symlink(_)) && once_in(rng, 2) {
            entry.mode = pick_number(rng, if is_dir { &DIR_MODES } else { &FILE_MODES });
        }
        entry.uid = pick_number(rng, &[0, 0, 0, 1000, 1000, 7]);
        entry.gid = pick_number(rng, &[0, 0, 0, 1000, 50]);
        entry.mtime = old_time(rng);
        if once_in(rng, 3) {
            self.xattrs(rng, entry);
        }
        if is_dir && once_in(rng, 7) {
            let value: &[u8] = pick(rng, &[b"y".as_slice(), b"y", b"y", b"x", b"z", b""]);
            entry.xattrs.push((self.mark(b"opaque"), value.to_vec()));
        }
        if is_dir && entry.layer == Layer::Upper && once_in(rng, 6) {
            entry.xattrs.push((self.mark(b"impure"), b"y".to_vec()));
        }
        // With userxattr a redirect is refused, and which entries of a listing are lost with it depends on the order in
        // which the filesystem below lists `.` and `..`; the recorded scenarios cover the refusal.
        if is_dir && once_in(rng, 60) && self.prefix.starts_with(b"trusted.") {
            entry.xattrs.push((self.mark(b"redirect"), self.names.one(rng)));
        }
        // In upper nothing makes such files outside directories that announce them; whether a listing shows one there
        // depends on when the directory was marked impure (docs/semantics.md, difference 22).
        let empty = matches!(&entry.body, Body::File { data, size: 0 } if data.is_empty());
        if empty && entry.layer != Layer::Upper && once_in(rng, 20) {
            entry.xattrs.push((self.mark(b"whiteout"), Vec::new()));
        }
    }

    fn mark(&self, name: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), name].concat()
    }

    fn xattrs(&self, rng: &mut Rng, entry: &mut Entry) {
        let regular = matches!(entry.body, Body::File { .. });
        let is_dir = entry.body == Body::Dir;
        if (regular || is_dir) && rng.bool() {
            entry.xattrs.push((b"user.k".to_vec(), vec![b'v'; rng.usize(..4)]));
        }
        if once_in(rng, 3) {
            entry.xattrs.push((b"trusted.t".to_vec(), b"\x00\xff".to_vec()));
        }
        if once_in(rng, 4) {
            entry.xattrs.push((b"security.s".to_vec(), b"label".to_vec()));
        }
        if regular && once_in(rng, 5) {
            entry.xattrs.push((b"security.capability".to_vec(), CAPABILITY.to_vec()));
        }
        // What an inner overlay left: the mark of the next nesting level.
        if is_dir && once_in(rng, 6) {
            entry.xattrs.push((self.mark(b"overlay.opaque"), b"y".to_vec()));
        }
        if (regular || is_dir) && once_in(rng, 3) {
            entry.xattrs.push((acl::NAMES[0].to_vec(), acl_value(rng)));
        }
        if is_dir && once_in(rng, 3) {
            entry.xattrs.push((acl::NAMES[1].to_vec(), acl_value(rng)));
        }
    }
}

/// Returns data and size of a file: small, empty, or with holes that are whole copy-up chunks.
fn file_data(rng: &mut Rng) -> (Vec<Extent>, u64) {
    const MIB: u64 = 1 << 20;
    let extent = |rng: &mut Rng, offset: u64, len: u64| Extent { offset, len, seed: rng.u8(..9) };
    match rng.u32(..20) {
        0..4 => (Vec::new(), 0),
        4 => (vec![extent(rng, MIB, 4096)], 0),
        5 => (vec![extent(rng, 0, 10), extent(rng, 2 * MIB, 100)], 3 * MIB),
        6 => (Vec::new(), 2 * MIB),
        7 => {
            let len = rng.u64(60_000..300_000);
            (vec![extent(rng, 0, len)], 0)
        }
        _ => {
            let len = rng.u64(1..6000);
            (vec![extent(rng, 0, len)], 0)
        }
    }
}

/// Returns a target that stays inside the tree when it is followed at `path`.
pub(super) fn symlink_target(rng: &mut Rng, names: &Names, path: &[u8]) -> Vec<u8> {
    match rng.u32(..8) {
        0 => b"nowhere".to_vec(),
        1 => b"/nonexistent/x".to_vec(),
        2 => b".".to_vec(),
        3 if path.contains(&b'/') => [b"../".as_slice(), &names.one(rng)].concat(),
        4 => vec![b't'; rng.usize(1..=200)],
        _ => names.path(rng),
    }
}
