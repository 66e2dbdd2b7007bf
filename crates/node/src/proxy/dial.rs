//! Connecting onwards: to an application, to an address in clear, through a tunnel.

use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use waymark_driver::h2::{ConnectionEnd, OpenError, StreamEnd};
use waymark_driver::{Socket, TcpStream, timeout};
use waymark_hbone::{Authority, ConnectError, Connected, ExpectedPeer, PoolKey};
use waymark_identity::SpiffeId;
use waymark_rt::connect::{ConnectError as TcpError, ConnectOptions};

use super::Proxy;
use crate::decision::{HboneRoute, Target};
use crate::headers;
use crate::telemetry::{Outcome, ResponseFlag, chain};
use crate::workers::Local;

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
        ConnectError::Broken { source, .. } if is_protocol_error(&**source) => (
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

/// Whether what ended a connection before the first answer was no HTTP/2.
fn is_protocol_error(source: &(dyn Error + 'static)) -> bool {
    let end = match source.downcast_ref() {
        Some(StreamEnd::Connection(end)) => Some(end),
        Some(StreamEnd::Reset { .. } | StreamEnd::GivenUp) => None,
        None => match source.downcast_ref() {
            Some(OpenError::Over(end)) => Some(end),
            Some(OpenError::TooManyStreams | OpenError::Leaving) | None => None,
        },
    };
    matches!(end, Some(ConnectionEnd::Protocol(_)))
}

impl Proxy {
    /// Connects in clear, from `source` where that address can be used, so that the other side sees the client's; from any
    /// address otherwise.
    pub(super) async fn dial_tcp(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Socket, DialError> {
        let options = self.shared.connect;
        // An address of the other family, or an outside address for a loopback destination, would never do.
        let source = source.filter(|ip| {
            ip.is_ipv4() == to.is_ipv4() && (ip.is_loopback() || !to.ip().is_loopback())
        });
        let Some(source) = source else {
            return connect(to, &options).await;
        };
        match connect(to, &options.from_source(source)).await {
            Err(DialError::Tcp(TcpError::Bind { .. })) => connect(to, &options).await,
            result => result,
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
        let name = Arc::clone(host);
        let lookup = {
            let _control = self.shared.control.enter();
            waymark_rt::spawn("resolve", async move {
                let found = tokio::net::lookup_host((&*name, port)).await?;
                Ok(found.collect::<Vec<SocketAddr>>())
            })
        };
        let found = timeout(RESOLVE_TIMEOUT, lookup)
            .await
            .map_err(|_| io::ErrorKind::TimedOut.into())
            .and_then(|looked_up| looked_up.unwrap_or_else(|e| Err(io::Error::other(e))));
        let mut found = found.map_err(failed)?;
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
        here: &Local,
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
        self.pool(here)
            .connect(&key, &authority, headers::fields(&headers))
            .await
            .map_err(DialError::Hbone)
    }
}

async fn connect(to: SocketAddr, options: &ConnectOptions) -> Result<Socket, DialError> {
    let stream = TcpStream::connect(to, options)
        .await
        .map_err(DialError::Tcp)?;
    Socket::plain(stream).map_err(|source| DialError::Tcp(TcpError::Io { addr: to, source }))
}
