//! One connection of the pool: how it comes up, what watches it, when it ends.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::future::{Either, select};
use waymark_driver::h2::{ClientConnection, ConnectionEnd, Watch};
use waymark_driver::tls::{self, TlsError};
use waymark_driver::{Sleep, TcpStream, WeakTasks, now, sleep, timeout};
use waymark_engine::h2::ErrorCode;
use waymark_identity::tls::no_name;
use waymark_rt::ConnectOptions;

use super::{ConnectError, Inner, PoolKey};
use crate::peer;

/// A connection and how much of it is used.
pub(super) struct Connection {
    key: PoolKey,
    client: ClientConnection,
    /// Streams at once that we want.
    most: usize,
    active: Cell<usize>,
    used: Cell<bool>,
    gone: Cell<bool>,
    idle_since: Cell<Instant>,
}

impl Connection {
    pub(super) fn key(&self) -> &PoolKey {
        &self.key
    }

    pub(super) fn client(&self) -> &ClientConnection {
        &self.client
    }

    pub(super) fn active(&self) -> usize {
        self.active.get()
    }

    /// Whether one more stream can be opened now.
    pub(super) fn has_room(&self) -> bool {
        !self.gone.get() && self.active.get() < self.most && self.client.available_streams() > 0
    }

    /// Counts a CONNECT; true when there was one before, so that the connection may be stale.
    pub(super) fn note_use(&self) -> bool {
        self.used.replace(true)
    }

    pub(super) fn set_gone(&self) {
        self.gone.set(true);
    }
}

/// A stream's place on a connection, given back when dropped.
pub struct Lease {
    connection: Rc<Connection>,
    pool: Rc<Inner>,
}

impl Lease {
    pub(super) fn new(connection: &Rc<Connection>, pool: &Rc<Inner>) -> Self {
        connection.active.set(connection.active.get() + 1);
        pool.stats.streams_active.fetch_add(1, Ordering::Relaxed);
        Self {
            connection: Rc::clone(connection),
            pool: Rc::clone(pool),
        }
    }

    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Whether the connection takes new streams still. False once it broke, was told to go away, or its key was let go.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let connection = &self.connection;
        if connection.gone.get() || connection.client.is_leaving() || self.pool.drain.is_started() {
            return false;
        }
        let slots = self.pool.slots.borrow();
        slots
            .get(&connection.key)
            .is_some_and(|slot| slot.connections.iter().any(|c| Rc::ptr_eq(c, connection)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        let active = &self.pool.stats.streams_active;
        active.fetch_sub(1, Ordering::Relaxed);
        connection.idle_since.set(now());
        connection.active.set(connection.active.get() - 1);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.connection.key)
            .finish_non_exhaustive()
    }
}

/// Brings a connection up and starts the task that watches it.
pub(super) async fn connect(
    pool: &Rc<Inner>,
    key: &PoolKey,
    tasks: &WeakTasks,
) -> Result<Rc<Connection>, ConnectError> {
    let destination = key.destination;
    let set_up = Box::pin(timeout(pool.settings.connect_timeout, set_up(pool, key)));
    let client = match select(Box::pin(pool.drain.cancelled()), set_up).await {
        Either::Left(((), _)) => return Err(ConnectError::Draining),
        Either::Right((made, _)) => made.map_err(|_| ConnectError::Timeout { destination })??,
    };
    let watch = client.watch();
    let connection = Rc::new(Connection {
        key: key.clone(),
        most: pool.settings.max_streams_per_connection as usize,
        client,
        active: Cell::new(0),
        used: Cell::new(false),
        gone: Cell::new(false),
        idle_since: Cell::new(now()),
    });
    if !connection.has_room() {
        return Err(ConnectError::NoStreams { destination });
    }
    let watcher = Watcher::new(pool, &connection, watch);
    tasks.spawn("hbone client connection", watcher.run());
    Ok(connection)
}

async fn set_up(pool: &Inner, key: &PoolKey) -> Result<ClientConnection, ConnectError> {
    let destination = key.destination;
    let config = pool.tls.client_config(&key.source).await?;
    let patience = pool.settings.connect_timeout;
    let options = ConnectOptions {
        source: key.bind.filter(|ip| ip.is_ipv4() == destination.is_ipv4()),
        timeout: patience,
        ..ConnectOptions::default()
    };
    let tcp = TcpStream::connect(destination, &options)
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
    let (socket, shown) = tls::connect(tcp, config, no_name(), patience)
        .await
        .map_err(|e| match e {
            TlsError::Timeout => ConnectError::Timeout { destination },
            e => ConnectError::Tls {
                destination,
                source: Arc::new(peer::tls_cause(e)),
            },
        })?;
    let names = peer::names(&shown.certificates);
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
    let options = pool.settings.http2.options();
    Ok(ClientConnection::new(
        socket,
        Arc::clone(&pool.config),
        options,
    ))
}

/// The task of a connection: drain, idleness, and how it ends.
struct Watcher {
    watch: Watch,
    idle_timer: Sleep,
    /// Weak: the HTTP/2 connection ends when the pool has let go of it and its last stream is over.
    connection: Weak<Connection>,
    retired: bool,
    pool: Rc<Inner>,
}

impl Watcher {
    fn new(pool: &Rc<Inner>, connection: &Rc<Connection>, watch: Watch) -> Self {
        pool.stats
            .connections_active
            .fetch_add(1, Ordering::Relaxed);
        Self {
            watch,
            idle_timer: sleep(pool.settings.idle_timeout),
            connection: Rc::downgrade(connection),
            retired: false,
            pool: Rc::clone(pool),
        }
    }

    async fn run(mut self) {
        let drain = self.pool.drain.clone();
        let mut started = Box::pin(drain.started().cancelled_owned());
        let mut killed = Box::pin(drain.killed().cancelled_owned());
        poll_fn(|cx| {
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
        if let Poll::Ready(end) = self.watch.poll_over(cx) {
            tracing::debug!(%end, "pooled connection ended");
            if end == ConnectionEnd::Dead {
                self.pool.stats.dead_peers.fetch_add(1, Ordering::Relaxed);
            }
            return Poll::Ready(());
        }
        if !self.retired && self.watch.poll_leaving(cx).is_ready() {
            self.retire();
        }
        while !self.retired && Pin::new(&mut self.idle_timer).poll(cx).is_ready() {
            self.look_for_idleness();
        }
        Poll::Pending
    }

    fn look_for_idleness(&mut self) {
        let Some(connection) = self.connection.upgrade() else {
            self.retired = true;
            return;
        };
        let (now, patience) = (now(), self.pool.settings.idle_timeout);
        let next = if connection.active() > 0 {
            now + patience
        } else {
            connection.idle_since.get() + patience
        };
        if next > now {
            self.idle_timer.reset(next);
        } else if self.pool.retire_idle(&connection) {
            self.pool.stats.idle_closed.fetch_add(1, Ordering::Relaxed);
            self.retired = true;
        } else {
            self.idle_timer.reset(now + patience);
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

impl Drop for Watcher {
    fn drop(&mut self) {
        self.retire();
        // Over already, or whatever is open is cut.
        self.watch.close(ErrorCode::NO_ERROR);
        self.pool
            .stats
            .connections_active
            .fetch_sub(1, Ordering::Relaxed);
    }
}
