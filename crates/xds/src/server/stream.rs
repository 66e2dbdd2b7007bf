//! The delta protocol of one stream, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waymark_proto::type_url;

use super::codec;
use super::type_state::{Removals, Response, TypeState, TypeStatus};
use crate::discovery::DeltaDiscoveryRequest;
use crate::resource_map::ResourceMap;
use crate::resource_set::ResourceSet;
use crate::subscription::is_by_name;

/// One client's stream: requests and snapshots go in, responses come out.
///
/// ```text
///             request: subscribe                    ACK or NACK
///   (type) ----------------------> something due <-------------- in flight
///                                       |   ^                        ^
///                  nothing differs: settled |  offer: it differs     |
///                                       |   |                        |
///                                       '---'------ poll: response --'
/// ```
///
/// - A client is sent what differs from what it is known to have, by content hash: what it was sent, and what it says in
///   `initial_resource_versions`, for every type. What it refused counts as known: it comes again when it changes.
/// - A type has one response in flight. What changes meanwhile is sent, in its last state, with the next one.
/// - Types are sent in the order of [`PUSH_ORDER`], so that what refers comes after what it refers to. Listeners and routes
///   wait until the client has answered the clusters and endpoints that were sent before them: one that is told of a route
///   to a cluster that is not there yet fails requests. Clusters and endpoints are removed only after the listeners and
///   routes without them were accepted.
/// - While listeners or routes wait, what they wait for does not change: a newer snapshot is looked at after that, so that no
///   stream of changes holds them up for good. Every wait is for an answer of the client.
#[derive(Debug)]
pub struct ServerStream {
    set: ResourceSet,
    /// A newer one, while listeners or routes of this one wait.
    next: Option<ResourceSet>,
    types: BTreeMap<TypeKey, TypeState>,
    nonce_prefix: String,
    nonces: u64,
    warming: Warming,
    /// Names of clusters that were sent and whose endpoints are to follow.
    clusters_to_warm: BTreeSet<String>,
    touched: BTreeSet<TypeKey>,
}

/// Whether a client needs the endpoints of a changed cluster once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warming {
    /// It keeps those that it has.
    KeepsEndpoints,
    /// It makes a new cluster, which waits for endpoints without asking for them, as Envoy does.
    NeedsEndpoints,
}

/// What a request was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// The first of its type.
    First,
    /// The client accepted the response in flight.
    Ack,
    /// The client refused the response in flight, for this reason.
    Nack(String),
    /// It answers a response that is not in flight; only its subscription was looked at.
    Stale,
    /// Only a change of the subscription.
    Subscription,
    /// Not for discovery.
    Ignored,
}

/// Why a stream is ended by a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No type URL.
    #[error("request without type_url")]
    NoType,
    /// More types than there are.
    #[error("more than {MAX_TYPES} resource types")]
    TooManyTypes,
    /// More names than a client can need.
    #[error("more than {MAX_NAMES} names of {type_url}")]
    TooManyNames {
        /// The type.
        type_url: String,
    },
}

/// The order in which types are sent; others follow.
pub const PUSH_ORDER: [&str; 8] = [
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::SECRET,
    type_url::ADDRESS,
    type_url::WORKLOAD,
    type_url::AUTHORIZATION,
];

impl ServerStream {
    /// A stream of a client that is to have `set`. `nonce_prefix` tells its nonces from those of other streams.
    pub fn new(set: ResourceSet, nonce_prefix: impl Into<String>, warming: Warming) -> Self {
        Self {
            set,
            next: None,
            types: BTreeMap::new(),
            nonce_prefix: nonce_prefix.into(),
            nonces: 0,
            warming,
            clusters_to_warm: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Takes a request.
    ///
    /// # Errors
    ///
    /// The stream is to be ended.
    pub fn handle(&mut self, request: DeltaDiscoveryRequest) -> Result<Handled, RequestError> {
        if request.type_url.is_empty() {
            return Err(RequestError::NoType);
        }
        if request.type_url == type_url::HEALTH_INFORMATION {
            return Ok(Handled::Ignored);
        }
        let key = TypeKey::new(&request.type_url);
        self.touched.insert(key.clone());
        let handled = match self.types.get_mut(&key) {
            None => {
                let by_name = is_by_name(&request.type_url);
                let state = TypeState::first(
                    request.resource_names_subscribe,
                    &request.resource_names_unsubscribe,
                    request.initial_resource_versions,
                    by_name,
                );
                self.types.insert(key.clone(), state);
                Handled::First
            }
            Some(state) => {
                let nonce = request.response_nonce;
                let error = request.error_detail.map(|status| status.message);
                let handled = if nonce.is_empty() {
                    Handled::Subscription
                } else if state.is_in_flight() && nonce == state.status.nonce_sent {
                    state.answered(error.clone());
                    error.map_or(Handled::Ack, Handled::Nack)
                } else {
                    Handled::Stale
                };
                state.change(
                    request.resource_names_subscribe,
                    request.resource_names_unsubscribe,
                );
                handled
            }
        };
        if self.types.len() > MAX_TYPES {
            return Err(RequestError::TooManyTypes);
        }
        if self
            .types
            .get(&key)
            .is_some_and(|state| state.names() > MAX_NAMES)
        {
            return Err(RequestError::TooManyNames {
                type_url: request.type_url,
            });
        }
        Ok(handled)
    }

    /// Takes the snapshot that the client is to have from now on.
    pub fn offer(&mut self, set: ResourceSet) {
        self.next = Some(set);
        if !self.is_amid_push() {
            self.go_to_next();
        }
    }

    /// The next response to send, or `None` when nothing can be sent before a request or a snapshot comes.
    pub fn poll(&mut self) -> Option<Response> {
        loop {
            self.ask_for_endpoints();
            let keys: Vec<TypeKey> = self.types.keys().cloned().collect();
            let response = keys.into_iter().find_map(|key| self.poll_type(&key));
            if response.is_some() || self.is_amid_push() || !self.go_to_next() {
                return response;
            }
        }
    }

    /// The types whose status has changed since the last call, and their status.
    pub fn take_changed_status(&mut self) -> Vec<(Arc<str>, TypeStatus)> {
        std::mem::take(&mut self.touched)
            .into_iter()
            .filter_map(|key| {
                self.types
                    .get(&key)
                    .map(|state| (key.type_url.clone(), state.status()))
            })
            .collect()
    }

    fn poll_type(&mut self, key: &TypeKey) -> Option<Response> {
        if self.waits(&key.type_url) {
            return None;
        }
        let removals = self.removals(key);
        let snapshot = snapshot(&self.set, &key.type_url);
        let (resources, removed) = self.types.get_mut(key)?.take(&snapshot, removals)?;
        self.nonces += 1;
        let response = Response {
            type_url: key.type_url.clone(),
            system_version: self.set.version().to_owned(),
            nonce: format!("{}-{}", self.nonce_prefix, self.nonces),
            resources,
            removed,
        };
        if self.warming == Warming::NeedsEndpoints && *key.type_url == *type_url::CLUSTER {
            self.clusters_to_warm.extend(
                response
                    .resources
                    .iter()
                    .map(|cluster| cluster.name().to_owned()),
            );
        }
        if *key.type_url == *type_url::ENDPOINT {
            for endpoints in &response.resources {
                self.clusters_to_warm.remove(endpoints.name());
            }
        }
        if let Some(state) = self.types.get_mut(key) {
            let status = &mut state.status;
            status.nonce_sent.clone_from(&response.nonce);
            status.version_sent.clone_from(&response.system_version);
            status.responses += 1;
            status.resources_sent += response.resources.len() as u64;
            status.removals_sent += response.removed.len() as u64;
            status.bytes_sent += codec::encoded_len(&response) as u64;
        }
        self.touched.insert(key.clone());
        Some(response)
    }

    /// Takes the newest snapshot; `false` when there is none but the one at hand.
    fn go_to_next(&mut self) -> bool {
        match self.next.take() {
            Some(next) => {
                self.set = next;
                true
            }
            None => false,
        }
    }

    /// Whether listeners or routes wait for the clusters and endpoints that were sent before them.
    fn is_amid_push(&self) -> bool {
        [type_url::LISTENER, type_url::ROUTE]
            .into_iter()
            .any(|type_url| {
                let state = self.types.get(&TypeKey::new(type_url));
                let is_due = |state: &TypeState| state.is_due(&snapshot(&self.set, type_url));
                self.waits(type_url) && state.is_some_and(is_due)
            })
    }

    /// Whether a type refers to what the client has not answered yet.
    fn waits(&self, type_url: &str) -> bool {
        let in_flight = |type_url: &str| {
            let state = self.types.get(&TypeKey::new(type_url));
            state.is_some_and(TypeState::is_in_flight)
        };
        matches!(type_url, type_url::LISTENER | type_url::ROUTE)
            && (in_flight(type_url::CLUSTER) || in_flight(type_url::ENDPOINT))
    }

    /// Endpoints follow the clusters that the client has to warm. They are looked for again at every turn: the client may
    /// subscribe to them later.
    fn ask_for_endpoints(&mut self) {
        if self.clusters_to_warm.is_empty() {
            return;
        }
        if let Some(endpoints) = self.types.get_mut(&TypeKey::new(type_url::ENDPOINT)) {
            self.clusters_to_warm.retain(|name| !endpoints.ask(name));
        }
    }

    /// Whether resources of this type that are gone may be removed now.
    fn removals(&self, key: &TypeKey) -> Removals {
        let after: &[&str] = match &*key.type_url {
            type_url::CLUSTER => &[type_url::LISTENER, type_url::ROUTE],
            type_url::ENDPOINT => &[type_url::LISTENER, type_url::ROUTE, type_url::CLUSTER],
            _ => &[],
        };
        let is_unsettled = |type_url: &&str| {
            let state = self.types.get(&TypeKey::new(type_url));
            state.is_some_and(|state| state.is_unsettled(&snapshot(&self.set, type_url)))
        };
        if after.iter().any(is_unsettled) {
            Removals::Hold
        } else {
            Removals::Send
        }
    }
}

/// Types in the order in which they are sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct TypeKey {
    rank: usize,
    type_url: Arc<str>,
}

impl TypeKey {
    fn new(type_url: &str) -> Self {
        let rank = PUSH_ORDER
            .iter()
            .position(|known| *known == type_url)
            .unwrap_or(PUSH_ORDER.len());
        Self {
            rank,
            type_url: type_url.into(),
        }
    }
}

fn snapshot(set: &ResourceSet, type_url: &str) -> ResourceMap {
    set.get(type_url).cloned().unwrap_or_default()
}

/// A client has about ten types.
const MAX_TYPES: usize = 64;
/// Ten times the clusters of a large mesh.
const MAX_NAMES: usize = 200_000;
