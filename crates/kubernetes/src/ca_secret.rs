//! The certificate authority of a cluster: an operator's (Secret `cacerts`), or one that the first replica makes for all
//! (Secret `istio-ca-secret`).
//!
//! Who makes it is decided by the API server: of two replicas that create the Secret one is refused, and reads what the
//! other has made. A renewal names the version that it replaces. Spec: control-plane.md 11.6.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tracing::{info, warn};
use waymark_identity::ca::CaPem;
use waymark_identity::{Ca, CaError, SignError, TrustDomain};
use waymark_rt::Clock;

use crate::leader::is_conflict;

/// Reads and writes the authority's Secrets.
#[derive(Clone)]
pub struct CaSecrets {
    api: Api<Secret>,
    namespace: String,
    trust_domain: TrustDomain,
    clock: Arc<dyn Clock>,
}

/// Where an authority is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaOrigin {
    /// Secret `cacerts`: the operator's, and theirs to renew.
    Plugged,
    /// Secret `istio-ca-secret`: made and renewed here.
    SelfSigned,
}

impl CaOrigin {
    /// The Secret's name.
    pub const fn secret(self) -> &'static str {
        match self {
            Self::Plugged => "cacerts",
            Self::SelfSigned => "istio-ca-secret",
        }
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum CaSecretError {
    /// The API server.
    #[error("{action} Secret {namespace}/{name}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: &'static str,
        /// What it said.
        source: kube::Error,
    },
    /// Something is missing in it.
    #[error("Secret {namespace}/{name} has no {key}")]
    Incomplete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: &'static str,
        /// The key.
        key: &'static str,
    },
    /// What it has is no authority.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// It was removed and made anew faster than it could be read.
    #[error("Secret {namespace}/{name} does not stay")]
    Unsteady {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: &'static str,
    },
}

impl CaSecrets {
    /// The Secrets of a namespace, for authorities of a trust domain.
    pub fn new(
        client: Client,
        namespace: &str,
        trust_domain: &TrustDomain,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            trust_domain: trust_domain.clone(),
            clock,
        }
    }

    /// The cluster's authority; makes one if there is none.
    ///
    /// # Errors
    /// See [`CaSecretError`]. An operator's Secret that is unusable is an error: it is not passed over.
    pub async fn load_or_create(&self) -> Result<(Ca, CaOrigin), CaSecretError> {
        for _ in 0..ATTEMPTS {
            if let Some((ca, origin)) = self.load().await? {
                return Ok((ca, origin));
            }
            let made = CaPem::self_signed(&self.trust_domain, &*self.clock)?;
            let origin = CaOrigin::SelfSigned;
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(origin.secret().to_owned()),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
                type_: Some("istio.io/ca-root".to_owned()),
                data: Some(data(&made)),
                ..Secret::default()
            };
            match self.api.create(&PostParams::default(), &secret).await {
                Ok(_) => {
                    info!(
                        namespace = self.namespace,
                        secret = origin.secret(),
                        "made a certificate authority"
                    );
                    return Ok((self.ca(origin, &made)?, origin));
                }
                // Another replica was quicker: it is read.
                Err(error) if is_conflict(&error) => {}
                Err(source) => return Err(self.error("create", origin)(source)),
            }
        }
        Err(CaSecretError::Unsteady {
            namespace: self.namespace.clone(),
            name: CaOrigin::SelfSigned.secret(),
        })
    }

    /// The cluster's authority, if there is one: the operator's before ours.
    ///
    /// # Errors
    /// See [`CaSecretError`].
    pub async fn load(&self) -> Result<Option<(Ca, CaOrigin)>, CaSecretError> {
        for origin in [CaOrigin::Plugged, CaOrigin::SelfSigned] {
            if let Some(secret) = self.read(origin).await? {
                let pem = self.pem(origin, &secret)?;
                return Ok(Some((self.ca(origin, &pem)?, origin)));
            }
        }
        Ok(None)
    }

    /// Renews the authority that was made here when less than a fifth of its life is left: with the same key, so that
    /// everything that it has signed stays good. Only the leader calls this. Returns whether it did.
    ///
    /// # Errors
    /// See [`CaSecretError`]. A conflict means that somebody else has changed the Secret; the next call looks again.
    pub async fn renew_if_due(&self) -> Result<bool, CaSecretError> {
        let origin = CaOrigin::SelfSigned;
        let Some(mut secret) = self.read(origin).await? else {
            return Ok(false);
        };
        let pem = self.pem(origin, &secret)?;
        let ca = self.ca(origin, &pem)?;
        if !is_due(
            ca.signer().not_before,
            ca.signer().not_after,
            self.clock.wall(),
        ) {
            return Ok(false);
        }
        let renewed = pem.renewed(&self.trust_domain, &*self.clock)?;
        // What cannot be used must not replace what can.
        self.ca(origin, &renewed)?;
        secret.data = Some(data(&renewed));
        self.api
            .replace(origin.secret(), &PostParams::default(), &secret)
            .await
            .map_err(self.error("replace", origin))?;
        info!(
            namespace = self.namespace,
            secret = origin.secret(),
            "certificate authority renewed"
        );
        Ok(true)
    }

    /// Says something whenever one of the Secrets has changed.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let watched = [CaOrigin::Plugged, CaOrigin::SelfSigned].map(|origin| {
            let by_name = format!("metadata.name={}", origin.secret());
            let config = watcher::Config::default().fields(&by_name);
            watcher::watcher(self.api.clone(), config)
                .default_backoff()
                .filter_map(|event| async move {
                    match event {
                        Ok(_) => Some(()),
                        Err(error) => {
                            warn!(%error, "the certificate authority's Secret is watched again");
                            None
                        }
                    }
                })
                .boxed()
        });
        stream::select_all(watched)
    }

    async fn read(&self, origin: CaOrigin) -> Result<Option<Secret>, CaSecretError> {
        self.api
            .get_opt(origin.secret())
            .await
            .map_err(self.error("read", origin))
    }

    fn error(
        &self,
        action: &'static str,
        origin: CaOrigin,
    ) -> impl FnOnce(kube::Error) -> CaSecretError + use<> {
        let namespace = self.namespace.clone();
        move |source| CaSecretError::Api {
            action,
            namespace,
            name: origin.secret(),
            source,
        }
    }

    fn ca(&self, origin: CaOrigin, pem: &CaPem) -> Result<Ca, CaError> {
        let from = format!("Secret {}/{}", self.namespace, origin.secret());
        Ca::from_pem(&from, pem, &self.trust_domain, self.clock.clone())
    }

    /// What a Secret has, in either layout. An authority of ours needs no more than certificate and key.
    fn pem(&self, origin: CaOrigin, secret: &Secret) -> Result<CaPem, CaSecretError> {
        let empty = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&empty);
        let text = |key: &str| {
            let bytes = data.get(key)?;
            let text = String::from_utf8_lossy(&bytes.0).into_owned();
            (!text.trim().is_empty()).then_some(text)
        };
        let needed = |key: &'static str| {
            text(key).ok_or_else(|| CaSecretError::Incomplete {
                namespace: self.namespace.clone(),
                name: origin.secret(),
                key,
            })
        };
        if text("ca-cert.pem").is_none() && text("tls.crt").is_some() {
            let signer = needed("tls.crt")?;
            return Ok(CaPem {
                chain: signer.clone(),
                signer,
                key: needed("tls.key")?,
                roots: needed("ca.crt")?,
            });
        }
        let signer = needed("ca-cert.pem")?;
        let (chain, roots) = match origin {
            CaOrigin::Plugged => (needed("cert-chain.pem")?, needed("root-cert.pem")?),
            CaOrigin::SelfSigned => (
                text("cert-chain.pem").unwrap_or_else(|| signer.clone()),
                text("root-cert.pem").unwrap_or_else(|| signer.clone()),
            ),
        };
        Ok(CaPem {
            signer,
            key: needed("ca-key.pem")?,
            chain,
            roots,
        })
    }
}

impl std::fmt::Debug for CaSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaSecrets")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Whether an authority may take the place of the one in force: peers that know only the old roots must accept what the
/// new one signs, and peers that know the new ones what the old one has signed. So a new root is first added to the
/// roots, then signs, and only then the old one goes.
///
/// # Errors
/// Which of them would be refused.
pub fn may_replace(old: &Ca, new: &Ca) -> Result<(), RotationError> {
    match old.is_trusted_by(new.roots()) {
        // One that has ended signs nothing, and nothing of it is in use.
        Err(CaError::Try(SignError::SignerNotValid { .. })) => return Ok(()),
        result => result.map_err(RotationError::OldUntrusted)?,
    }
    new.is_trusted_by(old.roots())
        .map_err(RotationError::NewUntrusted)
}

/// Why an authority may not take the place of the one in force.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The old root is gone too early.
    #[error(
        "certificates that are in use would be refused: keep the old root in root-cert.pem until they have ended"
    )]
    OldUntrusted(#[source] CaError),
    /// The new root signs too early.
    #[error(
        "new certificates would be refused by workloads that do not know the new root: add it to root-cert.pem first"
    )]
    NewUntrusted(#[source] CaError),
}

fn data(pem: &CaPem) -> BTreeMap<String, ByteString> {
    // Old roots are kept beside the one that signs; alone it is written as upstream does, which derives it.
    let roots = if pem.roots == pem.signer {
        ""
    } else {
        &pem.roots
    };
    [
        ("ca-cert.pem", pem.signer.as_str()),
        ("ca-key.pem", &pem.key),
        ("cert-chain.pem", ""),
        ("key.pem", ""),
        ("root-cert.pem", roots),
    ]
    .map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())))
    .into()
}

fn is_due(from: SystemTime, until: SystemTime, now: SystemTime) -> bool {
    let life = until.duration_since(from).unwrap_or_default();
    let left = until.duration_since(now).unwrap_or_default();
    left < life.mul_f64(RENEW_WITH_LEFT)
}

/// Spec: istiod `CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`.
const RENEW_WITH_LEFT: f64 = 0.2;
/// Spec: istiod `CITADEL_SELF_SIGNED_ROOT_CERT_CHECK_INTERVAL`.
pub const RENEWAL_EVERY: Duration = Duration::from_secs(3600);
const ATTEMPTS: usize = 10;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use waymark_rt::SystemClock;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn ca(pem: &CaPem) -> Ca {
        Ca::from_pem("test", pem, &TrustDomain::default(), Arc::new(SystemClock)).unwrap()
    }

    fn fresh() -> CaPem {
        CaPem::self_signed(&TrustDomain::default(), &SystemClock).unwrap()
    }

    #[test]
    fn is_renewed_in_the_last_fifth() {
        let from = SystemTime::UNIX_EPOCH;
        let until = from + DAY * 100;
        assert!(!is_due(from, until, from + DAY * 79));
        assert!(is_due(from, until, from + DAY * 81));
        assert!(is_due(from, until, until + DAY));
    }

    #[test]
    fn a_renewed_root_and_its_former_self_trust_each_other() {
        let old = fresh();
        let new = old.renewed(&TrustDomain::default(), &SystemClock).unwrap();
        assert_ne!(old.signer, new.signer);
        assert_eq!(ca(&new).roots().certificates().len(), 2);
        may_replace(&ca(&old), &ca(&new)).unwrap();
    }

    #[test]
    fn a_new_root_is_trusted_before_it_signs_and_the_old_one_after() {
        let (old, new) = (fresh(), fresh());
        let both = format!("{}{}", old.roots, new.roots);
        let announced = CaPem {
            roots: both.clone(),
            ..old.clone()
        };
        let signing = CaPem {
            roots: both,
            ..new.clone()
        };
        may_replace(&ca(&old), &ca(&announced)).unwrap();
        may_replace(&ca(&announced), &ca(&signing)).unwrap();
        may_replace(&ca(&signing), &ca(&new)).unwrap();
        let why = may_replace(&ca(&old), &ca(&new)).unwrap_err();
        assert!(matches!(why, RotationError::OldUntrusted(_)));
        let why = may_replace(&ca(&old), &ca(&signing)).unwrap_err();
        assert!(matches!(why, RotationError::NewUntrusted(_)));
    }
}
