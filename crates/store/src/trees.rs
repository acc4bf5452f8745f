//! Trees of workspaces, for the drivers that need one: btrfs, reflink and copy.

use crate::driver::btrfs::{self, Pressure};
use crate::driver::tree::{self, How};
use crate::driver::{DriverName, probe};
use crate::error::{Error, Result};
use crate::record;
use crate::root::Store;
use crate::workspaces::{Own, Part, chain_id};
use std::path::{Path, PathBuf};

impl Store {
    /// Whether a workspace of these parts can be made with a driver here.
    pub(crate) fn check_driver(&self, driver: DriverName, lowers: &[Part]) -> Result<()> {
        let verdict = probe(self.root())?.into_iter().find(|verdict| verdict.driver == driver);
        if let Some(verdict) = verdict.filter(|verdict| !verdict.works) {
            return Err(Error::Driver { driver, reason: format!("it does not work here: {}", verdict.why) });
        }
        let overlay = matches!(driver, DriverName::Kernel | DriverName::Fuse);
        if !overlay && lowers.iter().any(|part| !matches!(part, Part::Layer(_))) {
            let reason = "it makes workspaces of images only; take the driver kernel or fuse".to_owned();
            return Err(Error::Driver { driver, reason });
        }
        Ok(())
    }

    /// How much room the filesystem's metadata has, on btrfs: workspaces fail first where that ends.
    ///
    /// # Errors
    /// [`Error::Drivers`]
    pub fn pressure(&self) -> Result<Option<Pressure>> {
        if !btrfs::is_btrfs(self.root())? {
            return Ok(None);
        }
        Ok(Some(btrfs::pressure(self.root())?))
    }

    /// Makes the tree of a new workspace of these layers, topmost first.
    pub(crate) fn make_tree(&self, driver: DriverName, lowers: &[Part]) -> Result<Own> {
        let id = record::random_name()?;
        let target = self.part("trees").join(&id);
        let layers: Vec<_> = lowers
            .iter()
            .filter_map(|part| if let Part::Layer(id) = part { Some(*id) } else { None })
            .collect();
        let dirs: Vec<PathBuf> = layers.iter().map(|layer| self.layer_tree(layer)).collect();
        if driver == DriverName::Btrfs {
            let chain = self.chain(&layers)?;
            btrfs::snapshot(&chain, &target, false)?;
            return Ok(Own::Tree(id));
        }
        let how = if driver == DriverName::Reflink { How::Clone } else { How::Copy };
        let dialect = self.options().dialect;
        self.publish_tree(&target, |path| tree::flatten(&dirs, path, dialect, how).map(drop))?;
        Ok(Own::Tree(id))
    }

    /// Makes a copy of a workspace's tree.
    pub(crate) fn copy_tree(&self, driver: DriverName, from: &str) -> Result<Own> {
        let id = record::random_name()?;
        let (from, target) = (self.part("trees").join(from), self.part("trees").join(&id));
        match driver {
            DriverName::Btrfs => btrfs::snapshot(&from, &target, false)?,
            _ => {
                let how = if driver == DriverName::Reflink { How::Clone } else { How::Copy };
                self.publish_tree(&target, |path| tree::clone_tree(&from, path, how).map(drop))?;
            }
        }
        Ok(Own::Tree(id))
    }

    /// Makes a tree in the staging directory, then gives it its name.
    fn publish_tree(
        &self,
        target: &Path,
        make: impl FnOnce(&Path) -> std::result::Result<(), tree::TreeError>,
    ) -> Result<()> {
        let staging = self.staging()?;
        let path = staging.path().join("tree");
        make(&path)?;
        crate::root::rename(&path, target)
    }

    /// The read-only subvolume with the tree of these layers, topmost first; made of the one without the topmost, and
    /// kept for other images.
    fn chain(&self, layers: &[acetate_image::Digest]) -> Result<PathBuf> {
        let path =
            |layers: &[acetate_image::Digest]| self.part("trees").join(format!("chain-{}", chain_id(layers)));
        let target = path(layers);
        let mut have = 0;
        while have < layers.len() && !path(&layers[have..]).exists() {
            have += 1;
        }
        if have == 0 && target.exists() {
            return Ok(target);
        }
        let staging = self.staging()?;
        let tree = staging.path().join("tree");
        match path(&layers[have..]) {
            below if have < layers.len() => btrfs::snapshot(&below, &tree, false)?,
            _ => btrfs::create(&tree)?,
        }
        for at in (0..have).rev() {
            tree::apply(&self.layer_tree(&layers[at]), &tree, self.options().dialect, How::Clone)?;
            let chain = path(&layers[at..]);
            match btrfs::snapshot(&tree, &chain, true) {
                // Somebody was faster.
                Err(btrfs::BtrfsError::Exists(_)) => {}
                other => other?,
            }
        }
        Ok(target)
    }
}
