//! Directories that an archive has no entries for.

use crate::error::{Result, Step};
use crate::root::Store;
use acetate_image::Digest;
use acetate_layer::dir::DirLayer;
use acetate_layer::{At, Errno, Kind, Layer as _, SetTime, Stat, UpperLayer};

impl Store {
    /// Gives directories that a layer's archive has no entries for the owner, mode and times of the directories below:
    /// in an overlay the topmost directory's count, and the archive says nothing of them. Extended attributes are not
    /// copied. `layers` are an image's, the lowest first.
    ///
    /// A layer that several images have on different layers gets what the last of them has below.
    pub(crate) fn settle(&self, layers: &[Digest]) -> Result<()> {
        for (at, id) in layers.iter().enumerate() {
            let Some(layer) = self.layer(id)? else { continue };
            if layer.totals.implicit.is_empty() {
                continue;
            }
            let path = self.layer_tree(id);
            let upper = DirLayer::open_upper(&path).step("open", &path)?;
            for dir in &layer.totals.implicit {
                for below in layers[..at].iter().rev() {
                    let path = self.layer_tree(below);
                    let lower = DirLayer::open_lower(&path).step("open", &path)?;
                    let Some((_, stat)) = find(&lower, dir).step("look into", &path)? else { continue };
                    if let (Kind::Dir, Some((target, _))) =
                        (stat.kind, find(&upper, dir).step("look into", &path)?)
                    {
                        let at = At::Dir(&target);
                        upper
                            .set_owner(at, Some(stat.uid), Some(stat.gid))
                            .and_then(|()| upper.set_mode(at, stat.mode))
                            .and_then(|()| {
                                upper.set_times(at, SetTime::To(stat.atime), SetTime::To(stat.mtime))
                            })
                            .step("set the attributes of a directory in", self.layer_tree(id))?;
                    }
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The directory at a path; `None` if the layer says nothing of it. A non-directory's `Dir` is its parent.
fn find(layer: &DirLayer, path: &[u8]) -> acetate_layer::Result<Option<(acetate_layer::dir::Dir, Stat)>> {
    let mut dir = layer.root().clone();
    for name in path.split(|byte| *byte == b'/') {
        let stat = match layer.stat(At::Name(&dir, name)) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        if stat.kind != Kind::Dir {
            return Ok(Some((dir, stat)));
        }
        dir = layer.open_dir(&dir, name)?;
    }
    let stat = layer.stat(At::Dir(&dir))?;
    Ok(Some((dir, stat)))
}
