//! Numbers of system calls newer than the libc crate's tables.
//!
//! From 424 on all architectures that Rust supports share the numbers, but for mips, which adds an offset; there the
//! calls are reported as missing (source: the kernel's scripts/syscall.tbl and arch/*/kernel/syscalls).

#[cfg(not(any(target_arch = "mips", target_arch = "mips64", target_arch = "mips64r6")))]
mod numbers {
    use libc::c_long;

    pub const MOUNT_SETATTR: Option<c_long> = Some(442);
    pub const FCHMODAT2: Option<c_long> = Some(452);
    pub const SETXATTRAT: Option<c_long> = Some(463);
    pub const GETXATTRAT: Option<c_long> = Some(464);
    pub const LISTXATTRAT: Option<c_long> = Some(465);
    pub const REMOVEXATTRAT: Option<c_long> = Some(466);
}

#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "mips64r6"))]
mod numbers {
    use libc::c_long;

    pub const MOUNT_SETATTR: Option<c_long> = None;
    pub const FCHMODAT2: Option<c_long> = None;
    pub const SETXATTRAT: Option<c_long> = None;
    pub const GETXATTRAT: Option<c_long> = None;
    pub const LISTXATTRAT: Option<c_long> = None;
    pub const REMOVEXATTRAT: Option<c_long> = None;
}

pub(crate) use numbers::*;
