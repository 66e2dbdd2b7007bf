//! Timeouts: l7-semantics.md 7.1.

use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use tokio::io::AsyncWriteExt;

use waymark_waypoint::route::{Fault, FaultDelay, Fraction};

use crate::mesh::{Mesh, empty, eventually, streamed, text};
use crate::program::{FlagLog, HTTP, Program, default_retries};

fn slow(mesh: &Mesh, by: Duration) -> std::net::SocketAddr {
    mesh.app(move |_| async move {
        tokio::time::sleep(by).await;
        text(StatusCode::OK, "late")
    })
}

#[tokio::test]
async fn the_route_timeout_spans_all_attempts() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[slow(&mesh, Duration::from_secs(20))]);
    program.change_forward(|f| f.timeouts.route = Some(Duration::from_millis(80)));
    mesh.publish(&program);
    let start = Instant::now();
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (504, "upstream request timeout")
    );
    assert!(
        (80..2000).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(program.clusters[0].stats.upstream_rq_timeout.value(), 1);
    let stats = &program.clusters[0].stats;
    eventually("nothing is left active", || {
        stats.upstream_rq_active.value() == 0
    })
    .await;
}

#[tokio::test]
async fn a_try_timeout_is_retried_where_the_policy_says_so() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[slow(&mesh, Duration::from_secs(20))]);
    program.change_forward(|f| {
        f.retry = Some(waymark_waypoint::route::RetryPolicy {
            on: waymark_waypoint::route::RetryOn::parse("5xx").unwrap(),
            num_retries: 1,
            per_try_timeout: Some(Duration::from_millis(30)),
            ..default_retries()
        });
    });
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (504, "upstream request timeout")
    );
    assert_eq!(
        program.clusters[0]
            .stats
            .upstream_rq_per_try_timeout
            .value(),
        2
    );
}

#[tokio::test]
async fn the_expected_time_is_told_to_the_upstream() {
    let mesh = Mesh::start();
    let app = mesh.app(|request| async move {
        let get = |name| {
            request
                .headers()
                .get(name)
                .map_or("-", |v| v.to_str().unwrap())
                .to_owned()
        };
        text(
            StatusCode::OK,
            format!(
                "{} {}",
                get("x-envoy-expected-rq-timeout-ms"),
                get("grpc-timeout")
            ),
        )
    });
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.timeouts.route = Some(Duration::from_secs(3)));
    mesh.publish(&program);
    assert_eq!(mesh.get(HTTP, "/").await.text(), "3000 -");
    let grpc = |timeout: &str| {
        let request = Request::post("http://h/s/m").header("content-type", "application/grpc");
        request
            .header("grpc-timeout", timeout)
            .body(empty())
            .unwrap()
    };
    let mut client = mesh.http2(HTTP).await;
    assert_eq!(
        client.send(grpc("2S")).await.text(),
        "2000 2000m",
        "the client's deadline alone counts for gRPC"
    );
}

#[tokio::test]
async fn a_grpc_deadline_ends_with_unavailable() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[slow(&mesh, Duration::from_secs(20))]));
    let request = Request::post("http://h/s/m").header("content-type", "application/grpc");
    let request = request.header("grpc-timeout", "50m").body(empty()).unwrap();
    let answer = mesh.http2(HTTP).await.send(request).await;
    assert_eq!(
        (answer.status, answer.header("grpc-status")),
        (200, Some("14"))
    );
    assert_eq!(
        answer.header("grpc-message"),
        Some("upstream request timeout")
    );
}

#[tokio::test]
async fn a_timeout_after_the_headers_cuts_the_body() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async move {
        let (send, body) = streamed();
        waymark_rt::spawn("writer", async move {
            let _ = send.send("begun".into()).await;
            std::future::pending::<()>().await;
        })
        .abort_later();
        http::Response::new(body)
    });
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.timeouts.route = Some(Duration::from_millis(100)));
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    client.try_send(crate::mesh::get("/")).await.unwrap_err();
}

/// Lets a task of a test go on when its handle is dropped.
trait AbortLater {
    fn abort_later(self);
}

impl<T> AbortLater for waymark_rt::Task<T> {
    fn abort_later(self) {
        std::mem::forget(self);
    }
}

#[tokio::test]
async fn an_idle_stream_is_ended_where_it_is_configured() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[slow(&mesh, Duration::from_secs(20))]);
    program.http.timeouts.stream_idle = Some(Duration::from_millis(60));
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!((answer.status, answer.text()), (504, "stream timeout"));
    program.http.timeouts.stream_idle = None;
    program.http.timeouts.max_stream = Some(Duration::from_millis(60));
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!(
        (answer.status, answer.text()),
        (504, "downstream duration timeout")
    );
}

#[tokio::test]
async fn a_request_that_does_not_get_complete_is_408() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.app(|request| async move {
        let _ = http_body_util::BodyExt::collect(request.into_body()).await;
        text(StatusCode::OK, "")
    })]);
    program.http.timeouts.request = Some(Duration::from_millis(60));
    mesh.publish(&program);
    let (_send, body) = streamed();
    let answer = mesh
        .http1(HTTP)
        .await
        .send(crate::mesh::post("/", body))
        .await;
    assert_eq!((answer.status, answer.text()), (408, "request timeout"));
}

#[tokio::test]
async fn an_idle_client_connection_is_closed() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("v1")]);
    program.http.timeouts.idle = Some(Duration::from_millis(80));
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    assert_eq!(client.get("/").await.status, 200);
    eventually("the connection is closed", || client.sender.is_closed()).await;
}

#[tokio::test]
async fn a_connect_that_takes_too_long_is_a_connection_timeout() {
    let mesh = Mesh::start();
    // The node's handshake never comes: nobody accepts there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap();
    let mut program = Program::new(&[]);
    program.change_forward(|f| f.retry = None);
    program.change_cluster(|c| c.connect_timeout = Duration::from_millis(80));
    let mut set = crate::program::endpoint_set(&["127.0.0.1:1".parse().unwrap()]);
    let endpoint =
        std::sync::Arc::get_mut(&mut set.priorities[0].localities[0].endpoints[0]).unwrap();
    endpoint.kind = waymark_waypoint::program::EndpointKind::Tunnel {
        local: "127.0.0.1:1".parse().unwrap(),
        via: Some(silent),
    };
    program.clusters[0]
        .endpoints
        .store(std::sync::Arc::new(set));
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().ends_with("reset reason: connection timeout"),
        "{}",
        answer.text()
    );
    drop(listener);
}

#[tokio::test]
async fn a_client_that_leaves_during_a_delay_is_not_waited_for() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("one")]);
    let log = FlagLog::of(&mut program);
    program.routes[0].fault = Some(Fault {
        delay: Some(FaultDelay {
            fixed: Duration::from_secs(3600),
            share: Fraction::ALL,
        }),
        abort: None,
    });
    mesh.publish(&program);
    let mut client = mesh.connect(HTTP).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    eventually("the request is logged", || log.lines() == ["DI,DC"]).await;
}
