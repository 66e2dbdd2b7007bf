//! TLS as the mesh speaks it. Certificates are picked at handshake time; nothing is rebuilt when one rotates.
//!
//! Between workloads ([`server_config`], [`client_config`]): TLS 1.3 only, ALPN `h2`, both sides show a certificate, names
//! are SPIFFE identities, no SNI, no resumption. To the control plane ([`https_server_config`], [`https_client_config`]):
//! TLS 1.2 or later, the server has a host name, a client certificate is optional but verified.

mod policy;
mod root_file;
mod verify;

use std::sync::{Arc, LazyLock};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};

pub use self::policy::{Expected, PeerError, PeerPolicy};
pub use self::root_file::RootSource;
use self::verify::{HostVerifier, MeshVerifier, OptionalClient};
use crate::roots::PeerNames;
use crate::spiffe::SpiffeId;
use crate::store::CertHandle;

/// The cryptography of the mesh: aws-lc, AES-GCM only, 128 bits first (as strong as the rest of the handshake, and the
/// fastest). Passed explicitly everywhere: no process-wide default is set.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let suites = vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
        Arc::new(CryptoProvider {
            cipher_suites: suites,
            ..aws_lc_rs::default_provider()
        })
    });
    &PROVIDER
}

/// The server side of a tunnel, as the identity of `own`: a client must show a certificate that leads to the roots of
/// `own` and that `policy` admits.
///
/// A handshake while `own` has no certificate fails; wait for [`CertHandle::ready`] before accepting.
pub fn server_config(own: &CertHandle, policy: PeerPolicy) -> Arc<ServerConfig> {
    let verifier = Arc::new(MeshVerifier::new(own.clone(), policy));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TLS13)
        .expect("the provider has suites of TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Current(own.clone())));
    config.alpn_protocols = vec![H2.to_vec()];
    config.enable_secret_extraction = true; // waymark-driver protects the records.
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // The data path protects the records itself.
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// The client side of a tunnel, as the identity of `own`: the server's certificate must lead to the roots of `own` and be
/// one of those that are expected. Connect with [`no_name`].
pub fn client_config(own: &CertHandle, expected: Expected) -> Arc<ClientConfig> {
    let verifier = Arc::new(MeshVerifier::new(own.clone(), expected));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(TLS13)
        .expect("the provider has suites of TLS 1.3")
        .dangerous() // Nothing is waived: MeshVerifier checks chain and identity, only not a host name.
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Current(own.clone())));
    config.alpn_protocols = vec![H2.to_vec()];
    config.enable_secret_extraction = true; // waymark-driver protects the records.
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    // The data path protects the records itself.
    config.enable_secret_extraction = true;
    Arc::new(config)
}

/// The server name for [`client_config`]: none is sent, none is looked at. Spec: ztunnel uses 0.0.0.0.
pub fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into())
}

/// The control plane's server: TLS 1.2 or later, ALPN `h2`; a client may show a certificate, and then it must lead to the
/// roots of `serving`.
pub fn https_server_config(serving: &CertHandle) -> Arc<ServerConfig> {
    let verifier = Arc::new(OptionalClient(MeshVerifier::new(
        serving.clone(),
        PeerPolicy::AnyTrusted,
    )));
    let mut config = ServerConfig::builder_with_provider(https_provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has suites of both versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Current(serving.clone())));
    config.alpn_protocols = vec![H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

/// A client of the control plane: verifies the server by host name against `roots`, which are read again when the file
/// changes. With `own`, its certificate is shown if there is one at the time of the handshake.
pub fn https_client_config(roots: RootSource, own: Option<CertHandle>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(https_provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has suites of both versions")
        .dangerous() // Nothing is waived: HostVerifier does what the built-in one does, with roots that may change.
        .with_custom_certificate_verifier(Arc::new(HostVerifier::new(roots)));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(Current(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// The identity of a peer whose handshake is done (its certificates are verified then): the first URI in its certificate
/// that is one. Takes what `peer_certificates()` of the TLS stack gives.
pub fn peer_identity(certificates: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    peer_identities(certificates).first().cloned()
}

/// Every identity of a peer whose handshake is done.
pub fn peer_identities(certificates: &[CertificateDer<'_>]) -> Arc<[SpiffeId]> {
    let names = certificates
        .first()
        .and_then(|leaf| PeerNames::of(leaf).ok());
    names.map_or_else(|| Arc::from([]), |names| Arc::clone(names.identities()))
}

/// The certificate of a handle at the time of the handshake.
#[derive(Debug)]
struct Current(CertHandle);

impl Current {
    fn key(&self) -> Option<Arc<CertifiedKey>> {
        self.0
            .current()
            .map(|credentials| Arc::clone(credentials.certified_key()))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key()
    }
}

impl ResolvesClientCert for Current {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.key()
    }

    fn has_certs(&self) -> bool {
        self.0.current().is_some()
    }
}

fn https_provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
const H2: &[u8] = b"h2";

#[cfg(test)]
mod tests;
