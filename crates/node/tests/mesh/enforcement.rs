//! Traffic that does not come from the waypoint in charge.

use waymark_hbone_tokio::ConnectError;
use waymark_proto::extension::{Enforcement, WorkloadExtension};
use waymark_proto::workload::Workload;

use crate::harness::{
    Mesh, Seen, ServiceExt, Waypoint, WorkloadExt, apart, ask, id, node_id, pod, service,
};

/// reviews (20, application at 120) behind VIP 1:80 -> 9080, bound to the waypoint `wp` (30).
async fn bound(enforcement: Enforcement) -> (Mesh, Waypoint) {
    let mesh = Mesh::start();
    let net = mesh.net;
    mesh.app("reviews", net.at(120, 9080)).await;
    let waypoint = mesh.waypoint("wp", net.ip(30)).await;
    let (vip, reviews) = (net.at(1, 80), net.at(20, 9080));
    waypoint.route(vip, reviews);
    waypoint.route(reviews, reviews);
    let replica = Workload {
        native_tunnel: true,
        ..pod("wp", net.ip(30))
    };
    mesh.apply([
        replica.serving("wp", &[(15008, 15008)]).into(),
        service("wp", None, &[(15008, 15008)]).into(),
        pod("productpage", net.ip(10)).into(),
        pod("reviews", net.ip(20))
            .serving("reviews", &[(80, 9080)])
            .extended(apart(net.ip(120), &[9080]))
            .into(),
        service("reviews", Some(net.ip(1)), &[(80, 9080)])
            .behind("wp")
            .enforcing(enforcement)
            .into(),
    ]);
    mesh.captured(net.at(20, 9080)).await;
    mesh.captured(net.at(20, 15008)).await;
    (mesh, waypoint)
}

fn seen(authority: String, principal: &str, mesh: &Mesh) -> Seen {
    Seen {
        authority,
        principal: Some(principal.to_owned()),
        peer: Some(node_id()),
        peer_ip: mesh.net.ip(250),
    }
}

#[tokio::test]
async fn plain_text_takes_the_way_that_the_label_says() {
    for (label, authority) in [
        (Enforcement::Unspecified, Some((20, 9080))),
        (Enforcement::Hairpin, Some((20, 9080))),
        (Enforcement::Service, Some((1, 80))),
    ] {
        let (mesh, waypoint) = bound(label).await;
        let net = mesh.net;
        assert_eq!(
            ask(net.ip(200), net.at(20, 9080), "x").await,
            format!("reviews {} x", net.ip(30)),
            "{label:?}"
        );
        let authority = authority
            .map(|(last, port)| net.at(last, port).to_string())
            .unwrap();
        assert_eq!(
            waypoint.take_seen(),
            [seen(authority, "none", &mesh)],
            "{label:?}"
        );
    }
    let (mesh, waypoint) = bound(Enforcement::Require).await;
    let net = mesh.net;
    assert_eq!(ask(net.ip(200), net.at(20, 9080), "x").await, "");
    assert_eq!(waypoint.take_seen(), []);
    assert!(
        mesh.metric(
            "waymark_enforcement_total",
            &["action=\"refused\"", "reviews.default"]
        ) >= 1
    );

    let (mesh, waypoint) = bound(Enforcement::Off).await;
    let net = mesh.net;
    assert_eq!(
        ask(net.ip(200), net.at(20, 9080), "x").await,
        format!("reviews {} x", net.ip(200))
    );
    assert_eq!(waypoint.take_seen(), []);
    assert!(
        mesh.metric(
            "waymark_enforcement_total",
            &["action=\"off\"", "reviews.default"]
        ) >= 1
    );
}

#[tokio::test]
async fn hbone_that_skips_the_waypoint_is_treated_alike_and_keeps_its_principal() {
    let principal = id("productpage").to_string();
    for (label, authority) in [
        (Enforcement::Hairpin, (20, 9080)),
        (Enforcement::Service, (1, 80)),
    ] {
        let (mesh, waypoint) = bound(label).await;
        let net = mesh.net;
        let direct = net.at(20, 9080).to_string();
        let answer = mesh
            .peer("productpage")
            .ask(net.ip(20), net.ip(10), &direct, "x")
            .await
            .unwrap();
        assert_eq!(answer, format!("reviews {} x", net.ip(30)), "{label:?}");
        let authority = net.at(authority.0, authority.1).to_string();
        assert_eq!(
            waypoint.take_seen(),
            [seen(authority, &principal, &mesh)],
            "{label:?}"
        );
        let action = if label == Enforcement::Service {
            "action=\"service\""
        } else {
            "action=\"hairpin\""
        };
        assert_eq!(
            mesh.metric(
                "waymark_enforcement_total",
                &[action, "mutual_tls", "reviews.default"]
            ),
            1
        );
    }
    let (mesh, _) = bound(Enforcement::Require).await;
    let net = mesh.net;
    let direct = net.at(20, 9080).to_string();
    match mesh
        .peer("productpage")
        .connect(net.ip(20), net.ip(10), &direct)
        .await
    {
        Err(ConnectError::Status(status)) => assert_eq!(status.as_u16(), 401),
        other => panic!("{:?}", other.err()),
    }
    let (mesh, waypoint) = bound(Enforcement::Off).await;
    let net = mesh.net;
    let direct = net.at(20, 9080).to_string();
    let answer = mesh
        .peer("productpage")
        .ask(net.ip(20), net.ip(10), &direct, "x")
        .await
        .unwrap();
    assert_eq!(answer, format!("reviews {} x", net.ip(10)));
    assert_eq!(waypoint.take_seen(), []);
}

#[tokio::test]
async fn a_pod_of_the_mesh_that_addresses_the_bound_pod_is_sent_round() {
    let (mesh, waypoint) = bound(Enforcement::Hairpin).await;
    let net = mesh.net;
    assert_eq!(
        ask(net.ip(10), net.at(20, 9080), "x").await,
        format!("reviews {} x", net.ip(30))
    );
    let principal = id("productpage").to_string();
    assert_eq!(
        waypoint.take_seen(),
        [seen(net.at(20, 9080).to_string(), &principal, &mesh)]
    );
}

#[tokio::test]
async fn a_workload_bound_waypoint_is_taken_by_the_client_already() {
    let (mesh, waypoint) = bound(Enforcement::Require).await;
    let net = mesh.net;
    mesh.apply([pod("reviews", net.ip(20))
        .behind("wp")
        .serving("reviews", &[(80, 9080)])
        .extended(apart(net.ip(120), &[9080]))
        .into()]);
    assert_eq!(
        ask(net.ip(10), net.at(20, 9080), "x").await,
        format!("reviews {} x", net.ip(30))
    );
    let seen = waypoint.take_seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].peer.clone(), seen[0].principal.clone()),
        (Some(id("productpage")), None)
    );
}

#[tokio::test]
async fn probes_pass() {
    let (mesh, waypoint) = bound(Enforcement::Require).await;
    let net = mesh.net;
    let probed = WorkloadExtension {
        probe_ports: vec![9080],
        ..apart(net.ip(120), &[9080])
    };
    mesh.apply([pod("reviews", net.ip(20))
        .serving("reviews", &[(80, 9080)])
        .extended(probed)
        .into()]);
    assert_eq!(
        ask(net.ip(200), net.at(20, 9080), "x").await,
        format!("reviews {} x", net.ip(200))
    );
    assert_eq!(waypoint.take_seen(), []);
    assert_eq!(
        mesh.metric("waymark_enforcement_total", &["action=\"probe\""]),
        1
    );
}

#[tokio::test]
async fn without_its_waypoint_a_bound_pod_is_not_reached() {
    let (mesh, _waypoint) = bound(Enforcement::Hairpin).await;
    let net = mesh.net;
    mesh.remove(&crate::harness::uid("wp"));
    assert_eq!(ask(net.ip(200), net.at(20, 9080), "x").await, "");
    match mesh
        .peer("productpage")
        .connect(net.ip(20), net.ip(10), &net.at(20, 9080).to_string())
        .await
    {
        Err(ConnectError::Status(status)) => assert_eq!(status.as_u16(), 503),
        other => panic!("{:?}", other.err()),
    }
}
