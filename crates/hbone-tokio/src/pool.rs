//! The dialling side: CONNECT streams over few, shared connections.

mod connection;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use h2::Reason;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use tokio::sync::oneshot;
use tokio::time::timeout;
use waymark_identity::SpiffeId;
use waymark_rt::{Spawner, Tasks};

use crate::drain::Drain;
use crate::peer::ExpectedPeer;
use crate::server::TlsUnavailable;
use crate::settings::PoolSettings;
use crate::{Authority, Tunnel};

use connection::Connection;
pub use connection::Lease;

/// Where a pool gets the TLS configuration of a connection.
pub trait ClientTls: Send + Sync + 'static {
    /// The configuration that presents `source`'s certificate; called once a connection. It verifies the server's
    /// chain; whether the server is the wanted one is the pool's business.
    fn client_config<'a>(
        &'a self,
        source: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Arc<rustls::ClientConfig>, TlsUnavailable>>;
}

/// One configuration for every source.
impl ClientTls for Arc<rustls::ClientConfig> {
    fn client_config<'a>(&'a self, _: &'a SpiffeId) -> BoxFuture<'a, Result<Self, TlsUnavailable>> {
        Box::pin(async move { Ok(Self::clone(self)) })
    }
}

/// Shared by several pools.
impl<T: ClientTls + ?Sized> ClientTls for Arc<T> {
    fn client_config<'a>(
        &'a self,
        source: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Arc<rustls::ClientConfig>, TlsUnavailable>> {
        (**self).client_config(source)
    }
}

/// What connections are shared by: streams of the same key only.
///
/// The accepted identities belong to it, as one address may be expected to show different ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Whose certificate is presented.
    pub source: SpiffeId,
    /// Whom the server has to be.
    pub expected: ExpectedPeer,
    /// The socket address, as a rule `ip:15008`.
    pub destination: SocketAddr,
    /// The local address to dial from.
    pub bind: Option<IpAddr>,
}

/// What a pool counted; all relaxed.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Connections that came up.
    pub connections: AtomicU64,
    /// Connections open now.
    pub connections_active: AtomicUsize,
    /// Connections that did not come up.
    pub connect_failures: AtomicU64,
    /// Tunnels opened.
    pub streams: AtomicU64,
    /// Tunnels open now, and CONNECTs waiting for an answer.
    pub streams_active: AtomicUsize,
    /// CONNECTs that failed, other than by failing to get a connection.
    pub stream_failures: AtomicU64,
    /// CONNECTs sent again over a fresh connection.
    pub retries: AtomicU64,
    /// Connections closed for being idle.
    pub idle_closed: AtomicU64,
    /// Connections given up because a PING was not answered.
    pub dead_peers: AtomicU64,
}

/// Why there is no tunnel.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP.
    #[error("connect to {destination}")]
    Tcp {
        /// The socket address.
        destination: SocketAddr,
        /// What the socket said.
        source: Arc<io::Error>,
    },
    /// TCP, TLS and HTTP/2 set-up together took too long.
    #[error("connection to {destination} timed out")]
    Timeout {
        /// The socket address.
        destination: SocketAddr,
    },
    /// There is no certificate to dial with.
    #[error(transparent)]
    Certificate(#[from] TlsUnavailable),
    /// The server's chain, version or ALPN is not acceptable.
    #[error("TLS handshake with {destination}")]
    Tls {
        /// The socket address.
        destination: SocketAddr,
        /// What TLS said.
        source: Arc<io::Error>,
    },
    /// The server is someone else.
    #[error("peer at {destination} is {got:?}, want {want}")]
    PeerIdentity {
        /// The socket address.
        destination: SocketAddr,
        /// The URIs of its certificate, separated by commas.
        got: String,
        /// Who it should have been.
        want: ExpectedPeer,
    },
    /// HTTP/2 did not come up.
    #[error("HTTP/2 with {destination}")]
    Http2 {
        /// The socket address.
        destination: SocketAddr,
        /// What HTTP/2 said.
        source: Arc<h2::Error>,
    },
    /// The server allows no streams.
    #[error("{destination} allows no streams")]
    NoStreams {
        /// The socket address.
        destination: SocketAddr,
    },
    /// The CONNECT was answered, but not with 200.
    #[error("CONNECT answered {0}")]
    Status(StatusCode),
    /// The CONNECT's stream was reset.
    #[error("CONNECT reset: {}", .0.description())]
    Reset(Reason),
    /// The connection broke before the CONNECT was answered.
    #[error("connection to {destination} broke")]
    Broken {
        /// The socket address.
        destination: SocketAddr,
        /// What HTTP/2 said.
        source: Arc<h2::Error>,
    },
    /// No answer to the CONNECT in time.
    #[error("CONNECT was not answered in time")]
    ResponseTimeout,
    /// The pool is being drained.
    #[error("pool is draining")]
    Draining,
}

impl ConnectError {
    /// Whether the server took too long, rather than refusing.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::ResponseTimeout)
    }
}

/// An opened tunnel and what came with the 200.
#[derive(Debug)]
pub struct Connected {
    /// The bytes.
    pub tunnel: Tunnel,
    /// The response's headers.
    pub headers: HeaderMap,
}

/// A pool of HBONE connections. Cheap to clone; clones are the same pool.
///
/// A connection carries as many streams as both sides allow, the next one is opened when all are full. Callers that find
/// none wait for one attempt and share its outcome, failures included.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
    /// Owned by the handles alone: with the last one the connections end, tunnels or not.
    _tasks: Arc<Tasks>,
}

struct Inner {
    tls: Box<dyn ClientTls>,
    settings: PoolSettings,
    builder: h2::client::Builder,
    slots: Mutex<HashMap<PoolKey, Slot>>,
    stats: PoolStats,
    drain: Drain,
    tasks: Spawner,
}

#[derive(Default)]
struct Slot {
    connections: Vec<Arc<Connection>>,
    connecting: Option<Connecting>,
}

type Connecting = Shared<BoxFuture<'static, Result<(), ConnectError>>>;

enum Checkout {
    Ready(Lease),
    Wait(Connecting),
}

impl Pool {
    /// Makes a pool; its connections end with `drain`.
    #[must_use]
    pub fn new(tls: impl ClientTls, settings: PoolSettings, drain: &Drain) -> Self {
        let tasks = Tasks::new();
        Self {
            inner: Arc::new(Inner {
                tls: Box::new(tls),
                builder: settings.builder(),
                settings,
                slots: Mutex::default(),
                stats: PoolStats::default(),
                drain: drain.clone(),
                tasks: tasks.spawner(),
            }),
            _tasks: Arc::new(tasks),
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &PoolStats {
        &self.inner.stats
    }

    /// Opens a tunnel to `authority` by way of `key`'s destination.
    ///
    /// A CONNECT that the server did not process (refused stream, GOAWAY), or that met a pooled connection which turns
    /// out to be broken, is sent once more over another connection: no byte of the tunnel was sent before the answer.
    ///
    /// # Errors
    /// When no connection comes up, or the server does not answer 200.
    ///
    /// # Cancel safety
    /// Dropping the future gives the stream back; a connection that is just coming up stays in the pool.
    pub async fn connect(
        &self,
        key: &PoolKey,
        authority: &Authority,
        headers: HeaderMap,
    ) -> Result<Connected, ConnectError> {
        let stats = &self.inner.stats;
        let mut failed: Option<Arc<Connection>> = None;
        loop {
            let lease = self.lease(key, failed.as_ref()).await?;
            let connection = Arc::clone(lease.connection());
            let used_before = connection.note_use();
            let opened = timeout(
                self.inner.settings.response_timeout,
                open(lease, authority, headers.clone()),
            )
            .await;
            let e = match opened {
                Ok(Ok(connected)) => {
                    stats.streams.fetch_add(1, Ordering::Relaxed);
                    return Ok(connected);
                }
                Ok(Err(OpenError::Status(status))) => {
                    stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                    return Err(ConnectError::Status(status));
                }
                Ok(Err(OpenError::Http2(e))) => e,
                Err(_) => {
                    stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                    return Err(ConnectError::ResponseTimeout);
                }
            };
            let refused = e.reason() == Some(Reason::REFUSED_STREAM);
            if !e.is_reset() {
                self.inner.forget(&connection);
            }
            let safe =
                refused || (e.is_go_away() && e.is_remote()) || (!e.is_reset() && used_before);
            if !safe || failed.is_some() {
                stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                return Err(match e.reason() {
                    Some(reason) if e.is_reset() => ConnectError::Reset(reason),
                    _ => ConnectError::Broken {
                        destination: key.destination,
                        source: Arc::new(e),
                    },
                });
            }
            stats.retries.fetch_add(1, Ordering::Relaxed);
            failed = Some(connection);
        }
    }

    /// Lets go of the connections of every key that `keep` refuses: their open tunnels go on, then they close.
    pub fn retain(&self, mut keep: impl FnMut(&PoolKey) -> bool) {
        self.inner.lock().retain(|key, _| keep(key));
    }

    /// The connections and tunnels that are open now, by key.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(PoolKey, usize, usize)> {
        let slots = self.inner.lock();
        let streams = |slot: &Slot| slot.connections.iter().map(|c| c.active()).sum();
        slots
            .iter()
            .map(|(key, slot)| (key.clone(), slot.connections.len(), streams(slot)))
            .collect()
    }

    async fn lease(
        &self,
        key: &PoolKey,
        avoid: Option<&Arc<Connection>>,
    ) -> Result<Lease, ConnectError> {
        loop {
            match self.checkout(key, avoid)? {
                Checkout::Ready(lease) => return Ok(lease),
                Checkout::Wait(connecting) => connecting.await?,
            }
        }
    }

    fn checkout(
        &self,
        key: &PoolKey,
        avoid: Option<&Arc<Connection>>,
    ) -> Result<Checkout, ConnectError> {
        if self.inner.drain.is_started() {
            return Err(ConnectError::Draining);
        }
        let mut slots = self.inner.lock();
        if !slots.contains_key(key) {
            slots.insert(key.clone(), Slot::default());
        }
        let slot = slots.get_mut(key).expect("it was just inserted");
        slot.connections.retain(|c| !c.is_gone());
        let most = self.inner.settings.max_streams_per_connection;
        let free = slot
            .connections
            .iter()
            .filter(|c| !avoid.is_some_and(|avoid| Arc::ptr_eq(avoid, c)))
            .find(|c| c.active() < c.capacity(most));
        if let Some(connection) = free {
            return Ok(Checkout::Ready(Lease::new(connection, &self.inner)));
        }
        if slot.connecting.is_none() {
            slot.connecting = Some(self.start_connecting(key.clone()));
        }
        let connecting = slot.connecting.clone().expect("it was just set");
        Ok(Checkout::Wait(connecting))
    }

    /// Connects in a task of its own, so that a caller who gives up does not take the others' connection with it.
    fn start_connecting(&self, key: PoolKey) -> Connecting {
        let inner = Arc::clone(&self.inner);
        let (done, outcome) = oneshot::channel();
        self.inner.tasks.spawn("hbone client connect", async move {
            let made = connection::connect(&inner, &key).await;
            let stats = &inner.stats;
            let counter = if made.is_ok() {
                &stats.connections
            } else {
                &stats.connect_failures
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let mut slots = inner.lock();
            // The slot is missing when `retain` let go of it meanwhile: then the connection serves who waits for it.
            let slot = slots.entry(key).or_default();
            slot.connecting = None;
            let _ = done.send(made.map(|connection| slot.connections.push(connection)));
        });
        // Without an outcome the task was ended with the pool.
        outcome
            .map(|o| o.unwrap_or(Err(ConnectError::Draining)))
            .boxed()
            .shared()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No new streams for a connection; its open ones go on.
    fn forget(&self, connection: &Arc<Connection>) {
        connection.set_gone();
        if let Some(slot) = self.lock().get_mut(connection.key()) {
            slot.connections.retain(|c| !Arc::ptr_eq(c, connection));
        }
    }

    /// Takes an idle connection out; false when it got a stream meanwhile.
    fn retire_idle(&self, connection: &Arc<Connection>) -> bool {
        let mut slots = self.lock();
        if connection.active() > 0 {
            return false;
        }
        connection.set_gone();
        if let Some(slot) = slots.get_mut(connection.key()) {
            slot.connections.retain(|c| !Arc::ptr_eq(c, connection));
            if slot.connections.is_empty() && slot.connecting.is_none() {
                slots.remove(connection.key());
            }
        }
        true
    }
}

enum OpenError {
    Status(StatusCode),
    Http2(h2::Error),
}

impl From<h2::Error> for OpenError {
    fn from(e: h2::Error) -> Self {
        Self::Http2(e)
    }
}

fn open(
    lease: Lease,
    authority: &Authority,
    headers: HeaderMap,
) -> impl Future<Output = Result<Connected, OpenError>> + Send {
    let uri = Uri::builder().authority(authority.to_string()).build();
    async move {
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri.map_err(|_| OpenError::Status(StatusCode::BAD_REQUEST))?;
        *request.headers_mut() = headers;
        let mut sender = lease.connection().sender().await?;
        let (response, send) = sender.send_request(request, false)?;
        let (head, recv) = response.await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(OpenError::Status(head.status));
        }
        Ok(Connected {
            tunnel: Tunnel::new(send, recv, Some(lease)),
            headers: head.headers,
        })
    }
}
