//! Listeners follow the state.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use waymark_node::capture::Capture;

use crate::harness::{Mesh, Net, WorkloadExt, apart, ask, connect, eventually, pod, service, uid};

async fn gone(net: Net, last: u8, port: u16) {
    eventually("the listener is closed", || async move {
        connect(net.ip(200), net.at(last, port))
            .await
            .is_err()
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn listeners_come_and_go_without_disturbing_others() {
    let mesh = Mesh::start();
    let net = mesh.net;
    mesh.app("a", net.at(120, 9080)).await;
    let a = || {
        pod("a", net.ip(20))
            .serving("a", &[(80, 9080)])
            .extended(apart(net.ip(120), &[9080]))
    };
    mesh.apply([
        a().into(),
        service("a", Some(net.ip(1)), &[(80, 9080)]).into(),
    ]);
    mesh.captured(net.at(1, 80)).await;
    let mut open = connect(net.ip(200), net.at(1, 80)).await.unwrap();
    open.write_all(b"he").await.unwrap();
    eventually("the connection is established", || async {
        (mesh.telemetry.connections.len() == 2).then_some(())
    })
    .await;

    // A port more, then another address.
    mesh.apply([service("a", Some(net.ip(1)), &[(80, 9080), (81, 9080)]).into()]);
    mesh.captured(net.at(1, 81)).await;
    mesh.apply([service("a", Some(net.ip(2)), &[(80, 9080)]).into()]);
    mesh.captured(net.at(2, 80)).await;
    gone(net, 1, 81).await;
    gone(net, 1, 80).await;

    // A target port that only the service knows is captured at its pods.
    mesh.apply([pod("a", net.ip(20))
        .serving("a", &[])
        .extended(apart(net.ip(120), &[]))
        .into()]);
    mesh.apply([service("a", Some(net.ip(2)), &[(80, 7070)]).into()]);
    mesh.captured(net.at(20, 7070)).await;
    gone(net, 20, 9080).await;

    // The workload goes, the service stays.
    mesh.remove(&uid("a"));
    gone(net, 20, 15008).await;
    mesh.captured(net.at(2, 80)).await;

    // The connection that was open all the time is as it was.
    open.write_all(b"llo").await.unwrap();
    open.shutdown().await.unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, format!("a {} hello", net.ip(200)));
}

#[tokio::test]
async fn an_address_in_use_is_reported_and_taken_when_it_is_free() {
    let mesh = Mesh::start();
    let net = mesh.net;
    let taken = TcpListener::bind(net.at(1, 80)).await.unwrap();
    mesh.app("a", net.at(120, 9080)).await;
    mesh.apply([
        pod("a", net.ip(20))
            .serving("a", &[(80, 9080)])
            .extended(apart(net.ip(120), &[9080]))
            .into(),
        service("a", Some(net.ip(1)), &[(80, 9080), (81, 9080)]).into(),
    ]);
    // The neighbour works meanwhile.
    mesh.captured(net.at(1, 81)).await;
    let obstacles = eventually("the obstacle is reported", || async {
        Some(mesh.capture.obstacles()).filter(|obstacles| !obstacles.is_empty())
    })
    .await;
    assert!(
        obstacles[0].contains(&net.at(1, 80).to_string()) && obstacles[0].contains("in use"),
        "{obstacles:?}"
    );
    drop(taken);
    eventually("it is taken", || async {
        mesh.capture.obstacles().is_empty().then_some(())
    })
    .await;
    assert_eq!(
        ask(net.ip(200), net.at(1, 80), "x").await,
        format!("a {} x", net.ip(200))
    );
}

#[tokio::test]
async fn waypoints_and_workloads_of_other_nodes_are_left_alone() {
    let mesh = Mesh::start();
    let net = mesh.net;
    let mut waypoint = pod("wp", net.ip(30)).serving("wp", &[(15008, 15008)]);
    waypoint.native_tunnel = true;
    let mut elsewhere = pod("elsewhere", net.ip(31));
    elsewhere.node = "node-2".into();
    let mut clear = pod("clear", net.ip(32));
    clear.tunnel_protocol = 0;
    mesh.apply([
        waypoint.into(),
        elsewhere.into(),
        clear.into(),
        service("wp", Some(net.ip(2)), &[(15008, 15008)]).into(),
        pod("here", net.ip(20)).into(),
    ]);
    mesh.captured(net.at(20, 15008)).await;
    assert_eq!(mesh.capture.captured().len(), 1);
}

#[tokio::test]
async fn thousands_of_listeners_are_a_matter_of_a_moment() {
    let mesh = Mesh::start();
    let net = mesh.net;
    let ports: Vec<(u16, u16)> = (21_000..23_000).map(|port| (port, port)).collect();
    mesh.apply([service("many", Some(net.ip(1)), &ports).into()]);
    eventually("all are open", || async {
        (mesh.capture.captured().len() == ports.len()).then_some(())
    })
    .await;
    mesh.captured(net.at(1, 22_999)).await;
    mesh.remove("default/many.default.svc.cluster.local");
    gone(net, 1, 22_999).await;
}
