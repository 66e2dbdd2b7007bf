//! How streams and connections end.

use waymark_engine::h2::{ConnectionError, ErrorCode, Refusal, ResetBy};

use super::*;
use crate::io::filled;
use crate::{Io, now, sleep, spawn};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fn reset(code: ErrorCode) -> StreamEnd {
    StreamEnd::Reset {
        code,
        by: ResetBy::Peer,
    }
}

/// Reads all the frames that come until the end.
async fn frames(io: &mut PairEnd) -> Vec<(u8, Vec<u8>)> {
    let bytes = read_to_end(io, 1 << 20).await.unwrap();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some(([a, b, c, kind, _flags, ..], after)) = rest.split_first_chunk::<9>() {
        let (payload, after) = after.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        frames.push((*kind, payload.to_vec()));
        rest = after;
    }
    frames
}

fn says_go_away(frames: &[(u8, Vec<u8>)], code: ErrorCode) -> bool {
    frames
        .iter()
        .any(|(kind, payload)| *kind == 7 && payload[4..8] == code.0.to_be_bytes())
}

#[test]
fn a_stream_that_is_dropped_is_reset_either_way() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (ours, mut theirs) = open(&client, &mut server).await;
        drop(ours);
        let error = filled(&mut theirs).await.unwrap_err();
        assert_eq!(StreamEnd::of(&error), Some(reset(ErrorCode::CANCEL)));
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        theirs.reset(ErrorCode::INTERNAL_ERROR);
        let code = reset(ErrorCode::INTERNAL_ERROR);
        assert_eq!(
            StreamEnd::of(&filled(&mut ours).await.unwrap_err()),
            Some(code)
        );
        let unwritable = put_all(&mut ours, b"x").await.unwrap_err();
        assert_eq!(StreamEnd::of(&unwritable), Some(code));
        // A request that nobody takes.
        let mut ours = tunnel(&client);
        drop(server.accept().await.unwrap());
        assert_eq!(ours.response().await.unwrap_err(), reset(ErrorCode::CANCEL));
    });
}

#[test]
fn a_server_that_has_said_all_gives_up_the_rest_without_an_error() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        put_all(&mut theirs, b"all").await.unwrap();
        finish(&mut theirs).await.unwrap();
        drop(theirs);
        assert_eq!(all(&mut ours).await, b"all");
        let end = std::future::poll_fn(|cx| ours.poll_failure(cx)).await;
        assert_eq!(end, reset(ErrorCode::NO_ERROR));
        assert!(all(&mut ours).await.is_empty(), "an end stays an end");
    });
}

#[test]
fn what_came_before_a_reset_is_read_first() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        put_all(&mut theirs, b"half a sent").await.unwrap();
        drop(theirs);
        std::future::poll_fn(|cx| ours.poll_failure(cx)).await;
        expect(&mut ours, b"half a sent").await;
        assert!(filled(&mut ours).await.is_err());
    });
}

#[test]
fn the_end_of_the_transport_fails_every_stream() {
    run(async {
        let (io, mut other) = pair(64 * 1024);
        let client = ClientConnection::new(io, Arc::new(Config::default()), OPTIONS);
        let mut streams: Vec<Stream> = (0..10).map(|_| tunnel(&client)).collect();
        let waiting = spawn("waits", async move {
            for stream in &mut streams {
                let end = stream.response().await.unwrap_err();
                assert_eq!(end, StreamEnd::Connection(ConnectionEnd::Eof));
            }
        });
        filled(&mut other).await.unwrap();
        finish(&mut other).await.unwrap();
        waiting.await.unwrap();
        assert_eq!(client.end(), Some(ConnectionEnd::Eof));
        assert!(matches!(
            client.open(connect().wire_fields(), End::No),
            Err(OpenError::Over(ConnectionEnd::Eof))
        ));
        read_to_end(&mut other, 1 << 20).await.unwrap();

        let (io, mut other) = pair(64 * 1024);
        let client = ClientConnection::new(io, Arc::new(Config::default()), OPTIONS);
        let mut stream = tunnel(&client);
        filled(&mut other).await.unwrap();
        other.abort();
        let broken = ConnectionEnd::Broken(std::io::ErrorKind::ConnectionReset);
        assert_eq!(
            stream.response().await.unwrap_err(),
            StreamEnd::Connection(broken)
        );
    });
}

#[test]
fn a_server_that_shuts_down_finishes_what_is_open() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        server.shut_down();
        let mut watch = client.watch();
        std::future::poll_fn(|cx| watch.poll_leaving(cx)).await;
        assert_eq!(
            client.open(connect().wire_fields(), End::No).unwrap_err(),
            OpenError::Leaving
        );
        put_all(&mut ours, b"last words").await.unwrap();
        finish(&mut ours).await.unwrap();
        assert_eq!(all(&mut theirs).await, b"last words");
        finish(&mut theirs).await.unwrap();
        assert_eq!(server.accept().await.unwrap_err(), ConnectionEnd::Finished);
        assert!(all(&mut ours).await.is_empty());
        std::future::poll_fn(|cx| watch.poll_over(cx)).await;
    });
}

#[test]
fn a_connection_that_is_closed_cuts_its_streams() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        server.close(ErrorCode::NO_ERROR);
        let closed = StreamEnd::Connection(ConnectionEnd::Closed);
        assert_eq!(
            StreamEnd::of(&filled(&mut theirs).await.unwrap_err()),
            Some(closed)
        );
        let error = filled(&mut ours).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
        assert_eq!(server.accept().await.unwrap_err(), ConnectionEnd::Closed);
    });
}

#[test]
fn a_client_ends_with_its_last_handle_and_stream() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let mut watch = client.watch();
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        drop(client.clone());
        drop(client);
        put_all(&mut ours, b"goes on").await.unwrap();
        expect(&mut theirs, b"goes on").await;
        drop(theirs);
        drop(ours);
        let end = std::future::poll_fn(|cx| watch.poll_over(cx)).await;
        assert_eq!(end, ConnectionEnd::Finished);
        server.accept().await.unwrap_err();
    });
}

#[test]
fn a_peer_that_answers_no_ping_is_dropped() {
    run(async {
        let keep_alive = Some(KeepAlive {
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
        });
        let options = Options {
            keep_alive,
            ..OPTIONS
        };
        let (io, mut peer) = pair(64 * 1024);
        let mut server = ServerConnection::new(io, Arc::new(Config::default()), options);
        put_all(&mut peer, &[PREFACE, SETTINGS].concat())
            .await
            .unwrap();
        server.ready().await.unwrap();
        let start = now();
        assert_eq!(server.accept().await.unwrap_err(), ConnectionEnd::Dead);
        assert!(now() - start >= Duration::from_millis(39));
        let frames = frames(&mut peer).await;
        assert!(frames.iter().any(|(kind, _)| *kind == 6));
        assert!(says_go_away(&frames, ErrorCode::NO_ERROR), "{frames:?}");
    });
}

#[test]
fn a_peer_that_answers_pings_stays() {
    run(async {
        let keep_alive = Some(KeepAlive {
            interval: Duration::from_millis(5),
            timeout: Duration::from_secs(10),
        });
        let options = Options {
            keep_alive,
            ..OPTIONS
        };
        let (one, other) = pair(64 * 1024);
        let client = ClientConnection::new(one, Arc::new(Config::default()), OPTIONS);
        let config = Arc::new(Config::default());
        let mut server = ServerConnection::new(other, config, options);
        let (mut ours, mut theirs) = open(&client, &mut server).await;
        let until = now() + Duration::from_millis(60);
        while now() < until {
            sleep(Duration::from_millis(10)).await;
        }
        put_all(&mut ours, b"here").await.unwrap();
        expect(&mut theirs, b"here").await;
    });
}

#[test]
fn a_flood_is_refused_counted_and_told() {
    run(async {
        let (io, mut peer) = pair(64 * 1024);
        let mut server = server(io, Config::default());
        let flood = spawn("flood", async move {
            put_all(&mut peer, &[PREFACE, SETTINGS].concat())
                .await
                .unwrap();
            for _ in 0..2000 {
                // What is refused meanwhile is refused.
                if put_all(&mut peer, b"\0\0\0\x04\0\0\0\0\0").await.is_err() {
                    break;
                }
            }
            let _ = finish(&mut peer).await;
            frames(&mut peer).await
        });
        let abuse = ConnectionError::Abuse(Refusal::Settings);
        assert_eq!(
            server.accept().await.unwrap_err(),
            ConnectionEnd::Protocol(abuse)
        );
        assert_eq!(server.refusals().count(Refusal::Settings), 1);
        let frames = flood.await.unwrap();
        assert!(says_go_away(&frames, ErrorCode::ENHANCE_YOUR_CALM));
    });
}

#[test]
fn endless_informational_responses_end_the_stream() {
    run(async {
        let (client, mut server) = connected(Config::default());
        let mut ours = tunnel(&client);
        let mut theirs = server.accept().await.unwrap().stream;
        for _ in 0..100 {
            let _ = theirs.send_response(Head::response(103).wire_fields(), End::No);
        }
        let end = std::future::poll_fn(|cx| theirs.poll_failure(cx)).await;
        assert_eq!(end, reset(ErrorCode::ENHANCE_YOUR_CALM));
        let mut told = 0;
        while ours.response().await.is_ok() {
            told += 1;
        }
        assert_eq!(told, 16);
    });
}

#[test]
fn what_is_no_http2_is_told_apart() {
    run(async {
        let (io, mut peer) = pair(64 * 1024);
        let mut server = server(io, Config::default());
        put_all(&mut peer, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert_eq!(
            server.ready().await.unwrap_err(),
            ConnectionEnd::Protocol(ConnectionError::Preface)
        );
    });
}
