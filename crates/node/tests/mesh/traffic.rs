//! Where connections go, and who they are when they arrive.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waymark_hbone_tokio::ConnectError;
use waymark_identity::TrustDomain;
use waymark_proto::security::{
    Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match::MatchType,
};

use crate::harness::{
    Mesh, PATIENCE, Peer, Seen, ServiceExt, WorkloadExt, apart, ask, ca, connect, eventually, id,
    node_id, pod, service,
};

/// productpage (10), reviews (20, application at 120) behind VIP 1:80 -> 9080.
async fn two_pods() -> Mesh {
    let mesh = Mesh::start();
    let net = mesh.net;
    mesh.app("reviews", net.at(120, 9080)).await;
    mesh.apply([
        pod("productpage", net.ip(10))
            .extended(apart(net.ip(110), &[9080]))
            .into(),
        pod("reviews", net.ip(20))
            .serving("reviews", &[(80, 9080)])
            .extended(apart(net.ip(120), &[9080]))
            .into(),
        service("reviews", Some(net.ip(1)), &[(80, 9080)]).into(),
    ]);
    mesh.captured(net.at(1, 80)).await;
    mesh.captured(net.at(20, 9080)).await;
    mesh.captured(net.at(20, 15008)).await;
    mesh
}

#[tokio::test]
async fn a_pod_reaches_a_service_through_a_tunnel() {
    let mesh = two_pods().await;
    let net = mesh.net;
    // The application sees the client's pod address, and the end of one direction without the end of the other.
    let answer = ask(net.ip(10), net.at(1, 80), "hello").await;
    assert_eq!(answer, format!("reviews {} hello", net.ip(10)));
    let source = [
        "reporter=\"source\"",
        "source_workload=\"productpage\"",
        "destination_workload=\"reviews\"",
        "mutual_tls",
    ];
    let destination = [
        "reporter=\"destination\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/productpage\"",
        "destination_service=\"reviews.default.svc.cluster.local\"",
        "mutual_tls",
    ];
    eventually("connections are counted", || async {
        (mesh.metric("istio_tcp_connections_closed_total", &source) == 1
            && mesh.metric("istio_tcp_connections_closed_total", &destination) == 1)
            .then_some(())
    })
    .await;
    assert_eq!(mesh.metric("istio_tcp_received_bytes_total", &source), 5);
    assert_eq!(
        mesh.metric("istio_tcp_sent_bytes_total", &source),
        answer.len() as u64
    );
    assert_eq!(
        mesh.metric("istio_tcp_sent_bytes_total", &destination),
        answer.len() as u64
    );
    assert!(mesh.telemetry.connections.is_empty());
}

#[tokio::test]
async fn a_pod_that_addresses_a_pod_is_carried_with_its_identity() {
    let mesh = two_pods().await;
    let net = mesh.net;
    assert_eq!(
        ask(net.ip(10), net.at(20, 9080), "x").await,
        format!("reviews {} x", net.ip(10))
    );
    let tunnelled = ["reporter=\"destination\"", "sa/productpage\"", "mutual_tls"];
    assert_eq!(
        mesh.metric("istio_tcp_connections_opened_total", &tunnelled),
        1
    );
}

#[tokio::test]
async fn a_client_outside_the_mesh_is_passed_on_in_clear_and_has_no_identity() {
    let mesh = two_pods().await;
    let net = mesh.net;
    for to in [net.at(1, 80), net.at(20, 9080)] {
        assert_eq!(
            ask(net.ip(200), to, "x").await,
            format!("reviews {} x", net.ip(200))
        );
    }
    let inbound = [
        "reporter=\"destination\"",
        "source_principal=\"unknown\"",
        "connection_security_policy=\"unknown\"",
    ];
    assert_eq!(
        mesh.metric("istio_tcp_connections_opened_total", &inbound),
        2
    );
}

#[tokio::test]
async fn a_bound_service_is_reached_through_its_waypoint() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let waypoint = mesh.waypoint("wp", net.ip(30)).await;
    let (vip, reviews) = (net.at(1, 80), net.at(20, 9080));
    waypoint.route(vip, reviews);
    let replica = waymark_proto::workload::Workload {
        native_tunnel: true,
        ..pod("wp", net.ip(30))
    };
    mesh.apply([
        replica.serving("wp", &[(15008, 15008)]).into(),
        service("wp", Some(net.ip(2)), &[(15008, 15008)]).into(),
        service("reviews", Some(net.ip(1)), &[(80, 9080)])
            .behind("wp")
            .into(),
    ]);
    // The application sees the waypoint.
    assert_eq!(
        ask(net.ip(10), vip, "x").await,
        format!("reviews {} x", net.ip(30))
    );
    let by = |principal: Option<&str>, peer, peer_ip| Seen {
        authority: vip.to_string(),
        principal: principal.map(str::to_owned),
        peer: Some(peer),
        peer_ip,
    };
    assert_eq!(
        waypoint.take_seen(),
        [by(None, id("productpage"), net.ip(10))]
    );

    // So does a client outside the mesh, for whom the node proxy speaks.
    assert_eq!(
        ask(net.ip(200), vip, "y").await,
        format!("reviews {} y", net.ip(30))
    );
    assert_eq!(
        waypoint.take_seen(),
        [by(Some("none"), node_id(), net.ip(250))]
    );

    // Nobody goes round a waypoint that is gone.
    mesh.remove(&crate::harness::uid("wp"));
    assert_eq!(ask(net.ip(10), vip, "x").await, "");
    assert_eq!(ask(net.ip(200), vip, "x").await, "");
}

#[tokio::test]
async fn an_open_connection_carries_both_ways_until_each_side_ends() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let listener = tokio::net::TcpListener::bind(net.at(120, 7000))
        .await
        .unwrap();
    let mut client = connect(net.ip(10), net.at(20, 7000)).await;
    assert!(client.is_err(), "7000 is not declared");
    mesh.apply([pod("reviews", net.ip(20))
        .serving("reviews", &[(80, 9080)])
        .extended(apart(net.ip(120), &[9080, 7000]))
        .into()]);
    mesh.captured(net.at(20, 7000)).await;
    client = connect(net.ip(10), net.at(20, 7000)).await;
    let mut client = client.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 4];
    for _ in 0..3 {
        client.write_all(b"ping").await.unwrap();
        server.read_exact(&mut buffer).await.unwrap();
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
    }
    // The server ends first; the client may still send.
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
    client.write_all(b"last").await.unwrap();
    server.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"last");
    drop(client);
    assert_eq!(server.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn a_connect_that_makes_no_sense_is_answered_as_the_spec_says() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let peer = mesh.peer("productpage");
    let (pod, from) = (net.ip(20), net.ip(10));
    for (authority, status) in [
        (format!("{}:9080", net.ip(99)), 400),
        (format!("{}:15008", net.ip(20)), 503),
        (format!("{}:9", net.ip(20)), 503),
        ("nobody.default.svc.cluster.local:80".to_owned(), 503),
        ("reviews.default.svc.cluster.local:81".to_owned(), 503),
    ] {
        match peer.connect(pod, from, &authority).await {
            Err(ConnectError::Status(got)) => assert_eq!(got.as_u16(), status, "{authority}"),
            other => panic!("{authority}: {:?}", other.err()),
        }
    }
    let answer = peer
        .ask(pod, from, "reviews.default.svc.cluster.local:80", "x")
        .await
        .unwrap();
    assert_eq!(answer, format!("reviews {from} x"));
}

#[tokio::test]
async fn who_is_not_of_the_mesh_gets_no_tunnel() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let authority = net.at(20, 9080).to_string();
    // Another authority, and another trust domain under our own.
    let stranger = Peer::new(&ca(), &id("productpage"));
    assert!(
        stranger
            .connect(net.ip(20), net.ip(10), &authority)
            .await
            .is_err()
    );
    let domain: TrustDomain = "foreign.example".parse().unwrap();
    let foreign = id("productpage").account().identity(&domain);
    assert!(
        Peer::new(&mesh.ca, &foreign)
            .connect(net.ip(20), net.ip(10), &authority)
            .await
            .is_err()
    );
    // Plain text.
    let answer = ask(net.ip(10), net.at(20, 15008), "GET / HTTP/1.1\r\n\r\n").await;
    assert!(!answer.contains("reviews"), "{answer}");
}

#[tokio::test]
async fn whatever_is_sent_to_15008_the_proxy_goes_on() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let starts: [&[u8]; 6] = [
        b"",
        b"\x16\x03\x01",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for n in 0..100_usize {
        let mut bytes = starts[n % starts.len()].to_vec();
        bytes.extend((0..n * 37).map(|_| rand::random::<u8>()));
        let mut stream = connect(net.ip(10), net.at(20, 15008)).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "connection {n} was left open");
    }
    let peer = mesh.peer("productpage");
    for authority in ["127.0.0.1:80", "nobody:1", "[::1]:443"] {
        assert!(
            peer.connect(net.ip(20), net.ip(10), authority)
                .await
                .is_err()
        );
    }
    assert!(mesh.telemetry.connections.is_empty());
    assert_eq!(
        ask(net.ip(10), net.at(1, 80), "x").await,
        format!("reviews {} x", net.ip(10))
    );
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_not_talked_to() {
    let mesh = two_pods().await;
    let net = mesh.net;
    // What listens there shows `impostor`, the state of the mesh says `wp`.
    let _impostor = mesh.waypoint("impostor", net.ip(30)).await;
    let replica = waymark_proto::workload::Workload {
        native_tunnel: true,
        ..pod("wp", net.ip(30))
    };
    mesh.apply([
        replica.serving("wp", &[(15008, 15008)]).into(),
        service("wp", None, &[(15008, 15008)]).into(),
        service("reviews", Some(net.ip(1)), &[(80, 9080)])
            .behind("wp")
            .into(),
    ]);
    assert_eq!(ask(net.ip(10), net.at(1, 80), "x").await, "");
    let failed = ["reporter=\"source\"", "TLS_FAILURE"];
    assert_eq!(
        mesh.metric("istio_tcp_connections_failed_total", &failed),
        1
    );
}

fn deny_productpage(namespace: &str) -> Authorization {
    let principal = StringMatch {
        match_type: Some(MatchType::Suffix("/sa/productpage".into())),
    };
    let matches = vec![Match {
        principals: vec![principal],
        ..Match::default()
    }];
    Authorization {
        name: "deny".into(),
        namespace: namespace.into(),
        scope: Scope::Namespace.into(),
        action: Action::Deny.into(),
        groups: vec![Group {
            rules: vec![Rules { matches }],
        }],
        ..Authorization::default()
    }
}

#[tokio::test]
async fn policies_admit_and_cut() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let mut open = connect(net.ip(10), net.at(1, 80)).await.unwrap();
    open.write_all(b"x").await.unwrap();
    eventually("the connection is established", || async {
        (mesh.telemetry.connections.len() == 2).then_some(())
    })
    .await;
    mesh.set_policy(&deny_productpage("default"));
    // What was admitted before is cut.
    let mut rest = Vec::new();
    let end = tokio::time::timeout(PATIENCE, open.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "{end:?}");
    let authority = net.at(20, 9080).to_string();
    match mesh
        .peer("productpage")
        .connect(net.ip(20), net.ip(10), &authority)
        .await
    {
        Err(ConnectError::Status(status)) => assert_eq!(status.as_u16(), 401),
        other => panic!("{:?}", other.err()),
    }
    assert!(
        mesh.peer("details")
            .connect(net.ip(20), net.ip(200), &authority)
            .await
            .is_ok()
    );
    let denied = ["reporter=\"destination\"", "response_flags=\"DENY\""];
    eventually("both are counted", || async {
        (mesh.metric("istio_tcp_connections_closed_total", &denied) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_connections_finish_and_takes_no_new_ones() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let mut open = connect(net.ip(10), net.at(1, 80)).await.unwrap();
    open.write_all(b"he").await.unwrap();
    eventually("the connection is established", || async {
        (mesh.telemetry.connections.len() == 2).then_some(())
    })
    .await;
    mesh.shutdown.begin();
    eventually("listeners are closed", || async {
        connect(net.ip(10), net.at(1, 80))
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let answer = crate::harness::converse(&mut open, "llo").await.unwrap();
    assert_eq!(answer, format!("reviews {} hello", net.ip(10)));
    drop(open);
    tokio::time::timeout(PATIENCE, mesh.proxy.finished())
        .await
        .expect("everything has ended");
}

#[tokio::test]
async fn the_deadline_of_a_drain_cuts_what_is_left() {
    let mesh = two_pods().await;
    let net = mesh.net;
    let mut open = connect(net.ip(10), net.at(1, 80)).await.unwrap();
    open.write_all(b"x").await.unwrap();
    eventually("the connection is established", || async {
        (mesh.telemetry.connections.len() == 2).then_some(())
    })
    .await;
    let hold = mesh.shutdown.hold();
    let mut rest = Vec::new();
    let drain = waymark_rt::spawn("drain", mesh.drain_within());
    let end = tokio::time::timeout(PATIENCE, open.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "{end:?}");
    drop(hold);
    drain.await.unwrap();
    tokio::time::timeout(PATIENCE, mesh.proxy.finished())
        .await
        .expect("everything has ended");
}
