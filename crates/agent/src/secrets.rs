//! What SDS gives: the waypoint's certificate with its key, and the roots of the mesh.

use std::sync::Arc;

use prost::Message;
use tokio::sync::watch;
use tracing::error;
use waymark_identity::{CertHandle, Credentials};
use waymark_proto::envoy::envoy::config::core::v3::{DataSource, data_source::Specifier};
use waymark_proto::envoy::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use waymark_proto::envoy::google::protobuf::Any;
use waymark_proto::type_url;
use waymark_rt::Tasks;
use xxhash_rust::xxh3::xxh3_64;

/// Names that are served. Spec: waypoint-xds.md 8.4.
pub(crate) const CERTIFICATE: &str = "default";
pub(crate) const ROOTS: &str = "ROOTCA";

/// One secret. Has no `Debug` that shows it.
pub(crate) struct NamedSecret {
    pub(crate) name: &'static str,
    /// Of the public part: equal secrets have equal versions.
    pub(crate) version: String,
    pub(crate) any: Any,
}

/// The secrets of one moment.
pub(crate) struct Secrets([NamedSecret; 2]);

impl Secrets {
    /// `None` when the key cannot be read from the credentials.
    pub(crate) fn of(credentials: &Credentials) -> Option<Self> {
        let chain: String = credentials
            .chain_infos()
            .into_iter()
            .map(|info| info.pem)
            .collect();
        let roots: String = credentials
            .roots()
            .infos()
            .into_iter()
            .map(|info| info.pem)
            .collect();
        let key = credentials.exported_key()?;
        let certificate = secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(&chain)),
            private_key: Some(inline(key.as_str())),
            ..TlsCertificate::default()
        });
        let validation = secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(&roots)),
            ..CertificateValidationContext::default()
        });
        Some(Self([
            NamedSecret::new(CERTIFICATE, &chain, certificate),
            NamedSecret::new(ROOTS, &roots, validation),
        ]))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&NamedSecret> {
        self.0.iter().find(|secret| secret.name == name)
    }

    /// Whether there will ever be one of this name.
    pub(crate) fn is_served(name: &str) -> bool {
        [CERTIFICATE, ROOTS].contains(&name)
    }
}

impl NamedSecret {
    fn new(name: &'static str, public: &str, kind: secret::Type) -> Self {
        let secret = Secret {
            name: name.to_owned(),
            r#type: Some(kind),
        };
        Self {
            name,
            version: format!("{:016x}", xxh3_64(public.as_bytes())),
            any: Any {
                type_url: type_url::SECRET.to_owned(),
                value: secret.encode_to_vec(),
            },
        }
    }
}

fn inline(text: &str) -> DataSource {
    DataSource {
        // Bytes, as upstream's agent: what reads Envoy's config dump expects them.
        specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())),
        ..DataSource::default()
    }
}

/// What SDS streams watch; `None` while there is no certificate.
pub(crate) type Watched = watch::Receiver<Option<Arc<Secrets>>>;

/// Follows a certificate through its rotations.
pub(crate) fn follow(certificate: &CertHandle, tasks: &Tasks) -> Watched {
    let (sender, watched) = watch::channel(None);
    let certificate = certificate.clone();
    let mut states = certificate.subscribe();
    tasks.spawn("secrets", async move {
        loop {
            states.borrow_and_update();
            if let Some(credentials) = certificate.current() {
                match Secrets::of(&credentials) {
                    Some(secrets) => sender.send_if_modified(|old| replace(old, secrets)),
                    None => {
                        error!("the certificate's key cannot be read");
                        false
                    }
                };
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    });
    watched
}

/// A certificate that ended is kept: the peer, not its absence, is to say so.
fn replace(old: &mut Option<Arc<Secrets>>, new: Secrets) -> bool {
    let same = old.as_ref().is_some_and(|old| {
        old.0
            .iter()
            .zip(&new.0)
            .all(|(old, new)| old.version == new.version)
    });
    if !same {
        *old = Some(Arc::new(new));
    }
    !same
}
