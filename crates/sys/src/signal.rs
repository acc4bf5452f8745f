//! Signals that are waited for instead of handled.

use crate::{Errno, Result};
use std::mem::MaybeUninit;

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// The set of these signals, by their numbers.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal.
    pub fn of(numbers: &[i32]) -> Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given, and has no other failure.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for number in numbers {
            // SAFETY: `set` is an initialised set.
            if unsafe { libc::sigaddset(&raw mut set, *number) } != 0 {
                return Err(Errno::INVAL);
            }
        }
        Ok(Signals(set))
    }

    /// Keeps these signals from being delivered to the calling thread, and to what it starts, until [`Signals::wait`]
    /// takes them. A program that is executed inherits this.
    ///
    /// # Errors
    /// Those of pthread_sigmask(3).
    pub fn block(&self) -> Result<()> {
        self.mask(libc::SIG_BLOCK)
    }

    /// Undoes [`Signals::block`]: signals that came meanwhile are delivered now.
    ///
    /// # Errors
    /// Those of pthread_sigmask(3).
    pub fn unblock(&self) -> Result<()> {
        self.mask(libc::SIG_UNBLOCK)
    }

    fn mask(&self, how: i32) -> Result<()> {
        // SAFETY: the set is initialised; the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(how, &raw const self.0, std::ptr::null_mut()) } {
            0 => Ok(()),
            number => Err(Errno::from_raw_os_error(number)),
        }
    }

    /// Waits for one of these signals, which have to be blocked, and returns its number.
    ///
    /// # Errors
    /// Those of sigwaitinfo(2).
    pub fn wait(&self) -> Result<i32> {
        crate::retry(|| {
            // SAFETY: the set is initialised; the details of the signal are not asked for.
            let number = unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) };
            if number < 0 { Err(crate::last_errno()) } else { Ok(number) }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for() {
        let signals = Signals::of(&[libc::SIGUSR2]).unwrap();
        signals.block().unwrap();
        // To this thread: the process would choose any.
        // SAFETY: a plain call with the calling thread's own id.
        assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2) }, 0);
        assert_eq!(signals.wait(), Ok(libc::SIGUSR2));
        assert_eq!(signals.unblock(), Ok(()));
        assert_eq!(Signals::of(&[0]).map(drop), Err(Errno::INVAL));
    }
}
