use super::super::{End, ErrorCode, Refusal, ResetBy, SendError};
use super::*;

/// The request whose fields these are; the stream's end is in the flags.
fn is_accepted(config: Config, fields: &[(&str, &str)], flags: u8) -> bool {
    let mut bench = Bench::server(config);
    let request = bench.headers(1, fields, flags);
    let seen = bench.feed(&request).unwrap();
    if let [Seen::Event(Event::Head { end, .. })] = seen[..] {
        assert_eq!(end, flags & flag::END_STREAM != 0);
        return true;
    }
    assert_eq!(seen, []);
    let sent = bench.sent();
    assert_eq!((sent[0].0.kind, sent[0].0.stream), (kind::RST_STREAM, 1));
    assert_eq!(sent[0].1, ErrorCode::PROTOCOL_ERROR.0.to_be_bytes());
    assert_eq!(bench.conn.refusals().count(Refusal::Malformed), 1);
    false
}

#[test]
fn requests_are_what_the_rfc_says() {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const A: (&str, &str) = (":authority", "reviews:9080");
    const P: (&str, &str) = (":path", "/");
    const C: (&str, &str) = (":method", "CONNECT");
    let cases: &[(bool, &[(&str, &str)])] = &[
        (true, &[M, S, A, P]),
        (true, &[P, A, S, M]),
        (true, &[M, S, P]),
        (true, &[M, S, P, ("host", "reviews")]),
        (true, &[M, S, A, P, ("host", "Reviews:9080")]),
        (true, &[M, S, A, P, ("te", "trailers")]),
        (true, &[M, S, A, P, ("cookie", "a=b"), ("cookie", "c=d")]),
        (true, &[M, S, A, P, ("content-length", "0")]),
        (true, &[M, S, A, P, ("x-empty", "")]),
        (true, &[M, S, A, P, ("x-utf8", "h\u{e9}")]),
        (true, &[(":method", "OPTIONS"), S, A, (":path", "*")]),
        (true, &[C, A]),
        (true, &[C, (":authority", "[::1]:80"), ("baggage", "a=b")]),
        (false, &[M, S, A]),
        (false, &[M, A, P]),
        (false, &[S, A, P]),
        (false, &[M, M, S, A, P]),
        (false, &[M, S, A, P, P]),
        (false, &[M, S, A, ("accept", "*/*"), P]),
        (false, &[M, S, A, P, (":status", "200")]),
        (false, &[M, S, A, P, (":unknown", "x")]),
        (false, &[M, S, A, (":path", "")]),
        (false, &[M, S, A, (":path", "x")]),
        (false, &[M, S, A, (":path", "*")]),
        (false, &[M, S, A, (":path", "/a b")]),
        (false, &[M, (":scheme", ""), A, P]),
        (false, &[(":method", ""), S, A, P]),
        (false, &[(":method", "G T"), S, A, P]),
        (false, &[M, S, (":authority", "user@reviews"), P]),
        (false, &[M, S, (":authority", "reviews/"), P]),
        (false, &[M, S, A, P, ("host", "ratings")]),
        (false, &[M, S, P, ("host", "reviews"), ("host", "ratings")]),
        (false, &[M, S, A, P, ("X-Upper", "a")]),
        (false, &[M, S, A, P, ("x y", "a")]),
        (false, &[M, S, A, P, ("", "a")]),
        (false, &[M, S, A, P, ("x-colon:", "a")]),
        (false, &[M, S, A, P, ("x", "a\rb")]),
        (false, &[M, S, A, P, ("x", "a\nb")]),
        (false, &[M, S, A, P, ("x", "a\0b")]),
        (false, &[M, S, A, P, ("x", " a")]),
        (false, &[M, S, A, P, ("x", "a\t")]),
        (false, &[M, S, A, (":path", "/\r\nhost: x")]),
        (false, &[M, S, A, P, ("connection", "close")]),
        (false, &[M, S, A, P, ("connection", "keep-alive")]),
        (false, &[M, S, A, P, ("keep-alive", "timeout=5")]),
        (false, &[M, S, A, P, ("proxy-connection", "close")]),
        (false, &[M, S, A, P, ("transfer-encoding", "chunked")]),
        (false, &[M, S, A, P, ("upgrade", "h2c")]),
        (false, &[M, S, A, P, ("te", "gzip")]),
        (false, &[M, S, A, P, ("te", "trailers, gzip")]),
        (false, &[M, S, A, P, ("content-length", "")]),
        (false, &[M, S, A, P, ("content-length", "-1")]),
        (false, &[M, S, A, P, ("content-length", "+1")]),
        (false, &[M, S, A, P, ("content-length", "0, 0")]),
        (false, &[M, S, A, P, ("content-length", "1")]),
        (
            false,
            &[M, S, A, P, ("content-length", "0"), ("content-length", "1")],
        ),
        (
            false,
            &[M, S, A, P, ("content-length", "99999999999999999999999")],
        ),
        (false, &[C]),
        (false, &[C, (":authority", "")]),
        (false, &[C, A, P]),
        (false, &[C, A, S]),
        (false, &[C, A, S, P, (":protocol", "websocket")]),
        (false, &[M, S, A, P, (":protocol", "websocket")]),
    ];
    for (accepted, fields) in cases {
        assert_eq!(
            is_accepted(Config::default(), fields, flag::END_STREAM),
            *accepted,
            "{fields:?}"
        );
    }
}

#[test]
fn extended_connect_is_taken_where_it_is_offered() {
    let fields = [
        (":method", "CONNECT"),
        (":scheme", "http"),
        (":authority", "reviews"),
        (":path", "/chat"),
        (":protocol", "websocket"),
    ];
    let config = Config {
        extended_connect: true,
        ..Config::default()
    };
    assert!(is_accepted(config.clone(), &fields, 0));
    assert!(
        !is_accepted(config, &fields[..4], 0),
        "that needs :protocol"
    );
    let mut bench = Bench::client(Config::default());
    assert!(!bench.conn.peer_settings().extended_connect);
    bench.feed(&settings(&[(8, 1)])).unwrap();
    assert!(bench.conn.peer_settings().extended_connect);
}

#[test]
fn a_tunnel_is_a_pipe_whose_ends_close_one_by_one() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    let seen = bench
        .feed(&frame(kind::DATA, flag::END_STREAM, 1, b"request"))
        .unwrap();
    assert_eq!(seen, [Seen::Data(stream, b"request".to_vec(), true)]);
    bench.conn.consume(stream, 7, &mut bench.out);
    let taken = bench
        .conn
        .send_data(stream, b"response", End::Yes, &mut bench.out);
    assert_eq!(taken, Ok(8));
    let (header, payload) = bench.sent().pop().unwrap();
    assert_eq!(
        (header.kind, payload.as_slice()),
        (kind::DATA, b"response".as_slice())
    );
    assert!(header.has(flag::END_STREAM));
    assert_eq!(bench.conn.streams().count(), 0);
    let gone = bench.conn.send_data(stream, b"x", End::No, &mut bench.out);
    assert_eq!(gone, Err(SendError::Gone));
}

#[test]
fn a_stream_lives_until_it_is_read() {
    let mut bench = Bench::server(Config::default());
    let stream = bench.accept_tunnel(1);
    bench
        .feed(&frame(kind::DATA, flag::END_STREAM, 1, b"unread"))
        .unwrap();
    bench
        .conn
        .send_data(stream, b"", End::Yes, &mut bench.out)
        .unwrap();
    assert_eq!(bench.conn.active_streams(), 0);
    assert_eq!(bench.conn.streams().count(), 1);
    bench.conn.consume(stream, 6, &mut bench.out);
    assert_eq!(bench.conn.streams().count(), 0);
}

#[test]
fn bodies_are_as_long_as_they_say() {
    let post = [
        (":method", "POST"),
        GET[1],
        GET[2],
        GET[3],
        ("content-length", "5"),
    ];
    for (frames, is_right) in [
        (vec![("abc", false), ("de", true)], true),
        (vec![("abcde", false), ("", true)], true),
        (vec![("abcde", false), ("trailers", true)], true),
        (vec![("abc", true)], false),
        (vec![("abcd", false), ("trailers", true)], false),
        (vec![("abcdef", false)], false),
        (vec![("", true)], false),
    ] {
        let mut bench = Bench::server(Config::default());
        let mut bytes = bench.headers(1, &post, 0);
        for (data, end) in &frames {
            let flags = if *end { flag::END_STREAM } else { 0 };
            bytes.extend(match *data {
                "trailers" => bench.headers(1, &[("x", "y")], flags),
                data => frame(kind::DATA, flags, 1, data.as_bytes()),
            });
        }
        let seen = bench.feed(&bytes).unwrap();
        let refused = matches!(
            seen.last(),
            Some(Seen::Event(Event::Reset {
                code: ErrorCode::PROTOCOL_ERROR,
                by: ResetBy::Us,
                ..
            }))
        );
        assert_eq!(!refused, is_right, "{frames:?}: {seen:?}");
    }
}

#[test]
fn trailers_end_a_message_and_are_no_head() {
    for (fields, flags, accepted) in [
        ([("grpc-status", "0")].as_slice(), flag::END_STREAM, true),
        (&[("grpc-status", "0")], 0, false),
        (&[(":status", "200")], flag::END_STREAM, false),
        (&[(":path", "/")], flag::END_STREAM, false),
        (&[("connection", "close")], flag::END_STREAM, false),
    ] {
        let mut bench = Bench::server(Config::default());
        let mut bytes = bench.headers(1, GET, 0);
        bytes.extend(bench.headers(1, fields, flags));
        let seen = bench.feed(&bytes).unwrap();
        let got = matches!(seen.last(), Some(Seen::Event(Event::Trailers { .. })));
        assert_eq!(got, accepted, "{fields:?}");
    }
}

fn ask(bench: &mut Bench, method: &[u8]) -> StreamRef {
    let mut head = Head::request(method);
    head.set_authority(b"reviews:80");
    if method != b"CONNECT" {
        head.set_scheme(b"http");
        head.set_path(b"/");
    }
    bench
        .conn
        .send_request(head.wire_fields(), End::No, &mut bench.out)
        .unwrap()
}

/// Whether it is accepted, the request's method, the response's fields and flags.
type Case<'a> = (bool, &'a [u8], &'a [(&'a str, &'a str)], u8);

#[test]
fn responses_are_what_the_rfc_says() {
    let end = flag::END_STREAM;
    let cases: &[Case] = &[
        (true, b"GET", &[(":status", "200")], 0),
        (true, b"GET", &[(":status", "599")], end),
        (
            true,
            b"HEAD",
            &[(":status", "200"), ("content-length", "9")],
            end,
        ),
        (
            true,
            b"GET",
            &[(":status", "304"), ("content-length", "9")],
            end,
        ),
        (
            true,
            b"CONNECT",
            &[(":status", "200"), ("content-length", "9")],
            0,
        ),
        (
            false,
            b"GET",
            &[(":status", "200"), ("content-length", "9")],
            end,
        ),
        (false, b"GET", &[(":status", "20")], 0),
        (false, b"GET", &[(":status", "2000")], 0),
        (false, b"GET", &[(":status", "abc")], 0),
        (false, b"GET", &[(":status", "099")], 0),
        (false, b"GET", &[("server", "x")], 0),
        (false, b"GET", &[(":status", "200"), (":path", "/")], 0),
        (false, b"GET", &[(":status", "200"), ("upgrade", "x")], 0),
        (false, b"GET", &[(":status", "101")], 0),
        (false, b"GET", &[(":status", "100")], end),
    ];
    for (accepted, method, fields, flags) in cases {
        let mut bench = Bench::client(Config::default());
        let stream = ask(&mut bench, method);
        let response = bench.headers(1, fields, *flags);
        let seen = bench.feed(&response).unwrap();
        let head = Seen::Event(Event::Head {
            stream,
            end: *flags == end,
        });
        assert_eq!(seen == [head], *accepted, "{fields:?}: {seen:?}");
        if !accepted {
            assert!(
                matches!(seen[..], [Seen::Event(Event::Reset { .. })]),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn informational_responses_precede_the_final_one() {
    let mut bench = Bench::client(Config::default());
    let stream = ask(&mut bench, b"GET");
    let mut bytes = bench.headers(1, &[(":status", "100")], 0);
    bytes.extend(bench.headers(1, &[(":status", "103")], 0));
    bytes.extend(bench.headers(1, &[(":status", "200")], 0));
    let seen = bench.feed(&bytes).unwrap();
    let informational = Seen::Event(Event::Informational { stream });
    let head = Seen::Event(Event::Head { stream, end: false });
    assert_eq!(seen, [informational.clone(), informational, head]);
    let mut bench = Bench::server(Config::default());
    let request = bench.headers(1, GET, flag::END_STREAM);
    bench.feed(&request).unwrap();
    let stream = bench.conn.streams().next().unwrap();
    for (status, outcome) in [
        (100, Ok(())),
        (200, Ok(())),
        (200, Err(SendError::OutOfOrder)),
    ] {
        let head = Head::response(status);
        let sent = bench
            .conn
            .send_response(stream, head.wire_fields(), End::No, &mut bench.out);
        assert_eq!(sent, outcome);
    }
}

#[test]
fn heads_have_no_body_where_none_can_be() {
    let mut bench = Bench::client(Config::default());
    ask(&mut bench, b"HEAD");
    let mut bytes = bench.headers(1, &[(":status", "200"), ("content-length", "1")], 0);
    bytes.extend(frame(kind::DATA, flag::END_STREAM, 1, b"x"));
    let seen = bench.feed(&bytes).unwrap();
    assert!(
        matches!(seen.last(), Some(Seen::Event(Event::Reset { .. }))),
        "{seen:?}"
    );
}

#[test]
fn data_before_the_response_is_refused() {
    let mut bench = Bench::client(Config::default());
    ask(&mut bench, b"GET");
    let seen = bench.feed(&frame(kind::DATA, 0, 1, b"x")).unwrap();
    assert!(
        matches!(seen[..], [Seen::Event(Event::Reset { .. })]),
        "{seen:?}"
    );
}

#[test]
fn push_is_refused() {
    for mut bench in [
        Bench::server(Config::default()),
        Bench::client(Config::default()),
    ] {
        let push = frame(
            kind::PUSH_PROMISE,
            flag::END_HEADERS,
            1,
            &[0, 0, 0, 2, 0x88],
        );
        assert_eq!(bench.feed(&push), Err(ConnectionError::Push));
    }
    let mut bench = Bench::client(Config::default());
    let allowed = settings(&[(2, 1)]);
    assert_eq!(
        bench.feed(&allowed),
        Err(ConnectionError::Setting { id: 2 })
    );
    let mut bench = Bench::client(Config::default());
    let even = bench.headers(2, &[(":status", "200")], 0);
    assert!(bench.feed(&even).is_err());
}

#[test]
fn large_heads_take_several_frames() {
    let mut bench = Bench::client(Config::default());
    let mut head = Head::request(b"GET");
    head.set_scheme(b"http");
    head.set_authority(b"reviews");
    head.set_path(b"/");
    head.push(Field::new(b"x-large", &[b'x'; 40_000]));
    bench
        .conn
        .send_request(head.wire_fields(), End::Yes, &mut bench.out)
        .unwrap();
    let mut server = Bench::server(Config::default());
    let sent = bench.out.unsent().to_vec();
    let kinds = bench.sent_kinds();
    assert_eq!(
        kinds,
        [kind::HEADERS, kind::CONTINUATION, kind::CONTINUATION]
    );
    let seen = server.feed(&sent).unwrap();
    assert!(matches!(
        seen[..],
        [Seen::Event(Event::Head { end: true, .. })]
    ));
    assert_eq!(
        server.conn.head().get(b"x-large").map(<[u8]>::len),
        Some(40_000)
    );
}

#[test]
fn nothing_comes_between_the_frames_of_a_head() {
    for between in [
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::CONTINUATION, 0, 3, &[]),
        frame(kind::HEADERS, flag::END_HEADERS, 3, &[]),
        frame(0xfa, 0, 0, &[]),
    ] {
        let mut bench = Bench::server(Config::default());
        bench.feed(&frame(kind::HEADERS, 0, 1, &[])).unwrap();
        assert_eq!(bench.feed(&between), Err(ConnectionError::Continuation));
    }
}
