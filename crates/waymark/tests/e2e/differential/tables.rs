//! What the operator sees of both proxies is the same: the tables of `proxy-config`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use waymark_testkit::wait::until_or;

use super::pair::{NAMES, OWN_ADDRESSES, Pair};
use crate::waymark;

/// The tables, with the admin path that they are made of.
const TABLES: [(&[&str], &str); 9] = [
    (&["cluster"], CONFIG_DUMP),
    (&["listener"], CONFIG_DUMP),
    (&["listener", "--verbose"], CONFIG_DUMP),
    (&["listener", "--waypoint"], CONFIG_DUMP),
    (&["route"], CONFIG_DUMP),
    (&["route", "--verbose"], CONFIG_DUMP),
    (&["endpoint"], "/clusters?format=json"),
    (&["secret"], CONFIG_DUMP),
    (&["all"], CONFIG_DUMP),
];
const CONFIG_DUMP: &str = "/config_dump?include_eds";

/// What rows have that nobody sent: listeners for readiness and metrics, the clusters that lead to agent and control plane,
/// name and version, and the destinations that Envoy makes endpoints of `connect_originate` as they are asked for.
const NOT_SENT: [&str; 11] = [
    "/stats/prometheus",
    "/healthz/ready",
    "sds-grpc",
    "xds-grpc",
    "OK connect_originate",
    "HEALTHY connect_originate",
    "HEALTHY agent",
    "HEALTHY prometheus_stats",
    "Version:",
    "Node ID:",
    "Envoy",
];

/// How long Envoy may show the routes of a listener that it drains.
const DRAIN: Duration = Duration::from_secs(60);

/// Renders what both have.
pub(super) fn are_equal(pair: &Pair) {
    for (args, path) in TABLES {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        until_or(DRAIN, || {
            [ours, theirs] = pair.dumps(path).map(|file| table(args, file.path()));
            ours == theirs
        });
        let missing = |of: &[String], from: &[String]| -> Vec<String> {
            let lines = of.iter().filter(|line| !from.contains(line));
            lines.cloned().collect()
        };
        assert!(
            ours == theirs,
            "proxy-config {args:?}\n  only {}: {:#?}\n  only {}: {:#?}",
            NAMES[0],
            missing(&ours, &theirs),
            NAMES[1],
            missing(&theirs, &ours)
        );
        assert!(ours.len() > 1, "proxy-config {args:?}: {ours:?}");
    }
}

/// The rows of a table, their cells apart by single spaces.
fn table(args: &[&str], dump: &Path) -> Vec<String> {
    let output = Command::new(waymark())
        .arg("proxy-config")
        .args(args)
        .arg("--file")
        .arg(dump)
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<String> = text.lines().filter_map(row).collect();
    if matches!(args[0], "route" | "all") {
        // As istioctl, these show routes in the order of the dump, and Envoy's has none.
        rows.sort();
    }
    rows
}

/// A row without what belongs to the proxy rather than to what it was sent; `None` when nothing is left.
fn row(line: &str) -> Option<String> {
    let mut cells: Vec<&str> = line.split_whitespace().collect();
    // Each has a certificate of its own: what it is, not which.
    if let [.., "true", _, _, _] = cells[..] {
        cells.truncate(cells.len() - 3);
    }
    let mut row = cells.join(" ");
    if NOT_SENT.iter().any(|words| row.contains(words)) {
        return None;
    }
    for own in OWN_ADDRESSES {
        row = row.replace(&own.to_string(), "0.0.0.0");
    }
    Some(row)
}
