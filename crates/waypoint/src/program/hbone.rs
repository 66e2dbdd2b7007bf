//! The two ends of HBONE: what `connect_terminate` and `connect_originate` say.

use std::net::SocketAddr;
use std::time::Duration;

use crate::program::{KeepAlive, StringMatch};

/// How tunnels from clients are accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct HboneServer {
    /// Addresses as configured; an unspecified address means the waypoint's own.
    pub bind: Vec<SocketAddr>,
    /// Concurrent CONNECT streams per connection.
    pub max_concurrent_streams: u32,
    /// HTTP/2 initial stream window, if configured.
    pub initial_stream_window_bytes: Option<u32>,
    /// HTTP/2 initial connection window, if configured.
    pub initial_connection_window_bytes: Option<u32>,
    /// HTTP/2 PINGs.
    pub keep_alive: Option<KeepAlive>,
    /// Which client certificates are accepted, besides being signed by the root.
    pub peers: PeerRule,
    /// Value of the `server` header on CONNECT responses.
    pub server_name: http::HeaderValue,
    /// A tunnel connection without streams is closed after that long.
    pub idle_timeout: Option<Duration>,
}

/// How tunnels to endpoints are made.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelClient {
    /// Port that replaces the endpoint's own: 15008.
    pub port: u16,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// A tunnel connection without streams is closed after that long.
    pub idle_timeout: Option<Duration>,
    /// Which server certificates are accepted, besides being signed by the root.
    pub peers: PeerRule,
    /// HTTP/2 initial stream window, if configured.
    pub initial_stream_window_bytes: Option<u32>,
    /// HTTP/2 initial connection window, if configured.
    pub initial_connection_window_bytes: Option<u32>,
    /// HTTP/2 PINGs.
    pub keep_alive: Option<KeepAlive>,
}

/// The URI SANs that are accepted of a peer; one that matches is enough.
///
/// [`PeerRule::Anyone`] accepts every certificate that the root signed: a control plane that validates no trust domain
/// sends no matcher.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerRule {
    /// No matcher was configured.
    Anyone,
    /// At least one of these has to match.
    UriSan(Vec<StringMatch>),
}

impl PeerRule {
    /// Whether a peer with these URI SANs is accepted.
    pub fn accepts<'a>(&self, uri_sans: impl IntoIterator<Item = &'a str>) -> bool {
        match self {
            PeerRule::Anyone => true,
            PeerRule::UriSan(any) => uri_sans
                .into_iter()
                .any(|san| any.iter().any(|m| m.matches(san))),
        }
    }
}
