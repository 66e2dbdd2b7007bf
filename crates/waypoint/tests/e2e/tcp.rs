//! TCP chains.

use std::collections::HashMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waymark_hbone_tokio::Tunnel;
use waymark_waypoint::program::TcpDestination;
use waymark_waypoint::route::Weighted;

use crate::mesh::{Mesh, eventually};
use crate::program::{Program, TCP};

/// Sends a question and expects an answer.
pub(crate) async fn ask(tunnel: &mut Tunnel, question: &[u8], answer: &[u8]) {
    tunnel.write_all(question).await.unwrap();
    let mut got = vec![0; answer.len()];
    tunnel.read_exact(&mut got).await.unwrap();
    assert_eq!(got, answer);
}

fn greeter(mesh: &Mesh, greeting: &'static [u8]) -> std::net::SocketAddr {
    mesh.raw_app(move |mut tcp| async move {
        let _ = tcp.write_all(greeting).await;
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
}

#[tokio::test]
async fn bytes_go_both_ways_with_half_close() {
    let mesh = Mesh::start();
    let app = mesh.raw_app(|mut tcp| async move {
        let mut all = Vec::new();
        tcp.read_to_end(&mut all).await.unwrap();
        tcp.write_all(format!("got {}", all.len()).as_bytes())
            .await
            .unwrap();
    });
    let program = Program::new(&[app]);
    mesh.publish(&program);
    let mut tunnel = mesh.connect(TCP).await;
    tunnel.write_all(&vec![1; 300_000]).await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "got 300000");
    let stats = &program.clusters[0].stats;
    eventually("the connection is counted as closed", || {
        stats.upstream_cx_active.value() == 0
    })
    .await;
    assert_eq!(stats.upstream_cx_tx_bytes_total.value(), 300_000);
}

#[tokio::test]
async fn a_server_may_speak_first_on_a_tcp_port() {
    let mesh = Mesh::start();
    mesh.publish(&Program::new(&[greeter(&mesh, b"220 hi\r\n")]));
    let mut tunnel = mesh.connect(TCP).await;
    ask(&mut tunnel, b"", b"220 hi\r\n").await;
    ask(&mut tunnel, b"EHLO", b"EHLO").await;
}

#[tokio::test]
async fn connections_are_split_by_weight() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[greeter(&mesh, b"1")]);
    program.cluster("two", &[greeter(&mesh, b"2")]);
    let names = program.names.get_mut();
    let weighted = Weighted::new([(3, names.cluster("one")), (1, names.cluster("two"))]).unwrap();
    program.tcp.to = TcpDestination::Weighted(weighted);
    mesh.publish(&program);
    let mut seen: HashMap<u8, u32> = HashMap::new();
    for _ in 0..200 {
        let mut tunnel = mesh.connect(TCP).await;
        *seen.entry(tunnel.read_u8().await.unwrap()).or_default() += 1;
    }
    assert!((20..80).contains(&seen[&b'2']), "{seen:?}");
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_closed() {
    let mesh = Mesh::start();
    for program in [Program::new(&[mesh.nowhere()]), Program::new(&[])] {
        mesh.publish(&program);
        let mut tunnel = mesh.connect(TCP).await;
        let read = tunnel.read(&mut [0]).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let mut limited = Program::new(&[greeter(&mesh, b"1")]);
    limited.change_cluster(|c| c.breakers.default.max_connections = 1);
    mesh.publish(&limited);
    let mut first = mesh.connect(TCP).await;
    first.read_u8().await.unwrap();
    let mut second = mesh.connect(TCP).await;
    let read = second.read(&mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert_eq!(limited.clusters[0].stats.upstream_cx_overflow.value(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[greeter(&mesh, b"")]);
    program.tcp.idle_timeout = Some(Duration::from_millis(200));
    mesh.publish(&program);
    let mut busy = mesh.connect(TCP).await;
    for _ in 0..8 {
        ask(&mut busy, b"x", b"x").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(busy.read(&mut [0]).await.unwrap(), 0, "and then it is idle");
}

#[tokio::test]
async fn a_connection_outlives_its_configuration() {
    let mesh = Mesh::start();
    let program = Program::new(&[greeter(&mesh, b"")]);
    mesh.publish(&program);
    let mut tunnel = mesh.connect(TCP).await;
    ask(&mut tunnel, b"a", b"a").await;
    program.clusters[0]
        .endpoints
        .store(std::sync::Arc::new(crate::program::endpoint_set(&[])));
    mesh.publish(&Program::new(&[]));
    // Long enough for a sweep to have passed.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    ask(&mut tunnel, b"b", b"b").await;
}
