//! A key with its certificate chain and the roots that came with it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;
use x509_parser::extensions::GeneralName;

use crate::roots::{Roots, RootsError, Usage, unix_time};
use crate::spiffe::SpiffeId;
use crate::tls::provider;

/// What one identity shows to peers, and what it trusts. Has no `Debug` that shows the key.
#[derive(Clone)]
pub struct Credentials {
    key: Arc<CertifiedKey>,
    roots: Arc<Roots>,
    info: CertInfo,
    exported: Option<Arc<PrivateKeyDer<'static>>>,
}

/// Whether a private key can be read again once it is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExport {
    /// It cannot: the usual case.
    Never,
    /// It can, by whoever holds the credentials: for an agent that serves a proxy beside it.
    Allowed,
}

/// A private key in PEM (PKCS#8). Has no `Debug` that shows it.
pub struct PrivateKeyPem(String);

impl PrivateKeyPem {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKeyPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKeyPem(..)")
    }
}

impl Credentials {
    /// Puts a key and a chain (leaf first) together.
    ///
    /// # Errors
    /// When the key is not the one in the leaf, the chain is empty, or it does not lead to one of the roots at `now`.
    pub fn new(
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        roots: Arc<Roots>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CredentialsError::Empty);
        };
        let info = CertInfo::of(leaf)?;
        roots
            .verify(leaf, intermediates, Usage::Server, unix_time(now))
            .map_err(CredentialsError::Chain)?;
        let key = CertifiedKey::from_der(chain, key, provider()).map_err(CredentialsError::Key)?;
        Ok(Self {
            key: Arc::new(key),
            roots,
            info,
            exported: None,
        })
    }

    /// As [`Credentials::new`], and the key can be read again.
    ///
    /// # Errors
    /// As [`Credentials::new`].
    pub fn exportable(
        key: PrivateKeyDer<'static>,
        chain: Vec<CertificateDer<'static>>,
        roots: Arc<Roots>,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let exported = Some(Arc::new(key.clone_key()));
        Ok(Self {
            exported,
            ..Self::new(key, chain, roots, now)?
        })
    }

    /// The private key, where these credentials were made with [`KeyExport::Allowed`].
    pub fn exported_key(&self) -> Option<PrivateKeyPem> {
        let key = self.exported.as_ref()?;
        Some(PrivateKeyPem(pem("PRIVATE KEY", key.secret_der())))
    }

    /// Reads a key, a chain (leaf first) and roots in PEM.
    ///
    /// # Errors
    /// As [`Credentials::new`], or when one is not PEM.
    pub fn from_pem(
        key: &str,
        chain: &str,
        roots: &str,
        now: SystemTime,
    ) -> Result<Self, CredentialsError> {
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| CredentialsError::KeyPem)?;
        let roots = Roots::from_pem(roots).map_err(CredentialsError::Roots)?;
        Self::new(key, certificates(chain)?, Arc::new(roots), now)
    }

    /// What the TLS stack takes.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The chain, leaf first, without the root.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    /// The roots that came with it.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// About the leaf.
    pub fn info(&self) -> &CertInfo {
        &self.info
    }

    /// About each certificate of the chain, leaf first.
    pub fn chain_infos(&self) -> Vec<CertInfo> {
        self.chain()
            .iter()
            .filter_map(|c| CertInfo::of(c).ok())
            .collect()
    }

    /// The identity in the leaf: its first URI that is one.
    pub fn identity(&self) -> Option<SpiffeId> {
        self.info
            .subject_alt_names
            .iter()
            .find_map(|name| match name {
                SubjectAltName::Uri(uri) => uri.parse().ok(),
                SubjectAltName::Dns(_) | SubjectAltName::Ip(_) => None,
            })
    }

    /// The same with other, equal roots, so that equal roots are held (and what they verified is remembered) once.
    pub(crate) fn share_roots(mut self, roots: &Arc<Roots>) -> Self {
        debug_assert!(self.roots.same_as(roots));
        self.roots = Arc::clone(roots);
        self
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

/// One name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectAltName {
    /// Such as a SPIFFE identity.
    Uri(String),
    /// A host name.
    Dns(String),
    /// An address.
    Ip(std::net::IpAddr),
}

impl fmt::Display for SubjectAltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// What people want to know about a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    /// Lower-case hexadecimal, without leading zeros' bytes, as Envoy prints it.
    pub serial: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Its names.
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// The certificate itself.
    pub pem: String,
}

impl CertInfo {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CredentialsError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|_| CredentialsError::NotACertificate)?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let subject_alt_names = names
            .iter()
            .flat_map(|san| &san.value.general_names)
            .filter_map(subject_alt_name)
            .collect();
        let raw = parsed.raw_serial();
        let serial = raw
            .strip_prefix(&[0])
            .filter(|rest| !rest.is_empty())
            .unwrap_or(raw);
        Ok(Self {
            serial: serial.iter().map(|b| format!("{b:02x}")).collect(),
            not_before: at(parsed.validity().not_before.timestamp()),
            not_after: at(parsed.validity().not_after.timestamp()),
            subject_alt_names,
            is_ca: parsed.is_ca(),
            pem: to_pem(certificate),
        })
    }

    /// The end of validity, in seconds since 1970.
    pub fn not_after_unix(&self) -> u64 {
        self.not_after
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs())
    }

    /// What is left at a time; zero when it is over.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or(Duration::ZERO)
    }

    /// Whether it is valid at a time.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Why a key, a chain and roots do not fit.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialsError {
    /// No certificate at all.
    #[error("an empty certificate chain")]
    Empty,
    /// The chain is not PEM.
    #[error("certificate chain: not PEM: {0}")]
    Pem(String),
    /// Not X.509.
    #[error("not a certificate")]
    NotACertificate,
    /// The roots are not usable.
    #[error("roots of the certificate")]
    Roots(#[source] RootsError),
    /// The chain does not lead to a root, or is not valid now.
    #[error("certificate chain does not verify")]
    Chain(#[source] rustls::Error),
    /// The key is of an unknown kind or of another certificate.
    #[error("the private key does not fit the certificate")]
    Key(#[source] rustls::Error),
    /// The key is not PEM. (What it is instead is not said: it may be a key.)
    #[error("private key: not PEM")]
    KeyPem,
}

/// Every certificate in a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| CredentialsError::Pem(e.to_string()))
}

/// A certificate in PEM, ending with a newline.
pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", certificate)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 64);
    pem.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn subject_alt_name(name: &GeneralName<'_>) -> Option<SubjectAltName> {
    match name {
        GeneralName::URI(uri) => Some(SubjectAltName::Uri((*uri).to_owned())),
        GeneralName::DNSName(dns) => Some(SubjectAltName::Dns((*dns).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            v4.or(v6).ok().map(SubjectAltName::Ip)
        }
        _ => None,
    }
}

fn at(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(timestamp.try_into().unwrap_or(0))
}
