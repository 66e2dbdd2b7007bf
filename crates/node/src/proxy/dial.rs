//! Connecting onwards: to an application, to an address in clear, through a tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::net::TcpStream;
use waymark_hbone::{Authority, ConnectError, Connected, ExpectedPeer, PoolKey};
use waymark_identity::SpiffeId;
use waymark_rt::connect::ConnectError as TcpError;

use super::Proxy;
use crate::decision::{HboneRoute, Target};
use crate::telemetry::{Outcome, ResponseFlag, chain};
use crate::workers::Worker;

/// For a name that an endpoint has instead of an address.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection onwards was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connection failed")]
    Tcp(#[source] TcpError),
    #[error("resolve {host}")]
    Resolve { host: Arc<str>, source: io::Error },
    #[error("hbone")]
    Hbone(#[source] ConnectError),
}

impl DialError {
    /// What the access line and the metrics are told, in the words that upstream uses.
    pub(super) fn outcome(&self) -> Outcome {
        let (flag, text) = match self {
            Self::Tcp(TcpError::Timeout { .. }) => (
                ResponseFlag::Connect,
                "connection failed: timed out".to_owned(),
            ),
            Self::Tcp(TcpError::Io { source, .. } | TcpError::Bind { source, .. }) => (
                ResponseFlag::Connect,
                format!("connection failed: {source}"),
            ),
            Self::Resolve { .. } => (ResponseFlag::Connect, chain(self)),
            Self::Hbone(error) => hbone_outcome(error),
        };
        Outcome::NotConnected(flag, text)
    }
}

fn hbone_outcome(error: &ConnectError) -> (ResponseFlag, String) {
    let text = chain(error);
    match error {
        ConnectError::Tcp { source, .. } => (ResponseFlag::Connect, format!("io error: {source}")),
        ConnectError::Timeout { .. } => (
            ResponseFlag::NetworkPolicy,
            format!(
                "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: {text}"
            ),
        ),
        ConnectError::Certificate(_) => (
            ResponseFlag::IdentityError,
            format!("identity error: {text}"),
        ),
        ConnectError::Tls { .. } => (
            ResponseFlag::TlsFailure,
            format!("tls handshake error: {text}"),
        ),
        ConnectError::PeerIdentity { got, want, .. } => (
            ResponseFlag::TlsFailure,
            format!(
                "identity verification error: peer did not present the expected SAN ({want}), got {got}"
            ),
        ),
        ConnectError::Http2 { .. } => (
            ResponseFlag::H2HandshakeFailure,
            format!("http2 handshake failed: {text}"),
        ),
        ConnectError::Status(status) => (ResponseFlag::Connect, format!("http status: {status}")),
        ConnectError::NoStreams { .. } | ConnectError::Reset(_) | ConnectError::Broken { .. } => {
            (ResponseFlag::Connect, format!("h2 failed: {text}"))
        }
        ConnectError::ResponseTimeout | ConnectError::Draining => (ResponseFlag::Connect, text),
    }
}

impl Proxy {
    /// Connects in clear, from `source` where that address can be used, so that the other side sees the client's; from any
    /// address otherwise.
    pub(super) async fn dial_tcp(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<TcpStream, DialError> {
        let options = self.shared.connect;
        // An address of the other family, or an outside address for a loopback destination, would never do.
        let source = source.filter(|ip| {
            ip.is_ipv4() == to.is_ipv4() && (ip.is_loopback() || !to.ip().is_loopback())
        });
        let Some(source) = source else {
            return waymark_rt::connect(to, &options)
                .await
                .map_err(DialError::Tcp);
        };
        match waymark_rt::connect(to, &options.from_source(source)).await {
            Err(TcpError::Bind { .. }) => waymark_rt::connect(to, &options)
                .await
                .map_err(DialError::Tcp),
            result => result.map_err(DialError::Tcp),
        }
    }

    /// The address of a target; a name is resolved anew for each connection, addresses of the wanted family first.
    pub(super) async fn resolve(&self, target: &Target) -> Result<SocketAddr, DialError> {
        let (host, port, like) = match target {
            Target::Address(address) => return Ok(*address),
            Target::Name { host, port, like } => (host, *port, *like),
        };
        let failed = |source| DialError::Resolve {
            host: Arc::clone(host),
            source,
        };
        let lookup = tokio::net::lookup_host((&**host, port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
            Ok(found) => found.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let mut found: Vec<SocketAddr> = found.collect();
        let preferred = found
            .iter()
            .any(|address| address.is_ipv4() == like.is_ipv4());
        found.retain(|address| !preferred || address.is_ipv4() == like.is_ipv4());
        match found.len() {
            0 => Err(failed(io::ErrorKind::NotFound.into())),
            n => Ok(found[rand::random_range(0..n)]),
        }
    }

    /// Opens a tunnel as `source`, from `bind` if given.
    pub(super) async fn dial_hbone(
        &self,
        worker: &Worker,
        route: &HboneRoute,
        address: SocketAddr,
        (source, bind): (SpiffeId, Option<IpAddr>),
        headers: HeaderMap,
    ) -> Result<Connected, DialError> {
        let key = PoolKey {
            source,
            expected: ExpectedPeer::AnyOf(Arc::clone(&route.expected)),
            destination: address,
            bind: bind.filter(|ip| ip.is_ipv4() == address.is_ipv4()),
        };
        let authority = Authority::from(route.authority);
        self.pool(worker)
            .connect(&key, &authority, headers)
            .await
            .map_err(DialError::Hbone)
    }
}
