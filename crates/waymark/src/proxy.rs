//! `waymark proxy waypoint`: the arguments of the container that istiod deploys as a waypoint. In its image this program
//! stands for all that is there.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use waymark_rt::log::{LevelSpec, LogFormat, LogOptions};
use waymark_waypoint::pod::{Pod, PodArgs};

use crate::{fail, roles};

/// Arguments of `proxy`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// A waypoint, in a pod.
    Waypoint(Box<WaypointArgs>),
}

#[derive(Debug, Args)]
struct WaypointArgs {
    #[command(flatten)]
    pod: PodArgs,
    /// Level of the proxy's own lines, as Envoy names levels
    #[arg(
        long = "proxyLogLevel",
        default_value = "warning",
        value_name = "LEVEL"
    )]
    proxy_log_level: String,
    /// Levels by component of Envoy: accepted, there are none here
    #[arg(long = "proxyComponentLogLevel", value_name = "COMPONENT:LEVEL,...")]
    proxy_component_log_level: Option<String>,
    /// Level of all other lines: that of the scope `default`
    #[arg(
        long = "log_output_level",
        default_value = "default:info",
        value_name = "SCOPE:LEVEL,..."
    )]
    log_output_level: String,
    /// Lines are JSON objects
    #[arg(long = "log_as_json", num_args = 0..=1, default_missing_value = "true", default_value = "false", value_name = "BOOL", action = clap::ArgAction::Set)]
    log_as_json: bool,
    /// Where Envoy logs ejected hosts: accepted, the log has them
    #[arg(long = "outlierLogPath", value_name = "FILE")]
    outlier_log_path: Option<String>,
}

pub(crate) fn run(args: ProxyArgs) -> ExitCode {
    let Kind::Waypoint(args) = args.kind;
    let level = match levels(&args.log_output_level, &args.proxy_log_level).parse::<LevelSpec>() {
        Ok(level) => level,
        Err(error) => return fail(&error, None, 64),
    };
    let options = LogOptions {
        format: if args.log_as_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        level,
        ..LogOptions::default()
    };
    let log = match waymark_rt::log::init(options) {
        Ok(log) => log,
        Err(error) => return fail(&error, None, 1),
    };
    for (flag, value) in [
        ("--proxyComponentLogLevel", &args.proxy_component_log_level),
        ("--outlierLogPath", &args.outlier_log_path),
    ] {
        if let Some(value) = value {
            tracing::debug!(flag, value, "flag of Envoy does nothing here");
        }
    }
    roles::waypoint(
        &waymark_waypoint::Args::default(),
        Some(&Pod::of_process(args.pod)),
        log,
    )
}

/// The agent's level for everything, and the proxy's where it says more: what the agent tells (ready, connected) is told
/// here by the proxy itself.
fn levels(agent: &str, proxy: &str) -> String {
    let default = agent
        .split(',')
        .find_map(|part| match part.trim().split_once(':') {
            None => Some(part.trim()),
            Some(("default" | "all", level)) => Some(level),
            Some(_) => None,
        });
    let base = ours(default.unwrap_or("info"));
    match proxy {
        "debug" | "trace" => format!("{base},waymark_waypoint={proxy},waymark_hbone={proxy}"),
        _ => base.to_owned(),
    }
}

/// Upstream's names of levels.
fn ours(level: &str) -> &str {
    match level {
        "warning" => "warn",
        "critical" | "fatal" => "error",
        "none" => "off",
        level => level,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_of_the_agent_unless_the_proxy_says_more() {
        for (agent, proxy, want) in [
            ("default:info", "warning", "info"),
            ("default:warning,xds:debug", "warning", "warn"),
            ("ads:debug", "info", "info"),
            ("debug", "off", "debug"),
            (
                "default:none",
                "trace",
                "off,waymark_waypoint=trace,waymark_hbone=trace",
            ),
        ] {
            let levels = levels(agent, proxy);
            assert_eq!(levels, want);
            assert!(levels.parse::<LevelSpec>().is_ok(), "{levels}");
        }
    }
}
