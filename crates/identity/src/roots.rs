//! Roots of trust, and what was verified against them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use webpki::{EndEntityCert, KeyUsage};

use crate::credentials::CertInfo;
use crate::spiffe::SpiffeId;
use crate::tls::provider;

/// A set of root certificates.
///
/// Remembers the chains that it verified: a peer that connects again costs a hash instead of two or more signature checks.
/// (That the peer has the key is proved in every handshake; this is only about who signed its certificate.)
pub struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
    verified: Mutex<HashMap<ChainHash, Verified>>,
}

/// What a certificate is used for in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// The peer is a client.
    Client,
    /// The peer is a server.
    Server,
}

/// The names in a certificate whose chain was verified.
#[derive(Debug, Clone)]
pub struct PeerNames {
    uris: Arc<[Box<str>]>,
    identities: Arc<[SpiffeId]>,
}

impl PeerNames {
    /// Every URI among the subject's alternative names.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.uris.iter().map(AsRef::as_ref)
    }

    /// Those that are SPIFFE identities of the mesh's form, in the certificate's order.
    pub fn identities(&self) -> &Arc<[SpiffeId]> {
        &self.identities
    }

    /// Reads the names of a certificate, trusted or not.
    ///
    /// # Errors
    /// When it is no certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, webpki::Error> {
        let parsed = EndEntityCert::try_from(certificate)?;
        let uris: Arc<[Box<str>]> = parsed.valid_uri_names().map(Box::from).collect();
        let identities = uris.iter().filter_map(|uri| uri.parse().ok()).collect();
        Ok(Self { uris, identities })
    }
}

impl Roots {
    /// Roots in PEM, at least one.
    ///
    /// # Errors
    /// When there is none, or one is no certificate.
    pub fn from_pem(pem: &str) -> Result<Self, RootsError> {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| RootsError::Pem(e.to_string()))?;
        Self::new(certificates)
    }

    /// Roots in DER, at least one.
    ///
    /// # Errors
    /// When there is none, or one is no certificate.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, RootsError> {
        if certificates.is_empty() {
            return Err(RootsError::Empty);
        }
        let anchors = certificates
            .iter()
            .map(|c| webpki::anchor_from_trusted_cert(c).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(RootsError::Certificate)?;
        Ok(Self {
            anchors,
            certificates,
            verified: Mutex::default(),
        })
    }

    /// The certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What people want to know about each of them.
    pub fn infos(&self) -> Vec<CertInfo> {
        self.certificates
            .iter()
            .filter_map(|c| CertInfo::of(c).ok())
            .collect()
    }

    /// Whether it consists of the same certificates, in the same order.
    pub fn same_as(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }

    /// Verifies a chain that a peer presented, at a time, and gives the names in its first certificate.
    ///
    /// # Errors
    /// What is wrong with it; a chain that is refused is not remembered.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<PeerNames, rustls::Error> {
        let hash = hash_chain(leaf, intermediates, usage);
        let known = self
            .lock()
            .get(&hash)
            .filter(|v| v.since <= now.as_secs() && now.as_secs() < v.until)
            .cloned();
        if let Some(known) = known {
            return Ok(known.names);
        }
        self.verify_path(leaf, intermediates, usage, now)?;
        let names = PeerNames::of(leaf).map_err(pki_error)?;
        let ends = std::iter::once(leaf)
            .chain(intermediates)
            .filter_map(|c| CertInfo::of(c).ok())
            .map(|i| i.not_after_unix());
        // A chain with a certificate whose end cannot be read is verified anew each time.
        let until = if ends.clone().count() == 1 + intermediates.len() {
            ends.min().unwrap_or(0)
        } else {
            0
        };
        let mut verified = self.lock();
        if verified.len() >= REMEMBERED {
            // Peers come back within minutes or not at all; starting over once in 4,096 strangers is cheaper than an order.
            verified.clear();
        }
        verified.insert(
            hash,
            Verified {
                names: names.clone(),
                since: now.as_secs(),
                until,
            },
        );
        Ok(names)
    }

    fn verify_path(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        EndEntityCert::try_from(leaf)
            .map_err(pki_error)?
            .verify_for_usage(
                algorithms,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(drop)
            .map_err(pki_error)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ChainHash, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

/// Why something is no set of roots.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RootsError {
    /// No certificate in it.
    #[error("no root certificate")]
    Empty,
    /// Not PEM.
    #[error("root certificates: not PEM: {0}")]
    Pem(String),
    /// PEM of something else.
    #[error("root certificates: not a certificate")]
    Certificate(#[source] webpki::Error),
}

type ChainHash = [u8; 32];

#[derive(Debug, Clone)]
struct Verified {
    names: PeerNames,
    since: u64,
    until: u64,
}

/// How many verified chains are remembered.
const REMEMBERED: usize = 4096;

fn hash_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
) -> ChainHash {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[match usage {
        Usage::Client => 0,
        Usage::Server => 1,
    }]);
    for certificate in std::iter::once(leaf).chain(intermediates) {
        context.update(&(certificate.len() as u64).to_le_bytes());
        context.update(certificate);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// The TLS stack's word for what is wrong with a chain; it decides the alert that the peer sees.
pub(crate) fn pki_error(error: webpki::Error) -> rustls::Error {
    use webpki::Error as E;
    let certificate = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        // Self-made roots all have the same name, so that a stranger's chain names our root and only its signature is wrong.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::CertNotValidForName(_) => CertificateError::NotValidForName,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    rustls::Error::InvalidCertificate(certificate)
}

/// The time of a clock as the TLS stack wants it.
pub(crate) fn unix_time(wall: std::time::SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        wall.duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}
