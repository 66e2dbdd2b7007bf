//! One SDS stream as a state machine: requests and rotations in, answers out.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use tracing::warn;
use waymark_proto::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use waymark_proto::type_url;

use super::{Secrets, refused};
use crate::secrets::NamedSecret;

/// One of the two forms of the protocol.
pub(super) trait Form: Send {
    type Request: prost::Message + Default + 'static;
    type Response: Send + 'static;
    /// Whether an answer can say that a name is nobody's.
    const TELLS_UNKNOWN: bool;

    fn parse(request: Self::Request, known: &Subscribed) -> Change;
    fn answer(answer: Answer<'_>) -> Self::Response;
}

/// What is subscribed to, with the version that the client was sent last.
pub(super) type Subscribed = BTreeMap<String, Option<String>>;

/// What a request says.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) nonce: String,
    pub(super) error: Option<String>,
    /// With the version that the client has from an earlier stream.
    pub(super) subscribe: Vec<(String, Option<String>)>,
    pub(super) unsubscribe: Vec<String>,
}

/// What is to be sent.
pub(super) struct Answer<'a> {
    pub(super) nonce: String,
    /// Those that the client lacks.
    pub(super) news: Vec<&'a NamedSecret>,
    /// All that it is subscribed to.
    pub(super) all: Vec<&'a NamedSecret>,
    /// Names that nothing is served under.
    pub(super) unknown: Vec<String>,
}

/// One stream.
pub(super) struct SecretStream<F> {
    subscribed: Subscribed,
    nonce: u64,
    form: PhantomData<F>,
}

impl<F> Default for SecretStream<F> {
    fn default() -> Self {
        Self {
            subscribed: Subscribed::new(),
            nonce: 0,
            form: PhantomData,
        }
    }
}

impl<F: Form> SecretStream<F> {
    /// A request came.
    pub(super) fn take(
        &mut self,
        request: F::Request,
        secrets: Option<&Secrets>,
    ) -> Option<F::Response> {
        let change = F::parse(request, &self.subscribed);
        // Of an answer that a later one has overtaken. (An empty one changes the subscription and acknowledges nothing.)
        if !change.nonce.is_empty() && change.nonce != self.nonce.to_string() {
            return None;
        }
        if let Some(error) = &change.error {
            // It keeps what it has; the same again would be refused again.
            refused(error);
        }
        for name in &change.unsubscribe {
            self.subscribed.remove(name);
        }
        let mut unknown = Vec::new();
        for (name, version) in change.subscribe {
            if !Secrets::is_served(&name) {
                warn!(name, "envoy asks for a secret that the agent does not have");
                unknown.push(name.clone());
            }
            self.subscribed.insert(name, version);
        }
        self.answer(secrets, unknown)
    }

    /// The secrets changed.
    pub(super) fn changed(&mut self, secrets: Option<&Secrets>) -> Option<F::Response> {
        self.answer(secrets, Vec::new())
    }

    fn answer(&mut self, secrets: Option<&Secrets>, unknown: Vec<String>) -> Option<F::Response> {
        let all: Vec<&NamedSecret> = secrets
            .into_iter()
            .flat_map(|secrets| self.subscribed.keys().filter_map(|name| secrets.get(name)))
            .collect();
        let is_new = |secret: &NamedSecret| {
            self.subscribed
                .get(secret.name)
                .is_some_and(|sent| sent.as_ref() != Some(&secret.version))
        };
        let news: Vec<&NamedSecret> = all
            .iter()
            .copied()
            .filter(|secret| is_new(secret))
            .collect();
        if news.is_empty() && (unknown.is_empty() || !F::TELLS_UNKNOWN) {
            return None;
        }
        for secret in &news {
            self.subscribed
                .insert(secret.name.to_owned(), Some(secret.version.clone()));
        }
        self.nonce += 1;
        Some(F::answer(Answer {
            nonce: self.nonce.to_string(),
            news,
            all,
            unknown,
        }))
    }
}

/// `DeltaSecrets`.
pub(super) struct Delta;

impl Form for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const TELLS_UNKNOWN: bool = true;

    fn parse(request: DeltaDiscoveryRequest, _known: &Subscribed) -> Change {
        let mut versions = request.initial_resource_versions;
        Change {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            subscribe: request
                .resource_names_subscribe
                .into_iter()
                .map(|name| {
                    let version = versions.remove(&name);
                    (name, version)
                })
                .collect(),
            unsubscribe: request.resource_names_unsubscribe,
        }
    }

    fn answer(answer: Answer<'_>) -> DeltaDiscoveryResponse {
        let resource = |secret: &&NamedSecret| Resource {
            name: secret.name.to_owned(),
            version: secret.version.clone(),
            resource: Some(secret.any.clone()),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            resources: answer.news.iter().map(resource).collect(),
            type_url: type_url::SECRET.to_owned(),
            removed_resources: answer.unknown,
            nonce: answer.nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

/// `StreamSecrets`.
pub(super) struct StateOfTheWorld;

impl Form for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const TELLS_UNKNOWN: bool = false;

    fn parse(request: DiscoveryRequest, known: &Subscribed) -> Change {
        let gone = known
            .keys()
            .filter(|name| !request.resource_names.contains(name))
            .cloned();
        Change {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            unsubscribe: gone.collect(),
            // Every request names everything; what is known is no news.
            subscribe: request
                .resource_names
                .into_iter()
                .filter(|name| !known.contains_key(name))
                .map(|name| (name, None))
                .collect(),
        }
    }

    fn answer(answer: Answer<'_>) -> DiscoveryResponse {
        let versions: Vec<&str> = answer
            .all
            .iter()
            .map(|secret| secret.version.as_str())
            .collect();
        DiscoveryResponse {
            version_info: versions.join("+"),
            resources: answer.all.iter().map(|secret| secret.any.clone()).collect(),
            type_url: type_url::SECRET.to_owned(),
            nonce: answer.nonce,
            ..DiscoveryResponse::default()
        }
    }
}
