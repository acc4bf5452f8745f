//! Images: a configuration and its layers, and the names they go by.

use crate::error::{Error, Result, Step};
use crate::record;
use crate::root::Store;
use acetate_image::Digest;
use acetate_image::source::diff_ids;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// Its names, sorted.
    pub names: Vec<String>,
    /// When it came here.
    pub added: String,
    /// Where it came from.
    pub source: String,
    /// Its configuration, byte by byte.
    pub config: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<Digest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ImageRecord {
    schema: String,
    added: String,
    source: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct NameRecord {
    schema: String,
    image: Digest,
}

const IMAGE: &str = "acetate-image-1";
const NAME: &str = "acetate-name-1";
/// The file of an image with names that it gets.
const PENDING: &str = "names.json";
/// How short an image's id may be given.
const PREFIX_MIN: usize = 4;

impl Store {
    fn image_dir(&self, id: &Digest) -> PathBuf {
        self.part("images").join(id.hex())
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.part("names").join(record::file_name(name))
    }

    /// Records an image whose layers are all there, and gives it its names.
    ///
    /// # Errors
    /// [`Error::NoLayer`], [`Error::Path`]; [`acetate_image::Error::Document`] if the configuration is none.
    pub fn add_image(&self, config: &[u8], source: &str, names: &[String]) -> Result<Digest> {
        for layer in diff_ids(config)? {
            if self.layer(&layer)?.is_none() {
                return Err(Error::NoLayer(layer));
            }
        }
        let id = Digest::of(config);
        let staging = self.staging()?;
        let at = |name: &str| staging.path().join(name);
        record::write(&at("config.json"), &at(".config"), config)?;
        let image = ImageRecord { schema: IMAGE.into(), added: record::now(), source: source.to_owned() };
        record::write_json(&at("image.json"), &at(".image"), &image)?;
        let names: Result<Vec<String>> = names.iter().map(|name| full_name(name)).collect();
        let names = names?;
        if !names.is_empty() {
            record::write_json(&at(PENDING), &at(".pending"), &names)?;
        }
        // From this moment on it is there, and has its names.
        if staging.publish(&self.image_dir(&id))? {
            self.settle_names()?;
        } else {
            names.iter().try_for_each(|name| self.tag(&id, name))?;
        }
        Ok(id)
    }

    /// The names that images got when they were recorded and that have no records of their own yet.
    fn pending_names(&self) -> Result<Vec<(PathBuf, Digest, Vec<String>)>> {
        let mut found = Vec::new();
        for dir in record::names(&self.part("images"))? {
            let path = self.part("images").join(&dir).join(PENDING);
            if let (Ok(id), Some(names)) = (Digest::from_hex(&dir), record::read_json(&path)?) {
                found.push((path, id, names));
            }
        }
        Ok(found)
    }

    /// Writes the records of pending names, also of those that a killed command has left.
    fn settle_names(&self) -> Result<()> {
        for (path, id, names) in self.pending_names()? {
            for name in names {
                self.write_name(&id, &name)?;
            }
            match fs::remove_file(&path) {
                // Somebody else has settled them too.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.step("remove", &path)?,
            }
        }
        Ok(())
    }

    fn write_name(&self, id: &Digest, name: &str) -> Result<()> {
        let value = NameRecord { schema: NAME.into(), image: *id };
        record::write_json(&self.name_path(name), &self.temporary()?, &value)
    }

    /// Gives an image a name, which another one may lose by that.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::Path`]
    pub fn tag(&self, id: &Digest, name: &str) -> Result<()> {
        let name = full_name(name)?;
        self.settle_names()?;
        self.write_name(id, &name)
    }

    /// Takes a name away; `false` if there is none such.
    ///
    /// # Errors
    /// [`Error::Path`]
    pub fn untag(&self, name: &str) -> Result<bool> {
        self.settle_names()?;
        let path = self.name_path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            other => other.step("remove", &path)?,
        }
        record::sync_parent(&path)?;
        Ok(true)
    }

    /// All names and the images they mean, sorted.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn names(&self) -> Result<Vec<(String, Digest)>> {
        let mut names = BTreeMap::new();
        for file in record::names(&self.part("names"))? {
            let path = self.part("names").join(&file);
            // Removed since it was listed.
            let Some(value) = record::read_json::<NameRecord>(&path)? else { continue };
            let name = record::from_file_name(&file)
                .ok_or_else(|| Error::Record { path, reason: "its name makes no sense".into() })?;
            names.insert(name, value.image);
        }
        for (_, id, pending) in self.pending_names()? {
            names.extend(pending.into_iter().map(|name| (name, id)));
        }
        // A name whose image is gone is left from its removal.
        names.retain(|_, id| self.image_dir(id).exists());
        Ok(names.into_iter().collect())
    }

    /// The image that a record of a name means.
    pub(crate) fn name_of(&self, path: &std::path::Path) -> Result<Digest> {
        let value: Option<NameRecord> = record::read_json(path)?;
        let gone = || Error::Record { path: path.to_owned(), reason: "it is gone".into() };
        value.map(|value| value.image).ok_or_else(gone)
    }

    /// Removes the records of names whose images are gone, which an interrupted removal has left.
    pub(crate) fn drop_dangling_names(&self) -> Result<()> {
        self.settle_names()?;
        for file in record::names(&self.part("names"))? {
            let path = self.part("names").join(file);
            if let Ok(id) = self.name_of(&path)
                && !self.image_dir(&id).exists()
            {
                fs::remove_file(&path).step("remove", &path)?;
            }
        }
        Ok(())
    }

    /// All images, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Record`]
    pub fn images(&self) -> Result<Vec<Image>> {
        let names = self.names()?;
        let ids = record::names(&self.part("images"))?;
        let ids = ids.iter().filter_map(|name| Digest::from_hex(name).ok());
        ids.filter_map(|id| self.load_image(&id, &names).transpose()).collect()
    }

    /// The image of that name or id; the begin of an id is enough if only one begins so, and so is a name without
    /// `:latest`, or without `docker.io/library/`.
    ///
    /// # Errors
    /// [`Error::NoImage`], [`Error::Ambiguous`]; [`Error::Path`], [`Error::Record`].
    pub fn image(&self, wanted: &str) -> Result<Image> {
        let names = self.names()?;
        let id =
            match candidates(wanted).iter().find_map(|name| names.iter().find(|(known, _)| known == name)) {
                Some((_, id)) => *id,
                None => self.by_prefix(wanted)?,
            };
        self.load_image(&id, &names)?.ok_or_else(|| Error::NoImage(wanted.to_owned()))
    }

    fn by_prefix(&self, wanted: &str) -> Result<Digest> {
        let prefix = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let none = || Error::NoImage(wanted.to_owned());
        if prefix.len() < PREFIX_MIN {
            return Err(none());
        }
        let ids = record::names(&self.part("images"))?;
        let ids: Vec<&String> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
        match ids.as_slice() {
            [] => Err(none()),
            [id] => Digest::from_hex(id).map_err(|_| none()),
            several => {
                let found: Vec<&str> = several.iter().map(|id| &id[..12]).collect();
                Err(Error::Ambiguous { prefix: wanted.to_owned(), found: found.join(", ") })
            }
        }
    }

    fn load_image(&self, id: &Digest, names: &[(String, Digest)]) -> Result<Option<Image>> {
        let dir = self.image_dir(id);
        let Some(value) = record::read_json::<ImageRecord>(&dir.join("image.json"))? else { return Ok(None) };
        let path = dir.join("config.json");
        let config = fs::read(&path).step("read", &path)?;
        if Digest::of(&config) != *id {
            return Err(Error::Record {
                path,
                reason: "its content has another digest than its name".into(),
            });
        }
        let names = names.iter().filter(|(_, image)| image == id).map(|(name, _)| name.clone()).collect();
        let layers = diff_ids(&config)?;
        Ok(Some(Image { id: *id, names, added: value.added, source: value.source, config, layers }))
    }

    /// Removes an image with its names. Layers that nothing else needs are freed by [`Store::gc`].
    ///
    /// # Errors
    /// [`Error::InUse`] while workspaces stand on it.
    pub fn remove_image(&self, image: &Image) -> Result<()> {
        let users: Vec<String> = self
            .workspaces()?
            .into_iter()
            .filter(|workspace| workspace.image() == Some(image.id))
            .map(|workspace| format!("workspace {}", workspace.name))
            .collect();
        if !users.is_empty() {
            let name = image.names.first().cloned().unwrap_or_else(|| image.id.short());
            return Err(Error::InUse { image: name, users: users.join(", ") });
        }
        self.settle_names()?;
        // From this moment on it is gone; names that lead nowhere are none.
        self.discard(&self.image_dir(&image.id))?;
        image.names.iter().try_for_each(|name| self.untag(name).map(drop))
    }
}

/// A name with its tag: `latest` unless it says another.
///
/// # Errors
/// [`Error::BadName`]
pub fn full_name(name: &str) -> Result<String> {
    let bad = |reason| Err(Error::BadName { name: name.to_owned(), what: "an image", reason });
    if name.is_empty() || name.len() > 255 {
        return bad("it has to have 1 to 255 bytes");
    }
    if name.contains('@') {
        return bad("it names a digest");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:[]".contains(&byte);
    if !name.bytes().all(allowed) || name.starts_with(['/', '-', ':']) || name.ends_with(['/', ':']) {
        return bad("letters, digits and ._-/ make a name, a tag may follow behind a colon");
    }
    let last = name.rsplit('/').next().unwrap_or(name);
    Ok(if last.contains(':') { name.to_owned() } else { format!("{name}:latest") })
}

/// What may be meant by a name, the likeliest first.
fn candidates(wanted: &str) -> Vec<String> {
    let Ok(full) = full_name(wanted) else { return Vec::new() };
    let mut names = vec![full.clone(), format!("localhost/{full}"), format!("docker.io/{full}")];
    if !full.contains('/') {
        names.push(format!("docker.io/library/{full}"));
    }
    names
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_get_a_tag() {
        assert_eq!(full_name("debian").unwrap(), "debian:latest");
        assert_eq!(full_name("localhost:5000/a/b").unwrap(), "localhost:5000/a/b:latest");
        assert_eq!(full_name("[::1]:5000/a:1.0").unwrap(), "[::1]:5000/a:1.0");
        for bad in ["", "a b", "a@sha256:0", "/a", "a/", "a:", "-a", &"a".repeat(256)] {
            assert!(full_name(bad).is_err(), "{bad}");
        }
    }
}
