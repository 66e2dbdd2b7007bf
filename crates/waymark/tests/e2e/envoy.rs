//! Swapped parts: a stock Envoy as the waypoint, behind our control plane and between our node proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use waymark_testkit::http;
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::peers;
use waymark_testkit::wait::until;

use crate::bookinfo::{foreigners_are_refused, plain_text_is_refused};
use crate::config::{Load, ROUTING};
use crate::{WAYPOINT, percent_v2, waymark};

/// Bookinfo with Envoy as the waypoint of reviews; `None` where there is no Envoy, which was said.
fn bookinfo(envoy: &Path, env: &[(&str, &str)]) -> Mesh {
    let binary = format!("envoy={}", envoy.display());
    Mesh::start_with(waymark(), &["--waypoint-binary", &binary], env)
}

/// Envoy's own numbers whose names match.
fn stats(admin: SocketAddr, filter: &str) -> Vec<(String, u64)> {
    let answer = http::get(None, admin, &format!("/stats?filter={filter}")).unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

pub(crate) fn stat(admin: SocketAddr, name: &str) -> u64 {
    let found = stats(admin, &format!("^{name}$"));
    found
        .iter()
        .find(|(n, _)| n == name)
        .map_or(0, |(_, value)| *value)
}

/// Nothing that was sent was refused, and all of it was taken: by Envoy's word and by the control plane's.
fn nothing_was_refused(mesh: &Mesh) {
    let admin = mesh.waypoint_admin(WAYPOINT);
    let refused = stats(admin, "update_(rejected|failure)$");
    assert!(!refused.is_empty());
    for (name, count) in refused {
        assert_eq!(count, 0, "{name}");
    }
    everything_is_acknowledged(mesh, WAYPOINT);
}

/// What the control plane sent to a waypoint was taken, by its own word.
pub(crate) fn everything_is_acknowledged(mesh: &Mesh, waypoint: &str) {
    everything_is_acknowledged_by(mesh.debug(), waypoint);
}

/// What the control plane with these debug endpoints sent to a waypoint was taken, by its own word.
pub(crate) fn everything_is_acknowledged_by(debug: SocketAddr, waypoint: &str) {
    until("everything is acknowledged", Duration::from_secs(5), || {
        let syncz = http::get(None, debug, "/debug/syncz").ok()?.json();
        let waypoint = syncz
            .as_array()?
            .iter()
            .find(|proxy| {
                proxy["proxy"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(waypoint))
            })?
            .clone();
        let resources = waypoint["resources"].as_object()?;
        let settled = resources
            .values()
            .all(|r| r["sent"] == r["acked"] && r["error"] == Value::Null);
        (resources.len() == 4 && settled).then_some(())
    });
}

#[test]
fn a_stock_envoy_serves_the_canary_and_new_weights_cost_no_request() {
    let Some(envoy) = peers::envoy() else { return };
    isolated(|| {
        let mesh = bookinfo(&envoy, &[]);
        let (admin, reviews) = (mesh.waypoint_admin(WAYPOINT), mesh.service("reviews"));
        for (from, n) in [(Some("productpage-v1"), 2000), (None, 1000)] {
            let counts = mesh.split(from, reviews, n);
            let share = percent_v2(&counts);
            assert!((6.0..=14.0).contains(&share), "{share} % of {counts:?}");
            assert!(!counts.contains_key("reviews-v3"), "{counts:?}");
        }
        let hbone = SocketAddr::new(admin.ip(), 15008);
        plain_text_is_refused(hbone);
        foreigners_are_refused(&mesh, hbone, &reviews.to_string());

        let load = Load::start(&mesh, 500);
        until("load is flowing", Duration::from_secs(10), || {
            (load.counts().0 > 500).then_some(())
        });
        for (v1, v2) in [(50, 50), (20, 80), (100, 0), (0, 100)] {
            mesh.edit(ROUTING, |text| with_weights(&text, v1, v2));
            let (before, _) = (load.counts(), ());
            until("the new split is in force", Duration::from_secs(5), || {
                let now = load.counts();
                let all = (now.0 + now.1).saturating_sub(before.0 + before.1);
                let share = (now.1 - before.1) * 100 / all.max(1);
                (all > 200 && share.abs_diff(v2) < 15).then_some(())
            });
        }
        let (answered, failed) = load.stop();
        assert_eq!(failed, 0, "of {answered}");
        nothing_was_refused(&mesh);
        // The weights came as routes alone: no listener was made anew, no connection drained.
        assert_eq!(stat(admin, "listener_manager.listener_modified"), 0);
        assert_eq!(
            stat(admin, "listener_manager.total_filter_chains_draining"),
            0
        );
        let reloads = stats(admin, "rds.*config_reload$");
        assert!(reloads.iter().any(|(_, n)| *n >= 4), "{reloads:?}");
    });
}

#[test]
fn a_rotated_certificate_costs_no_request() {
    let Some(envoy) = peers::envoy() else { return };
    isolated(|| {
        let mesh = bookinfo(&envoy, &[("WAYMARK_AGENT_CERT_TTL_SECONDS", "6")]);
        let admin = mesh.waypoint_admin(WAYPOINT);
        let updates = || -> u64 {
            let all = stats(admin, r"^listener\..*\.ssl_context_update_by_sds$");
            all.iter().map(|(_, n)| n).sum()
        };
        let load = Load::start(&mesh, 200);
        // Each certificate lasts six seconds and is renewed after three.
        let before = updates();
        until("three rotations", Duration::from_secs(30), || {
            (updates() >= before + 3).then_some(())
        });
        let (answered, failed) = load.stop();
        assert!(answered > 500, "{answered}");
        assert_eq!(failed, 0, "of {answered}");
        nothing_was_refused(&mesh);
    });
}

#[test]
fn an_agent_that_is_killed_takes_envoy_along_and_both_come_back() {
    let Some(envoy) = peers::envoy() else { return };
    isolated(|| {
        let mesh = bookinfo(&envoy, &[]);
        let first = mesh.waypoint_pid(WAYPOINT).unwrap();
        Mesh::signal(first, Signal::KILL);
        until("another agent serves", Duration::from_secs(15), || {
            let now = mesh.waypoint_pid(WAYPOINT)?;
            let answer = mesh.get(
                Some("productpage-v1"),
                mesh.service("reviews"),
                "/reviews/0",
            );
            (now != first && answer.is_ok_and(|a| a.status == 200)).then_some(())
        });
        nothing_was_refused(&mesh);
    });
}

#[test]
fn each_gateway_chooses_who_serves_it() {
    let Some(envoy) = peers::envoy() else { return };
    isolated(|| {
        let path = envoy.display().to_string();
        let mesh = Mesh::start_with(
            waymark(),
            &[
                "--controlplane-arg=--envoy",
                &format!("--controlplane-arg={path}"),
            ],
            &[],
        );
        let admin = mesh.waypoint_admin(WAYPOINT);
        assert!(!is_envoy(admin));
        mesh.edit("waypoint-default-bookinfo-reviews.yaml", |text| {
            text.replacen(
                "annotations:\n",
                "annotations:\n    waymark.dev/waypoint-binary: envoy\n",
                1,
            )
        });
        until("envoy serves", Duration::from_secs(20), || {
            let ready = mesh.current()["waypoints"]
                .as_array()
                .is_some_and(|w| !w.is_empty());
            (ready && is_envoy(admin)).then_some(())
        });
        until("requests pass", Duration::from_secs(10), || {
            let answer = mesh
                .get(
                    Some("productpage-v1"),
                    mesh.service("reviews"),
                    "/reviews/0",
                )
                .ok()?;
            (answer.status == 200).then_some(())
        });
    });
}

/// Envoy tells its version by commit, number and TLS library.
fn is_envoy(admin: SocketAddr) -> bool {
    http::get(None, admin, "/server_info").is_ok_and(|answer| {
        answer.json()["version"]
            .as_str()
            .is_some_and(|version| version.contains("/1.40.0/") && version.contains("BoringSSL"))
    })
}

/// The manifest with these weights of v1 and v2.
fn with_weights(text: &str, v1: u64, v2: u64) -> String {
    let mut weights = [v1, v2].into_iter();
    text.lines()
        .map(|line| match line.split_once("weight:") {
            Some((before, _)) => {
                format!("{before}weight: {}\n", weights.next().expect("two weights"))
            }
            None => format!("{line}\n"),
        })
        .collect()
}
