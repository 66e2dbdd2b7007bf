//! The table of what is made of responses. Measured on Envoy 1.40, unless a comment says otherwise.

use std::sync::Arc;

use super::super::{
    BodyLength, Client, ClientEvent, Limits, ResponseError, Server, ServerConfig, ServerEvent,
};
use crate::head::{Field, Head};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Get,
    Head,
    Upgrade,
}
use Asked::{Get, Upgrade};

/// What becomes of the connection to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Kept,
    Lost,
}
use Then::{Kept, Lost};

/// What was asked, what came, and what becomes of it.
type Case<'a> = (Asked, &'a [u8], Result<(&'a str, Then), ResponseError>);

fn asked(what: Asked) -> Head {
    let mut head = Head::request(if what == Asked::Head { b"HEAD" } else { b"GET" });
    head.set_authority(b"a");
    head.set_path(b"/");
    if what == Upgrade {
        head.push(Field::new(b"connection", b"upgrade"));
        head.push(Field::new(b"upgrade", b"websocket"));
    }
    head
}

/// What a client of ours is sent of `input`, with `|` for CR LF, and whether the connection to the server can be used again.
fn relay(what: Asked, input: &[u8], piece: usize) -> Result<(String, Then), ResponseError> {
    let mut client = Client::new(Limits::UPSTREAM);
    let mut request = Vec::new();
    client
        .send(&asked(what), BodyLength::None, &mut request)
        .unwrap();
    client.finish(None, &mut request).unwrap();
    let mut server = Server::new(Arc::new(ServerConfig::default()));
    let mut requested = 0;
    loop {
        let got = server.recv(&request[requested..]);
        requested += got.consumed;
        if got.event == ServerEvent::Busy {
            break;
        }
    }
    let (mut out, mut body, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    let (mut at, mut end) = (0, 0);
    let mut ended = false;
    loop {
        let got = client.recv(&input[at..end]);
        let here = at;
        at += got.consumed;
        let mut event = got.event;
        if event == ClientEvent::NeedMore {
            if end < input.len() {
                end = (end + piece).min(input.len());
                continue;
            }
            if ended {
                break;
            }
            event = client.eof();
        }
        match event {
            ClientEvent::Informational => server.inform(client.head(), &mut out).unwrap(),
            ClientEvent::Head => {
                let length = client.response().body;
                server.respond(client.head(), length, &mut out).unwrap();
            }
            ClientEvent::Body(range) => {
                body.extend_from_slice(&input[here + range.start..here + range.end]);
            }
            ClientEvent::Raw(range) => {
                raw.extend_from_slice(&input[here + range.start..here + range.end]);
            }
            ClientEvent::Trailers => {}
            ClientEvent::End => {
                if client.response().body != BodyLength::None {
                    server.write(&body, &mut out).unwrap();
                }
                if client.head().status() == Some(101) {
                    server.write(&raw, &mut out).unwrap();
                } else {
                    server.finish(None, &mut out).unwrap();
                }
                ended = true;
            }
            ClientEvent::Failed(_) if ended => break,
            ClientEvent::Failed(error) => return Err(error),
            ClientEvent::NeedMore => unreachable!(),
        }
    }
    let then = if client.is_reusable() { Kept } else { Lost };
    Ok((String::from_utf8_lossy(&out).replace("\r\n", "|"), then))
}

#[test]
#[rustfmt::skip] // a case a line
fn responses_are_framed_anew_or_refused() {
    use ResponseError as E;
    let many = format!("HTTP/1.1 204 No\r\n{}\r\n", "x: y\r\n".repeat(100));
    let too_many = format!("HTTP/1.1 204 No\r\n{}\r\n", "x: y\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(70_000));
    let large_on = format!("HTTP/1.1 200 OK|x: {}|content-length: 0||", "a".repeat(70_000));
    let many_on = format!("HTTP/1.1 204 No Content|{}|", "x: y|".repeat(100));
    let informational = "HTTP/1.1 100 Continue\r\n\r\n".repeat(33);
    let head = Asked::Head;
    let cases: &[Case<'_>] = &[
        (Get, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: y\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2|x: y||hi", Kept))),
        (Get, b"HTTP/1.1 200 Whatever\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 200 \xc3\xa9\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 418 teapot\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 418 Unknown|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 600 X\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 600 Unknown|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 999 X\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 999 Unknown|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 200 O\x01K\r\ncontent-length: 0\r\n\r\n", Err(E::StatusLine)),
        (Get, b"HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n", Err(E::StatusLine)), // stricter
        (Get, b"HTTP/1.1 099 X\r\ncontent-length: 0\r\n\r\n", Err(E::Status)),
        (Get, b"HTTP/1.1 99 X\r\ncontent-length: 0\r\n\r\n", Err(E::StatusLine)),
        (Get, b"HTTP/1.1 199 X\r\n\r\n", Err(E::Status)),
        (Get, b"HTTP/1.1 000 X\r\n\r\n", Err(E::Status)),
        (Get, b"HTTP/1.1 1000 X\r\n\r\n", Err(E::StatusLine)), // stricter
        (Get, b"HTTP/1.1 2x0 X\r\n\r\n", Err(E::StatusLine)),
        (Get, b"HTTP/1.1 200x\r\n\r\n", Err(E::StatusLine)),
        (Get, b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", Err(E::StatusLine)), // stricter
        (Get, b"http/1.1 200 OK\r\n\r\n", Err(E::StatusLine)),
        (Get, b"ICY 200 OK\r\n\r\n", Err(E::StatusLine)),
        (Get, b"hello\r\n\r\n", Err(E::StatusLine)),
        (Get, b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Err(E::StatusLine)),
        (Get, b"", Err(E::Closed)),
        (Get, b"HTTP/1.1 200 OK\r\nfoo", Err(E::Truncated)),
        (Get, b"HTTP/1.1", Err(E::Truncated)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", Err(E::Truncated)),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", Err(E::Truncated)),
        // bodies
        (Get, b"HTTP/1.1 200 OK\r\n\r\nhello", Ok(("HTTP/1.1 200 OK|transfer-encoding: chunked||5|hello|0||", Lost))),
        (Get, b"HTTP/1.1 200 OK\nx: a\n\nhello", Ok(("HTTP/1.1 200 OK|x: a|transfer-encoding: chunked||5|hello|0||", Lost))),
        (Get, b"HTTP/1.0 200 OK\r\n\r\nhello", Ok(("HTTP/1.1 200 OK|transfer-encoding: chunked||5|hello|0||", Lost))),
        (Get, b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Lost))),
        (Get, b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Kept))),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n2;x\r\nhi\r\n0\r\nx: y\r\n\r\n", Ok(("HTTP/1.1 200 OK|transfer-encoding: chunked||2|hi|0||", Kept))),
        (Get, b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Err(E::TransferEncoding)), // stricter
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi", Err(E::TransferEncoding)),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Err(E::TransferEncoding)),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Err(E::TransferEncoding)),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nhi", Err(E::TransferEncoding)),
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n", Err(E::AmbiguousLength)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi", Err(E::ContentLength)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nhi", Err(E::ContentLength)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nhi", Err(E::ContentLength)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r3\r\n\r\nhi", Err(E::Field)), // stricter
        (Get, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", Err(E::Chunk)),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiEXTRA", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Lost))),
        (Get, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Lost))),
        (Get, b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Lost))),
        (Get, b"HTTP/1.1 200 OK\r\nproxy-connection: close\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2||hi", Lost))),
        // none
        (head, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", Ok(("HTTP/1.1 200 OK|content-length: 5||", Kept))),
        (head, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Ok(("HTTP/1.1 200 OK|transfer-encoding: chunked||", Kept))),
        (head, b"HTTP/1.1 200 OK\r\n\r\n", Ok(("HTTP/1.1 200 OK|transfer-encoding: chunked||", Kept))),
        (head, b"HTTP/1.1 204 No\r\n\r\n", Ok(("HTTP/1.1 204 No Content||", Kept))),
        (head, b"HTTP/1.1 304 No\r\n\r\n", Ok(("HTTP/1.1 304 Not Modified||", Kept))),
        (head, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 200 OK|content-length: 2||", Lost))),
        (Get, b"HTTP/1.1 204 No\r\n\r\n", Ok(("HTTP/1.1 204 No Content||", Kept))),
        (Get, b"HTTP/1.1 204 No\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 204 No Content||", Kept))),
        (Get, b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\nhello", Err(E::BodyNotAllowed)),
        (Get, b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Err(E::BodyNotAllowed)),
        (Get, b"HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n", Ok(("HTTP/1.1 304 Not Modified|content-length: 5||", Kept))),
        (Get, b"HTTP/1.1 304 No\r\ntransfer-encoding: chunked\r\n\r\n", Ok(("HTTP/1.1 304 Not Modified||", Kept))),
        // informational
        (Get, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 100 Continue||HTTP/1.1 200 OK|content-length: 0||", Kept))),
        (Get, b"HTTP/1.1 103 Early\r\nlink: a\r\nkeep-alive: b\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok(("HTTP/1.1 103 Early Hints|link: a||HTTP/1.1 200 OK|content-length: 0||", Kept))), // better than Envoy
        (Get, b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Ok(("HTTP/1.1 102 Processing||HTTP/1.1 103 Early Hints||HTTP/1.1 204 No Content||", Kept))),
        (Get, b"HTTP/1.1 100 Continue\r\ncontent-length: 3\r\n\r\nHTTP/1.1 204 No\r\n\r\n", Err(E::BodyNotAllowed)),
        (Get, b"HTTP/1.1 100 Continue\r\n\r\n", Err(E::Truncated)),
        (Get, informational.as_bytes(), Err(E::TooManyInformational)),
        // switches
        (Upgrade, b"HTTP/1.1 101 Foo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nx: y\r\n\r\n\x81\x02hi", Ok(("HTTP/1.1 101 Switching Protocols|connection: Upgrade|upgrade: websocket|x: y||\u{fffd}\x02hi", Lost))),
        (Upgrade, b"HTTP/1.1 404 x\r\ncontent-length: 2\r\n\r\nhi", Ok(("HTTP/1.1 404 Not Found|content-length: 2|connection: close||hi", Kept))),
        (Upgrade, b"HTTP/1.1 101 Foo\r\n\r\nhi", Err(E::Switch)), // stricter
        (Get, b"HTTP/1.1 101 Foo\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi", Err(E::Switch)), // stricter
        // fields
        (Get, b"HTTP/1.1 204 No\r\nconnection: x, keep-alive\r\nx: 1\r\nkeep-alive: 3\r\nproxy-connection: a\r\nte: a\r\nupgrade: h2c\r\ntrailer: q\r\n\r\n", Ok(("HTTP/1.1 204 No Content|x: 1|te: a|trailer: q||", Kept))),
        (Get, b"HTTP/1.1 204 No\r\nx : a\r\n\r\n", Err(E::Field)),
        (Get, b"HTTP/1.1 204 No\r\nx\r\n\r\n", Err(E::Field)),
        (Get, b"HTTP/1.1 204 No\r\nx: a\0\r\n\r\n", Err(E::Characters)),
        (Get, b"HTTP/1.1 204 No\r\nx: a\rb\r\n\r\n", Ok(("HTTP/1.1 204 No Content|x: ab||", Kept))),
        (Get, b"HTTP/1.1 204 No\r\nx: a\r\n b\r\n\r\n", Ok(("HTTP/1.1 204 No Content|x: a b||", Kept))),
        (Get, b"HTTP/1.1 204 No\r\nx: \xff\r\n\r\n", Ok(("HTTP/1.1 204 No Content|x: \u{fffd}||", Kept))),
        (Get, many.as_bytes(), Ok((&many_on, Kept))),
        (Get, too_many.as_bytes(), Err(E::TooManyFields)),
        (Get, large.as_bytes(), Ok((&large_on, Kept))),
    ];
    for (asked, input, want) in cases {
        for piece in [1, 7, input.len().max(1)] {
            let got = relay(*asked, input, piece);
            let want = want.map(|(text, then)| (text.to_owned(), then));
            let name = input[..input.len().min(200)].escape_ascii();
            assert_eq!(got, want, "{asked:?} {name} by {piece}");
        }
    }
}

#[test]
fn nothing_is_reused_before_both_messages_are_complete() {
    let mut out = Vec::new();
    let mut client = Client::new(Limits::UPSTREAM);
    let mut head = asked(Get);
    head.set_method(b"POST");
    client.send(&head, BodyLength::Length(4), &mut out).unwrap();
    assert_eq!(
        client.recv(b"HTTP/1.1 204 No\r\n\r\n").event,
        ClientEvent::Head
    );
    assert_eq!(client.recv(b"").event, ClientEvent::End);
    assert!(!client.is_reusable(), "the request isn't complete");
    assert!(client.send(&head, BodyLength::None, &mut out).is_err());
    client.write(b"body", &mut out).unwrap();
    client.finish(None, &mut out).unwrap();
    assert!(client.is_reusable());
    assert_eq!(client.recv(b"").event, ClientEvent::NeedMore);
    let got = client.recv(b"x").event;
    assert_eq!(got, ClientEvent::Failed(ResponseError::Unasked));
    assert!(!client.is_reusable());
}
