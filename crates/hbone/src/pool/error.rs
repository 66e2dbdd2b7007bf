//! Why there is no tunnel.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use waymark_engine::h2::ErrorCode;

use crate::peer::ExpectedPeer;
use crate::server::TlsUnavailable;

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
    #[error("CONNECT reset: {0}")]
    Reset(ErrorCode),
    /// The connection broke before the CONNECT was answered.
    #[error("connection to {destination} broke")]
    Broken {
        /// The socket address.
        destination: SocketAddr,
        /// What HTTP/2 said.
        source: Arc<dyn Error + Send + Sync>,
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
