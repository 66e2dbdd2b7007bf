//! Which connection a tunnel gets, and what happens when it has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use waymark_driver::io::{filled, finish};
use waymark_driver::{Tasks, TcpListener, sleep, spawn};
use waymark_hbone::{
    Authority, ConnectError, Drain, ExpectedPeer, Pool, PoolSettings, ServerSettings,
};

use crate::mesh::{
    CLIENT, Ca, LOCALHOST, SERVER, echo, eventually, key, open, ping, pool, run, serve, serve_some,
};

fn authority() -> Authority {
    "10.0.0.1:80".parse().unwrap()
}

#[test]
fn streams_share_a_connection_until_it_is_full() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
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
    });
}

#[test]
fn the_peers_stream_limit_counts() {
    run(async {
        let ca = Ca::new();
        let settings = ServerSettings {
            max_concurrent_streams: 2,
            ..ServerSettings::default()
        };
        let server = serve(ca.server(SERVER), settings, echo);
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnels = Vec::new();
        for _ in 0..6 {
            let mut tunnel = open(&pool, &server).await;
            ping(&mut tunnel, b"x").await;
            tunnels.push(tunnel);
        }
        assert_eq!(pool.snapshot()[0].1, 3);
    });
}

#[test]
fn many_callers_share_one_attempt_and_its_failure() {
    run(async {
        let ca = Ca::new();
        let listener = std::net::TcpListener::bind((LOCALHOST, 0)).unwrap();
        let mut listener = TcpListener::from_std(listener).unwrap();
        let addr = listener.local_addr();
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let refuser = spawn("refuser", async move {
            loop {
                let tcp = listener.accept().await;
                counted.fetch_add(1, Ordering::Relaxed);
                drop(tcp); // in the middle of the handshake
            }
        });
        let pool = pool(&ca, PoolSettings::default());
        let work = Tasks::new();
        for _ in 0..50 {
            let (pool, key) = (pool.clone(), key(addr));
            work.spawn("connect", async move {
                let e = pool.connect(&key, &authority(), []).await.unwrap_err();
                assert!(matches!(e, ConnectError::Tls { .. }), "{e:?}");
            });
        }
        work.finished().await;
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
        drop(refuser);
    });
}

#[test]
fn a_server_that_is_someone_else_is_refused() {
    run(async {
        let ca = Ca::new();
        let server = serve(
            ca.server("spiffe://cluster.local/ns/default/sa/other"),
            ServerSettings::default(),
            echo,
        );
        let e = pool(&ca, PoolSettings::default())
            .connect(&key(server.addr), &authority(), [])
            .await
            .unwrap_err();
        assert!(matches!(&e, ConnectError::PeerIdentity { .. }), "{e:?}");
        let mut wanted = key(server.addr);
        wanted.expected = ExpectedPeer::AnyOf(Arc::new([]));
        let pool = pool(&ca, PoolSettings::default());
        let e = pool.connect(&wanted, &authority(), []).await.unwrap_err();
        assert!(
            matches!(&e, ConnectError::PeerIdentity { .. }),
            "an empty list accepts nobody: {e:?}"
        );
    });
}

#[test]
fn peers_of_another_root_are_refused_both_ways() {
    run(async {
        let (ours, foreign) = (Ca::new(), Ca::new());
        let server = serve(ours.server(SERVER), ServerSettings::default(), echo);
        let as_foreigner = Pool::new(
            foreign.client(CLIENT),
            PoolSettings::default(),
            &Drain::new(),
        );
        let e = as_foreigner
            .connect(&key(server.addr), &authority(), [])
            .await
            .unwrap_err();
        assert!(matches!(&e, ConnectError::Tls { .. }), "{e:?}");
        let impostor = serve(foreign.server(SERVER), ServerSettings::default(), echo);
        let e = pool(&ours, PoolSettings::default())
            .connect(&key(impostor.addr), &authority(), [])
            .await
            .unwrap_err();
        assert!(matches!(&e, ConnectError::Tls { .. }), "{e:?}");
        assert_eq!(server.acceptor.stats().streams.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_status_other_than_200_is_told() {
    run(async {
        let ca = Ca::new();
        let server = serve(
            ca.server(SERVER),
            ServerSettings::default(),
            |incoming| async move {
                incoming.refuse(StatusCode::UNAUTHORIZED);
            },
        );
        let e = pool(&ca, PoolSettings::default())
            .connect(&key(server.addr), &authority(), [])
            .await
            .unwrap_err();
        assert!(
            matches!(e, ConnectError::Status(StatusCode::UNAUTHORIZED)),
            "{e:?}"
        );
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let settings = PoolSettings {
            idle_timeout: Duration::from_millis(50),
            ..PoolSettings::default()
        };
        let pool = pool(&ca, settings);
        let mut tunnel = open(&pool, &server).await;
        sleep(Duration::from_millis(150)).await;
        ping(&mut tunnel, b"still here").await;
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
    });
}

#[test]
fn a_server_ends_connections_that_nobody_uses() {
    run(async {
        let ca = Ca::new();
        let settings = ServerSettings {
            idle_timeout: Some(Duration::from_millis(60)),
            ..ServerSettings::default()
        };
        let server = serve(ca.server(SERVER), settings, echo);
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&pool, &server).await;
        sleep(Duration::from_millis(200)).await;
        ping(&mut tunnel, b"still here").await;
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
    });
}

#[test]
fn a_drained_server_finishes_its_tunnels_and_no_connect_is_lost() {
    run(async {
        let ca = Ca::new();
        let settings = ServerSettings::default();
        let server = serve(ca.server(SERVER), settings, echo);
        let pool = pool(&ca, PoolSettings::default());
        let mut old = open(&pool, &server).await;
        server.drain.start();
        // Every connect meets the GOAWAY at some other moment: all end in an answer or in a refused TCP connection.
        for _ in 0..20 {
            let result = pool.connect(&key(server.addr), &authority(), []).await;
            if let Err(e) = &result {
                assert!(matches!(e, ConnectError::Tcp { .. }), "{e:?}");
            }
        }
        ping(&mut old, b"last words").await;
        finish(&mut old).await.unwrap();
        assert_eq!(filled(&mut old).await.unwrap(), 0);
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
    });
}

#[test]
fn a_killed_server_cuts_its_tunnels() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&pool, &server).await;
        server.drain.kill();
        assert!(filled(&mut tunnel).await.is_err());
        eventually("the connection is over", || {
            server
                .acceptor
                .stats()
                .connections_active
                .load(Ordering::Relaxed)
                == 0
        })
        .await;
    });
}

#[test]
fn connections_that_go_away_under_load_lose_no_connect() {
    run(async {
        let ca = Ca::new();
        let settings = ServerSettings::default();
        let server = serve_some(ca.server(SERVER), settings, 20, echo);
        let pool = pool(&ca, PoolSettings::default());
        let work = Tasks::new();
        for _ in 0..4 {
            let (pool, addr) = (pool.clone(), server.addr);
            work.spawn("caller", async move {
                for _ in 0..100 {
                    let connected = pool.connect(&key(addr), &authority(), []).await;
                    ping(&mut connected.unwrap().tunnel, b"ping").await;
                }
            });
        }
        work.finished().await;
        assert!(pool.stats().connections.load(Ordering::Relaxed) >= 20);
    });
}

#[test]
fn a_forgotten_key_lets_its_tunnels_finish() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&pool, &server).await;
        assert!(tunnel.lease().unwrap().is_current());
        pool.retain(|_| false);
        assert!(!tunnel.lease().unwrap().is_current());
        ping(&mut tunnel, b"ping").await;
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
    });
}

#[test]
fn a_caller_that_gives_up_does_not_take_the_connection_along() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let pool = pool(&ca, PoolSettings::default());
        let target = key(server.addr);
        let to = authority();
        {
            let connecting = pool.connect(&target, &to, []);
            futures_util::pin_mut!(connecting);
            assert!(futures_util::poll!(&mut connecting).is_pending());
        }
        eventually("the connection came up all the same", || {
            pool.stats().connections.load(Ordering::Relaxed) == 1
        })
        .await;
        open(&pool, &server).await;
        assert_eq!(pool.stats().connections.load(Ordering::Relaxed), 1);
    });
}
