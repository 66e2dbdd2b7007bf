//! WebSocket.

use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::mesh::{Mesh, empty, eventually, text};
use crate::program::{FlagLog, HTTP, Program};

fn handshake() -> Request<crate::mesh::Body> {
    Request::get("/ws")
        .header("host", "reviews")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "x")
        .body(empty())
        .unwrap()
}

/// An application that sends back what comes, until that is `bye`.
fn echoing(mesh: &Mesh) -> std::net::SocketAddr {
    mesh.app(|mut request| async move {
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["sec-websocket-key"], "x");
        let upgraded = hyper::upgrade::on(&mut request);
        let task = waymark_rt::spawn("echo", async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut buf = [0; 64];
            loop {
                match io.read(&mut buf).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) if buf[..n] == *b"bye" => return,
                    Ok(n) => io.write_all(&buf[..n]).await.unwrap(),
                }
            }
        });
        std::mem::forget(task);
        Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", "y")
            .body(empty())
            .unwrap()
    })
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let mesh = Mesh::start();
    let program = Program::new(&[echoing(&mesh)]);
    mesh.publish(&program);
    let mut client = mesh.http1(HTTP).await;
    let mut response = client.sender.send_request(handshake()).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-accept"], "y");
    let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    for _ in 0..5 {
        io.write_all(b"frame").await.unwrap();
        let mut got = [0; 5];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"frame");
    }
    drop(io);
    let stats = &program.clusters[0].stats;
    eventually("the connection is over", || {
        stats.upstream_rq_active.value() == 0
    })
    .await;
}

#[tokio::test]
async fn the_access_log_tells_which_side_ended_it() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[echoing(&mesh)]);
    let log = FlagLog::of(&mut program);
    mesh.publish(&program);
    let mut logged = Vec::new();
    for (last, flag) in [(&b"bye"[..], "UC"), (b"", "DC")] {
        let mut client = mesh.http1(HTTP).await;
        let mut response = client.sender.send_request(handshake()).await.unwrap();
        let mut io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        if !last.is_empty() {
            io.write_all(last).await.unwrap();
            assert_eq!(io.read(&mut [0; 1]).await.unwrap(), 0);
        }
        drop(io);
        logged.push(flag);
        eventually("it is logged", || log.lines() == logged).await;
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_switch_says_why_or_nothing() {
    let mesh = Mesh::start();
    let refusing = mesh.app(|_| async { text(StatusCode::FORBIDDEN, "no sockets") });
    mesh.publish(&Program::new(&[refusing]));
    let answer = mesh.http1(HTTP).await.send(handshake()).await;
    assert_eq!((answer.status, answer.text()), (403, "no sockets"));
    mesh.publish(&Program::new(&[mesh.named("plain")]));
    let answer = mesh.http1(HTTP).await.send(handshake()).await;
    assert_eq!((answer.status, answer.text()), (200, ""));
}

#[tokio::test]
async fn a_chain_or_route_may_forbid_it() {
    let mesh = Mesh::start();
    let mut program = Program::new(&[mesh.named("plain")]);
    program.http.upgrades.clear();
    mesh.publish(&program);
    assert_eq!(mesh.http1(HTTP).await.send(handshake()).await.status, 403);
    program.http.upgrades = vec!["websocket".into()];
    program.change_forward(|f| f.upgrades = vec![("websocket".into(), false)]);
    mesh.publish(&program);
    assert_eq!(mesh.http1(HTTP).await.send(handshake()).await.status, 403);
}
