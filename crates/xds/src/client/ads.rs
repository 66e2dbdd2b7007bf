//! The delta protocol as a client, without I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::envoy::google::rpc::Status;

use super::subscriptions::{Subscriptions, Wanted};
use crate::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::subscription::is_by_name;

/// What resources are for.
pub trait Handler {
    /// Applies one response. Removals are always taken; of the resources, those that [`NackReason`] names are taken to be
    /// refused and the others to be in use.
    ///
    /// What is wanted may be changed, for example to the endpoints of the clusters that have come.
    ///
    /// # Errors
    ///
    /// The response, or some of its resources, are refused; the server is told.
    fn apply(
        &mut self,
        update: Update<'_>,
        subscriptions: &mut Subscriptions,
    ) -> Result<(), NackReason>;
}

/// One response, restricted to what is wanted.
#[derive(Debug)]
pub struct Update<'a> {
    /// The type of all of them.
    pub type_url: &'a str,
    /// The server's name for its state.
    pub system_version: &'a str,
    /// New and changed resources.
    pub resources: Vec<Resource>,
    /// Names that are gone, or that were asked for and do not exist.
    pub removed: Vec<String>,
}

/// Why a response is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NackReason {
    /// Nothing of it is in use.
    #[error("{0}")]
    Response(String),
    /// These resources are not in use; the others are.
    #[error("{}", rejections(.0))]
    Resources(Vec<Rejection>),
}

/// A resource that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub name: String,
    /// What is wrong with it, with the field's path.
    pub reason: String,
}

/// What a client wants and has: responses go in, requests come out.
///
/// Survives its streams: on the next one, it tells the server what it has, and is sent only what differs.
#[derive(Debug)]
pub struct AdsClient {
    node: Node,
    subscriptions: Subscriptions,
    types: BTreeMap<String, TypeState>,
    requests: VecDeque<DeltaDiscoveryRequest>,
    connected: bool,
    node_due: bool,
}

#[derive(Debug, Default)]
struct TypeState {
    /// Name and version of what is in use.
    held: BTreeMap<String, String>,
    /// What the server was asked for on this stream; `None`: nothing yet.
    asked: Option<Wanted>,
    /// Whether a response has come, on whatever stream.
    answered: bool,
}

impl AdsClient {
    /// A client without a stream.
    pub fn new(node: Node, subscriptions: Subscriptions) -> Self {
        Self {
            node,
            subscriptions,
            types: BTreeMap::new(),
            requests: VecDeque::new(),
            connected: false,
            node_due: false,
        }
    }

    /// A stream is there: all that is wanted is asked for on it.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
        self.node_due = true;
        self.ask();
    }

    /// The stream is gone. What is held stays.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.requests.clear();
        for state in self.types.values_mut() {
            state.asked = None;
        }
    }

    /// The next request to send.
    pub fn poll_request(&mut self) -> Option<DeltaDiscoveryRequest> {
        let mut request = self.requests.pop_front()?;
        if std::mem::take(&mut self.node_due) {
            request.node = Some(self.node.clone());
        }
        Some(request)
    }

    /// Takes a response and answers it. What is wanted by then is asked for.
    pub fn handle(
        &mut self,
        response: DeltaDiscoveryResponse,
        handler: &mut impl Handler,
    ) -> Result<(), NackReason> {
        let state = self.types.entry(response.type_url.clone()).or_default();
        state.answered = true;
        let wanted = self.subscriptions.get(&response.type_url).cloned();
        let resources: Vec<Resource> = response
            .resources
            .into_iter()
            .filter(|resource| match &wanted {
                Some(Wanted::All) => true,
                // What is no longer wanted may still be on its way.
                Some(Wanted::Names(names)) => {
                    names.contains(&resource.name)
                        || resource.aliases.iter().any(|alias| names.contains(alias))
                }
                None => false,
            })
            .collect();
        for name in &response.removed_resources {
            state.held.remove(name);
        }
        let versions: Vec<(String, String)> = resources
            .iter()
            .map(|resource| (resource.name.clone(), resource.version.clone()))
            .collect();
        let update = Update {
            type_url: &response.type_url,
            system_version: &response.system_version_info,
            resources,
            removed: response.removed_resources,
        };
        let result = handler.apply(update, &mut self.subscriptions);
        let refused: BTreeSet<&str> = match &result {
            Ok(()) => BTreeSet::new(),
            Err(NackReason::Response(_)) => {
                versions.iter().map(|(name, _)| name.as_str()).collect()
            }
            Err(NackReason::Resources(rejections)) => rejections
                .iter()
                .map(|rejection| rejection.name.as_str())
                .collect(),
        };
        for (name, version) in versions
            .iter()
            .filter(|(name, _)| !refused.contains(name.as_str()))
        {
            state.held.insert(name.clone(), version.clone());
        }
        // What was taken leads to further wants: they are told first, so that a server that waits for the answer before it sends
        // what refers to the clusters, say, knows that their endpoints are still to be sent. Envoy does it in this order, too.
        self.ask();
        self.requests.push_back(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: result.as_ref().err().map(|reason| Status {
                code: INVALID_ARGUMENT,
                message: reason.to_string(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        });
        result
    }

    /// Changes what is wanted.
    pub fn subscribe(&mut self, change: impl FnOnce(&mut Subscriptions)) {
        change(&mut self.subscriptions);
        self.ask();
    }

    /// What is wanted.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Name and version of what is in use of a type.
    pub fn held(&self, type_url: &str) -> impl Iterator<Item = (&str, &str)> {
        let held = self
            .types
            .get(type_url)
            .into_iter()
            .flat_map(|state| &state.held);
        held.map(|(name, version)| (name.as_str(), version.as_str()))
    }

    /// Whether everything that is wanted has been answered at least once.
    pub fn is_answered(&self) -> bool {
        self.subscriptions
            .iter()
            .all(|(type_url, wanted)| match wanted {
                Wanted::Names(names) if names.is_empty() => true,
                Wanted::All | Wanted::Names(_) => {
                    self.types.get(type_url).is_some_and(|state| state.answered)
                }
            })
    }

    /// Asks for what is wanted and was not asked for on this stream.
    fn ask(&mut self) {
        if !self.connected {
            return;
        }
        for (type_url, wanted) in self.subscriptions.iter() {
            let state = self.types.entry(type_url.to_owned()).or_default();
            if state.asked.as_ref() == Some(wanted) {
                continue;
            }
            let request = match &state.asked {
                None => match first_request(type_url, wanted, &mut state.held) {
                    Some(request) => request,
                    None => continue,
                },
                Some(asked) => later_request(asked, wanted, &mut state.held),
            };
            state.asked = Some(wanted.clone());
            self.requests.push_back(DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                ..request
            });
        }
    }
}

/// `None` when there is nothing to ask: an empty first subscription would mean everything.
fn first_request(
    type_url: &str,
    wanted: &Wanted,
    held: &mut BTreeMap<String, String>,
) -> Option<DeltaDiscoveryRequest> {
    let names = match wanted {
        Wanted::All if is_by_name(type_url) => vec!["*".to_owned()],
        Wanted::All => Vec::new(),
        Wanted::Names(names) => {
            held.retain(|name, _| names.contains(name));
            if names.is_empty() {
                return None;
            }
            names.iter().cloned().collect()
        }
    };
    Some(DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        initial_resource_versions: held
            .iter()
            .map(|(name, version)| (name.clone(), version.clone()))
            .collect(),
        ..DeltaDiscoveryRequest::default()
    })
}

fn later_request(
    asked: &Wanted,
    wanted: &Wanted,
    held: &mut BTreeMap<String, String>,
) -> DeltaDiscoveryRequest {
    let (before, after) = (asked.names(), wanted.names());
    let mut subscribe: Vec<String> = after
        .difference(&before)
        .map(|name| (*name).to_owned())
        .collect();
    let mut unsubscribe: Vec<String> = before
        .difference(&after)
        .map(|name| (*name).to_owned())
        .collect();
    match (asked, wanted) {
        (Wanted::Names(_), Wanted::All) => subscribe.push("*".to_owned()),
        (Wanted::All, Wanted::Names(_)) => unsubscribe.push("*".to_owned()),
        (Wanted::All, Wanted::All) | (Wanted::Names(_), Wanted::Names(_)) => {}
    }
    if let Wanted::Names(names) = wanted {
        held.retain(|name, _| names.contains(name));
    }
    DeltaDiscoveryRequest {
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        ..DeltaDiscoveryRequest::default()
    }
}

fn rejections(rejections: &[Rejection]) -> String {
    let texts: Vec<String> = rejections
        .iter()
        .map(|rejection| format!("{}: {}", rejection.name, rejection.reason))
        .collect();
    texts.join("; ")
}

const INVALID_ARGUMENT: i32 = 3;
