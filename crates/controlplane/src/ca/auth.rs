//! Who is calling.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tonic::Request;
use waymark_identity::grpc::PeerInfo;
use waymark_identity::{ServiceAccountRef, SpiffeId, TrustDomain};
use waymark_kubernetes::token::{BoundPod, ReviewError, TokenReviewer};

use crate::token::{TokenError, TokenKey};

/// How bearer tokens are verified.
#[derive(Debug, Clone)]
pub enum Tokens {
    /// They are our own.
    Issued(Arc<TokenKey>),
    /// They are those of a cluster's service accounts: its API server is asked.
    Reviewed {
        /// Who asks.
        reviewer: Arc<TokenReviewer>,
        /// The cluster's name, which callers may give.
        cluster_id: String,
    },
}

/// Tells who a caller is, by its client certificate or its bearer token; the CA and xDS use the same one.
#[derive(Debug)]
pub struct Authenticator {
    trust_domain: TrustDomain,
    tokens: Tokens,
}

/// A caller that has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub identity: SpiffeId,
    /// How it has shown that.
    pub proof: Proof,
    /// The pod that its token is bound to, where tokens are.
    pub pod: Option<BoundPod>,
}

/// How a caller has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate that leads to our roots.
    Certificate,
    /// A bearer token.
    Token,
}

/// What a request says about who sent it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// What the connection knows of the peer.
    pub peer: Option<&'a PeerInfo>,
    /// Header `authorization`.
    pub authorization: Option<&'a [u8]>,
    /// Header `clusterid`: the cluster that the token is of.
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> Shown<'a> {
    /// What headers say.
    pub fn of_headers(peer: Option<&'a PeerInfo>, headers: &'a HeaderMap) -> Self {
        let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        Self {
            peer,
            authorization: header("authorization"),
            cluster_id: header("clusterid"),
        }
    }
}

impl Authenticator {
    /// Callers of a trust domain, with tokens that are verified so.
    pub fn new(trust_domain: TrustDomain, tokens: Tokens) -> Self {
        Self {
            trust_domain,
            tokens,
        }
    }

    /// Who sent a request: the first that succeeds of client certificate and bearer token.
    ///
    /// # Errors
    /// Why each of them failed. For our log: the caller is told nothing of it.
    pub async fn authenticate<T>(&self, request: &Request<T>) -> Result<Caller, AuthError> {
        let peer = request.extensions().get::<PeerInfo>();
        let shown = Shown::of_headers(peer, request.metadata().as_ref());
        self.authenticate_shown(shown).await
    }

    /// As [`Authenticator::authenticate`], from what was shown.
    ///
    /// # Errors
    /// See there.
    pub async fn authenticate_shown(&self, shown: Shown<'_>) -> Result<Caller, AuthError> {
        let certificate = match self.by_certificate(shown.peer) {
            Ok(identity) => {
                return Ok(Caller {
                    identity,
                    proof: Proof::Certificate,
                    pod: None,
                });
            }
            Err(e) => e,
        };
        match self.by_token(shown).await {
            Ok((account, pod)) => Ok(Caller {
                identity: account.identity(&self.trust_domain),
                proof: Proof::Token,
                pod,
            }),
            Err(token) => Err(AuthError { certificate, token }),
        }
    }

    fn by_certificate(&self, peer: Option<&PeerInfo>) -> Result<SpiffeId, CertificateFailure> {
        // The certificate was verified in the handshake; one with several of our identities is nobody in particular.
        let mut ours = peer
            .into_iter()
            .flat_map(|p| p.identities.iter())
            .filter(|id| id.is_of(&self.trust_domain));
        match (ours.next(), ours.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(_), Some(_)) => Err(CertificateFailure::Several),
            (None, _) if peer.is_some_and(|p| !p.identities.is_empty()) => {
                Err(CertificateFailure::TrustDomain)
            }
            (None, _) => Err(CertificateFailure::None),
        }
    }

    async fn by_token(
        &self,
        shown: Shown<'_>,
    ) -> Result<(ServiceAccountRef, Option<BoundPod>), TokenFailure> {
        let header = shown.authorization.ok_or(TokenFailure::None)?;
        let header = std::str::from_utf8(header).map_err(|_| TokenFailure::NotBearer)?;
        let (scheme, token) = header.split_once(' ').ok_or(TokenFailure::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenFailure::NotBearer);
        }
        match &self.tokens {
            Tokens::Issued(key) => {
                let account = key.verify(token.trim()).map_err(TokenFailure::Issued)?;
                Ok((account, None))
            }
            Tokens::Reviewed {
                reviewer,
                cluster_id,
            } => {
                if let Some(other) = shown.cluster_id.filter(|id| *id != cluster_id.as_bytes()) {
                    return Err(TokenFailure::Cluster {
                        asked: String::from_utf8_lossy(other).into_owned(),
                        known: cluster_id.clone(),
                    });
                }
                let owner = reviewer
                    .review(token.trim())
                    .await
                    .map_err(TokenFailure::Review)?;
                let account = ServiceAccountRef::new(&owner.namespace, &owner.service_account)
                    .map_err(|_| TokenFailure::Account)?;
                Ok((account, owner.pod))
            }
        }
    }
}

/// Nothing that a caller has shown says who it is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("client certificate: {certificate}; bearer token: {token}")]
pub struct AuthError {
    certificate: CertificateFailure,
    token: TokenFailure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum CertificateFailure {
    #[error("none")]
    None,
    #[error("no identity of our trust domain")]
    TrustDomain,
    #[error("several identities")]
    Several,
}

#[derive(Debug, Clone, thiserror::Error)]
enum TokenFailure {
    #[error("none")]
    None,
    #[error("the authorization header is not a bearer token")]
    NotBearer,
    #[error("{0}")]
    Issued(TokenError),
    #[error("{0}")]
    Review(ReviewError),
    #[error("of cluster {asked:?}, which is not known; known: {known}")]
    Cluster { asked: String, known: String },
    #[error("its service account has a name that no identity can have")]
    Account,
}
