//! HTTP/1.1 <-> HTTP/2, by function and end to end.

use std::sync::Arc;

use super::super::{
    BodyLength, Client, Limits, Server, ServerConfig, ServerEvent, request_to_http1,
    request_to_http2, response_to_http1, response_to_http2, upgrade_response, upgrade_to_connect,
};
use crate::head::{Field, Head};

fn head(fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    for (name, value) in fields {
        match *name {
            ":method" => head.set_method(value.as_bytes()),
            ":scheme" => head.set_scheme(value.as_bytes()),
            ":authority" => head.set_authority(value.as_bytes()),
            ":path" => head.set_path(value.as_bytes()),
            ":status" => head.set_status(value.parse().unwrap()),
            _ => head.push(Field::new(name.as_bytes(), value.as_bytes())),
        }
        if *name == "content-length" {
            head.content_length = value.parse().ok();
        }
    }
    head
}

fn text(head: &Head) -> String {
    let field = |f: Field<'_>| {
        let (name, value) = (f.name.escape_ascii(), f.value.escape_ascii());
        format!("{name}: {value}|")
    };
    head.wire_fields().map(field).collect()
}

fn http1(head: &Head, body: BodyLength) -> String {
    let mut out = Vec::new();
    Client::new(Limits::UPSTREAM)
        .send(head, body, &mut out)
        .unwrap();
    String::from_utf8(out).unwrap().replace("\r\n", "|")
}

fn received(input: &[u8]) -> Server {
    let mut server = Server::new(Arc::new(ServerConfig::default()));
    assert_eq!(server.recv(input).event, ServerEvent::Head);
    server
}

const REQUEST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "a:80"),
    (":path", "/x?q"),
];

#[test]
#[rustfmt::skip] // a case a line
fn requests_of_http2_become_http1() {
    let with = |more: &[(&str, &str)]| head(&[&REQUEST, more].concat());
    let sent = |more: &[(&str, &str)], ended| {
        let mut head = with(more);
        let body = request_to_http1(&mut head, ended);
        http1(&head, body)
    };
    assert_eq!(
        sent(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("te", "trailers")], false),
        "POST /x?q HTTP/1.1|host: a:80|x: y|te: trailers|cookie: a=1; b=2|transfer-encoding: chunked||"
    );
    assert_eq!(
        sent(&[("content-length", "5"), ("z", "1")], false),
        "POST /x?q HTTP/1.1|host: a:80|content-length: 5|z: 1||"
    );
    assert_eq!(
        sent(&[("z", "1")], true),
        "POST /x?q HTTP/1.1|host: a:80|z: 1|content-length: 0||"
    );
    let mut get = head(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "h")]);
    let body = request_to_http1(&mut get, true);
    assert_eq!(http1(&get, body), "GET / HTTP/1.1|host: h||", "host stands in for :authority");
}

#[test]
#[rustfmt::skip] // a case a line
fn requests_of_http1_become_http2() {
    let mut server = received(
        b"POST /x HTTP/1.1\r\nHost: a\r\nX-Y: Z\r\nConnection: close, x-b\r\nX-B: 1\r\nKeep-Alive: 2\r\nCookie: a=1\r\n\
          Transfer-Encoding: chunked\r\nTE: trailers, gzip\r\n\r\n",
    );
    request_to_http2(server.head_mut(), b"http");
    assert_eq!(
        text(server.head()),
        ":method: POST|:scheme: http|:authority: a|:path: /x|x-y: Z|cookie: a=1|te: trailers|"
    );
    let mut own = head(&[(":method", "GET"), (":path", "/"), ("host", "a"), ("host", "b")]);
    request_to_http2(&mut own, b"https");
    assert_eq!(text(&own), ":method: GET|:scheme: https|:authority: a|:path: /|");
}

#[test]
#[rustfmt::skip] // a case a line
fn upgrades_become_connects_and_back() {
    let mut server = received(
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert!(server.request().upgrade);
    assert!(upgrade_to_connect(server.head_mut()));
    let head = server.head_mut();
    assert_eq!(
        text(head),
        ":method: CONNECT|:scheme: http|:authority: a|:path: /chat|:protocol: websocket|sec-websocket-version: 13|"
    );
    let body = request_to_http1(head, false);
    assert_eq!(
        http1(head, body),
        "GET /chat HTTP/1.1|host: a|sec-websocket-version: 13|connection: upgrade|upgrade: websocket||"
    );
    let mut plain = received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!upgrade_to_connect(plain.head_mut()));
    assert_eq!([upgrade_response(101, true), upgrade_response(404, true)], [200, 404]);
    assert_eq!([upgrade_response(200, false), upgrade_response(503, false)], [101, 503]);
}

#[test]
#[rustfmt::skip] // a case a line
fn responses_change_their_framing_only() {
    let mut unended = head(&[(":status", "200"), ("connection", "close"), ("x", "y")]);
    assert_eq!(response_to_http1(&mut unended, false), BodyLength::Chunked);
    assert_eq!(text(&unended), ":status: 200|x: y|");
    let mut ended = head(&[(":status", "200")]);
    assert_eq!(response_to_http1(&mut ended, true), BodyLength::None);
    let mut long = head(&[(":status", "200"), ("content-length", "7")]);
    assert_eq!(response_to_http1(&mut long, false), BodyLength::Length(7));

    let mut from_http1 = head(&[(":status", "200"), ("keep-alive", "1"), ("transfer-encoding", "chunked"), ("set-cookie", "a"), ("set-cookie", "b")]);
    response_to_http2(&mut from_http1);
    assert_eq!(text(&from_http1), ":status: 200|set-cookie: a|set-cookie: b|");
}

#[test]
#[rustfmt::skip] // a case a line
fn a_head_cannot_split_a_message() {
    let mut out = Vec::new();
    let mut client = Client::new(Limits::UPSTREAM);
    for bad in [
        ("x", "a\r\nb: c"),
        ("x\r\ny", "a"),
        ("x", "a\0"),
        ("", "a"),
        (":method", "GET / HTTP/1.1\r\nx:"),
        (":path", "/ HTTP/1.1\r\n"),
        (":path", "/a b"),
        (":path", "x"),
        (":authority", "a\r\nb"),
    ] {
        let mut head = head(&REQUEST);
        match bad.0 {
            ":method" => head.set_method(bad.1.as_bytes()),
            ":path" => head.set_path(bad.1.as_bytes()),
            ":authority" => head.set_authority(bad.1.as_bytes()),
            name => head.push(Field::new(name.as_bytes(), bad.1.as_bytes())),
        }
        assert!(client.send(&head, BodyLength::None, &mut out).is_err(), "{bad:?}");
        assert!(out.is_empty(), "{bad:?} left {}", out.escape_ascii());
    }
    let framing = [("transfer-encoding", "gzip"), ("content-length", "9"), ("content-length", "8"), ("connection", "close"), ("host", "b")];
    let crowded = head(&[&REQUEST, &framing[..]].concat());
    assert_eq!(http1(&crowded, BodyLength::Length(3)), "POST /x?q HTTP/1.1|host: a:80|content-length: 3||");
    assert_eq!(http1(&crowded, BodyLength::Chunked), "POST /x?q HTTP/1.1|host: a:80|transfer-encoding: chunked||");
}
