//! Asking for a certificate: a new key, and the request that goes to the authority.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};
use rustls::pki_types::PrivateKeyDer;

use crate::credentials::{Credentials, CredentialsError, KeyExport, certificates};
use crate::roots::Roots;
use crate::spiffe::SpiffeId;

/// A certificate request with its key, which never leaves the process unless that is allowed.
///
/// ECDSA P-256, empty subject, the identity as the only (critical) alternative name.
pub struct Csr {
    identity: SpiffeId,
    key: KeyPair,
    export: KeyExport,
    pem: String,
}

impl Csr {
    /// Makes a new key and a request for an identity.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(identity: &SpiffeId) -> Result<Self, CsrError> {
        Self::with_export(identity, KeyExport::Never)
    }

    /// As [`Csr::new`], and says whether the key can be read from the credentials that come of it.
    ///
    /// # Errors
    /// As [`Csr::new`].
    pub fn with_export(identity: &SpiffeId, export: KeyExport) -> Result<Self, CsrError> {
        let key = KeyPair::generate().map_err(CsrError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = identity.as_str().try_into().map_err(CsrError::Make)?;
        params.subject_alt_names = vec![SanType::URI(name)];
        let pem = params
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(CsrError::Make)?;
        Ok(Self {
            identity: identity.clone(),
            key,
            export,
            pem,
        })
    }

    /// The request, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Puts the authority's answer together with the key.
    ///
    /// The answer is a list of PEM texts: the leaf, each intermediate, and the whole root bundle last.
    ///
    /// # Errors
    /// When the answer has no roots, is not for this key and identity, or does not verify at `now`.
    pub fn certify(self, answer: &[String], now: SystemTime) -> Result<Credentials, CsrError> {
        let [chain @ .., roots] = answer else {
            return Err(CsrError::Incomplete);
        };
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(CsrError::Incomplete);
        };
        let mut chain = certificates(leaf)?;
        if chain.len() != 1 {
            return Err(CsrError::LeafCount(chain.len()));
        }
        for pem in intermediates {
            chain.extend(certificates(pem)?);
        }
        let roots = Roots::from_pem(roots).map_err(CredentialsError::Roots)?;
        let key = PrivateKeyDer::Pkcs8(self.key.serialize_der().into());
        let credentials = match self.export {
            KeyExport::Never => Credentials::new(key, chain, Arc::new(roots), now)?,
            KeyExport::Allowed => Credentials::exportable(key, chain, Arc::new(roots), now)?,
        };
        match credentials.identity() {
            Some(got)
                if got == self.identity && credentials.info().subject_alt_names.len() == 1 =>
            {
                Ok(credentials)
            }
            _ => Err(CsrError::Identity {
                want: self.identity,
                got: credentials
                    .info()
                    .subject_alt_names
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            }),
        }
    }
}

impl fmt::Debug for Csr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Csr")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Why there is no certificate for a request.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Neither key nor request.
    #[error("make a certificate request")]
    Make(#[source] rcgen::Error),
    /// Fewer than a leaf and roots.
    #[error("the authority's answer is not a certificate and roots")]
    Incomplete,
    /// The first element of the answer.
    #[error("the authority's answer starts with {0} certificates instead of one")]
    LeafCount(usize),
    /// The answer does not hold together.
    #[error("the authority's answer")]
    Credentials(#[from] CredentialsError),
    /// A certificate for somebody else.
    #[error("asked for a certificate for {want}, got one for {got:?}")]
    Identity {
        /// Who was asked for.
        want: SpiffeId,
        /// The names in it.
        got: Vec<String>,
    },
}

/// A request that somebody sent, reduced to what counts: its public key, which its signature proves to be the sender's.
pub(crate) struct VerifiedRequest {
    spki: rcgen::SubjectPublicKeyInfo,
}

impl VerifiedRequest {
    /// Reads a PEM request and checks its signature. Whatever else it asks for is ignored.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, RequestError> {
        use rustls::pki_types::CertificateSigningRequestDer;
        use rustls::pki_types::pem::PemObject;
        use x509_parser::prelude::{FromDer, X509CertificationRequest};

        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| RequestError::Pem)?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Der)?;
        if !rest.is_empty() {
            return Err(RequestError::Der);
        }
        let spki = rcgen::SubjectPublicKeyInfo::from_der(
            request.certification_request_info.subject_pki.raw,
        )
        .map_err(|_| RequestError::Key)?;
        check_key(
            &spki,
            request
                .certification_request_info
                .subject_pki
                .parsed()
                .ok()
                .map_or(0, |key| key.key_size()),
        )?;
        request
            .verify_signature()
            .map_err(|_| RequestError::Signature)?;
        Ok(Self { spki })
    }

    pub(crate) fn public_key(&self) -> &impl PublicKeyData {
        &self.spki
    }
}

/// Keys that certificates are given for: ECDSA P-256 and P-384, Ed25519, RSA from 2048 bits.
fn check_key(spki: &rcgen::SubjectPublicKeyInfo, bits: usize) -> Result<(), RequestError> {
    let algorithm = spki.algorithm();
    let elliptic = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    let rsa = [
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_RSA_SHA384,
        &rcgen::PKCS_RSA_SHA512,
    ];
    if elliptic.contains(&algorithm) || (rsa.contains(&algorithm) && (2048..=8192).contains(&bits))
    {
        Ok(())
    } else {
        Err(RequestError::Key)
    }
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not PEM of a request.
    #[error("not a PEM certificate request")]
    Pem,
    /// Not PKCS#10.
    #[error("not a PKCS#10 certificate request")]
    Der,
    /// The sender has not shown that it has the key.
    #[error("the signature of the certificate request is wrong")]
    Signature,
    /// A key that is too weak or of an unknown kind.
    #[error(
        "key of the certificate request: allowed are ECDSA P-256, P-384, Ed25519 and RSA from 2048 bits"
    )]
    Key,
}
