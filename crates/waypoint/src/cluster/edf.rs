//! Earliest deadline first: turns by weight, where the weight may change from turn to turn.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A schedule over the indices of a list.
///
/// Each entry's next turn is `1 / weight` after its last, so that over time entry `i` gets `weight[i]` turns. Ties are
/// broken by order, as in Envoy (source/common/upstream/edf_scheduler.h).
#[derive(Debug, Default)]
pub(super) struct Edf {
    now: f64,
    added: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: usize,
}

impl Edf {
    /// A schedule of `weights`, begun at a random point.
    pub(super) fn new(weights: impl IntoIterator<Item = f64>, start: usize) -> Self {
        let mut edf = Self::default();
        let weights: Vec<f64> = weights.into_iter().collect();
        for (index, weight) in weights.iter().enumerate() {
            edf.add(index, *weight);
        }
        if !weights.is_empty() {
            for _ in 0..start % weights.len() {
                edf.pick(|index| weights[index]);
            }
        }
        edf
    }

    /// The next turn's index; its following turn is planned with the weight that it has now.
    pub(super) fn pick(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let entry = self.queue.pop()?;
        self.now = entry.deadline;
        self.add(entry.index, weight(entry.index));
        Some(entry.index)
    }

    fn add(&mut self, index: usize, weight: f64) {
        self.added += 1;
        self.queue.push(Entry {
            deadline: self.now + 1.0 / weight.max(f64::MIN_POSITIVE),
            order: self.added,
            index,
        });
    }
}

// A max-heap: the earliest deadline is the greatest.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_deadline = other.deadline.total_cmp(&self.deadline);
        by_deadline.then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_weights_and_are_spread() {
        let weights = [1.0, 2.0, 5.0];
        let mut edf = Edf::new(weights, 0);
        let turns: Vec<usize> = (0..80).filter_map(|_| edf.pick(|i| weights[i])).collect();
        for (index, weight) in weights.iter().enumerate() {
            let got = turns.iter().filter(|t| **t == index).count();
            assert_eq!(got, *weight as usize * 10);
        }
        // The heavy one never has more than three turns in a row.
        let longest = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(3), "{turns:?}");
    }

    #[test]
    fn equal_weights_are_round_robin_from_the_start_point() {
        let mut edf = Edf::new([1.0; 4], 2);
        let turns: Vec<usize> = (0..8).filter_map(|_| edf.pick(|_| 1.0)).collect();
        assert_eq!(turns, [2, 3, 0, 1, 2, 3, 0, 1]);
        assert_eq!(Edf::default().pick(|_| 1.0), None);
    }
}
