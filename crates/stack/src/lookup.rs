//! Lookup of one name in all layers, visible or not.

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{self, Dialect, Mark, Opaque, Redirect};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Errno, Kind, Layer, Stat};

use crate::node::{Hidden, How, Node, Object, Place, Problem, Seen, What};
use crate::view::View;
use crate::{Result, failed, joined};

/// Where the next layer is searched.
#[derive(Clone)]
enum Target {
    /// A name in the layer's part of the parent.
    Name(Vec<u8>),
    /// A path from the layer's root.
    Path(Vec<Vec<u8>>),
}

/// The state of a search through the layers.
struct Search {
    target: Target,
    /// What hides the rest.
    stop: Option<Hidden>,
    /// What has been found so far is a directory.
    is_dir: bool,
    /// What has been found so far is a file whose data is still looked for.
    wants_data: bool,
    problem: Option<Problem>,
}

impl View<'_> {
    /// The roots of all layers, which are always merged.
    ///
    /// # Errors
    /// A root that cannot be looked at.
    pub fn root(&self) -> Result<Node> {
        let mut seen = Vec::new();
        for number in self.top..self.stack.depth() {
            let layer = self.stack.layer(number);
            let stat = layer.stat(At::Dir(layer.root())).map_err(failed(b"", "stat"))?;
            let place = Place::Dir(layer.root().clone());
            let object = Object { stat, opaque: Opaque::No, redirect: None, metacopy: false, place };
            seen.push(Seen { layer: number, path: Vec::new(), what: What::Object(object), hidden: None });
        }
        Ok(Node { seen, problem: None })
    }

    /// Looks a name up in a directory.
    ///
    /// # Errors
    /// A layer that cannot be read. A mark that leads nowhere is no error but a [`Node::problem`].
    pub fn lookup(&self, parent: &Node, name: &[u8]) -> Result<Node> {
        let mut search = Search {
            target: Target::Name(name.to_vec()),
            stop: None,
            is_dir: false,
            wants_data: false,
            problem: None,
        };
        let mut seen = Vec::with_capacity(parent.seen.len());
        for above in &parent.seen {
            let last = above.layer + 1 == self.stack.depth();
            seen.push(self.in_layer(above, &mut search, last)?);
        }
        if search.wants_data && search.problem.is_none() {
            seen.extend(self.in_data_layers(&seen, &mut search)?);
        }
        if search.wants_data && search.problem.is_none() {
            search.problem = Some(match self.stack.dialect() {
                Dialect::Trusted => Problem::NoData,
                Dialect::User if self.stack.extended => Problem::NoData,
                Dialect::User => Problem::Refused,
            });
        }
        Ok(Node { seen, problem: search.problem })
    }

    /// Looks in the data-only layers for the data of a file whose chain of metacopy files ends in a lower layer with an
    /// absolute redirect.
    fn in_data_layers(&self, seen: &[Seen], search: &mut Search) -> Result<Option<Seen>> {
        let chain = seen.iter().filter(|seen| seen.hidden.is_none());
        let last = chain.filter_map(|seen| seen.what.object().map(|object| (seen.layer, object))).next_back();
        let Some((_, object)) = last.filter(|(layer, _)| *layer >= usize::from(self.stack.has_upper()))
        else {
            return Ok(None);
        };
        let Some(Redirect::Absolute(names)) = object.follows() else { return Ok(None) };
        for number in self.stack.data_layers() {
            let layer = self.stack.layer(number);
            let path = names.join(&b'/');
            let Some((name, dirs)) = names.split_last() else { continue };
            let mut dir = layer.root().clone();
            let mut there = true;
            for name in dirs {
                match layer.open_dir(&dir, name) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                        there = false;
                        break;
                    }
                    other => dir = other.map_err(failed(&path, "open"))?,
                }
            }
            if !there {
                continue;
            }
            let stat = match layer.stat(At::Name(&dir, name)) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(failed(&path, "look up"))?,
            };
            if stat.kind == Kind::File {
                search.wants_data = false;
                let what = What::Object(plain(stat, Place::Named(dir, name.clone())));
                return Ok(Some(Seen { layer: number, path, what, hidden: None }));
            }
        }
        Ok(None)
    }

    /// Looks a path up, which need not exist.
    ///
    /// # Errors
    /// As [`View::lookup`].
    pub fn find(&self, path: &[u8]) -> Result<Node> {
        let mut node = self.root()?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            node = self.lookup(&node, name)?;
        }
        Ok(node)
    }

    /// Searches one layer.
    fn in_layer(&self, above: &Seen, search: &mut Search, last: bool) -> Result<Seen> {
        let layer = self.stack.layer(above.layer);
        match search.target.clone() {
            Target::Name(name) => {
                let path = joined(&above.path, &name);
                let what = match &above.what {
                    What::Object(Object { place: Place::Dir(dir), .. }) => {
                        self.look(layer, dir, &name, &path)?
                    }
                    _ => What::Absent,
                };
                let mut seen = Seen { layer: above.layer, path, what, hidden: above.hidden.clone() };
                let nearer = |a: &Option<Hidden>, b: &Option<Hidden>| match (a, b) {
                    (Some(a), Some(b)) => a.by < b.by,
                    (a, _) => a.is_some(),
                };
                if nearer(&search.stop, &seen.hidden) {
                    seen.hidden = search.stop.clone();
                }
                if seen.hidden.is_none() {
                    self.meet(&mut seen, &[], &[], search, last);
                }
                Ok(seen)
            }
            Target::Path(path) => self.walk_down(above.layer, &path, search, last),
        }
    }

    /// Searches one layer from its root on.
    fn walk_down(&self, number: usize, names: &[Vec<u8>], search: &mut Search, last: bool) -> Result<Seen> {
        let layer = self.stack.layer(number);
        let mut dir = Some(layer.root().clone());
        let mut at = Vec::new();
        let mut hidden = search.stop.clone();
        let mut seen =
            Seen { layer: number, path: names.join(&b'/'), what: What::Absent, hidden: hidden.clone() };
        for (depth, name) in names.iter().enumerate() {
            at = joined(&at, name);
            let Some(open) = &dir else { break };
            let what = self.look(layer, open, name, &at)?;
            let rest = &names[depth + 1..];
            let mut step = Seen { layer: number, path: at.clone(), what, hidden: hidden.clone() };
            if step.hidden.is_none() {
                self.meet(&mut step, &names[..depth], rest, search, last);
            }
            if rest.is_empty() {
                return Ok(step);
            }
            dir = match &step.what {
                What::Object(object) => object.dir().cloned(),
                _ => None,
            };
            // What only hides the layers below does not hide this one's own.
            hidden = step.hidden;
        }
        seen.hidden = hidden;
        Ok(seen)
    }

    /// What a layer's entry means for the search; the entry itself may turn out to be hidden. `prefix` and `rest` are
    /// the components around it in a path from the root.
    fn meet(&self, seen: &mut Seen, prefix: &[Vec<u8>], rest: &[Vec<u8>], search: &mut Search, last: bool) {
        let is_final = rest.is_empty();
        let hides = |how| Some(Hidden { by: seen.layer, path: seen.path.clone(), how });
        let object = match &seen.what {
            What::Absent => return,
            What::Whiteout(_) => {
                search.stop = hides(How::Whiteout);
                return;
            }
            What::Object(object) => object,
        };
        let is_dir = object.stat.kind == Kind::Dir;
        let misfit = is_final && (search.wants_data && object.stat.kind != Kind::File);
        if misfit || !is_dir && (search.is_dir || !is_final) {
            search.stop = hides(How::Object);
            // The directory or file above it in the stack does not go together with it.
            seen.hidden = search.stop.clone().filter(|_| is_final);
            return;
        }
        if !is_dir {
            search.wants_data = object.metacopy;
            if object.metacopy {
                self.follow(seen.layer, object, prefix, rest, search, last);
            } else {
                search.stop = hides(How::Object);
            }
            return;
        }
        if is_final {
            search.is_dir = true;
        }
        if last {
            return;
        }
        if object.opaque == Opaque::Yes {
            search.stop = hides(How::Opaque);
            return;
        }
        self.follow(seen.layer, object, prefix, rest, search, last);
    }

    /// Lets a redirect lead the search.
    fn follow(
        &self,
        number: usize,
        object: &Object,
        prefix: &[Vec<u8>],
        rest: &[Vec<u8>],
        search: &mut Search,
        last: bool,
    ) {
        if last || object.redirect.is_none() {
            return;
        }
        // Whoever owns a file can set such marks: they only count in a layer that is closed to others.
        if self.stack.dialect() == Dialect::User && !(self.stack.extended && number == 0) {
            search.problem = Some(Problem::Refused);
            return;
        }
        let Some(redirect) = object.follows() else {
            search.problem = Some(Problem::BadRedirect);
            return;
        };
        let mut path = match redirect {
            Redirect::Absolute(path) => {
                // It holds even below an opaque directory that was met on the way.
                search.stop = None;
                path
            }
            Redirect::Relative(name) => {
                if matches!(search.target, Target::Name(_)) {
                    search.target = Target::Name(name);
                    return;
                }
                [prefix, &[name]].concat()
            }
        };
        path.extend_from_slice(rest);
        search.target = Target::Path(path);
    }

    /// What a layer has at a name.
    fn look(&self, layer: &DirLayer, dir: &Dir, name: &[u8], path: &[u8]) -> Result<What> {
        let at = At::Name(dir, name);
        let stat = match layer.stat(at) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Ok(What::Absent),
            Err(errno) => return Err(failed(path, "look up")(errno)),
        };
        let mark = |at, mark| self.mark(layer, at, mark).map_err(failed(path, "read a mark"));
        if mark::is_device_whiteout(&stat) {
            return Ok(What::Whiteout(WhiteoutForm::Device));
        }
        if mark::may_be_xattr_whiteout(&stat) && mark(at, Mark::Whiteout)?.is_some() {
            return Ok(What::Whiteout(WhiteoutForm::Xattr));
        }
        let mut object = plain(stat, Place::Named(dir.clone(), name.to_vec()));
        match object.stat.kind {
            Kind::Dir => {
                let inner = layer.open_dir(dir, name).map_err(failed(path, "open"))?;
                object.opaque = mark::opaque(mark(At::Dir(&inner), Mark::Opaque)?.as_deref());
                object.redirect = mark(At::Dir(&inner), Mark::Redirect)?;
                object.place = Place::Dir(inner);
            }
            Kind::File => {
                object.metacopy = mark(at, Mark::Metacopy)?.is_some();
                if object.metacopy {
                    object.redirect = mark(at, Mark::Redirect)?;
                }
            }
            _ => {}
        }
        Ok(What::Object(object))
    }

    /// The value of a mark; none where there can be none.
    pub(crate) fn mark(
        &self,
        layer: &DirLayer,
        at: At<'_, DirLayer>,
        mark: Mark,
    ) -> acetate_layer::Result<Option<Vec<u8>>> {
        match layer.get_xattr(at, self.stack.dialect().name(mark)) {
            Err(Errno::OPNOTSUPP) => Ok(None),
            other => other,
        }
    }
}

fn plain(stat: Stat, place: Place) -> Object {
    Object { stat, opaque: Opaque::No, redirect: None, metacopy: false, place }
}
