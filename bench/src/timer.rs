//! A timer finer than a millisecond, which is all that the poll's own timeout has.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

pub(crate) struct Timer {
    fd: OwnedFd,
    is_set: bool,
}

impl Timer {
    /// A timer that wakes the poll with the token that [`Hub`](crate::hub::Hub) keeps for it.
    pub(crate) fn new(registry: &Registry) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        let source = fd.as_raw_fd();
        registry.register(
            &mut SourceFd(&source),
            Token(usize::MAX),
            Interest::READABLE,
        )?;
        Ok(Self { fd, is_set: false })
    }

    /// Wakes the poll once, after `wait`.
    pub(crate) fn set(&mut self, wait: Duration) {
        let nanos = wait.as_nanos().clamp(1, 1_000_000_000);
        let value = Timespec {
            tv_sec: i64::from(nanos == 1_000_000_000),
            tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(1),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        self.is_set = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &once).is_ok();
    }

    /// Takes note that it went off.
    pub(crate) fn clear(&mut self) {
        if self.is_set {
            let mut count = [0; 8];
            self.is_set = rustix::io::read(&self.fd, &mut count).is_err();
        }
    }
}
