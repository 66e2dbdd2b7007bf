//! The mesh's own certificates as what servers and pools ask for.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use waymark_identity::tls::{client_config, server_config};
use waymark_identity::{CertHandle, CertStore, PeerPolicy, SpiffeId};

use crate::pool::ClientTls;
use crate::server::{ServerTls, TlsUnavailable};

/// Serves as one identity, to whom a policy admits.
pub struct ServeAs {
    handle: CertHandle,
    config: Arc<rustls::ServerConfig>,
}

impl ServeAs {
    /// The certificate is whatever `handle` has at each handshake.
    #[must_use]
    pub fn new(handle: CertHandle, policy: PeerPolicy) -> Self {
        Self {
            config: server_config(&handle, policy),
            handle,
        }
    }
}

impl ServerTls for ServeAs {
    fn server_config(
        &self,
        _: SocketAddr,
    ) -> BoxFuture<'_, Result<Arc<rustls::ServerConfig>, TlsUnavailable>> {
        async {
            self.handle
                .ready()
                .await
                .map_err(|e| TlsUnavailable(e.to_string().into()))?;
            Ok(Arc::clone(&self.config))
        }
        .boxed()
    }
}

/// Dials as one identity and no other.
impl ClientTls for CertHandle {
    fn client_config<'a>(
        &'a self,
        source: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Arc<rustls::ClientConfig>, TlsUnavailable>> {
        async move {
            if self.identity().is_some_and(|own| own != source) {
                return Err(TlsUnavailable(format!("{source} is not ours").into()));
            }
            self.ready()
                .await
                .map_err(|e| TlsUnavailable(e.to_string().into()))?;
            Ok(client_config(self, PeerPolicy::AnyTrusted))
        }
        .boxed()
    }
}

/// Dials as any identity that the store can get a certificate for.
impl ClientTls for CertStore {
    fn client_config<'a>(
        &'a self,
        source: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Arc<rustls::ClientConfig>, TlsUnavailable>> {
        async move {
            let handle = self.handle(source);
            handle
                .ready()
                .await
                .map_err(|e| TlsUnavailable(e.to_string().into()))?;
            Ok(client_config(&handle, PeerPolicy::AnyTrusted))
        }
        .boxed()
    }
}
