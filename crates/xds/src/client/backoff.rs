//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from `first` to `last`, with up to a quarter taken off by chance, so that the clients of a server that comes back
/// do not come all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// A back-off whose first wait is `first`.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            next: first,
        }
    }

    /// The next wait. `chance` is between 0 and 1.
    pub fn next(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.last);
        wait.mul_f64(1.0 - 0.25 * chance.clamp(0.0, 1.0))
    }

    /// It worked: starts over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    /// From 10 ms to 15 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_secs(15))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..13).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(
            waits,
            [
                10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240, 15000, 15000
            ]
        );
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_micros(7500));
    }
}
