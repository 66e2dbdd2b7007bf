use super::super::{End, ErrorCode, ResetBy, SendError};
use super::*;

fn get(bench: &mut Bench) -> StreamRef {
    let mut head = Head::request(b"GET");
    head.set_scheme(b"http");
    head.set_authority(b"reviews");
    head.set_path(b"/");
    bench
        .conn
        .send_request(head.wire_fields(), End::Yes, &mut bench.out)
        .unwrap()
}

#[test]
fn a_server_leaves_in_two_steps() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    bench.conn.shut_down(&mut bench.out);
    let sent = bench.sent();
    assert_eq!(sent[0].1[..4], 0x7fff_ffffu32.to_be_bytes());
    assert_eq!(sent[1].0.kind, kind::PING);
    // On its way when the client heard of it.
    let late = bench.accept_tunnel(3);
    bench
        .feed(&frame(kind::PING, flag::ACK, 0, &sent[1].1))
        .unwrap();
    let sent = bench.sent();
    assert_eq!(
        (sent[0].0.kind, &sent[0].1[..4]),
        (kind::GOAWAY, &[0, 0, 0, 3][..])
    );
    let request = bench.headers(5, CONNECT, 0);
    assert_eq!(bench.feed(&request), Ok(Vec::new()));
    assert_eq!(bench.feed(&frame(kind::DATA, 0, 5, b"x")), Ok(Vec::new()));
    assert!(bench.sent().is_empty(), "it isn't even refused");
    assert!(!bench.conn.is_drained());
    for stream in [stream, late] {
        bench
            .conn
            .send_data(stream, b"", End::Yes, &mut bench.out)
            .unwrap();
        bench
            .feed(&frame(kind::DATA, flag::END_STREAM, stream.id(), b""))
            .unwrap();
    }
    assert!(bench.conn.is_drained());
}

#[test]
fn streams_that_a_goaway_refuses_may_be_tried_again() {
    let mut bench = Bench::client(Config::default());
    let first = get(&mut bench);
    let second = get(&mut bench);
    let seen = bench
        .feed(&frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]))
        .unwrap();
    let go_away = Event::GoAway {
        last_stream: 1,
        code: ErrorCode::NO_ERROR,
    };
    let reset = Event::Reset {
        stream: second,
        code: ErrorCode::REFUSED_STREAM,
        by: ResetBy::Peer,
    };
    assert_eq!(seen, [Seen::Event(go_away), Seen::Event(reset)]);
    assert_eq!(bench.conn.streams().collect::<Vec<_>>(), [first]);
    let head = Head::request(b"GET");
    let refused = bench
        .conn
        .send_request(head.wire_fields(), End::Yes, &mut bench.out);
    assert_eq!(refused, Err(SendError::Leaving));
    let answer = bench.headers(1, &[(":status", "204")], flag::END_STREAM);
    bench.feed(&answer).unwrap();
    assert!(bench.conn.is_drained());
}

#[test]
fn a_client_opens_as_many_streams_as_the_server_says() {
    let mut bench = Bench::client(Config {
        max_concurrent_streams: 300,
        ..Config::default()
    });
    assert_eq!(bench.conn.available_streams(), 300, "our own limit");
    bench.feed(&settings(&[(3, 1)])).unwrap();
    let stream = get(&mut bench);
    assert_eq!(bench.conn.available_streams(), 0);
    let refused = bench.conn.send_request(
        Head::request(b"GET").wire_fields(),
        End::Yes,
        &mut bench.out,
    );
    assert_eq!(refused, Err(SendError::TooManyStreams));
    bench.conn.reset(stream, ErrorCode::CANCEL, &mut bench.out);
    get(&mut bench);
}

#[test]
fn pings_are_answered_and_answers_told() {
    let mut bench = Bench::server(Config::default());
    bench.feed(&frame(kind::PING, 0, 0, b"abcdefgh")).unwrap();
    let sent = bench.sent();
    assert_eq!((sent[0].0.kind, sent[0].0.flags), (kind::PING, flag::ACK));
    assert_eq!(sent[0].1, b"abcdefgh");
    bench.conn.ping(*b"12345678", &mut bench.out);
    assert_eq!(bench.sent_kinds(), [kind::PING]);
    let payload = *b"12345678";
    let seen = bench.feed(&frame(kind::PING, flag::ACK, 0, &payload));
    assert_eq!(seen, Ok(vec![Seen::Event(Event::Pong { payload })]));
}

#[test]
fn what_is_not_http2_is_refused_at_once() {
    let mut out = WriteBuf::new();
    let conn = Connection::server(Arc::new(Config::default()), &mut out);
    let mut bench = Bench::new(conn, out);
    assert_eq!(
        bench.feed(b"GET / HTTP/1.1\r\n\r\n"),
        Err(ConnectionError::Preface)
    );
    let mut out = WriteBuf::new();
    let conn = Connection::client(Arc::new(Config::default()), &mut out);
    let mut bench = Bench::new(conn, out);
    assert_eq!(
        bench.feed(&frame(kind::PING, 0, 0, &[0; 8])),
        Err(ConnectionError::Preface)
    );
}
