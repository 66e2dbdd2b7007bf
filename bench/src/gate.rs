//! What CI watches: counts, which are the same on every machine, against the limits of one file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use crate::compare::say;
use crate::meter::Meter;
use crate::scenario::{self, Scenario};
use crate::stage::{Proxy, Stage, StageError};

#[derive(Debug, Clone, Args)]
pub(crate) struct GateArgs {
    /// The program `waymark`, a build of the profile that the limits are for.
    #[arg(long, default_value = "target/gate/waymark")]
    waymark: PathBuf,
    /// JSON: by scenario, the most instructions and system calls that a request may cost.
    #[arg(long, default_value = "bench/limits.json")]
    limits: PathBuf,
    /// Keep what callgrind, perf or strace wrote of each scenario in this directory.
    #[arg(long)]
    profiles: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Meter(#[from] crate::meter::MeterError),
    #[error("read the limits in {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the limits in {path}")]
    Limits {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{path}: there is no scenario {name:?}")]
    Unknown { path: PathBuf, name: String },
    #[error("print the result")]
    Print(#[from] std::io::Error),
    #[error("a request costs more than the limits say: {0}")]
    Above(String),
}

/// The most that a request may cost.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limit {
    instructions: Option<f64>,
    syscalls: Option<f64>,
}

/// Below this share of a limit, the limit should be lowered: it guards nothing.
const LOOSE: f64 = 0.85;

pub(crate) fn run(args: &GateArgs, out: &mut dyn Write) -> Result<(), GateError> {
    let limits = read(args)?;
    let mut stage = Stage::set_up(&args.waymark, None)?;
    if let Some(profiles) = &args.profiles {
        std::fs::create_dir_all(profiles)?;
        stage.keep_profiles(profiles);
    }
    let mut above = Vec::new();
    writeln!(
        out,
        "| a request of | costs | may cost | |\n|---|---|---|---|"
    )?;
    for (scenario, limit) in &limits {
        for (what, limit, meter) in [
            (
                "instructions",
                limit.instructions,
                Meter::instructions as fn() -> _,
            ),
            ("system calls", limit.syscalls, Meter::syscalls),
        ] {
            let Some(limit) = limit else { continue };
            let count = stage.count(Proxy::Waymark(1), scenario, meter()?)?;
            let verdict = verdict(count, limit);
            let name = scenario.name;
            writeln!(out, "| {name}: {what} | {count:.1} | {limit} | {verdict} |")?;
            match verdict {
                Verdict::Above => above.push(format!("{name}: {what} {count:.1} > {limit}")),
                Verdict::Loose => say(&format!("{name}: the limit of {what} can be lowered")),
                Verdict::Within => {}
            }
        }
    }
    if above.is_empty() {
        Ok(())
    } else {
        Err(GateError::Above(above.join("; ")))
    }
}

fn read(args: &GateArgs) -> Result<Vec<(Scenario, Limit)>, GateError> {
    let path = || args.limits.clone();
    let text = std::fs::read_to_string(&args.limits).map_err(|source| GateError::Read {
        path: path(),
        source,
    })?;
    let limits: BTreeMap<String, Limit> =
        serde_json::from_str(&text).map_err(|source| GateError::Limits {
            path: path(),
            source,
        })?;
    limits
        .into_iter()
        .map(|(name, limit)| {
            let scenario = scenario::ALL.iter().find(|s| s.name == name);
            let scenario = *scenario.ok_or_else(|| GateError::Unknown {
                path: path(),
                name: name.clone(),
            })?;
            Ok((scenario, limit))
        })
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Within,
    Loose,
    Above,
}

fn verdict(count: f64, limit: f64) -> Verdict {
    if count > limit {
        Verdict::Above
    } else if count < LOOSE * limit {
        Verdict::Loose
    } else {
        Verdict::Within
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Within => "within",
            Self::Loose => "far within",
            Self::Above => "**above**",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_judged_by_their_limit() {
        assert_eq!(verdict(100.1, 100.0), Verdict::Above);
        assert_eq!(verdict(99.0, 100.0), Verdict::Within);
        assert_eq!(verdict(50.0, 100.0), Verdict::Loose);
    }

    #[test]
    fn the_limits_that_are_checked_in_name_scenarios() {
        let limits = concat!(env!("CARGO_MANIFEST_DIR"), "/limits.json");
        let args = GateArgs {
            waymark: PathBuf::new(),
            limits: limits.into(),
            profiles: None,
        };
        let limits = read(&args).expect("limits that can be read");
        assert!(limits.iter().any(|(_, limit)| limit.instructions.is_some()));
        assert!(limits.iter().any(|(_, limit)| limit.syscalls.is_some()));
    }
}
