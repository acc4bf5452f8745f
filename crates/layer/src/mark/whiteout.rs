//! Whiteouts as far as attributes tell.

use crate::{Kind, Rdev, Stat};

/// Whether the object is a whiteout in its device form: a character device 0:0, whatever its mode.
pub fn is_device_whiteout(stat: &Stat) -> bool {
    stat.kind == Kind::CharDevice && stat.rdev == Rdev { major: 0, minor: 0 }
}

/// Whether the object is a whiteout if it carries [`Mark::Whiteout`](super::Mark::Whiteout): an empty regular file.
pub fn may_be_xattr_whiteout(stat: &Stat) -> bool {
    stat.kind == Kind::File && stat.size == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;

    fn stat(kind: Kind, rdev: Rdev, size: u64) -> Stat {
        Stat {
            kind,
            mode: 0,
            ino: 1,
            dev: 1,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev,
            size,
            blocks: 0,
            blksize: 4096,
            atime: Time::default(),
            mtime: Time::default(),
            ctime: Time::default(),
            btime: None,
            immutable: false,
            append_only: false,
        }
    }

    #[test]
    fn only_char_zero_zero_is_a_device_whiteout() {
        let zero = Rdev::default();
        let null = Rdev { major: 1, minor: 3 };
        assert!(is_device_whiteout(&stat(Kind::CharDevice, zero, 0)));
        assert!(!is_device_whiteout(&stat(Kind::CharDevice, null, 0)));
        assert!(!is_device_whiteout(&stat(Kind::BlockDevice, zero, 0)));
        assert!(!is_device_whiteout(&stat(Kind::File, zero, 0)));
    }

    #[test]
    fn only_empty_files_can_be_xattr_whiteouts() {
        let zero = Rdev::default();
        assert!(may_be_xattr_whiteout(&stat(Kind::File, zero, 0)));
        assert!(!may_be_xattr_whiteout(&stat(Kind::File, zero, 1)));
        assert!(!may_be_xattr_whiteout(&stat(Kind::Fifo, zero, 0)));
    }
}
