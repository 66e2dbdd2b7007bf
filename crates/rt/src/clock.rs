//! Time as an argument, so that tests own it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Where a program reads the time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// A time that never goes back, for durations.
    fn now(&self) -> Instant;

    /// The calendar, for certificates and for people.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock {
    start: Instant,
    moved: Mutex<(Duration, SystemTime)>,
}

impl ManualClock {
    /// A clock that stands at `wall`.
    pub fn new(wall: SystemTime) -> Self {
        Self {
            start: Instant::now(),
            moved: Mutex::new((Duration::ZERO, wall)),
        }
    }

    /// Moves both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved.0 += by;
        moved.1 += by;
    }

    /// Sets the calendar, back or forth, as an administrator might.
    pub fn set_wall(&self, wall: SystemTime) {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).1 = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + self.moved.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn wall(&self) -> SystemTime {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let before = clock.now();
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now() - before, Duration::from_secs(5));
        assert_eq!(
            clock.wall(),
            SystemTime::UNIX_EPOCH + Duration::from_secs(5)
        );
        clock.set_wall(SystemTime::UNIX_EPOCH);
        assert_eq!(clock.wall(), SystemTime::UNIX_EPOCH);
        assert_eq!(clock.now() - before, Duration::from_secs(5));
    }
}
