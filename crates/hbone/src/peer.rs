//! Who is on the other side of a TLS connection, and who was wanted there.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use waymark_driver::tls::TlsError;
use waymark_identity::roots::PeerNames;
use waymark_identity::{SpiffeId, TrustDomain};

/// Whom a client accepts as its server, of those that its roots vouch for. An empty list accepts nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ExpectedPeer {
    /// One of these identities, exactly.
    AnyOf(Arc<[SpiffeId]>),
    /// Anyone of one of these trust domains.
    TrustDomains(Arc<[TrustDomain]>),
    /// Whoever a rule accepts.
    Rule(PeerRule),
}

/// A rule about the URIs of a certificate. The same rule is the same `Arc`.
#[derive(Clone)]
pub struct PeerRule {
    accepts: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl PeerRule {
    /// A certificate is accepted when `accepts` says so of one of its URIs.
    pub fn new(accepts: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            accepts: Arc::new(accepts),
        }
    }
}

impl PartialEq for PeerRule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.accepts, &other.accepts)
    }
}

impl Eq for PeerRule {}

impl Hash for PeerRule {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.accepts).cast::<()>().hash(state);
    }
}

impl fmt::Debug for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerRule")
    }
}

impl ExpectedPeer {
    /// Exactly one identity.
    #[must_use]
    pub fn one(id: SpiffeId) -> Self {
        Self::AnyOf(Arc::new([id]))
    }

    /// Whether a peer with these names is wanted.
    #[must_use]
    pub fn accepts(&self, presented: &PeerNames) -> bool {
        let mut ids = presented.identities().iter();
        match self {
            Self::AnyOf(wanted) => ids.any(|id| wanted.contains(id)),
            Self::TrustDomains(domains) => ids.any(|id| domains.iter().any(|td| id.is_of(td))),
            Self::Rule(rule) => presented.uris().any(|uri| (rule.accepts)(uri)),
        }
    }
}

impl fmt::Display for ExpectedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyOf(ids) => list(f, ids.iter()),
            Self::TrustDomains(domains) => list(f, domains.iter()),
            Self::Rule(_) => f.write_str("someone that the configured rule accepts"),
        }
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
) -> fmt::Result {
    for (i, item) in items.enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        write!(f, "{comma}{item}")?;
    }
    Ok(())
}

/// The names in the leaf of a verified chain.
pub(crate) fn names(chain: &[CertificateDer<'_>]) -> Option<PeerNames> {
    PeerNames::of(chain.first()?).ok()
}

/// What failed in a handshake, in one error: who reports it says that it was one.
pub(crate) fn tls_cause(error: TlsError) -> io::Error {
    match error {
        TlsError::Rustls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        TlsError::Io(error) => error,
        error => error.into(),
    }
}
