//! Targets for a fuzzer: any bytes, in any pieces.
//!
//! Each panics when the core does, when pieces come to something else than the whole, and when what was accepted isn't read
//! again as the same once it is written.

mod exchange;

use std::sync::Arc;

pub use exchange::fuzz_exchange;

use super::chunked::{Chunked, Step};
use super::{
    BodyLength, Client, ClientEvent, Http10, Limits, Refusal, ResponseError, Server, ServerConfig,
    ServerEof, ServerEvent, Underscores, WriteError,
};
use crate::head::Head;

/// What a run came to, with what is a matter of pieces joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Head(Vec<(Vec<u8>, Vec<u8>)>),
    Informational(Vec<(Vec<u8>, Vec<u8>)>),
    Trailers(Vec<(Vec<u8>, Vec<u8>)>),
    Body(Vec<u8>),
    Raw(Vec<u8>),
    End,
    Refused(Refusal),
    Failed(ResponseError),
    Eof(ServerEof),
}

/// Requests: the first byte chooses the configuration and the pieces, the rest is what comes.
pub fn fuzz_request(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else {
        return;
    };
    let config = Arc::new(ServerConfig {
        underscores: match choice & 3 {
            0 => Underscores::Drop,
            1 => Underscores::Reject,
            _ => Underscores::Allow,
        },
        http10: if choice & 4 == 0 {
            Http10::Refuse
        } else {
            Http10::Accept {
                default_host: (choice & 8 == 0).then(|| "default".into()),
            }
        },
        ..ServerConfig::default()
    });
    let whole = requests(&config, input, input.len());
    let piece = usize::from(choice >> 4) + 1;
    let pieces = requests(&config, input, piece);
    assert_eq!(whole, pieces, "in pieces of {piece}");
}

/// Responses: the first byte chooses what was asked and the pieces, the rest is what comes.
pub fn fuzz_response(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else {
        return;
    };
    let whole = responses(choice, input, input.len());
    let piece = usize::from(choice >> 4) + 1;
    let pieces = responses(choice, input, piece);
    assert_eq!(whole, pieces, "in pieces of {piece}");
}

/// Chunks: the first byte chooses the pieces, the rest is what comes.
pub fn fuzz_chunked(data: &[u8]) {
    let Some((&choice, input)) = data.split_first() else {
        return;
    };
    let whole = chunks(input, input.len());
    let piece = usize::from(choice) + 1;
    assert_eq!(whole, chunks(input, piece), "in pieces of {piece}");
}

/// What a server makes of `input` in pieces; every request is answered when it ends.
pub(super) fn requests(config: &Arc<ServerConfig>, input: &[u8], piece: usize) -> Vec<Told> {
    let mut server = Server::new(Arc::clone(config));
    let mut told = Vec::new();
    let mut out = Vec::new();
    let mut end = 0;
    let mut at = 0;
    loop {
        let got = server.recv(&input[at..end]);
        let here = at;
        at += got.consumed;
        assert!(at <= end, "consumed what was not there");
        let bytes = |range: std::ops::Range<usize>| {
            assert!(range.end <= got.consumed, "a range beyond what is consumed");
            input[here + range.start..here + range.end].to_vec()
        };
        match got.event {
            ServerEvent::Head => {
                check_written(&server);
                told.push(Told::Head(fields(server.head())));
                if server.request().upgrade {
                    let mut head = Head::response(101);
                    head.push(crate::Field::new(b"upgrade", b"x"));
                    let done = server.respond(&head, BodyLength::None, &mut out);
                    assert_eq!(done, Ok(()));
                }
            }
            ServerEvent::Refused(refusal) => {
                told.push(Told::Refused(refusal));
                let answered = server.answer(refusal, b"today", b"test", &mut out);
                let switched = answered == Err(WriteError::OutOfTurn) && server.request().upgrade;
                assert!(answered.is_ok() || switched, "{answered:?}");
            }
            ServerEvent::Body(range) => join(&mut told, Told::Body(bytes(range))),
            ServerEvent::Raw(range) => join(&mut told, Told::Raw(bytes(range))),
            ServerEvent::Trailers => {
                told.push(Told::Trailers(
                    server.trailers().map(fields).unwrap_or_default(),
                ));
            }
            ServerEvent::End => {
                told.push(Told::End);
                answer(&mut server, &mut out);
            }
            ServerEvent::NeedMore => {
                assert_eq!(at, end, "more is wanted, but something is left");
                if end == input.len() {
                    told.push(Told::Eof(server.eof()));
                    return told;
                }
                end = (end + piece.max(1)).min(input.len());
            }
            ServerEvent::Busy => unreachable!("every request is answered"),
            ServerEvent::Closed => return told,
        }
    }
}

fn answer(server: &mut Server, out: &mut Vec<u8>) {
    let mut head = Head::response(200);
    head.push(crate::Field::new(b"x", b"y"));
    match server.respond(&head, BodyLength::Chunked, out) {
        Ok(()) => {
            let written = server.write(b"body", out);
            assert!(matches!(written, Ok(()) | Err(WriteError::NoBody)));
            assert!(server.finish(None, out).is_ok());
        }
        Err(WriteError::OutOfTurn) => {} // it was switched
        Err(e) => unreachable!("{e}"),
    }
}

/// Whatever was accepted is read as the same, and as one message, when it is written again.
fn check_written(server: &Server) {
    let mut out = Vec::new();
    let mut client = Client::new(Limits::UPSTREAM);
    let body = server.request().body;
    let sent = client.send(server.head(), body, &mut out);
    assert_eq!(sent, Ok(()), "{:?}", server.head());
    let mut again = Server::new(Arc::new(ServerConfig {
        limits: Limits {
            head_bytes: usize::MAX / 2,
            fields: 1000,
            ..Limits::DOWNSTREAM
        },
        ..ServerConfig::default()
    }));
    let got = again.recv(&out);
    assert_eq!(got.event, ServerEvent::Head, "{}", out.escape_ascii());
    assert_eq!(got.consumed, out.len(), "{}", out.escape_ascii());
    assert_eq!(again.request().upgrade, server.request().upgrade);
    let is_length = |name: &[u8]| name == b"content-length" || name == b":scheme";
    let without = |head| {
        let mut fields: Vec<_> = fields(head);
        fields.retain(|(name, _)| !is_length(name));
        fields
    };
    assert_eq!(without(again.head()), without(server.head()));
    match body {
        BodyLength::None | BodyLength::Length(0) => {
            assert!(matches!(
                again.request().body,
                BodyLength::None | BodyLength::Length(0)
            ));
        }
        BodyLength::Length(_) | BodyLength::Chunked => assert_eq!(again.request().body, body),
    }
}

/// What a client makes of `input` in pieces, and of the end after it.
pub(super) fn responses(choice: u8, input: &[u8], piece: usize) -> Vec<Told> {
    let mut client = Client::new(Limits::UPSTREAM);
    let mut out = Vec::new();
    let mut head = Head::request(match choice & 3 {
        0 => b"HEAD",
        1 => b"CONNECT",
        _ => b"GET",
    });
    head.set_authority(b"a:80");
    head.set_path(b"/");
    if choice & 3 == 2 {
        head.push(crate::Field::new(b"connection", b"upgrade"));
        head.push(crate::Field::new(b"upgrade", b"websocket"));
    }
    assert_eq!(client.send(&head, BodyLength::None, &mut out), Ok(()));
    if choice & 3 != 1 {
        assert_eq!(client.finish(None, &mut out), Ok(()));
    }
    let mut told = Vec::new();
    let (mut at, mut end) = (0, 0);
    loop {
        let got = client.recv(&input[at..end]);
        let here = at;
        at += got.consumed;
        assert!(at <= end, "consumed what was not there");
        let bytes = |range: std::ops::Range<usize>| {
            assert!(range.end <= got.consumed, "a range beyond what is consumed");
            input[here + range.start..here + range.end].to_vec()
        };
        match got.event {
            ClientEvent::Head => told.push(Told::Head(fields(client.head()))),
            ClientEvent::Informational => told.push(Told::Informational(fields(client.head()))),
            ClientEvent::Body(range) => join(&mut told, Told::Body(bytes(range))),
            ClientEvent::Raw(range) => join(&mut told, Told::Raw(bytes(range))),
            ClientEvent::Trailers => {
                told.push(Told::Trailers(
                    client.trailers().map(fields).unwrap_or_default(),
                ));
            }
            ClientEvent::End => {
                told.push(Told::End);
            }
            ClientEvent::NeedMore => {
                assert_eq!(at, end, "more is wanted, but something is left");
                if end == input.len() {
                    match client.eof() {
                        ClientEvent::Failed(error) => told.push(Told::Failed(error)),
                        _ => told.push(Told::End),
                    }
                    assert!(!client.is_reusable());
                    return told;
                }
                end = (end + piece.max(1)).min(input.len());
            }
            ClientEvent::Failed(error) => {
                assert!(!client.is_reusable());
                told.push(Told::Failed(error));
                return told;
            }
        }
    }
}

fn chunks(input: &[u8], piece: usize) -> Option<(Vec<u8>, Option<usize>)> {
    let mut chunked = Chunked::new(64);
    let mut body = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let now = &input[at..(at + piece.max(1)).min(input.len())];
        match chunked.step(now).ok()? {
            Step::Data(range) => {
                assert!(!range.is_empty(), "body without bytes");
                body.extend_from_slice(&now[range.clone()]);
                at += range.end;
            }
            Step::Last(consumed) => return Some((body, Some(at + consumed))),
            Step::More => at += now.len(),
        }
    }
    Some((body, None))
}

fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.wire_fields()
        .map(|f| (f.name.to_vec(), f.value.to_vec()))
        .collect()
}

fn join(told: &mut Vec<Told>, more: Told) {
    match (told.last_mut(), &more) {
        (Some(Told::Body(bytes)), Told::Body(more)) | (Some(Told::Raw(bytes)), Told::Raw(more)) => {
            bytes.extend_from_slice(more);
        }
        _ => told.push(more),
    }
}
