//! The handshake: what the kernel offers, what this server takes of it, and what is in force then.

use crate::wire::input::{InitIn, SetXattrForm};
use crate::wire::output::Reply;
use crate::wire::{MAJOR, MINOR, OLDEST_MINOR};
use acetate_overlay::TRANSPORT_WORDS;
use std::fmt;

/// Flag of the first word: there is a second word (`FUSE_INIT_EXT`).
pub(crate) const INIT_EXT: u32 = 1 << 30;

/// The largest request or reply body in bytes without [`Feature::MaxPages`]: 32 pages.
const MAX_IO_WITHOUT_PAGES: u32 = 128 * 1024;
/// How many filesystems may lie above those whose files are lent, ours included: layers must not be stacked themselves,
/// while other overlays can still be stacked on this mount.
const STACK_DEPTH: u32 = 1;
/// The unit of `init_out.max_pages` in bytes. Larger pages only make the limit larger, which `max_write` bounds.
const PAGE: u32 = 4096;

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        /// What a kernel may offer and this server takes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Feature {
            $($(#[$doc])* $name,)*
        }

        impl Feature {
            /// All of them.
            pub const ALL: &[Feature] = &[$(Feature::$name,)*];

            /// The flag of the handshake.
            fn flag(self) -> u64 {
                match self {
                    $(Feature::$name => 1 << $bit,)*
                }
            }
        }

        impl fmt::Display for Feature {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Feature::$name => $text,)*
                })
            }
        }
    };
}

// Not taken though this server could: POSIX_LOCKS and FLOCK_LOCKS (the kernel keeps locks itself), EXPORT_SUPPORT (overlayfs exports nothing by default either).
features! {
    /// Several reads of a file at once.
    AsyncRead = 0, "async_read";
    /// `O_TRUNC` arrives with the open.
    AtomicTruncate = 3, "atomic_o_trunc";
    /// Writes of more than a page.
    BigWrites = 5, "big_writes";
    /// The umask is applied here: not at all where the directory has a default ACL.
    DontMask = 6, "dont_mask";
    /// Cached pages go when a file's size or time is another one. Only where layers change behind the mount; there
    /// [`Feature::ExplicitInvalData`] and [`Feature::NoOpenDirSupport`] are not taken.
    AutoInvalData = 12, "auto_inval_data";
    /// Listings carry attributes: those that are wanted (`readers.rs`), not those that `READDIRPLUS_AUTO` asks for.
    ReadDirPlus = 13, "readdirplus";
    /// Several direct requests of a file at once.
    AsyncDirectIo = 15, "async_dio";
    /// Files are opened and closed without requests, once one was answered with `ENOSYS` (`opens.rs`).
    NoOpenSupport = 17, "no_open_support";
    /// Lookups and listings of a directory at once.
    ParallelDirOps = 18, "parallel_dirops";
    /// Access control lists, which the kernel checks.
    PosixAcl = 20, "posix_acl";
    /// An aborted connection can be told from an unmounted one.
    AbortError = 21, "abort_error";
    /// Requests of up to 1 MiB.
    MaxPages = 22, "max_pages";
    /// Targets of symlinks are kept by the kernel.
    CacheSymlinks = 23, "cache_symlinks";
    /// Directories are opened and closed without requests, once one was answered with `ENOSYS`.
    NoOpenDirSupport = 24, "no_opendir_support";
    /// Cached pages stay until told otherwise.
    ExplicitInvalData = 25, "explicit_inval_data";
    /// Set-id bits are taken away here, when the kernel says so.
    HandleKillPrivV2 = 28, "handle_killpriv_v2";
    /// Setting an attribute says whether the set-group-id bit goes.
    SetXattrExt = 29, "setxattr_ext";
    /// Reads and writes of files that the kernel was lent are its own.
    Passthrough = 37, "passthrough";
    /// No file handles to open by, as overlayfs by default (`nfs_export=off`).
    NoExportSupport = 38, "no_export_support";
    /// What was read and not answered comes again on request, marked as such.
    Resend = 39, "has_resend";
}

/// What kernel and server have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The protocol's minor version (the major one is 7).
    pub minor: u32,
    flags: u64,
    /// What this server wanted and the kernel did not offer.
    refused: u64,
    /// The most bytes that one write brings and one read asks for.
    pub max_write: u32,
    /// The most requests that nobody waits for (readahead, release) at a time.
    pub max_background: u16,
}

impl InForce {
    /// Whether a feature is in force.
    pub fn has(&self, feature: Feature) -> bool {
        self.flags & feature.flag() != 0
    }

    /// The features that are in force.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(|feature| self.has(*feature))
    }

    /// The features that this server would use and the kernel does not have.
    pub fn missing(&self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(|feature| self.refused & feature.flag() != 0)
    }

    /// For [`InForce::from_words`], in the next server of the same mount.
    pub(crate) fn to_words(self) -> [u64; TRANSPORT_WORDS] {
        let Self { minor, flags, refused, max_write, max_background } = self;
        [1, minor.into(), flags, max_write.into(), max_background.into(), refused, 0, 0]
    }

    /// What an earlier server has agreed on; `None` if that is not known.
    pub(crate) fn from_words(words: [u64; TRANSPORT_WORDS]) -> Option<InForce> {
        let [1, minor, flags, max_write, max_background, refused, 0, 0] = words else {
            return None;
        };
        let (minor, max_write) = (minor.try_into().ok()?, max_write.try_into().ok()?);
        let max_background = max_background.try_into().ok()?;
        Some(InForce { minor, flags, refused, max_write, max_background })
    }

    /// How requests to set an attribute are laid out.
    pub(crate) fn setxattr_form(&self) -> SetXattrForm {
        if self.has(Feature::SetXattrExt) { SetXattrForm::Extended } else { SetXattrForm::Short }
    }
}

/// What a server answers to an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// They agree.
    Agreed(InForce),
    /// The kernel speaks a newer major version; told ours, it offers again.
    OfferAgain,
    /// The kernel is too old.
    TooOld,
}

/// What changes of the files that a mount shows the kernel has to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Those that it makes, and is told of.
    Known,
    /// Others too: layers change behind the mount.
    Unknown,
}

impl Changes {
    /// Whether a feature is of use.
    fn want(self, feature: Feature) -> bool {
        let only_unknown = feature == Feature::AutoInvalData;
        let only_known = matches!(feature, Feature::ExplicitInvalData | Feature::NoOpenDirSupport);
        match self {
            Changes::Known => !only_unknown,
            Changes::Unknown => !only_known,
        }
    }
}

/// Answers an offer; `max_write` and `max_background` are the most that the server wants.
pub(crate) fn negotiate(offer: &InitIn, max_write: u32, max_background: u16, changes: Changes) -> Answer {
    if offer.major > MAJOR {
        return Answer::OfferAgain;
    }
    if offer.major < MAJOR || offer.minor < OLDEST_MINOR {
        return Answer::TooOld;
    }
    let wanted = Feature::ALL.iter().filter(|feature| changes.want(**feature));
    let wanted = wanted.fold(0, |flags, feature| flags | feature.flag());
    let flags = wanted & offer.flags;
    let in_force = InForce {
        minor: offer.minor.min(MINOR),
        flags,
        refused: wanted & !offer.flags,
        max_write: max_write.max(PAGE),
        max_background,
    };
    let has_pages = in_force.has(Feature::MaxPages);
    let most = if has_pages { in_force.max_write } else { in_force.max_write.min(MAX_IO_WITHOUT_PAGES) };
    Answer::Agreed(InForce { max_write: most, ..in_force })
}

/// Writes `struct fuse_init_out`.
pub(crate) fn put_init_out(reply: &mut Reply, in_force: &InForce) {
    // The second word counts only if the first one says that it is there.
    let flags = in_force.flags | u64::from(INIT_EXT);
    reply.u32(MAJOR);
    reply.u32(in_force.minor);
    // As far ahead as one read reaches. The kernel takes less if the mount is set to less, and the offer is what it was set
    // to when it was mounted.
    reply.u32(in_force.max_write);
    reply.u32(flags as u32);
    reply.u16(in_force.max_background);
    // From this many on, the kernel counts itself as congested.
    reply.u16(in_force.max_background / 4 * 3);
    reply.u32(in_force.max_write);
    // Times are stored to the nanosecond.
    reply.u32(1);
    reply.u16(u16::try_from(in_force.max_write.div_ceil(PAGE)).unwrap_or(u16::MAX));
    reply.u16(0);
    reply.u32((flags >> 32) as u32);
    reply.u32(STACK_DEPTH);
    reply.zeros(24);
}

/// Writes the reply that asks for an offer in our major version.
pub(crate) fn put_offer_again(reply: &mut Reply) {
    reply.u32(MAJOR);
    reply.u32(MINOR);
    reply.zeros(56);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn offer(minor: u32, flags: u64) -> InitIn {
        InitIn { major: MAJOR, minor, max_readahead: 131_072, flags }
    }

    fn agreed(answer: Answer) -> InForce {
        let Answer::Agreed(in_force) = answer else { panic!("{answer:?}") };
        in_force
    }

    #[test]
    fn only_what_is_offered_is_taken() {
        let some = Feature::PosixAcl.flag() | Feature::NoExportSupport.flag();
        // The writeback cache is offered too, but nobody wants it.
        let in_force = agreed(negotiate(&offer(31, some | 1 << 16), 1 << 20, 64, Changes::Known));
        assert_eq!(in_force.features().collect::<Vec<_>>(), [Feature::PosixAcl, Feature::NoExportSupport]);
        assert_eq!((in_force.minor, in_force.max_write), (31, MAX_IO_WITHOUT_PAGES));
    }

    #[test]
    fn everything_is_taken_of_a_newer_kernel() {
        let in_force = agreed(negotiate(&offer(99, u64::MAX), 1 << 20, 64, Changes::Known));
        assert_eq!(in_force.features().collect::<Vec<_>>(), wanted(Changes::Known));
        assert_eq!((in_force.minor, in_force.max_write), (MINOR, 1 << 20));
        assert_eq!(InForce::from_words(in_force.to_words()), Some(in_force));
        assert_eq!(InForce::from_words([0; TRANSPORT_WORDS]), None);
        let mut reply = Reply::with_room(256);
        put_init_out(&mut reply, &in_force);
        let bytes = reply.finish(1, 0);
        assert_eq!(bytes.len(), 16 + 64);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        // The numbers of linux/fuse.h.
        let expected_low: u32 = [0, 3, 5, 6, 13, 15, 17, 18, 20, 21, 22, 23, 24, 25, 28, 29, 30]
            .iter()
            .map(|bit| 1u32 << bit)
            .sum();
        assert_eq!((word(16), word(20), word(24)), (MAJOR, MINOR, 1 << 20));
        assert_eq!(word(28), expected_low);
        assert_eq!((word(36), word(40)), (1 << 20, 1));
        assert_eq!((word(44), word(48), word(52)), (256, 1 << 5 | 1 << 6 | 1 << 7, STACK_DEPTH));
    }

    fn wanted(changes: Changes) -> Vec<Feature> {
        Feature::ALL.iter().copied().filter(|feature| changes.want(*feature)).collect()
    }

    #[test]
    fn nothing_is_kept_where_layers_change_behind_the_mount() {
        let in_force = agreed(negotiate(&offer(99, u64::MAX), 1 << 20, 64, Changes::Unknown));
        assert_eq!(in_force.features().collect::<Vec<_>>(), wanted(Changes::Unknown));
        assert_eq!(in_force.missing().count(), 0);
        assert!(in_force.has(Feature::AutoInvalData));
        assert!(!in_force.has(Feature::ExplicitInvalData) && !in_force.has(Feature::NoOpenDirSupport));
    }

    #[test]
    fn other_major_versions() {
        let negotiate = |offer: &InitIn| negotiate(offer, 4096, 1, Changes::Known);
        assert_eq!(negotiate(&InitIn { major: 8, ..offer(0, 0) }), Answer::OfferAgain);
        assert_eq!(negotiate(&InitIn { major: 6, ..offer(45, 0) }), Answer::TooOld);
        assert_eq!(negotiate(&offer(OLDEST_MINOR - 1, 0)), Answer::TooOld);
    }
}
