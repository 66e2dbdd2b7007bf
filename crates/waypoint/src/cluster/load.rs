//! How much of the traffic each priority gets, from how much of it is healthy.

/// The endpoints of a priority, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// All.
    pub(super) total: usize,
    /// Those that may be picked.
    pub(super) available: usize,
}

/// A priority's share of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// In percent; all shares sum up to 100, or to 0 when nothing can be picked.
    pub(super) percent: u32,
    /// Health is disregarded.
    pub(super) panic: bool,
}

/// Shares as Envoy gives them (source/common/upstream/load_balancer_impl.cc, recalculatePerPriorityState).
///
/// A priority can take `overprovisioning` times its healthy part, at most all; what is left goes to the next. When all
/// together cannot take everything, their parts are scaled up, and a priority whose healthy part is below the panic
/// threshold panics: its endpoints are used whatever their health.
pub(super) fn shares(
    priorities: &[Health],
    overprovisioning_percent: u32,
    panic_threshold_percent: f64,
) -> Vec<Share> {
    let capacity: Vec<u32> = priorities
        .iter()
        .map(|p| match p.total {
            0 => 0,
            total => (p.available as u64 * u64::from(overprovisioning_percent) / total as u64)
                .min(100) as u32,
        })
        .collect();
    let sum: u32 = capacity.iter().sum();
    let panics: Vec<bool> = priorities
        .iter()
        .map(|p| {
            sum < 100
                && p.total > 0
                && (p.available as f64 * 100.0 / p.total as f64) < panic_threshold_percent
        })
        .collect();
    if panics.iter().any(|p| *p)
        && priorities
            .iter()
            .zip(&panics)
            .all(|(p, panic)| *panic || p.total == 0)
    {
        return by_size(priorities);
    }
    let mut left = 100;
    let mut out: Vec<Share> = capacity
        .iter()
        .zip(panics)
        .map(|(capacity, panic)| {
            let scaled = if sum == 0 {
                0
            } else if sum < 100 {
                capacity * 100 / sum
            } else {
                *capacity
            };
            let percent = scaled.min(left);
            left -= percent;
            Share { percent, panic }
        })
        .collect();
    // What rounding left over goes to the first that gets something.
    if let Some(first) = out.iter_mut().find(|s| s.percent > 0) {
        first.percent += left;
    }
    out
}

/// Everybody panics: by number of endpoints.
fn by_size(priorities: &[Health]) -> Vec<Share> {
    let all: usize = priorities.iter().map(|p| p.total).sum();
    let mut left = 100;
    let mut out: Vec<Share> = priorities
        .iter()
        .map(|p| {
            let percent = (p.total * 100 / all.max(1)) as u32;
            left -= percent;
            Share {
                percent,
                panic: true,
            }
        })
        .collect();
    if let Some(first) = out.iter_mut().find(|s| s.percent > 0) {
        first.percent += left;
    }
    out
}

/// The priority that a uniformly distributed number falls on; `None` when nothing can be picked.
pub(super) fn choose(shares: &[Share], random: u64) -> Option<usize> {
    let mut at = (random % 100) as u32;
    for (priority, share) in shares.iter().enumerate() {
        match at.checked_sub(share.percent) {
            None => return Some(priority),
            Some(rest) => at = rest,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percents(priorities: &[(usize, usize)], threshold: f64) -> Vec<(u32, bool)> {
        let health: Vec<Health> = priorities
            .iter()
            .map(|(available, total)| Health {
                total: *total,
                available: *available,
            })
            .collect();
        shares(&health, 140, threshold)
            .iter()
            .map(|s| (s.percent, s.panic))
            .collect()
    }

    #[test]
    fn shares_as_envoy_documents_them() {
        // docs: intro/arch_overview/upstream/load_balancing/priority
        for (priorities, want) in [
            (&[(100, 100), (100, 100)][..], &[100, 0][..]),
            (&[(72, 100), (100, 100)], &[100, 0]),
            (&[(71, 100), (100, 100)], &[99, 1]),
            (&[(50, 100), (100, 100)], &[70, 30]),
            (&[(25, 100), (100, 100)], &[35, 65]),
            (&[(25, 100), (25, 100)], &[50, 50]),
            (&[(0, 100), (100, 100)], &[0, 100]),
            (&[(0, 0), (1, 1)], &[0, 100]),
            (&[(0, 100), (0, 100)], &[0, 0]),
            (&[], &[]),
        ] {
            let got = percents(priorities, 0.0);
            assert!(got.iter().all(|(_, panic)| !panic), "{priorities:?}");
            assert_eq!(
                got.iter().map(|(p, _)| *p).collect::<Vec<_>>(),
                want,
                "{priorities:?}"
            );
        }
    }

    #[test]
    fn panic_is_a_matter_of_the_threshold() {
        assert_eq!(percents(&[(0, 4)], 50.0), [(100, true)]);
        assert_eq!(percents(&[(0, 4)], 0.0), [(0, false)]);
        assert_eq!(
            percents(&[(0, 30), (0, 10)], 50.0),
            [(75, true), (25, true)]
        );
        // The second can take everything: no panic.
        assert_eq!(
            percents(&[(1, 4), (4, 4)], 50.0),
            [(35, false), (65, false)]
        );
        // It cannot: the first panics, its share stays.
        assert_eq!(
            percents(&[(1, 10), (6, 10)], 50.0),
            [(15, true), (85, false)]
        );
    }

    #[test]
    fn the_choice_follows_the_shares() {
        let shares = shares(
            &[
                Health {
                    total: 100,
                    available: 50,
                },
                Health {
                    total: 1,
                    available: 1,
                },
            ],
            140,
            0.0,
        );
        let first = (0..1000).filter(|n| choose(&shares, *n) == Some(0)).count();
        assert_eq!(first, 700);
        assert_eq!(choose(&[], 3), None);
    }
}
