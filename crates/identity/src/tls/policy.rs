//! Which peers are admitted.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::roots::PeerNames;
use crate::spiffe::{ServiceAccountRef, SpiffeId, TrustDomain};

/// Which peers are admitted, of those whose certificate leads to our roots. Used by both sides.
#[derive(Debug, Clone)]
pub enum PeerPolicy {
    /// At least one URI of the certificate is an identity of one of these trust domains. None are given: nobody.
    TrustDomains(Vec<TrustDomain>),
    /// At least one URI of the certificate is one of these. None are given: nobody.
    AnyOf(Arc<BTreeSet<SpiffeId>>),
    /// At least one URI of the certificate starts with one of these, as Envoy's SAN matchers say it
    /// (`spiffe://cluster.local/`). None are given: nobody.
    Prefixes(Vec<String>),
    /// Everybody.
    AnyTrusted,
}

/// What a client expects of a server: the same choice.
pub use self::PeerPolicy as Expected;

impl PeerPolicy {
    /// Identities of one trust domain.
    pub fn trust_domain(trust_domain: TrustDomain) -> Self {
        Self::TrustDomains(vec![trust_domain])
    }

    /// One of these identities.
    pub fn any_of(identities: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self::AnyOf(Arc::new(identities.into_iter().collect()))
    }

    /// Every identity of one namespace.
    pub fn namespace(trust_domain: &TrustDomain, namespace: &str) -> Self {
        Self::Prefixes(vec![format!("spiffe://{trust_domain}/ns/{namespace}/sa/")])
    }

    /// The identity of one service account.
    pub fn account(trust_domain: &TrustDomain, account: &ServiceAccountRef) -> Self {
        Self::any_of([account.identity(trust_domain)])
    }

    /// Whether a peer with these names is admitted.
    ///
    /// # Errors
    /// What was expected, and what the peer has.
    pub fn check(&self, names: &PeerNames) -> Result<(), PeerError> {
        let admitted = match self {
            Self::TrustDomains(ours) => names
                .identities()
                .iter()
                .any(|id| ours.iter().any(|td| id.is_of(td))),
            Self::AnyOf(ids) => names.identities().iter().any(|id| ids.contains(id)),
            Self::Prefixes(prefixes) => names
                .uris()
                .any(|uri| prefixes.iter().any(|p| uri.starts_with(p.as_str()))),
            Self::AnyTrusted => true,
        };
        if admitted {
            Ok(())
        } else {
            Err(PeerError {
                expected: self.clone(),
                got: names.uris().collect::<Vec<_>>().join(","),
            })
        }
    }

    fn describe(&self) -> String {
        fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
            items
                .into_iter()
                .map(|i| i.to_string())
                .collect::<Vec<_>>()
                .join(",")
        }
        match self {
            Self::TrustDomains(ours) => format!(
                "peer did not present the expected trustdomain ({})",
                list(ours)
            ),
            Self::AnyOf(ids) => format!(
                "peer did not present the expected SAN ({})",
                list(ids.iter())
            ),
            Self::Prefixes(prefixes) => format!(
                "peer did not present the expected SAN ({})",
                list(prefixes.iter().map(|p| format!("{p}*")))
            ),
            Self::AnyTrusted => "peer did not present a trusted certificate".to_owned(),
        }
    }
}

/// A peer that is who it says, but not one that is admitted. The text is ztunnel's.
#[derive(Clone, thiserror::Error)]
#[error("identity verification error: {}, got {got}", expected.describe())]
pub struct PeerError {
    /// Who would have been admitted.
    pub expected: PeerPolicy,
    /// The URIs that the peer has, separated by commas.
    pub got: String,
}

/// The text: the TLS stack prints the errors of its users this way.
impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
