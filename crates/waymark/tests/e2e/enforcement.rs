//! What reaches a pod that has a waypoint without coming from it: the label `istio.io/waypoint-enforcement`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use waymark_testkit::hbone::{Client, DialError, Issuer};
use waymark_testkit::http;
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until_or;

use crate::{WAYPOINT, block_on, waymark};

const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";

/// What 20 requests to one pod met.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    /// That pod, by way of the waypoint.
    PodThroughWaypoint,
    /// That pod, not by way of the waypoint.
    PodDirectly,
    /// Several pods, by way of the waypoint.
    Canary,
    /// Nobody.
    Refused,
    /// Now this, now that: the mode changed meanwhile.
    Mixed,
}

#[test]
fn every_mode_decides_for_plain_text_and_for_hbone_alike() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        for (mode, want) in [
            ("", Met::PodThroughWaypoint),
            ("hairpin", Met::PodThroughWaypoint),
            ("service", Met::Canary),
            ("require", Met::Refused),
            ("off", Met::PodDirectly),
        ] {
            label_gateway(&mesh, mode);
            let mut met = None;
            let in_force = until_or(Duration::from_secs(10), || {
                met = Some(plain_text(&mesh));
                met.as_ref() == Some(&want)
            });
            assert!(
                in_force,
                "plain text, mode {mode:?}: {met:?}, want {want:?}"
            );
            assert_eq!(
                hbone(&mesh),
                want,
                "HBONE that skips the waypoint, mode {mode:?}"
            );
        }
    });
}

/// Sets the label on the Gateway document; empty: takes it away.
fn label_gateway(mesh: &Mesh, mode: &str) {
    let file = mesh
        .manifests()
        .join("waypoint-default-bookinfo-reviews.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    let bare: String = before
        .split_inclusive('\n')
        .filter(|line| !line.contains("labels:") && !line.contains("waypoint-enforcement"))
        .collect();
    let after = match mode {
        "" => bare,
        mode => bare.replace(
            "  name: bookinfo-reviews\n",
            &format!(
                "  labels:\n    istio.io/waypoint-enforcement: {mode}\n  name: bookinfo-reviews\n"
            ),
        ),
    };
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, after).unwrap();
    std::fs::rename(temporary, file).unwrap();
}

fn plain_text(mesh: &Mesh) -> Met {
    let pod = SocketAddr::new(mesh.pod("reviews-v1"), 9080);
    judge(mesh, || {
        http::get(None, pod, "/reviews/0").ok().map(|a| a.body)
    })
}

fn hbone(mesh: &Mesh) -> Met {
    let pod = mesh.pod("reviews-v1");
    let leaf = Issuer::of_mesh(mesh.state()).leaf(PRODUCTPAGE);
    let source = mesh.pod("productpage-v1");
    judge(mesh, || {
        let exchanged: Result<Vec<u8>, DialError> = block_on(async {
            let mut client =
                Client::connect(Some(source), SocketAddr::new(pod, 15008), Some(&leaf)).await?;
            let request = b"GET /reviews/0 HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
            client.exchange(&format!("{pod}:9080"), &[], request).await
        });
        let bytes = exchanged.ok()?;
        let at = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        Some(bytes[at + 4..].to_vec())
    })
}

fn judge(mesh: &Mesh, mut ask: impl FnMut() -> Option<Vec<u8>>) -> Met {
    let before = requests_through_waypoint(mesh);
    let mut pods = std::collections::BTreeSet::new();
    let mut answered = 0;
    for _ in 0..120 {
        let Some(body) = ask() else { continue };
        // Chunked or not, the JSON is somewhere in the text.
        let text = String::from_utf8_lossy(&body).into_owned();
        let json = &text[text.find('{').unwrap_or(0)..text.rfind('}').map_or(0, |i| i + 1)];
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        if let Some(pod) = value["podname"].as_str() {
            answered += 1;
            pods.insert(pod.to_owned());
        }
    }
    let through = requests_through_waypoint(mesh) - before;
    match (answered, pods.len(), through) {
        (0, ..) => Met::Refused,
        (_, 1, 0) if pods.contains("reviews-v1") => Met::PodDirectly,
        (n, 1, through) if through >= n && pods.contains("reviews-v1") => Met::PodThroughWaypoint,
        (n, _, through) if through >= n && pods.len() > 1 => Met::Canary,
        _ => Met::Mixed,
    }
}

/// Requests that the waypoint has forwarded, over all clusters (those to a pod's own address go to `encap`).
fn requests_through_waypoint(mesh: &Mesh) -> u64 {
    let stats = http::get(None, mesh.waypoint_admin(WAYPOINT), "/stats").unwrap();
    String::from_utf8(stats.body)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(".upstream_rq_total: "))
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum()
}
