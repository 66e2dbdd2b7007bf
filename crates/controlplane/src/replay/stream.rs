//! One client's stream, as istiod's: see the parent's description.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use prost::Message;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tonic::{Request, Response, Status, Streaming};
use waymark_proto::envoy::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waymark_proto::envoy::envoy::config::route::v3::RouteConfiguration;
use waymark_proto::envoy::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use waymark_proto::envoy::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use waymark_proto::envoy::google::protobuf::Any;
use waymark_proto::type_url;
use waymark_rt::Shutdown;
use waymark_xds::server::{Client, PUSH_ORDER};

use super::capture::{Capture, NodeResources, short};
use super::{ReplayEvent, Watcher};
use crate::ca::Authenticator;
use crate::serve::check_client;

/// The service.
pub(super) struct Replay {
    capture: Capture,
    authenticator: Option<Arc<Authenticator>>,
    repeat: Option<Duration>,
    watcher: Watcher,
    shutdown: Shutdown,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Replay {
    pub(super) fn new(
        capture: Capture,
        authenticator: Option<Arc<Authenticator>>,
        repeat: Option<Duration>,
        watcher: Watcher,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            capture,
            authenticator,
            repeat,
            watcher,
            shutdown,
        }
    }

    pub(super) fn into_server(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Replay {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "only DeltaAggregatedResources is served",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let identity = match &self.authenticator {
            None => None,
            Some(authenticator) => match authenticator.authenticate(&request).await {
                Ok(caller) => Some(caller.identity.to_string()),
                Err(error) => {
                    tracing::info!(%error, "client is nobody we know");
                    return Err(Status::unauthenticated("authentication failure"));
                }
            },
        };
        let peer = request.remote_addr();
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::cancelled("closed without a request"))?;
        let node = first
            .node
            .clone()
            .filter(|node| !node.id.is_empty())
            .ok_or_else(|| Status::invalid_argument("missing node information"))?;
        let client = Client {
            node,
            identity,
            peer,
        };
        check_client(&client)?;
        let id = &client.node.id;
        let (node, resources) = self
            .capture
            .of_client(id)
            .map_err(Status::invalid_argument)?;
        (self.watcher)(ReplayEvent::Connected {
            client: id.clone(),
            node,
        });
        let mut session = Session::new(resources, Arc::clone(&self.watcher));
        session.handle(first);
        let driver = Driver {
            session,
            requests,
            ticks: self.repeat.map(ticks),
            shutdown: self.shutdown.clone(),
        };
        let responses = futures_util::stream::unfold(driver, |mut driver| async move {
            Some((driver.next().await?, driver))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

fn ticks(every: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

struct Driver {
    session: Session,
    requests: Streaming<DeltaDiscoveryRequest>,
    ticks: Option<Interval>,
    shutdown: Shutdown,
}

impl Driver {
    async fn next(&mut self) -> Option<Result<DeltaDiscoveryResponse, Status>> {
        loop {
            if let Some(response) = self.session.due.pop_front() {
                return Some(Ok(response));
            }
            let tick = async {
                match &mut self.ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.shutdown.draining() => return Some(Err(Status::unavailable("server is closing"))),
                request = self.requests.message() => match request {
                    Ok(Some(request)) => self.session.handle(request),
                    Ok(None) | Err(_) => return None,
                },
                _ = tick => self.session.push(),
            }
        }
    }
}

/// What one client watches, without I/O.
pub(super) struct Session {
    resources: Arc<NodeResources>,
    watched: BTreeMap<String, Watch>,
    watcher: Watcher,
    /// Responses that are to be sent.
    pub(super) due: VecDeque<DeltaDiscoveryResponse>,
    /// What the responses under way have, by nonce.
    under_way: BTreeMap<String, usize>,
    pushes: u64,
    nonces: u64,
}

#[derive(Default)]
struct Watch {
    wildcard: bool,
    names: BTreeSet<String>,
}

impl Session {
    pub(super) fn new(resources: Arc<NodeResources>, watcher: Watcher) -> Self {
        Self {
            resources,
            watched: BTreeMap::new(),
            watcher,
            due: VecDeque::new(),
            under_way: BTreeMap::new(),
            pushes: 1,
            nonces: 0,
        }
    }

    pub(super) fn handle(&mut self, request: DeltaDiscoveryRequest) {
        let kind = request.type_url.clone();
        if kind.is_empty() || kind == type_url::HEALTH_INFORMATION {
            return;
        }
        if let Some(resources) = self.under_way.remove(&request.response_nonce) {
            let kind = short(&kind).to_owned();
            (self.watcher)(match request.error_detail {
                Some(status) => ReplayEvent::Refused {
                    kind,
                    why: status.message,
                },
                None => ReplayEvent::Accepted { kind, resources },
            });
        }
        let first = !self.watched.contains_key(&kind);
        let watch = self.watched.entry(kind.clone()).or_default();
        let by_name = kind == type_url::ENDPOINT || kind == type_url::ROUTE;
        let wildcard = request.resource_names_subscribe.iter().any(|n| n == "*");
        let asked_all =
            wildcard || (first && !by_name && request.resource_names_subscribe.is_empty());
        watch.wildcard |= asked_all;
        for name in &request.resource_names_unsubscribe {
            watch.names.remove(name);
        }
        let fresh: Vec<String> = request
            .resource_names_subscribe
            .into_iter()
            .filter(|name| name != "*" && watch.names.insert(name.clone()))
            .collect();
        if asked_all {
            self.send(&kind, None);
        } else if !fresh.is_empty() {
            self.send(&kind, Some(&fresh));
        } else {
            return;
        }
        if kind == type_url::CLUSTER {
            self.send_watched(type_url::ENDPOINT);
        }
    }

    /// Everything that is watched, once more, though nothing has changed.
    pub(super) fn push(&mut self) {
        self.pushes += 1;
        for kind in PUSH_ORDER {
            self.send_watched(kind);
        }
    }

    fn send_watched(&mut self, kind: &str) {
        let Some(watch) = self.watched.get(kind) else {
            return;
        };
        let names: Vec<String> = watch.names.iter().cloned().collect();
        match (watch.wildcard, names.is_empty()) {
            (true, _) => self.send(kind, None),
            (false, false) => self.send(kind, Some(&names)),
            (false, true) => {}
        }
    }

    /// All resources of a type, or those of some names.
    fn send(&mut self, kind: &str, names: Option<&[String]>) {
        let all = self
            .resources
            .types
            .get(kind)
            .map_or(&[][..], Vec::as_slice);
        let resource = |name: &str, any: Any| Resource {
            name: name.to_owned(),
            resource: Some(any),
            ..Resource::default()
        };
        let (resources, removed): (Vec<Resource>, Vec<String>) = match names {
            None => {
                let all = all.iter().map(|(name, any)| resource(name, any.clone()));
                (all.collect(), Vec::new())
            }
            Some(names) => {
                let (mut found, mut missing) = (Vec::new(), Vec::new());
                for name in names {
                    let known = all.iter().find(|(known, _)| known == name);
                    match known
                        .map(|(_, any)| any.clone())
                        .or_else(|| hollow(kind, name))
                    {
                        Some(any) => found.push(resource(name, any)),
                        None => missing.push(name.clone()),
                    }
                }
                (found, missing)
            }
        };
        self.nonces += 1;
        let version = format!("capture/{}", self.pushes);
        let nonce = format!("{version}{:08x}", self.nonces);
        self.under_way.insert(nonce.clone(), resources.len());
        self.due.push_back(DeltaDiscoveryResponse {
            system_version_info: version,
            resources,
            type_url: kind.to_owned(),
            removed_resources: removed,
            nonce,
            ..DeltaDiscoveryResponse::default()
        });
    }
}

/// What istiod answers for a name that it knows nothing of.
fn hollow(kind: &str, name: &str) -> Option<Any> {
    let value = match kind {
        type_url::ENDPOINT => ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..ClusterLoadAssignment::default()
        }
        .encode_to_vec(),
        type_url::ROUTE => RouteConfiguration {
            name: name.to_owned(),
            ..RouteConfiguration::default()
        }
        .encode_to_vec(),
        _ => return None,
    };
    Some(Any {
        type_url: kind.to_owned(),
        value,
    })
}
