//! `analyze distribution`: how much configuration is sent, against a sidecar mesh.

use clap::Args;
use serde_json::Value;

use crate::error::CliError;
use crate::mesh::{self, get_json};
use crate::printer::{Format, structured};
use crate::table::Table;
use crate::{Context, Global};

/// Builds a mesh of that size in the control plane's own index and counts it: the report as JSON, as the control plane's
/// `/debug/distribution` gives it.
pub type Simulator = dyn Fn(Size) -> Result<Value, String>;

/// A mesh to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Namespaces.
    pub namespaces: u32,
    /// Deployments (with a service) a namespace.
    pub deployments: u32,
    /// Pods a deployment.
    pub pods: u32,
    /// Replicas of each namespace's waypoint.
    pub waypoint_replicas: u32,
}

#[derive(Debug, Clone, Args)]
pub(super) struct DistributionArgs {
    /// Count a mesh of this size instead of the running one:
    /// namespaces=2,deployments=25,pods=10,waypoint-replicas=2.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    simulate: Option<Size>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

/// Most pods that a simulated mesh may have.
const MOST_PODS: u64 = 1_000_000;

fn parse_size(text: &str) -> Result<Size, String> {
    let mut size = Size {
        namespaces: 0,
        deployments: 0,
        pods: 0,
        waypoint_replicas: 0,
    };
    for part in text.split(',') {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("\"{part}\" is not key=number"))?;
        let value = value
            .parse::<u32>()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("{key}: \"{value}\" is not a number above 0"))?;
        match key {
            "namespaces" => size.namespaces = value,
            "deployments" => size.deployments = value,
            "pods" => size.pods = value,
            "waypoint-replicas" => size.waypoint_replicas = value,
            other => {
                return Err(format!(
                    "unknown key \"{other}\" (namespaces, deployments, pods, waypoint-replicas)"
                ));
            }
        }
    }
    for (key, value) in [
        ("namespaces", size.namespaces),
        ("deployments", size.deployments),
        ("pods", size.pods),
        ("waypoint-replicas", size.waypoint_replicas),
    ] {
        if value == 0 {
            return Err(format!("{key} is missing"));
        }
    }
    let pods = u64::from(size.namespaces) * u64::from(size.deployments) * u64::from(size.pods);
    if pods > MOST_PODS {
        return Err(format!(
            "{pods} pods are more than this command builds ({MOST_PODS})"
        ));
    }
    Ok(size)
}

pub(super) async fn run(
    global: &Global,
    args: DistributionArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    let report = match args.simulate {
        Some(size) => (cx.simulate)(size).map_err(CliError::Data)?,
        None => {
            let mesh = mesh::open(global, cx.err).await?;
            let peers = mesh.control_planes(None).await?;
            let first = peers.first().expect("there is at least one");
            get_json(&*mesh, first, "debug/distribution").await?
        }
    };
    let text = match args.output {
        Format::Table => tables(&report),
        Format::Json | Format::Yaml => structured(&report, args.output),
    };
    cx.out.write_all(text.as_bytes()).map_err(CliError::Output)
}

fn tables(report: &Value) -> String {
    let mut table = Table::new(3);
    table.row(["CONFIG DISTRIBUTION", "TOTAL", "BY NAMESPACE"]);
    for row in report["rows"].as_array().into_iter().flatten() {
        let by_namespace: Vec<String> = row["namespaces"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(ns, n)| format!("{ns} {n}"))
            .collect();
        let mut shown = by_namespace
            .iter()
            .take(4)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if by_namespace.len() > 4 {
            shown.push_str(&format!(" + {} more...", by_namespace.len() - 4));
        }
        table.row([
            label(row["name"].as_str().unwrap_or("")),
            &row["configurations"].to_string(),
            &shown,
        ]);
    }
    for ratio in report["ratios"].as_array().into_iter().flatten() {
        let value = ratio["percent"].as_f64().unwrap_or(0.0);
        table.row([
            label(ratio["name"].as_str().unwrap_or("")),
            &format!("{} %", short_number(value)),
            "",
        ]);
    }
    let mut text = table.render();
    let sent = report["sent"].as_array().map_or(&[][..], Vec::as_slice);
    if !sent.is_empty() {
        let mut table = Table::new(3);
        table.row(["SENT TO", "RESOURCES", "BYTES"]);
        for row in sent {
            table.row([
                row["proxy"].as_str().unwrap_or("").to_owned(),
                row["resources"].to_string(),
                row["bytes"].to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

fn label(name: &str) -> &str {
    match name {
        "sidecarsOwnNamespace" => "Sidecars that know their own namespace",
        "sidecarsWholeMesh" => "Sidecars that know the whole mesh",
        "waypoints" => "Waypoints",
        "waypointsToSidecarsOwnNamespace" => "Waypoints / sidecars of own namespace",
        "waypointsToSidecarsWholeMesh" => "Waypoints / sidecars of whole mesh",
        other => other,
    }
}

/// At most one decimal place, none when it would be 0.
fn short_number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_names_what_is_wrong() {
        assert_eq!(
            parse_size("namespaces=2,deployments=25,pods=10,waypoint-replicas=2"),
            Ok(Size {
                namespaces: 2,
                deployments: 25,
                pods: 10,
                waypoint_replicas: 2
            })
        );
        for (text, want) in [
            ("namespaces", "is not key=number"),
            ("namespaces=0", "not a number above 0"),
            ("pods=1,x=2", "unknown key \"x\""),
            (
                "namespaces=1,deployments=1,pods=1",
                "waypoint-replicas is missing",
            ),
            (
                "namespaces=1000,deployments=1000,pods=1000,waypoint-replicas=1",
                "more than this command builds",
            ),
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn prints_rows_ratios_and_what_was_sent() {
        let report = serde_json::json!({
            "rows": [{"name": "sidecarsOwnNamespace", "configurations": 12500, "namespaces": {"a": 6250, "b": 6250}},
                {"name": "waypoints", "configurations": 100, "namespaces": {"a": 50, "b": 50}}],
            "ratios": [{"name": "waypointsToSidecarsOwnNamespace", "percent": 0.8}],
            "sent": [{"proxy": "waypoint-0.a", "resources": 9, "bytes": 1234}]});
        let text = tables(&report);
        for want in [
            "12500   a 6250, b 6250",
            "0.8 %",
            "waypoint-0.a   9           1234",
        ] {
            assert!(text.contains(want), "{want}:\n{text}");
        }
    }
}
