//! What a path is in every layer of a stack.

use std::fmt;

use acetate_layer::dir::{Dir, DirLayer};
use acetate_layer::mark::{Opaque, Redirect};
use acetate_layer::work::WhiteoutForm;
use acetate_layer::{At, Kind, Stat};

/// A path of a stack: what each layer holds there, and whether that is seen.
#[derive(Clone, Debug)]
pub struct Node {
    /// One for each layer of the view, the topmost first, and one for a data-only layer that has the file's data.
    pub seen: Vec<Seen>,
    /// A mark that leads nowhere: a mount fails to look the path up, or does not show what was meant.
    pub problem: Option<Problem>,
}

/// What one layer holds.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its number in the stack, 0 for the topmost.
    pub layer: usize,
    /// Where it was looked for in the layer; a redirect above makes this another path than that of the node.
    pub path: Vec<u8>,
    /// What is there.
    pub what: What,
    /// Why it does not count; absent things can be hidden, too.
    pub hidden: Option<Hidden>,
}

/// An entry of a layer.
#[derive(Clone, Debug)]
pub enum What {
    /// There is none.
    Absent,
    /// It says that there is none, whatever lies below.
    Whiteout(WhiteoutForm),
    /// A file, directory or other object.
    Object(Object),
}

/// An object of a layer.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its attributes.
    pub stat: Stat,
    /// What its opaque mark says, if it is a directory.
    pub opaque: Opaque,
    /// The value of its redirect mark, if it is a directory, or a file with the metacopy mark.
    pub redirect: Option<Vec<u8>>,
    /// Its data is below.
    pub metacopy: bool,
    pub(crate) place: Place,
}

/// Where an object is in its layer.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Dir(Dir),
    Named(Dir, Vec<u8>),
}

impl What {
    /// The object, if it is one.
    pub fn object(&self) -> Option<&Object> {
        match self {
            What::Object(object) => Some(object),
            What::Absent | What::Whiteout(_) => None,
        }
    }
}

impl Object {
    /// The object in calls to its layer.
    pub(crate) fn at(&self) -> At<'_, DirLayer> {
        match &self.place {
            Place::Dir(dir) => At::Dir(dir),
            Place::Named(dir, name) => At::Name(dir, name),
        }
    }

    /// The object as a directory.
    pub(crate) fn dir(&self) -> Option<&Dir> {
        match &self.place {
            Place::Dir(dir) => Some(dir),
            Place::Named(..) => None,
        }
    }

    /// The redirect, if there is one that can be followed.
    pub fn follows(&self) -> Option<Redirect> {
        let redirect = Redirect::parse(self.redirect.as_deref()?).ok()?;
        (!redirect.has_dots()).then_some(redirect)
    }

    /// Identifies it on this machine.
    pub fn id(&self) -> (u64, u64) {
        (self.stat.dev, self.stat.ino)
    }
}

/// What hides a layer's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The layer that hides it.
    pub by: usize,
    /// The path in that layer.
    pub path: Vec<u8>,
    /// How.
    pub how: How,
}

/// How an entry hides those below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A whiteout at the path or above it.
    Whiteout,
    /// An opaque directory at the path or above it.
    Opaque,
    /// An object that merges with nothing: no directory, or a directory over something else.
    Object,
}

/// A mark that leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Its value is none that an overlay writes (`EINVAL`), or has dot components (`EACCES`).
    BadRedirect,
    /// The mount does not follow redirects and metacopy marks (`EPERM`).
    Refused,
    /// The data of a metacopy file is nowhere (`EIO`).
    NoData,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRedirect => "its redirect is malformed",
            Self::Refused => "its redirect or metacopy mark is not followed with user.overlay.* marks",
            Self::NoData => "its data is in a lower layer (metacopy) and not found there",
        })
    }
}

impl Node {
    /// The parts that make up what is shown: the winner, then the directories that merge with it, or the files that its
    /// data is looked for in.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &Object)> {
        self.seen.iter().filter_map(|seen| match &seen.what {
            What::Object(object) if seen.hidden.is_none() => Some((seen.layer, object)),
            _ => None,
        })
    }

    /// What gives the path its attributes; `None` if nothing is shown.
    pub fn winner(&self) -> Option<(usize, &Object)> {
        self.parts().next()
    }

    /// The type of what is shown.
    pub fn kind(&self) -> Option<Kind> {
        self.winner().map(|(_, object)| object.stat.kind)
    }

    /// Whether a directory is shown.
    pub fn is_dir(&self) -> bool {
        self.kind() == Some(Kind::Dir)
    }

    /// What layer `number` holds, seen or not.
    pub fn at(&self, number: usize) -> Option<&Seen> {
        self.seen.iter().find(|seen| seen.layer == number)
    }

    /// What layer `number` adds to what is shown.
    pub fn part(&self, number: usize) -> Option<&Object> {
        self.parts().find(|(layer, _)| *layer == number).map(|(_, object)| object)
    }

    /// The file that holds the data: the winner, or the last of a chain of metacopy files.
    pub fn data(&self) -> Option<(usize, &Object)> {
        self.parts().find(|(_, object)| object.stat.kind == Kind::File && !object.metacopy)
    }

    /// The parts of layers from `top` on, as what they are on this machine.
    pub(crate) fn ids_from(&self, top: usize) -> Vec<(usize, (u64, u64))> {
        self.parts().filter(|(layer, _)| *layer >= top).map(|(layer, object)| (layer, object.id())).collect()
    }
}
