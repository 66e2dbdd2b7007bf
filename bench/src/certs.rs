//! Certificates of the mesh's own CA, for the parts that the bench plays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertError {
    #[error("read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("the CA in {0} can't be used")]
    Ca(PathBuf, #[source] rcgen::Error),
    #[error("make a certificate for {0}")]
    Leaf(String, #[source] rcgen::Error),
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
    #[error("the root certificate can't be read")]
    Root,
}

/// The CA of a state directory.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) root_pem: String,
}

/// A leaf and its key, PEM.
pub(crate) struct Leaf {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl Ca {
    pub(crate) fn load(dir: &Path) -> Result<Self, CertError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).map_err(|e| CertError::Read(path, e))
        };
        let bad = |e| CertError::Ca(dir.to_owned(), e);
        let key = KeyPair::from_pem(&read("ca-key.pem")?).map_err(bad)?;
        let issuer = Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, key).map_err(bad)?;
        Ok(Self {
            issuer,
            root_pem: read("root-cert.pem")?,
        })
    }

    pub(crate) fn leaf(&self, uri: &str) -> Result<Leaf, CertError> {
        let bad = |e| CertError::Leaf(uri.to_owned(), e);
        let key = KeyPair::generate().map_err(bad)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(bad)?)];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok(Leaf {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Presents a leaf; takes any server (what is measured is the proxy's work, not ours).
    pub(crate) fn client(&self, uri: &str) -> Result<Arc<ClientConfig>, CertError> {
        let (chain, key) = self.leaf(uri)?.parse()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// Demands a client certificate of the CA.
    pub(crate) fn server(&self, uri: &str) -> Result<Arc<ServerConfig>, CertError> {
        let (chain, key) = self.leaf(uri)?.parse()?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.root_pem.as_bytes()) {
            roots.add(root.map_err(|_| CertError::Root)?)?;
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider(),
        )
        .build()
        .map_err(|_| CertError::Root)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl Leaf {
    fn parse(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertError> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertError::Root)?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|_| CertError::Root)?;
        Ok((chain, key))
    }
}

/// AES-128-GCM first, as the measurements of peers were made with.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}
