//! Who is calling.

use std::sync::Arc;

use tonic::Request;
use waymark_identity::grpc::PeerInfo;
use waymark_identity::{SpiffeId, TrustDomain};

use crate::token::{TokenError, TokenKey};

/// Tells who a caller is, by its client certificate or its bearer token; the CA and xDS use the same one.
#[derive(Debug)]
pub struct Authenticator {
    trust_domain: TrustDomain,
    tokens: Arc<TokenKey>,
}

/// A caller that has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub identity: SpiffeId,
    /// How it has shown that.
    pub proof: Proof,
}

/// How a caller has shown who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate that leads to our roots.
    Certificate,
    /// A bearer token that we issued.
    Token,
}

impl Authenticator {
    /// Callers of a trust domain, with tokens of a key.
    pub fn new(trust_domain: TrustDomain, tokens: Arc<TokenKey>) -> Self {
        Self {
            trust_domain,
            tokens,
        }
    }

    /// Who sent a request: the first that succeeds of client certificate and bearer token.
    ///
    /// # Errors
    /// Why each of them failed. For our log: the caller is told nothing of it.
    pub fn authenticate<T>(&self, request: &Request<T>) -> Result<Caller, AuthError> {
        let authorization = request
            .metadata()
            .get("authorization")
            .map(|value| value.as_bytes());
        self.authenticate_parts(request.extensions().get::<PeerInfo>(), authorization)
    }

    /// As [`Authenticator::authenticate`], from what the connection and the `authorization` header say.
    ///
    /// # Errors
    /// See there.
    pub fn authenticate_parts(
        &self,
        peer: Option<&PeerInfo>,
        authorization: Option<&[u8]>,
    ) -> Result<Caller, AuthError> {
        let by_certificate = self.by_certificate(peer);
        let certificate = match by_certificate {
            Ok(identity) => {
                return Ok(Caller {
                    identity,
                    proof: Proof::Certificate,
                });
            }
            Err(e) => e,
        };
        match self.by_token(authorization) {
            Ok(identity) => Ok(Caller {
                identity,
                proof: Proof::Token,
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

    fn by_token(&self, authorization: Option<&[u8]>) -> Result<SpiffeId, TokenFailure> {
        let header = authorization.ok_or(TokenFailure::None)?;
        let header = std::str::from_utf8(header).map_err(|_| TokenFailure::NotBearer)?;
        let (scheme, token) = header.split_once(' ').ok_or(TokenFailure::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenFailure::NotBearer);
        }
        let account = self
            .tokens
            .verify(token.trim())
            .map_err(TokenFailure::Token)?;
        Ok(account.identity(&self.trust_domain))
    }
}

/// Nothing that a caller has shown says who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum TokenFailure {
    #[error("none")]
    None,
    #[error("the authorization header is not a bearer token")]
    NotBearer,
    #[error("{0}")]
    Token(TokenError),
}
