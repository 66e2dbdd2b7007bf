//! What was promised, and whether it is kept.
//!
//! Ratios are to Envoy in the same round (or the same run, for counts); the node proxy's are to what ztunnel was measured with on
//! the same kind of machine: 28,200 instructions per request, 18 MiB.

use crate::report::{Report, Spread};
use crate::scenario as s;

const OURS: &str = "waymark";
const TWO: &str = "waymark, 2 workers";
pub(crate) const IDLE: &str = "idle";
pub(crate) const L4_IDLE: &str = "L4 idle";

/// What a bar is about.
enum Measure {
    /// CPU per request, to Envoy's.
    Cpu(&'static str),
    /// 99th percentile of latency, to Envoy's.
    P99(&'static str),
    /// User instructions per request, to Envoy's.
    InstructionsRatio(&'static str),
    /// User instructions per request.
    Instructions(&'static str),
    /// System calls per request.
    Syscalls(&'static str),
    /// Resident set in MiB.
    Memory(&'static str),
    /// How much more two workers could do than one: CPU per request of one, by that of the busier of two.
    Scaling(&'static str),
}

use Measure::{Cpu, Instructions, InstructionsRatio, Memory, P99, Scaling, Syscalls};

/// Name, measure, and the most it may be (the least, of a scaling).
const BARS: &[(&str, Measure, f64)] = &[
    (
        "instructions/request c1s1",
        InstructionsRatio(s::C1S1.name),
        0.18,
    ),
    ("CPU c4s8", Cpu(s::C4S8.name), 0.15),
    ("CPU c1s1", Cpu(s::C1S1.name), 0.48),
    ("CPU paced 1,000/s", Cpu(s::PACED_1000.name), 0.42),
    ("CPU 64 KiB", Cpu(s::LARGE.name), 0.42),
    ("CPU gRPC", Cpu(s::GRPC.name), 0.20),
    ("CPU new CONNECT", Cpu(s::NEW_CONNECT.name), 0.12),
    ("CPU new mTLS connection", Cpu(s::NEW_CONNECTION.name), 0.55),
    ("RSS idle, MiB", Memory(IDLE), 10.0),
    (
        "RSS 1,000 connections after requests, MiB",
        Memory(s::THOUSAND.name),
        40.0,
    ),
    ("syscalls/request unbatched", Syscalls(s::C1S1.name), 7.0),
    ("p99 paced 4,000/s", P99(s::PACED_4000.name), 0.4),
    (
        "L4 instructions/request c1s1",
        Instructions(s::L4_C1S1.name),
        14_000.0,
    ),
    ("L4 RSS idle, MiB", Memory(L4_IDLE), 8.0),
    ("two workers by one, c4s8", Scaling(s::C4S8.name), 1.8),
    ("two workers by one, c16s16", Scaling(s::C16S16.name), 1.8),
];

/// The table of bars.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::from(
        "| bar | waymark | Envoy | floor | waymark by Envoy [rounds] | must be | |\n|---|---|---|---|---|---|---|\n",
    );
    for (name, measure, limit) in BARS {
        text += &row(report, name, measure, *limit);
    }
    text
}

fn row(report: &Report, name: &str, measure: &Measure, limit: f64) -> String {
    let value = |proxy: &str| measure.value(report, proxy);
    let digits = match measure {
        Cpu(_) | Memory(_) => 1,
        InstructionsRatio(_) | Instructions(_) => 0,
        P99(_) | Syscalls(_) | Scaling(_) => 2,
    };
    let show = |proxy| value(proxy).map_or_else(String::new, |spread| spread.show(digits));
    let ratio = measure.ratio(report);
    let judged = match measure {
        Cpu(_) | P99(_) | InstructionsRatio(_) => ratio,
        Instructions(_) | Syscalls(_) | Memory(_) | Scaling(_) => value(OURS),
    };
    let least = matches!(measure, Scaling(_));
    // As shown: a hundredth is within what counts differ from run to run.
    let shown = judged.map(|spread| (spread.median * 100.0).round() / 100.0);
    let verdict = match shown {
        None => "not measured",
        Some(value) if value == limit || least == (value > limit) => "met",
        Some(_) => "**not met**",
    };
    format!(
        "| {name} | {} | {} | {} | {} | {} {limit} | {verdict} |\n",
        show(OURS),
        show("envoy"),
        show("floor"),
        ratio.map_or_else(String::new, |spread| spread.show(2)),
        if least { ">=" } else { "<=" },
    )
}

impl Measure {
    fn value(&self, report: &Report, proxy: &str) -> Option<Spread> {
        let one = |value: &f64| Spread::of(std::iter::once(*value));
        match self {
            Cpu(scenario) => report.median(scenario, proxy, |m| m.cpu_us),
            P99(scenario) => report.median(scenario, proxy, |m| Some(m.p99_ms)),
            InstructionsRatio(scenario) | Instructions(scenario) => {
                one(report.instructions.get(*scenario)?.get(proxy)?)
            }
            Syscalls(scenario) => one(report.syscalls.get(*scenario)?.get(proxy)?),
            Memory(what) => one(report.memory_mib.get(*what)?.get(proxy)?),
            Scaling(scenario) if proxy == OURS => {
                let busiest = |m: &crate::load::Measured| m.threads_us.first().copied();
                report.ratio(scenario, OURS, TWO, busiest)
            }
            Scaling(_) => None,
        }
    }

    fn ratio(&self, report: &Report) -> Option<Spread> {
        match self {
            Cpu(scenario) => report.ratio(scenario, OURS, "envoy", |m| m.cpu_us),
            P99(scenario) => report.ratio(scenario, OURS, "envoy", |m| Some(m.p99_ms)),
            InstructionsRatio(_) | Instructions(_) | Syscalls(_) | Memory(_) => {
                let quotient =
                    self.value(report, OURS)?.median / self.value(report, "envoy")?.median;
                Spread::of(std::iter::once(quotient))
            }
            Scaling(_) => None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::load::Measured;

    #[test]
    fn bars_are_judged_by_what_was_measured() {
        let mut report = Report::default();
        let measured = |cpu, thread| Measured {
            cpu_us: Some(cpu),
            threads_us: vec![thread],
            ..Measured::default()
        };
        let c4s8 = report.scenarios.entry(s::C4S8.name.into()).or_default();
        c4s8.insert(OURS.into(), vec![measured(10.0, 9.0)]);
        c4s8.insert("envoy".into(), vec![measured(50.0, 50.0)]);
        c4s8.insert(TWO.into(), vec![measured(11.0, 4.5)]);
        report
            .memory_mib
            .insert(IDLE.into(), [(OURS.into(), 9.5)].into());
        let text = markdown(&report);
        let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap();
        assert_eq!(
            row("| CPU c4s8 |"),
            "| CPU c4s8 | 10.0 | 50.0 |  | 0.20 | <= 0.15 | **not met** |"
        );
        assert!(row("| RSS idle").ends_with("<= 10 | met |"), "{text}");
        assert!(
            row("two workers by one, c4s8").ends_with(">= 1.8 | met |"),
            "{text}"
        );
        assert!(row("CPU c1s1").ends_with("| not measured |"), "{text}");
    }
}
