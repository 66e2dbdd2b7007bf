//! One connection of the pool: how it comes up, what drives it, when it ends.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waymark_rt::ConnectOptions;

use super::{ConnectError, Inner, PoolKey};
use crate::keepalive::Keepalive;
use crate::peer;

/// A connection and how much of it is used.
pub(super) struct Connection {
    key: PoolKey,
    sender: SendRequest<Bytes>,
    active: AtomicUsize,
    uses: AtomicU64,
    gone: AtomicBool,
    idle_since: Mutex<Instant>,
}

impl Connection {
    pub(super) fn key(&self) -> &PoolKey {
        &self.key
    }

    pub(super) fn sender(&self) -> h2::client::ReadySendRequest<Bytes> {
        self.sender.clone().ready()
    }

    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// How many streams it may carry.
    pub(super) fn capacity(&self, most: usize) -> usize {
        self.sender.current_max_send_streams().min(most)
    }

    /// Counts a CONNECT; true when there was one before, so that the connection may be stale.
    pub(super) fn note_use(&self) -> bool {
        self.uses.fetch_add(1, Ordering::Relaxed) > 0
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Instant {
        *self
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place on a connection, given back when dropped.
pub struct Lease {
    connection: Arc<Connection>,
    pool: Arc<Inner>,
}

impl Lease {
    pub(super) fn new(connection: &Arc<Connection>, pool: &Arc<Inner>) -> Self {
        connection.active.fetch_add(1, Ordering::Relaxed);
        pool.stats.streams_active.fetch_add(1, Ordering::Relaxed);
        Self {
            connection: Arc::clone(connection),
            pool: Arc::clone(pool),
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether the connection takes new streams still. False once it broke, was told to go away, or its key was let go.
    #[must_use]
    pub fn is_current(&self) -> bool {
        if self.connection.is_gone() || self.pool.drain.is_started() {
            return false;
        }
        let slots = self.pool.lock();
        slots.get(&self.connection.key).is_some_and(|slot| {
            slot.connections
                .iter()
                .any(|c| Arc::ptr_eq(c, &self.connection))
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool
            .stats
            .streams_active
            .fetch_sub(1, Ordering::Relaxed);
        let mut idle_since = self
            .connection
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *idle_since = Instant::now();
        self.connection.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Brings a connection up and starts the task that drives it.
pub(super) async fn connect(
    pool: &Arc<Inner>,
    key: &PoolKey,
) -> Result<Arc<Connection>, ConnectError> {
    let destination = key.destination;
    let set_up = Box::pin(set_up(pool, key));
    let (sender, http2) = tokio::select! {
        biased;
        () = pool.drain.cancelled() => return Err(ConnectError::Draining),
        made = timeout(pool.settings.connect_timeout, set_up) => {
            made.map_err(|_| ConnectError::Timeout { destination })??
        }
    };
    let connection = Arc::new(Connection {
        key: key.clone(),
        sender,
        active: AtomicUsize::new(0),
        uses: AtomicU64::new(0),
        gone: AtomicBool::new(false),
        idle_since: Mutex::new(Instant::now()),
    });
    if connection.capacity(pool.settings.max_streams_per_connection) == 0 {
        return Err(ConnectError::NoStreams { destination });
    }
    let driver = Driver::new(pool, &connection, http2);
    pool.tasks.spawn("hbone client connection", driver.run());
    Ok(connection)
}

type Http2 = h2::client::Connection<TlsStream<TcpStream>, Bytes>;

async fn set_up(pool: &Inner, key: &PoolKey) -> Result<(SendRequest<Bytes>, Http2), ConnectError> {
    let destination = key.destination;
    let config = pool.tls.client_config(&key.source).await?;
    let options = ConnectOptions {
        source: key.bind.filter(|ip| ip.is_ipv4() == destination.is_ipv4()),
        timeout: pool.settings.connect_timeout,
        ..ConnectOptions::default()
    };
    let tcp = waymark_rt::connect(destination, &options)
        .await
        .map_err(|e| match e {
            waymark_rt::ConnectError::Timeout { .. } => ConnectError::Timeout { destination },
            waymark_rt::ConnectError::Bind { source, .. }
            | waymark_rt::ConnectError::Io { source, .. } => ConnectError::Tcp {
                destination,
                source: Arc::new(source),
            },
        })?;
    // No name is sent or checked: identities are what counts (hbone-and-l4.md 2.1).
    let nobody = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let tls = TlsConnector::from(config)
        .connect(nobody, tcp)
        .await
        .map_err(|e| ConnectError::Tls {
            destination,
            source: Arc::new(e),
        })?;
    let names = peer::names(tls.get_ref().1.peer_certificates());
    if !names
        .as_ref()
        .is_some_and(|names| key.expected.accepts(names))
    {
        return Err(ConnectError::PeerIdentity {
            destination,
            got: names
                .iter()
                .flat_map(|names| names.uris())
                .collect::<Vec<_>>()
                .join(", "),
            want: key.expected.clone(),
        });
    }
    pool.builder
        .handshake(tls)
        .await
        .map_err(|e| ConnectError::Http2 {
            destination,
            source: Arc::new(e),
        })
}

/// The task of a connection: HTTP/2, PINGs, idleness.
struct Driver {
    http2: Http2,
    keepalive: Option<Keepalive>,
    idle_timer: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    /// Weak: the HTTP/2 connection ends when the pool has let go of it and its last stream is over.
    connection: Weak<Connection>,
    retired: bool,
    pool: Arc<Inner>,
}

impl Driver {
    fn new(pool: &Arc<Inner>, connection: &Arc<Connection>, mut http2: Http2) -> Self {
        let settings = &pool.settings;
        let keepalive = http2.ping_pong().map(|ping| {
            Keepalive::new(
                ping,
                settings.http2.ping_interval,
                settings.http2.ping_timeout,
            )
        });
        pool.stats
            .connections_active
            .fetch_add(1, Ordering::Relaxed);
        Self {
            http2,
            keepalive,
            idle_timer: Box::pin(sleep(settings.idle_timeout)),
            idle_timeout: settings.idle_timeout,
            connection: Arc::downgrade(connection),
            retired: false,
            pool: Arc::clone(pool),
        }
    }

    async fn run(mut self) {
        let drain = self.pool.drain.clone();
        let mut started = Box::pin(drain.started().cancelled_owned());
        let mut killed = Box::pin(drain.killed().cancelled_owned());
        std::future::poll_fn(|cx| {
            if killed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !self.retired && started.as_mut().poll(cx).is_ready() {
                self.retire();
            }
            self.poll(cx)
        })
        .await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(ended) = Pin::new(&mut self.http2).poll(cx) {
            if let Err(e) = ended {
                tracing::debug!(error = %e, "pooled connection ended");
            }
            return Poll::Ready(());
        }
        if self
            .keepalive
            .as_mut()
            .is_some_and(|k| k.poll(cx).is_ready())
        {
            self.pool.stats.dead_peers.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(());
        }
        while !self.retired && self.idle_timer.as_mut().poll(cx).is_ready() {
            self.look_for_idleness();
        }
        Poll::Pending
    }

    fn look_for_idleness(&mut self) {
        let Some(connection) = self.connection.upgrade() else {
            self.retired = true;
            return;
        };
        let now = Instant::now();
        let next = if connection.active() > 0 {
            now + self.idle_timeout
        } else {
            connection.idle_since() + self.idle_timeout
        };
        if next > now {
            self.idle_timer.as_mut().reset(next);
        } else if self.pool.retire_idle(&connection) {
            self.pool.stats.idle_closed.fetch_add(1, Ordering::Relaxed);
            self.retired = true;
        } else {
            self.idle_timer.as_mut().reset(now + self.idle_timeout);
        }
    }

    /// No new streams from now on.
    fn retire(&mut self) {
        self.retired = true;
        if let Some(connection) = self.connection.upgrade() {
            self.pool.forget(&connection);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.retire();
        self.pool
            .stats
            .connections_active
            .fetch_sub(1, Ordering::Relaxed);
    }
}
