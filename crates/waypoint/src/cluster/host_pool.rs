//! HTTP connections of one worker to one endpoint.
//!
//! HTTP/1.1: a request at a time on each connection, the one used last is used next. HTTP/2: as many as both sides allow
//! on one connection, then another one.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use waymark_driver::http1::ClientConnection;
use waymark_driver::{Task, h2, now, spawn};
use waymark_engine::h2::{self as engine_h2, Config};
use waymark_engine::http1::Limits;

use super::lease::{Acquired, Http1Lease, Http2Lease};
use crate::near::Near;
use crate::originate::{DialError, Originator, Upstream};
use crate::program::{Cluster, Endpoint, KeepAlive, Thresholds, TunnelClient};
use crate::signal::Signal;

/// What the heads of responses by HTTP/2 may have.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// The version of an upstream request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Why a request gets no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AcquireError {
    /// None came up.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A circuit breaker is open.
    #[error("overflow")]
    Overflow,
}

/// The connections to one endpoint.
pub(crate) struct HostPool {
    endpoint: RefCell<Arc<Endpoint>>,
    closed: Cell<bool>,
    /// All connections, busy ones too.
    connections: Cell<usize>,
    #[expect(clippy::vec_box, reason = "leases hold them in the same boxes")]
    idle: RefCell<Vec<Box<Http1>>>,
    watch: Watch,
    shared: RefCell<Vec<Rc<Http2>>>,
    connecting: RefCell<Option<Connecting>>,
    /// Told when a connection becomes idle or goes.
    freed: Signal,
}

type Connecting = Shared<LocalBoxFuture<'static, Result<(), DialError>>>;

/// An HTTP/1.1 connection.
pub(super) struct Http1 {
    pub(super) wire: ClientConnection<Upstream>,
    life: Life,
    open: Open,
}

/// The age and use of a connection.
struct Life {
    since: Instant,
    idle_since: Cell<Instant>,
    requests: Cell<u32>,
}

impl Life {
    fn begin() -> Self {
        let now = now();
        Self {
            since: now,
            idle_since: Cell::new(now),
            requests: Cell::new(0),
        }
    }

    /// Whether the connection takes no further request.
    fn is_over(&self, cluster: &Cluster) -> bool {
        let http = &cluster.http;
        http.max_requests_per_connection
            .is_some_and(|max| self.requests.get() >= max)
            || http
                .max_connection_duration
                .is_some_and(|max| now() - self.since >= max)
    }

    fn is_idle_for(&self, limit: Option<Duration>) -> bool {
        limit.is_some_and(|limit| now() - self.idle_since.get() >= limit)
    }
}

/// Notices when connections end that nobody uses.
#[derive(Default)]
struct Watch {
    waker: RefCell<Option<Waker>>,
    task: RefCell<Option<Task<()>>>,
}

/// Counts a connection, from its dialling on.
pub(crate) struct Open {
    pool: Weak<HostPool>,
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
}

/// An HTTP/2 connection.
pub(super) struct Http2 {
    pub(super) wire: h2::ClientConnection,
    life: Life,
    active: Cell<usize>,
}

impl Http2 {
    fn takes_more(&self, cluster: &Cluster) -> bool {
        self.active.get() < cluster.http.http2.max_concurrent_streams as usize
            && self.wire.available_streams() > 0
    }
}

impl Http1 {
    /// The stream itself, after a switch of protocols.
    pub(super) fn into_io(self) -> (Upstream, Open) {
        (self.wire.into_io(), self.open)
    }
}

impl HostPool {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Rc<Self> {
        Rc::new(Self {
            endpoint: RefCell::new(Arc::clone(endpoint)),
            closed: Cell::new(false),
            connections: Cell::new(0),
            idle: RefCell::default(),
            watch: Watch::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
            freed: Signal::default(),
        })
    }

    pub(super) fn set_endpoint(&self, endpoint: &Arc<Endpoint>) {
        let mut mine = self.endpoint.borrow_mut();
        if !Arc::ptr_eq(&mine, endpoint) {
            *mine = Arc::clone(endpoint);
        }
    }

    /// No connection is kept from now on; requests in flight finish.
    pub(super) fn close(&self) {
        self.closed.set(true);
        drop(self.idle.take());
        drop(self.shared.take());
        drop(self.watch.task.take());
        self.freed.raise();
    }

    pub(super) fn close_idle(&self, cluster: &Cluster) {
        let limit = cluster.http.idle_timeout;
        let is_due = |life: &Life| life.is_idle_for(limit);
        let before = self.idle.borrow().len() + self.shared.borrow().len();
        self.idle.borrow_mut().retain(|c| !is_due(&c.life));
        self.shared
            .borrow_mut()
            .retain(|c| c.active.get() > 0 || !is_due(&c.life));
        let after = self.idle.borrow().len() + self.shared.borrow().len();
        let stats = &cluster.stats;
        stats.upstream_cx_idle_timeout.add((before - after) as u64);
    }

    pub(super) fn is_used(&self) -> bool {
        self.connections.get() > 0 || self.connecting.borrow().is_some()
    }

    /// A connection that is there.
    pub(crate) fn ready(
        self: &Rc<Self>,
        cluster: &Near<Cluster>,
        version: Version,
    ) -> Option<Acquired> {
        match version {
            Version::Http1 => {
                let cx = &mut Context::from_waker(Waker::noop());
                loop {
                    let mut connection = self.idle.borrow_mut().pop()?;
                    // It may have ended in this very turn.
                    if connection.wire.poll_spoilt(cx).is_pending() {
                        return Some(Acquired::Http1(self.lease_http1(connection, cluster)));
                    }
                }
            }
            Version::Http2 => {
                let mut shared = self.shared.borrow_mut();
                shared.retain(|c| !c.wire.is_leaving() && !c.life.is_over(cluster));
                let free = shared.iter().find(|c| c.takes_more(cluster))?;
                Some(Acquired::Http2(self.lease_http2(free)))
            }
        }
    }

    /// A connection for one request, where none is [ready](Self::ready).
    pub(crate) async fn acquire(
        self: &Rc<Self>,
        cluster: &Near<Cluster>,
        version: Version,
        limits: &Thresholds,
        tunnel: Option<&Arc<TunnelClient>>,
        originator: &Rc<Originator>,
    ) -> Result<Acquired, AcquireError> {
        let pending = &cluster.stats.upstream_rq_pending_active;
        cluster.stats.upstream_rq_pending_total.inc();
        if exceeds(pending.value(), limits.max_pending_requests) {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(AcquireError::Overflow);
        }
        let _pending = Pending::begin(cluster);
        loop {
            // A pool without a connection may always make one, so that workers do not starve each other.
            let full = exceeds(
                cluster.stats.upstream_cx_active.value(),
                limits.max_connections,
            );
            if full && self.connections.get() > 0 {
                cluster.stats.upstream_cx_overflow.inc();
                self.freed.raised().await;
            } else {
                match version {
                    Version::Http1 => return self.connect_http1(cluster, tunnel, originator).await,
                    Version::Http2 => self.connect_http2(cluster, tunnel, originator).await?,
                }
            }
            if let Some(ready) = self.ready(cluster, version) {
                return Ok(ready);
            }
        }
    }

    /// A connection whose request is answered.
    pub(super) fn take_back(self: &Rc<Self>, mut connection: Box<Http1>, cluster: &Cluster) {
        if self.closed.get() || !connection.wire.is_reusable() {
            return;
        }
        if connection.life.is_over(cluster) {
            cluster.stats.upstream_cx_max_requests.inc();
            return;
        }
        connection.life.idle_since.set(now());
        let watched = match &*self.watch.waker.borrow() {
            Some(waker) => connection
                .wire
                .poll_spoilt(&mut Context::from_waker(waker))
                .is_pending(),
            None => true, // it is looked at when the watch begins
        };
        if !watched {
            return;
        }
        self.idle.borrow_mut().push(connection);
        self.begin_watch();
        self.freed.raise();
    }

    /// Begins to watch idle connections, if nobody does.
    fn begin_watch(self: &Rc<Self>) {
        let mut task = self.watch.task.borrow_mut();
        if task.is_some() {
            return;
        }
        let pool = Rc::downgrade(self);
        *task = Some(spawn("idle upstreams", async move {
            poll_fn(|cx| match pool.upgrade() {
                Some(pool) => pool.watch_idle(cx),
                None => Poll::Ready(()),
            })
            .await;
        }));
    }

    fn watch_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        *self.watch.waker.borrow_mut() = Some(cx.waker().clone());
        let mut ended = Vec::new();
        let mut idle = self.idle.borrow_mut();
        let mut at = 0;
        while at < idle.len() {
            match idle[at].wire.poll_spoilt(cx) {
                Poll::Pending => at += 1,
                Poll::Ready(()) => ended.push(idle.remove(at)),
            }
        }
        drop(idle);
        drop(ended); // which tells whoever waits for a free place
        Poll::Pending
    }

    fn lease_http1(self: &Rc<Self>, connection: Box<Http1>, cluster: &Near<Cluster>) -> Http1Lease {
        connection
            .life
            .requests
            .set(connection.life.requests.get() + 1);
        Http1Lease {
            connection: Some(connection),
            pool: Rc::clone(self),
            cluster: cluster.clone(),
        }
    }

    fn lease_http2(self: &Rc<Self>, connection: &Rc<Http2>) -> Http2Lease {
        connection.active.set(connection.active.get() + 1);
        connection
            .life
            .requests
            .set(connection.life.requests.get() + 1);
        Http2Lease::new(Rc::clone(connection), Rc::clone(self))
    }

    /// A request is over on a connection.
    pub(super) fn leave_http2(&self, connection: &Http2) {
        connection.active.set(connection.active.get() - 1);
        connection.life.idle_since.set(now());
        self.freed.raise();
    }

    async fn connect_http1(
        self: &Rc<Self>,
        cluster: &Near<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        originator: &Originator,
    ) -> Result<Acquired, AcquireError> {
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let open = self.count_open(cluster, &endpoint);
        let upstream = dial(cluster, &endpoint, tunnel, originator).await?;
        cluster.stats.upstream_cx_http1_total.inc();
        let connection = Box::new(Http1 {
            wire: ClientConnection::new(upstream, Limits::UPSTREAM),
            life: Life::begin(),
            open,
        });
        Ok(Acquired::Http1(self.lease_http1(connection, cluster)))
    }

    /// Waits for the one attempt that is made at a time.
    async fn connect_http2(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        originator: &Rc<Originator>,
    ) -> Result<(), AcquireError> {
        let connecting = self.connecting.borrow().clone();
        let connecting = connecting.unwrap_or_else(|| {
            let (pool, cluster, tunnel, originator) = (
                Rc::clone(self),
                Arc::clone(cluster),
                tunnel.cloned(),
                Rc::clone(originator),
            );
            let attempt = async move {
                let made = pool
                    .make_http2(&cluster, tunnel.as_ref(), &originator)
                    .await;
                *pool.connecting.borrow_mut() = None;
                made
            };
            let attempt = attempt.boxed_local().shared();
            let for_task = attempt.clone();
            // Driven by a task too, so that a request that is given up does not take the others' connection along.
            spawn("http2 connect", async move {
                let _ = for_task.await; // its outcome is told to those who wait
            })
            .detach();
            *self.connecting.borrow_mut() = Some(attempt.clone());
            attempt
        });
        connecting.await.map_err(AcquireError::from)
    }

    async fn make_http2(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        originator: &Originator,
    ) -> Result<(), DialError> {
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let open = self.count_open(cluster, &endpoint);
        let upstream = dial(cluster, &endpoint, tunnel, originator).await?;
        let options = h2::Options {
            writer: upstream.writer_level(),
            keep_alive: keep_alive(cluster.http.http2.keep_alive.as_ref()),
        };
        let wire = h2::ClientConnection::new(upstream, http2_config(cluster), options);
        cluster.stats.upstream_cx_http2_total.inc();
        let mut watch = wire.watch();
        let pool = Rc::downgrade(self);
        spawn("http2 upstream", async move {
            poll_fn(|cx| watch.poll_leaving(cx)).await;
            if let Some(pool) = pool.upgrade() {
                pool.shared.borrow_mut().retain(|c| !c.wire.is_leaving());
                pool.freed.raise();
            }
            poll_fn(|cx| watch.poll_over(cx)).await;
            drop(open);
        })
        .detach();
        self.shared.borrow_mut().push(Rc::new(Http2 {
            wire,
            life: Life::begin(),
            active: Cell::new(0),
        }));
        Ok(())
    }

    fn count_open(self: &Rc<Self>, cluster: &Arc<Cluster>, endpoint: &Arc<Endpoint>) -> Open {
        self.connections.set(self.connections.get() + 1);
        cluster.stats.upstream_cx_active.inc();
        cluster.stats.upstream_cx_total.inc();
        endpoint.stats.cx_active.inc();
        endpoint.stats.cx_total.inc();
        Open {
            pool: Rc::downgrade(self),
            cluster: Arc::clone(cluster),
            endpoint: Arc::clone(endpoint),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cluster.stats.upstream_cx_active.dec();
        self.cluster.stats.upstream_cx_destroy.inc();
        self.endpoint.stats.cx_active.dec();
        if let Some(pool) = self.pool.upgrade() {
            pool.connections.set(pool.connections.get() - 1);
            pool.freed.raise();
        }
    }
}

async fn dial(
    cluster: &Cluster,
    endpoint: &Endpoint,
    tunnel: Option<&Arc<TunnelClient>>,
    originator: &Originator,
) -> Result<Upstream, DialError> {
    let dialled = originator
        .dial(tunnel, endpoint, cluster.connect_timeout)
        .await;
    if let Err(e) = &dialled {
        cluster.stats.upstream_cx_connect_fail.inc();
        endpoint.stats.cx_connect_fail.inc();
        if matches!(e, DialError::Timeout) {
            cluster.stats.upstream_cx_connect_timeout.inc();
        }
    }
    dialled
}

fn http2_config(cluster: &Cluster) -> Arc<Config> {
    let settings = &cluster.http.http2;
    let ours = Config::default();
    Arc::new(Config {
        // What is configured bounds what a stream may hold; most never need as much, see docs/decisions/0007.
        stream_window_bytes: settings
            .initial_stream_window_bytes
            .min(ours.stream_window_bytes),
        stream_window_max_bytes: settings
            .initial_stream_window_bytes
            .min(ours.stream_window_max_bytes),
        connection_window_bytes: settings.initial_connection_window_bytes,
        max_concurrent_streams: settings.max_concurrent_streams,
        assumed_concurrent_streams: settings.max_concurrent_streams,
        limits: engine_h2::Limits {
            header_list_bytes: MAX_HEADER_LIST_BYTES,
            ..engine_h2::Limits::default()
        },
        ..ours
    })
}

fn keep_alive(settings: Option<&KeepAlive>) -> Option<h2::KeepAlive> {
    let settings = settings?;
    Some(h2::KeepAlive {
        interval: settings.interval?,
        timeout: settings.timeout,
    })
}

fn exceeds(value: i64, limit: u32) -> bool {
    value >= i64::from(limit)
}

/// Counts a request that waits for a connection.
struct Pending(Arc<Cluster>);

impl Pending {
    fn begin(cluster: &Arc<Cluster>) -> Self {
        cluster.stats.upstream_rq_pending_active.inc();
        Self(Arc::clone(cluster))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.stats.upstream_rq_pending_active.dec();
    }
}
