//! What is no HBONE is refused, counted and forgotten.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waymark_hbone_tokio::{Http2Settings, PoolSettings, ServerSettings};

use crate::mesh::{CLIENT, Ca, SERVER, echo, eventually, open, pool, serve};

async fn tls(
    config: &Arc<rustls::ClientConfig>,
    addr: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("0.0.0.0").unwrap();
    TlsConnector::from(Arc::clone(config))
        .connect(name, tcp)
        .await
}

#[tokio::test]
async fn a_request_that_is_no_connect_is_answered_400() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let stream = tls(&ca.client(CLIENT), server.addr).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = waymark_rt::spawn("client", connection);
    let get = Request::get("https://10.0.0.1/").body(()).unwrap();
    let bad = |authority: &str| {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = http::Uri::builder().authority(authority).build().unwrap();
        request
    };
    for request in [
        get,
        bad("10.0.0.1"),
        bad("10.0.0.1:0"),
        bad("user@host:80"),
        bad("host:99999"),
    ] {
        let shown = format!("{request:?}");
        let (response, _) = sender.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{shown}");
        assert!(response.body().is_end_stream(), "{shown}");
    }
    assert_eq!(
        server.acceptor.stats().bad_requests.load(Ordering::Relaxed),
        5
    );
    drop(driver);
}

#[tokio::test]
async fn no_client_certificate_no_service() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let bare = ca.client_without_certificate();
    let outcome = async {
        let mut stream = tls(&bare, server.addr).await?;
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await?;
        stream.read_u8().await
    };
    outcome.await.unwrap_err();
    eventually("counted", || {
        server
            .acceptor
            .stats()
            .handshake_failures
            .load(Ordering::Relaxed)
            == 1
    })
    .await;
}

#[tokio::test]
async fn a_silent_peer_is_dropped() {
    let ca = Ca::new();
    let settings = ServerSettings {
        handshake_timeout: Duration::from_millis(100),
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    let mut no_preface = tls(&ca.client(CLIENT), server.addr).await.unwrap();
    let mut rest = Vec::new();
    let _ = no_preface.read_to_end(&mut rest).await;
    assert_eq!(
        server
            .acceptor
            .stats()
            .handshake_failures
            .load(Ordering::Relaxed),
        2
    );
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped() {
    let ca = Ca::new();
    let settings = ServerSettings {
        http2: Http2Settings {
            ping_interval: Duration::from_millis(50),
            ping_timeout: Duration::from_millis(50),
            ..Http2Settings::server()
        },
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let mut stream = tls(&ca.client(CLIENT), server.addr).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    eventually("counted", || {
        let stats = server.acceptor.stats();
        stats.dead_peers.load(Ordering::Relaxed) == 1
            && stats.connections_active.load(Ordering::Relaxed) == 0
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let ca = Ca::new();
    let settings = ServerSettings {
        max_connections: 2,
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let config = ca.client(CLIENT);
    let _one = tls(&config, server.addr).await.unwrap();
    let _two = tls(&config, server.addr).await.unwrap();
    tls(&config, server.addr).await.unwrap_err();
    assert_eq!(
        server
            .acceptor
            .stats()
            .connections_refused
            .load(Ordering::Relaxed),
        1
    );
}

/// A small generator, so that a failure can be repeated from its number.
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_malformed_peers_leave_nothing_behind() {
    let ca = Ca::new();
    let settings = ServerSettings {
        handshake_timeout: Duration::from_millis(500),
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let config = ca.client(CLIENT);
    let mut work = tokio::task::JoinSet::new();
    for i in 0..1000u64 {
        let (config, addr) = (Arc::clone(&config), server.addr);
        work.spawn(async move {
            // Errors are what is expected; only the server is judged.
            let _ =
                tokio::time::timeout(Duration::from_secs(20), malformed(i, &config, addr)).await;
        });
        if i % 50 == 49 {
            while work.join_next().await.is_some() {}
        }
    }
    while work.join_next().await.is_some() {}
    eventually("all connections are gone", || {
        server
            .acceptor
            .stats()
            .connections_active
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
    eventually("all tasks are gone", || server.tasks.len() == 1).await;
    // And it serves.
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    tunnel.write_all(b"ping").await.unwrap();
    tunnel.read_exact(&mut [0; 4]).await.unwrap();
}

async fn malformed(i: u64, config: &Arc<rustls::ClientConfig>, addr: SocketAddr) -> io::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
    let garbage: Bytes = noise(i).take(1 + (i as usize * 37) % 3000).collect();
    if i.is_multiple_of(4) {
        let mut tcp = TcpStream::connect(addr).await?;
        let start: &[u8] = match i % 3 {
            0 => b"GET / HTTP/1.1\r\n\r\n",
            1 => PREFACE,
            _ => b"\x16\x03\x01\x02\x00\x01", // a handshake record, then noise
        };
        tcp.write_all(start).await?;
        tcp.write_all(&garbage).await?;
        tcp.shutdown().await?;
        tcp.read_to_end(&mut Vec::new()).await?;
        return Ok(());
    }
    let mut stream = tls(config, addr).await?;
    stream.write_all(PREFACE).await?;
    if i % 4 > 1 {
        stream.write_all(SETTINGS).await?;
    }
    match i % 7 {
        0 => stream.write_all(&garbage).await?,
        1 => {
            // HEADERS without END_HEADERS, and CONTINUATIONs without end.
            stream.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82").await?;
            for _ in 0..2000 {
                stream.write_all(b"\0\0\x01\x09\0\0\0\0\x01\x82").await?;
            }
        }
        2 => {
            // Rapid reset.
            for id in (1u32..2000).step_by(2) {
                let mut frames = b"\0\0\x0d\x01\x04".to_vec();
                frames.extend_from_slice(&id.to_be_bytes());
                frames.extend_from_slice(b"\x42\x07CONNECT\x41\x02ab");
                frames.extend_from_slice(b"\0\0\x04\x03\0");
                frames.extend_from_slice(&id.to_be_bytes());
                frames.extend_from_slice(&8u32.to_be_bytes());
                stream.write_all(&frames).await?;
            }
        }
        3 => {
            for _ in 0..5000 {
                stream.write_all(b"\0\0\x08\x06\0\0\0\0\0abcdefgh").await?; // PING flood, answers unread
            }
        }
        4 => {
            for _ in 0..5000 {
                stream.write_all(SETTINGS).await?;
            }
        }
        5 => {
            // A frame longer than allowed.
            stream.write_all(b"\xff\xff\xff\0\0\0\0\0\x01").await?;
            stream.write_all(&garbage).await?;
        }
        _ => {
            // A valid frame header with a body of noise, of every type.
            for kind in 0..12u8 {
                let body = &garbage[..garbage.len().min(64)];
                let mut frame = vec![0, 0, body.len() as u8, kind, (i >> 3) as u8];
                frame.extend_from_slice(&((i as u32) & 7).to_be_bytes());
                frame.extend_from_slice(body);
                stream.write_all(&frame).await?;
            }
        }
    }
    stream.shutdown().await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
