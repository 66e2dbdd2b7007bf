//! Budgets for what a peer can do for free, and the count of what was refused.

use std::fmt;
use std::time::Instant;

use super::Limits;

/// How often something may happen: `burst` times at once, after that as often as time and useful work allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How often at once.
    pub burst: u32,
    /// How many more a second.
    pub per_second: u32,
    /// How many more for each frame or stream that does useful work.
    pub per_work: u32,
}

/// What is left of a [`Rate`].
///
/// What has accrued is counted only when the rest is used up, so that spending is a decrement.
#[derive(Clone, Copy, Debug)]
struct Budget {
    left: u32,
    since: Option<Since>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    work: u32,
}

impl Budget {
    const fn new(rate: Rate) -> Self {
        Self {
            left: rate.burst,
            since: None,
        }
    }

    /// Spends one; `work` counts useful work over the connection's life. Returns false when there is none left.
    fn spend(&mut self, rate: Rate, now: Instant, work: u32) -> bool {
        let since = *self.since.get_or_insert(Since { at: now, work });
        if self.left == 0 {
            let millis = now.saturating_duration_since(since.at).as_millis();
            let by_time = millis.saturating_mul(u128::from(rate.per_second)) / 1000;
            let by_work = u64::from(work.wrapping_sub(since.work)) * u64::from(rate.per_work);
            let accrued = by_time.saturating_add(u128::from(by_work));
            self.left = accrued.min(u128::from(rate.burst)) as u32;
            if self.left == 0 {
                return false;
            }
            self.since = Some(Since { at: now, work });
        }
        self.left -= 1;
        true
    }
}

/// What has a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    Resets,
    Settings,
    Pings,
    EmptyFrames,
    IdleFrames,
    WindowUpdates,
}

impl Flood {
    const ALL: [Self; 6] = [
        Self::Resets,
        Self::Settings,
        Self::Pings,
        Self::EmptyFrames,
        Self::IdleFrames,
        Self::WindowUpdates,
    ];

    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Resets => Refusal::RapidReset,
            Self::Settings => Refusal::Settings,
            Self::Pings => Refusal::Pings,
            Self::EmptyFrames => Refusal::EmptyFrames,
            Self::IdleFrames => Refusal::IdleFrames,
            Self::WindowUpdates => Refusal::WindowUpdates,
        }
    }

    fn rate(self, limits: &Limits) -> Rate {
        match self {
            Self::Resets => limits.resets,
            Self::Settings => limits.settings,
            Self::Pings => limits.pings,
            Self::EmptyFrames => limits.empty_frames,
            Self::IdleFrames => limits.idle_frames,
            Self::WindowUpdates => limits.window_updates,
        }
    }
}

/// The budgets of a connection.
#[derive(Debug)]
pub(super) struct Budgets([Budget; Flood::ALL.len()]);

impl Budgets {
    pub(super) fn new(limits: &Limits) -> Self {
        Self(Flood::ALL.map(|flood| Budget::new(flood.rate(limits))))
    }

    /// Spends one; see [`Budget::spend`].
    pub(super) fn spend(&mut self, flood: Flood, limits: &Limits, now: Instant, work: u32) -> bool {
        self.0[flood as usize].spend(flood.rate(limits), now, work)
    }
}

/// What a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Streams opened and reset at once, or opened to be reset by us (CVE-2023-44487, CVE-2025-8671).
    RapidReset,
    /// SETTINGS again and again.
    Settings,
    /// PING again and again.
    Pings,
    /// Empty DATA frames that end nothing.
    EmptyFrames,
    /// PRIORITY and unknown frames, and such for streams that are gone.
    IdleFrames,
    /// WINDOW_UPDATE for next to nothing.
    WindowUpdates,
    /// A header block in too many pieces or bytes.
    Continuation,
    /// A head of too many bytes.
    HeaderListBytes,
    /// A head of too many fields.
    HeaderFields,
    /// A malformed message.
    Malformed,
    /// A window enlarged beyond its maximum.
    WindowOverflow,
    /// More data than a window allowed.
    WindowExceeded,
    /// Too many streams at once.
    Streams,
    /// More memory than the connection may hold.
    Memory,
    /// Frames that make us answer, from a peer that doesn't read the answers.
    Backlog,
}

impl Refusal {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::RapidReset,
        Self::Settings,
        Self::Pings,
        Self::EmptyFrames,
        Self::IdleFrames,
        Self::WindowUpdates,
        Self::Continuation,
        Self::HeaderListBytes,
        Self::HeaderFields,
        Self::Malformed,
        Self::WindowOverflow,
        Self::WindowExceeded,
        Self::Streams,
        Self::Memory,
        Self::Backlog,
    ];

    /// A name for a metric's label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RapidReset => "rapid_reset",
            Self::Settings => "settings_flood",
            Self::Pings => "ping_flood",
            Self::EmptyFrames => "empty_frames_flood",
            Self::IdleFrames => "idle_frames_flood",
            Self::WindowUpdates => "window_update_flood",
            Self::Continuation => "continuation_flood",
            Self::HeaderListBytes => "header_list_bytes",
            Self::HeaderFields => "header_fields",
            Self::Malformed => "malformed",
            Self::WindowOverflow => "window_overflow",
            Self::WindowExceeded => "window_exceeded",
            Self::Streams => "too_many_streams",
            Self::Memory => "memory",
            Self::Backlog => "output_backlog",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often a connection refused what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals([u32; Refusal::ALL.len()]);

impl Refusals {
    /// How often this was refused.
    #[must_use]
    pub fn count(&self, refusal: Refusal) -> u32 {
        self.0[refusal as usize]
    }

    /// What was refused, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u32)> {
        Refusal::ALL
            .into_iter()
            .map(|refusal| (refusal, self.count(refusal)))
            .filter(|&(_, count)| count > 0)
    }

    pub(super) fn add(&mut self, refusal: Refusal) {
        let count = &mut self.0[refusal as usize];
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_budget_is_its_burst_and_what_accrues() {
        let rate = Rate {
            burst: 3,
            per_second: 2,
            per_work: 1,
        };
        let start = Instant::now();
        let mut budget = Budget::new(rate);
        assert!((0..3).all(|_| budget.spend(rate, start, 0)));
        assert!(!budget.spend(rate, start, 0), "used up");
        assert!(!budget.spend(rate, start + Duration::from_millis(400), 0));
        let later = start + Duration::from_secs(1);
        assert!((0..2).all(|_| budget.spend(rate, later, 0)), "time");
        assert!(!budget.spend(rate, later, 0));
        assert!(budget.spend(rate, later, 1), "work");
        assert!(!budget.spend(rate, later, 1));
        let much_later = start + Duration::from_secs(100);
        assert!((0..3).all(|_| budget.spend(rate, much_later, 1)));
        assert!(
            !budget.spend(rate, much_later, 1),
            "never more than the burst"
        );
    }

    #[test]
    fn refusals_are_counted_by_kind() {
        let mut refusals = Refusals::default();
        for refusal in Refusal::ALL {
            refusals.add(refusal);
        }
        refusals.add(Refusal::Pings);
        assert_eq!(refusals.count(Refusal::Pings), 2);
        assert_eq!(refusals.iter().map(|(_, count)| count).sum::<u32>(), 16);
    }
}
