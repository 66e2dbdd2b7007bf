//! What a tunnel does with bytes, ends and slow readers.

use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use waymark_hbone_tokio::{
    Authority, CopyCounters, PoolSettings, ServerSettings, copy_bidirectional,
};

use crate::mesh::{Ca, LOCALHOST, SERVER, Server, echo, eventually, key, open, pool, relay, serve};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carries_many_streams_at_once() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut work = tokio::task::JoinSet::new();
    for i in 0..300u32 {
        let (pool, key) = (pool.clone(), key(server.addr));
        work.spawn(async move {
            let authority: Authority = "10.0.0.1:80".parse().unwrap();
            let mut tunnel = pool
                .connect(&key, &authority, HeaderMap::new())
                .await
                .unwrap()
                .tunnel;
            let sent: Vec<u8> = (0..40_000u32).map(|n| (n * i) as u8).collect();
            let copy = sent.clone();
            let (mut read, mut write) = tokio::io::split(&mut tunnel);
            let writer = async {
                write.write_all(&copy).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(read.read_to_end(&mut got), writer);
            read.unwrap();
            assert!(got == sent, "stream {i}");
        });
    }
    work.join_all().await;
    assert_eq!(
        pool.stats()
            .streams
            .load(std::sync::atomic::Ordering::Relaxed),
        300
    );
    assert!(pool.snapshot().iter().all(|(_, _, streams)| *streams == 0));
}

#[tokio::test]
async fn half_close_reaches_the_other_side_and_leaves_the_way_back_open() {
    let ca = Ca::new();
    let node = serve(ca.server(SERVER), ServerSettings::default(), relay).await;
    let app = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let authority = Authority::from(app.local_addr().unwrap());
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = pool
        .connect(&key(node.addr), &authority, HeaderMap::new())
        .await
        .unwrap()
        .tunnel;
    let (mut accepted, _) = app.accept().await.unwrap();

    tunnel.write_all(b"question").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut question = String::new();
    accepted.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    accepted.write_all(b"answer").await.unwrap();
    drop(accepted);
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_dropped_tunnel_is_a_reset_not_an_end() {
    let ca = Ca::new();
    let (seen, mut saw) = tokio::sync::mpsc::channel(1);
    let server = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        move |incoming| {
            let seen = seen.clone();
            async move {
                let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
                let mut all = Vec::new();
                let end = tunnel.read_to_end(&mut all).await.map_err(|e| e.kind());
                seen.send(end).await.unwrap();
            }
        },
    )
    .await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    tunnel.write_all(b"half a sent").await.unwrap();
    drop(tunnel);
    assert_eq!(
        saw.recv().await.unwrap(),
        Err(std::io::ErrorKind::ConnectionReset)
    );
}

#[tokio::test]
async fn a_slow_reader_stops_its_own_writer_and_nobody_else() {
    let ca = Ca::new();
    let server = serve(ca.server(SERVER), ServerSettings::default(), echo).await;
    let pool = pool(&ca, PoolSettings::default());
    let mut stuck = open(&pool, &server).await;
    // Nothing reads the echo: the writer has to stop after the windows and buffers of both directions, and no later.
    let block = vec![7u8; 64 * 1024];
    let mut written = 0usize;
    while let Ok(done) =
        tokio::time::timeout(Duration::from_millis(300), stuck.write_all(&block)).await
    {
        done.unwrap();
        written += block.len();
        assert!(written < 64 << 20, "never stopped");
    }
    let mut other = open(&pool, &server).await;
    assert_eq!(pool.snapshot()[0].1, 1, "both share a connection");
    let mut buf = [0; 4];
    let pings = async {
        for _ in 0..50 {
            other.write_all(b"ping").await.unwrap();
            other.read_exact(&mut buf).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), pings)
        .await
        .unwrap();
    // And once it reads, everything is there.
    let mut buf = vec![0; written];
    stuck.read_exact(&mut buf).await.unwrap();
    assert!(buf.iter().all(|b| *b == 7));
}

#[tokio::test]
async fn a_copy_between_tunnels_keeps_back_pressure() {
    // client -> middle -> far: the far end reads nothing.
    let ca = Ca::new();
    let far = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        |incoming| async move {
            let _tunnel = incoming.accept(HeaderMap::new()).unwrap();
            std::future::pending::<()>().await;
        },
    )
    .await;
    let upstream = pool(&ca, PoolSettings::default());
    let far_key = key(far.addr);
    let middle = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        move |incoming| {
            let (upstream, far_key) = (upstream.clone(), far_key.clone());
            async move {
                let mut out = upstream
                    .connect(&far_key, &incoming.authority, HeaderMap::new())
                    .await
                    .unwrap()
                    .tunnel;
                let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
                copy_bidirectional(&mut tunnel, &mut out, &CopyCounters::default()).await;
            }
        },
    )
    .await;
    let client = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&client, &middle).await;
    let block = vec![7u8; 64 * 1024];
    let mut written = 0;
    while let Ok(done) =
        tokio::time::timeout(Duration::from_millis(300), tunnel.write_all(&block)).await
    {
        done.unwrap();
        written += block.len();
    }
    // Two windows of 4 MiB and the send buffers.
    assert!(
        written <= 10 << 20,
        "{written} bytes went into a tunnel that nobody reads"
    );
    assert!(written >= 4 << 20, "{written} bytes only");
}

/// Client, node, waypoint-like splice, node, application: the way of a request.
async fn two_tunnels(ca: &Ca) -> (TcpListener, Server, Server) {
    let app = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let node = serve(ca.server(SERVER), ServerSettings::default(), relay).await;
    let upstream = pool(ca, PoolSettings::default());
    let node_key = key(node.addr);
    let middle = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        move |incoming| {
            let (upstream, node_key) = (upstream.clone(), node_key.clone());
            async move {
                let mut out = upstream
                    .connect(&node_key, &incoming.authority, HeaderMap::new())
                    .await
                    .unwrap()
                    .tunnel;
                let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
                copy_bidirectional(&mut tunnel, &mut out, &CopyCounters::default()).await;
            }
        },
    )
    .await;
    (app, node, middle)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stalls_for_a_delayed_acknowledgement() {
    let ca = Ca::new();
    let (app, _node, middle) = two_tunnels(&ca).await;
    let authority = Authority::from(app.local_addr().unwrap());
    let apps = waymark_rt::Tasks::new();
    let spawner = apps.spawner();
    apps.spawn("app", async move {
        loop {
            let (mut tcp, _) = app.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            spawner.spawn("app connection", async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let client = pool(&ca, PoolSettings::default());
    let mut tunnel = client
        .connect(&key(middle.addr), &authority, HeaderMap::new())
        .await
        .unwrap()
        .tunnel;
    for size in [1usize, 100, 4_000, 64 * 1024] {
        let sent = vec![3u8; size];
        let mut got = vec![0u8; size];
        let mut times = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            // In two writes, which is what Nagle's algorithm punishes.
            tunnel.write_all(&sent[..size / 2]).await.unwrap();
            tunnel.write_all(&sent[size / 2..]).await.unwrap();
            tunnel.read_exact(&mut got).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let p90 = times[180];
        assert!(p90 < Duration::from_millis(38), "{size} bytes: p90 {p90:?}");
    }
}

#[tokio::test]
async fn runs_on_one_thread_and_counts_what_it_copies() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (mut one, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(listener.local_addr().unwrap())
                .await
                .unwrap();
            let (mut two, _) = listener.accept().await.unwrap();
            let counters = std::rc::Rc::new(CopyCounters::default());
            let shared = counters.clone();
            let copy = tokio::task::spawn_local(async move {
                copy_bidirectional(&mut one, &mut two, &shared).await
            });
            client.write_all(&[1; 100_000]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            assert_eq!(got.len(), 100_000);
            server.write_all(b"bye").await.unwrap();
            drop(server);
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"bye");
            let outcome = copy.await.unwrap();
            assert_eq!((outcome.forward, outcome.backward), (100_000, 3));
            assert!(outcome.error.is_none());
        })
        .await;
}

#[tokio::test]
async fn peeked_bytes_are_read_again() {
    let ca = Ca::new();
    let (seen, mut saw) = tokio::sync::mpsc::channel(1);
    let server = serve(
        ca.server(SERVER),
        ServerSettings::default(),
        move |incoming| {
            let seen = seen.clone();
            async move {
                let mut tunnel = incoming.accept(HeaderMap::new()).unwrap();
                while tunnel.peeked().len() < 10 && tunnel.peek_more().await.unwrap() {}
                assert_eq!(&tunnel.peeked()[..10], b"0123456789");
                let mut all = String::new();
                tunnel.read_to_string(&mut all).await.unwrap();
                seen.send(all).await.unwrap();
            }
        },
    )
    .await;
    let pool = pool(&ca, PoolSettings::default());
    let mut tunnel = open(&pool, &server).await;
    for part in ["012", "3456", "789abc"] {
        tunnel.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    tunnel.shutdown().await.unwrap();
    assert_eq!(saw.recv().await.unwrap(), "0123456789abc");
    drop(tunnel);
    eventually("the stream is given back", || {
        pool.snapshot().iter().all(|(_, _, streams)| *streams == 0)
    })
    .await;
}
