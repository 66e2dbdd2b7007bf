//! The scenario suite: the same list against our waypoint and against a stock Envoy; the table is `docs/compat-scenarios.md`.

use std::net::SocketAddr;
use std::path::Path;

use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::peers::{self, Interop};
use waymark_testkit::scenarios::app::Apps;
use waymark_testkit::scenarios::{
    Column, FORMAT, Ground, Scenario, WAYPOINT, all, files, needs_interop, report, verdicts,
};

use crate::envoy::everything_is_acknowledged;
use crate::waymark;

#[test]
fn every_scenario_comes_out_as_expected_whoever_serves() {
    let (envoy, interop) = (peers::envoy(), peers::grpc_interop());
    isolated(|| {
        let scenarios = chosen(interop.is_some());
        let whole = scenarios.len() == all().len();
        let _server = interop.as_ref().map(|programs| programs.serve(10_000));
        let apps = Apps::start();
        let column = |name, args: &[&str]| column(name, &scenarios, (&apps, &interop), args);
        let mut columns = vec![column("waymark", &[])];
        if let Some(envoy) = &envoy {
            let binary = format!("envoy={}", envoy.display());
            columns.push(column("envoy", &["--waypoint-binary", &binary]));
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
        if columns.len() == 2 && whole {
            documented(&table);
        }
    });
}

/// Some of them, where the environment says so, and those whose programs are there.
fn chosen(interop: bool) -> Vec<Scenario> {
    let only = std::env::var(ONLY).unwrap_or_default();
    all()
        .into_iter()
        .filter(|scenario| scenario.name.contains(&only))
        .filter(|scenario| interop || !needs_interop(scenario))
        .collect()
}

fn column(
    name: &'static str,
    scenarios: &[Scenario],
    (apps, interop): (&Apps, &Option<Interop>),
    args: &[&str],
) -> Column {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("mesh");
    std::fs::create_dir(&manifests).unwrap();
    for (file, text) in files(scenarios) {
        std::fs::write(manifests.join(file), text).unwrap();
    }
    let access_log = directory.path().join("access.log");
    let settings = [
        format!(
            "--controlplane-arg=--access-log-file={}",
            access_log.display()
        ),
        format!("--controlplane-arg=--access-log-format={FORMAT}"),
    ];
    let mut all_args = vec![manifests.to_str().unwrap()];
    all_args.extend(settings.iter().map(String::as_str));
    all_args.extend(args);
    let mesh = Mesh::start(waymark(), &all_args);
    let admin = mesh.waypoint_admin(WAYPOINT);
    let ground = Ground {
        apps: apps.clone(),
        waypoint: SocketAddr::new(admin.ip(), 15008),
        admin,
        state: mesh.state().to_owned(),
        manifests,
        interop: interop.clone(),
    };
    let verdicts = verdicts(scenarios, &ground, &access_log, |host| {
        mesh.service(host).ip()
    });
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
