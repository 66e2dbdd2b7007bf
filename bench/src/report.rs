//! Rounds to medians, medians to a table.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::load::Measured;

/// Everything that a comparison measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) rounds: usize,
    pub(crate) load_average: String,
    /// Scenario, then proxy, then one entry a round.
    pub(crate) scenarios: BTreeMap<String, BTreeMap<String, Vec<Measured>>>,
    /// Proxy, then what, in MiB.
    pub(crate) memory_mib: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Report {
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "{} rounds, proxies alternating in each; one worker on a core of its own; load average {}.\n\n\
             | scenario | proxy | CPU µs/request | ratio | requests/s | p50 ms | p99 ms | failed |\n|---|---|---|---|---|---|---|---|\n",
            self.rounds, self.load_average
        );
        for (scenario, proxies) in &self.scenarios {
            for (proxy, rounds) in proxies {
                let of = |f: &dyn Fn(&Measured) -> f64| median(rounds.iter().map(f).collect());
                let cpu = of(&|m| m.cpu_us.unwrap_or(0.0));
                let ratio = match proxies.get("envoy") {
                    Some(base) if proxy != "envoy" => format!("{:.2}", ratio(rounds, base)),
                    _ => String::from("1"),
                };
                let failed: u64 = rounds.iter().map(|m| m.failed).sum();
                text.push_str(&format!(
                    "| {scenario} | {proxy} | {cpu:.1} | {ratio} | {:.0} | {:.2} | {:.2} | {failed} |\n",
                    of(&|m| m.per_second),
                    of(&|m| m.p50_ms),
                    of(&|m| m.p99_ms),
                ));
            }
        }
        text.push_str("\n| memory (RSS, MiB) |");
        let proxies: Vec<&String> = self.memory_mib.keys().collect();
        for proxy in &proxies {
            text.push_str(&format!(" {proxy} |"));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(proxies.len())));
        let rows: std::collections::BTreeSet<&String> =
            self.memory_mib.values().flat_map(BTreeMap::keys).collect();
        for row in rows {
            text.push_str(&format!("| {row} |"));
            for proxy in &proxies {
                let value = self.memory_mib[*proxy].get(row).copied().unwrap_or(0.0);
                text.push_str(&format!(" {value:.1} |"));
            }
            text.push('\n');
        }
        text
    }
}

/// Median over rounds of the quotient of the same round.
fn ratio(ours: &[Measured], base: &[Measured]) -> f64 {
    let quotients = ours
        .iter()
        .zip(base)
        .filter_map(|(a, b)| Some(a.cpu_us? / b.cpu_us?))
        .collect();
    median(quotients)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(cpu: f64) -> Measured {
        Measured {
            requests: 1,
            failed: 0,
            per_second: 1.0,
            cpu_us: Some(cpu),
            p50_ms: 1.0,
            p99_ms: 1.0,
            max_ms: 1.0,
            rss_mib: None,
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ours = [measured(10.0), measured(40.0), measured(30.0)];
        let base = [measured(100.0), measured(100.0), measured(100.0)];
        assert!((ratio(&ours, &base) - 0.3).abs() < 1e-9);
        assert!((median(vec![1.0, 2.0]) - 1.5).abs() < 1e-9);
    }
}
