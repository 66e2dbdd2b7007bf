//! The certificates of this node's workloads, as TLS configurations of the tunnels.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tracing::debug;
use waymark_hbone::{ClientTls, ServerTls, TlsUnavailable};
use waymark_identity::{CertHandle, CertStore, PeerPolicy, SpiffeId, TrustDomain, tls};
use waymark_rt::Task;

use crate::state::StateHandle;

/// Certificates by identity. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    shared: Arc<Shared>,
}

struct Shared {
    store: CertStore,
    state: StateHandle,
    own: SpiffeId,
    by_identity: Mutex<HashMap<SpiffeId, Configs>>,
}

/// Both follow the rotation of the handle by themselves.
#[derive(Clone)]
struct Configs {
    handle: CertHandle,
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
}

impl Certificates {
    /// Serves the identities of `state`'s local workloads, and the proxy's `own`.
    pub fn new(store: CertStore, state: StateHandle, own: SpiffeId) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                state,
                own,
                by_identity: Mutex::default(),
            }),
        }
    }

    /// The store behind it, for dumps.
    pub fn store(&self) -> &CertStore {
        &self.shared.store
    }

    /// Who the proxy itself is.
    pub fn own(&self) -> &SpiffeId {
        &self.shared.own
    }

    /// Starts to fetch the certificates of local workloads when they appear, before their first connection, and lets go of
    /// those whose last workload is gone. Runs until the task is dropped.
    pub fn follow(&self) -> Task<()> {
        let this = self.clone();
        waymark_rt::spawn("certificates", async move {
            let mut feed = this.shared.state.feed();
            loop {
                this.bring_in_line();
                feed.next().await;
            }
        })
    }

    fn bring_in_line(&self) {
        let shared = &self.shared;
        let store = shared.state.load_full();
        shared.store.handle(&shared.own);
        for identity in store.local_identities() {
            shared.store.handle(identity);
        }
        let held = shared
            .store
            .status()
            .into_iter()
            .filter_map(|status| status.identity);
        for identity in held.filter(|id| *id != shared.own && !store.is_local_identity(id)) {
            debug!(%identity, "no local workload needs this certificate any more");
            self.configs().remove(&identity);
            shared.store.forget(&identity);
        }
    }

    async fn ready(&self, identity: &SpiffeId) -> Result<Configs, TlsUnavailable> {
        let known = self.configs().get(identity).cloned();
        let configs = match known {
            Some(configs) => configs,
            None => {
                let made = Configs::new(self.shared.store.handle(identity), identity)?;
                self.configs()
                    .entry(identity.clone())
                    .or_insert(made)
                    .clone()
            }
        };
        if configs.handle.current().is_none() {
            configs
                .handle
                .ready()
                .await
                .map_err(|e| TlsUnavailable(crate::telemetry::chain(&e).into()))?;
        }
        Ok(configs)
    }

    fn configs(&self) -> std::sync::MutexGuard<'_, HashMap<SpiffeId, Configs>> {
        self.shared
            .by_identity
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Configs {
    fn new(handle: CertHandle, identity: &SpiffeId) -> Result<Self, TlsUnavailable> {
        // A client has to be of the server's own trust domain (hbone-and-l4.md 2.3).
        let domain: TrustDomain = identity
            .trust_domain()
            .parse()
            .map_err(|e: waymark_identity::SpiffeError| TlsUnavailable(e.to_string().into()))?;
        Ok(Self {
            client: tls::client_config(&handle, PeerPolicy::AnyTrusted),
            server: tls::server_config(&handle, PeerPolicy::trust_domain(domain)),
            handle,
        })
    }
}

impl ClientTls for Certificates {
    fn client_config<'a>(
        &'a self,
        source: &'a SpiffeId,
    ) -> BoxFuture<'a, Result<Arc<rustls::ClientConfig>, TlsUnavailable>> {
        Box::pin(async move { Ok(self.ready(source).await?.client) })
    }
}

impl ServerTls for Certificates {
    fn server_config(
        &self,
        local: SocketAddr,
    ) -> BoxFuture<'_, Result<Arc<rustls::ServerConfig>, TlsUnavailable>> {
        Box::pin(async move {
            let workload = self.shared.state.load().local_workload(local.ip()).cloned();
            let workload = workload
                .ok_or_else(|| TlsUnavailable(format!("no workload at {}", local.ip()).into()))?;
            Ok(self.ready(&workload.identity).await?.server)
        })
    }
}
