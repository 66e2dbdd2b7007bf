//! The h2 crate as the peer, in both roles: random requests through random settings, delivered in random pieces.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use waymark_engine::h2::{Config, Connection, End, ErrorCode, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

use crate::echo::Echo;

/// A request, its body in chunks, and how it ends.
#[derive(Clone, Debug)]
struct Exchange {
    fields: Vec<(String, String)>,
    chunks: Vec<usize>,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Plain,
    Trailers,
    /// The client resets the stream after what it sent.
    Reset,
}

/// What both ends agree on.
#[derive(Clone, Debug)]
struct Terms {
    ours: Config,
    stream_window: u32,
    connection_window: u32,
    table: u32,
    frame: u32,
    /// The sizes of the pieces that our end is fed, again and again. What it has to say to one read is sent together: h2
    /// takes many small frames that its user doesn't read for an attack.
    pieces: Vec<usize>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn our_server_answers_an_h2_client(terms in terms(), exchanges in exchanges()) {
        run(async move {
            let (theirs, ours) = duplex(1 << 20);
            let mut out = WriteBuf::new();
            let conn = Connection::server(Arc::new(terms.ours.clone()), &mut out);
            let mut tasks = JoinSet::new();
            tasks.spawn(serve(conn, out, ours, terms.pieces.clone()));
            let (requests, connection) = client::Builder::new()
                .initial_window_size(terms.stream_window)
                .initial_connection_window_size(terms.connection_window)
                .header_table_size(terms.table)
                .max_frame_size(terms.frame)
                .handshake::<_, Bytes>(theirs)
                .await
                .unwrap();
            tasks.spawn(async move { connection.await.unwrap() });
            let mut clients = JoinSet::new();
            for exchange in exchanges {
                clients.spawn(request(requests.clone(), exchange));
            }
            drop(requests);
            while let Some(outcome) = clients.join_next().await {
                outcome.unwrap();
            }
            while let Some(outcome) = tasks.join_next().await {
                outcome.unwrap();
            }
        });
    }

    #[test]
    fn our_client_asks_an_h2_server(terms in terms(), exchanges in exchanges()) {
        run(async move {
            let (theirs, ours) = duplex(1 << 20);
            let mut tasks = JoinSet::new();
            let builder = server::Builder::new()
                .initial_window_size(terms.stream_window)
                .initial_connection_window_size(terms.connection_window)
                .max_concurrent_streams(3)
                .max_frame_size(terms.frame)
                .to_owned();
            tasks.spawn(async move {
                let mut connection = builder.handshake::<_, Bytes>(theirs).await.unwrap();
                let mut handlers = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    handlers.spawn(respond_with_echo(request, respond));
                }
            });
            ask(&terms, ours, exchanges).await;
            while let Some(outcome) = tasks.join_next().await {
                outcome.unwrap();
            }
        });
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), test)
            .await
            .expect("the ends to come to rest");
    });
}

/// Our server on a pipe, until the peer leaves.
async fn serve(mut conn: Connection, mut out: WriteBuf, mut io: DuplexStream, pieces: Vec<usize>) {
    let mut echo = Echo::default();
    let mut buffer = vec![0; 1 << 16];
    for piece in pieces.into_iter().cycle() {
        while !out.is_empty() {
            io.write_all(out.unsent()).await.unwrap();
            out.advance(out.len());
            echo.turn(&mut conn, &[], &mut out).unwrap();
        }
        let count = io.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        for bytes in buffer[..count].chunks(piece) {
            echo.turn(&mut conn, bytes, &mut out).unwrap();
        }
    }
    assert!(echo.is_idle());
    assert_eq!(conn.streams().count(), 0);
    assert_eq!(conn.refusals().iter().count(), 0);
}

/// An h2 client's part of an exchange.
async fn request(requests: client::SendRequest<Bytes>, exchange: Exchange) {
    let mut requests = requests.ready().await.unwrap();
    let mut request = Request::post("http://reviews/echo");
    for (name, value) in &exchange.fields {
        request = request.header(name, value);
    }
    let (response, mut stream) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let sent = async {
        let mut sent = Vec::new();
        for &len in &exchange.chunks {
            let chunk = content(sent.len(), len);
            sent.extend_from_slice(&chunk);
            if send(&mut stream, chunk).await.is_err() {
                break;
            }
        }
        match exchange.ending {
            Ending::Plain => stream.send_data(Bytes::new(), true).unwrap(),
            Ending::Trailers => stream.send_trailers(trailers()).unwrap(),
            Ending::Reset => stream.send_reset(h2::Reason::CANCEL),
        }
        sent
    };
    let received = async {
        let response = response.await?;
        assert_eq!(response.status(), 200);
        for (name, value) in &exchange.fields {
            let got: Vec<_> = response.headers().get_all(name).iter().collect();
            assert!(
                got.iter().any(|got| *got == value),
                "{name}: {value}, {got:?}"
            );
        }
        read(response.into_body()).await
    };
    let (sent, received) = tokio::join!(sent, received);
    if exchange.ending != Ending::Reset {
        let (body, got_trailers) = received.unwrap();
        assert!(body == sent, "{} of {} bytes", body.len(), sent.len());
        let want = (exchange.ending == Ending::Trailers).then(trailers);
        assert_eq!(got_trailers, want);
    }
}

async fn respond_with_echo(
    request: Request<RecvStream>,
    mut respond: server::SendResponse<Bytes>,
) -> Option<()> {
    let (parts, mut body) = request.into_parts();
    let mut early = Response::new(());
    *early.status_mut() = http::StatusCode::EARLY_HINTS;
    respond.send_informational(early).ok()?;
    let mut response = Response::new(());
    *response.headers_mut() = parts.headers;
    let mut stream = respond.send_response(response, false).ok()?;
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        let count = data.len();
        send(&mut stream, data).await.ok()?;
        body.flow_control().release_capacity(count).ok()?;
    }
    match body.trailers().await.ok()? {
        Some(trailers) => stream.send_trailers(trailers).ok(),
        None => stream.send_data(Bytes::new(), true).ok(),
    }
}

async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(capacity) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            break;
        };
        let count = capacity?.min(data.len());
        stream.send_data(data.split_to(count), false)?;
    }
    Ok(())
}

async fn read(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut received = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        received.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((received, body.trailers().await?))
}

/// What our client has of an exchange.
struct Asked {
    exchange: Exchange,
    to_send: Vec<u8>,
    sent: usize,
    ended: bool,
    received: Vec<u8>,
    got_hints: bool,
}

/// Our client on a pipe: all exchanges, as many at once as the server allows.
async fn ask(terms: &Terms, mut io: DuplexStream, exchanges: Vec<Exchange>) {
    let mut out = WriteBuf::new();
    let mut conn = Connection::client(Arc::new(terms.ours.clone()), &mut out);
    let mut to_ask: Vec<Exchange> = exchanges;
    let mut asked: HashMap<StreamRef, Asked> = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    let mut count = 0;
    for piece in terms.pieces.iter().cycle() {
        loop {
            for bytes in buffer[..count].chunks(*piece) {
                turn(&mut conn, bytes, &mut asked, &mut out);
            }
            turn(&mut conn, &[], &mut asked, &mut out);
            count = 0;
            while conn.peer_settings().max_concurrent_streams == 3
                && conn.available_streams() > 0
                && let Some(exchange) = to_ask.pop()
            {
                let (stream, state) = open(&mut conn, exchange, &mut out);
                asked.insert(stream, state);
                advance(&mut conn, stream, &mut asked, &mut out);
            }
            if out.is_empty() {
                break;
            }
            io.write_all(out.unsent()).await.unwrap();
            out.advance(out.len());
        }
        if to_ask.is_empty() && asked.is_empty() {
            assert_eq!(conn.streams().count(), 0);
            assert_eq!(conn.refusals().iter().count(), 0);
            return;
        }
        count = io.read(&mut buffer).await.unwrap();
        assert!(count > 0, "the server left");
    }
}

fn open(conn: &mut Connection, exchange: Exchange, out: &mut WriteBuf) -> (StreamRef, Asked) {
    let mut head = Head::request(b"POST");
    head.set_scheme(b"http");
    head.set_authority(b"reviews");
    head.set_path(b"/echo");
    for (name, value) in &exchange.fields {
        head.push(Field::new(name.as_bytes(), value.as_bytes()));
    }
    let stream = conn.send_request(head.wire_fields(), End::No, out).unwrap();
    let state = Asked {
        to_send: content(0, exchange.chunks.iter().sum()).to_vec(),
        sent: 0,
        ended: false,
        received: Vec::new(),
        got_hints: false,
        exchange,
    };
    (stream, state)
}

/// Sends what can be sent of an exchange.
fn advance(
    conn: &mut Connection,
    stream: StreamRef,
    asked: &mut HashMap<StreamRef, Asked>,
    out: &mut WriteBuf,
) {
    let Some(state) = asked.get_mut(&stream).filter(|state| !state.ended) else {
        return;
    };
    let end = End::from(state.exchange.ending == Ending::Plain);
    state.sent += conn
        .send_data(stream, &state.to_send[state.sent..], end, out)
        .unwrap();
    if state.sent < state.to_send.len() {
        return;
    }
    state.ended = true;
    match state.exchange.ending {
        Ending::Plain => {}
        Ending::Trailers => {
            let fields = [Field::new(b"grpc-status", b"0")];
            conn.send_trailers(stream, fields, out).unwrap();
        }
        Ending::Reset => {
            conn.reset(stream, ErrorCode::CANCEL, out);
            asked.remove(&stream);
        }
    }
}

fn turn(
    conn: &mut Connection,
    mut input: &[u8],
    asked: &mut HashMap<StreamRef, Asked>,
    out: &mut WriteBuf,
) {
    while let Some(event) = conn.recv(&mut input, out, Instant::now()).unwrap() {
        match event {
            Event::Informational { stream } => {
                assert_eq!(conn.head().status(), Some(103));
                asked.get_mut(&stream).unwrap().got_hints = true;
            }
            Event::Head { stream, .. } => {
                let state = asked.get_mut(&stream).unwrap();
                assert!(state.got_hints);
                assert_eq!(conn.head().status(), Some(200));
                for (name, value) in &state.exchange.fields {
                    let found = conn
                        .head()
                        .fields()
                        .any(|f| f.name == name.as_bytes() && f.value == value.as_bytes());
                    assert!(found, "{name}: {value}");
                }
            }
            Event::Data { stream, data, end } => {
                asked
                    .get_mut(&stream)
                    .unwrap()
                    .received
                    .extend_from_slice(data);
                conn.consume(stream, data.len(), out);
                if end {
                    let state = asked.remove(&stream).unwrap();
                    assert!(state.received == state.to_send);
                    assert_eq!(state.exchange.ending, Ending::Plain);
                }
            }
            Event::Trailers { stream } => {
                let state = asked.remove(&stream).unwrap();
                assert!(state.received == state.to_send);
                assert_eq!(conn.head().get(b"grpc-status"), Some(b"0".as_slice()));
                assert_eq!(state.exchange.ending, Ending::Trailers);
            }
            Event::Writable { stream } => advance(conn, stream, asked, out),
            Event::Settings => {}
            Event::Reset { .. } | Event::Pong { .. } | Event::GoAway { .. } => panic!("{event:?}"),
        }
    }
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )])
}

fn content(at: usize, len: usize) -> Bytes {
    (at..at + len).map(|at| ((at * 31) >> 3) as u8).collect()
}

fn exchanges() -> impl Strategy<Value = Vec<Exchange>> {
    let value = prop_oneof!["[ -~]{0,60}", "[a-z]{2000,9000}", Just("again".to_owned())]
        .prop_map(|value| value.trim().to_owned());
    let field = ("x-[a-f]{1,3}", value);
    let chunk = prop_oneof![4 => 0usize..300, 1 => 10_000usize..80_000];
    let ending = prop_oneof![
        3 => Just(Ending::Plain),
        2 => Just(Ending::Trailers),
        1 => Just(Ending::Reset),
    ];
    let exchange = (
        prop::collection::vec(field, 0..6),
        prop::collection::vec(chunk, 0..6),
        ending,
    )
        .prop_map(|(fields, chunks, ending)| Exchange {
            fields,
            chunks,
            ending,
        });
    prop::collection::vec(exchange, 1..10)
}

fn terms() -> impl Strategy<Value = Terms> {
    let window = || prop_oneof![1000u32..5000, Just(65_535), 100_000u32..1_000_000];
    let connection = || prop_oneof![Just(65_535u32), 70_000u32..500_000];
    let table = || prop_oneof![Just(0u32), 50u32..300, Just(4096)];
    let frame = || prop_oneof![Just(16_384u32), 17_000u32..100_000];
    let piece = prop_oneof![1usize..30, 1000usize..65_000];
    (
        (window(), connection(), table(), frame()),
        (window(), connection(), table(), frame()),
        (table(), prop_oneof![Just(1000usize), Just(200_000)]),
        prop::collection::vec(piece, 1..8),
    )
        .prop_map(
            |(ours, theirs, (encoder_table_bytes, output_bytes), pieces)| Terms {
                ours: Config {
                    stream_window_bytes: ours.0,
                    connection_window_bytes: ours.1,
                    header_table_bytes: ours.2,
                    max_frame_bytes: ours.3,
                    send_frame_bytes: ours.3,
                    encoder_table_bytes,
                    output_bytes,
                    ..Config::default()
                },
                stream_window: theirs.0,
                connection_window: theirs.1,
                table: theirs.2,
                frame: theirs.3,
                pieces,
            },
        )
}
