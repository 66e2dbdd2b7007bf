//! Which route and cluster a request takes.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use waymark_hbone_tokio::{Drain, Pool, PoolSettings};
use waymark_waypoint::route::Action;

use crate::mesh::{Mesh, certificate, empty, eventually, get};
use crate::program::{HTTP, Program, SNIFFED, direct, route};

#[tokio::test]
async fn weights_split_requests_of_one_connection() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.cluster("two", &[mesh.named("v2")]);
    program.split(&[(90, "one"), (10, "two")]);
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let mut seen: HashMap<String, u32> = HashMap::new();
    for _ in 0..1000 {
        *seen
            .entry(client.get("/reviews/0").await.text().to_owned())
            .or_default() += 1;
    }
    assert!((60..140).contains(&seen["v2"]), "{seen:?}");
    assert_eq!(seen["v1"] + seen["v2"], 1000);
}

#[tokio::test]
async fn a_change_of_routes_is_seen_by_the_next_request_of_an_open_connection() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.cluster("two", &[mesh.named("v2")]);
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    assert_eq!(client.get("/").await.text(), "v1");
    program.split(&[(1, "two")]);
    mesh.publish(&program);
    assert_eq!(client.get("/").await.text(), "v2");
}

#[tokio::test]
async fn an_unknown_destination_is_answered_200_and_closed() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[]));
    for authority in [
        "10.96.9.9:80",
        "10.96.0.1:15000",
        "reviews.default.svc.cluster.local:9080",
    ] {
        let mut tunnel = mesh.connect(authority).await;
        assert!(!tunnel.peek_more().await.unwrap(), "{authority}");
    }
    assert_eq!(
        mesh.telemetry.server.tunnels.no_filter_chain_match.value(),
        3
    );
}

#[tokio::test]
async fn routes_can_answer_by_themselves() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.routes.insert(
        0,
        route(
            "/teapot",
            direct(StatusCode::IM_A_TEAPOT, "short and stout"),
        ),
    );
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/teapot").await;
    assert_eq!((answer.status, answer.text()), (418, "short and stout"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert_eq!(mesh.get(HTTP, "/other").await.text(), "v1");
}

#[tokio::test]
async fn redirects_name_the_whole_location() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[]);
    let redirect = waymark_waypoint::route::Redirect {
        status: StatusCode::FOUND,
        scheme: None,
        host: Some("elsewhere".into()),
        port: None,
        path: waymark_waypoint::route::RedirectPath::Full("/new".into()),
        strip_query: false,
        response_headers: Default::default(),
    };
    program.routes = vec![route("/", Action::Redirect(Box::new(redirect)))];
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/old?q=1").await;
    assert_eq!(answer.status, 302);
    assert_eq!(answer.header("location"), Some("http://elsewhere/new?q=1"));
    assert_eq!(answer.header("content-length"), Some("0"));
}

#[tokio::test]
async fn a_sniffed_port_takes_http_and_everything_else() {
    let mesh = Mesh::start();
    let raw = mesh.raw_app(|mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let mut program = Program::new(&[mesh.named("http")]);
    program.cluster("raw", &[raw]);
    program.tcp.to =
        waymark_waypoint::program::TcpDestination::One(program.names.get_mut().cluster("raw"));
    mesh.publish(&program);
    assert_eq!(mesh.get(SNIFFED, "/").await.text(), "http");
    let request = Request::get("http://reviews/").body(empty()).unwrap();
    assert_eq!(mesh.http2(SNIFFED).await.send(request).await.text(), "http");
    let mut tunnel = mesh.connect(SNIFFED).await;
    crate::tcp::ask(&mut tunnel, b"\x00\x01not http\n", b"\x00\x01not http\n").await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_reached_after_the_inspection_time() {
    let mesh = Mesh::start();
    let raw = mesh.raw_app(|mut tcp| async move {
        use tokio::io::AsyncWriteExt;
        let _ = tcp.write_all(b"220 ready\r\n").await;
        let _ = tcp.shutdown().await;
    });
    let mut program = Program::new(&[]);
    program.inspection_timeout = Some(std::time::Duration::from_millis(100));
    program.cluster("raw", &[raw]);
    program.tcp.to =
        waymark_waypoint::program::TcpDestination::One(program.names.get_mut().cluster("raw"));
    mesh.publish(&program);
    let mut tunnel = mesh.connect(SNIFFED).await;
    let mut greeting = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut tunnel, &mut greeting)
        .await
        .unwrap();
    assert_eq!(greeting, "220 ready\r\n");
}

#[tokio::test]
async fn who_the_client_is_comes_from_its_certificate_or_from_a_node_proxy() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[]);
    let mut own = direct(StatusCode::OK, "");
    if let Action::Direct(direct) = &mut own {
        direct.response_headers =
            waymark_waypoint::route::HeaderOps::new(vec![crate::program::set_header(
                "x-peer",
                "<%DOWNSTREAM_PEER_URI_SAN%>",
            )]);
    }
    program.routes = vec![route("/", own)];
    mesh.publish(&program);

    let ask = async |id: &str, said: Option<&'static str>| {
        let pool = Pool::new(
            certificate(&mesh.ca, id),
            PoolSettings::default(),
            &Drain::new(),
        );
        let mut headers = HeaderMap::new();
        if let Some(said) = said {
            headers.insert("x-waymark-source-principal", HeaderValue::from_static(said));
        }
        let tunnel = mesh.connect_with(&pool, id, HTTP, headers).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(tunnel);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let driver = waymark_rt::spawn("client", connection);
        let response = sender.send_request(get("/")).await.unwrap();
        drop(driver);
        let peer = response
            .headers()
            .get("x-peer")
            .map(|v| v.to_str().unwrap().to_owned());
        peer.unwrap_or_default()
    };
    const APP: &str = "spiffe://cluster.local/ns/default/sa/app";
    const NODE: &str = "spiffe://cluster.local/ns/istio-system/sa/waymark-node";
    assert_eq!(ask(APP, None).await, format!("<{APP}>"));
    assert_eq!(
        ask(APP, Some(NODE)).await,
        format!("<{APP}>"),
        "an application speaks for itself only"
    );
    assert_eq!(ask(NODE, Some(APP)).await, format!("<{APP}>"));
    let nobody = ask(NODE, Some("none")).await;
    assert!(!nobody.contains("spiffe"), "{nobody}");
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_is_refused_even_when_our_root_signed_it() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[]));
    let foreign = waymark_identity::Ca::in_memory(
        &"elsewhere.org".parse().unwrap(),
        std::sync::Arc::new(waymark_rt::SystemClock),
    )
    .unwrap();
    let id = "spiffe://elsewhere.org/ns/default/sa/client";
    let pool = Pool::new(
        certificate(&foreign, id),
        PoolSettings::default(),
        &Drain::new(),
    );
    mesh.connect_with(&pool, id, HTTP, HeaderMap::new())
        .await
        .unwrap_err();
    let stats = &mesh.telemetry.server.tunnels;
    eventually("the refusal is counted", || {
        stats.ssl_connection_error.value() + stats.ssl_fail_verify_san.value() > 0
    })
    .await;
}
