//! Rounds to medians, medians to tables.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::Measured;

/// Everything that a comparison measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: usize,
    pub(crate) load_average: String,
    /// Scenario, then proxy, then one entry a round.
    pub(crate) scenarios: BTreeMap<String, BTreeMap<String, Vec<Measured>>>,
    /// Scenario, then proxy: user instructions a request.
    pub(crate) instructions: BTreeMap<String, BTreeMap<String, f64>>,
    /// Scenario, then proxy: system calls a request.
    pub(crate) syscalls: BTreeMap<String, BTreeMap<String, f64>>,
    /// What counted the system calls.
    pub(crate) syscalls_by: String,
    /// What, then proxy: resident set, MiB.
    pub(crate) memory_mib: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A median and what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Report {
    /// Median over rounds of the quotient of the same round.
    pub(crate) fn ratio(
        &self,
        scenario: &str,
        proxy: &str,
        base: &str,
        of: impl Fn(&Measured) -> Option<f64>,
    ) -> Option<Spread> {
        let proxies = self.scenarios.get(scenario)?;
        let rounds = proxies.get(proxy)?.iter().zip(proxies.get(base)?);
        Spread::of(
            rounds
                .filter_map(|(a, b)| Some(of(a)? / of(b)?))
                .filter(|quotient| quotient.is_finite()),
        )
    }

    /// Median over rounds.
    pub(crate) fn median(
        &self,
        scenario: &str,
        proxy: &str,
        of: impl Fn(&Measured) -> Option<f64>,
    ) -> Option<Spread> {
        let rounds = self.scenarios.get(scenario)?.get(proxy)?;
        Spread::of(rounds.iter().filter_map(of))
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "{} rounds, proxies alternating in each; one worker on a core of its own; load average {}.\n\n",
            self.rounds, self.load_average
        );
        text += &crate::bars::markdown(self);
        if !self.scenarios.is_empty() {
            text += "\n| scenario | proxy | CPU µs/request [rounds] | ratio | requests/s | p50 ms | p99 ms | failed |\n\
                     |---|---|---|---|---|---|---|---|\n";
        }
        for (scenario, proxies) in &self.scenarios {
            for (proxy, rounds) in proxies {
                text += &self.row(scenario, proxy, rounds);
            }
        }
        text += &table("user instructions/request", &self.instructions, 0);
        let by = format!("system calls/request ({})", self.syscalls_by);
        text += &table(&by, &self.syscalls, 2);
        text += &table("RSS, MiB", &self.memory_mib, 1);
        text
    }

    fn row(&self, scenario: &str, proxy: &str, rounds: &[Measured]) -> String {
        let of = |f: &dyn Fn(&Measured) -> f64| {
            Spread::of(rounds.iter().map(f)).map_or(0.0, |spread| spread.median)
        };
        let cpu = self.median(scenario, proxy, |m| m.cpu_us);
        let ratio = self
            .ratio(scenario, proxy, "envoy", |m| m.cpu_us)
            .map_or_else(String::new, |spread| format!("{:.2}", spread.median));
        let failed: u64 = rounds.iter().map(|m| m.failed).sum();
        format!(
            "| {scenario} | {proxy} | {} | {ratio} | {:.0} | {:.2} | {:.2} | {failed} |\n",
            cpu.map_or_else(String::new, |cpu| cpu.show(1)),
            of(&|m| m.per_second),
            of(&|m| m.p50_ms),
            of(&|m| m.p99_ms),
        )
    }
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 1 => values[n / 2],
            n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
        };
        Some(Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
        })
    }

    /// `median [least-most]`.
    pub(crate) fn show(self, digits: usize) -> String {
        if self.least == self.most {
            return format!("{:.digits$}", self.median);
        }
        format!(
            "{:.digits$} [{:.digits$}-{:.digits$}]",
            self.median, self.least, self.most
        )
    }
}

/// A row for each key, a column for each proxy.
fn table(what: &str, rows: &BTreeMap<String, BTreeMap<String, f64>>, digits: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let proxies: std::collections::BTreeSet<&String> =
        rows.values().flat_map(BTreeMap::keys).collect();
    let mut text = format!("\n| {what} |");
    for proxy in &proxies {
        text += &format!(" {proxy} |");
    }
    text += &format!("\n|---|{}\n", "---|".repeat(proxies.len()));
    for (row, values) in rows {
        text += &format!("| {row} |");
        for &proxy in &proxies {
            let value = values
                .get(proxy)
                .map_or_else(String::new, |v| format!("{v:.digits$}"));
            text += &format!(" {value} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn measured(cpu: f64) -> Measured {
        Measured {
            requests: 1,
            cpu_us: Some(cpu),
            ..Measured::default()
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut report = Report::default();
        let proxies = report.scenarios.entry("c".into()).or_default();
        proxies.insert("a".into(), [10.0, 40.0, 30.0].map(measured).into());
        proxies.insert("b".into(), [100.0, 200.0, 100.0].map(measured).into());
        let ratio = report.ratio("c", "a", "b", |m| m.cpu_us).unwrap();
        assert_eq!(ratio.show(2), "0.20 [0.10-0.30]");
        assert_eq!(report.ratio("c", "a", "none", |m| m.cpu_us), None);
    }

    #[test]
    fn an_even_number_of_rounds_has_a_median() {
        let spread = Spread::of([2.0, 1.0].into_iter()).unwrap();
        assert!((spread.median - 1.5).abs() < 1e-9);
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
