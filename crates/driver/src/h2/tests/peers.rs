//! Ours against the h2 crate.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Request as HttpRequest, Response as HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::{Io, spawn};

/// An end in memory as the h2 crate wants it. What the crate drops before the other side has ended isn't a reset as long as
/// there is a clone.
#[derive(Clone)]
struct Foreign(Rc<RefCell<PairEnd>>);

impl Foreign {
    fn new(io: PairEnd) -> Self {
        Self(Rc::new(RefCell::new(io)))
    }
}

impl AsyncRead for Foreign {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut io = self.0.borrow_mut();
        let bytes = ready!(io.poll_fill(cx))?;
        let count = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..count]);
        io.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Foreign {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_put(buf, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_finish(cx)
    }
}

fn body(number: u32) -> Bytes {
    (0..40_000u32).map(|n| (n * number) as u8).collect()
}

#[test]
fn a_foreign_client_is_echoed_on_many_streams() {
    run(async {
        let (one, other) = pair(64 * 1024);
        let served = spawn("server", echo_all(server(other, Config::default())));
        let io = Foreign::new(one);
        let (sender, connection) = h2::client::handshake(io.clone()).await.unwrap();
        let connection = spawn("foreign", connection);
        let tasks = Tasks::new();
        for number in 0..150u32 {
            let sender = sender.clone();
            tasks.spawn("exchange", async move {
                let request = HttpRequest::builder()
                    .method(Method::CONNECT)
                    .uri("10.0.0.1:80")
                    .body(())
                    .unwrap();
                let mut sender = sender.ready().await.unwrap();
                let (response, mut send) = sender.send_request(request, false).unwrap();
                let mut received = response.await.unwrap().into_body();
                send.send_data(body(number), true).unwrap();
                let mut got = Vec::new();
                while let Some(chunk) = received.data().await {
                    let chunk = chunk.unwrap();
                    received
                        .flow_control()
                        .release_capacity(chunk.len())
                        .unwrap();
                    got.extend_from_slice(&chunk);
                }
                assert_eq!(got, body(number), "stream {number}");
            });
        }
        tasks.finished().await;
        drop(sender);
        connection.await.unwrap().unwrap();
        assert_eq!(served.await.unwrap(), ConnectionEnd::Eof);
    });
}

#[test]
fn a_foreign_server_that_leaves_serves_what_it_took_and_refuses_the_rest() {
    run(async {
        let (one, other) = pair(64 * 1024);
        let client = ClientConnection::new(one, Arc::new(Config::default()), OPTIONS);
        let io = Foreign::new(other);
        let foreign = spawn("foreign", async move {
            let mut connection = h2::server::handshake(io.clone()).await.unwrap();
            let mut taken = 0;
            let tasks = Tasks::new();
            while let Some(incoming) = connection.accept().await {
                let (request, mut respond) = incoming.unwrap();
                taken += 1;
                if taken == 5 {
                    connection.graceful_shutdown();
                }
                tasks.spawn("answer", async move {
                    let response = HttpResponse::new(());
                    let mut send = respond.send_response(response, false).unwrap();
                    let mut body = request.into_body();
                    while let Some(chunk) = body.data().await {
                        let chunk = chunk.unwrap();
                        body.flow_control().release_capacity(chunk.len()).unwrap();
                        send.send_data(chunk, false).unwrap();
                    }
                    send.send_data(Bytes::new(), true).unwrap();
                });
            }
            tasks.finished().await;
            drop(connection);
            let _ = std::future::poll_fn(|cx| io.0.borrow_mut().poll_fill(cx).map_ok(<[u8]>::len))
                .await;
            taken
        });
        let mut watch = client.watch();
        let mut served = 0;
        loop {
            let mut stream = match client.open(connect().wire_fields(), End::No) {
                Ok(stream) => stream,
                Err(end) => {
                    assert!(
                        matches!(end, OpenError::Leaving | OpenError::Over(_)),
                        "{end:?}"
                    );
                    break;
                }
            };
            stream.response().await.unwrap();
            put_all(&mut stream, b"ping").await.unwrap();
            finish(&mut stream).await.unwrap();
            assert_eq!(all(&mut stream).await, b"ping");
            served += 1;
        }
        assert!(served >= 5);
        std::future::poll_fn(|cx| watch.poll_over(cx)).await;
        assert_eq!(foreign.await.unwrap(), served);
    });
}
