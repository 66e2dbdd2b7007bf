//! Who is on the other side of a TLS connection, and who was wanted there.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use waymark_identity::{SpiffeId, TrustDomain};

/// Whom a client accepts as its server. An empty list accepts nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedPeer {
    /// One of these identities, exactly.
    AnyOf(Arc<[SpiffeId]>),
    /// Anyone of one of these trust domains.
    TrustDomains(Arc<[TrustDomain]>),
}

impl ExpectedPeer {
    /// Exactly one identity.
    #[must_use]
    pub fn one(id: SpiffeId) -> Self {
        Self::AnyOf(Arc::new([id]))
    }

    /// Whether one of a certificate's identities is wanted.
    #[must_use]
    pub fn accepts(&self, presented: &[SpiffeId]) -> bool {
        presented.iter().any(|id| match self {
            Self::AnyOf(ids) => ids.contains(id),
            Self::TrustDomains(domains) => domains.contains(id.trust_domain()),
        })
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyOf(ids) => list(f, ids.iter()),
            Self::TrustDomains(domains) => list(f, domains.iter()),
        }
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = T>) -> fmt::Result {
    for (i, item) in items.enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// The SPIFFE IDs of the leaf of a verified chain, in the order of its URI SANs.
pub(crate) fn identities(chain: &[CertificateDer<'_>]) -> Vec<SpiffeId> {
    chain.first().map(|leaf| waymark_identity::spiffe_ids(leaf)).unwrap_or_default()
}
