//! HTTP connections of one worker to one endpoint.
//!
//! HTTP/1.1: a request at a time on each connection, the one used last is used next. HTTP/2: as many as both sides allow
//! on one connection, then another one.

use std::cell::{Cell, RefCell};
use std::error::Error as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use waymark_rt::Spawner;

use crate::http::body::UpstreamBody;
use crate::local::LocalExecutor;
use crate::originate::{DialError, Originator, Upstream};
use crate::program::{Cluster, Endpoint, Thresholds, TunnelClient};

/// The version of an upstream request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What a worker lends to its pools.
#[derive(Clone)]
pub(crate) struct Means {
    /// The way to endpoints.
    pub(crate) originator: Rc<Originator>,
    /// Owns the connections' tasks.
    pub(crate) spawner: Spawner,
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
    idle: RefCell<Vec<Http1>>,
    shared: RefCell<Vec<Rc<Http2>>>,
    connecting: RefCell<Option<Connecting>>,
    /// Told when a connection becomes idle or goes.
    freed: Notify,
}

type Connecting = Shared<LocalBoxFuture<'static, Result<(), DialError>>>;

struct Http1 {
    sender: http1::SendRequest<UpstreamBody>,
    life: Life,
}

struct Http2 {
    sender: http2::SendRequest<UpstreamBody>,
    life: Life,
    active: Cell<usize>,
}

/// The age and use of a connection.
struct Life {
    since: Instant,
    idle_since: Cell<Instant>,
    requests: Cell<u32>,
}

impl Life {
    fn begin() -> Self {
        let now = Instant::now();
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
                .is_some_and(|max| self.since.elapsed() >= max)
    }

    fn is_idle_for(&self, limit: Option<Duration>) -> bool {
        limit.is_some_and(|limit| self.idle_since.get().elapsed() >= limit)
    }
}

/// A connection that a request has got.
pub(crate) enum Acquired {
    /// The whole connection.
    Http1(Http1Lease),
    /// A stream.
    Http2(Http2Lease),
}

/// An HTTP/1.1 connection in use.
pub(crate) struct Http1Lease {
    /// `Some` until it is given back or dropped.
    connection: Option<Http1>,
    pool: Rc<HostPool>,
    cluster: Arc<Cluster>,
}

/// A stream's place on an HTTP/2 connection.
pub(crate) struct Http2Lease {
    connection: Rc<Http2>,
    pool: Rc<HostPool>,
}

/// Why a request that had a connection got no response.
pub(crate) enum SendError {
    /// Nothing of it was sent: the connection closed just then. Another connection will do.
    NotSent(Box<Request<UpstreamBody>>),
    /// hyper's reason.
    Failed(hyper::Error),
}

impl HostPool {
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Rc<Self> {
        Rc::new(Self {
            endpoint: RefCell::new(Arc::clone(endpoint)),
            closed: Cell::new(false),
            connections: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
            freed: Notify::new(),
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
        self.idle.borrow_mut().clear();
        self.shared.borrow_mut().clear();
        self.freed.notify_waiters();
    }

    pub(super) fn close_idle(&self, cluster: &Cluster) {
        let limit = cluster.http.idle_timeout;
        let mut closed = 0;
        self.idle.borrow_mut().retain(|c| {
            let keep = !c.sender.is_closed() && !c.life.is_idle_for(limit);
            closed += u64::from(!keep && !c.sender.is_closed());
            keep
        });
        self.shared.borrow_mut().retain(|c| {
            let keep = !c.sender.is_closed() && (c.active.get() > 0 || !c.life.is_idle_for(limit));
            closed += u64::from(!keep && !c.sender.is_closed());
            keep
        });
        cluster.stats.upstream_cx_idle_timeout.add(closed);
    }

    pub(super) fn is_used(&self) -> bool {
        self.connections.get() > 0 || self.connecting.borrow().is_some()
    }

    /// A connection for one request.
    pub(crate) async fn acquire(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        version: Version,
        limits: &Thresholds,
        tunnel: Option<&Arc<TunnelClient>>,
        means: &Means,
    ) -> Result<Acquired, AcquireError> {
        if let Some(ready) = self.ready(cluster, version) {
            return Ok(ready);
        }
        let pending = &cluster.stats.upstream_rq_pending_active;
        cluster.stats.upstream_rq_pending_total.inc();
        if exceeds(pending.value(), limits.max_pending_requests) {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(AcquireError::Overflow);
        }
        pending.inc();
        let cluster_of_pending = Arc::clone(cluster);
        let _pending = Guard(move || cluster_of_pending.stats.upstream_rq_pending_active.dec());
        loop {
            // A pool without a connection may always make one, so that workers do not starve each other.
            let full = exceeds(
                cluster.stats.upstream_cx_active.value(),
                limits.max_connections,
            );
            if full && self.connections.get() > 0 {
                cluster.stats.upstream_cx_overflow.inc();
                self.freed.notified().await;
            } else {
                match version {
                    Version::Http1 => return self.connect_http1(cluster, tunnel, means).await,
                    Version::Http2 => self.connect_http2(cluster, tunnel, means).await?,
                }
            }
            if let Some(ready) = self.ready(cluster, version) {
                return Ok(ready);
            }
        }
    }

    fn ready(self: &Rc<Self>, cluster: &Arc<Cluster>, version: Version) -> Option<Acquired> {
        match version {
            Version::Http1 => {
                let mut idle = self.idle.borrow_mut();
                idle.retain(|c| !c.sender.is_closed());
                let at = idle.iter().rposition(|c| c.sender.is_ready())?;
                let connection = idle.remove(at);
                Some(Acquired::Http1(self.lease_http1(connection, cluster)))
            }
            Version::Http2 => {
                let mut shared = self.shared.borrow_mut();
                shared.retain(|c| !c.sender.is_closed() && !c.life.is_over(cluster));
                let most = cluster.http.http2.max_concurrent_streams as usize;
                let free = shared.iter().find(|c| c.active.get() < most)?;
                Some(Acquired::Http2(self.lease_http2(free)))
            }
        }
    }

    fn lease_http1(self: &Rc<Self>, connection: Http1, cluster: &Arc<Cluster>) -> Http1Lease {
        connection
            .life
            .requests
            .set(connection.life.requests.get() + 1);
        Http1Lease {
            connection: Some(connection),
            pool: Rc::clone(self),
            cluster: Arc::clone(cluster),
        }
    }

    fn lease_http2(self: &Rc<Self>, connection: &Rc<Http2>) -> Http2Lease {
        connection.active.set(connection.active.get() + 1);
        connection
            .life
            .requests
            .set(connection.life.requests.get() + 1);
        Http2Lease {
            connection: Rc::clone(connection),
            pool: Rc::clone(self),
        }
    }

    async fn connect_http1(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        means: &Means,
    ) -> Result<Acquired, AcquireError> {
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let open = self.count_open(cluster, &endpoint);
        let upstream = dial(cluster, &endpoint, tunnel, means).await?;
        let (sender, connection) = http1::Builder::new()
            .max_headers(100)
            .handshake(TokioIo::new(upstream))
            .await
            .map_err(handshake_error)?;
        cluster.stats.upstream_cx_http1_total.inc();
        means.spawner.spawn_local("http1 upstream", async move {
            // How it ended is told to the request in flight; an idle one ends as it likes.
            let _ = connection.with_upgrades().await;
            drop(open);
        });
        let connection = Http1 {
            sender,
            life: Life::begin(),
        };
        Ok(Acquired::Http1(self.lease_http1(connection, cluster)))
    }

    /// Waits for the one attempt that is made at a time.
    async fn connect_http2(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        means: &Means,
    ) -> Result<(), AcquireError> {
        let connecting = self.connecting.borrow().clone();
        let connecting = connecting.unwrap_or_else(|| {
            let (pool, cluster, tunnel, means) = (
                Rc::clone(self),
                Arc::clone(cluster),
                tunnel.cloned(),
                means.clone(),
            );
            let spawner = means.spawner.clone();
            let attempt = async move {
                let made = pool.make_http2(&cluster, tunnel.as_ref(), &means).await;
                *pool.connecting.borrow_mut() = None;
                made
            };
            let attempt = attempt.boxed_local().shared();
            let for_task = attempt.clone();
            // Driven by a task too, so that a request that is given up does not take the others' connection along.
            spawner.spawn_local("http2 connect", async move {
                let _ = for_task.await; // its outcome is told to those who wait
            });
            *self.connecting.borrow_mut() = Some(attempt.clone());
            attempt
        });
        connecting.await.map_err(AcquireError::from)
    }

    async fn make_http2(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        tunnel: Option<&Arc<TunnelClient>>,
        means: &Means,
    ) -> Result<(), DialError> {
        let endpoint = Arc::clone(&self.endpoint.borrow());
        let open = self.count_open(cluster, &endpoint);
        let upstream = dial(cluster, &endpoint, tunnel, means).await?;
        let settings = &cluster.http.http2;
        let mut builder = http2::Builder::new(LocalExecutor(means.spawner.clone()));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(settings.initial_stream_window_bytes)
            .initial_connection_window_size(settings.initial_connection_window_bytes)
            .max_frame_size(64 * 1024)
            .max_header_list_size(64 * 1024);
        if let Some(keep_alive) = &settings.keep_alive
            && let Some(interval) = keep_alive.interval
        {
            builder
                .keep_alive_interval(interval)
                .keep_alive_timeout(keep_alive.timeout)
                .keep_alive_while_idle(true);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(upstream))
            .await
            .map_err(handshake_error)?;
        cluster.stats.upstream_cx_http2_total.inc();
        means.spawner.spawn_local("http2 upstream", async move {
            let _ = connection.await;
            drop(open);
        });
        self.shared.borrow_mut().push(Rc::new(Http2 {
            sender,
            life: Life::begin(),
            active: Cell::new(0),
        }));
        Ok(())
    }

    /// Counts a connection, from its dialling on, until the guard is dropped.
    fn count_open(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        endpoint: &Arc<Endpoint>,
    ) -> Guard<impl Fn() + use<>> {
        let (pool, cluster, endpoint) =
            (Rc::clone(self), Arc::clone(cluster), Arc::clone(endpoint));
        pool.connections.set(pool.connections.get() + 1);
        cluster.stats.upstream_cx_active.inc();
        cluster.stats.upstream_cx_total.inc();
        endpoint.stats.cx_active.inc();
        endpoint.stats.cx_total.inc();
        Guard(move || {
            pool.connections.set(pool.connections.get() - 1);
            cluster.stats.upstream_cx_active.dec();
            cluster.stats.upstream_cx_destroy.inc();
            endpoint.stats.cx_active.dec();
            pool.freed.notify_waiters();
        })
    }
}

impl Acquired {
    /// Sends a request; the response's headers come back.
    pub(crate) async fn send(
        &mut self,
        request: Request<UpstreamBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let sent = match self {
            Self::Http1(lease) => {
                let connection = lease
                    .connection
                    .as_mut()
                    .expect("it is given back only when the response is over");
                connection.sender.try_send_request(request).await
            }
            Self::Http2(lease) => {
                lease
                    .connection
                    .sender
                    .clone()
                    .try_send_request(request)
                    .await
            }
        };
        sent.map_err(|mut e| match e.take_message() {
            Some(request) => SendError::NotSent(Box::new(request)),
            None => SendError::Failed(e.into_error()),
        })
    }

    /// Gives the connection back after a complete response.
    pub(crate) fn give_back(self) {
        if let Self::Http1(mut lease) = self
            && let Some(connection) = lease.connection.take()
        {
            let pool = &lease.pool;
            if !pool.closed.get() && !connection.sender.is_closed() {
                if connection.life.is_over(&lease.cluster) {
                    lease.cluster.stats.upstream_cx_max_requests.inc();
                    return;
                }
                connection.life.idle_since.set(Instant::now());
                pool.idle.borrow_mut().push(connection);
                pool.freed.notify_one();
            }
        }
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.active.set(connection.active.get() - 1);
        connection.life.idle_since.set(Instant::now());
        self.pool.freed.notify_one();
    }
}

async fn dial(
    cluster: &Cluster,
    endpoint: &Endpoint,
    tunnel: Option<&Arc<TunnelClient>>,
    means: &Means,
) -> Result<Upstream, DialError> {
    let dialled = means
        .originator
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

fn handshake_error(e: hyper::Error) -> DialError {
    let cause = e.source().map(|s| format!(": {s}")).unwrap_or_default();
    DialError::Failed(format!("{e}{cause}").into())
}

fn exceeds(value: i64, limit: u32) -> bool {
    value >= i64::from(limit)
}

/// Does something when dropped.
struct Guard<F: Fn()>(F);

impl<F: Fn()> Drop for Guard<F> {
    fn drop(&mut self) {
        self.0();
    }
}
