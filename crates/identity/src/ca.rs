//! The certificate authority: a public key in, a short-lived certificate for an identity out.

mod files;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use waymark_rt::Clock;

use crate::credentials::{CertInfo, Credentials, CredentialsError, to_pem};
use crate::csr::{RequestError, VerifiedRequest};
use crate::roots::{Roots, RootsError, Usage, unix_time};
use crate::spiffe::{SpiffeId, TrustDomain};

/// Where certificates come from: a signing key, the chain above it, and the roots of the mesh.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    signer: CertInfo,
    /// What is sent between a leaf and the roots: the signer and those above it, without roots.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Arc<Roots>,
    roots_pem: String,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

impl Ca {
    /// Loads an operator's authority.
    ///
    /// The directory has `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` and `root-cert.pem`, or `tls.crt`, `tls.key` and
    /// `ca.crt`, as istiod reads them.
    ///
    /// # Errors
    /// When a file is missing or unusable, or what the key signs would not verify against the roots.
    pub fn load(
        dir: &Path,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let files = files::read(dir)?;
        Self::from_files(files, trust_domain, clock)
    }

    /// Loads the authority of a state directory, or makes one if there is none: ECDSA P-256, self-signed, 10 years,
    /// `O=<trust domain>`. The directory is made with mode 0700, the key with 0600.
    ///
    /// # Errors
    /// As [`Ca::load`], or when the files cannot be written. A directory with only some of the files is an error: nothing is
    /// replaced.
    pub fn load_or_create(
        dir: &Path,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        if !files::any(dir) {
            let root = new_root(trust_domain, clock.wall()).map_err(CaError::Make)?;
            files::create(dir, &root)?;
        }
        Self::load(dir, trust_domain, clock)
    }

    /// Takes up an authority from what a Secret has. `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Ca::load`].
    pub fn from_pem(
        origin: &str,
        pem: &CaPem,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        Self::from_files(files::Files::of_pem(origin, pem), trust_domain, clock)
    }

    /// Makes an authority that lives in memory only.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn in_memory(trust_domain: &TrustDomain, clock: Arc<dyn Clock>) -> Result<Self, CaError> {
        let root = new_root(trust_domain, clock.wall()).map_err(CaError::Make)?;
        let dir = PathBuf::from("(memory)");
        Self::from_files(root.into_files(dir), trust_domain, clock)
    }

    /// The trust domain that its certificates are of.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots of the mesh.
    pub fn roots(&self) -> &Arc<Roots> {
        &self.roots
    }

    /// The roots of the mesh, PEM, as they are given out.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// About the certificate that signs.
    pub fn signer(&self) -> &CertInfo {
        &self.signer
    }

    /// The earliest end of what is above the leaves.
    pub fn chain_not_after(&self) -> SystemTime {
        let above = self
            .intermediates
            .iter()
            .filter_map(|c| CertInfo::of(c).ok())
            .map(|info| info.not_after);
        above.fold(self.signer.not_after, SystemTime::min)
    }

    /// Signs a certificate request for an identity.
    ///
    /// Of the request, only the public key counts, once its signature is checked; names in it are ignored. Valid from two
    /// minutes ago, for `ttl` (24 h when it is `None`), and never longer than the signer itself.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        ttl: Option<Duration>,
    ) -> Result<Issued, SignError> {
        let request = VerifiedRequest::from_pem(csr_pem).map_err(SignError::Request)?;
        if !identity.is_of(&self.trust_domain) {
            return Err(SignError::TrustDomain {
                identity: identity.clone(),
                ours: self.trust_domain.clone(),
            });
        }
        let name = identity.as_str().try_into().map_err(SignError::Sign)?;
        let leaf = self.issue(request.public_key(), vec![SanType::URI(name)], ttl)?;
        let info = CertInfo::of(&leaf).map_err(SignError::Read)?;
        let mut chain = vec![info.pem.clone()];
        chain.extend(self.intermediates.iter().map(to_pem));
        chain.push(self.roots_pem.clone());
        Ok(Issued { chain, info })
    }

    /// Makes a key and a certificate for a server of our own, by host names and addresses.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn serving(
        &self,
        names: &[ServingName],
        ttl: Option<Duration>,
    ) -> Result<Credentials, SignError> {
        let names = names
            .iter()
            .map(ServingName::to_san)
            .collect::<Result<Vec<_>, _>>()
            .map_err(SignError::Sign)?;
        self.credentials(names, ttl)
    }

    /// Makes a key and a certificate for an identity, in this process.
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn credentials_for(
        &self,
        identity: &SpiffeId,
        ttl: Option<Duration>,
    ) -> Result<Credentials, SignError> {
        let name = identity.as_str().try_into().map_err(SignError::Sign)?;
        self.credentials(vec![SanType::URI(name)], ttl)
    }

    fn credentials(
        &self,
        names: Vec<SanType>,
        ttl: Option<Duration>,
    ) -> Result<Credentials, SignError> {
        let key = KeyPair::generate().map_err(SignError::Sign)?;
        let leaf = self.issue(&key, names, ttl)?;
        let chain = std::iter::once(leaf)
            .chain(self.intermediates.iter().cloned())
            .collect();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Credentials::new(key, chain, Arc::clone(&self.roots), self.clock.wall())
            .map_err(SignError::Read)
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Option<Duration>,
    ) -> Result<CertificateDer<'static>, SignError> {
        let asked = ttl.unwrap_or(DEFAULT_TTL);
        if asked > MAX_TTL {
            return Err(SignError::Ttl { asked });
        }
        let now = self.clock.wall();
        if !self.signer.is_valid_at(now) {
            return Err(SignError::SignerNotValid {
                from: self.signer.not_before,
                until: self.signer.not_after,
            });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.not_before = date(now - NOT_BEFORE_SLACK);
        params.not_after = date((now + asked).min(self.signer.not_after));
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(SignError::Sign)?;
        Ok(certificate.der().clone())
    }

    fn from_files(
        files: files::Files,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, CaError> {
        let at = |path: &Path| path.to_owned();
        let roots = Roots::from_pem(&files.roots.text).map_err(|e| CaError::Roots {
            path: at(&files.roots.path),
            source: e,
        })?;
        let bad = |path: &Path| {
            let path = path.to_owned();
            move |source| CaError::Certificate { path, source }
        };
        let signer = files
            .signer
            .certificates()
            .map_err(bad(&files.signer.path))?;
        let chain = files.chain.certificates().map_err(bad(&files.chain.path))?;
        let Some(first) = signer.first().cloned() else {
            return Err(bad(&files.signer.path)(CredentialsError::Empty));
        };
        let key =
            KeyPair::from_pem(&files.key.text).map_err(|_| CaError::Key(files.key.path.clone()))?;
        let info = CertInfo::of(&first).map_err(bad(&files.signer.path))?;
        if !info.is_ca {
            return Err(CaError::NotAnAuthority(files.signer.path));
        }
        let fits = webpki::EndEntityCert::try_from(&first)
            .is_ok_and(|c| c.subject_public_key_info().as_ref() == key.subject_public_key_info());
        if !fits {
            return Err(CaError::KeyOfAnother {
                key: files.key.path,
                certificate: files.signer.path,
            });
        }
        let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in signer.into_iter().chain(chain) {
            if !intermediates.contains(&certificate) && !roots.certificates().contains(&certificate)
            {
                intermediates.push(certificate);
            }
        }
        let issuer = Issuer::from_ca_cert_der(&first, key).map_err(|e| CaError::Unusable {
            path: files.signer.path.clone(),
            source: e,
        })?;
        let roots_pem = roots.certificates().iter().map(to_pem).collect();
        let ca = Self {
            issuer,
            signer: info,
            intermediates,
            roots: Arc::new(roots),
            roots_pem,
            trust_domain: trust_domain.clone(),
            clock,
        };
        ca.try_it(&files.roots.path)?;
        Ok(ca)
    }

    /// Whether a peer with these roots accepts what this authority signs.
    ///
    /// # Errors
    /// Why not.
    pub fn is_trusted_by(&self, roots: &Roots) -> Result<(), CaError> {
        self.try_with(roots, Path::new("(roots)"))
    }

    /// Signs a certificate and verifies it as a peer would: finds a chain that does not lead to the roots, a signer that
    /// is not valid, a name that we would encode differently.
    fn try_it(&self, roots: &Path) -> Result<(), CaError> {
        self.try_with(&self.roots, roots)
    }

    fn try_with(&self, roots: &Roots, path: &Path) -> Result<(), CaError> {
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let name = SanType::URI("spiffe://probe".try_into().map_err(CaError::Make)?);
        let leaf = self.issue(&key, vec![name], None).map_err(CaError::Try)?;
        let now = unix_time(self.clock.wall());
        roots
            .verify(&leaf, &self.intermediates, Usage::Server, now)
            .map(drop)
            .map_err(|source| CaError::Untrusted {
                roots: path.to_owned(),
                source,
            })
    }
}

/// An authority as a Secret has it; each field is PEM. Has no `Debug` that shows the key.
#[derive(Clone, PartialEq, Eq)]
pub struct CaPem {
    /// `ca-cert.pem`: the certificate that signs.
    pub signer: String,
    /// `ca-key.pem`: its key.
    pub key: String,
    /// `cert-chain.pem`: the signer and what is above it.
    pub chain: String,
    /// `root-cert.pem`: the roots of the mesh.
    pub roots: String,
}

impl CaPem {
    /// Makes an authority that is its own root: ECDSA P-256, 10 years, `O=<trust domain>`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn self_signed(trust_domain: &TrustDomain, clock: &dyn Clock) -> Result<Self, CaError> {
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let root = self_signed(trust_domain, &key, clock.wall()).map_err(CaError::Make)?;
        Ok(Self::of_root(root.certificate, root.key))
    }

    /// Makes a new certificate for the key of an authority that is its own root, so that what was signed stays good; the
    /// roots that are still valid stay among the roots.
    ///
    /// # Errors
    /// When the key or the roots are not usable.
    pub fn renewed(&self, trust_domain: &TrustDomain, clock: &dyn Clock) -> Result<Self, CaError> {
        let here = || PathBuf::from("ca-key.pem");
        let key = KeyPair::from_pem(&self.key).map_err(|_| CaError::Key(here()))?;
        let root = self_signed(trust_domain, &key, clock.wall()).map_err(CaError::Make)?;
        let mut renewed = Self::of_root(root.certificate, root.key);
        let old = Roots::from_pem(&self.roots).map_err(|source| CaError::Roots {
            path: PathBuf::from("root-cert.pem"),
            source,
        })?;
        let valid = |certificate: &&CertificateDer<'static>| {
            CertInfo::of(certificate).is_ok_and(|info| info.not_after > clock.wall())
        };
        for certificate in old.certificates().iter().filter(valid) {
            renewed.roots.push_str(&to_pem(certificate));
        }
        Ok(renewed)
    }

    fn of_root(certificate: String, key: String) -> Self {
        Self {
            signer: certificate.clone(),
            key,
            chain: certificate.clone(),
            roots: certificate,
        }
    }
}

impl fmt::Debug for CaPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaPem")
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
            .field("signer", &self.signer)
            .finish_non_exhaustive()
    }
}

/// A certificate that was signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// As the CA's API gives it out: the leaf, each intermediate, then all roots in the last element; PEM.
    pub chain: Vec<String>,
    /// About the leaf.
    pub info: CertInfo,
}

/// What a server is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServingName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServingName {
    fn to_san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(ip) => SanType::IpAddress(*ip),
        })
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Some files are there, this one is not.
    #[error(
        "certificate authority: {missing} is missing (a complete set is ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem, or tls.crt, tls.key, ca.crt)"
    )]
    Incomplete {
        /// The file that is not there.
        missing: PathBuf,
    },
    /// Cannot be read or written.
    #[error("certificate authority: {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate file.
    #[error("certificate authority: {path}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CredentialsError,
    },
    /// The file of the roots.
    #[error("certificate authority: {path}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RootsError,
    },
    /// The file of the key; what it has instead is not said.
    #[error("certificate authority: {0} is not a private key in PEM (ECDSA, RSA or Ed25519)")]
    Key(PathBuf),
    /// A leaf certificate.
    #[error(
        "certificate authority: the certificate in {0} is not an authority's (CA:TRUE is missing)"
    )]
    NotAnAuthority(PathBuf),
    /// The two files are not a pair.
    #[error(
        "certificate authority: the key in {key} is not that of the certificate in {certificate}"
    )]
    KeyOfAnother {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// A certificate that cannot be signed under.
    #[error("certificate authority: cannot sign under the certificate in {path}")]
    Unusable {
        /// The file of the certificate.
        path: PathBuf,
        /// What is in the way.
        source: rcgen::Error,
    },
    /// What it signs would be refused by everybody.
    #[error("certificate authority: what it signs does not verify against {roots}")]
    Untrusted {
        /// The file of the roots.
        roots: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The first signature failed.
    #[error("certificate authority: cannot sign")]
    Try(#[source] SignError),
    /// Making a root failed.
    #[error("certificate authority: cannot make a root")]
    Make(#[source] rcgen::Error),
}

/// Why a certificate was not given.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is not usable.
    #[error("certificate request")]
    Request(#[source] RequestError),
    /// Longer than allowed.
    #[error("validity of {} s asked for, {} s is the most", asked.as_secs(), MAX_TTL.as_secs())]
    Ttl {
        /// What was asked for.
        asked: Duration,
    },
    /// Not an identity of ours.
    #[error("{identity} is not of the trust domain {ours}")]
    TrustDomain {
        /// Who was asked for.
        identity: SpiffeId,
        /// Our trust domain.
        ours: TrustDomain,
    },
    /// The authority's own certificate is over, or has not begun.
    #[error("the authority's certificate is valid only from {} until {}", date(*from), date(*until))]
    SignerNotValid {
        /// Its begin.
        from: SystemTime,
        /// Its end.
        until: SystemTime,
    },
    /// Signing itself.
    #[error("sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// What was signed is not usable.
    #[error("signed certificate")]
    Read(#[source] CredentialsError),
}

/// Validity when a request does not say. Spec: istiod `DEFAULT_WORKLOAD_CERT_TTL`.
pub const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest validity. Spec: istiod `MAX_WORKLOAD_CERT_TTL`.
pub const MAX_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
const ROOT_TTL: Duration = Duration::from_secs(87_600 * 3600);
/// For peers whose clock is behind ours.
const NOT_BEFORE_SLACK: Duration = Duration::from_secs(120);

/// A root that signed itself.
struct NewRoot {
    certificate: String,
    key: String,
}

impl NewRoot {
    fn into_files(self, dir: PathBuf) -> files::Files {
        files::Files::of_root(&dir, self.certificate, self.key)
    }
}

fn new_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<NewRoot, rcgen::Error> {
    self_signed(trust_domain, &KeyPair::generate()?, now)
}

fn self_signed(
    trust_domain: &TrustDomain,
    key: &KeyPair,
    now: SystemTime,
) -> Result<NewRoot, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, trust_domain.as_str());
    params.not_before = date(now - NOT_BEFORE_SLACK);
    params.not_after = date(now + ROOT_TTL);
    params.serial_number = Some(random_serial());
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key)?;
    Ok(NewRoot {
        certificate: to_pem(certificate.der()),
        key: key.serialize_pem(),
    })
}

/// 16 random bytes, but for the first two bits: positive, never zero, and always of the same length.
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Whole seconds: certificates have no finer time.
fn date(at: SystemTime) -> OffsetDateTime {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(0).unwrap_or(at)
}

#[cfg(test)]
mod tests;
