//! The whole control plane in one process, seen by clients over TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use prost::Message;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use waymark_identity::grpc::{Target, TargetTls, channel};
use waymark_identity::tls::{RootSource, https_client_config};
use waymark_proto::envoy::envoy::config::cluster::v3::Cluster;
use waymark_proto::envoy::envoy::config::core::v3::Node;
use waymark_proto::envoy::google::protobuf::{Struct, Value as ProtoValue, value::Kind};
use waymark_proto::type_url;
use waymark_proto::workload::{Address, Workload, address, gateway_address};
use waymark_rt::{Drain, Task, spawn};
use waymark_xds::client::{self, ClientOptions, ClientState, Credentials, CredentialsError};
use waymark_xds::{AdsClient, Handler, NackReason, Subscriptions, Update};

use super::*;

mod cluster;
mod faults;
mod replicas;
mod writers;

const MESH: &str = include_str!("../testdata/mesh.yaml");
const ROUTES: &str = include_str!("../testdata/routes.yaml");
const REVIEWS: &str = "inbound-vip|9080|http|reviews.default.svc.cluster.local";
const DEADLINE: Duration = Duration::from_secs(20);

/// A mesh directory and a state directory that outlive the control plane.
struct Place {
    mesh: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            mesh: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
        };
        place.write("mesh.yaml", MESH);
        place.write("routes.yaml", ROUTES);
        place
    }

    fn write(&self, name: &str, text: &str) {
        // Moved into place, as editors do.
        let temporary = self.mesh.path().join("next.tmp");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.mesh.path().join(name)).unwrap();
    }

    fn state(&self, name: &str) -> PathBuf {
        self.state.path().join(name)
    }

    fn json(&self, name: &str) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.state(name)).ok()?).ok()
    }

    async fn start(&self, xds: Option<SocketAddr>) -> Running {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let args = Args {
            mesh_dir: Some(self.mesh.path().to_owned()),
            state_dir: Some(self.state.path().to_owned()),
            xds_address: Some(xds.unwrap_or(local)),
            debug_address: Some(local),
            no_deploy: Some(true),
            ..Args::default()
        };
        let drain = Drain::new(Duration::from_secs(5));
        let _ = fs::remove_file(self.state("controlplane.json"));
        let task = spawn("control plane", run(args, drain.shutdown()));
        let started = eventually("the control plane listens", || {
            self.json("controlplane.json")
        })
        .await;
        Running {
            drain,
            task,
            xds: started["xds"].as_str().unwrap().parse().unwrap(),
            plaintext: None,
        }
    }
}

struct Running {
    drain: Drain,
    task: Task<Result<(), RunError>>,
    xds: SocketAddr,
    plaintext: Option<SocketAddr>,
}

impl Running {
    async fn stop(self) {
        self.drain.finish().await;
        timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// One response: its type, the names in it, the names removed.
#[derive(Debug, PartialEq)]
struct Seen {
    type_url: String,
    names: BTreeSet<String>,
    removed: Vec<String>,
}

/// Keeps what was received, and asks for endpoints and routes as a waypoint does.
struct Collector {
    seen: mpsc::Sender<Seen>,
    held: watch::Sender<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    route: String,
}

impl Handler for Collector {
    fn apply(
        &mut self,
        update: Update<'_>,
        subscriptions: &mut Subscriptions,
    ) -> Result<(), NackReason> {
        // Told before it is held: who has waited for what is held has all of it behind them.
        let seen = Seen {
            type_url: update.type_url.to_owned(),
            names: update
                .resources
                .iter()
                .map(|resource| resource.name.clone())
                .collect(),
            removed: update.removed.clone(),
        };
        self.seen.try_send(seen).unwrap();
        self.held.send_modify(|held| {
            let of_type = held.entry(update.type_url.to_owned()).or_default();
            for resource in &update.resources {
                let body = resource.resource.clone().unwrap().value;
                if update.type_url == type_url::CLUSTER {
                    let cluster = Cluster::decode(&*body).unwrap();
                    if let Some(eds) = cluster.eds_cluster_config {
                        subscriptions.add(type_url::ENDPOINT, eds.service_name);
                    }
                }
                of_type.insert(resource.name.clone(), body);
            }
            for name in &update.removed {
                of_type.remove(name);
            }
        });
        if update.type_url == type_url::LISTENER {
            subscriptions.add(type_url::ROUTE, self.route.clone());
        }
        Ok(())
    }
}

struct Token(PathBuf);

impl Credentials for Token {
    fn add(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        let token =
            fs::read_to_string(&self.0).map_err(|error| CredentialsError(error.to_string()))?;
        metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        Ok(())
    }
}

struct Client {
    seen: mpsc::Receiver<Seen>,
    held: watch::Receiver<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
    state: watch::Receiver<ClientState>,
    _drain: Drain,
    _task: Task<()>,
}

impl Client {
    fn connect(place: &Place, xds: SocketAddr, node: Node, types: &[&str], token: PathBuf) -> Self {
        let roots = RootSource::file(place.state("root-cert.pem"));
        let tls = TargetTls {
            config: https_client_config(roots, None),
            name: None,
        };
        Self::connect_to(xds, Some(tls), node, types, token, REVIEWS)
    }

    fn connect_to(
        xds: SocketAddr,
        tls: Option<TargetTls>,
        node: Node,
        types: &[&str],
        token: PathBuf,
        route: &str,
    ) -> Self {
        let channel = channel(&Target {
            address: xds.to_string(),
            tls,
        })
        .unwrap();
        let mut subscriptions = Subscriptions::new();
        types
            .iter()
            .for_each(|type_url| subscriptions.all(type_url));
        let (seen_by, seen) = mpsc::channel(1000);
        let held_by = watch::Sender::default();
        let held = held_by.subscribe();
        let states = watch::Sender::default();
        let state = states.subscribe();
        let drain = Drain::new(Duration::ZERO);
        let shutdown = drain.shutdown();
        let route = route.to_owned();
        let task = spawn("client", async move {
            let mut collector = Collector {
                seen: seen_by,
                held: held_by,
                route,
            };
            let ads = AdsClient::new(node, subscriptions);
            let options = ClientOptions::default();
            client::run(
                ads,
                channel,
                &Token(token),
                options,
                &mut collector,
                &states,
                shutdown,
            )
            .await;
        });
        Self {
            seen,
            held,
            state,
            _drain: drain,
            _task: task,
        }
    }

    /// The next response that brings or takes away something.
    async fn next(&mut self) -> Seen {
        loop {
            let seen = timeout(DEADLINE, self.seen.recv())
                .await
                .expect("a response in time")
                .unwrap();
            if !seen.names.is_empty() || !seen.removed.is_empty() {
                return seen;
            }
        }
    }

    /// Waits until what is held is as wanted.
    async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&BTreeMap<String, BTreeMap<String, Vec<u8>>>) -> bool,
    ) {
        let held = timeout(DEADLINE, self.held.wait_for(|held| wanted(held))).await;
        held.unwrap_or_else(|_| panic!("not in time: {what}"))
            .unwrap();
    }

    fn names(&self, type_url: &str) -> BTreeSet<String> {
        self.held
            .borrow()
            .get(type_url)
            .map(|of_type| of_type.keys().cloned().collect())
            .unwrap_or_default()
    }

    fn forget(&mut self) {
        while self.seen.try_recv().is_ok() {}
    }

    fn service(&self, name: &str) -> waymark_proto::workload::Service {
        let held = self.held.borrow();
        match Address::decode(&*held[type_url::ADDRESS][name])
            .unwrap()
            .r#type
        {
            Some(address::Type::Service(service)) => service,
            other => panic!("{other:?}"),
        }
    }

    fn workload(&self, name: &str) -> Workload {
        let held = self.held.borrow();
        match Address::decode(&*held[type_url::ADDRESS][name])
            .unwrap()
            .r#type
        {
            Some(address::Type::Workload(workload)) => workload,
            other => panic!("{other:?}"),
        }
    }
}

async fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn node(id: &str, pairs: &[(&str, &str)], gateway: Option<&str>) -> Node {
    let text = |text: &str| ProtoValue {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let mut metadata = Struct::default();
    for (key, value) in pairs {
        metadata.fields.insert((*key).to_owned(), text(value));
    }
    if let Some(gateway) = gateway {
        let mut labels = Struct::default();
        labels.fields.insert(
            "gateway.networking.k8s.io/gateway-name".to_owned(),
            text(gateway),
        );
        metadata.fields.insert(
            "LABELS".to_owned(),
            ProtoValue {
                kind: Some(Kind::StructValue(labels)),
            },
        );
    }
    Node {
        id: id.to_owned(),
        metadata: Some(metadata),
        ..Node::default()
    }
}

fn waypoint(place: &Place, xds: SocketAddr) -> Client {
    let id = "waypoint~127.244.9.9~waypoint-0.default~default.svc.cluster.local";
    let node = node(
        id,
        &[("NAMESPACE", "default"), ("SERVICE_ACCOUNT", "waypoint")],
        Some("waypoint"),
    );
    let types = [type_url::CLUSTER, type_url::LISTENER];
    Client::connect(
        place,
        xds,
        node,
        &types,
        place.state("tokens/default.waypoint"),
    )
}

fn node_proxy(place: &Place, xds: SocketAddr) -> Client {
    let node = node(
        "ztunnel~127.0.0.1~node.istio-system~istio-system.svc.cluster.local",
        &[],
        None,
    );
    let types = [type_url::ADDRESS, type_url::AUTHORIZATION];
    Client::connect(
        place,
        xds,
        node,
        &types,
        place.state("tokens/istio-system.waymark-node"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waypoint_and_node_proxy_are_given_the_mesh_and_each_change_once() {
    let place = Place::new();
    let running = place.start(None).await;

    // The waypoint has its configuration before anybody is told to send traffic to it.
    let mut node = node_proxy(&place, running.xds);
    let service = "default/reviews.default.svc.cluster.local";
    node.until("the mesh", |held| {
        held.get(type_url::ADDRESS)
            .is_some_and(|all| all.contains_key(service))
    })
    .await;
    assert_eq!(node.service(service).waypoint, None);
    let mut waypoint = waypoint(&place, running.xds);
    waypoint
        .until("routes", |held| {
            held.get(type_url::ROUTE)
                .is_some_and(|all| all.contains_key(REVIEWS))
        })
        .await;
    let subset =
        |subset: &str| format!("inbound-vip|9080|http{subset}|reviews.default.svc.cluster.local");
    let clusters: BTreeSet<String> = [subset(""), subset("/v1"), subset("/v2")].into();
    assert!(
        waypoint.names(type_url::CLUSTER).is_superset(&clusters),
        "{:?}",
        waypoint.names(type_url::CLUSTER)
    );
    waypoint
        .until("endpoints", |held| {
            held.get(type_url::ENDPOINT)
                .is_some_and(|all| all.len() == 3)
        })
        .await;
    assert!(waypoint.names(type_url::LISTENER).contains("main_internal"));

    // It has accepted its listeners, so that it counts as ready.
    node.until("the waypoint", |held| {
        let Some(body) = held[type_url::ADDRESS].get(service) else { return false };
        matches!(Address::decode(&**body).unwrap().r#type, Some(address::Type::Service(service)) if service.waypoint.is_some())
    })
    .await;
    match node.service(service).waypoint.unwrap().destination.unwrap() {
        gateway_address::Destination::Hostname(name) => {
            assert_eq!(name.hostname, "waypoint.default.svc.cluster.local");
        }
        other => panic!("{other:?}"),
    }
    assert!(
        node.workload("Kubernetes//Pod/default/waypoint-0")
            .native_tunnel
    );
    let gateway = eventually("status", || {
        let status = place.json("status.json")?;
        let gateway = status["gateways"][0].clone();
        (gateway["conditions"][1]["status"] == "True").then_some(gateway)
    })
    .await;
    assert_eq!(
        gateway["addresses"][1]["value"],
        "waypoint.default.svc.cluster.local"
    );

    // A change of weights is one small resource to one waypoint; what concerns nobody is sent to nobody.
    waypoint.forget();
    node.forget();
    let elsewhere = ROUTES.replace("namespace: default", "namespace: elsewhere");
    place.write("elsewhere.yaml", &elsewhere);
    place.write(
        "routes.yaml",
        &ROUTES
            .replace("weight: 90", "weight: 50")
            .replace("weight: 10", "weight: 50"),
    );
    let only_routes = Seen {
        type_url: type_url::ROUTE.to_owned(),
        names: BTreeSet::from([REVIEWS.to_owned()]),
        removed: Vec::new(),
    };
    assert_eq!(waypoint.next().await, only_routes);

    // An invalid document leaves its last good version in force; the error names the place.
    place.write("routes.yaml", &ROUTES.replace("weight: 90", "weight: many"));
    let error = eventually("the error", || {
        place.json("status.json")?["errors"].get(0).cloned()
    })
    .await;
    assert_eq!(error["file"], "routes.yaml");
    assert_eq!(error["object"], "VirtualService default/reviews");
    assert_eq!(error["field"], "spec.http[0].route[0].weight");
    place.write("routes.yaml", ROUTES);
    assert_eq!(waypoint.next().await, only_routes);
    for client in [&mut waypoint, &mut node] {
        if let Ok(seen) = client.seen.try_recv() {
            panic!("nobody was to be sent this: {seen:?}");
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_nothing_is_sent_twice() {
    let place = Place::new();
    let first = place.start(None).await;
    let mut waypoint = waypoint(&place, first.xds);
    let mut node = node_proxy(&place, first.xds);
    waypoint
        .until("routes", |held| {
            held.get(type_url::ROUTE)
                .is_some_and(|all| all.contains_key(REVIEWS))
        })
        .await;
    waypoint
        .until("endpoints", |held| {
            held.get(type_url::ENDPOINT)
                .is_some_and(|all| all.len() == 3)
        })
        .await;
    let is_programmed = || {
        (place.json("status.json")?["gateways"][0]["conditions"][1]["status"] == "True")
            .then_some(())
    };
    eventually("programmed", is_programmed).await;
    let replica = "Kubernetes//Pod/default/waypoint-0";
    node.until("the replica", |held| {
        held[type_url::ADDRESS].contains_key(replica)
    })
    .await;
    let (xds, streams) = (first.xds, waypoint.state.borrow().streams);
    first.stop().await;
    waypoint.forget();
    node.forget();

    let second = place.start(Some(xds)).await;
    timeout(
        DEADLINE,
        waypoint
            .state
            .wait_for(|state| state.streams > streams && state.answered),
    )
    .await
    .unwrap()
    .unwrap();
    // Whatever was sent again would come before this.
    place.write("routes.yaml", &ROUTES.replace("weight: 90", "weight: 50"));
    let seen = waypoint.next().await;
    assert_eq!(
        (seen.type_url.as_str(), seen.names.len()),
        (type_url::ROUTE, 1),
        "{seen:?}"
    );
    // Not even that the waypoint was away for a moment.
    while let Ok(seen) = node.seen.try_recv() {
        assert!(seen.names.is_empty() && seen.removed.is_empty(), "{seen:?}");
    }
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_another_namespace_is_refused() {
    let place = Place::new();
    let running = place.start(None).await;
    let id = "waypoint~127.244.9.9~waypoint-0.default~default.svc.cluster.local";
    let node = node(id, &[("NAMESPACE", "default")], Some("waypoint"));
    let token = place.state("tokens/istio-system.waymark-node");
    let mut client = Client::connect(&place, running.xds, node, &[type_url::CLUSTER], token);
    let refused = |state: &ClientState| {
        state
            .last_error
            .as_ref()
            .is_some_and(|error| error.contains("may not be a proxy of namespace default"))
    };
    timeout(DEADLINE, client.state.wait_for(refused))
        .await
        .unwrap()
        .unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_mesh_directory_that_is_not_there_is_an_error() {
    let state = tempfile::tempdir().unwrap();
    let local = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let args = Args {
        mesh_dir: Some(state.path().join("nowhere")),
        state_dir: Some(state.path().to_owned()),
        xds_address: local,
        debug_address: local,
        no_deploy: Some(true),
        ..Args::default()
    };
    let drain = Drain::new(Duration::ZERO);
    let error = run(args, drain.shutdown()).await.unwrap_err();
    assert!(matches!(error, RunError::Directory(_)), "{error:?}");
}
