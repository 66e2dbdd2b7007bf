//! The certificate authority's service (`istio.v1.auth.IstioCertificateService`), and who is calling.
//!
//! Spec: control-plane.md 11: the caller is known by a verified client certificate or by a bearer token, and gets a
//! certificate for what it is; a node proxy may ask for the workloads of its node instead.

mod auth;
mod metrics;
mod node;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};
use tracing::{debug, error, warn};
use waymark_identity::client::IMPERSONATED_IDENTITY;
use waymark_identity::{Ca, ServiceAccountRef, SignError, SpiffeId};
use waymark_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use waymark_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};

pub use self::auth::{AuthError, Authenticator, Caller, Proof, Shown, Tokens};
pub use self::metrics::CaMetrics;
pub use self::node::PodsOfTheNode;

/// Says for whom a node proxy may have certificates.
pub trait NodeAuthorizer: Send + Sync + fmt::Debug {
    /// Whether an identity belongs to a workload on the caller's node. The caller is one of the trusted node accounts, and
    /// the identity is of our trust domain.
    fn may_impersonate(&self, caller: &Caller, identity: &SpiffeId) -> bool;
}

/// The authority in force: another may take its place while it serves.
pub type SharedCa = Arc<ArcSwap<Ca>>;

/// Signs certificates for callers.
#[derive(Debug)]
pub struct CaService {
    ca: SharedCa,
    authenticator: Arc<Authenticator>,
    nodes: Arc<dyn NodeAuthorizer>,
    trusted_node_accounts: Vec<ServiceAccountRef>,
    metrics: Arc<CaMetrics>,
}

impl CaService {
    /// A service that signs with `ca`. Accounts in `trusted_node_accounts` may impersonate, as far as `nodes` lets them.
    pub fn new(
        ca: SharedCa,
        authenticator: Arc<Authenticator>,
        nodes: Arc<dyn NodeAuthorizer>,
        trusted_node_accounts: Vec<ServiceAccountRef>,
    ) -> Self {
        let metrics = Arc::new(CaMetrics::new(Arc::clone(&ca)));
        Self {
            ca,
            authenticator,
            nodes,
            trusted_node_accounts,
            metrics,
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<CaMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What is added to a gRPC server.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// For whom the certificate is: the caller, or whom it may impersonate.
    fn subject(
        &self,
        caller: &Caller,
        request: &IstioCertificateRequest,
    ) -> Result<SpiffeId, Refusal> {
        let asked = request
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get(IMPERSONATED_IDENTITY));
        let asked = match asked.and_then(|value| value.kind.as_ref()) {
            None => return Ok(caller.identity.clone()),
            Some(Kind::StringValue(text)) if text.is_empty() => return Ok(caller.identity.clone()),
            Some(Kind::StringValue(text)) => text,
            Some(_) => return Err(Refusal::NotAnIdentity),
        };
        let identity: SpiffeId = asked.parse().map_err(|_| Refusal::NotAnIdentity)?;
        let account = caller.identity.account();
        if !self.trusted_node_accounts.contains(&account) {
            return Err(Refusal::NotANode);
        }
        if !identity.is_of(self.ca.load().trust_domain()) {
            return Err(Refusal::TrustDomain);
        }
        if !self.nodes.may_impersonate(caller, &identity) {
            return Err(Refusal::NotOnTheNode);
        }
        Ok(identity)
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.requests.add();
        let caller = self
            .authenticator
            .authenticate(&request)
            .await
            .map_err(|e| {
                self.metrics.authentication_failures.add();
                warn!(error = %e, "certificate request of an unknown caller");
                Status::unauthenticated("request authenticate failure")
            })?;
        let request = request.into_inner();
        let identity = self.subject(&caller, &request).map_err(|e| {
            self.metrics.authentication_failures.add();
            warn!(caller = %caller.identity, reason = %e, "impersonation refused");
            Status::unauthenticated("request impersonation authentication failure")
        })?;
        let ttl = u64::try_from(request.validity_duration)
            .ok()
            .filter(|s| *s > 0)
            .map(Duration::from_secs);
        let issued = self
            .ca
            .load()
            .sign(&request.csr, &identity, ttl)
            .map_err(|e| self.metrics.refused(&e, &identity))?;
        self.metrics.issued.add();
        debug!(%identity, caller = %caller.identity, serial = %issued.info.serial, "certificate signed");
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.chain,
        }))
    }
}

impl CaMetrics {
    /// Counts and logs why nothing was signed, and what the caller is told.
    fn refused(&self, why: &SignError, identity: &SpiffeId) -> Status {
        match why {
            SignError::Request(cause) => {
                self.parse_errors.add();
                debug!(%identity, error = %cause, "certificate request refused");
                Status::invalid_argument(format!("CSR parsing error ({cause})"))
            }
            SignError::Ttl { .. } => {
                self.sign_errors.add();
                Status::invalid_argument(format!("requested TTL is too long ({why})"))
            }
            SignError::TrustDomain { .. } => {
                self.id_errors.add();
                Status::invalid_argument(why.to_string())
            }
            SignError::SignerNotValid { .. } | SignError::Sign(_) | SignError::Read(_) => {
                self.sign_errors.add();
                error!(%identity, error = %why, "cannot sign certificates");
                Status::internal("CSR signing error")
            }
        }
    }
}

/// Why a node proxy does not get a certificate for somebody; for our log, the caller is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("the impersonated identity is none")]
    NotAnIdentity,
    #[error("the caller is not a trusted node account")]
    NotANode,
    #[error("the impersonated identity is of another trust domain")]
    TrustDomain,
    #[error("no workload of the caller's node has the impersonated identity")]
    NotOnTheNode,
}

/// Longest request that is read; one with an RSA-8192 key has about 4 KiB.
const MAX_REQUEST: usize = 64 << 10;

#[cfg(test)]
mod tests;
