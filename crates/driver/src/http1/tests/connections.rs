//! Both ends over a pair in memory, of any capacity, so that every write finds no room somewhere.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use waymark_engine::http1::{
    After, BodyLength, Limits, Refusal, ResponseError, ServerConfig, WriteError,
};
use waymark_engine::{Field, Head};

use crate::http1::{
    BodyError, ClientConnection, Incoming, Piece, ReceiveError, Received, ServerConnection,
};
use crate::io::{PairEnd, filled, finish, pair, put_all, read_to_end};
use crate::{Executor, Io, Task, spawn};

/// Capacities of the pipe between the ends.
const CAPACITIES: [usize; 4] = [1, 7, 100, 100_000];

fn ends(capacity: usize) -> (ClientConnection<PairEnd>, ServerConnection<PairEnd>) {
    let (client, server) = pair(capacity);
    (
        ClientConnection::new(client, Limits::UPSTREAM),
        ServerConnection::new(server, Arc::new(ServerConfig::default())),
    )
}

fn request(method: &str, path: &str) -> Head {
    let mut head = Head::request(method.as_bytes());
    head.set_path(path.as_bytes());
    head.set_authority(b"reviews");
    head
}

/// Takes a whole body; `Err` where it breaks off.
async fn body_of(server: &mut ServerConnection<PairEnd>) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    loop {
        let taken = poll_fn(|cx| {
            server.poll_body(cx).map_ok(|piece| match piece {
                Piece::Data(data) => {
                    body.extend_from_slice(data);
                    Some(data.len())
                }
                Piece::Trailers => Some(0),
                Piece::End => None,
            })
        })
        .await?;
        match taken {
            Some(taken) => server.consume(taken),
            None => return Ok(body),
        }
    }
}

async fn response_body(client: &mut ClientConnection<PairEnd>) -> Result<Vec<u8>, ReceiveError> {
    let mut body = Vec::new();
    loop {
        let taken = poll_fn(|cx| {
            client.poll_body(cx).map_ok(|piece| match piece {
                Piece::Data(data) => {
                    body.extend_from_slice(data);
                    Some(data.len())
                }
                Piece::Trailers => Some(0),
                Piece::End => None,
            })
        })
        .await?;
        match taken {
            Some(taken) => client.consume(taken),
            None => return Ok(body),
        }
    }
}

async fn respond(
    server: &mut ServerConnection<PairEnd>,
    head: &Head,
    length: BodyLength,
    body: &[u8],
) -> After {
    server.respond(head, length).unwrap();
    let mut rest = body;
    while !rest.is_empty() {
        let put = poll_fn(|cx| server.poll_write(rest, cx)).await.unwrap();
        rest = &rest[put..];
    }
    let after = server.finish(None).unwrap();
    poll_fn(|cx| server.poll_drain(cx)).await.unwrap();
    after
}

async fn ask(client: &mut ClientConnection<PairEnd>, head: &Head, length: BodyLength, body: &[u8]) {
    client.send(head, length).unwrap();
    let mut rest = body;
    while !rest.is_empty() {
        let put = poll_fn(|cx| client.poll_write(rest, cx)).await.unwrap();
        rest = &rest[put..];
    }
    client.finish(None).unwrap();
    poll_fn(|cx| client.poll_drain(cx)).await.unwrap();
}

/// Answers every request with its method, path and body until the client ends; gives how many there were.
fn echo(mut server: ServerConnection<PairEnd>, length: fn(usize) -> BodyLength) -> Task<usize> {
    spawn("echo", async move {
        let mut served = 0;
        loop {
            match poll_fn(|cx| server.poll_request(cx)).await.unwrap() {
                Incoming::Request => {}
                Incoming::Refused(refusal) => panic!("{refusal}"),
                Incoming::End => {
                    server.close().await;
                    return served;
                }
            }
            let mut answer = server.head().method().unwrap().to_vec();
            answer.extend_from_slice(server.head().path().unwrap());
            answer.extend(body_of(&mut server).await.unwrap());
            let head = Head::response(200);
            let after = respond(&mut server, &head, length(answer.len()), &answer).await;
            assert_eq!(after, After::KeepAlive);
            served += 1;
        }
    })
}

#[test]
fn requests_and_responses_pass_whatever_there_is_room_for() {
    let framings: [fn(usize) -> BodyLength; 2] = [
        |len| BodyLength::Length(len as u64),
        |_| BodyLength::Chunked,
    ];
    for (capacity, framing) in CAPACITIES
        .into_iter()
        .flat_map(|c| framings.map(|f| (c, f)))
    {
        Executor::new().unwrap().block_on(async {
            let (mut client, server) = ends(capacity);
            let server = echo(server, framing);
            for (method, body) in [("GET", &b""[..]), ("POST", &[b'x'; 3000]), ("PUT", b"")] {
                let length = match body.len() {
                    0 => BodyLength::None,
                    len => framing(len),
                };
                ask(&mut client, &request(method, "/a"), length, body).await;
                let received = poll_fn(|cx| client.poll_response(cx)).await.unwrap();
                assert_eq!(received, Received::Response);
                assert_eq!(client.response_head().status(), Some(200));
                let answer = response_body(&mut client).await.unwrap();
                assert_eq!(answer, [method.as_bytes(), b"/a", body].concat());
                assert!(client.is_reusable(), "after {method}");
            }
            let mut io = client.into_io();
            finish(&mut io).await.unwrap();
            assert_eq!(server.await.unwrap(), 3);
        });
    }
}

#[test]
fn pipelined_requests_are_answered_one_by_one() {
    Executor::new().unwrap().block_on(async {
        let (mut client, server) = pair(10_000);
        let server = ServerConnection::new(server, Arc::new(ServerConfig::default()));
        let served = echo(server, |len| BodyLength::Length(len as u64));
        let requests = b"POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab\
            GET /2 HTTP/1.1\r\nhost: h\r\n\r\nGET /3 HTTP/1.1\r\nhost: h\r\n\r\n";
        put_all(&mut client, requests).await.unwrap();
        finish(&mut client).await.unwrap();
        assert_eq!(served.await.unwrap(), 3);
        let all = read_to_end(&mut client, 10_000).await.unwrap();
        let all = String::from_utf8(all).unwrap();
        let want = |body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        assert_eq!(all, want("POST/1ab") + &want("GET/2") + &want("GET/3"));
    });
}

#[test]
fn a_body_is_not_taken_from_the_peer_before_it_is_consumed() {
    Executor::new().unwrap().block_on(async {
        let (mut client, mut server) = ends(200);
        client
            .send(&request("POST", "/"), BodyLength::Length(1000))
            .unwrap();
        let body = [b'x'; 1000];
        let mut sent = 0;
        let mut step = async |client: &mut ClientConnection<PairEnd>| {
            poll_fn(|cx| {
                while let Poll::Ready(put) = client.poll_write(&body[sent..], cx) {
                    sent += put.unwrap();
                }
                Poll::Ready(())
            })
            .await;
            sent
        };
        assert!(step(&mut client).await < 200);
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        let before = step(&mut client).await;
        let held = async |server: &mut ServerConnection<PairEnd>| {
            poll_fn(|cx| {
                server.poll_body(cx).map_ok(|piece| match piece {
                    Piece::Data(data) => data.len(),
                    other => panic!("{other:?}"),
                })
            })
            .await
            .unwrap()
        };
        let held_now = held(&mut server).await;
        assert_eq!(held_now, held(&mut server).await, "the same bytes again");
        assert_eq!(step(&mut client).await, before, "there is no room");
        server.consume(held_now);
        assert_eq!(step(&mut client).await, before + held_now);
        assert!(!server.is_complete());
    });
}

#[test]
fn informational_responses_come_before_the_response() {
    Executor::new().unwrap().block_on(async {
        let (mut client, mut server) = ends(1000);
        let mut head = request("POST", "/");
        head.push(Field::new(b"expect", b"100-continue"));
        client.send(&head, BodyLength::Length(2)).unwrap();
        poll_fn(|cx| client.poll_drain(cx)).await.unwrap();
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        assert!(server.request().expects_continue);
        server.inform(&Head::response(100)).unwrap();
        server.inform(&Head::response(103)).unwrap();
        poll_fn(|cx| server.poll_drain(cx)).await.unwrap();
        for status in [100, 103] {
            let received = poll_fn(|cx| client.poll_response(cx)).await.unwrap();
            assert_eq!(received, Received::Informational);
            assert_eq!(client.response_head().status(), Some(status));
        }
        assert_eq!(poll_fn(|cx| client.poll_write(b"ok", cx)).await.unwrap(), 2);
        client.finish(None).unwrap();
        assert_eq!(body_of(&mut server).await.unwrap(), b"ok");
        let after = respond(&mut server, &Head::response(204), BodyLength::None, b"").await;
        assert_eq!(after, After::KeepAlive);
        let received = poll_fn(|cx| client.poll_response(cx)).await.unwrap();
        assert_eq!(received, Received::Response);
        assert_eq!(response_body(&mut client).await.unwrap(), b"");
        assert!(client.is_reusable());
    });
}

#[test]
fn a_response_before_the_end_of_its_request_ends_the_connection() {
    Executor::new().unwrap().block_on(async {
        let (mut client, mut server) = ends(1000);
        client
            .send(&request("POST", "/"), BodyLength::Length(5))
            .unwrap();
        assert_eq!(poll_fn(|cx| client.poll_write(b"ab", cx)).await.unwrap(), 2);
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        let after = respond(&mut server, &Head::response(413), BodyLength::None, b"").await;
        assert_eq!(after, After::Close);
        poll_fn(|cx| client.poll_response(cx)).await.unwrap();
        assert_eq!(response_body(&mut client).await.unwrap(), b"");
        assert!(!client.is_reusable(), "its request is not complete");
        let closing = spawn("close", server.close());
        let mut io = client.into_io();
        assert_eq!(filled(&mut io).await.unwrap(), 0);
        assert!(!closing.is_finished(), "the client has not ended");
        finish(&mut io).await.unwrap();
        closing.await.unwrap();
    });
}

#[test]
fn the_switch_of_protocols_hands_over_the_stream() {
    Executor::new().unwrap().block_on(async {
        let (mut client, mut server) = ends(1000);
        let mut head = request("GET", "/ws");
        head.push(Field::new(b"connection", b"Upgrade"));
        head.push(Field::new(b"upgrade", b"websocket"));
        ask(&mut client, &head, BodyLength::None, b"").await;
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        assert!(server.request().upgrade && server.is_complete());
        let mut head = Head::response(101);
        head.push(Field::new(b"connection", b"upgrade"));
        head.push(Field::new(b"upgrade", b"websocket"));
        server.respond(&head, BodyLength::None).unwrap();
        poll_fn(|cx| server.poll_drain(cx)).await.unwrap();
        let mut down = server.into_io();
        put_all(&mut down, b"raw").await.unwrap();
        poll_fn(|cx| client.poll_response(cx)).await.unwrap();
        assert_eq!(client.response_head().status(), Some(101));
        let mut up = client.into_io();
        let raw = poll_fn(|cx| up.poll_fill_more(2, cx).map_ok(<[u8]>::to_vec)).await;
        assert_eq!(raw.unwrap(), b"raw");
    });
}

#[test]
fn what_is_no_request_is_refused_and_answered() {
    for (bytes, refusal, status) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], Refusal::LowVersion, "426"),
        (b"BREW / HTTP/1.1\r\n", Refusal::Method, "400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n", Refusal::TransferEncoding, "501"),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            Refusal::AmbiguousLength,
            "400",
        ),
    ] {
        Executor::new().unwrap().block_on(async {
            let (mut client, server) = pair(10_000);
            let mut server = ServerConnection::new(server, Arc::new(ServerConfig::default()));
            put_all(&mut client, bytes).await.unwrap();
            let incoming = poll_fn(|cx| server.poll_request(cx)).await.unwrap();
            assert_eq!(incoming, Incoming::Refused(refusal));
            let head = Head::response(refusal.status());
            let after = respond(&mut server, &head, BodyLength::Length(0), b"").await;
            assert_eq!(after, After::Close);
            let answer = poll_fn(|cx| client.poll_fill(cx).map_ok(<[u8]>::to_vec)).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        });
    }
}

#[test]
fn a_body_that_breaks_off_is_told() {
    Executor::new().unwrap().block_on(async {
        let (mut client, mut server) = ends(1000);
        client
            .send(&request("POST", "/"), BodyLength::Length(5))
            .unwrap();
        assert_eq!(poll_fn(|cx| client.poll_write(b"ab", cx)).await.unwrap(), 2);
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        let mut io = client.into_io();
        finish(&mut io).await.unwrap();
        let broken = body_of(&mut server).await.unwrap_err();
        assert!(matches!(broken, BodyError::Truncated), "{broken}");

        let (mut client, server) = pair(1000);
        let mut server = ServerConnection::new(server, Arc::new(ServerConfig::default()));
        let bad = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nxyz";
        put_all(&mut client, bad).await.unwrap();
        assert_eq!(
            poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
            Incoming::Request
        );
        let broken = body_of(&mut server).await.unwrap_err();
        assert!(
            matches!(broken, BodyError::Refused(Refusal::Chunk)),
            "{broken}"
        );
    });
}

#[test]
fn responses_that_break_off_are_told_apart() {
    let cases: [(&[u8], ResponseError); 4] = [
        (b"", ResponseError::Closed),
        (b"HTTP/1.1 200 OK\r\ncont", ResponseError::Truncated),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
            ResponseError::Truncated,
        ),
        (b"SSH-2.0", ResponseError::StatusLine),
    ];
    for (bytes, want) in cases {
        Executor::new().unwrap().block_on(async {
            let (client, mut server) = pair(1000);
            let mut client = ClientConnection::new(client, Limits::UPSTREAM);
            ask(&mut client, &request("GET", "/"), BodyLength::None, b"").await;
            put_all(&mut server, bytes).await.unwrap();
            finish(&mut server).await.unwrap();
            let got = match poll_fn(|cx| client.poll_response(cx)).await {
                Ok(_) => response_body(&mut client).await.map(drop),
                Err(e) => Err(e),
            };
            assert!(
                matches!(got, Err(ReceiveError::Response(e)) if e == want),
                "{got:?}"
            );
            assert!(!client.is_reusable());
        });
    }
}

#[test]
fn a_body_without_length_ends_with_the_connection() {
    Executor::new().unwrap().block_on(async {
        let (client, mut server) = pair(1000);
        let mut client = ClientConnection::new(client, Limits::UPSTREAM);
        ask(&mut client, &request("GET", "/"), BodyLength::None, b"").await;
        put_all(&mut server, b"HTTP/1.1 200 OK\r\n\r\nall of it")
            .await
            .unwrap();
        finish(&mut server).await.unwrap();
        poll_fn(|cx| client.poll_response(cx)).await.unwrap();
        assert_eq!(client.response().body, BodyLength::Chunked);
        assert_eq!(response_body(&mut client).await.unwrap(), b"all of it");
        assert!(!client.is_reusable());
    });
}

#[test]
fn an_idle_connection_is_spoilt_by_whatever_comes() {
    Executor::new().unwrap().block_on(async {
        for unasked in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (client, mut server) = pair(1000);
            let mut client = ClientConnection::new(client, Limits::UPSTREAM);
            let idle = poll_fn(|cx| Poll::Ready(client.poll_spoilt(cx).is_pending())).await;
            assert!(idle && client.is_reusable());
            put_all(&mut server, unasked).await.unwrap();
            finish(&mut server).await.unwrap();
            poll_fn(|cx| client.poll_spoilt(cx)).await;
        }
    });
}

#[test]
fn a_connection_that_was_closed_before_the_request_has_sent_nothing() {
    Executor::new().unwrap().block_on(async {
        let (client, mut server) = pair(1000);
        let mut client = ClientConnection::new(client, Limits::UPSTREAM);
        server.abort();
        client.send(&request("GET", "/"), BodyLength::None).unwrap();
        client.finish(None).unwrap();
        poll_fn(|cx| client.poll_drain(cx)).await.unwrap_err();
        assert!(client.nothing_sent());
    });
}

#[test]
fn a_client_that_leaves_while_it_waits_is_noticed() {
    Executor::new().unwrap().block_on(async {
        for aborts in [true, false] {
            let (mut client, mut server) = ends(100_000);
            ask(&mut client, &request("GET", "/"), BodyLength::None, b"").await;
            assert_eq!(
                poll_fn(|cx| server.poll_request(cx)).await.unwrap(),
                Incoming::Request
            );
            let is_there = poll_fn(|cx| Poll::Ready(server.poll_left(cx).is_pending())).await;
            assert!(is_there);
            let mut io = client.into_io();
            put_all(&mut io, b"GET /ahead HTTP/1.1\r\n").await.unwrap();
            let is_there = poll_fn(|cx| Poll::Ready(server.poll_left(cx).is_pending())).await;
            assert!(is_there, "it only sends ahead");
            if aborts {
                io.abort();
            } else {
                finish(&mut io).await.unwrap();
            }
            poll_fn(|cx| server.poll_left(cx)).await;
        }
    });
}

#[test]
fn more_body_than_was_said_is_an_error() {
    Executor::new().unwrap().block_on(async {
        let (mut client, _server) = ends(1000);
        client
            .send(&request("POST", "/"), BodyLength::Length(3))
            .unwrap();
        let error = poll_fn(|cx| client.poll_write(b"abcd", cx))
            .await
            .unwrap_err();
        let cause = error.into_inner().unwrap();
        assert_eq!(cause.downcast_ref(), Some(&WriteError::TooLong));
    });
}

#[test]
fn a_head_that_takes_too_long_can_be_answered() {
    Executor::new().unwrap().block_on(async {
        let (mut client, server) = pair(1000);
        let mut server = ServerConnection::new(server, Arc::new(ServerConfig::default()));
        put_all(&mut client, b"GET / HTTP/1.1\r\nhost: h\r\nx-slow")
            .await
            .unwrap();
        let waits = poll_fn(|cx| Poll::Ready(server.poll_request(cx).is_pending())).await;
        assert!(waits && !server.is_idle());
        server.give_up();
        assert_eq!(server.head().field_count(), 0);
        let after = respond(&mut server, &Head::response(408), BodyLength::None, b"").await;
        assert_eq!(after, After::Close);
        assert!(filled(&mut client).await.unwrap() > 0);
    });
}
