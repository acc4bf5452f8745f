//! Whether a store is whole, and how it is mended.
//!
//! A repair destroys nothing: what is damaged moves to `damaged/`, where people can look at it. Only names that mean
//! nothing, and rubbish that [`Store::gc`] removes as well, are deleted.

use crate::error::{Error, Result, Step};
use crate::images::Image;
use crate::record;
use crate::root::{PARTS, Store, rename};
use acetate_image::{Digest, Hashing};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Records, and whether all that they name is there.
    Quick,
    /// Also every byte of every layer, against its digest.
    Full,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A word for programs: `layer-damaged`, `image-incomplete`, …
    pub kind: &'static str,
    /// Which object.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// What a repair does about it; nothing if only people can.
    pub repair: Option<String>,
    /// It has been done.
    pub repaired: bool,
}

/// What a repair does.
enum Act {
    /// Moves it to `damaged/`.
    MoveAway(PathBuf),
    /// Removes a name.
    Untag(String),
    /// Makes a directory.
    MakeDir(PathBuf),
    /// Lets the garbage collector remove it.
    Collect,
    /// Nothing.
    Nothing,
}

struct Finding {
    problem: Problem,
    act: Act,
}

impl Store {
    /// Looks for what is wrong, and with `repair` mends it. `layer` is called before each layer that is read whole.
    ///
    /// # Errors
    /// [`Error::Busy`] while somebody works on the store; [`Error::Path`].
    pub fn check(&self, depth: Depth, repair: bool, layer: &mut dyn FnMut(&Digest)) -> Result<Vec<Problem>> {
        let lock = self.exclusive()?;
        let mut findings = Vec::new();
        self.check_parts(&mut findings);
        let sound = self.check_layers(depth, &mut findings, layer)?;
        self.check_images(&sound, &mut findings)?;
        self.check_workspaces(&sound, &mut findings)?;
        self.check_rubbish(&mut findings)?;
        let mut collect = false;
        let mut problems = Vec::new();
        for Finding { mut problem, act } in findings {
            if repair {
                problem.repaired = match act {
                    Act::MoveAway(path) => {
                        let target = self.part("damaged").join(record::random_name()?);
                        fs::create_dir_all(self.part("damaged")).step("make", self.part("damaged"))?;
                        rename(&path, &target)?;
                        true
                    }
                    Act::Untag(name) => self.untag(&name)?,
                    Act::MakeDir(path) => fs::create_dir_all(&path).step("make", &path).map(|()| true)?,
                    Act::Collect => {
                        collect = true;
                        true
                    }
                    Act::Nothing => false,
                };
            }
            problems.push(problem);
        }
        drop(lock);
        if collect {
            self.gc(false)?;
        }
        Ok(problems)
    }

    fn check_parts(&self, findings: &mut Vec<Finding>) {
        for part in PARTS {
            let path = self.part(part);
            if !path.is_dir() {
                let act = Act::MakeDir(path);
                findings.push(finding(
                    "part-missing",
                    part,
                    "the directory is missing".into(),
                    "make it anew",
                    act,
                ));
            }
        }
    }

    /// Returns the layers that can be used.
    fn check_layers(
        &self,
        depth: Depth,
        findings: &mut Vec<Finding>,
        tell: &mut dyn FnMut(&Digest),
    ) -> Result<BTreeSet<Digest>> {
        let mut sound = BTreeSet::new();
        let names =
            if self.part("layers").is_dir() { record::names(&self.part("layers"))? } else { Vec::new() };
        for name in names {
            let path = self.part("layers").join(&name);
            let Ok(id) = Digest::from_hex(&name) else {
                let what = "its name is no digest".to_owned();
                findings.push(finding(
                    "layer-damaged",
                    &name,
                    what,
                    "move it to damaged/",
                    Act::MoveAway(path),
                ));
                continue;
            };
            let wrong = match self.layer(&id) {
                Ok(Some(layer)) if layer.diff_id != id => Some("its record names another layer".to_owned()),
                Ok(Some(_)) => {
                    let missing =
                        ["diff", "replaced", "split"].into_iter().find(|part| !path.join(part).exists());
                    missing.map(|part| format!("{part} is missing"))
                }
                Ok(None) => Some("its record is missing".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            let wrong = match (wrong, depth) {
                (None, Depth::Full) => {
                    tell(&id);
                    self.read_whole(&id)?
                }
                (wrong, _) => wrong,
            };
            match wrong {
                None => drop(sound.insert(id)),
                Some(what) => findings.push(finding(
                    "layer-damaged",
                    &id.to_string(),
                    what,
                    "move it to damaged/; then import or pull the image again",
                    Act::MoveAway(path),
                )),
            }
        }
        Ok(sound)
    }

    /// Reads a layer's archive; says what is wrong with it.
    fn read_whole(&self, id: &Digest) -> Result<Option<String>> {
        let mut sink = Hashing::new(io::sink());
        match self.write_layer(id, &mut sink) {
            Err(error @ Error::Path { .. }) => Err(error),
            Err(error) => Ok(Some(error.to_string())),
            Ok(()) => {
                let (_, found, _) = sink.finish();
                Ok((found != *id).then(|| format!("its content has the digest {found}")))
            }
        }
    }

    fn check_images(&self, sound: &BTreeSet<Digest>, findings: &mut Vec<Finding>) -> Result<()> {
        let mut images: BTreeSet<Digest> = BTreeSet::new();
        for name in list(self.part("images"))? {
            let path = self.part("images").join(&name);
            let loaded: Result<Image> = self.image(&name);
            match loaded {
                Err(error) => {
                    let act = Act::MoveAway(path);
                    findings.push(finding(
                        "image-damaged",
                        &name,
                        error.to_string(),
                        "move it to damaged/",
                        act,
                    ));
                }
                Ok(image) => {
                    images.insert(image.id);
                    for layer in image.layers.iter().filter(|layer| !sound.contains(*layer)) {
                        let what = format!("layer {layer} is missing or damaged");
                        let advice = "import or pull it again";
                        let object = image.names.first().cloned().unwrap_or_else(|| image.id.to_string());
                        findings.push(finding_for_people("image-incomplete", &object, what, advice));
                    }
                }
            }
        }
        for file in list(self.part("names"))? {
            let path = self.part("names").join(&file);
            let name = record::from_file_name(&file);
            match (name, self.name_of(&path)) {
                (Some(name), Ok(image)) if images.contains(&image) => drop(name),
                (Some(name), Ok(image)) => {
                    let what = format!("image {image} is not there");
                    let act = Act::Untag(name.clone());
                    findings.push(finding("leftover", &format!("name {name}"), what, "take it away", act));
                }
                (_, Err(error)) => {
                    let act = Act::MoveAway(path);
                    findings.push(finding(
                        "name-damaged",
                        &file,
                        error.to_string(),
                        "move it to damaged/",
                        act,
                    ));
                }
                (None, Ok(_)) => {
                    let what = "it makes no sense".to_owned();
                    findings.push(finding(
                        "name-damaged",
                        &file,
                        what,
                        "move it to damaged/",
                        Act::MoveAway(path),
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_workspaces(&self, sound: &BTreeSet<Digest>, findings: &mut Vec<Finding>) -> Result<()> {
        for file in list(self.part("workspaces"))? {
            let path = self.part("workspaces").join(&file);
            let name = record::from_file_name(&file).unwrap_or_else(|| file.clone());
            let workspace = match self.workspace(&name) {
                Ok(workspace) => workspace,
                Err(error) => {
                    let act = Act::MoveAway(path);
                    findings.push(finding(
                        "workspace-damaged",
                        &name,
                        error.to_string(),
                        "move it to damaged/",
                        act,
                    ));
                    continue;
                }
            };
            for layer in workspace.layers().iter().filter(|layer| !sound.contains(*layer)) {
                let what = format!("layer {layer} is missing or damaged");
                let advice = "import or pull its image again";
                findings.push(finding_for_people("workspace-incomplete", &name, what, advice));
            }
            let own = self.own_dir(&workspace);
            let dirs = self.lower_dirs(&workspace).into_iter().chain([own]);
            for dir in dirs.filter(|dir| !dir.is_dir() && !dir.starts_with(self.part("layers"))) {
                let what = format!("{} is missing", dir.display());
                let advice = "what was in it is lost; remove the workspace";
                findings.push(finding_for_people("workspace-incomplete", &name, what, advice));
            }
        }
        Ok(())
    }

    /// What a command that was killed has left.
    fn check_rubbish(&self, findings: &mut Vec<Finding>) -> Result<()> {
        for part in ["staging", "trash"] {
            for name in list(self.part(part))? {
                let what = "a command that did not end has left it".to_owned();
                findings.push(finding(
                    "leftover",
                    &format!("{part}/{name}"),
                    what,
                    "remove it",
                    Act::Collect,
                ));
            }
        }
        Ok(())
    }
}

/// The names in a directory; none if it is missing, which is a problem of its own.
fn list(dir: PathBuf) -> Result<Vec<String>> {
    if dir.is_dir() { record::names(&dir) } else { Ok(Vec::new()) }
}

fn finding(kind: &'static str, object: &str, what: String, repair: &str, act: Act) -> Finding {
    let repair = Some(repair.to_owned());
    Finding { problem: Problem { kind, object: object.to_owned(), what, repair, repaired: false }, act }
}

fn finding_for_people(kind: &'static str, object: &str, what: String, advice: &str) -> Finding {
    let what = format!("{what}; {advice}");
    let problem = Problem { kind, object: object.to_owned(), what, repair: None, repaired: false };
    Finding { problem, act: Act::Nothing }
}
