//! Ours, Envoy and the floor in the same place, alternating in one run.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::bars;
use crate::meter::Meter;
use crate::process::rss_mib;
use crate::report::Report;
use crate::scenario::{self, Place, Scenario};
use crate::stage::{Extent, Proxy, Stage, StageError};

#[derive(Debug, Clone, Args)]
pub(crate) struct CompareArgs {
    /// The program `waymark`, a build of profile dist.
    #[arg(long, default_value = "target/dist/waymark")]
    waymark: PathBuf,
    /// The programs of one role, builds of profile slim: the waypoint's and the node proxy's [default: `--waymark`].
    #[arg(long, num_args = 2, value_names = ["WAYPOINT", "NODE"])]
    roles: Option<Vec<PathBuf>>,
    /// The program `envoy`; without it only ours and the floor are measured.
    #[arg(long, env = "ENVOY")]
    envoy: Option<PathBuf>,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only scenarios whose name contains one of these.
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["rounds", "memory", "syscalls", "instructions"])]
    parts: Vec<Part>,
    /// Where the numbers go, as JSON.
    #[arg(long, default_value = "target/bench.json")]
    json: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// CPU time and latency, in rounds.
    Rounds,
    /// Resident set, idle and after requests on 1,000 connections.
    Memory,
    /// System calls per request.
    Syscalls,
    /// User instructions per request.
    Instructions,
}

pub(crate) fn run(args: &CompareArgs, out: &mut dyn Write) -> Result<(), StageError> {
    let stage = Stage::set_up(&args.waymark, args.envoy.as_deref())?;
    let stage = match args.roles.as_deref() {
        Some([waypoint, node]) => stage.with_roles(waypoint, node),
        Some(_) | None => stage,
    };
    let comparison = Comparison { args, stage };
    let mut report = Report {
        rounds: args.rounds,
        load_average: std::fs::read_to_string("/proc/loadavg")
            .unwrap_or_default()
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        ..Report::default()
    };
    if args.parts.contains(&Part::Rounds) {
        comparison.rounds(&mut report)?;
    }
    if args.parts.contains(&Part::Memory) {
        comparison.memory(&mut report)?;
    }
    if args.parts.contains(&Part::Syscalls) {
        let meter = Meter::syscalls()?;
        meter.tool().clone_into(&mut report.syscalls_by);
        report.syscalls = comparison.counts(meter)?;
    }
    if args.parts.contains(&Part::Instructions) {
        report.instructions = comparison.counts(Meter::instructions()?)?;
    }
    if let Some(parent) = args.json.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&args.json, serde_json::to_vec_pretty(&report)?)?;
    write!(out, "{}", report.markdown())?;
    Ok(())
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    stage: Stage,
}

type Counts = std::collections::BTreeMap<String, std::collections::BTreeMap<String, f64>>;

impl Comparison<'_> {
    fn scenarios(&self) -> impl Iterator<Item = &Scenario> {
        let only = &self.args.only;
        scenario::ALL
            .iter()
            .filter(move |s| only.is_empty() || only.iter().any(|part| s.name.contains(part)))
    }

    /// Who is measured in a scenario.
    fn proxies(&self, scenario: &Scenario) -> Vec<Proxy> {
        if scenario.place == Place::Node {
            return vec![Proxy::Waymark(1)];
        }
        let mut proxies = vec![Proxy::Waymark(1)];
        if self.args.envoy.is_some() {
            proxies.push(Proxy::Envoy);
        }
        proxies.push(Proxy::Floor);
        proxies
    }

    fn rounds(&self, report: &mut Report) -> Result<(), StageError> {
        let extent = Extent::Seconds {
            warm_up: 0.5,
            seconds: self.args.seconds,
        };
        for round in 1..=self.args.rounds {
            for scenario in self.scenarios() {
                let _backend = self.stage.backend(scenario.place, scenario.bytes)?;
                let mut proxies = self.proxies(scenario);
                if [scenario::C4S8.name, scenario::C16S16.name].contains(&scenario.name) {
                    proxies.push(Proxy::Waymark(2));
                }
                for proxy in proxies {
                    let running = self.stage.proxy(proxy, scenario.place, None)?;
                    let measured = self.stage.load(proxy, scenario, running.pid(), &extent)?;
                    say(&format!(
                        "round {round} {} {}: {:.1} us, {:.0}/s, {} failed{}",
                        scenario.name,
                        proxy.name(),
                        measured.cpu_us.unwrap_or(0.0),
                        measured.per_second,
                        measured.failed,
                        measured
                            .first_failure
                            .as_ref()
                            .map_or_else(String::new, |why| format!(": {why}"))
                    ));
                    report
                        .scenarios
                        .entry(scenario.name.to_owned())
                        .or_default()
                        .entry(proxy.name().to_owned())
                        .or_default()
                        .push(measured);
                }
            }
        }
        Ok(())
    }

    /// Idle, and with 1,000 connections after requests.
    fn memory(&self, report: &mut Report) -> Result<(), StageError> {
        let mut note = |what: &str, proxy: Proxy, mib: f64| {
            say(&format!("RSS {what} {}: {mib:.1} MiB", proxy.name()));
            let row = report.memory_mib.entry(what.to_owned()).or_default();
            row.insert(proxy.name().to_owned(), mib);
        };
        let thousand = scenario::THOUSAND;
        let _backend = self.stage.backend(Place::Waypoint, thousand.bytes)?;
        let extent = Extent::Seconds {
            warm_up: 0.5,
            seconds: 3.0,
        };
        let whole = self.stage.has_roles().then_some(Proxy::Whole);
        for proxy in self.proxies(&thousand).into_iter().chain(whole) {
            let running = self.stage.proxy(proxy, Place::Waypoint, None)?;
            note(bars::IDLE, proxy, rss_mib(running.pid()));
            let measured = self.stage.load(proxy, &thousand, running.pid(), &extent)?;
            note(thousand.name, proxy, measured.rss_mib.unwrap_or(0.0));
        }
        for proxy in [Proxy::Waymark(1)].into_iter().chain(whole) {
            let node = self.stage.proxy(proxy, Place::Node, None)?;
            note(bars::L4_IDLE, proxy, rss_mib(node.pid()));
        }
        Ok(())
    }

    fn counts(&self, meter: Meter) -> Result<Counts, StageError> {
        let mut counts = Counts::new();
        for scenario in self.scenarios().filter(|s| s.rate == 0) {
            for proxy in self.proxies(scenario) {
                let count = self.stage.count(proxy, scenario, meter)?;
                say(&format!(
                    "{} {} {}: {count:.2}",
                    meter.tool(),
                    scenario.name,
                    proxy.name()
                ));
                let row = counts.entry(scenario.name.to_owned()).or_default();
                row.insert(proxy.name().to_owned(), count);
            }
        }
        Ok(counts)
    }
}

/// Says on stderr how far it is.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
