//! The accepting side: TLS, HTTP/2 and the CONNECT requests of one connection after another.

mod incoming;
mod stats;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use http::StatusCode;
use tokio_util::sync::WaitForCancellationFutureOwned;
use waymark_driver::h2::{self, ConnectionEnd};
use waymark_driver::tls::{self, TlsError};
use waymark_driver::{Sleep, TcpStream, now, sleep, timeout};
use waymark_engine::h2::{Config, ErrorCode};
use waymark_identity::SpiffeId;
use waymark_identity::roots::PeerNames;

use crate::drain::Drain;
use crate::peer;
use crate::settings::ServerSettings;

pub use incoming::Incoming;
use stats::Active;
pub use stats::ServerStats;

/// Where a server gets the TLS configuration of a connection: the certificate depends on whose address was dialled, and
/// rotates.
pub trait ServerTls: Send + Sync + 'static {
    /// The configuration for a connection to `local`; called once a connection. It allows that secrets are extracted, and
    /// nothing older than TLS 1.3.
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

/// Turns accepted TCP connections into HBONE connections.
///
/// Cheap to clone; clones share limits and counters, on whatever threads they are.
#[derive(Clone)]
pub struct Acceptor {
    inner: Arc<AcceptorInner>,
}

struct AcceptorInner {
    tls: Box<dyn ServerTls>,
    settings: ServerSettings,
    config: Arc<Config>,
    stats: ServerStats,
}

/// Why a connection did not become an HBONE connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There are `max_connections` already.
    #[error("too many connections")]
    TooManyConnections,
    /// No handshake within the time.
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
    Http2(#[source] ConnectionEnd),
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
                config: settings.config(),
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

    /// Completes TLS and HTTP/2 on `tcp`.
    ///
    /// # Errors
    /// When the peer is not one of the mesh, speaks something else, or is too slow.
    ///
    /// # Panics
    /// Outside an executor.
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
        let handshake = Box::pin(timeout(
            inner.settings.handshake_timeout,
            self.handshake(tcp),
        ));
        // A drain that has only begun lets it come up: what waits behind it is served, and then told to go away.
        let killed = drain.killed();
        let result = match select(Box::pin(killed.cancelled()), handshake).await {
            Either::Left(((), _)) => Err(AcceptError::Timeout),
            Either::Right((result, _)) => result.unwrap_or(Err(AcceptError::Timeout)),
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

    async fn handshake(
        &self,
        tcp: TcpStream,
    ) -> Result<(h2::ServerConnection, ConnectionInfo), AcceptError> {
        let inner = &self.inner;
        let peer_addr = canonical(tcp.peer_addr());
        let local_addr = canonical(tcp.local_addr().map_err(AcceptError::Socket)?);
        let config = inner.tls.server_config(local_addr).await?;
        let (socket, shown) = tls::accept(tcp, config, inner.settings.handshake_timeout)
            .await
            .map_err(|e| match e {
                TlsError::Timeout => AcceptError::Timeout,
                e => AcceptError::Tls(peer::tls_cause(e)),
            })?;
        let names = peer::names(&shown.certificates);
        if let Some(names) = &names
            && !inner.tls.admits(names)
        {
            return Err(AcceptError::Peer(
                names.uris().collect::<Vec<_>>().join(", "),
            ));
        }
        let peer = names.and_then(|names| names.identities().first().cloned());
        let options = inner.settings.http2.options();
        let mut h2 = h2::ServerConnection::new(socket, Arc::clone(&inner.config), options);
        h2.ready().await.map_err(AcceptError::Http2)?;
        let info = ConnectionInfo {
            peer_addr,
            local_addr,
            peer,
        };
        Ok((h2, info))
    }
}

/// An HBONE connection: a sequence of CONNECT requests.
///
/// Its tunnels move whether the next request is asked for or not. Dropping it closes the connection, whatever is open.
pub struct ServerConnection {
    h2: h2::ServerConnection,
    info: Arc<ConnectionInfo>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
    idle: Option<Idle>,
    state: State,
    active: Active,
}

/// Looks now and then whether a connection still has streams.
struct Idle {
    timer: Sleep,
    limit: Duration,
    /// There was a stream since the timer was set.
    used: bool,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self {
            timer: sleep(limit),
            limit,
            used: true,
        }
    }

    /// Ready when there was no stream for the whole time.
    fn poll(&mut self, cx: &mut Context<'_>, has_streams: bool) -> Poll<()> {
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            if !has_streams && !self.used {
                return Poll::Ready(());
            }
            self.used = has_streams;
            self.timer.reset(now() + self.limit);
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
    fn new(h2: h2::ServerConnection, info: ConnectionInfo, active: Active, drain: &Drain) -> Self {
        let idle = active.acceptor.settings.idle_timeout.map(Idle::new);
        Self {
            h2,
            info: Arc::new(info),
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

    /// Waits for the next CONNECT; `None` when the connection is over.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        if self.state != State::Closing && self.kill.as_mut().poll(cx).is_ready() {
            self.state = State::Closing;
            self.h2.close(ErrorCode::NO_ERROR);
        }
        if self.state == State::Open && self.drain.as_mut().poll(cx).is_ready() {
            self.state = State::Draining;
            self.h2.shut_down();
        }
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Ok(request)) => {
                    if let Some(idle) = &mut self.idle {
                        idle.used = true;
                    }
                    if let Some(incoming) = self.admit(request) {
                        return Poll::Ready(Some(incoming));
                    }
                }
                Poll::Ready(Err(end)) => {
                    self.note_end(end);
                    return Poll::Ready(None);
                }
                Poll::Pending => break,
            }
        }
        let has_streams = self.h2.active_streams() > 0;
        if self.state == State::Open
            && let Some(idle) = &mut self.idle
            && idle.poll(cx, has_streams).is_ready()
        {
            self.state = State::Draining;
            self.h2.shut_down();
        }
        Poll::Pending
    }

    fn admit(&self, mut request: h2::Request) -> Option<Incoming> {
        let authority = (request.head.method() == Some(b"CONNECT"))
            .then(|| std::str::from_utf8(request.head.authority()?).ok())
            .flatten()
            .and_then(|authority| authority.parse().ok());
        let Some(authority) = authority else {
            self.stats().bad_requests.fetch_add(1, Ordering::Relaxed);
            incoming::send_status(&mut request.stream, StatusCode::BAD_REQUEST);
            return None;
        };
        self.stats().streams.fetch_add(1, Ordering::Relaxed);
        Some(Incoming::new(
            authority,
            request.head,
            Arc::clone(&self.info),
            request.stream,
        ))
    }

    fn note_end(&self, end: ConnectionEnd) {
        tracing::debug!(peer = %self.info.peer_addr, error = %end, "connection ended");
        let counter = match end {
            ConnectionEnd::Protocol(_) => &self.stats().protocol_errors,
            ConnectionEnd::Dead => &self.stats().dead_peers,
            ConnectionEnd::Eof
            | ConnectionEnd::Broken(_)
            | ConnectionEnd::Finished
            | ConnectionEnd::Closed => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn stats(&self) -> &ServerStats {
        &self.active.acceptor.stats
    }
}

impl Drop for ServerConnection {
    fn drop(&mut self) {
        self.stats().add_refusals(&self.h2.refusals());
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
