//! A client's HTTP/2 connection: each stream is served by a task of its own.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use waymark_driver::{Level, Sleep, h2, now, sleep_until};
use waymark_engine::h2::{Config, Limits};
use waymark_hbone::Tunnel;

use super::client::{After, Client, Http2Stream};
use super::exchange::{Exchange, http_of};
use super::request::handle;
use super::{HttpConnection, Served};
use crate::program::{HttpChain, HttpTimeouts};
use crate::signal::Listening;

/// The largest DATA frames that a client may send; larger ones cost fewer copies.
const MAX_FRAME_BYTES: u32 = 64 * 1024;

/// Serves streams until either side ends the connection.
pub(super) async fn serve(connection: &Rc<HttpConnection>, tunnel: Tunnel) {
    let chain = connection.chain.borrow().clone();
    let http = http_of(&chain);
    let options = h2::Options {
        writer: Level::InnerWriter,
        keep_alive: http.http2.keep_alive.as_ref().and_then(|keep_alive| {
            Some(h2::KeepAlive {
                interval: keep_alive.interval?,
                timeout: keep_alive.timeout,
            })
        }),
    };
    let mut server = h2::ServerConnection::new(tunnel, Arc::new(config(http)), options);
    let streams = Rc::new(Streams::default());
    let mut due = Due::new(http.timeouts, connection, &streams);
    let mut leaving = false;
    loop {
        let next = poll_fn(|cx| match server.poll_accept(cx) {
            Poll::Ready(request) => Poll::Ready(Some(request)),
            Poll::Pending if leaving => Poll::Pending,
            Poll::Pending => due.poll(cx).map(|()| None),
        })
        .await;
        match next {
            Some(Ok(request)) => {
                let (connection, open) = (Rc::clone(connection), Open::begin(&streams));
                let worker = Rc::clone(&connection.worker);
                worker.spawn("http2 stream", async move {
                    // In a box: what is spawned is moved a few times.
                    Box::pin(serve_stream(&connection, request)).await;
                    drop(open);
                });
            }
            Some(Err(end)) => {
                tracing::debug!(src.addr = %connection.downstream.remote, %end, "client connection ended");
                return;
            }
            None => {
                leaving = true;
                server.shut_down();
            }
        }
    }
}

async fn serve_stream(connection: &Rc<HttpConnection>, request: h2::Request) {
    let chain = connection.chain.borrow().clone();
    let mut exchange = Exchange::new(connection, chain);
    let mut client = Client::Http2(Http2Stream::new(request));
    match handle(connection, &mut exchange, &mut client, None).await {
        Served::Answered(After::Abort) => client.abort(),
        Served::Answered(After::Next | After::Close) | Served::Switched(_) => {}
    }
}

fn config(chain: &HttpChain) -> Config {
    let settings = &chain.http2;
    let ours = Config::default();
    Config {
        // What is configured bounds what a stream may hold; most never need as much, see docs/decisions/0007.
        stream_window_bytes: settings
            .initial_stream_window_bytes
            .min(ours.stream_window_bytes),
        stream_window_max_bytes: settings
            .initial_stream_window_bytes
            .min(ours.stream_window_max_bytes),
        connection_window_bytes: settings.initial_connection_window_bytes,
        max_concurrent_streams: settings.max_concurrent_streams,
        max_frame_bytes: MAX_FRAME_BYTES,
        limits: Limits {
            header_list_bytes: chain.max_request_headers_bytes,
            header_fields: chain.max_headers,
            ..Limits::default()
        },
        ..ours
    }
}

/// The streams that are open.
#[derive(Debug)]
struct Streams {
    open: Cell<usize>,
    idle_since: Cell<Instant>,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            open: Cell::new(0),
            idle_since: Cell::new(now()),
        }
    }
}

/// Counts a stream for as long as it is open.
struct Open(Rc<Streams>);

impl Open {
    fn begin(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.idle_since.set(now());
    }
}

/// When the client is to be told to go away: a GOAWAY costs no request.
struct Due {
    limits: HttpTimeouts,
    began: Instant,
    streams: Rc<Streams>,
    drain: Listening,
    closing: Listening,
    sleep: Option<Sleep>,
}

impl Due {
    fn new(limits: HttpTimeouts, connection: &HttpConnection, streams: &Rc<Streams>) -> Self {
        Self {
            limits,
            began: now(),
            streams: Rc::clone(streams),
            drain: connection.worker.draining.listen(),
            closing: connection.closing.listen(),
            sleep: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.drain.poll(cx).is_ready() || self.closing.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let max = self.limits.max_connection.map(|limit| self.began + limit);
        let idle_since = match self.streams.open.get() {
            0 => self.streams.idle_since.get(),
            _ => now(), // looked at again when it might be due
        };
        let idle = self.limits.idle.map(|limit| idle_since + limit);
        let Some(at) = [max, idle].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if at <= now() {
            return Poll::Ready(());
        }
        let sleep = self.sleep.get_or_insert_with(|| sleep_until(at));
        if sleep.deadline() > at || sleep.deadline() <= now() {
            sleep.reset(at);
        }
        Pin::new(sleep).poll(cx)
    }
}
