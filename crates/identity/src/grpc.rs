//! gRPC over the TLS of [`crate::tls`]: channels of a client, and the connections of a server with who is at the other end.

mod connector;
mod incoming;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Uri};

pub use self::connector::{ConnectFailed, Connector};
pub use self::incoming::{Connection, Incoming, PeerInfo};

/// The server that a channel leads to.
#[derive(Debug, Clone)]
pub struct Target {
    /// `host:port`; a name is looked up for every connection.
    pub address: String,
    /// `None`: plain text.
    pub tls: Option<TargetTls>,
}

/// How the server is verified.
#[derive(Debug, Clone)]
pub struct TargetTls {
    /// See [`crate::tls::https_client_config`].
    pub config: Arc<ClientConfig>,
    /// The name to verify, where it is not the host of the address.
    pub name: Option<ServerName<'static>>,
}

/// A channel that connects when it is first used, and again whenever the connection is gone.
///
/// Pings every 30 s, and gives a connection up that has not answered for 10 s; also while no call is open.
///
/// # Errors
/// When the address is not `host:port`, or no name of a server.
pub fn channel(target: &Target) -> Result<Channel, TargetError> {
    let invalid = || TargetError {
        address: target.address.clone(),
    };
    let (host, port) = target.address.rsplit_once(':').ok_or_else(invalid)?;
    let _: u16 = port.parse().map_err(|_| invalid())?;
    let scheme = if target.tls.is_some() {
        "https"
    } else {
        "http"
    };
    // The endpoint's own scheme is http: TLS is the connector's business. What requests say is the origin.
    let uri: Uri = format!("http://{}", target.address)
        .parse()
        .map_err(|_| invalid())?;
    let origin: Uri = format!("{scheme}://{}", target.address)
        .parse()
        .map_err(|_| invalid())?;
    let tls = match &target.tls {
        None => None,
        Some(tls) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let name = match &tls.name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(|_| invalid())?,
            };
            Some((Arc::clone(&tls.config), name))
        }
    };
    let endpoint = Endpoint::from(uri)
        .origin(origin)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(endpoint.connect_with_connector_lazy(Connector::new(target.address.clone(), tls)))
}

/// Not an address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("server address {address:?}: not HOST:PORT")]
pub struct TargetError {
    /// What was given.
    pub address: String,
}

/// Spec: ztunnel's channel to the CA and to xDS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A whole mesh's first answer should not wait for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

#[cfg(test)]
mod tests;
