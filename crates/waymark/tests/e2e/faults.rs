//! Processes that are killed.

use std::time::Duration;

use rustix::process::Signal;
use waymark_testkit::http;
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until;

use crate::{WAYPOINT, waymark};

#[test]
fn a_killed_waypoint_is_back_within_two_seconds() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let reviews = mesh.service("reviews");
        let _ = mesh.split(Some("productpage-v1"), reviews, 50);
        let pid = mesh.waypoint_pid(WAYPOINT).unwrap();
        Mesh::signal(pid, Signal::KILL);
        let ((), took) = until("traffic flows again", Duration::from_secs(10), || {
            let answer = mesh
                .get(Some("productpage-v1"), reviews, "/reviews/0")
                .ok()?;
            (answer.status == 200 && mesh.waypoint_pid(WAYPOINT) != Some(pid)).then_some(())
        });
        assert!(took < Duration::from_secs(2), "after {took:?}");
        let _ = mesh.split(Some("productpage-v1"), reviews, 200);
    });
}

#[test]
fn traffic_goes_on_without_a_control_plane_and_nothing_is_sent_twice_when_it_is_back() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let reviews = mesh.service("reviews");
        let waypoint = mesh.waypoint_pid(WAYPOINT).unwrap();
        let pid = u32::try_from(mesh.info["controlPlane"]["pid"].as_u64().unwrap()).unwrap();
        Mesh::signal(pid, Signal::KILL);
        let _ = mesh.split(Some("productpage-v1"), reviews, 300);
        let (connections, _) = until(
            "the control plane is back and everybody has come back to it",
            Duration::from_secs(20),
            || {
                let sent = http::get(None, mesh.debug(), "/debug/distribution")
                    .ok()?
                    .json();
                let sent = sent["sent"].as_array()?.clone();
                (sent.len() >= 2).then_some(sent)
            },
        );
        // Everybody holds what the control plane would send: not one resource goes out again.
        for connection in &connections {
            assert_eq!(connection["resources"], 0, "sent again: {connections:?}");
        }
        assert_eq!(
            mesh.waypoint_pid(WAYPOINT),
            Some(waypoint),
            "the waypoint was adopted, not started again"
        );
        let _ = mesh.split(Some("productpage-v1"), reviews, 300);
        // And it reconciles: an edit made now arrives.
        mesh.edit("reviews-routing.yaml", |text| {
            text.replace("weight: 90", "weight: 0")
                .replace("weight: 10", "weight: 100")
        });
        until("the edit is in force", Duration::from_secs(10), || {
            let answer = mesh
                .get(Some("productpage-v1"), reviews, "/reviews/0")
                .ok()?;
            (answer.json()["podname"] == "reviews-v2").then_some(())
        });
    });
}

#[test]
fn a_killed_node_proxy_and_a_killed_pod_come_back() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let reviews = mesh.service("reviews");
        let pid = u32::try_from(mesh.info["node"]["pid"].as_u64().unwrap()).unwrap();
        Mesh::signal(pid, Signal::KILL);
        until("traffic flows again", Duration::from_secs(15), || {
            let answer = mesh
                .get(Some("productpage-v1"), reviews, "/reviews/0")
                .ok()?;
            (answer.status == 200).then_some(())
        });
    });
}
