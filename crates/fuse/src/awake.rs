//! Processors that do not halt.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes requests for how long a processor may take to wake up, in microseconds, for as long as it is open
/// (Documentation/power/pm_qos_interface.rst).
const DEVICE: &str = "/dev/cpu_dma_latency";
/// How processors halt. The driver for virtual ones polls before it does, unless it was told not to.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
/// All processors poll, so on larger machines that would cost more than it brings.
const MOST_PROCESSORS: usize = 8;

/// The means to keep all processors of a virtual machine from halting, so that they need not be woken. A server that
/// is killed gives it up.
#[derive(Debug)]
pub struct Awake {
    device: OwnedFd,
    held: AtomicBool,
}

impl Awake {
    /// The means, where this is a small virtual machine and the caller may use it: root, mostly.
    pub fn open() -> Option<Awake> {
        let driver = std::fs::read(DRIVER).ok()?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        if driver.trim_ascii_end() != b"haltpoll" || !(2..=MOST_PROCESSORS).contains(&processors) {
            return None;
        }
        let device = open(DEVICE, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        Some(Awake { device, held: AtomicBool::new(false) })
    }

    /// A means that is told to `device`.
    #[cfg(test)]
    pub(crate) fn told_to(device: OwnedFd) -> Awake {
        Awake { device, held: AtomicBool::new(false) }
    }

    /// Keeps the processors awake from now on, or no longer.
    ///
    /// # Errors
    /// If the kernel refuses it; nothing has changed then.
    pub(crate) fn set(&self, hold: bool) -> Result<(), Errno> {
        if self.held.swap(hold, Ordering::Relaxed) == hold {
            return Ok(());
        }
        // -1 is no wish (`PM_QOS_DEFAULT_VALUE`).
        let latency: i32 = if hold { 0 } else { -1 };
        let result = write(&self.device, &latency.to_ne_bytes());
        result.map(drop).inspect_err(|_| self.held.store(!hold, Ordering::Relaxed))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_wish_that_is_there_already_is_not_told_again() {
        let (mut read, device) = std::io::pipe().unwrap();
        let awake = Awake::told_to(device.into());
        for hold in [false, true, true, false, false] {
            awake.set(hold).unwrap();
        }
        drop(awake);
        let mut told = Vec::new();
        read.read_to_end(&mut told).unwrap();
        assert_eq!(told, [0_i32.to_ne_bytes(), (-1_i32).to_ne_bytes()].concat());
    }
}
