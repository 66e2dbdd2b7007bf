//! What a tunnel does with bytes, ends and slow readers.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use waymark_driver::io::{filled, finish, put_all, read_to_end};
use waymark_driver::{Io, Socket, Tasks, now, spawn, timeout};
use waymark_hbone::{
    Authority, CopyCounters, PoolSettings, ServerSettings, Tunnel, copy_bidirectional,
};

use crate::mesh::{
    Ca, LOCALHOST, SERVER, Server, echo, eventually, exactly, key, open, ping, pool, relay, run,
    serve,
};

const PATIENCE: Duration = Duration::from_millis(300);

/// Puts blocks until none is taken for a while; returns how many bytes were.
async fn fill(tunnel: &mut Tunnel) -> usize {
    let block = vec![7u8; 64 * 1024];
    let mut written = 0;
    loop {
        let put = std::future::poll_fn(|cx| tunnel.poll_put(&block, cx));
        match timeout(PATIENCE, put).await {
            Ok(count) => written += count.unwrap(),
            Err(_) => return written,
        }
        assert!(written < 64 << 20, "never stopped");
    }
}

#[test]
fn carries_many_streams_at_once() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let pool = pool(&ca, PoolSettings::default());
        let work = Tasks::new();
        let done = Rc::new(Cell::new(0));
        for i in 0..300u32 {
            let (pool, key, done) = (pool.clone(), key(server.addr), Rc::clone(&done));
            work.spawn("stream", async move {
                let authority: Authority = "10.0.0.1:80".parse().unwrap();
                let connected = pool.connect(&key, &authority, []).await;
                let mut tunnel = connected.unwrap().tunnel;
                let sent: Vec<u8> = (0..40_000u32).map(|n| (n * i) as u8).collect();
                put_all(&mut tunnel, &sent).await.unwrap();
                finish(&mut tunnel).await.unwrap();
                let got = read_to_end(&mut tunnel, 1 << 20).await.unwrap();
                assert!(got == sent, "stream {i}");
                done.set(done.get() + 1);
            });
        }
        work.finished().await;
        assert_eq!(done.get(), 300);
        assert_eq!(pool.stats().streams.load(Ordering::Relaxed), 300);
        assert!(pool.snapshot().iter().all(|(_, _, streams)| *streams == 0));
    });
}

#[test]
fn half_close_reaches_the_other_side_and_leaves_the_way_back_open() {
    run(async {
        let ca = Ca::new();
        let node = serve(ca.server(SERVER), ServerSettings::default(), relay);
        let app = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let authority = Authority::from(app.local_addr().unwrap());
        let served = thread::spawn(move || {
            let (mut accepted, _) = app.accept().unwrap();
            let mut question = String::new();
            accepted.read_to_string(&mut question).unwrap();
            accepted.write_all(b"answer").unwrap();
            question
        });
        let pool = pool(&ca, PoolSettings::default());
        let connected = pool.connect(&key(node.addr), &authority, []).await;
        let mut tunnel = connected.unwrap().tunnel;
        put_all(&mut tunnel, b"question").await.unwrap();
        finish(&mut tunnel).await.unwrap();
        let answer = read_to_end(&mut tunnel, 100).await.unwrap();
        assert_eq!(answer, b"answer");
        assert!(tunnel.is_read_closed());
        assert_eq!(served.join().unwrap(), "question");
    });
}

#[test]
fn a_dropped_tunnel_is_a_reset_not_an_end() {
    run(async {
        let ca = Ca::new();
        let (seen, saw) = mpsc::channel();
        let server = serve(
            ca.server(SERVER),
            ServerSettings::default(),
            move |incoming| {
                let seen = seen.clone();
                async move {
                    let mut tunnel = incoming.accept([]).unwrap();
                    let end = read_to_end(&mut tunnel, 1000).await.map_err(|e| e.kind());
                    seen.send(end).unwrap();
                }
            },
        );
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&pool, &server).await;
        put_all(&mut tunnel, b"half a sent").await.unwrap();
        drop(tunnel);
        let mut end = None;
        eventually("the end is seen", || {
            end = saw.try_recv().ok();
            end.is_some()
        })
        .await;
        assert_eq!(end, Some(Err(std::io::ErrorKind::ConnectionReset)));
    });
}

#[test]
fn a_slow_reader_stops_its_own_writer_and_nobody_else() {
    run(async {
        let ca = Ca::new();
        let server = serve(ca.server(SERVER), ServerSettings::default(), echo);
        let pool = pool(&ca, PoolSettings::default());
        // Nothing reads the echoes: the writers have to stop after the windows and buffers of both directions.
        let mut stuck = Vec::new();
        for _ in 0..3 {
            let mut tunnel = open(&pool, &server).await;
            let written = fill(&mut tunnel).await;
            stuck.push((tunnel, written));
        }
        let mut other = open(&pool, &server).await;
        assert_eq!(pool.snapshot()[0].1, 1, "all share a connection");
        let pings = async {
            for _ in 0..50 {
                ping(&mut other, b"ping").await;
            }
        };
        timeout(Duration::from_secs(5), pings).await.unwrap();
        // And once they read, everything is there.
        for (mut tunnel, written) in stuck {
            let got = exactly(&mut tunnel, written).await;
            assert!(got.iter().all(|b| *b == 7));
        }
    });
}

#[test]
fn a_copy_between_tunnels_keeps_back_pressure() {
    run(async {
        // client -> middle -> far: the far end reads nothing.
        let ca = Ca::new();
        let far = serve(
            ca.server(SERVER),
            ServerSettings::default(),
            |incoming| async move {
                let _tunnel = incoming.accept([]).unwrap();
                std::future::pending::<()>().await;
            },
        );
        let middle = splice(&ca, far.addr);
        let client = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&client, &middle).await;
        let written = fill(&mut tunnel).await;
        // Two windows, which have grown as far as they may at most, and the send buffers.
        assert!(written <= 10 << 20, "{written} bytes went nowhere");
        assert!(written >= 2 * 128 * 1024, "{written} bytes only");
    });
}

/// What joins each tunnel with one to the node at an address, as a waypoint does.
fn splice(ca: &Ca, node: std::net::SocketAddr) -> Server {
    let config = ca.client(crate::mesh::CLIENT);
    thread_local! {
        static UPSTREAM: std::cell::OnceCell<waymark_hbone::Pool> = const { std::cell::OnceCell::new() };
    }
    serve(
        ca.server(SERVER),
        ServerSettings::default(),
        move |incoming| {
            let upstream = UPSTREAM.with(|pool| {
                let fresh = || {
                    waymark_hbone::Pool::new(
                        std::sync::Arc::clone(&config),
                        PoolSettings::default(),
                        &waymark_hbone::Drain::new(),
                    )
                };
                pool.get_or_init(fresh).clone()
            });
            async move {
                let connected = upstream.connect(&key(node), &incoming.authority, []).await;
                let mut out = connected.unwrap().tunnel;
                let mut tunnel = incoming.accept([]).unwrap();
                copy_bidirectional(&mut tunnel, &mut out, &CopyCounters::default()).await;
            }
        },
    )
}

#[test]
fn nothing_stalls_for_a_delayed_acknowledgement() {
    run(async {
        let ca = Ca::new();
        let app = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let authority = Authority::from(app.local_addr().unwrap());
        let echoing = thread::spawn(move || {
            let (mut tcp, _) = app.accept().unwrap();
            tcp.set_nodelay(true).unwrap();
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = tcp.read(&mut buffer) {
                if tcp.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = tcp.shutdown(Shutdown::Write);
        });
        let node = serve(ca.server(SERVER), ServerSettings::default(), relay);
        let middle = splice(&ca, node.addr);
        let client = pool(&ca, PoolSettings::default());
        let connected = client.connect(&key(middle.addr), &authority, []).await;
        let mut tunnel = connected.unwrap().tunnel;
        for size in [2usize, 100, 4_000, 64 * 1024] {
            let sent = vec![3u8; size];
            let mut times = Vec::new();
            for _ in 0..200 {
                let start = std::time::Instant::now();
                // In two turns, which is what Nagle's algorithm punishes.
                put_all(&mut tunnel, &sent[..size / 2]).await.unwrap();
                waymark_driver::sleep(Duration::from_micros(10)).await;
                put_all(&mut tunnel, &sent[size / 2..]).await.unwrap();
                exactly(&mut tunnel, size).await;
                times.push(start.elapsed());
            }
            times.sort();
            let p90 = times[180];
            assert!(p90 < Duration::from_millis(38), "{size} bytes: p90 {p90:?}");
        }
        finish(&mut tunnel).await.unwrap();
        assert_eq!(filled(&mut tunnel).await.unwrap(), 0);
        echoing.join().unwrap();
    });
}

#[test]
fn a_copy_between_sockets_counts_and_ends_each_way_by_itself() {
    run(async {
        let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let joined = || {
            let one = TcpStream::connect(addr).unwrap();
            let (other, _) = listener.accept().unwrap();
            let other = waymark_driver::TcpStream::from_std(other).unwrap();
            (one, Socket::plain(other).unwrap())
        };
        let (mut client, mut one) = joined();
        let (mut server, mut two) = joined();
        let counters = Rc::new(CopyCounters::default());
        let shared = Rc::clone(&counters);
        let copy = spawn("copy", async move {
            copy_bidirectional(&mut one, &mut two, &shared).await
        });
        let ends = thread::spawn(move || {
            client.write_all(&[1; 100_000]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut got = Vec::new();
            server.read_to_end(&mut got).unwrap();
            assert_eq!(got.len(), 100_000);
            server.write_all(b"bye").unwrap();
            drop(server);
            let mut got = Vec::new();
            client.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"bye");
        });
        let outcome = copy.await.unwrap();
        assert_eq!((outcome.forward, outcome.backward), (100_000, 3));
        assert!(outcome.error.is_none());
        ends.join().unwrap();
    });
}

#[test]
fn peeked_bytes_are_read_again() {
    run(async {
        let ca = Ca::new();
        let (seen, saw) = mpsc::channel();
        let server = serve(
            ca.server(SERVER),
            ServerSettings::default(),
            move |incoming| {
                let seen = seen.clone();
                async move {
                    let mut tunnel = incoming.accept([]).unwrap();
                    let mut have = 0;
                    while have < 10 {
                        let more = std::future::poll_fn(|cx| {
                            tunnel.poll_fill_more(have, cx).map_ok(|bytes| {
                                assert!(b"0123456789abc".starts_with(bytes));
                                bytes.len()
                            })
                        });
                        have = more.await.unwrap();
                    }
                    let all = read_to_end(&mut tunnel, 1000).await.unwrap();
                    seen.send(all).unwrap();
                }
            },
        );
        let pool = pool(&ca, PoolSettings::default());
        let mut tunnel = open(&pool, &server).await;
        for part in ["012", "3456", "789abc"] {
            put_all(&mut tunnel, part.as_bytes()).await.unwrap();
            let turn = now();
            while now() == turn {
                waymark_driver::sleep(Duration::from_millis(1)).await;
            }
        }
        finish(&mut tunnel).await.unwrap();
        let mut all = None;
        eventually("all is read", || {
            all = saw.try_recv().ok();
            all.is_some()
        })
        .await;
        assert_eq!(all.unwrap(), b"0123456789abc");
        drop(tunnel);
        eventually("the stream is given back", || {
            pool.snapshot().iter().all(|(_, _, streams)| *streams == 0)
        })
        .await;
    });
}
