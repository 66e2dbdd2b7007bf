//! hyper as the other side, in both roles, over a pipe that cuts the bytes anywhere.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::super::{
    After, BodyLength, Client, ClientEvent, Limits, Server, ServerConfig, ServerEvent,
};
use crate::head::{Field, Head};

/// A message without its start line.
#[derive(Clone, Debug)]
struct Message {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether its length is said, or it comes in chunks.
    sized: bool,
    /// How the sender cuts the body.
    piece: usize,
}

fn message() -> impl Strategy<Value = Message> {
    let field = ("x-[a-z0-9!_.]{1,12}", "([!-~\u{e9}]([ -~]{0,20}[!-~])?)?");
    let body = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(any::<u8>(), 0..100),
        proptest::collection::vec(any::<u8>(), 0..5000),
    ];
    (
        proptest::collection::vec(field, 0..12),
        body,
        any::<bool>(),
        1usize..2000,
    )
        .prop_map(|(fields, body, sized, piece)| Message {
            fields,
            body,
            sized,
            piece,
        })
}

/// Sizes of the reads, over and over.
fn reads() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1usize..8, 1usize..3000], 1..8)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
}

/// Reads pieces of the given sizes.
struct Pipe {
    io: DuplexStream,
    reads: Vec<usize>,
    turn: usize,
    pending: Vec<u8>,
}

impl Pipe {
    fn new(io: DuplexStream, reads: Vec<usize>) -> Self {
        Self {
            io,
            reads,
            turn: 0,
            pending: Vec::new(),
        }
    }

    /// Whether something came.
    async fn read(&mut self) -> bool {
        self.turn += 1;
        let size = self.reads[self.turn % self.reads.len()];
        let mut piece = vec![0; size];
        let read = self.io.read(&mut piece).await.unwrap();
        self.pending.extend_from_slice(&piece[..read]);
        read > 0
    }

    async fn write(&mut self, out: &mut Vec<u8>) {
        self.io.write_all(out).await.unwrap();
        out.clear();
    }
}

fn add_fields(head: &mut Head, message: &Message) {
    for (name, value) in &message.fields {
        head.push(Field::new(name.as_bytes(), value.as_bytes()));
    }
}

fn length_of(message: &Message) -> BodyLength {
    if message.sized {
        BodyLength::Length(message.body.len() as u64)
    } else {
        BodyLength::Chunked
    }
}

fn own_fields<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, String)> {
    fields
        .filter(|(name, _)| name.starts_with(b"x-"))
        .map(|(n, v)| {
            (
                String::from_utf8_lossy(n).into(),
                String::from_utf8_lossy(v).into(),
            )
        })
        .collect()
}

fn fields_of(head: &Head) -> Vec<(String, String)> {
    own_fields(head.fields().map(|f| (f.name, f.value)))
}

/// hyper keeps no order among different names.
fn sorted(mut fields: Vec<(String, String)>) -> Vec<(String, String)> {
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

fn fields_of_map(map: &http::HeaderMap) -> Vec<(String, String)> {
    own_fields(
        map.iter()
            .map(|(n, v)| (n.as_str().as_bytes(), v.as_bytes())),
    )
}

fn hyper_body(message: &Message) -> http_body_util::combinators::BoxBody<Bytes, Infallible> {
    if message.sized {
        return Full::new(Bytes::from(message.body.clone())).boxed();
    }
    let pieces: Vec<_> = message
        .body
        .chunks(message.piece)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

/// Answers requests with the messages in turn. Returns what came.
async fn serve(
    mut pipe: Pipe,
    answers: Vec<Message>,
) -> Vec<(String, Vec<(String, String)>, Vec<u8>)> {
    let mut server = Server::new(Arc::new(ServerConfig::default()));
    let mut seen = Vec::new();
    let (mut path, mut fields, mut body) = Default::default();
    let mut out = Vec::new();
    let mut answers = answers.into_iter();
    loop {
        let got = server.recv(&pipe.pending);
        let consumed = got.consumed;
        match got.event {
            ServerEvent::Head => {
                path = String::from_utf8_lossy(server.head().path().unwrap()).into_owned();
                fields = fields_of(server.head());
                body = Vec::new();
            }
            ServerEvent::Body(range) => body.extend_from_slice(&pipe.pending[range]),
            ServerEvent::End => {
                seen.push((
                    std::mem::take(&mut path),
                    std::mem::take(&mut fields),
                    std::mem::take(&mut body),
                ));
                let answer = answers.next().unwrap();
                let mut head = Head::response(200);
                add_fields(&mut head, &answer);
                server.respond(&head, length_of(&answer), &mut out).unwrap();
                for piece in answer.body.chunks(answer.piece) {
                    server.write(piece, &mut out).unwrap();
                }
                let after = server.finish(None, &mut out).unwrap();
                pipe.write(&mut out).await;
                if after == After::Close {
                    return seen;
                }
            }
            ServerEvent::NeedMore => {
                pipe.pending.clear();
                if !pipe.read().await {
                    return seen;
                }
                continue;
            }
            event @ (ServerEvent::Refused(_)
            | ServerEvent::Trailers
            | ServerEvent::Raw(_)
            | ServerEvent::Busy
            | ServerEvent::Closed) => panic!("{event:?}"),
        }
        pipe.pending.drain(..consumed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_client_of_hyper_is_served(exchanges in proptest::collection::vec((message(), message()), 1..5), reads in reads()) {
        let (near, far) = tokio::io::duplex(700);
        runtime().block_on(async {
            let answers: Vec<_> = exchanges.iter().map(|(_, answer)| answer.clone()).collect();
            let ours = serve(Pipe::new(near, reads), answers);
            let theirs = async {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(far)).await.unwrap();
                let requests = async {
                    for (number, (request, answer)) in exchanges.iter().enumerate() {
                        let mut asked = http::Request::post(format!("/{number}")).header("host", "a");
                        for (name, value) in &request.fields {
                            asked = asked.header(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
                        }
                        sender.ready().await.unwrap();
                        let got = sender.send_request(asked.body(hyper_body(request)).unwrap()).await.unwrap();
                        assert_eq!(got.status(), 200);
                        assert_eq!(sorted(fields_of_map(got.headers())), sorted(answer.fields.clone()));
                        assert_eq!(got.headers().contains_key("content-length"), answer.sized);
                        assert_eq!(got.into_body().collect().await.unwrap().to_bytes(), answer.body);
                    }
                    drop(sender);
                };
                let ((), connection) = tokio::join!(requests, connection);
                connection.unwrap();
            };
            let (seen, ()) = tokio::join!(ours, theirs);
            assert_eq!(seen.len(), exchanges.len());
            for (number, ((path, fields, body), (request, _))) in seen.into_iter().zip(&exchanges).enumerate() {
                assert_eq!(path, format!("/{number}"));
                assert_eq!(sorted(fields), sorted(request.fields.clone()));
                assert_eq!(body, request.body);
            }
        });
    }

    #[test]
    fn a_server_of_hyper_is_asked(exchanges in proptest::collection::vec((message(), message()), 1..5), reads in reads()) {
        let (near, far) = tokio::io::duplex(700);
        runtime().block_on(async {
            let theirs = async {
                let exchanges = &exchanges;
                let answer = service_fn(move |asked: http::Request<Incoming>| async move {
                    let number: usize = asked.uri().path()[1..].parse().unwrap();
                    let (request, answer) = &exchanges[number];
                    assert_eq!(asked.headers()["host"], "a:80");
                    assert_eq!(sorted(fields_of_map(asked.headers())), sorted(request.fields.clone()));
                    assert_eq!(asked.into_body().collect().await.unwrap().to_bytes(), request.body);
                    let mut response = http::Response::builder();
                    for (name, value) in &answer.fields {
                        response = response.header(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
                    }
                    response.body(hyper_body(answer))
                });
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), answer).await.unwrap();
            };
            let ours = async {
                let mut pipe = Pipe::new(near, reads);
                let mut client = Client::new(Limits::UPSTREAM);
                for (number, (request, answer)) in exchanges.iter().enumerate() {
                    ask(&mut client, &mut pipe, number, request, answer).await;
                    assert!(client.is_reusable());
                }
            };
            tokio::join!(theirs, ours);
        });
    }

    #[test]
    fn pipelines_are_served_in_order(exchanges in proptest::collection::vec((message(), message()), 1..6), reads in reads()) {
        let (near, far) = tokio::io::duplex(1 << 20);
        runtime().block_on(async {
            let mut sent = Vec::new();
            for (number, (request, _)) in exchanges.iter().enumerate() {
                let mut client = Client::new(Limits::UPSTREAM);
                put_request(&mut client, number, request, &mut sent);
            }
            let mut theirs = Pipe::new(far, vec![4096]);
            theirs.write(&mut sent).await;
            let answers: Vec<_> = exchanges.iter().map(|(_, answer)| answer.clone()).collect();
            let ours = serve(Pipe::new(near, reads), answers);
            let check = async {
                for (request, answer) in &exchanges {
                    let mut client = Client::new(Limits::UPSTREAM);
                    let mut nowhere = Vec::new();
                    put_request(&mut client, 0, request, &mut nowhere);
                    receive(&mut client, &mut theirs, answer).await;
                }
                theirs.io.shutdown().await.unwrap();
            };
            let (seen, ()) = tokio::join!(ours, check);
            assert_eq!(seen.len(), exchanges.len());
            for (number, (path, fields, body)) in seen.into_iter().enumerate() {
                assert_eq!(path, format!("/{number}"));
                assert_eq!(fields, exchanges[number].0.fields);
                assert_eq!(body, exchanges[number].0.body);
            }
        });
    }
}

fn put_request(client: &mut Client, number: usize, request: &Message, out: &mut Vec<u8>) {
    let mut head = Head::request(b"POST");
    head.set_authority(b"a:80");
    head.set_path(format!("/{number}").as_bytes());
    add_fields(&mut head, request);
    client.send(&head, length_of(request), out).unwrap();
    for piece in request.body.chunks(request.piece) {
        client.write(piece, out).unwrap();
    }
    client.finish(None, out).unwrap();
}

async fn ask(
    client: &mut Client,
    pipe: &mut Pipe,
    number: usize,
    request: &Message,
    answer: &Message,
) {
    let mut out = Vec::new();
    put_request(client, number, request, &mut out);
    pipe.write(&mut out).await;
    receive(client, pipe, answer).await;
}

/// Receives one response, and no byte more than that.
async fn receive(client: &mut Client, pipe: &mut Pipe, answer: &Message) {
    let mut body = Vec::new();
    loop {
        let got = client.recv(&pipe.pending);
        match got.event {
            ClientEvent::Head => {
                assert_eq!(client.head().status(), Some(200));
                assert_eq!(
                    sorted(fields_of(client.head())),
                    sorted(answer.fields.clone())
                );
            }
            ClientEvent::Body(range) => body.extend_from_slice(&pipe.pending[range]),
            ClientEvent::End => {
                pipe.pending.drain(..got.consumed);
                break;
            }
            ClientEvent::NeedMore => {
                pipe.pending.clear();
                assert!(pipe.read().await, "the server left");
                continue;
            }
            event @ (ClientEvent::Informational
            | ClientEvent::Trailers
            | ClientEvent::Raw(_)
            | ClientEvent::Failed(_)) => panic!("{event:?}"),
        }
        pipe.pending.drain(..got.consumed);
    }
    assert_eq!(body, answer.body);
}
