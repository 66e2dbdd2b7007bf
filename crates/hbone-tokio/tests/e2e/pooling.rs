//! Which connection a tunnel gets, and what happens when it has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use waymark_hbone_tokio::{
    Authority, ConnectError, Drain, ExpectedPeer, Pool, PoolSettings, ServerSettings,
};

use crate::mesh::{CLIENT, Ca, LOCALHOST, SERVER, echo, eventually, key, open, pool, serve};

fn authority() -> Authority {
    "10.0.0.1:80".parse().unwrap()
}

#[tokio::test]
async fn streams_share_a_connection_until_it_is_full() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let settings = PoolSettings {
        max_streams_per_connection: 3,
        ..PoolSettings::default()
    };
    let pool = pool(&ca, settings);
    let mut tunnels = Vec::new();
    for opened in 1..=7usize {
        tunnels.push(open(&pool, &server).await);
        let (_, connections, streams) = pool.snapshot().remove(0);
        assert_eq!((connections, streams), (opened.div_ceil(3), opened));
    }
    drop(tunnels);
    let (_, connections, streams) = pool.snapshot().remove(0);
    assert_eq!((connections, streams), (3, 0), "kept for the next");
}

#[tokio::test]
async fn the_peers_stream_limit_counts() {
    let ca = Ca::new();
    let settings = ServerSettings {
        max_concurrent_streams: 2,
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        let mut tunnel = open(&pool, &server).await;
        tunnel.write_all(b"x").await.unwrap();
        tunnel.read_exact(&mut [0]).await.unwrap();
        tunnels.push(tunnel);
    }
    assert_eq!(pool.snapshot()[0].1, 3);
}

#[tokio::test]
async fn many_callers_share_one_attempt_and_its_failure() {
    let ca = Ca::new();
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let refuser = waymark_rt::spawn("refuser", async move {
        while let Ok((tcp, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(tcp); // in the middle of the handshake
        }
    });
    let pool = pool(&ca, PoolSettings::default());
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (pool, key) = (pool.clone(), key(addr));
        work.spawn(async move {
            pool.connect(&key, &authority(), HeaderMap::new())
                .await
                .unwrap_err()
        });
    }
    for e in work.join_all().await {
        assert!(matches!(e, ConnectError::Tls { .. }), "{e:?}");
    }
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    drop(refuser);
}

#[tokio::test]
async fn a_server_that_is_someone_else_is_refused() {
    let ca = Ca::new();
    let server = serve(
        ca.server("spiffe://cluster.local/ns/default/sa/other"),
        ServerSettings::default(),
        echo,
    )
    .await;
    let e = pool(&ca, PoolSettings::default())
        .connect(&key(server.addr), &authority(), HeaderMap::new())
        .await
        .unwrap_err();
    assert!(matches!(&e, ConnectError::PeerIdentity { .. }), "{e:?}");
    let mut wanted = key(server.addr);
    wanted.expected = ExpectedPeer::AnyOf(Arc::new([]));
    let pool = pool(&ca, PoolSettings::default());
    let e = pool
        .connect(&wanted, &authority(), HeaderMap::new())
        .await
        .unwrap_err();
    assert!(
        matches!(&e, ConnectError::PeerIdentity { .. }),
        "an empty list accepts nobody: {e:?}"
    );
}

#[tokio::test]
async fn peers_of_another_root_are_refused_both_ways() {
    let (ours, foreign) = (Ca::new(), Ca::new());
    let server = serve(ours.server(SERVER), ServerSettings::default(), echo).await;
    let as_foreigner = Pool::new(
        foreign.client(CLIENT),
        PoolSettings::default(),
        &Drain::new(),
    );
    let e = as_foreigner
        .connect(&key(server.addr), &authority(), HeaderMap::new())
        .await
        .unwrap_err();
    assert!(matches!(&e, ConnectError::Tls { .. }), "{e:?}");
    let impostor = serve(foreign.server(SERVER), ServerSettings::default(), echo).await;
    let e = pool(&ours, PoolSettings::default())
        .connect(&key(impostor.addr), &authority(), HeaderMap::new())
        .await
        .unwrap_err();
    assert!(matches!(&e, ConnectError::Tls { .. }), "{e:?}");
    assert_eq!(server.acceptor.stats().streams.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_status_other_than_200_is_told() {
    let ca = Ca::new();
    let server = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        |incoming| async move {
            incoming.refuse(StatusCode::UNAUTHORIZED);
        },
    )
    .await;
    let e = pool(&ca, PoolSettings::default())
        .connect(&key(server.addr), &authority(), HeaderMap::new())
        .await
        .unwrap_err();
    assert!(
        matches!(e, ConnectError::Status(StatusCode::UNAUTHORIZED)),
        "{e:?}"
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let settings = PoolSettings {
        idle_timeout: Duration::from_millis(50),
        ..PoolSettings::default()
    };
    let pool = pool(&ca, settings);
    let mut tunnel = open(&pool, &server).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    tunnel.write_all(b"still here").await.unwrap();
    tunnel.read_exact(&mut [0; 10]).await.unwrap();
    drop(tunnel);
    eventually("the idle connection is closed on both sides", || {
        pool.snapshot().is_empty()
            && server
                .acceptor
                .stats()
                .connections_active
                .load(Ordering::Relaxed)
                == 0
    })
    .await;
    assert_eq!(pool.stats().idle_closed.load(Ordering::Relaxed), 1);
    open(&pool, &server).await;
}

#[tokio::test]
async fn a_server_ends_connections_that_nobody_uses() {
    let ca = Ca::new();
    let settings = ServerSettings {
        idle_timeout: Some(Duration::from_millis(60)),
        ..ServerSettings::default()
    };
    let server = serve(ca.server(SERVER), settings, echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    tunnel.write_all(b"still here").await.unwrap();
    tunnel.read_exact(&mut [0; 10]).await.unwrap();
    drop(tunnel);
    eventually("the idle connection is over", || {
        server
            .acceptor
            .stats()
            .connections_active
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
    open(&pool, &server).await;
}

#[tokio::test]
async fn a_drained_server_finishes_its_tunnels_and_no_connect_is_lost() {
    let ca = Ca::new();
    let settings = ServerSettings::default();
    let server = serve(ca.server(SERVER), settings, echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut old = open(&pool, &server).await;
    server.drain.start();
    // Every connect meets the GOAWAY at some other moment: all end in an answer or in a refused TCP connection.
    for _ in 0..20 {
        let result = pool
            .connect(&key(server.addr), &authority(), HeaderMap::new())
            .await;
        if let Err(e) = &result {
            assert!(matches!(e, ConnectError::Tcp { .. }), "{e:?}");
        }
    }
    old.write_all(b"last words").await.unwrap();
    old.read_exact(&mut [0; 10]).await.unwrap();
    old.shutdown().await.unwrap();
    assert_eq!(old.read(&mut [0]).await.unwrap(), 0);
    drop(old);
    eventually("the connection is over", || {
        server
            .acceptor
            .stats()
            .connections_active
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_cuts_its_tunnels() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    server.drain.kill();
    assert!(tunnel.read(&mut [0]).await.is_err());
    eventually("the connection is over", || {
        server
            .acceptor
            .stats()
            .connections_active
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
}

#[tokio::test]
async fn connections_that_go_away_under_load_lose_no_connect() {
    let ca = Ca::new();
    let tls = ca.server(SERVER);
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = waymark_hbone_tokio::Acceptor::new(tls, ServerSettings::default());
    let tasks = waymark_rt::Tasks::new();
    let spawner = tasks.spawner();
    tasks.spawn("listener", async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, inner) = (acceptor.clone(), spawner.clone());
            spawner.spawn("connection", async move {
                // Every connection says GOAWAY after its 20th stream.
                let drain = Drain::new();
                let Ok(mut connection) = acceptor.accept(tcp, &drain).await else {
                    return;
                };
                let mut served = 0;
                while let Some(incoming) = connection.next().await {
                    inner.spawn("tunnel", echo(incoming));
                    served += 1;
                    if served == 20 {
                        drain.start();
                    }
                }
            });
        }
    });
    let pool = pool(&ca, PoolSettings::default());
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let pool = pool.clone();
        work.spawn(async move {
            for _ in 0..100 {
                let mut tunnel = pool
                    .connect(&key(addr), &authority(), HeaderMap::new())
                    .await
                    .unwrap()
                    .tunnel;
                tunnel.write_all(b"ping").await.unwrap();
                tunnel.read_exact(&mut [0; 4]).await.unwrap();
            }
        });
    }
    work.join_all().await;
    assert!(pool.stats().connections.load(Ordering::Relaxed) >= 20);
}

#[tokio::test]
async fn a_forgotten_key_lets_its_tunnels_finish() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    assert!(tunnel.lease().unwrap().is_current());
    pool.retain(|_| false);
    assert!(!tunnel.lease().unwrap().is_current());
    tunnel.write_all(b"ping").await.unwrap();
    tunnel.read_exact(&mut [0; 4]).await.unwrap();
    drop(tunnel);
    eventually("the connection is over", || {
        server
            .acceptor
            .stats()
            .connections_active
            .load(Ordering::Relaxed)
            == 0
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_take_the_connection_along() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let target = key(server.addr);
    let to = authority();
    {
        let connecting = pool.connect(&target, &to, HeaderMap::new());
        tokio::pin!(connecting);
        assert!(futures_util::poll!(&mut connecting).is_pending());
    }
    eventually("the connection came up all the same", || {
        pool.stats().connections.load(Ordering::Relaxed) == 1
    })
    .await;
    open(&pool, &server).await;
    assert_eq!(pool.stats().connections.load(Ordering::Relaxed), 1);
}
