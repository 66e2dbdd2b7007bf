//! How long to wait before the API server is asked again.

use std::time::Duration;

use tokio::time::Instant;

/// Doubles from failure to failure, with jitter, so that many clients of a server that comes back do not come at once. What
/// has worked for as long as was waited for it begins again with the shortest wait.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    /// When the last wait ends, and how long it is.
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    /// Something failed: how long to wait.
    pub(crate) fn next(&mut self) -> Duration {
        if let Some((since, wait)) = self.last
            && since.elapsed() > wait.max(WORKED)
        {
            self.failures = 0;
        }
        let whole = FIRST
            .saturating_mul(1 << self.failures.min(MAX_DOUBLINGS))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let wait = whole.mul_f64(rand::random_range(0.5..=1.0));
        self.last = Some((Instant::now() + wait, wait));
        wait
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Something went well.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// client-go's reflector waits 800 ms to 30 s; a server that is just started anew is back sooner.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// What lasts at least this long has worked.
const WORKED: Duration = Duration::from_secs(1);
const MAX_DOUBLINGS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_are_never_all_the_same() {
        let mut backoff = Backoff::default();
        let mut whole = FIRST;
        for _ in 0..40 {
            let wait = backoff.next();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST);
        }
        let waits: std::collections::BTreeSet<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits.len() > 10);
        backoff.reset();
        assert!(backoff.failures() == 0 && backoff.next() <= FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_worked_for_a_while_begins_again() {
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            tokio::time::sleep(backoff.next()).await;
        }
        assert_eq!(backoff.failures(), 4);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(backoff.next() <= FIRST);
    }
}
