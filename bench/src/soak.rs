//! Hours in minutes: load at a share of what the proxy can do, while connections, configuration and endpoints come and go.
//!
//! What is asked: no request fails, and memory is flat.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;

use crate::compare::say;
use crate::load::Measured;
use crate::manifests;
use crate::process::{Running, rss_mib};
use crate::scenario::{self, Place, Scenario};
use crate::stage::{Extent, Proxy, Stage, StageError};

/// An endpoint is out of the configuration for so long before its destination ends, and again before it is let in.
const ENDPOINT_REST: Duration = Duration::from_millis(1000);
/// Growth of memory that is no leak: what the allocator does in a day it does in a minute.
const SLACK_MIB: f64 = 2.0;

#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// The program `waymark`.
    #[arg(long, default_value = "target/dist/waymark")]
    waymark: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 600.0)]
    seconds: f64,
    /// Load, as a share of what it can do.
    #[arg(long, default_value_t = 0.7)]
    share: f64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SoakError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("change the mesh")]
    Mesh(#[from] std::io::Error),
    #[error("{0}")]
    Failed(String),
}

pub(crate) fn run(args: &SoakArgs, out: &mut dyn Write) -> Result<(), SoakError> {
    let stage = Stage::set_up(&args.waymark, None)?;
    let mut mesh = Mesh::new(&stage)?;
    let proxy = Proxy::Waymark(1);
    let running = stage.proxy(proxy, Place::Waypoint, None)?;
    let pid = running.pid();
    let saturated = saturate(&stage, proxy, pid)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are small and positive"
    )]
    let rate = (saturated * args.share).max(1.0) as u32;
    say(&format!("{saturated:.0}/s at most; {rate}/s from now on"));
    let load = Scenario {
        name: "soak",
        rate,
        ..scenario::C4S8
    };
    let extent = Extent::Soak {
        seconds: args.seconds,
        // Each connection lasts about two seconds.
        churn: u64::from(rate) / 2,
    };
    let start = Instant::now();
    let mut samples = Vec::new();
    let measured = std::thread::scope(|scope| {
        let (done, ended) = mpsc::channel();
        let stage = &stage;
        scope.spawn(move || {
            let _ = done.send(stage.load(proxy, &load, pid, &extent));
        });
        loop {
            match ended.recv_timeout(Duration::from_millis(500)) {
                Ok(measured) => return measured.map_err(SoakError::from),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(SoakError::Failed("the load generator is gone".into()));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    samples.push((start.elapsed().as_secs_f64(), rss_mib(pid)));
                    mesh.change()?;
                }
            }
        }
    })?;
    let memory = Memory::of(&samples);
    let verdict = judge(&measured, &memory, args.seconds);
    write!(out, "{}", markdown(args, rate, &measured, &memory, &mesh))?;
    verdict.map_err(SoakError::Failed)
}

/// Requests per second when as many are sent as are answered.
fn saturate(stage: &Stage, proxy: Proxy, pid: u32) -> Result<f64, StageError> {
    let extent = Extent::Seconds {
        warm_up: 0.5,
        seconds: 1.5,
    };
    let measured = stage.load(proxy, &scenario::C4S8, pid, &extent)?;
    Ok(measured.per_second)
}

fn judge(measured: &Measured, memory: &Memory, seconds: f64) -> Result<(), String> {
    if measured.failed > 0 {
        let why = measured.first_failure.as_deref().unwrap_or_default();
        return Err(format!(
            "{} of {} requests failed, the first with: {why}",
            measured.failed, measured.requests
        ));
    }
    if measured.requests == 0 {
        return Err("no request was answered".into());
    }
    // What is warm-up and what is a leak can't be told apart in less than a minute.
    if seconds >= 60.0 && memory.growth > SLACK_MIB {
        return Err(format!("memory grows: {:.1} MiB", memory.growth));
    }
    Ok(())
}

fn markdown(
    args: &SoakArgs,
    rate: u32,
    measured: &Measured,
    memory: &Memory,
    mesh: &Mesh<'_>,
) -> String {
    format!(
        "{:.0} s at {rate}/s ({:.0} % of saturation), {} changes of routes, {} endpoint flaps.\n\n\
         | requests | failed | p50 ms | p99 ms | CPU µs/request | RSS MiB: second quarter | last quarter | slope MiB/h |\n\
         |---|---|---|---|---|---|---|---|\n\
         | {} | {} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} |\n",
        args.seconds,
        args.share * 100.0,
        mesh.routes,
        mesh.flaps,
        measured.requests,
        measured.failed,
        measured.p50_ms,
        measured.p99_ms,
        measured.cpu_us.unwrap_or(0.0),
        memory.first,
        memory.first + memory.growth,
        memory.slope_per_hour,
    )
}

/// The resident set over time.
#[derive(Debug, Default)]
struct Memory {
    /// Median of the second quarter: the first is warm-up.
    first: f64,
    /// How much larger the median of the last quarter is.
    growth: f64,
    /// MiB per hour, over the last three quarters.
    slope_per_hour: f64,
}

impl Memory {
    fn of(samples: &[(f64, f64)]) -> Self {
        let quarter = samples.len() / 4;
        let median = |part: &[(f64, f64)]| {
            let values = part.iter().map(|&(_, mib)| mib);
            crate::report::Spread::of(values).map_or(0.0, |spread| spread.median)
        };
        let first = median(&samples[quarter..2 * quarter]);
        let last = median(&samples[samples.len() - quarter..]);
        Self {
            first,
            growth: last - first,
            slope_per_hour: 3600.0 * slope(&samples[quarter..]),
        }
    }
}

/// Least squares: growth of the second over the first.
fn slope(samples: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let count = samples.len().max(1) as f64;
    let mean_x = samples.iter().map(|s| s.0).sum::<f64>() / count;
    let mean_y = samples.iter().map(|s| s.1).sum::<f64>() / count;
    let over: f64 = samples
        .iter()
        .map(|s| (s.0 - mean_x) * (s.1 - mean_y))
        .sum();
    let under: f64 = samples.iter().map(|s| (s.0 - mean_x).powi(2)).sum();
    if under > 0.0 { over / under } else { 0.0 }
}

/// What changes under the load: the route's weights at each call, and an endpoint of version v1, step by step.
struct Mesh<'a> {
    stage: &'a Stage,
    _stable: Running,
    flapping: Option<Running>,
    step: Step,
    since: Instant,
    routes: u32,
    flaps: u32,
}

/// Where the endpoint that comes and goes is in its round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    In,
    /// Out of the configuration, still serving.
    Out,
    /// Serving again.
    Restarted,
}

impl<'a> Mesh<'a> {
    fn new(stage: &'a Stage) -> Result<Self, SoakError> {
        let mut mesh = Self {
            stage,
            _stable: stage.backend(Place::Waypoint, scenario::C4S8.bytes)?,
            flapping: None,
            step: Step::Restarted,
            since: Instant::now(),
            routes: 0,
            flaps: 0,
        };
        mesh.restart()?;
        Ok(mesh)
    }

    fn restart(&mut self) -> Result<(), StageError> {
        drop(self.flapping.take());
        let hbone = SocketAddr::new(manifests::FLAPPING_POD, 15008);
        let running = self
            .stage
            .backend_on("--listen", &[hbone], scenario::C4S8.bytes)?;
        self.flapping = Some(running);
        Ok(())
    }

    fn change(&mut self) -> Result<(), SoakError> {
        self.routes += 1;
        if self.since.elapsed() >= ENDPOINT_REST {
            self.since = Instant::now();
            self.step = match self.step {
                Step::In => Step::Out,
                Step::Out => {
                    self.restart()?;
                    Step::Restarted
                }
                Step::Restarted => {
                    self.flaps += 1;
                    Step::In
                }
            };
        }
        let weight = if self.routes.is_multiple_of(2) {
            90
        } else {
            50
        };
        let mut text = manifests::all(&self.stage.places, weight);
        if self.step == Step::In {
            text += "---\n";
            text += &manifests::pod("bench", "v1-more", "v1", manifests::FLAPPING_POD, "other");
        }
        // In one step: half a file is never read.
        let file = self.stage.mesh_dir().join("bench.yaml");
        let new = self.stage.mesh_dir().join("bench.new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &file)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_grows_is_told_from_memory_that_is_flat() {
        let samples = |mib: fn(f64) -> f64| -> Vec<(f64, f64)> {
            (0..400).map(f64::from).map(|at| (at, mib(at))).collect()
        };
        let flat = Memory::of(&samples(|at| if at < 20.0 { at } else { 20.0 }));
        assert!(
            flat.growth.abs() < 0.1 && flat.slope_per_hour.abs() < 1.0,
            "{flat:?}"
        );
        let leaking = Memory::of(&samples(|at| 20.0 + at / 60.0));
        assert!((leaking.slope_per_hour - 60.0).abs() < 0.1, "{leaking:?}");
        let measured = Measured {
            requests: 5,
            ..Measured::default()
        };
        assert!(judge(&measured, &flat, 400.0).is_ok());
        assert!(judge(&measured, &leaking, 400.0).is_err());
        assert!(judge(&Measured::default(), &flat, 400.0).is_err());
        let failed = Measured {
            failed: 1,
            ..measured
        };
        assert!(judge(&failed, &flat, 400.0).is_err());
    }
}
