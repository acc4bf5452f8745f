//! What nodes are made of.
//!
//! There may be millions, most of which have one name, in the directory in which they were first looked up, and one real
//! object, which has the same name in its layer. So a state holds that name once, and what few nodes have apart.

use crate::name::Name;
use crate::node::{Lower, Node, Real};
use acetate_layer::mark::{ProtAttr, Redirect};
use acetate_layer::{At, UpperLayer};
use std::sync::Arc;

/// A name of a node.
pub(crate) struct Place<L: UpperLayer> {
    /// The directory.
    pub parent: Arc<Node<L>>,
    /// The name in it.
    pub name: Name,
    /// Upper has the object at this name. An indexed one may have others only.
    pub in_upper: bool,
}

impl<L: UpperLayer> Place<L> {
    /// Without holding on to it.
    fn borrow(&self) -> PlaceRef<'_, L> {
        PlaceRef { parent: &self.parent, name: &self.name, in_upper: self.in_upper }
    }

    /// Whether it is this name in this directory.
    pub fn is(&self, parent: &Node<L>, name: &[u8]) -> bool {
        self.borrow().is(parent, name)
    }
}

/// A name of a node whose state is locked.
pub(crate) struct PlaceRef<'a, L: UpperLayer> {
    pub parent: &'a Arc<Node<L>>,
    pub name: &'a [u8],
    pub in_upper: bool,
}

impl<L: UpperLayer> PlaceRef<'_, L> {
    /// Whether it is this name in this directory.
    pub fn is(&self, parent: &Node<L>, name: &[u8]) -> bool {
        std::ptr::eq(&**self.parent, parent) && *self.name == *name
    }

    /// For use without the lock.
    pub fn to_place(&self) -> Place<L> {
        Place { parent: self.parent.clone(), name: self.name.into(), in_upper: self.in_upper }
    }
}

/// How many names a file has over all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// Names in the overlay.
    pub union: u32,
    /// Links of the lower file.
    pub below: u32,
}

/// The layer of an object, and what is to be known of it there.
#[derive(Clone, Copy)]
struct Home {
    /// [`UPPER`] or the index of the lower layer.
    layer: u32,
    /// Of a lower directory that empty files in it may be whiteouts; of an upper object that its number is that of the lower
    /// object it was copied from.
    flag: bool,
}

const UPPER: u32 = u32::MAX;

/// A real object of a state. Each variant has the parts of a [`Home`], which take no room of their own there.
enum Object<L: UpperLayer> {
    Dir {
        layer: u32,
        flag: bool,
        dir: L::Dir,
    },
    /// By the name of the state.
    Here {
        layer: u32,
        flag: bool,
        dir: L::Dir,
    },
    /// By another name.
    Named {
        layer: u32,
        flag: bool,
        named: Box<(L::Dir, Name)>,
    },
    Held {
        layer: u32,
        flag: bool,
        file: Arc<L::File>,
    },
}

impl<L: UpperLayer> Object<L> {
    /// Of a state with that name.
    fn new(real: Real<L>, home: Home, name: &[u8]) -> Object<L> {
        let Home { layer, flag } = home;
        match real {
            Real::Dir(dir) => Object::Dir { layer, flag, dir },
            Real::Named(dir, own) if *own == *name => Object::Here { layer, flag, dir },
            Real::Named(dir, own) => Object::Named { layer, flag, named: Box::new((dir, own)) },
            Real::Held(file) => Object::Held { layer, flag, file },
        }
    }

    /// The upper part of a state with that name.
    fn upper(real: Real<L>, has_origin: bool, name: &[u8]) -> Object<L> {
        Object::new(real, Home { layer: UPPER, flag: has_origin }, name)
    }

    /// A lower part of a state with that name.
    fn lower(lower: Lower<L>, name: &[u8]) -> Object<L> {
        let Lower { layer, real, xattr_whiteouts } = lower;
        // There are never more layers than memory could hold.
        let layer = u32::try_from(layer).unwrap_or(UPPER);
        Object::new(real, Home { layer, flag: xattr_whiteouts }, name)
    }

    fn home(&self) -> Home {
        match self {
            Object::Dir { layer, flag, .. }
            | Object::Here { layer, flag, .. }
            | Object::Named { layer, flag, .. }
            | Object::Held { layer, flag, .. } => Home { layer: *layer, flag: *flag },
        }
    }

    fn is_upper(&self) -> bool {
        self.home().layer == UPPER
    }

    fn at<'a>(&'a self, name: &'a [u8]) -> At<'a, L> {
        match self {
            Object::Dir { dir, .. } => At::Dir(dir),
            Object::Here { dir, .. } => At::Name(dir, name),
            Object::Named { named, .. } => At::Name(&named.0, &named.1),
            Object::Held { file, .. } => At::Open(file.as_ref()),
        }
    }

    fn real(&self, name: &Name) -> Real<L> {
        match self {
            Object::Dir { dir, .. } => Real::Dir(dir.clone()),
            Object::Here { dir, .. } => Real::Named(dir.clone(), name.clone()),
            Object::Named { named, .. } => Real::Named(named.0.clone(), named.1.clone()),
            Object::Held { file, .. } => Real::Held(file.clone()),
        }
    }

    fn dir(&self) -> Option<&L::Dir> {
        match self {
            Object::Dir { dir, .. } => Some(dir),
            _ => None,
        }
    }
}

/// All real objects of a state, the topmost first.
enum Parts<L: UpperLayer> {
    Nothing,
    One(Object<L>),
    #[expect(clippy::box_collection, reason = "a thin pointer: it takes no more room than one object")]
    Many(Box<Vec<Object<L>>>),
}

impl<L: UpperLayer> Parts<L> {
    fn all(&self) -> &[Object<L>] {
        match self {
            Parts::Nothing => &[],
            Parts::One(object) => std::slice::from_ref(object),
            Parts::Many(objects) => objects,
        }
    }

    fn upper(&self) -> Option<&Object<L>> {
        self.all().first().filter(|object| object.is_upper())
    }

    fn lowers(&self) -> &[Object<L>] {
        let all = self.all();
        &all[usize::from(self.upper().is_some())..]
    }

    /// Replaces those that are in upper, or those that are not.
    fn replace(&mut self, upper: bool, by: impl IntoIterator<Item = Object<L>>) {
        let old = match std::mem::replace(self, Parts::Nothing) {
            Parts::Nothing => Vec::new(),
            Parts::One(object) => vec![object],
            Parts::Many(objects) => *objects,
        };
        let kept = old.into_iter().filter(|object| object.is_upper() != upper);
        let mut all: Vec<_> =
            if upper { by.into_iter().chain(kept).collect() } else { kept.chain(by).collect() };
        *self = match all.len() {
            0 | 1 => all.pop().map_or(Parts::Nothing, Parts::One),
            _ => {
                all.shrink_to_fit();
                Parts::Many(Box::new(all))
            }
        };
    }
}

/// A lower part of a node whose state is locked.
pub(crate) struct Part<'a, L: UpperLayer> {
    /// Index of the layer, 0 topmost.
    pub layer: usize,
    /// The directory is marked `opaque=x`: empty files in it may be whiteouts.
    pub xattr_whiteouts: bool,
    object: &'a Object<L>,
    name: &'a Name,
}

impl<'a, L: UpperLayer> Part<'a, L> {
    /// For layer operations.
    pub fn at(&self) -> At<'a, L> {
        self.object.at(self.name)
    }

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&'a L::Dir> {
        self.object.dir()
    }

    /// For use without the lock.
    pub fn to_lower(&self) -> Lower<L> {
        let (layer, xattr_whiteouts) = (self.layer, self.xattr_whiteouts);
        Lower { layer, real: self.object.real(self.name), xattr_whiteouts }
    }
}

/// What few nodes have.
struct Rare<L: UpperLayer> {
    places: Vec<Place<L>>,
    removed_from: Option<Arc<Node<L>>>,
    data_path: Option<Box<[Vec<u8>]>>,
    index: Option<Box<[u8]>>,
    links: Option<Links>,
    redirect: Option<Redirect>,
    home_not_in_upper: bool,
    metacopy: bool,
    prot: ProtAttr,
}

impl<L: UpperLayer> Default for Rare<L> {
    fn default() -> Self {
        Rare {
            places: Vec::new(),
            removed_from: None,
            data_path: None,
            index: None,
            links: None,
            redirect: None,
            home_not_in_upper: false,
            metacopy: false,
            prot: ProtAttr::default(),
        }
    }
}

/// What a node is made of; changes by copy-up, rename and removal.
pub(crate) struct State<L: UpperLayer> {
    /// The name that it was first known by; empty for the root and for what has never had one.
    name: Name,
    /// The directory in which it has this name, if it still has it: the first one of its places.
    home: Option<Arc<Node<L>>>,
    parts: Parts<L>,
    rare: Option<Box<Rare<L>>>,
    /// The inode number.
    pub ino: u64,
}

impl<L: UpperLayer> State<L> {
    /// A state without any name or real object.
    pub fn new(ino: u64) -> State<L> {
        State { name: Name::from(&[][..]), home: None, parts: Parts::Nothing, rare: None, ino }
    }

    /// A state with one name and without any real object. Upper has at that name what becomes its upper part, unless it is
    /// said to be [in the index only](Self::set_in_index_only).
    pub fn at(ino: u64, place: Place<L>) -> State<L> {
        State { name: place.name, home: Some(place.parent), ..State::new(ino) }
    }

    fn rare(&mut self) -> &mut Rare<L> {
        self.rare.get_or_insert_default()
    }

    /// Upper has the object at its home.
    fn has_home_in_upper(&self) -> bool {
        self.has_upper() && !self.rare.as_ref().is_some_and(|rare| rare.home_not_in_upper)
    }

    /// Upper has the object in the index, and not at the only name that is known.
    pub fn set_in_index_only(&mut self) {
        self.rare().home_not_in_upper = true;
    }

    /// The names it is known by; none for the root and for what has been removed.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = PlaceRef<'_, L>> {
        let (name, in_upper) = (&*self.name, self.has_home_in_upper());
        let home = self.home.iter().map(move |parent| PlaceRef { parent, name, in_upper });
        home.chain(self.rare.iter().flat_map(|rare| rare.places.iter().map(Place::borrow)))
    }

    /// One of its names, if it has any.
    pub fn place(&self) -> Option<PlaceRef<'_, L>> {
        self.places().next()
    }

    /// Whether it has that name.
    pub fn has_place(&self, parent: &Node<L>, name: &[u8]) -> bool {
        self.places().any(|place| place.is(parent, name))
    }

    /// Adds a name, as the last one.
    pub fn add_place(&mut self, place: Place<L>) {
        if self.place().is_none() && *place.name == *self.name {
            self.home = Some(place.parent);
            if self.has_home_in_upper() != place.in_upper {
                self.rare().home_not_in_upper = !place.in_upper;
            }
        } else {
            self.rare().places.push(place);
        }
    }

    /// Takes a name away; returns it if it was one of its names.
    pub fn remove_place(&mut self, parent: &Node<L>, name: &[u8]) -> Option<Place<L>> {
        if let Some(home) = self.home.take_if(|home| std::ptr::eq(&**home, parent) && *self.name == *name) {
            let in_upper = self.has_home_in_upper();
            return Some(Place { parent: home, name: self.name.clone(), in_upper });
        }
        let places = &mut self.rare.as_mut()?.places;
        let at = places.iter().position(|place| place.is(parent, name))?;
        Some(places.remove(at))
    }

    /// Upper has the object at all names, or at those that say yes.
    pub fn set_in_upper(&mut self, is: impl Fn(&PlaceRef<'_, L>) -> bool) {
        let in_upper = self.has_home_in_upper();
        let home = self.home.as_ref().map(|parent| PlaceRef { parent, name: &self.name, in_upper });
        if home.is_some_and(|home| !in_upper && is(&home))
            && let Some(rare) = &mut self.rare
        {
            rare.home_not_in_upper = false;
        }
        for place in self.rare.iter_mut().flat_map(|rare| &mut rare.places) {
            place.in_upper |= is(&place.borrow());
        }
    }

    /// Whether it has an upper part.
    pub fn has_upper(&self) -> bool {
        self.parts.upper().is_some()
    }

    /// Its upper part.
    pub fn upper(&self) -> Option<Real<L>> {
        self.parts.upper().map(|object| object.real(&self.name))
    }

    /// Its upper part, for layer operations.
    pub fn upper_at(&self) -> Option<At<'_, L>> {
        self.parts.upper().map(|object| object.at(&self.name))
    }

    /// Its upper part, for layer operations that are carried out on nothing else.
    ///
    /// # Errors
    /// [`OpError::Stale`](crate::OpError::Stale) if there is none.
    pub fn in_upper(&self) -> crate::Result<At<'_, L>> {
        self.upper_at().ok_or(crate::OpError::Stale)
    }

    /// Its upper part, if that is a directory.
    pub fn upper_dir(&self) -> Option<&L::Dir> {
        self.parts.upper()?.dir()
    }

    /// Its upper part is found by a name.
    fn has_named_upper(&self) -> bool {
        matches!(self.parts.upper(), Some(Object::Here { .. } | Object::Named { .. }))
    }

    /// An object in upper that says from which lower object it was copied.
    pub fn has_origin(&self) -> bool {
        self.parts.upper().is_some_and(|object| object.home().flag)
    }

    /// Sets [`has_origin`](Self::has_origin) of what has an upper part.
    pub fn set_origin(&mut self, has_origin: bool) {
        if let Some(real) = self.upper()
            && self.has_origin() != has_origin
        {
            self.parts.replace(true, [Object::upper(real, has_origin, &self.name)]);
        }
    }

    /// Sets its upper part.
    pub fn set_upper(&mut self, real: Real<L>) {
        let object = Object::upper(real, self.has_origin(), &self.name);
        if self.parts.all().len() > usize::from(self.has_upper()) {
            self.parts.replace(true, [object]);
        } else {
            self.parts = Parts::One(object);
        }
    }

    /// Its lower parts, the topmost first: all that a directory merges; of other objects those that are not in upper, which
    /// of a regular file are two if one layer has its attributes and another one its data.
    pub fn lowers(&self) -> impl ExactSizeIterator<Item = Part<'_, L>> + DoubleEndedIterator {
        self.parts.lowers().iter().map(|object| self.part(object))
    }

    fn part<'a>(&'a self, object: &'a Object<L>) -> Part<'a, L> {
        let Home { layer, flag } = object.home();
        Part { layer: layer as usize, xattr_whiteouts: flag, object, name: &self.name }
    }

    /// One of its lower parts, counted from the topmost.
    pub fn nth_lower(&self, index: usize) -> Option<Part<'_, L>> {
        self.parts.lowers().get(index).map(|object| self.part(object))
    }

    /// How many of its lower parts are above that layer.
    pub fn lowers_above(&self, layer: usize) -> usize {
        self.parts.lowers().partition_point(|object| (object.home().layer as usize) < layer)
    }

    /// The topmost lower part.
    pub fn lower(&self) -> Option<Part<'_, L>> {
        self.nth_lower(0)
    }

    /// Whether it has lower parts.
    pub fn has_lowers(&self) -> bool {
        !self.parts.lowers().is_empty()
    }

    /// Sets its lower parts.
    pub fn set_lowers(&mut self, lowers: Vec<Lower<L>>) {
        match <[Lower<L>; 1]>::try_from(lowers) {
            Ok([lower]) if !self.has_upper() => self.parts = Parts::One(Object::lower(lower, &self.name)),
            Ok([lower]) => self.parts.replace(false, [Object::lower(lower, &self.name)]),
            Err(lowers) => {
                let name = &self.name;
                self.parts.replace(false, lowers.into_iter().map(|lower| Object::lower(lower, name)));
            }
        }
    }

    /// Adds a lower part as the last one.
    pub fn add_lower(&mut self, lower: Lower<L>) {
        let mut lowers: Vec<_> = self.lowers().map(|part| part.to_lower()).collect();
        lowers.push(lower);
        self.set_lowers(lowers);
    }

    /// The directory that it was removed from, as long as it is in lower only: where a copy of it would have gone.
    pub fn removed_from(&self) -> Option<&Arc<Node<L>>> {
        self.rare.as_ref()?.removed_from.as_ref()
    }

    /// Where in the data-only layers the data of a regular file is, as long as nobody has needed it.
    pub fn data_path(&self) -> Option<&[Vec<u8>]> {
        self.rare.as_ref()?.data_path.as_deref()
    }

    pub fn set_data_path(&mut self, path: Option<Box<[Vec<u8>]>>) {
        if path.is_some() || self.rare.is_some() {
            self.rare().data_path = path;
        }
    }

    /// The name of its upper part in the index.
    pub fn index(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.index.as_deref()
    }

    pub fn set_index(&mut self, name: Option<Box<[u8]>>) {
        if name.is_some() || self.rare.is_some() {
            self.rare().index = name;
        }
    }

    /// The number of its names, where the real one does not count.
    pub fn links(&self) -> Option<Links> {
        self.rare.as_ref()?.links
    }

    pub fn set_links(&mut self, links: Option<Links>) {
        if links.is_some() || self.rare.is_some() {
            self.rare().links = links;
        }
    }

    /// Where its upper part says that it goes on below.
    pub fn redirect(&self) -> Option<&Redirect> {
        self.rare.as_ref()?.redirect.as_ref()
    }

    pub fn set_redirect(&mut self, redirect: Option<Redirect>) {
        if redirect.is_some() || self.rare.is_some() {
            self.rare().redirect = redirect;
        }
    }

    /// The upper part of a regular file holds attributes only: the data is that of its last lower part.
    pub fn metacopy(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.metacopy)
    }

    pub fn set_metacopy(&mut self, metacopy: bool) {
        if metacopy != self.metacopy() {
            self.rare().metacopy = metacopy;
        }
    }

    /// Append-only and immutable, real or as marked.
    pub fn prot(&self) -> ProtAttr {
        self.rare.as_ref().map_or(ProtAttr::default(), |rare| rare.prot)
    }

    pub fn set_prot(&mut self, prot: ProtAttr) {
        if prot != self.prot() {
            self.rare().prot = prot;
        }
    }

    /// The data of a regular file is in upper: nothing of it below counts any more.
    pub fn leave_lowers(&mut self) {
        self.set_lowers(Vec::new());
        self.set_data_path(None);
    }

    /// Records that the node has lost a name. Its upper object is then found by another name, or held.
    pub fn lose_place(&mut self, parent: &Arc<Node<L>>, name: &[u8], held: Option<Arc<L::File>>) {
        drop(self.remove_place(parent, name));
        if self.place().is_none() && !self.has_upper() {
            self.rare().removed_from = Some(parent.clone());
        }
        if let Some(held) = held {
            self.set_upper(Real::Held(held));
        } else {
            self.follow_place();
        }
    }

    /// Records that a name of the node is another one now, in the upper directory `dir`.
    pub fn move_place(&mut self, parent: &Arc<Node<L>>, name: &[u8], new: Place<L>, dir: L::Dir) {
        drop((self.remove_place(parent, name), self.remove_place(&new.parent, &new.name)));
        if self.index().is_none() && self.has_named_upper() {
            self.set_upper(Real::Named(dir, new.name.clone()));
        }
        self.add_place(new);
    }

    /// Finds the upper object of a non-directory by its first known name.
    pub fn follow_place(&mut self) {
        // What is indexed is found there.
        if self.index().is_some() || !self.has_named_upper() {
            return;
        }
        let Some(place) = self.place() else {
            return;
        };
        // A parent is never locked for writing by whoever holds the state of a child.
        let dir = place.parent.state.read().upper_dir().cloned();
        if let Some(dir) = dir {
            self.set_upper(Real::Named(dir, place.name.into()));
        }
    }

    /// Whether the data of a regular file lies in another layer than its attributes.
    pub fn data_is_apart(&self) -> bool {
        self.metacopy() || self.data_path().is_some() || !self.has_upper() && self.parts.all().len() > 1
    }

    /// How many real directories a directory merges.
    pub fn parts(&self) -> usize {
        self.parts.all().len()
    }
}
