//! Load, drain, and clients that leave.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;

use crate::mesh::{Mesh, eventually, full, get, post, streamed, text};
use crate::program::{HTTP, Program, TCP};

#[tokio::test]
async fn a_drain_finishes_requests_and_says_goodbye() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        text(StatusCode::OK, "done")
    });
    let program = Program::new(&[app]);
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let stats = &program.clusters[0].stats;
    let answer = {
        let mut slow = std::pin::pin!(client.send(get("/")));
        tokio::select! {
            biased;
            _ = &mut slow => panic!("too fast"),
            () = eventually("the request is upstream", || stats.upstream_rq_active.value() == 1) => {}
        }
        mesh.drain.start();
        slow.await
    };
    assert_eq!((answer.status, answer.text()), (200, "done"));
    assert_eq!(answer.header("connection"), Some("close"));
    eventually("the client's connection is over", || {
        client.sender.is_closed()
    })
    .await;
    let mut refused = false;
    for _ in 0..100 {
        let pool = new_pool(&mesh);
        let made = mesh
            .connect_with(&pool, crate::mesh::CLIENT, HTTP, Default::default())
            .await;
        refused = made.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused, "connections are accepted for ever");
}

fn new_pool(mesh: &Mesh) -> waymark_hbone_tokio::Pool {
    waymark_hbone_tokio::Pool::new(
        crate::mesh::certificate(&mesh.ca, crate::mesh::CLIENT),
        waymark_hbone_tokio::PoolSettings::default(),
        &waymark_hbone_tokio::Drain::new(),
    )
}

#[tokio::test]
async fn an_idle_client_is_not_cut_off_right_when_the_drain_begins() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[mesh.named("v1")]));
    let mut client = mesh.http1(HTTP).await;
    assert_eq!(client.get("/").await.status, 200);
    mesh.drain.start();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = client.get("/").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    let late = mesh.connect(TCP).await;
    drop(late);
}

#[tokio::test]
async fn tcp_connections_go_on_while_draining_and_end_at_the_deadline() {
    let mesh = Mesh::start();
    let echo = mesh.raw_app(|mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    mesh.publish(&Program::new(&[echo]));
    let mut tunnel = mesh.connect(TCP).await;
    crate::tcp::ask(&mut tunnel, b"a", b"a").await;
    mesh.drain.start();
    crate::tcp::ask(&mut tunnel, b"b", b"b").await;
    mesh.drain.kill();
    let read = tunnel.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        text(StatusCode::OK, "never")
    });
    let program = Program::new(&[app]);
    mesh.publish(&program);
    let stats = &program.clusters[0].stats;
    {
        let mut client = mesh.http1(HTTP).await;
        let request = client.send(get("/"));
        tokio::pin!(request);
        tokio::select! {
            biased;
            _ = &mut request => panic!("answered"),
            () = eventually("the request is upstream", || stats.upstream_rq_active.value() == 1) => {}
        }
    }
    eventually("the request is given up", || {
        stats.upstream_rq_active.value() == 0
    })
    .await;
    eventually("its connection too", || {
        stats.upstream_cx_active.value() == 0
    })
    .await;
}

#[tokio::test]
async fn large_bodies_stream_with_back_pressure() {
    let mesh = Mesh::start();
    // Takes nothing for a while.
    let app = mesh.app(|request| async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        text(StatusCode::OK, body.len().to_string())
    });
    mesh.publish(&Program::new(&[app]));
    let mut client = mesh.http1(HTTP).await;
    let (send, body) = streamed();
    let total = 64 << 20;
    let writer = waymark_rt::spawn("writer", async move {
        let start = Instant::now();
        let mut early = 0;
        for _ in 0..total / (1 << 20) {
            send.send(Bytes::from(vec![1; 1 << 20])).await.unwrap();
            if start.elapsed() < Duration::from_millis(350) {
                early += 1;
            }
        }
        early
    });
    let answer = client.send(post("/", body)).await;
    assert_eq!(answer.text(), total.to_string());
    let early = writer.await.unwrap();
    assert!(
        early < 60,
        "{early} MiB went into an application that read nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_delayed_acknowledgement() {
    let mesh = Mesh::start();
    let app = mesh.app(|request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        http::Response::new(full(body))
    });
    mesh.publish(&Program::new(&[app]));
    let mut client = mesh.http1(HTTP).await;
    for size in [1usize, 1024, 64 * 1024] {
        let mut times = Vec::new();
        for _ in 0..150 {
            let start = Instant::now();
            let answer = client.send(post("/", full(vec![1; size]))).await;
            assert_eq!(answer.body.len(), size);
            times.push(start.elapsed());
        }
        times.sort();
        assert!(
            times[135] < Duration::from_millis(38),
            "{size} bytes: p90 {:?}",
            times[135]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_changes_under_load_lose_nothing() {
    let mesh = Mesh::with_workers(2);
    let mut program = Program::new(&[mesh.named("v1")]);
    program.cluster("two", &[mesh.named("v2")]);
    mesh.publish(&program);
    let mut work = tokio::task::JoinSet::new();
    let stop = Instant::now() + Duration::from_secs(2);
    for _ in 0..8 {
        let mut client = mesh.http1(HTTP).await;
        work.spawn(async move {
            let mut done = 0u32;
            while Instant::now() < stop {
                assert_eq!(client.get("/").await.status, 200);
                done += 1;
            }
            done
        });
    }
    let mut n = 0;
    while Instant::now() < stop {
        n += 1;
        program.split(&[(100 - n % 100, "one"), (1 + n % 100, "two")]);
        mesh.publish(&program);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let done: u32 = work.join_all().await.iter().sum();
    assert!(done > 500, "{done} requests only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_come_and_go_under_load_lose_nothing() {
    let mesh = Mesh::start();
    let endpoints = [mesh.named("a"), mesh.named("b"), mesh.named("c")];
    let program = Program::new(&endpoints);
    mesh.publish(&program);
    let mut work = tokio::task::JoinSet::new();
    let stop = Instant::now() + Duration::from_secs(2);
    for _ in 0..6 {
        let mut client = mesh.http1(HTTP).await;
        work.spawn(async move {
            while Instant::now() < stop {
                assert_eq!(client.get("/").await.status, 200);
            }
        });
    }
    let mut n = 0;
    while Instant::now() < stop {
        n += 1;
        let left: Vec<_> = endpoints
            .iter()
            .copied()
            .enumerate()
            .filter(|(i, _)| *i != n % 3)
            .map(|(_, e)| e)
            .collect();
        program.clusters[0]
            .endpoints
            .store(std::sync::Arc::new(crate::program::endpoint_set(&left)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    work.join_all().await;
}
