//! Errnos by name, as manuals and recorded scenarios write them.

use rustix::io::Errno;

/// Pairs each listed rustix constant with its name.
macro_rules! table {
    ($($name:ident)*) => { &[$((Errno::$name, concat!("E", stringify!($name)))),*] };
}

/// What file operations return; an errno outside it is shown by number.
const NAMES: &[(Errno, &str)] = table! {
    PERM NOENT SRCH INTR IO NXIO NOEXEC BADF CHILD AGAIN NOMEM ACCESS FAULT NOTBLK BUSY EXIST XDEV NODEV NOTDIR ISDIR
    INVAL NFILE MFILE NOTTY TXTBSY FBIG NOSPC SPIPE ROFS MLINK PIPE DOM RANGE DEADLK NAMETOOLONG NOLCK NOSYS NOTEMPTY
    LOOP NOMSG NODATA NOLINK PROTO BADMSG OVERFLOW ILSEQ USERS NOTSOCK OPNOTSUPP NOTCONN CONNABORTED CONNRESET
    TIMEDOUT STALE UCLEAN REMOTEIO DQUOT CANCELED NOKEY KEYREJECTED
};

/// The name of `errno`, for example `ENOENT`; `E#200` for one without a name here.
pub fn name(errno: Errno) -> String {
    match errno {
        // Two whose constants are not spelt like the C name.
        Errno::ACCESS => "EACCES".to_owned(),
        Errno::TOOBIG => "E2BIG".to_owned(),
        _ => match NAMES.iter().find(|(known, _)| *known == errno) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("E#{}", errno.raw_os_error()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_manual() {
        let named: Vec<_> = [Errno::ACCESS, Errno::TOOBIG, Errno::NOTEMPTY, Errno::STALE, Errno::NOANO]
            .into_iter()
            .map(name)
            .collect();
        assert_eq!(named, ["EACCES", "E2BIG", "ENOTEMPTY", "ESTALE", "E#55"]);
    }
}
