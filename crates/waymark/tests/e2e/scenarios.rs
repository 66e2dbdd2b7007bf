//! The scenario suite: the same list against our waypoint and against a stock Envoy; the table is `docs/compat-scenarios.md`.

use std::path::Path;

use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::peers;
use waymark_testkit::scenarios::app::Apps;
use waymark_testkit::scenarios::{Column, Scenario, Site, WAYPOINT, all, manifests, report};

use crate::envoy::everything_is_acknowledged;
use crate::waymark;

#[test]
fn every_scenario_comes_out_as_expected_whoever_serves() {
    let envoy = peers::envoy();
    isolated(|| {
        let scenarios = chosen();
        let apps = Apps::start();
        let mut columns = vec![column("waymark", &scenarios, &apps, &[])];
        if let Some(envoy) = &envoy {
            let binary = format!("envoy={}", envoy.display());
            columns.push(column(
                "envoy",
                &scenarios,
                &apps,
                &["--waypoint-binary", &binary],
            ));
        }
        let (table, failures) = report(&scenarios, &columns);
        say(&table);
        assert!(
            failures.is_empty(),
            "{} of {}:\n{}",
            failures.len(),
            scenarios.len(),
            failures.join("\n")
        );
        if columns.len() == 2 && std::env::var_os(ONLY).is_none() {
            documented(&table);
        }
    });
}

/// Some of them, where the environment says so.
fn chosen() -> Vec<Scenario> {
    let only = std::env::var(ONLY).unwrap_or_default();
    all()
        .into_iter()
        .filter(|scenario| scenario.name.contains(&only))
        .collect()
}

fn column(name: &'static str, scenarios: &[Scenario], apps: &Apps, args: &[&str]) -> Column {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("scenarios.yaml"),
        manifests(scenarios),
    )
    .unwrap();
    let directory = directory.path().to_str().unwrap();
    let mesh = Mesh::start(waymark(), &[&[directory], args].concat());
    let verdicts = (0..)
        .zip(scenarios)
        .map(|(place, scenario)| {
            let host = Scenario::host(place);
            let vip = mesh.service(&host).ip();
            (scenario.run)(&Site::new(host, vip, apps))
        })
        .collect();
    everything_is_acknowledged(&mesh, WAYPOINT);
    Column { name, verdicts }
}

/// The table that is kept has to be this one.
fn documented(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compat-scenarios.md");
    let text = format!("{HEADING}{table}");
    if std::env::var_os("UPDATE_SCENARIOS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/compat-scenarios.md is stale: UPDATE_SCENARIOS=1 cargo test -p waymark --test e2e scenario"
    );
}

#[expect(clippy::print_stderr, reason = "what people look at")]
fn say(text: &str) {
    eprintln!("{text}");
}

const ONLY: &str = "WAYMARK_SCENARIO";
const HEADING: &str = "# Scenarios

Written by the scenario suite; do not edit. The same manifests and requests, behind the same control plane and between the
same node proxies, with our waypoint and with a stock Envoy 1.40 in its place.

";
