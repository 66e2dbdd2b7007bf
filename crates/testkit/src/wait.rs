//! Waiting for a condition instead of for a time.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// Asks again until there is a value; returns it with the time that passed.
///
/// # Panics
/// When there is none within `limit`; `what` says what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(value) = ask() {
            return (value, start.elapsed());
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::park_timeout(POLL);
    }
}

/// Asks again until it holds, for at most `limit`; whether it came to hold.
pub fn until_or(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if ask() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::park_timeout(POLL);
    }
}
