//! HTTP inside a tunnel: what Envoy's connection manager does, on one connection of a client.

pub(crate) mod body;
mod exchange;
mod failure;
mod filters;
mod forward;
mod grpc_timeout;
mod headers;
mod in_flight;
mod local_reply;
mod path;
mod request;
mod timers;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;
use waymark_hbone::Tunnel;

use crate::downstream::Downstream;
use crate::local::LocalExecutor;
use crate::program::{Chain, ChainId, HttpChain, Snapshot};
use crate::worker::Worker;

/// Frames that a client may send; larger ones cost fewer copies.
const MAX_FRAME_BYTES: u32 = 64 * 1024;
/// The most that HTTP/1 buffers of a request's head or body.
const MIN_BUFFER_BYTES: usize = 16 * 1024;

/// How long an idle HTTP/1 connection is left open when the drain has begun.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// The version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One client connection.
pub(crate) struct HttpConnection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) downstream: Downstream,
    id: ChainId,
    /// The chain as the last request saw it: it serves on when the configuration has it no more, and then ends.
    chain: RefCell<Arc<Chain>>,
    requests: Cell<u32>,
    active: Cell<usize>,
    idle_since: Cell<Instant>,
    closing: Cell<bool>,
    close: Notify,
    /// The client has ended the connection: what it has left open then it did not reset.
    gone: Arc<AtomicBool>,
}

impl HttpConnection {
    /// The chain and the snapshot for one request.
    fn chain(&self) -> (Arc<Chain>, Arc<Snapshot>) {
        let snapshot = self.worker.snapshot();
        match snapshot.chain(self.id) {
            Some(arc) if matches!(**arc, Chain::Http(_)) => {
                let mut mine = self.chain.borrow_mut();
                if !Arc::ptr_eq(&mine, arc) {
                    *mine = Arc::clone(arc);
                }
            }
            Some(_) | None => self.close_after_response(),
        }
        if self.worker.shared().drain.is_started() {
            self.close_after_response();
        }
        self.requests.set(self.requests.get().saturating_add(1));
        let most = exchange::http_of(&self.chain.borrow()).max_requests_per_connection;
        if most.is_some_and(|most| self.requests.get() >= most) {
            self.close_after_response();
        }
        (Arc::clone(&self.chain.borrow()), snapshot)
    }

    /// Whether the client should send no further request on it.
    fn is_ending(&self) -> bool {
        self.closing.get() || self.worker.shared().drain.is_started()
    }

    /// Ends the connection once what is open on it is answered.
    pub(crate) fn close_after_response(&self) {
        if !self.closing.replace(true) {
            self.close.notify_one();
        }
    }

    /// Resolves when the connection should end although the client has not ended it.
    async fn due(&self, wire: Wire, idle: Option<Duration>, max: Option<Duration>) {
        let drain = self.worker.shared().drain.clone();
        let drained = async {
            drain.cancelled().await;
            match wire {
                // A GOAWAY costs no request.
                Wire::Http2 => {}
                // An HTTP/1 client learns it from its next response; one that sends none is not cut off right when it
                // might be about to.
                Wire::Http1 => self.idle_for(DRAIN_PATIENCE).await,
            }
        };
        let idle = async {
            match idle {
                Some(idle) => self.idle_for(idle).await,
                None => std::future::pending().await,
            }
        };
        let max = async {
            match max {
                Some(max) => sleep(max).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.close.notified() => {}
            () = drained => {}
            () = idle => {}
            () = max => {}
        }
    }
}

impl HttpConnection {
    /// Resolves when there was no request for so long.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let busy = self.active.get() > 0;
            let since = if busy {
                Instant::now()
            } else {
                self.idle_since.get()
            };
            let due = since + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// Serves a client's connection until either side ends it. `chain` is an HTTP chain.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    tunnel: Tunnel,
    downstream: Downstream,
    id: ChainId,
    chain: Arc<Chain>,
    wire: Wire,
) {
    let connection = Rc::new(HttpConnection {
        worker,
        downstream,
        id,
        chain: RefCell::new(Arc::clone(&chain)),
        requests: Cell::new(0),
        active: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        closing: Cell::new(false),
        close: Notify::new(),
        gone: Arc::default(),
    });
    let http = exchange::http_of(&chain);
    let of_service = Rc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Rc::clone(&of_service);
        let guard = ActiveRequest::begin(&connection);
        async move {
            let response = request::handle(connection, request).await;
            drop(guard);
            Ok::<_, Infallible>(response)
        }
    });
    let due = connection.due(wire, http.timeouts.idle, http.timeouts.max_connection);
    let io = TokioIo::new(ClientStream {
        tunnel,
        gone: Arc::clone(&connection.gone),
    });
    let ended = match wire {
        Wire::Http1 => {
            let server = http1_builder(http)
                .serve_connection(io, service)
                .with_upgrades();
            drive(server, due, http1::UpgradeableConnection::graceful_shutdown).await
        }
        Wire::Http2 => {
            let executor = LocalExecutor(connection.worker.means.spawner.clone());
            let server = http2_builder(http, executor).serve_connection(io, service);
            drive(server, due, http2::Connection::graceful_shutdown).await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(src.addr = %connection.downstream.remote, error = %e, "client connection ended");
    }
}

/// Polls a connection to its end; when it is due, asks it to end once.
async fn drive<C>(
    server: C,
    due: impl Future<Output = ()>,
    graceful: impl Fn(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut server = pin!(server);
    let mut due = pin!(due);
    let mut asked = false;
    std::future::poll_fn(|cx: &mut Context<'_>| {
        if !asked && due.as_mut().poll(cx).is_ready() {
            asked = true;
            graceful(server.as_mut());
        }
        match server.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending if !asked && due.as_mut().poll(cx).is_ready() => {
                // Decided while a request was served: the response goes out with `connection: close`.
                asked = true;
                graceful(server.as_mut());
                server.as_mut().poll(cx)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn http1_builder(chain: &HttpChain) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .max_headers(chain.max_headers as usize)
        .max_buf_size((chain.max_request_headers_bytes as usize).max(MIN_BUFFER_BYTES))
        .header_read_timeout(chain.timeouts.request_headers)
        .auto_date_header(false)
        .pipeline_flush(true);
    builder
}

fn http2_builder(chain: &HttpChain, executor: LocalExecutor) -> http2::Builder<LocalExecutor> {
    let settings = &chain.http2;
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        .initial_stream_window_size(settings.initial_stream_window_bytes)
        .initial_connection_window_size(settings.initial_connection_window_bytes)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(chain.max_request_headers_bytes)
        .auto_date_header(false);
    if let Some(keep_alive) = &settings.keep_alive
        && let Some(interval) = keep_alive.interval
    {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(keep_alive.timeout);
    }
    builder
}

/// A client's tunnel that ends when it is dropped, as a socket does: what was answered still gets there, where a reset
/// might overtake it.
struct ClientStream {
    tunnel: Tunnel,
    gone: Arc<AtomicBool>,
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        self.tunnel.finish();
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = std::task::ready!(Pin::new(&mut this.tunnel).poll_read(cx, buf));
        if read.is_err() || (buf.filled().len() == before && buf.remaining() > 0) {
            this.gone.store(true, Ordering::Relaxed);
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tunnel).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tunnel).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tunnel).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tunnel).poll_shutdown(cx)
    }
}

/// A request that is being served, for the idle timer.
struct ActiveRequest(Rc<HttpConnection>);

impl ActiveRequest {
    fn begin(connection: &Rc<HttpConnection>) -> Self {
        connection.active.set(connection.active.get() + 1);
        Self(Rc::clone(connection))
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}
