//! Endpoints and connections over time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waymark_waypoint::program::LbPolicy;

use crate::mesh::{Mesh, eventually, get};
use crate::program::{HTTP, Program, endpoint_set};

#[tokio::test]
async fn requests_of_one_connection_spread_over_endpoints() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("a"), mesh.named("b"), mesh.named("c")]);
    program.change_cluster(|c| c.lb = LbPolicy::RoundRobin { slow_start: None });
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let mut seen: HashMap<String, u32> = HashMap::new();
    for _ in 0..300 {
        *seen
            .entry(client.get("/").await.text().to_owned())
            .or_default() += 1;
    }
    assert!(seen.values().all(|n| *n == 100), "{seen:?}");
    let stats = &program.clusters[0].stats;
    assert_eq!(
        stats.upstream_cx_total.value(),
        3,
        "one kept connection each"
    );
    assert_eq!(mesh.tunnels.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn an_endpoint_that_goes_takes_its_connections_along_and_no_request() {
    let mesh = Mesh::start();
    let (a, b) = (mesh.named("a"), mesh.named("b"));
    let program = Program::new(&[a]);
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    assert_eq!(client.get("/").await.text(), "a");
    program.clusters[0]
        .endpoints
        .store(Arc::new(endpoint_set(&[b])));
    assert_eq!(client.get("/").await.text(), "b");
    let stats = &program.clusters[0].stats;
    eventually("the old connection is gone", || {
        stats.upstream_cx_active.value() == 1
    })
    .await;
}

#[tokio::test]
async fn idle_upstream_connections_are_closed() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("a")]);
    program.change_cluster(|c| c.http.idle_timeout = Some(std::time::Duration::from_millis(100)));
    mesh.publish(&program);
    assert_eq!(mesh.get(HTTP, "/").await.status, 200);
    let stats = &program.clusters[0].stats;
    eventually("it is closed", || stats.upstream_cx_active.value() == 0).await;
    assert_eq!(stats.upstream_cx_idle_timeout.value(), 1);
    assert_eq!(mesh.get(HTTP, "/").await.status, 200);
}

#[tokio::test]
async fn a_connection_takes_as_many_requests_as_it_may() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("a")]);
    program.change_cluster(|c| c.http.max_requests_per_connection = Some(3));
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    for _ in 0..9 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(program.clusters[0].stats.upstream_cx_total.value(), 3);
}

#[tokio::test]
async fn requests_wait_for_one_of_the_allowed_connections() {
    let mesh = Mesh::start();
    let app = mesh.app(|_| async {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        crate::mesh::text(http::StatusCode::OK, "ok")
    });
    let mut program = Program::new(&[app]);
    program.change_cluster(|c| c.breakers.default.max_connections = 2);
    mesh.publish(&program);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(mesh.http1(HTTP).await);
    }
    let mut work = tokio::task::JoinSet::new();
    for mut client in clients {
        work.spawn(async move { client.send(get("/")).await.status });
    }
    assert!(work.join_all().await.iter().all(|s| *s == 200));
    assert!(program.clusters[0].stats.upstream_cx_total.value() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_share_limits_and_figures() {
    let mesh = Mesh::with_workers(2);
    let program = Program::new(&[mesh.named("a"), mesh.named("b")]);
    mesh.publish(&program);
    let mut work = tokio::task::JoinSet::new();
    for id in 0..8 {
        let source = format!("spiffe://cluster.local/ns/default/sa/c{id}");
        let pool = waymark_hbone_tokio::Pool::new(
            crate::mesh::certificate(&mesh.ca, &source),
            waymark_hbone_tokio::PoolSettings::default(),
            &waymark_hbone_tokio::Drain::new(),
        );
        let tunnel = mesh
            .connect_with(&pool, &source, HTTP, http::HeaderMap::new())
            .await
            .unwrap();
        work.spawn(async move {
            let io = hyper_util::rt::TokioIo::new(tunnel);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            let driver = waymark_rt::spawn("client", connection);
            for _ in 0..50 {
                sender.ready().await.unwrap();
                let response = sender.send_request(get("/")).await.unwrap();
                assert_eq!(response.status(), 200);
                http_body_util::BodyExt::collect(response.into_body())
                    .await
                    .unwrap();
            }
            drop((driver, pool));
        });
    }
    work.join_all().await;
    assert_eq!(program.clusters[0].stats.upstream_rq_2xx.value(), 400);
}
