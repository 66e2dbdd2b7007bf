//! hyper as the other end, on the same executor.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming as Body};
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;
use waymark_engine::http1::{After, BodyLength, Limits, ServerConfig};
use waymark_engine::{Field, Head};

use crate::http1::{ClientConnection, Incoming, Piece, ServerConnection};
use crate::io::{PairEnd, pair};
use crate::{Executor, Io, spawn};

/// A pair's end as hyper wants it.
struct ForHyper(PairEnd);

impl hyper::rt::Read for ForHyper {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let io = &mut self.get_mut().0;
        let held = ready!(io.poll_fill(cx))?;
        let taken = held.len().min(buf.remaining());
        buf.put_slice(&held[..taken]);
        io.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for ForHyper {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().0.poll_put(buf, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().0.poll_finish(cx)
    }
}

type Boxed = BoxBody<Bytes, Infallible>;

/// A body with a known length, or one in pieces of 1000 bytes.
fn body(len: usize, chunked: bool) -> Boxed {
    let bytes = Bytes::from(vec![b'x'; len]);
    if !chunked {
        return Full::new(bytes).boxed();
    }
    let pieces: Vec<_> = bytes
        .chunks(1000)
        .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
        .collect();
    BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))
}

const SIZES: [usize; 5] = [0, 1, 999, 5000, 100_000];

#[test]
fn a_client_of_hypers_is_served() {
    for capacity in [64, 10_000] {
        Executor::new().unwrap().block_on(async {
            let (client, server) = pair(capacity);
            let server = ServerConnection::new(server, Arc::new(ServerConfig::default()));
            let served = spawn("server", mirror(server));
            let (mut sender, connection) = hyper::client::conn::http1::handshake(ForHyper(client))
                .await
                .unwrap();
            let connection = spawn("hyper", connection);
            for (size, chunked) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
                sender.ready().await.unwrap();
                let request = Request::post("/x")
                    .header("host", "h")
                    .body(body(size, chunked));
                let response = sender.send_request(request.unwrap()).await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, vec![b'x'; size], "chunked: {chunked}");
            }
            drop(sender);
            connection.await.unwrap().unwrap();
            assert_eq!(served.await.unwrap(), 2 * SIZES.len());
        });
    }
}

/// Gives every body back while it comes, framed as it came.
async fn mirror(mut server: ServerConnection<PairEnd>) -> usize {
    let mut served = 0;
    // Until hyper lets go of the connection.
    while let Ok(Incoming::Request) = poll_fn(|cx| server.poll_request(cx)).await {
        let length = server.request().body;
        server.respond(&Head::response(200), length).unwrap();
        loop {
            let piece = poll_fn(|cx| {
                server.poll_body(cx).map_ok(|piece| match piece {
                    Piece::Data(data) => Some(data.to_vec()),
                    Piece::Trailers => Some(Vec::new()),
                    Piece::End => None,
                })
            });
            let Some(piece) = piece.await.unwrap() else {
                break;
            };
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let put = poll_fn(|cx| server.poll_write(rest, cx)).await.unwrap();
                rest = &rest[put..];
            }
            server.consume(piece.len());
        }
        assert_eq!(server.finish(None).unwrap(), After::KeepAlive);
        served += 1;
    }
    served
}

#[test]
fn a_server_of_hypers_is_asked() {
    for capacity in [64, 10_000] {
        Executor::new().unwrap().block_on(async {
            let (client, server) = pair(capacity);
            let service = service_fn(|request: Request<Body>| async {
                let chunked = request.headers().contains_key("transfer-encoding");
                let got = request.into_body().collect().await.unwrap().to_bytes();
                Ok::<_, Infallible>(Response::new(body(got.len(), chunked)))
            });
            let hyper = hyper::server::conn::http1::Builder::new()
                .serve_connection(ForHyper(server), service);
            let hyper = spawn("hyper", hyper);
            let mut client = ClientConnection::new(client, Limits::UPSTREAM);
            for (size, chunked) in SIZES.into_iter().flat_map(|s| [(s, false), (s, true)]) {
                let length = if chunked {
                    BodyLength::Chunked
                } else {
                    BodyLength::Length(size as u64)
                };
                assert_eq!(
                    exchange(&mut client, length, size).await,
                    size,
                    "{length:?}"
                );
                assert!(client.is_reusable());
            }
            drop(client);
            hyper.await.unwrap().unwrap_err(); // it was cut off while it waited
        });
    }
}

/// Sends a request while its response is read; gives how long the response's body was.
async fn exchange(
    client: &mut ClientConnection<PairEnd>,
    length: BodyLength,
    size: usize,
) -> usize {
    let mut head = Head::request(b"POST");
    head.set_path(b"/x");
    head.set_authority(b"h");
    head.push(Field::new(b"accept", b"*/*"));
    client.send(&head, length).unwrap();
    let body = vec![b'x'; size];
    let mut rest = &body[..];
    while !rest.is_empty() {
        let put = poll_fn(|cx| client.poll_write(rest, cx)).await.unwrap();
        rest = &rest[put..];
    }
    client.finish(None).unwrap();
    poll_fn(|cx| client.poll_drain(cx)).await.unwrap();
    poll_fn(|cx| client.poll_response(cx)).await.unwrap();
    let mut got = 0;
    loop {
        let piece = poll_fn(|cx| {
            client.poll_body(cx).map_ok(|piece| match piece {
                Piece::Data(data) => data.len(),
                Piece::Trailers | Piece::End => 0,
            })
        });
        match piece.await.unwrap() {
            0 => return got,
            taken => {
                client.consume(taken);
                got += taken;
            }
        }
    }
}
