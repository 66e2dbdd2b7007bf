//! A typical request and its response through the HTTP/1.1 core, as often as the first argument says: for callgrind, which
//! counts the instructions.
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*one_exchange*' target/release/examples/http1_heads 1000
//! ```

use std::hint::black_box;
use std::sync::Arc;

use waymark_engine::http1::{
    After, BodyLength, Client, ClientEvent, Limits, Server, ServerConfig, ServerEvent,
};

const REQUEST: &[u8] = b"GET /api/v1/products/17?expand=reviews HTTP/1.1\r\n\
    Host: productpage.default.svc.cluster.local:9080\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Authorization: Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    X-Request-Id: 5f2c7a4e-93d1-4c4e-a5a5-6c4de3a1b2c3\r\n\
    Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json; charset=utf-8\r\n\
    Content-Length: 16\r\n\
    Cache-Control: no-store\r\n\
    Vary: Accept-Encoding\r\n\
    ETag: W/\"9f-Zk3mLkq2tVxP\"\r\n\
    Date: Tue, 24 Nov 2026 12:49:00 GMT\r\n\
    Server: gunicorn\r\n\
    X-Content-Type-Options: nosniff\r\n\r\n{\"answer\": 4242}";

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let mut server = Server::new(Arc::new(ServerConfig::default()));
    let mut client = Client::new(Limits::UPSTREAM);
    let (mut upstream, mut downstream) = (Vec::new(), Vec::new());
    for _ in 0..rounds.unwrap_or(1000) {
        one_exchange(&mut server, &mut client, &mut upstream, &mut downstream);
        black_box((&upstream, &downstream));
    }
}

#[inline(never)]
fn one_exchange(
    server: &mut Server,
    client: &mut Client,
    upstream: &mut Vec<u8>,
    downstream: &mut Vec<u8>,
) {
    upstream.clear();
    downstream.clear();
    request_in(server);
    request_out(server, client, upstream);
    response_in(client);
    response_out(client, server, downstream);
}

#[inline(never)]
fn request_in(server: &mut Server) {
    let got = server.recv(black_box(REQUEST));
    assert_eq!(got.event, ServerEvent::Head);
    assert_eq!(
        server.recv(&REQUEST[got.consumed..]).event,
        ServerEvent::End
    );
}

#[inline(never)]
fn request_out(server: &Server, client: &mut Client, upstream: &mut Vec<u8>) {
    let sent = client.send(server.head(), server.request().body, upstream);
    assert_eq!(sent.and_then(|()| client.finish(None, upstream)), Ok(()));
}

#[inline(never)]
fn response_in(client: &mut Client) {
    let got = client.recv(black_box(RESPONSE));
    assert_eq!(got.event, ClientEvent::Head);
    let body = client.recv(&RESPONSE[got.consumed..]);
    assert_eq!(body.event, ClientEvent::Body(0..16));
    assert_eq!(client.recv(b"").event, ClientEvent::End);
    assert!(client.is_reusable());
}

#[inline(never)]
fn response_out(client: &Client, server: &mut Server, downstream: &mut Vec<u8>) {
    let body = client.response().body;
    assert_eq!(body, BodyLength::Length(16));
    let written = server
        .respond(client.head(), body, downstream)
        .and_then(|()| server.write(&RESPONSE[RESPONSE.len() - 16..], downstream))
        .and_then(|()| server.finish(None, downstream));
    assert_eq!(written, Ok(After::KeepAlive));
}
