//! What becomes of a connection, message by message.

use std::sync::Arc;

use super::super::{
    After, BodyLength, Http10, Refusal, Server, ServerConfig, ServerEof, ServerEvent, WriteError,
};
use crate::head::{Field, Head};

fn server() -> Server {
    Server::new(Arc::new(ServerConfig::default()))
}

fn http10() -> Server {
    let http10 = Http10::Accept { default_host: None };
    Server::new(Arc::new(ServerConfig {
        http10,
        ..ServerConfig::default()
    }))
}

/// Feeds all of it and returns the events until there is nothing left or something is kept back, and what is kept back.
fn feed<'a>(server: &mut Server, mut input: &'a [u8]) -> (Vec<ServerEvent>, &'a [u8]) {
    let mut events = Vec::new();
    loop {
        let got = server.recv(input);
        input = &input[got.consumed..];
        let stop = matches!(
            got.event,
            ServerEvent::NeedMore | ServerEvent::Busy | ServerEvent::Closed
        );
        events.push(got.event);
        if stop {
            return (events, input);
        }
    }
}

fn respond(server: &mut Server, head: &Head, body: BodyLength, data: &[u8]) -> (String, After) {
    let mut out = Vec::new();
    server.respond(head, body, &mut out).unwrap();
    match server.write(data, &mut out) {
        Ok(()) | Err(WriteError::NoBody) => {}
        Err(e) => panic!("{e}"),
    }
    let after = server.finish(None, &mut out).unwrap();
    (text(&out), after)
}

fn text(out: &[u8]) -> String {
    String::from_utf8(out.to_vec())
        .unwrap()
        .replace("\r\n", "|")
}

fn response(status: u16) -> Head {
    let mut head = Head::response(status);
    head.push(Field::new(b"date", b"today"));
    head
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
#[rustfmt::skip] // a case a line
fn pipelined_requests_come_one_by_one() {
    use ServerEvent::{Busy, End, Head};
    let mut server = server();
    let input = [GET, GET].concat();
    let (events, kept_back) = feed(&mut server, &input);
    assert_eq!(events, [Head, End, Busy]);
    assert_eq!(kept_back, GET);
    assert_eq!(server.recv(kept_back).consumed, 0);
    let (text, after) = respond(&mut server, &response(200), BodyLength::Length(2), b"hi");
    assert_eq!(text, "HTTP/1.1 200 OK|date: today|content-length: 2||hi");
    assert_eq!(after, After::KeepAlive);
    let (events, kept_back) = feed(&mut server, kept_back);
    assert_eq!(events, [Head, End, Busy]);
    assert_eq!(kept_back, b"");
    assert_eq!(server.eof(), ServerEof::HalfClosed);
    let (text, after) = respond(&mut server, &response(200), BodyLength::None, b"");
    assert_eq!(text, "HTTP/1.1 200 OK|date: today|connection: close|content-length: 0||");
    assert_eq!(after, After::Close);
    assert_eq!(server.recv(GET).event, ServerEvent::Closed);
}

#[test]
#[rustfmt::skip] // a case a line
fn the_steady_state_grows_nothing() {
    let mut server = server();
    let mut out = Vec::new();
    let mut capacities = Vec::new();
    for _ in 0..3 {
        assert_eq!(server.recv(GET).event, ServerEvent::Head);
        assert_eq!(server.recv(b"").event, ServerEvent::End);
        out.clear();
        server.respond(&response(200), BodyLength::None, &mut out).unwrap();
        server.finish(None, &mut out).unwrap();
        capacities.push((server.head().capacity(), out.capacity()));
    }
    assert_eq!(capacities[1], capacities[2]);
    assert!(server.is_idle());
    server.release();
    assert_eq!(server.head().capacity(), 0);
}

#[test]
#[rustfmt::skip] // a case a line
fn responses_by_method_status_and_length() {
    let head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let long = |status| {
        let mut head = Head::response(status);
        head.push(Field::new(b"content-length", b"7"));
        head.push(Field::new(b"x", b"y"));
        head
    };
    let cases: &[(&[u8], Head, BodyLength, &str)] = &[
        (GET, response(200), BodyLength::Chunked, "HTTP/1.1 200 OK|date: today|transfer-encoding: chunked||4|body|0||"),
        (GET, long(200), BodyLength::Length(4), "HTTP/1.1 200 OK|content-length: 4|x: y||body"),
        (GET, long(200), BodyLength::Chunked, "HTTP/1.1 200 OK|x: y|transfer-encoding: chunked||4|body|0||"),
        (GET, long(204), BodyLength::Length(4), "HTTP/1.1 204 No Content|x: y||"),
        (GET, long(304), BodyLength::None, "HTTP/1.1 304 Not Modified|content-length: 7|x: y||"),
        (GET, response(304), BodyLength::Length(4), "HTTP/1.1 304 Not Modified|date: today||"),
        (head, long(200), BodyLength::Length(4), "HTTP/1.1 200 OK|content-length: 4|x: y||"),
        (head, long(200), BodyLength::None, "HTTP/1.1 200 OK|content-length: 7|x: y||"),
        (head, response(200), BodyLength::Length(4), "HTTP/1.1 200 OK|date: today|content-length: 4||"),
        (head, response(200), BodyLength::Chunked, "HTTP/1.1 200 OK|date: today|transfer-encoding: chunked||"),
        (head, response(204), BodyLength::None, "HTTP/1.1 204 No Content|date: today||"),
    ];
    for (request, response, body, want) in cases {
        let mut server = server();
        feed(&mut server, request);
        let (text, after) = respond(&mut server, response, *body, b"body");
        assert_eq!(&text, want);
        assert_eq!(after, After::KeepAlive);
    }
}

#[test]
#[rustfmt::skip] // a case a line
fn bodies_are_as_long_as_was_said() {
    let mut out = Vec::new();
    let mut long = server();
    assert_eq!(long.write(b"x", &mut out), Err(WriteError::OutOfTurn));
    assert_eq!(long.respond(&response(200), BodyLength::None, &mut out), Err(WriteError::OutOfTurn));
    feed(&mut long, GET);
    assert_eq!(long.finish(None, &mut out), Err(WriteError::OutOfTurn));
    long.respond(&response(200), BodyLength::Length(2), &mut out).unwrap();
    assert_eq!(long.respond(&response(200), BodyLength::None, &mut out), Err(WriteError::OutOfTurn));
    assert_eq!(long.write(b"abc", &mut out), Err(WriteError::TooLong));
    long.write(b"a", &mut out).unwrap();
    assert_eq!(long.finish(None, &mut out), Err(WriteError::TooShort));
    assert_eq!(long.recv(GET).event, ServerEvent::Closed);

    let mut pieces = server();
    feed(&mut pieces, GET);
    out.clear();
    pieces.respond(&Head::response(200), BodyLength::Chunked, &mut out).unwrap();
    for data in [&b""[..], b"a", &[b'b'; 17]] {
        pieces.write_before(data.len(), &mut out).unwrap();
        out.extend_from_slice(data);
        pieces.write_after(data.len(), &mut out);
    }
    let mut trailers = Head::new();
    for (name, value) in [("x", "y"), ("content-length", "3"), ("z", "a\r\nb"), ("n", "")] {
        trailers.push(Field::new(name.as_bytes(), value.as_bytes()));
    }
    pieces.finish(Some(&trailers), &mut out).unwrap();
    assert_eq!(text(&out), format!("HTTP/1.1 200 OK|transfer-encoding: chunked||1|a|11|{}|0|x: y|n: ||", "b".repeat(17)));
}

#[test]
#[rustfmt::skip] // a case a line
fn connections_close_when_they_have_to() {
    let close: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n";
    let mut asked = server();
    feed(&mut asked, close);
    let (text, after) = respond(&mut asked, &response(200), BodyLength::None, b"");
    assert_eq!((text.contains("|connection: close|"), after), (true, After::Close));

    let mut by_proxy = server();
    feed(&mut by_proxy, b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Connection: Close\r\n\r\n");
    let (_, after) = respond(&mut by_proxy, &response(200), BodyLength::None, b"");
    assert_eq!(after, After::Close, "as Envoy");

    let mut told = server();
    feed(&mut told, GET);
    told.close_after_response();
    let (text, after) = respond(&mut told, &response(200), BodyLength::None, b"");
    assert_eq!((text.contains("|connection: close|"), after), (true, After::Close));

    let mut early = server();
    let half = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe";
    let events = feed(&mut early, half).0;
    assert_eq!(events.last(), Some(&ServerEvent::NeedMore));
    let (_, after) = respond(&mut early, &response(413), BodyLength::None, b"");
    assert_eq!(after, After::Close, "the rest of the body is not read");
    assert_eq!(early.recv(b"llo").event, ServerEvent::Closed);

    let mut cut = server();
    feed(&mut cut, half);
    assert_eq!(cut.eof(), ServerEof::Truncated);
    let mut idle = server();
    assert_eq!(idle.eof(), ServerEof::Clean);
    let mut begun = server();
    feed(&mut begun, b"GET /");
    assert!(!begun.is_idle());
    assert_eq!(begun.eof(), ServerEof::Truncated);
}

#[test]
#[rustfmt::skip] // a case a line
fn http10_gets_what_it_can_read() {
    let keep: &[u8] = b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    let plain: &[u8] = b"GET / HTTP/1.0\r\nHost: a\r\n\r\n";
    for (request, body, want, then) in [
        (plain, BodyLength::Length(4), "HTTP/1.0 200 OK|date: today|connection: close|content-length: 4||body", After::Close),
        (keep, BodyLength::Length(4), "HTTP/1.0 200 OK|date: today|connection: keep-alive|content-length: 4||body", After::KeepAlive),
        (keep, BodyLength::Chunked, "HTTP/1.0 200 OK|date: today|connection: close||body", After::Close),
    ] {
        let mut server = http10();
        feed(&mut server, request);
        let mut out = Vec::new();
        server.inform(&Head::response(103), &mut out).unwrap();
        assert!(out.is_empty(), "HTTP/1.0 knows no informational responses");
        let (text, after) = respond(&mut server, &response(200), body, b"body");
        assert_eq!((text.as_str(), after), (want, then));
    }
}

#[test]
#[rustfmt::skip] // a case a line
fn expectations_are_told_and_informational_responses_written() {
    let mut server = server();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(feed(&mut server, head).0, [ServerEvent::Head, ServerEvent::NeedMore]);
    assert!(server.request().expects_continue);
    assert_eq!(server.head().get(b"expect"), Some(&b"100-Continue"[..]), "it is passed on");
    let mut out = Vec::new();
    server.inform(&Head::response(100), &mut out).unwrap();
    assert_eq!(server.inform(&Head::response(101), &mut out), Err(WriteError::Head));
    assert_eq!(server.inform(&Head::response(200), &mut out), Err(WriteError::Head));
    assert_eq!(server.respond(&Head::response(100), BodyLength::None, &mut out), Err(WriteError::Head));
    assert_eq!(text(&out), "HTTP/1.1 100 Continue||");
    assert_eq!(feed(&mut server, b"hi").0, [ServerEvent::Body(0..2), ServerEvent::End, ServerEvent::Busy]);
    let (text, after) = respond(&mut server, &response(200), BodyLength::None, b"");
    assert_eq!(text, "HTTP/1.1 200 OK|date: today|content-length: 0||");
    assert_eq!(after, After::KeepAlive);
}

#[test]
#[rustfmt::skip] // a case a line
fn after_a_switch_bytes_are_raw_both_ways() {
    let request = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x02hi";
    let mut server = server();
    let (events, kept_back) = feed(&mut server, request);
    assert_eq!(events, [ServerEvent::Head, ServerEvent::End, ServerEvent::Busy]);
    assert!(server.request().upgrade);
    assert_eq!(server.head().get(b"upgrade"), Some(&b"WebSocket"[..]));
    assert_eq!(server.head().get(b"connection"), Some(&b"keep-alive, Upgrade"[..]));
    let mut head = Head::response(101);
    head.push(Field::new(b"connection", b"Upgrade"));
    head.push(Field::new(b"upgrade", b"websocket"));
    let mut out = Vec::new();
    server.respond(&head, BodyLength::None, &mut out).unwrap();
    server.write(b"\x81\x01x", &mut out).unwrap();
    assert_eq!(out, b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n\x81\x01x");
    assert_eq!(feed(&mut server, kept_back).0, [ServerEvent::Raw(0..4), ServerEvent::NeedMore]);
    assert_eq!(server.eof(), ServerEof::Clean);

    let mut refused = self::server();
    let (_, kept_back) = feed(&mut refused, request);
    let (text, after) = respond(&mut refused, &response(404), BodyLength::Length(2), b"no");
    assert_eq!(text, "HTTP/1.1 404 Not Found|date: today|connection: close|content-length: 2||no");
    assert_eq!(after, After::Close, "what was sent ahead is no request");
    assert_eq!(refused.recv(kept_back).event, ServerEvent::Closed);

    let mut unasked = self::server();
    feed(&mut unasked, GET);
    assert_eq!(unasked.respond(&head, BodyLength::None, &mut out), Err(WriteError::Head));
}

#[test]
#[rustfmt::skip] // a case a line
fn a_switch_amid_a_body_waits_for_its_end() {
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\n";
    let mut server = server();
    assert_eq!(feed(&mut server, request).0, [ServerEvent::Head, ServerEvent::NeedMore]);
    let mut out = Vec::new();
    server.respond(&Head::response(101), BodyLength::None, &mut out).unwrap();
    assert_eq!(
        feed(&mut server, b"hiraw").0,
        [ServerEvent::Body(0..2), ServerEvent::End, ServerEvent::Raw(0..3), ServerEvent::NeedMore]
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn refusals_are_answered_as_envoy_does() {
    let answer = |request: &[u8]| {
        let mut server = server();
        let events = feed(&mut server, request).0;
        let refusal = events.iter().find_map(|event| match event {
            ServerEvent::Refused(refusal) => Some(*refusal),
            _ => None,
        });
        let mut out = Vec::new();
        let after = server.answer(refusal.unwrap(), b"D", b"S", &mut out).unwrap();
        (text(&out), after)
    };
    assert_eq!(
        answer(b"foo / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.1 400 Bad Request|content-length: 11|content-type: text/plain|date: D|server: S|connection: close||Bad Request".to_owned(), After::Close)
    );
    assert_eq!(
        answer(b"GET / HTTP/1.1\r\n\r\n"),
        ("HTTP/1.1 400 Bad Request|date: D|server: S|connection: close|content-length: 0||".to_owned(), After::Close)
    );
    assert_eq!(
        answer(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("HTTP/1.1 404 Not Found|date: D|server: S|content-length: 0||".to_owned(), After::KeepAlive)
    );
    assert_eq!(
        answer(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").0,
        "HTTP/1.1 426 Upgrade Required|content-length: 16|content-type: text/plain|date: D|server: S|connection: close||Upgrade Required"
    );

    let mut second = server();
    feed(&mut second, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    respond(&mut second, &response(200), BodyLength::None, b"");
    assert_eq!(second.recv(b"hello").event, ServerEvent::NeedMore);
    assert_eq!(second.recv(b":").event, ServerEvent::Refused(Refusal::Method));
    assert_eq!(second.head().method(), None, "it is not HEAD's");
    let mut out = Vec::new();
    second.answer(Refusal::Method, b"D", b"S", &mut out).unwrap();
    assert!(out.ends_with(b"\r\n\r\nBad Request"));

    let mut late = server();
    feed(&mut late, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut out = Vec::new();
    late.respond(&response(200), BodyLength::Chunked, &mut out).unwrap();
    assert_eq!(late.recv(b"zz").event, ServerEvent::Refused(Refusal::Chunk));
    assert_eq!(late.answer(Refusal::Chunk, b"", b"", &mut out), Err(WriteError::OutOfTurn));
    assert_eq!(late.finish(None, &mut out), Ok(After::Close));
}
