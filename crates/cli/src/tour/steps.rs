//! What the tour shows.

/// One step: a sentence, commands, and a sentence about what was seen.
#[derive(Debug)]
pub(crate) struct Step {
    /// What it is about.
    pub(crate) title: &'static str,
    /// What is going to happen.
    pub(crate) before: &'static str,
    /// Shell commands, run in the scratch directory.
    pub(crate) commands: &'static [(&'static str, Ends)],
    /// What was seen.
    pub(crate) after: &'static str,
}

/// How a command has to end; anything else ends the tour with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// With exit status 0.
    Well,
    /// With an error that is the point of the step.
    WithError,
}

use Ends::{Well, WithError};

/// The steps in their order.
pub(crate) fn steps() -> &'static [Step] {
    &[
        Step {
            title: "Two layers",
            before: "A read-only layer below, a writable one on top. One file is in both.",
            commands: &[
                ("mkdir lower upper work merged", Well),
                (
                    "echo 'from lower' > lower/a.txt; echo 'from lower' > lower/b.txt; echo 'from lower' > lower/both.txt",
                    Well,
                ),
                ("echo 'from upper' > upper/own.txt; echo 'from upper' > upper/both.txt", Well),
                ("ls lower upper", Well),
            ],
            after: "Plain directories: no image, no format of our own.",
        },
        Step {
            title: "Mount",
            before: "The two appear as one tree in merged.",
            commands: &[
                ("acetate mount -o lowerdir=lower,upperdir=upper,workdir=work merged", Well),
                ("ls merged", Well),
                ("cat merged/both.txt", Well),
            ],
            after: "Of the file that both layers have, the topmost copy is shown.",
        },
        Step {
            title: "Create",
            before: "What is new goes to the upper layer.",
            commands: &[("echo hello > merged/new.txt", Well), ("ls upper", Well), ("ls lower", Well)],
            after: "The lower layer does not know of it.",
        },
        Step {
            title: "Change: copy-up",
            before: "The first change of a lower file copies it to the upper layer.",
            commands: &[
                ("echo 'and changed' >> merged/a.txt", Well),
                ("cat upper/a.txt", Well),
                ("cat lower/a.txt", Well),
            ],
            after: "The copy has the change, the original has not: what lies below never changes.",
        },
        Step {
            title: "Delete: a whiteout",
            before: "A lower file cannot be removed from its layer, so a mark hides it.",
            commands: &[
                ("rm merged/b.txt", Well),
                ("ls merged", Well),
                ("ls -l upper/b.txt", Well),
                ("ls lower/b.txt", Well),
                ("cp upper/b.txt copy-of-b.txt", WithError),
            ],
            after: "The whiteout is a character device 0,0, as the kernel's overlayfs makes it. It has no content to \
                    copy: tools that copy layers have to know whiteouts.",
        },
        Step {
            title: "A mistake",
            before: "A mount that cannot be says which directory, why, and what to do.",
            commands: &[
                ("mkdir upper2 work2 merged2", Well),
                ("acetate mount -o lowerdir=nowhere,upperdir=upper2,workdir=work2 merged2", WithError),
                ("acetate mount -o lowerdir=lower,uperdir=upper2,workdir=work2 merged2", WithError),
            ],
            after: "Nothing was mounted.",
        },
        Step {
            title: "Many layers",
            before: "Container images have many layers. Here are 25, each with one file of its own and one that all have.",
            commands: &[
                (
                    "for i in $(seq 25); do mkdir layer$i; echo $i > layer$i/file$i; echo layer $i > layer$i/same; done",
                    Well,
                ),
                (
                    "acetate mount -o lowerdir=$(seq -s: -f layer%g 25),upperdir=upper2,workdir=work2 merged2",
                    Well,
                ),
                ("ls merged2 | wc -l", Well),
                ("cat merged2/same", Well),
                ("acetate mounts | head -n 5", Well),
                ("acetate umount merged2", Well),
            ],
            after: "25 files and the one that all have, as the topmost layer has it.",
        },
        Step {
            title: "Unmount, and what is left",
            before: "After unmounting, the upper layer holds exactly what was changed.",
            commands: &[
                ("acetate umount merged", Well),
                ("ls merged", Well),
                ("ls -l upper", Well),
                ("cat lower/*.txt", Well),
            ],
            after: "Mount the same directories again, with acetate or with the kernel's overlayfs, and everything is as it was.",
        },
    ]
}
