//! Windows, and what a connection holds.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::{spawn, yield_now};

/// Puts until no more is taken; returns how much was.
async fn fill(stream: &mut Stream) -> usize {
    use crate::Io;
    let mut put = 0;
    let mut idle = 0;
    while idle < 50 {
        let taken = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match stream.poll_put(&[1; 16_000], cx) {
                std::task::Poll::Ready(taken) => taken.unwrap(),
                std::task::Poll::Pending => 0,
            })
        })
        .await;
        put += taken;
        idle = if taken > 0 { 0 } else { idle + 1 };
        yield_now().await;
    }
    put
}

#[test]
fn a_stream_that_is_not_read_stops_its_writer() {
    run(async {
        let config = Config::default();
        let window = config.stream_window_bytes as usize;
        let (client, mut server) = connected(config);
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        assert_eq!(fill(&mut ours).await, window);
        expect(&mut theirs, &vec![1; window]).await;
        assert!(fill(&mut ours).await >= window);
    });
}

#[test]
fn any_number_of_unread_streams_leaves_the_others_alone() {
    run(async {
        let config = Config {
            max_concurrent_streams: 100,
            assumed_concurrent_streams: 100,
            ..Config::default()
        };
        let window = config.stream_window_bytes as usize;
        let (client, mut server) = connected(config);
        let mut stalled = Vec::new();
        for _ in 0..99 {
            let (mut ours, theirs) = open(&client, &mut server).await;
            assert_eq!(fill(&mut ours).await, window);
            stalled.push((ours, theirs));
        }
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        let busy = spawn("echo", async move { echo(&mut theirs).await });
        for round in 0..100u8 {
            put_all(&mut ours, &[round; 20_000]).await.unwrap();
            expect(&mut ours, &[round; 20_000]).await;
        }
        finish(&mut ours).await.unwrap();
        busy.await.unwrap().unwrap();
        // And what stood still is all there.
        for (_, theirs) in &mut stalled {
            expect(theirs, &vec![1; window]).await;
        }
    });
}

#[test]
fn many_streams_that_fill_the_output_all_get_their_turn() {
    run(async {
        let config = Config {
            output_bytes: 20_000,
            ..Config::default()
        };
        let (client, server) = connected(config);
        let served = spawn("server", echo_all(server));
        let done = Rc::new(Cell::new(0));
        let tasks = Tasks::new();
        for number in 0..80u8 {
            let mut stream = tunnel(&client);
            let done = Rc::clone(&done);
            tasks.spawn("exchange", async move {
                let sent: Vec<u8> = (0..50_000u32).map(|n| n as u8 ^ number).collect();
                stream.response().await.unwrap();
                let mut writer = 0;
                let mut reader = 0;
                // Both directions in one task, as a relay does it.
                std::future::poll_fn(|cx| {
                    use crate::Io;
                    use std::task::Poll;
                    while writer < sent.len()
                        && let Poll::Ready(put) = stream.poll_put(&sent[writer..], cx)
                    {
                        writer += put.unwrap();
                    }
                    while let Poll::Ready(got) = stream.poll_fill(cx) {
                        let got = got.unwrap();
                        assert_eq!(got, &sent[reader..reader + got.len()]);
                        let count = got.len();
                        reader += count;
                        stream.consume(count);
                        if reader == sent.len() {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Pending
                })
                .await;
                finish(&mut stream).await.unwrap();
                assert!(all(&mut stream).await.is_empty());
                done.set(done.get() + 1);
            });
        }
        tasks.finished().await;
        assert_eq!(done.get(), 80);
        drop(client);
        let end = served.await.unwrap();
        assert!(
            matches!(end, ConnectionEnd::Finished | ConnectionEnd::Eof),
            "{end:?}"
        );
    });
}

#[test]
fn an_idle_tunnel_costs_less_than_a_kilobyte() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let before = (client.memory(), server.memory());
        let mut tunnels = Vec::new();
        for _ in 0..100 {
            let (mut ours, mut theirs) = open(&client, &mut server).await;
            put_all(&mut ours, &[1; 1000]).await.unwrap();
            expect(&mut theirs, &[1; 1000]).await;
            // Waiting is what gives the buffer back.
            let waits = std::future::poll_fn(|cx| {
                use crate::Io;
                std::task::Poll::Ready(theirs.poll_fill(cx).is_pending())
            });
            assert!(waits.await);
            tunnels.push((ours, theirs));
        }
        yield_now().await;
        for (before, after) in [(before.0, client.memory()), (before.1, server.memory())] {
            let each = after.saturating_sub(before) / 100;
            assert!(each < 1000, "{each} bytes");
        }
        for (ours, theirs) in &tunnels {
            assert_eq!((ours.held(), theirs.held()), (0, 0));
        }
    });
}
