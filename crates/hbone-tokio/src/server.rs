//! The accepting side: TLS, HTTP/2 and the CONNECT requests of one connection after another.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use waymark_identity::SpiffeId;
use waymark_identity::roots::PeerNames;

use crate::drain::Drain;
use crate::keepalive::Keepalive;
use crate::peer;
use crate::settings::ServerSettings;
use crate::{Authority, Tunnel};

/// Where a server gets the TLS configuration of a connection: the certificate depends on whose address was dialled, and
/// rotates.
pub trait ServerTls: Send + Sync + 'static {
    /// The configuration for a connection to `local`; called once a connection.
    fn server_config(
        &self,
        local: SocketAddr,
    ) -> BoxFuture<'_, Result<Arc<rustls::ServerConfig>, TlsUnavailable>>;

    /// Whether a client with these names is served, once its certificate is verified. Everybody, if not said otherwise.
    fn admits(&self, _peer: &PeerNames) -> bool {
        true
    }
}

/// There is no certificate to serve or dial with.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no certificate: {0}")]
pub struct TlsUnavailable(pub Arc<str>);

/// Shared by several acceptors.
impl<T: ServerTls + ?Sized> ServerTls for Arc<T> {
    fn server_config(
        &self,
        local: SocketAddr,
    ) -> BoxFuture<'_, Result<Arc<rustls::ServerConfig>, TlsUnavailable>> {
        (**self).server_config(local)
    }

    fn admits(&self, peer: &PeerNames) -> bool {
        (**self).admits(peer)
    }
}

/// One configuration for every address.
impl ServerTls for Arc<rustls::ServerConfig> {
    fn server_config(&self, _: SocketAddr) -> BoxFuture<'_, Result<Self, TlsUnavailable>> {
        let config = Self::clone(self);
        Box::pin(async move { Ok(config) })
    }
}

/// What a server counted; all relaxed.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Connections that were given to [`Acceptor::accept`].
    pub connections: AtomicU64,
    /// Connections open now, the ones in a handshake included.
    pub connections_active: AtomicUsize,
    /// Connections closed at once because there were `max_connections`.
    pub connections_refused: AtomicU64,
    /// Failed or timed out handshakes.
    pub handshake_failures: AtomicU64,
    /// CONNECT requests handed out.
    pub streams: AtomicU64,
    /// Requests answered 400: not a CONNECT, or an authority that is none.
    pub bad_requests: AtomicU64,
    /// Connections ended by a protocol error or an exceeded limit of the peer's.
    pub protocol_errors: AtomicU64,
    /// Connections ended because a PING was not answered.
    pub dead_peers: AtomicU64,
}

/// Turns accepted TCP connections into HBONE connections.
///
/// Cheap to clone; clones share limits and counters.
#[derive(Clone)]
pub struct Acceptor {
    inner: Arc<AcceptorInner>,
}

struct AcceptorInner {
    tls: Box<dyn ServerTls>,
    settings: ServerSettings,
    builder: h2::server::Builder,
    handshakes: Semaphore,
    stats: ServerStats,
}

/// Why a connection did not become an HBONE connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There are `max_connections` already.
    #[error("too many connections")]
    TooManyConnections,
    /// No handshake within the time, waiting for a turn included.
    #[error("handshake took too long")]
    Timeout,
    /// There is no certificate to serve.
    #[error(transparent)]
    Certificate(#[from] TlsUnavailable),
    /// The TLS handshake failed: no or a foreign client certificate, a wrong version or ALPN, or no TLS at all.
    #[error("TLS handshake")]
    Tls(#[source] io::Error),
    /// The client's certificate is verified, but it is not one that is served. The text lists its URIs.
    #[error("client {0} is not admitted")]
    Peer(String),
    /// What came over TLS was not HTTP/2.
    #[error("HTTP/2 handshake")]
    Http2(#[source] h2::Error),
    /// The socket was gone.
    #[error("accepted socket")]
    Socket(#[source] io::Error),
}

/// The two ends of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// The peer's socket address.
    pub peer_addr: SocketAddr,
    /// The address that was dialled.
    pub local_addr: SocketAddr,
    /// Whom the peer's certificate names.
    pub peer: Option<SpiffeId>,
}

impl Acceptor {
    /// Makes an acceptor.
    #[must_use]
    pub fn new(tls: impl ServerTls, settings: ServerSettings) -> Self {
        Self {
            inner: Arc::new(AcceptorInner {
                tls: Box::new(tls),
                builder: settings.builder(),
                handshakes: Semaphore::new(settings.max_handshakes),
                settings,
                stats: ServerStats::default(),
            }),
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &ServerStats {
        &self.inner.stats
    }

    /// Completes TLS and HTTP/2 on `tcp`, on which it sets TCP_NODELAY.
    ///
    /// # Errors
    /// When the peer is not one of the mesh, speaks something else, or is too slow.
    pub async fn accept(
        &self,
        tcp: TcpStream,
        drain: &Drain,
    ) -> Result<ServerConnection, AcceptError> {
        let inner = &self.inner;
        inner.stats.connections.fetch_add(1, Ordering::Relaxed);
        let active = Active::new(Arc::clone(inner));
        if active.count > inner.settings.max_connections {
            inner
                .stats
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            return Err(AcceptError::TooManyConnections);
        }
        let deadline = Instant::now() + inner.settings.handshake_timeout;
        let killed = drain.killed();
        let handshake = Box::pin(self.handshake(tcp));
        let result = tokio::select! {
            biased;
            // A drain that has only begun lets it come up: what waits behind it is served, and then told to go away.
            () = killed.cancelled() => Err(AcceptError::Timeout),
            result = timeout_at(deadline, handshake) => result.unwrap_or(Err(AcceptError::Timeout)),
        };
        match result {
            Ok((h2, info)) => Ok(ServerConnection::new(h2, info, active, drain)),
            Err(e) => {
                inner
                    .stats
                    .handshake_failures
                    .fetch_add(1, Ordering::Relaxed);
                Err(e)
            }
        }
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<(Http2, ConnectionInfo), AcceptError> {
        let inner = &self.inner;
        tcp.set_nodelay(true).map_err(AcceptError::Socket)?;
        let peer_addr = canonical(tcp.peer_addr().map_err(AcceptError::Socket)?);
        let local_addr = canonical(tcp.local_addr().map_err(AcceptError::Socket)?);
        let config = inner.tls.server_config(local_addr).await?;
        let tls = {
            // The permit is for the cryptography; a peer that sends nothing must not keep others waiting.
            let accepted =
                tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp)
                    .await
                    .map_err(AcceptError::Tls)?;
            let permit = inner.handshakes.acquire().await;
            let tls = accepted
                .into_stream(config)
                .await
                .map_err(AcceptError::Tls)?;
            drop(permit);
            tls
        };
        let names = peer::names(tls.get_ref().1.peer_certificates());
        if let Some(names) = &names
            && !inner.tls.admits(names)
        {
            return Err(AcceptError::Peer(
                names.uris().collect::<Vec<_>>().join(", "),
            ));
        }
        let peer = names.and_then(|names| names.identities().first().cloned());
        let h2 = inner
            .builder
            .handshake(tls)
            .await
            .map_err(AcceptError::Http2)?;
        Ok((
            h2,
            ConnectionInfo {
                peer_addr,
                local_addr,
                peer,
            },
        ))
    }
}

type Http2 = h2::server::Connection<TlsStream<TcpStream>, Bytes>;

/// An HBONE connection: a sequence of CONNECT requests.
///
/// All of its streams move only while [`ServerConnection::next`] is polled, so one task has to do nothing but that.
pub struct ServerConnection {
    h2: Http2,
    info: Arc<ConnectionInfo>,
    keepalive: Option<Keepalive>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Option<Idle>,
    state: State,
    active: Active,
}

/// Looks now and then whether a connection still has streams.
struct Idle {
    timer: Pin<Box<Sleep>>,
    limit: Duration,
    /// There was a stream since the timer was set.
    used: bool,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self {
            timer: Box::pin(sleep(limit)),
            limit,
            used: true,
        }
    }

    /// Ready when there was no stream for the whole time.
    fn poll(&mut self, cx: &mut Context<'_>, has_streams: bool) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            if !has_streams && !self.used {
                return Poll::Ready(());
            }
            self.used = has_streams;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        Poll::Pending
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// GOAWAY was sent; open streams go on.
    Draining,
    /// The connection says a last GOAWAY and closes, whatever is open.
    Closing,
}

impl ServerConnection {
    fn new(mut h2: Http2, info: ConnectionInfo, active: Active, drain: &Drain) -> Self {
        let http2 = &active.acceptor.settings.http2;
        let idle = active.acceptor.settings.idle_timeout.map(Idle::new);
        let keepalive = h2
            .ping_pong()
            .map(|ping| Keepalive::new(ping, http2.ping_interval, http2.ping_timeout));
        Self {
            h2,
            info: Arc::new(info),
            keepalive,
            drain: Box::pin(drain.started().cancelled_owned()),
            kill: Box::pin(drain.killed().cancelled_owned()),
            idle,
            state: State::Open,
            active,
        }
    }

    /// The two ends of the connection.
    #[must_use]
    pub fn info(&self) -> &Arc<ConnectionInfo> {
        &self.info
    }

    /// Drives the connection until the next CONNECT; `None` when the connection is over.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        if self.state != State::Closing && self.kill.as_mut().poll(cx).is_ready() {
            self.close(Reason::NO_ERROR);
        }
        if self.state == State::Open && self.drain.as_mut().poll(cx).is_ready() {
            self.state = State::Draining;
            self.h2.graceful_shutdown();
        }
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if let Some(idle) = &mut self.idle {
                        idle.used = true;
                    }
                    if let Some(incoming) = self.admit(request, respond) {
                        return Poll::Ready(Some(incoming));
                    }
                }
                Poll::Ready(Some(Err(e))) => {
                    if e.get_io().is_none() && self.state != State::Closing {
                        self.stats().protocol_errors.fetch_add(1, Ordering::Relaxed);
                    }
                    tracing::debug!(peer = %self.info.peer_addr, error = %e, "connection ended");
                    return Poll::Ready(None);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    if self.state != State::Closing
                        && let Some(keepalive) = &mut self.keepalive
                        && keepalive.poll(cx).is_ready()
                    {
                        self.stats().dead_peers.fetch_add(1, Ordering::Relaxed);
                        self.close(Reason::NO_ERROR);
                        continue;
                    }
                    let has_streams = self.h2.has_streams();
                    if self.state == State::Open
                        && let Some(idle) = &mut self.idle
                        && idle.poll(cx, has_streams).is_ready()
                    {
                        self.state = State::Draining;
                        self.h2.graceful_shutdown();
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn close(&mut self, reason: Reason) {
        self.state = State::Closing;
        self.h2.abrupt_shutdown(reason);
    }

    fn admit(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Option<Incoming> {
        let (head, recv) = request.into_parts();
        let authority = (head.method == Method::CONNECT)
            .then_some(head.uri.authority())
            .flatten()
            .and_then(|a| a.as_str().parse::<Authority>().ok());
        let Some(authority) = authority else {
            self.stats().bad_requests.fetch_add(1, Ordering::Relaxed);
            send_status(&mut respond, StatusCode::BAD_REQUEST);
            return None;
        };
        self.stats().streams.fetch_add(1, Ordering::Relaxed);
        Some(Incoming {
            authority,
            headers: head.headers,
            connection: Arc::clone(&self.info),
            recv,
            respond,
        })
    }

    fn stats(&self) -> &ServerStats {
        &self.active.acceptor.stats
    }
}

/// A CONNECT that waits for an answer. Dropping it resets the stream.
pub struct Incoming {
    /// Where it wants to go.
    pub authority: Authority,
    /// The request's headers, without pseudo-headers.
    pub headers: HeaderMap,
    /// The connection that it came over.
    pub connection: Arc<ConnectionInfo>,
    recv: RecvStream,
    respond: SendResponse<Bytes>,
}

impl Incoming {
    /// Answers 200 with `headers` and opens the tunnel.
    ///
    /// # Errors
    /// When the peer has gone meanwhile.
    pub fn accept(mut self, headers: HeaderMap) -> io::Result<Tunnel> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self
            .respond
            .send_response(response, false)
            .map_err(io::Error::other)?;
        Ok(Tunnel::new(send, self.recv, None))
    }

    /// Answers `status` without a body.
    pub fn refuse(mut self, status: StatusCode) {
        send_status(&mut self.respond, status);
    }

    /// Waits until the peer gives up.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn cancelled(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("authority", &self.authority)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

fn send_status(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // An error says that the stream was reset meanwhile: nobody is left to be told.
    let _ = respond.send_response(response, true);
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Counts a connection for as long as it lives.
struct Active {
    acceptor: Arc<AcceptorInner>,
    count: usize,
}

impl Active {
    fn new(acceptor: Arc<AcceptorInner>) -> Self {
        let count = acceptor
            .stats
            .connections_active
            .fetch_add(1, Ordering::Relaxed)
            + 1;
        Self { acceptor, count }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.acceptor
            .stats
            .connections_active
            .fetch_sub(1, Ordering::Relaxed);
    }
}
