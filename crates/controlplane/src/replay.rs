//! A captured configuration, served again as istiod would: what a proxy makes of it can be tried without a cluster.
//!
//! It behaves as istiod does where that differs from our own server (spec: waypoint-xds.md 3.2): resources have no version,
//! everything watched may be pushed again though nothing has changed, endpoints follow a request for clusters, and a name
//! that is asked for is answered even if there is nothing behind it.

mod capture;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tonic::transport::Server;
use waymark_identity::ca::ServingName;
use waymark_identity::grpc::Incoming;
use waymark_identity::tls::https_server_config;
use waymark_identity::{
    Ca, CaError, CertHandle, ServiceAccountRef, SignError, SpiffeError, SpiffeId, TrustDomain,
};
use waymark_rt::{Clock, ListenError, ListenOptions, Shutdown, SystemClock, listen};

pub use self::capture::{Capture, CaptureError};
use self::stream::Replay;
use crate::ca::{Authenticator, CaService, Caller, NodeAuthorizer, SharedCa, Tokens};
use crate::token::{TokenFiles, TokenFilesError, TokenKey, TokenKeyError};

/// What is served, and where.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The capture.
    pub file: PathBuf,
    /// The node whose resources every client is given; `None`: those of the node that it says it is, or of the only
    /// waypoint.
    pub node: Option<String>,
    /// Where to listen.
    pub address: SocketAddr,
    /// Certificate authority, token key and tokens, made where they are missing; `None`: plain text, and no certificates.
    pub ca_dir: Option<PathBuf>,
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// How often everything is pushed again.
    pub repeat: Option<Duration>,
}

/// What happens, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayEvent {
    /// Clients may come.
    Listening(SocketAddr),
    /// A node's token was written there.
    Token(PathBuf),
    /// A field, an enum value or a message of the capture that is not known was left out, or a resource altogether.
    Skipped(String),
    /// A client came, and is given the resources of a node.
    Connected {
        /// Who it says it is.
        client: String,
        /// The node.
        node: String,
    },
    /// A client accepted a response.
    Accepted {
        /// Short name of the type.
        kind: String,
        /// How many resources.
        resources: usize,
    },
    /// A client refused a response.
    Refused {
        /// Short name of the type.
        kind: String,
        /// Its words.
        why: String,
    },
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The capture.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate authority.
    #[error("certificate authority")]
    Ca(#[from] CaError),
    /// The server's certificate.
    #[error("serving certificate")]
    Serving(#[from] SignError),
    /// The token key.
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    /// A token.
    #[error(transparent)]
    Tokens(#[from] TokenFilesError),
    /// A node of the capture is of no service account that can be.
    #[error("service account of node {node}")]
    Account {
        /// Its id.
        node: String,
        /// Why.
        source: SpiffeError,
    },
    /// The directory of the certificate authority.
    #[error("write {path}", path = .path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server ended.
    #[error("gRPC server")]
    Server(#[from] tonic::transport::Error),
}

/// Told of each event.
pub type Watcher = Arc<dyn Fn(ReplayEvent) + Send + Sync>;

/// Serves a capture until `shutdown` drains.
///
/// # Errors
/// When it cannot start, or the server fails.
pub async fn serve(
    options: ReplayOptions,
    watcher: Watcher,
    shutdown: Shutdown,
) -> Result<(), ReplayError> {
    let (capture, skipped) = Capture::read(&options.file, options.node.as_deref())?;
    for what in skipped {
        watcher(ReplayEvent::Skipped(what));
    }
    let listener = listen(options.address, &ListenOptions::default())?;
    let address = listener.local_addr();
    let trust = match &options.ca_dir {
        None => None,
        Some(dir) => Some(trust(dir, &options, &capture, address.ip(), &watcher)?),
    };
    let authenticator = trust.as_ref().map(|trust| Arc::clone(&trust.authenticator));
    let replay = Replay::new(
        capture,
        authenticator,
        options.repeat,
        Arc::clone(&watcher),
        shutdown.clone(),
    );
    let ends = {
        let token = shutdown.draining_token();
        async move { token.cancelled().await }
    };
    watcher(ReplayEvent::Listening(address));
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .tcp_nodelay(true)
        .add_service(replay.into_server());
    match trust {
        None => {
            let incoming = Incoming::plain(listener, shutdown);
            server.serve_with_incoming_shutdown(incoming, ends).await?;
        }
        Some(trust) => {
            let incoming = Incoming::tls(listener, https_server_config(&trust.serving), shutdown);
            let ca = CaService::new(trust.ca, trust.authenticator, Arc::new(Nobody), Vec::new());
            let server = server.add_service(ca.into_server());
            server.serve_with_incoming_shutdown(incoming, ends).await?;
        }
    }
    Ok(())
}

struct Trust {
    ca: SharedCa,
    authenticator: Arc<Authenticator>,
    serving: CertHandle,
}

fn trust(
    dir: &Path,
    options: &ReplayOptions,
    capture: &Capture,
    own: IpAddr,
    watcher: &Watcher,
) -> Result<Trust, ReplayError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = Ca::load_or_create(dir, &options.trust_domain, Arc::clone(&clock))?;
    let key = Arc::new(TokenKey::load_or_create(&dir.join("token-key"), clock)?);
    let tokens = TokenFiles::new(&dir.join("tokens"), Arc::clone(&key))?;
    for (node, namespace, account) in capture.accounts() {
        let account =
            ServiceAccountRef::new(namespace, account).map_err(|source| ReplayError::Account {
                node: node.to_owned(),
                source,
            })?;
        watcher(ReplayEvent::Token(tokens.ensure(&account)?));
    }
    let mut names: Vec<ServingName> = ["istiod.istio-system.svc", "localhost"]
        .map(|name| ServingName::Dns(name.to_owned()))
        .into();
    names.push(ServingName::Ip(Ipv4Addr::LOCALHOST.into()));
    if !own.is_unspecified() && own != IpAddr::from(Ipv4Addr::LOCALHOST) {
        names.push(ServingName::Ip(own));
    }
    let serving = CertHandle::fixed(ca.serving(&names, None)?);
    Ok(Trust {
        ca: Arc::new(ArcSwap::from_pointee(ca)),
        authenticator: Arc::new(Authenticator::new(
            options.trust_domain.clone(),
            Tokens::Issued(key),
        )),
        serving,
    })
}

/// No node proxy may have a workload's certificate here.
#[derive(Debug)]
struct Nobody;

impl NodeAuthorizer for Nobody {
    fn may_impersonate(&self, _caller: &Caller, _identity: &SpiffeId) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
