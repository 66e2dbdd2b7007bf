//! A choice among several, by weight.

/// Things with weights, at least one of them above 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted<T> {
    /// Each with the sum of the weights up to and including its own.
    items: Vec<(u64, T)>,
}

impl<T> Weighted<T> {
    /// `None` when the weights sum up to 0.
    #[must_use]
    pub fn new(items: impl IntoIterator<Item = (u32, T)>) -> Option<Self> {
        let mut sum = 0u64;
        let items: Vec<_> = items
            .into_iter()
            .map(|(weight, item)| {
                sum += u64::from(weight);
                (sum, item)
            })
            .collect();
        (sum > 0).then_some(Self { items })
    }

    /// The sum of all weights.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.items.last().map_or(0, |(sum, _)| *sum)
    }

    /// The one that a uniformly distributed number falls on.
    #[must_use]
    pub fn pick(&self, random: u64) -> &T {
        let at = random % self.total();
        &self.items[self.items.partition_point(|(sum, _)| *sum <= at)].1
    }

    /// Each with its weight.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().enumerate().map(|(i, (sum, item))| {
            let before = i.checked_sub(1).map_or(0, |i| self.items[i].0);
            (sum - before, item)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn shares_follow_weights() {
        let w = Weighted::new([(0, 'z'), (90, 'a'), (10, 'b'), (0, 'c')]).unwrap();
        let mut a = 0;
        for n in 0..1000 {
            match w.pick(n) {
                'a' => a += 1,
                'b' => {}
                other => panic!("{other} has weight 0"),
            }
        }
        assert_eq!(a, 900);
        assert_eq!(
            w.iter().map(|(w, c)| (w, *c)).collect::<Vec<_>>(),
            [(0, 'z'), (90, 'a'), (10, 'b'), (0, 'c')]
        );
        assert_eq!(Weighted::new([(0, ())]), None);
    }
}
