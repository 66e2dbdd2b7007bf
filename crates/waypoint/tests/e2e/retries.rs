//! Retries: l7-semantics.md 7.2.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use waymark_waypoint::route::{BackOff, RetryOn};

use crate::mesh::{Mesh, full, get, post, text};
use crate::program::{HTTP, Program, default_retries};

/// Answers `status` until it was asked `failures` times, then shows how long the body was.
fn flaky(
    mesh: &Mesh,
    status: StatusCode,
    failures: usize,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = mesh.app(move |request| {
        let n = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let body = request
                .into_body()
                .collect()
                .await
                .map(|b| b.to_bytes())
                .unwrap_or_default();
            if n < failures {
                text(status, "no")
            } else {
                text(StatusCode::OK, body.len().to_string())
            }
        }
    });
    (app, asked)
}

fn on(conditions: &str, codes: &[u16]) -> waymark_waypoint::route::RetryPolicy {
    waymark_waypoint::route::RetryPolicy {
        on: RetryOn::parse(conditions).unwrap(),
        status_codes: codes
            .iter()
            .map(|c| StatusCode::from_u16(*c).unwrap())
            .collect(),
        back_off: BackOff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(2),
        },
        ..default_retries()
    }
}

#[tokio::test]
async fn conditions_decide() {
    let mesh = Mesh::start();
    for (conditions, codes, status, want) in [
        ("5xx", &[][..], 503, 200),
        ("5xx", &[], 500, 200),
        ("gateway-error", &[], 502, 200),
        ("gateway-error", &[], 500, 500),
        ("retriable-4xx", &[], 409, 200),
        ("retriable-4xx", &[], 404, 404),
        ("retriable-status-codes", &[404], 404, 200),
        ("retriable-status-codes", &[404], 503, 503),
        (
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            &[],
            503,
            503,
        ),
    ] {
        let (app, asked) = flaky(&mesh, StatusCode::from_u16(status).unwrap(), 2);
        let mut program = Program::new(&[app]);
        program.change_forward(|f| f.retry = Some(on(conditions, codes)));
        mesh.publish(&program);
        let answer = mesh.http1(HTTP).await.send(post("/", full("12345"))).await;
        assert_eq!(answer.status, want, "{conditions} on {status}");
        let attempts = if want == 200 { 3 } else { 1 };
        assert_eq!(
            asked.load(Ordering::Relaxed),
            attempts,
            "{conditions} on {status}"
        );
        if want == 200 {
            assert_eq!(answer.text(), "5", "the body was sent again");
        }
    }
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_retries_are_used_up() {
    let mesh = Mesh::start();
    let (app, asked) = flaky(&mesh, StatusCode::SERVICE_UNAVAILABLE, 99);
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.retry = Some(on("5xx", &[])));
    mesh.publish(&program);
    let answer = mesh.get(HTTP, "/").await;
    assert_eq!((answer.status, answer.text()), (503, "no"));
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn another_host_is_tried_after_a_refused_connection() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.nowhere(), mesh.named("alive")]);
    program.change_cluster(|c| {
        c.lb = waymark_waypoint::program::LbPolicy::RoundRobin { slow_start: None }
    });
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "alive");
    }
    assert_eq!(program.clusters[0].stats.upstream_rq_5xx.value(), 0);
}

#[tokio::test]
async fn a_body_beyond_the_buffer_is_sent_once() {
    let mesh = Mesh::start();
    let (app, asked) = flaky(&mesh, StatusCode::SERVICE_UNAVAILABLE, 1);
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.retry = Some(on("5xx", &[])));
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let answer = client
        .send(post("/", full(Bytes::from(vec![1; 2 << 20]))))
        .await;
    assert_eq!((answer.status, asked.load(Ordering::Relaxed)), (503, 1));
    let (app, asked) = flaky(&mesh, StatusCode::SERVICE_UNAVAILABLE, 1);
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.retry = Some(on("5xx", &[])));
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let answer = client
        .send(post("/", full(Bytes::from(vec![1; 1 << 20]))))
        .await;
    assert_eq!(
        (answer.status, answer.text(), asked.load(Ordering::Relaxed)),
        (200, "1048576", 2)
    );
}

#[tokio::test]
async fn a_grpc_status_in_the_headers_is_retried() {
    let mesh = Mesh::start();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let app = mesh.app(move |_| {
        let status = if counted.fetch_add(1, Ordering::Relaxed) == 0 {
            "14"
        } else {
            "0"
        };
        async move {
            let mut response = text(StatusCode::OK, "");
            response
                .headers_mut()
                .insert("grpc-status", status.parse().unwrap());
            response
        }
    });
    mesh.publish(&Program::new(&[app]));
    let answer = mesh.http1(HTTP).await.send(get("/")).await;
    assert_eq!(answer.header("grpc-status"), Some("0"));
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn retries_have_a_limit_of_their_own() {
    let mesh = Mesh::start();
    let (app, asked) = flaky(&mesh, StatusCode::SERVICE_UNAVAILABLE, 99);
    let mut program = Program::new(&[app]);
    program.change_forward(|f| f.retry = Some(on("5xx", &[])));
    program.change_cluster(|c| c.breakers.default.max_retries = 0);
    mesh.publish(&program);
    assert_eq!(mesh.get(HTTP, "/").await.status, 503);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(
        program.clusters[0].stats.upstream_rq_retry_overflow.value(),
        1
    );
}

#[tokio::test]
async fn a_connection_that_closes_while_idle_costs_no_request() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mesh = Mesh::start();
    // Answers one request on each connection, then closes it without saying so.
    let app = mesh.raw_app(|mut tcp| async move {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let Ok(byte) = tcp.read_u8().await else {
                return;
            };
            seen.push(byte);
        }
        let _ = tcp
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    });
    mesh.publish(&Program::new(&[app]));
    let mut client = mesh.http1(HTTP).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
        // The close has to get here before the next request: what is in flight nobody can know.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
