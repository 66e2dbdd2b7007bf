//! Connections to endpoints: a tunnel over the shared HBONE connection to the endpoint's node, or plain TCP.
//!
//! What Envoy does in `connect_originate`, as a function call.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http::StatusCode;
use waymark_driver::{Io, Level, Socket, TcpStream, timeout};
use waymark_hbone::{
    Authority, ClientTls, ConnectError, Drain, ExpectedPeer, Pool, PoolKey, PoolSettings,
    StreamWindow, Tunnel,
};
use waymark_identity::SpiffeId;
use waymark_rt::ConnectOptions;

use crate::program::{Endpoint, EndpointKind, TunnelClient};

/// A connection to an endpoint.
#[derive(Debug)]
pub(crate) enum Upstream {
    /// Through a tunnel.
    Tunnel(Tunnel),
    /// In plain.
    Tcp(Socket),
}

/// Why there is no connection to an endpoint.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DialError {
    /// TCP, TLS, HTTP/2 and CONNECT together took longer than the cluster's connect timeout.
    #[error("connection timeout")]
    Timeout,
    /// Something on the way refused. The text is for the operator.
    #[error("{0}")]
    Failed(Arc<str>),
    /// The destination's node denies it (401, 403): another attempt would be denied too.
    #[error("denied: CONNECT answered {0}")]
    Denied(StatusCode),
}

/// One worker's way to endpoints.
pub(crate) struct Originator {
    tls: Arc<dyn ClientTls>,
    source: SpiffeId,
    bind: Option<IpAddr>,
    drain: Drain,
    current: RefCell<Option<Current>>,
    /// Pools of earlier settings, until their last tunnel has ended.
    retired: RefCell<Vec<Pool>>,
}

#[derive(Clone)]
struct Current {
    settings: Arc<TunnelClient>,
    expected: ExpectedPeer,
    pool: Pool,
}

impl Originator {
    /// Tunnels as `source`, dialled from `bind`.
    pub(crate) fn new(tls: Arc<dyn ClientTls>, source: SpiffeId, bind: Option<IpAddr>) -> Self {
        Self {
            tls,
            source,
            bind,
            drain: Drain::new(),
            current: RefCell::default(),
            retired: RefCell::default(),
        }
    }

    /// Connects to an endpoint within `limit`.
    pub(crate) async fn dial(
        &self,
        tunnel: Option<&Arc<TunnelClient>>,
        endpoint: &Endpoint,
        limit: Duration,
    ) -> Result<Upstream, DialError> {
        match endpoint.kind {
            EndpointKind::Plain(address) => self.dial_plain(address, limit).await,
            EndpointKind::Tunnel { local, via } => {
                let Some(settings) = tunnel else {
                    return Err(DialError::Failed(
                        "no connect_originate was received".into(),
                    ));
                };
                let current = self.current(settings);
                let destination = via.unwrap_or_else(|| SocketAddr::new(local.ip(), settings.port));
                let key = PoolKey {
                    source: self.source.clone(),
                    expected: current.expected,
                    destination,
                    bind: self.bind.filter(|ip| ip.is_ipv4() == destination.is_ipv4()),
                };
                let authority = Authority::from(local);
                let connected = timeout(limit, current.pool.connect(&key, &authority, [])).await;
                match connected {
                    Ok(Ok(connected)) => Ok(Upstream::Tunnel(connected.tunnel)),
                    Ok(Err(e)) => Err(e.into()),
                    Err(_) => Err(DialError::Timeout),
                }
            }
        }
    }

    /// Lets go of connections to nodes that are not among `nodes`, if those have changed, and of pools that nobody uses any
    /// more.
    pub(crate) fn retain(&self, nodes: Option<&HashSet<SocketAddr>>) {
        if let (Some(current), Some(nodes)) = (&*self.current.borrow(), nodes) {
            current.pool.retain(|key| nodes.contains(&key.destination));
        }
        self.retired
            .borrow_mut()
            .retain(|pool| pool.stats().streams_active.load(Ordering::Relaxed) > 0);
    }

    async fn dial_plain(
        &self,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<Upstream, DialError> {
        let options = ConnectOptions {
            source: self.bind.filter(|ip| ip.is_ipv4() == address.is_ipv4()),
            timeout: limit,
            ..ConnectOptions::default()
        };
        match TcpStream::connect(address, &options).await {
            Ok(tcp) => match Socket::plain(tcp) {
                Ok(socket) => Ok(Upstream::Tcp(socket)),
                Err(e) => Err(DialError::Failed(chain_text(&e))),
            },
            Err(waymark_rt::ConnectError::Timeout { .. }) => Err(DialError::Timeout),
            Err(
                e @ (waymark_rt::ConnectError::Bind { .. } | waymark_rt::ConnectError::Io { .. }),
            ) => Err(DialError::Failed(chain_text(&e))),
        }
    }

    fn current(&self, settings: &Arc<TunnelClient>) -> Current {
        let mut current = self.current.borrow_mut();
        if let Some(current) = &*current
            && (Arc::ptr_eq(&current.settings, settings) || current.settings == *settings)
        {
            return current.clone();
        }
        let rule = Arc::clone(settings);
        let fresh = Current {
            settings: Arc::clone(settings),
            expected: ExpectedPeer::Rule(waymark_hbone::PeerRule::new(move |uri| {
                rule.peers.accepts([uri])
            })),
            pool: Pool::new(Arc::clone(&self.tls), pool_settings(settings), &self.drain),
        };
        if let Some(old) = current.replace(fresh.clone()) {
            old.pool.retain(|_| false);
            self.retired.borrow_mut().push(old.pool);
        }
        fresh
    }
}

fn pool_settings(tunnel: &TunnelClient) -> PoolSettings {
    let mut settings = PoolSettings {
        connect_timeout: tunnel.connect_timeout,
        idle_timeout: tunnel.idle_timeout.unwrap_or(Duration::from_secs(3600)),
        ..PoolSettings::default()
    };
    if let Some(window) = tunnel.initial_stream_window_bytes {
        settings.http2.stream_window = StreamWindow::Fixed(window);
    }
    if let Some(window) = tunnel.initial_connection_window_bytes {
        settings.http2.connection_window_bytes = window;
    }
    if let Some(keep_alive) = &tunnel.keep_alive {
        settings.http2.ping_interval = keep_alive.interval.unwrap_or(settings.http2.ping_interval);
        settings.http2.ping_timeout = keep_alive.timeout;
    }
    settings
}

impl From<ConnectError> for DialError {
    fn from(e: ConnectError) -> Self {
        match e {
            ConnectError::Timeout { .. } | ConnectError::ResponseTimeout => Self::Timeout,
            ConnectError::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                Self::Denied(status)
            }
            ConnectError::Tcp { .. }
            | ConnectError::Certificate(_)
            | ConnectError::Tls { .. }
            | ConnectError::PeerIdentity { .. }
            | ConnectError::NoStreams { .. }
            | ConnectError::Status(_)
            | ConnectError::Reset(_)
            | ConnectError::Broken { .. }
            | ConnectError::Draining => Self::Failed(chain_text(&e)),
        }
    }
}

/// An error with its causes.
fn chain_text(e: &dyn std::error::Error) -> Arc<str> {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text.into()
}

impl Upstream {
    /// When a connection with many streams over it hands on what they have to say.
    pub(crate) fn writer_level(&self) -> Level {
        match self {
            Self::Tunnel(_) => Level::InnerWriter,
            Self::Tcp(_) => Level::SocketWriter,
        }
    }
}

impl Io for Upstream {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        match self {
            Self::Tunnel(tunnel) => tunnel.poll_fill_more(have, cx),
            Self::Tcp(socket) => socket.poll_fill_more(have, cx),
        }
    }

    fn consume(&mut self, bytes: usize) {
        match self {
            Self::Tunnel(tunnel) => tunnel.consume(bytes),
            Self::Tcp(socket) => socket.consume(bytes),
        }
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Tunnel(tunnel) => tunnel.poll_put(bytes, cx),
            Self::Tcp(socket) => socket.poll_put(bytes, cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tunnel(tunnel) => tunnel.poll_finish(cx),
            Self::Tcp(socket) => socket.poll_finish(cx),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Tunnel(tunnel) => tunnel.abort(),
            Self::Tcp(socket) => socket.abort(),
        }
    }
}
