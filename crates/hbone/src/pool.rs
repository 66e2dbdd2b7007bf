//! The dialling side: CONNECT streams over few, shared connections.

mod connection;
mod error;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, LocalBoxFuture, Shared};
use http::StatusCode;
use tokio::sync::oneshot;
use waymark_driver::h2::{OpenError, Stream, StreamEnd};
use waymark_driver::{Tasks, buffers, timeout};
use waymark_engine::h2::{Config, End, ErrorCode, ResetBy};
use waymark_engine::{Field, Head};
use waymark_identity::SpiffeId;

use crate::drain::Drain;
use crate::peer::ExpectedPeer;
use crate::server::TlsUnavailable;
use crate::settings::PoolSettings;
use crate::{Authority, Tunnel};

use connection::Connection;
pub use connection::Lease;
pub use error::ConnectError;

/// Where a pool gets the TLS configuration of a connection.
pub trait ClientTls: Send + Sync + 'static {
    /// The configuration that presents `source`'s certificate; called once a connection. It verifies the server's
    /// chain; whether the server is the wanted one is the pool's business. It allows that secrets are extracted, and nothing
    /// older than TLS 1.3.
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

/// An opened tunnel and what came with the 200.
#[derive(Debug)]
pub struct Connected {
    /// The bytes.
    pub tunnel: Tunnel,
    /// The response.
    pub head: Box<Head>,
}

/// A pool of HBONE connections on one thread. Cheap to clone; clones are the same pool, and with the last one its connections
/// end, tunnels or not.
///
/// A connection carries as many streams as both sides allow, the next one is opened when all are full. Callers that find
/// none wait for one attempt and share its outcome, failures included.
#[derive(Clone)]
pub struct Pool {
    inner: Rc<Inner>,
    /// Owned by the handles alone: with the last one the connections end, tunnels or not.
    tasks: Tasks,
}

struct Inner {
    tls: Box<dyn ClientTls>,
    settings: PoolSettings,
    config: Arc<Config>,
    slots: RefCell<HashMap<PoolKey, Slot>>,
    stats: Arc<PoolStats>,
    drain: Drain,
}

#[derive(Default)]
struct Slot {
    connections: Vec<Rc<Connection>>,
    connecting: Option<Connecting>,
}

type Connecting = Shared<LocalBoxFuture<'static, Result<(), ConnectError>>>;

enum Checkout {
    Ready(Lease),
    Wait(Connecting),
}

impl Pool {
    /// Makes a pool; its connections end with `drain`.
    #[must_use]
    pub fn new(tls: impl ClientTls, settings: PoolSettings, drain: &Drain) -> Self {
        Self {
            inner: Rc::new(Inner {
                tls: Box::new(tls),
                config: settings.config(),
                settings,
                slots: RefCell::default(),
                stats: Arc::default(),
                drain: drain.clone(),
            }),
            tasks: Tasks::new(),
        }
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> &Arc<PoolStats> {
        &self.inner.stats
    }

    /// Opens a tunnel to `authority` by way of `key`'s destination, with these fields beside the CONNECT.
    ///
    /// A CONNECT that the server did not process (refused stream, GOAWAY), or that met a pooled connection which turns
    /// out to be broken, is sent once more over another connection: no byte of the tunnel was sent before the answer.
    ///
    /// # Errors
    /// When no connection comes up, or the server does not answer 200.
    ///
    /// # Panics
    /// Outside an executor.
    ///
    /// # Cancel safety
    /// Dropping the future gives the stream back; a connection that is just coming up stays in the pool.
    pub async fn connect<'f>(
        &self,
        key: &PoolKey,
        authority: &Authority,
        fields: impl IntoIterator<Item = Field<'f>> + Clone,
    ) -> Result<Connected, ConnectError> {
        let stats = &self.inner.stats;
        let mut failed: Option<Rc<Connection>> = None;
        loop {
            let lease = self.lease(key, failed.as_ref()).await?;
            let connection = Rc::clone(lease.connection());
            let used_before = connection.note_use();
            let opened = timeout(
                self.inner.settings.response_timeout,
                open(lease, authority, fields.clone()),
            )
            .await;
            let e = match opened {
                Ok(Ok(connected)) => {
                    stats.streams.fetch_add(1, Ordering::Relaxed);
                    return Ok(connected);
                }
                Ok(Err(RequestError::Status(status))) => {
                    stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                    return Err(ConnectError::Status(status));
                }
                Ok(Err(e)) => e,
                Err(_) => {
                    stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                    return Err(ConnectError::ResponseTimeout);
                }
            };
            if e.is_of_the_connection() {
                self.inner.forget(&connection);
            }
            if !e.is_safe_to_repeat(used_before) || failed.is_some() {
                stats.stream_failures.fetch_add(1, Ordering::Relaxed);
                return Err(e.into_connect_error(key.destination));
            }
            stats.retries.fetch_add(1, Ordering::Relaxed);
            failed = Some(connection);
        }
    }

    /// Lets go of the connections of every key that `keep` refuses: their open tunnels go on, then they close.
    pub fn retain(&self, mut keep: impl FnMut(&PoolKey) -> bool) {
        let mut gone = Vec::new();
        // Dropped later: what ends with a connection may look into the pool.
        self.inner
            .slots
            .borrow_mut()
            .extract_if(|key, _| !keep(key))
            .for_each(|slot| gone.push(slot));
    }

    /// The connections and tunnels that are open now, by key.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(PoolKey, usize, usize)> {
        let slots = self.inner.slots.borrow();
        let streams = |slot: &Slot| slot.connections.iter().map(|c| c.active()).sum();
        slots
            .iter()
            .map(|(key, slot)| (key.clone(), slot.connections.len(), streams(slot)))
            .collect()
    }

    async fn lease(
        &self,
        key: &PoolKey,
        avoid: Option<&Rc<Connection>>,
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
        avoid: Option<&Rc<Connection>>,
    ) -> Result<Checkout, ConnectError> {
        if self.inner.drain.is_started() {
            return Err(ConnectError::Draining);
        }
        let mut slots = self.inner.slots.borrow_mut();
        let slot = match slots.get_mut(key) {
            Some(slot) => slot,
            None => slots.entry(key.clone()).or_default(),
        };
        let free = slot
            .connections
            .iter()
            .filter(|c| !avoid.is_some_and(|avoid| Rc::ptr_eq(avoid, c)))
            .find(|c| c.has_room());
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
        let inner = Rc::clone(&self.inner);
        let (done, outcome) = oneshot::channel();
        // Not a clone, which would be a handle that keeps the pool.
        let tasks = self.tasks.downgrade();
        self.tasks.spawn("hbone client connect", async move {
            let made = connection::connect(&inner, &key, &tasks).await;
            let counter = if made.is_ok() {
                &inner.stats.connections
            } else {
                &inner.stats.connect_failures
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let mut slots = inner.slots.borrow_mut();
            // The slot is missing when `retain` let go of it meanwhile: then the connection serves who waits for it.
            let slot = slots.entry(key).or_default();
            slot.connecting = None;
            let _ = done.send(made.map(|connection| slot.connections.push(connection)));
        });
        // Without an outcome the task was ended with the pool.
        outcome
            .map(|o| o.unwrap_or(Err(ConnectError::Draining)))
            .boxed_local()
            .shared()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("keys", &self.inner.slots.borrow().len())
            .field("stats", &self.inner.stats)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// No new streams for a connection; its open ones go on.
    fn forget(&self, connection: &Rc<Connection>) {
        connection.set_gone();
        if let Some(slot) = self.slots.borrow_mut().get_mut(connection.key()) {
            slot.connections.retain(|c| !Rc::ptr_eq(c, connection));
        }
    }

    /// Takes an idle connection out; false when it has a stream.
    fn retire_idle(&self, connection: &Rc<Connection>) -> bool {
        if connection.active() > 0 {
            return false;
        }
        self.forget(connection);
        let mut slots = self.slots.borrow_mut();
        if slots
            .get(connection.key())
            .is_some_and(|slot| slot.connections.is_empty() && slot.connecting.is_none())
        {
            slots.remove(connection.key());
        }
        true
    }
}

/// Why a CONNECT has come to nothing.
enum RequestError {
    Status(StatusCode),
    Open(OpenError),
    Stream(StreamEnd),
}

impl RequestError {
    /// Whether nothing more is to be had of the connection either.
    fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Open(OpenError::TooManyStreams) | Self::Status(_) => false,
            Self::Open(OpenError::Leaving | OpenError::Over(_))
            | Self::Stream(StreamEnd::Connection(_)) => true,
            Self::Stream(StreamEnd::Reset { .. } | StreamEnd::GivenUp) => false,
        }
    }

    /// Whether the server has done nothing, or as good as certainly nothing: a connection that was used before may have been
    /// broken for long.
    fn is_safe_to_repeat(&self, used_before: bool) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Stream(StreamEnd::Reset { code, by }) => {
                *code == ErrorCode::REFUSED_STREAM && *by == ResetBy::Peer
            }
            Self::Stream(StreamEnd::Connection(_)) => used_before,
            Self::Stream(StreamEnd::GivenUp) | Self::Status(_) => false,
        }
    }

    fn into_connect_error(self, destination: SocketAddr) -> ConnectError {
        match self {
            Self::Status(status) => ConnectError::Status(status),
            Self::Stream(StreamEnd::Reset { code, .. }) => ConnectError::Reset(code),
            Self::Stream(end) => ConnectError::Broken {
                destination,
                source: Arc::new(end),
            },
            Self::Open(error) => ConnectError::Broken {
                destination,
                source: Arc::new(error),
            },
        }
    }
}

/// Sends a CONNECT and waits for the answer. The answer is awaited before anything else is sent (hbone-and-l4.md 3.2).
async fn open<'f>(
    lease: Lease,
    authority: &Authority,
    fields: impl IntoIterator<Item = Field<'f>>,
) -> Result<Connected, RequestError> {
    let mut stream = request(&lease, authority, fields)?;
    loop {
        let head = stream.response().await.map_err(RequestError::Stream)?.head;
        match head.status() {
            Some(200) => {
                let tunnel = Tunnel::new(stream, Some(lease));
                return Ok(Connected { tunnel, head });
            }
            Some(100..200) => buffers::give_head(head),
            status => {
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Err(RequestError::Status(status));
            }
        }
    }
}

fn request<'f>(
    lease: &Lease,
    authority: &Authority,
    fields: impl IntoIterator<Item = Field<'f>>,
) -> Result<Stream, RequestError> {
    let authority = authority.to_string();
    let asked = [
        Field::new(b":method", b"CONNECT"),
        Field::new(b":authority", authority.as_bytes()),
    ];
    let client = lease.connection().client();
    client
        .open(
            asked.into_iter().chain(fields.into_iter().map(within)),
            End::No,
        )
        .map_err(RequestError::Open)
}

/// The same field, for less time.
fn within<'s, 'f: 's>(field: Field<'f>) -> Field<'s> {
    field
}
