//! Lookup: what a name in a directory is made of, over all layers.
//!
//! The rules are those of the kernel's `ovl_lookup` (Linux 6.18, fs/overlayfs/namei.c; docs/semantics.md, "Lookup").

use crate::error::{OpError, Result, Step};
use crate::node::{Lower, Node, Real};
use crate::origin::{Source, UNKNOWN_LINKS, index_name};
use crate::state::{Links, State};
use crate::{Index, Overlay};
use acetate_layer::mark::{self, Mark, Opaque, ProtAttr, Redirect};
use acetate_layer::{At, Errno, Kind, Stat, UpperLayer};

/// What a name is made of.
pub(crate) struct Found<L: UpperLayer> {
    /// Upper part.
    pub upper: Option<Real<L>>,
    /// Lower parts.
    pub lowers: Vec<Lower<L>>,
    /// The upper part holds attributes only.
    pub metacopy: bool,
    /// Where the data is in the data-only layers.
    pub data_path: Option<Box<[Vec<u8>]>>,
    /// Where the upper part says that it goes on below.
    pub redirect: Option<Redirect>,
    /// Attributes of the topmost part.
    pub stat: Stat,
    /// An object in upper says where it comes from.
    pub has_origin: bool,
    /// The inode number.
    pub ino: u64,
    /// Append-only and immutable.
    pub prot: ProtAttr,
    /// The name of the upper part in the index.
    pub index: Option<Box<[u8]>>,
    /// The number of names, where the real one does not count.
    pub links: Option<Links>,
    /// Upper has it at this name.
    pub in_upper: bool,
    /// The name in the index that all names of an indexed file, now or once copied, have in common.
    pub shared: Option<Box<[u8]>>,
    /// Device and inode number of the topmost lower directory, which identifies a merged directory.
    pub lower_dir: Option<(u64, u64)>,
}

const OWNER_READ: u32 = 0o400;

/// The progress of a lookup through the layers.
struct Search {
    /// What is looked for in the next layer.
    target: Target,
    is_dir: bool,
    stop: bool,
    metacopy: bool,
    /// A lower layer has a mark that leads on.
    marked_below: bool,
    /// The last redirect that was met.
    redirect: Option<Redirect>,
    /// Nothing lies below: marks need not be read.
    last: bool,
    xattr_whiteouts: bool,
}

/// Where the next layer is searched.
#[derive(Clone)]
enum Target {
    /// A name in the layer's part of the parent.
    Name(Vec<u8>),
    /// A path from the layer's root.
    Path(Vec<Vec<u8>>),
}

/// What marks of the upper part say.
struct UpperMarks {
    metacopy: bool,
    redirect: Option<Redirect>,
}

/// A part found in one layer.
struct Part<L: UpperLayer> {
    real: Real<L>,
    stat: Stat,
}

impl<L: UpperLayer> Overlay<L> {
    /// Resolves `name` in the directory `node` with that state. `None` if there is no such name.
    ///
    /// May write to upper: a merged directory without origin gets one, as in the kernel. `skip` names the layers
    /// that are known not to hold the name: upper and all lowers above that one.
    pub(crate) fn resolve(
        &self,
        node: &Node<L>,
        parent: &State<L>,
        name: &[u8],
        skip: Option<usize>,
    ) -> Result<Option<Found<L>>> {
        if name.len() > self.namelen {
            return Err(OpError::NameTooLong);
        }
        let bottom = self.regular.checked_sub(1);
        let has_data_layers = self.regular < self.lowers.len();
        let reads_marks = self.config.follows_redirects() || has_data_layers;
        let mut search = Search {
            target: Target::Name(name.to_vec()),
            is_dir: false,
            stop: false,
            metacopy: false,
            marked_below: false,
            redirect: None,
            last: !reads_marks && !parent.has_lowers(),
            xattr_whiteouts: false,
        };
        let mut upper = None;
        if skip.is_none()
            && let (Some(dir), Some(layer)) = (parent.upper_dir(), &self.upper)
        {
            upper = self.search_layer(layer, dir, &mut search, true)?;
        }
        let upper_redirect = search.redirect.clone();
        let upper_metacopy = upper.is_some() && search.metacopy;
        // Room for one part: most objects have no more, and there are many of them.
        let mut lowers: Vec<Lower<L>> = Vec::with_capacity(parent.lowers().len().min(1));
        let mut top: Option<Stat> = None;
        // An absolute redirect continues at the layers' roots, whatever the parent merges.
        let mut at_root = matches!(search.target, Target::Path(_));
        let mut index = skip.map_or(0, |first| parent.lowers_above(first));
        while !search.stop {
            let (layer_number, dir) = if at_root {
                match self.lowers[..self.regular].get(index) {
                    Some(layer) => (index, layer.root()),
                    None => break,
                }
            } else {
                match parent.nth_lower(index) {
                    Some(lower) => match lower.dir() {
                        Some(dir) => (lower.layer, dir),
                        None => break,
                    },
                    None => break,
                }
            };
            self.may_follow(&search)?;
            if !reads_marks {
                search.last = index + 1 == parent.lowers().len();
            } else if search.is_dir || !has_data_layers {
                search.last = Some(layer_number) == bottom;
            }
            search.xattr_whiteouts = false;
            let found = self.search_layer(&self.lowers[layer_number], dir, &mut search, false)?;
            if let Some(part) = found {
                let first = top.is_none();
                if first {
                    top = Some(part.stat);
                }
                // Of a chain of copies of attributes the first one counts, and the data at its end.
                if first || !search.metacopy {
                    lowers.push(Lower {
                        layer: layer_number,
                        real: part.real,
                        xattr_whiteouts: search.xattr_whiteouts,
                    });
                }
                // Before any layer below can fail, as in the kernel.
                if first
                    && let (Some(upper), Some(lower)) = (&mut upper, lowers.last())
                    && upper.stat.kind == Kind::Dir
                {
                    let layer = self.upper_layer()?;
                    if self.fix_origin(node, parent, layer, &upper.real, lower)? {
                        upper.stat = layer.stat(upper.real.at()).step("stat a directory in upper")?;
                    }
                    // What is exported is found by its handle, so the name alone is not enough.
                    if self.config.index == Index::All && !self.comes_from(layer, &upper.real, lower)? {
                        (lowers, top) = (Vec::new(), None);
                        break;
                    }
                }
            }
            if search.stop {
                break;
            }
            index += 1;
            if !at_root && matches!(search.target, Target::Path(_)) {
                at_root = true;
                index = layer_number + 1;
            }
        }
        let data_path = match &search.target {
            Target::Path(path) if search.metacopy && !lowers.is_empty() && has_data_layers => {
                let absolute = matches!(search.redirect, Some(Redirect::Absolute(_)));
                absolute.then(|| path.clone().into_boxed_slice())
            }
            _ => None,
        };
        if data_path.is_none() {
            self.may_follow(&search)?;
            if search.metacopy || upper_metacopy && lowers.is_empty() {
                return Err(OpError::BrokenMark { what: "no data lies below a metacopy", errno: Errno::IO });
            }
        }
        let marks = UpperMarks { metacopy: upper_metacopy, redirect: upper_redirect };
        self.assemble(upper, marks, lowers, data_path, top)
    }

    /// A mark that has been met and may not be followed ends the lookup before another layer is searched.
    fn may_follow(&self, search: &Search) -> Result<()> {
        if search.metacopy && !self.config.metacopy
            || search.redirect.is_some() && !self.config.follows_redirects()
            || search.marked_below && !self.config.follows_below
        {
            return Err(OpError::MarkRefused);
        }
        Ok(())
    }

    fn assemble(
        &self,
        upper: Option<Part<L>>,
        marks: UpperMarks,
        lowers: Vec<Lower<L>>,
        data_path: Option<Box<[Vec<u8>]>>,
        top: Option<Stat>,
    ) -> Result<Option<Found<L>>> {
        let Some(stat) = upper.as_ref().map(|upper| &upper.stat).or(top.as_ref()).cloned() else {
            return Ok(None);
        };
        let is_dir = stat.kind == Kind::Dir;
        let layer_number = lowers.first().map_or(0, |lower| lower.layer);
        let mut found = Found {
            ino: 0,
            prot: ProtAttr::default(),
            metacopy: marks.metacopy,
            data_path,
            redirect: marks.redirect,
            has_origin: false,
            index: None,
            links: None,
            in_upper: upper.is_some(),
            shared: None,
            lower_dir: top.as_ref().filter(|_| is_dir).map(|stat| (stat.dev, stat.ino)),
            upper: upper.map(|upper| upper.real),
            lowers,
            stat,
        };
        let source = self.source_of(&found, top.as_ref())?;
        if let Some(source) = &source {
            self.consult_index(&mut found, source)?;
        }
        let Some(upper) = found.upper.clone() else {
            found.ino = self.inodes.lower(layer_number, found.stat.ino);
            found.prot = crate::protect::real_protection(&found.stat);
            return Ok(Some(found));
        };
        found.ino = self.inodes.upper(found.stat.ino);
        if matches!(found.stat.kind, Kind::File | Kind::Dir) {
            found.prot = self.read_protection(self.upper_layer()?, upper.at(), Some(&found.stat))?;
        }
        if let Some(source) = &source {
            // Only what has one name, or is indexed, says where it comes from.
            let one_name = is_dir || matches!(source.nlink, 1 | UNKNOWN_LINKS);
            found.has_origin = found.index.is_some() || one_name;
            // Where everything is indexed, what is not has a number of its own, as in the kernel.
            let keeps_number = found.index.is_some() || self.config.index != Index::All && one_name;
            if let Some(ino) = source.ino.filter(|_| keeps_number) {
                found.ino = self.inodes.lower(source.layer, ino);
            }
        }
        if !is_dir && !found.metacopy {
            found.lowers.clear();
        }
        Ok(Some(found))
    }

    /// The lower object that an object comes from, or is: by its name, and by the origin mark of what is in upper with its
    /// data.
    fn source_of(&self, found: &Found<L>, top: Option<&Stat>) -> Result<Option<Source>> {
        let kind = found.stat.kind;
        if let Some(upper) = &found.upper
            && kind != Kind::Dir
            && !found.metacopy
        {
            return self.source(self.upper_layer()?, upper.at(), kind);
        }
        let (Some(lower), Some(stat)) = (found.lowers.first(), top) else {
            return Ok(None);
        };
        if found.upper.is_none() && !self.asks_index(kind) {
            return Ok(None);
        }
        let mut index_name_of = Box::from([]);
        if self.asks_index(kind) {
            if let Some(upper) = &found.upper
                && kind != Kind::Dir
            {
                let layer = self.upper_layer()?;
                let marked = self.mark(layer, upper.at(), Mark::Origin).step("read the origin mark")?;
                if marked.is_some() && !self.comes_from(layer, upper, lower)? {
                    return Err(OpError::Stale);
                }
            }
            index_name_of = index_name(&self.origin_value(lower)?);
        }
        Ok(Some(Source {
            layer: lower.layer,
            kind: stat.kind,
            ino: Some(stat.ino),
            nlink: stat.nlink,
            index_name: index_name_of,
        }))
    }

    /// Whether the origin mark of an upper object names that lower one.
    fn comes_from(&self, layer: &L, upper: &Real<L>, lower: &Lower<L>) -> Result<bool> {
        let value = self.mark(layer, upper.at(), Mark::Origin).step("read the origin mark")?;
        Ok(value.as_deref() == Some(&self.origin_value(lower)?))
    }

    /// Finds out whether an object is indexed. One that has no copy at this name may have one in the index.
    fn consult_index(&self, found: &mut Found<L>, source: &Source) -> Result<()> {
        let kind = found.stat.kind;
        if self.asks_index(kind) && self.upper.is_some() {
            let upper = found.upper.as_ref().map(|upper| (upper.at(), &found.stat));
            let entry = self.find_index(&source.index_name, kind, upper)?;
            let layer = self.upper_layer()?;
            if let (Some(stat), None) = (&entry, &found.upper) {
                let real = Real::Named(layer.work().clone(), (&*source.index_name).into());
                found.metacopy = kind == Kind::File && self.is_metacopy(layer, real.at())?;
                if found.metacopy
                    && let Some(value) =
                        self.mark(layer, real.at(), Mark::Redirect).step("read the redirect mark")?
                {
                    found.redirect = Redirect::parse(&value).ok();
                }
                found.stat = stat.clone();
                found.upper = Some(real);
            }
            if entry.is_some() {
                found.index = Some(source.index_name.clone());
                if kind != Kind::Dir {
                    found.upper = Some(Real::Named(layer.work().clone(), (&*source.index_name).into()));
                }
            }
            let indexed_later = found.upper.is_none() && self.is_indexed(source.kind, source.nlink);
            if kind != Kind::Dir && (found.index.is_some() || indexed_later) {
                found.shared = Some(source.index_name.clone());
            }
        }
        // Of a copy that is not indexed and does not say what it comes from, the real number counts.
        let counted = found.index.is_some() || source.nlink != UNKNOWN_LINKS;
        if kind != Kind::Dir
            && counted
            && let Some(upper) = &found.upper
        {
            found.links = self.union_links(source.nlink, upper.at(), &found.stat)?;
            if found.index.is_some() && found.links.is_none() {
                // The kernel counts the link of the index, too, if the lower file has one name only.
                found.links = Some(Links { union: found.stat.nlink, below: source.nlink });
            }
        }
        Ok(())
    }

    /// Searches one layer and updates the search; the result is a part of the object, or nothing.
    fn search_layer(
        &self,
        layer: &L,
        dir: &L::Dir,
        search: &mut Search,
        is_upper: bool,
    ) -> Result<Option<Part<L>>> {
        match search.target.clone() {
            Target::Name(name) => self.search_component(layer, dir, &name, &[], &[], search, is_upper),
            Target::Path(path) => {
                let mut base = layer.root().clone();
                for (depth, name) in path.iter().enumerate() {
                    let (prefix, rest) = (&path[..depth], &path[depth + 1..]);
                    let part = self.search_component(layer, &base, name, prefix, rest, search, is_upper)?;
                    if rest.is_empty() {
                        return Ok(part);
                    }
                    match part {
                        Some(Part { real: Real::Dir(next), .. }) => base = next,
                        _ => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// Searches one component. `prefix` and `rest` are the components around it in an absolute path; with both empty
    /// it is a name in the parent.
    #[expect(clippy::too_many_arguments, reason = "the state of one step of the kernel's algorithm")]
    fn search_component(
        &self,
        layer: &L,
        dir: &L::Dir,
        name: &[u8],
        prefix: &[Vec<u8>],
        rest: &[Vec<u8>],
        search: &mut Search,
        is_upper: bool,
    ) -> Result<Option<Part<L>>> {
        let final_component = rest.is_empty();
        if matches!(name, b"." | b"..") {
            return Err(OpError::BrokenMark { what: "a redirect has dot components", errno: Errno::ACCESS });
        }
        let mut stat = match layer.stat(At::Name(dir, name)) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(None),
            Err(errno) => return Err(OpError::Layer { step: "look a name up in a layer", errno }),
        };
        let at = At::Name(dir, name);
        if self.is_whiteout(layer, at, &stat)? {
            search.stop = true;
            return Ok(None);
        }
        if final_component && search.metacopy && stat.kind != Kind::File {
            search.stop = true;
            return Ok(None);
        }
        if stat.kind != Kind::Dir {
            if search.is_dir || !final_component {
                search.stop = true;
                return Ok(None);
            }
            search.metacopy = stat.kind == Kind::File && self.is_metacopy(layer, at)?;
            search.stop = !search.metacopy;
            search.marked_below |= search.metacopy && !is_upper;
            if search.metacopy && !search.last {
                search.marked_below |= self.follow_redirect(layer, at, prefix, rest, search)? && !is_upper;
            }
            return Ok(Some(Part { real: Real::Named(dir.clone(), name.into()), stat }));
        }
        if self.traps.contains(&(stat.dev, stat.ino)) {
            return Err(OpError::LayerLoop);
        }
        let inner = match layer.known_dir(dir, name, &stat) {
            Ok(inner) => inner,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(OpError::Layer { step: "open a directory of a layer", errno }),
        };
        if final_component {
            search.is_dir = true;
        }
        if !search.last {
            let opened = is_upper && self.open_to_owner(layer, at, &stat)?;
            let marks = self.follow_dir(layer, at, prefix, rest, search, is_upper);
            if opened {
                const STEP: &str = "close a directory again";
                layer.set_mode(at, stat.mode).step(STEP)?;
                stat = layer.stat(at).step(STEP)?;
            }
            marks?;
        }
        Ok(Some(Part { real: Real::Dir(inner), stat }))
    }

    /// Lets a directory of upper be read by its owner, if that is who mounts and its mode forbids it: what it hides would come
    /// back if its marks were not read. Nobody knows the directory yet. Returns whether its mode has to be set back.
    fn open_to_owner(&self, layer: &L, at: At<'_, L>, stat: &Stat) -> Result<bool> {
        let closed = stat.mode & OWNER_READ == 0 && !self.config.overrides_modes && !self.config.read_only;
        if closed {
            layer.set_mode(at, stat.mode | OWNER_READ).step("read the marks of a closed directory")?;
        }
        Ok(closed)
    }

    /// Goes on as the marks of a directory say.
    fn follow_dir(
        &self,
        layer: &L,
        at: At<'_, L>,
        prefix: &[Vec<u8>],
        rest: &[Vec<u8>],
        search: &mut Search,
        is_upper: bool,
    ) -> Result<()> {
        let value = match is_upper {
            true => self.certain_mark(layer, at, Mark::Opaque),
            false => self.mark(layer, at, Mark::Opaque),
        };
        match mark::opaque(value.step("read the opaque mark")?.as_deref()) {
            Opaque::Yes => {
                search.stop = true;
                return Ok(());
            }
            Opaque::HasXattrWhiteouts => search.xattr_whiteouts = rest.is_empty() && !is_upper,
            Opaque::No => {}
        }
        search.marked_below |= self.follow_redirect(layer, at, prefix, rest, search)? && !is_upper;
        Ok(())
    }

    /// Returns whether there is a redirect.
    fn follow_redirect(
        &self,
        layer: &L,
        at: At<'_, L>,
        prefix: &[Vec<u8>],
        rest: &[Vec<u8>],
        search: &mut Search,
    ) -> Result<bool> {
        let Some(value) = self.mark(layer, at, Mark::Redirect).step("read the redirect mark")? else {
            return Ok(false);
        };
        let redirect = Redirect::parse(&value)
            .map_err(|_| OpError::BrokenMark { what: "a redirect is malformed", errno: Errno::INVAL })?;
        search.redirect = Some(redirect.clone());
        let mut path = match &redirect {
            Redirect::Absolute(path) => {
                // It holds even below an opaque ancestor met on the way.
                search.stop = false;
                path.clone()
            }
            Redirect::Relative(name) => {
                if matches!(search.target, Target::Name(_)) {
                    search.target = Target::Name(name.clone());
                    return Ok(true);
                }
                [prefix, std::slice::from_ref(name)].concat()
            }
        };
        path.extend_from_slice(rest);
        search.target = Target::Path(path);
        Ok(true)
    }

    /// Whether a regular file holds attributes only.
    fn is_metacopy(&self, layer: &L, at: At<'_, L>) -> Result<bool> {
        let value = match self.config.metacopy {
            true => self.certain_mark(layer, at, Mark::Metacopy),
            false => self.mark(layer, at, Mark::Metacopy),
        };
        let value = value.step("read the metacopy mark")?;
        value.as_deref().map(crate::metacopy::check_mark).transpose().map(|found| found.is_some())
    }

    /// Whether an object is a whiteout in either form.
    pub(crate) fn is_whiteout(&self, layer: &L, at: At<'_, L>, stat: &Stat) -> Result<bool> {
        if mark::is_device_whiteout(stat) {
            return Ok(true);
        }
        if !mark::may_be_xattr_whiteout(stat) {
            return Ok(false);
        }
        Ok(self.mark(layer, at, Mark::Whiteout).step("read the whiteout mark")?.is_some())
    }

    /// Whether the opaque mark of a directory says that it may hold xattr whiteouts.
    pub(crate) fn has_xattr_whiteouts(&self, layer: &L, at: At<'_, L>) -> Result<bool> {
        let value = self.mark(layer, at, Mark::Opaque).step("read the opaque mark")?;
        Ok(mark::opaque(value.as_deref()) == Opaque::HasXattrWhiteouts)
    }

    /// Whether a lower layer provides `name` in the directory: whether removing it from upper would show it again.
    pub(crate) fn lower_provides(&self, parent: &State<L>, name: &[u8]) -> Result<bool> {
        for lower in parent.lowers() {
            let (layer, Some(dir)) = (&self.lowers[lower.layer], lower.dir()) else {
                continue;
            };
            let at = At::Name(dir, name);
            match layer.stat(at) {
                Ok(stat) => return Ok(!self.is_whiteout(layer, at, &stat)?),
                Err(Errno::NOENT | Errno::NAMETOOLONG) => {}
                // "Cannot tell" is not "absent": a needless whiteout does no harm.
                Err(_) => return Ok(true),
            }
        }
        Ok(false)
    }
}
