//! The whole role against a control plane: delta ADS and CSR over TLS with a bearer token.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::{Extensions, Request, Response, Status};
use waymark_identity::ca::ServingName;
use waymark_identity::{Ca, CertHandle, SpiffeId, grpc, tls};
use waymark_node::{Args, RunError, run};
use waymark_proto::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use waymark_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use waymark_proto::workload::Workload;
use waymark_rt::listen::{ListenOptions, listen};
use waymark_rt::{Drain, Shutdown, Task, Tasks};
use waymark_xds::server::{
    Client, Options, Refusal, Registry, Service as AdsService, Source, View,
};
use waymark_xds::{Encoded, ResourceMap, ResourceSet};

use crate::harness::{
    NODE, Net, Resource, WorkloadExt, apart, ask, ca, connect, eventually, node_id, pod, service,
};

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
const TOKEN: &str = "Bearer let-me-in";

/// What a control plane knows, whichever process of it runs.
struct World {
    net: Net,
    ca: Arc<Ca>,
    sets: watch::Sender<ResourceSet>,
    registry: Registry,
}

impl World {
    fn new() -> Arc<Self> {
        let sets = watch::Sender::new(ResourceSet::new("0"));
        Arc::new(Self {
            net: Net::new(),
            ca: ca(),
            sets,
            registry: Registry::default(),
        })
    }

    /// Publishes these resources and no others.
    fn publish(&self, resources: impl IntoIterator<Item = Resource>) {
        let mut addresses = ResourceMap::new();
        for Resource(name, body) in resources {
            addresses.insert(Encoded::new(name, ADDRESS, body));
        }
        let version = self.sets.borrow().version().parse::<u32>().unwrap() + 1;
        let set = ResourceSet::new(version.to_string());
        self.sets.send_replace(
            set.with(ADDRESS, addresses)
                .with(AUTHORIZATION, ResourceMap::new()),
        );
    }

    /// reviews behind VIP 1:80, with an application that answers.
    fn reviews(&self) -> Vec<Resource> {
        let net = self.net;
        vec![
            pod("reviews", net.ip(20))
                .serving("reviews", &[(80, 9080)])
                .extended(apart(net.ip(120), &[9080]))
                .into(),
            pod("productpage", net.ip(10)).into(),
            service("reviews", Some(net.ip(1)), &[(80, 9080)]).into(),
        ]
    }
}

struct ControlPlane(Arc<World>);

impl Source for ControlPlane {
    async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        _: &Extensions,
    ) -> Result<Option<String>, Refusal> {
        match headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
        {
            Some(TOKEN) => Ok(Some(node_id().to_string())),
            _ => Err(Refusal::Unauthenticated("who are you?".to_owned())),
        }
    }

    fn open(&self, _: &Client) -> Result<View, Refusal> {
        Ok(View::new(self.0.sets.subscribe()))
    }
}

#[tonic::async_trait]
impl IstioCertificateService for ControlPlane {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        if request
            .metadata()
            .get("authorization")
            .is_none_or(|token| token != TOKEN)
        {
            return Err(Status::unauthenticated("who are you?"));
        }
        let request = request.into_inner();
        let field = request
            .metadata
            .and_then(|m| m.fields.get("ImpersonatedIdentity").cloned());
        let identity: SpiffeId = match field.and_then(|value| value.kind) {
            Some(prost_types::value::Kind::StringValue(text)) => text.parse().unwrap(),
            _ => node_id(),
        };
        let issued = self
            .0
            .ca
            .sign(&request.csr, &identity, None)
            .map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.chain,
        }))
    }
}

/// A control plane's process.
struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    server: Task<()>,
}

impl Running {
    fn start(world: &Arc<World>, address: SocketAddr) -> Self {
        let shutdown = Drain::new(std::time::Duration::ZERO).shutdown();
        let listener = listen(address, &ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        let names = [ServingName::Ip(address.ip())];
        let serving = CertHandle::fixed(world.ca.serving(&names, None).unwrap());
        let incoming = grpc::Incoming::tls(
            listener,
            tls::https_server_config(&serving),
            shutdown.clone(),
        );
        let source = Arc::new(ControlPlane(Arc::clone(world)));
        let ads = AdsService::new(
            Arc::clone(&source),
            world.registry.clone(),
            Options::default(),
            shutdown.clone(),
        );
        let server = waymark_rt::spawn("control plane", async move {
            tonic::transport::Server::builder()
                .add_service(ads)
                .add_service(IstioCertificateServiceServer::from_arc(source))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            shutdown,
            server,
        }
    }

    async fn kill(self) {
        self.shutdown.begin();
        self.server.abort();
        let _ = self.server.await;
    }
}

/// A running role.
struct Node {
    role: Task<Result<(), RunError>>,
    files: tempfile::TempDir,
    drain: Drain,
}

impl Node {
    fn start(world: &World, control_plane: SocketAddr) -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str| files.path().join(name);
        std::fs::write(file("root.pem"), world.ca.roots_pem()).unwrap();
        std::fs::write(file("token"), TOKEN.strip_prefix("Bearer ").unwrap()).unwrap();
        let any = Some("127.0.0.1:0".parse().unwrap());
        let args = Args {
            node_name: Some(NODE.to_owned()),
            xds_address: Some(control_plane.to_string()),
            root_cert: Some(file("root.pem")),
            token_file: Some(file("token")),
            admin_address: any,
            readiness_address: any,
            metrics_address: any,
            addresses_file: Some(file("node.json")),
            concurrency: Some(1),
            ..Args::default()
        };
        let drain = Drain::new(crate::harness::PATIENCE);
        let role = waymark_rt::spawn("node", run(args, drain.shutdown(), None));
        Self { role, files, drain }
    }

    async fn address(&self, which: &str) -> SocketAddr {
        let path = self.files.path().join("node.json");
        let addresses: Value = eventually("addresses are written", || async {
            serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()
        })
        .await;
        assert_eq!(addresses["pid"], std::process::id());
        addresses[which].as_str().unwrap().parse().unwrap()
    }

    async fn ready(&self) {
        let readiness = self.address("readiness").await;
        eventually("readiness", || async move {
            let (status, body) = http(readiness, "GET", "/healthz/ready").await;
            (status == 200 && body == "ready\n").then_some(())
        })
        .await;
    }

    async fn dump(&self) -> Value {
        let (status, body) = http(self.address("admin").await, "GET", "/config_dump").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }

    async fn services(&self) -> BTreeSet<String> {
        let dump = self.dump().await;
        dump["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

async fn http(at: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

/// Answers every connection once its client is done.
fn app(tasks: &Tasks, at: SocketAddr) {
    let mut listener = listen(at, &ListenOptions::default()).unwrap();
    let connections = tasks.spawner();
    tasks.spawn("app", async move {
        loop {
            let (mut stream, peer) = listener.accept().await;
            connections.spawn("app connection", async move {
                let mut text = String::new();
                if stream.read_to_string(&mut text).await.is_ok() {
                    let _ = stream
                        .write_all(format!("reviews {} {text}", peer.ip()).as_bytes())
                        .await;
                }
            });
        }
    });
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn traffic_goes_on_without_the_control_plane_and_changes_arrive_when_it_is_back() {
    let world = World::new();
    let net = world.net;
    let tasks = Tasks::new();
    app(&tasks, net.at(120, 9080));
    world.publish(world.reviews());
    let control_plane = Running::start(&world, any_port());
    let node = Node::start(&world, control_plane.address);
    node.ready().await;
    let hello = || ask(net.ip(10), net.at(1, 80), "hello");
    assert_eq!(hello().await, format!("reviews {} hello", net.ip(10)));

    let sent = |url: &str| {
        world
            .registry
            .totals()
            .get(url)
            .map_or(0, |totals| totals.resources)
    };
    assert_eq!(sent(ADDRESS), 3);
    let address = control_plane.address;
    control_plane.kill().await;
    for _ in 0..3 {
        assert_eq!(hello().await, format!("reviews {} hello", net.ip(10)));
    }

    world.publish(
        world
            .reviews()
            .into_iter()
            .chain([service("more", Some(net.ip(2)), &[(80, 80)]).into()]),
    );
    let control_plane = Running::start(&world, address);
    eventually("the new service arrives", || async {
        node.services().await.contains("more").then_some(())
    })
    .await;
    assert_eq!(sent(ADDRESS), 4, "what the node had was not sent again");
    assert_eq!(hello().await, format!("reviews {} hello", net.ip(10)));

    world.publish(world.reviews());
    eventually("the service is gone", || async {
        (!node.services().await.contains("more")).then_some(())
    })
    .await;
    control_plane.kill().await;
}

#[tokio::test]
async fn what_is_not_understood_is_refused_by_name_and_the_rest_applies() {
    let world = World::new();
    let net = world.net;
    let bad = || Workload {
        tunnel_protocol: 7,
        ..pod("bad", net.ip(30))
    };
    world.publish(world.reviews().into_iter().chain([bad().into()]));
    let control_plane = Running::start(&world, any_port());
    let node = Node::start(&world, control_plane.address);
    node.ready().await;
    let refusal = || {
        let connections = world.registry.connections();
        connections.first()?.types.get(ADDRESS)?.last_error.clone()
    };
    let why = eventually("the refusal arrives", || async { refusal() }).await;
    assert!(
        why.contains("Kubernetes//Pod/default/bad: tunnel_protocol: 7 is not a known value"),
        "{why}"
    );
    assert_eq!(node.services().await, ["reviews".to_owned()].into());

    // The last good version stays in force when a bad one follows.
    let good = || pod("bad", net.ip(30));
    world.publish(world.reviews().into_iter().chain([good().into()]));
    eventually("it is there", || async {
        connect(net.ip(200), net.at(30, 15008)).await.ok()
    })
    .await;
    world.publish(
        world
            .reviews()
            .into_iter()
            .chain([bad().into(), service("more", None, &[(80, 80)]).into()]),
    );
    eventually("the rest arrives", || async {
        node.services().await.contains("more").then_some(())
    })
    .await;
    assert!(connect(net.ip(200), net.at(30, 15008)).await.is_ok());
    control_plane.kill().await;
}

#[tokio::test]
async fn the_admin_endpoints_speak_ztunnels_language() {
    let world = World::new();
    world.publish(world.reviews());
    let control_plane = Running::start(&world, any_port());
    let node = Node::start(&world, control_plane.address);
    node.ready().await;
    let admin = node.address("admin").await;
    eventually("certificates are there", || async {
        let dump = node.dump().await;
        let available = dump["certificates"]
            .as_array()?
            .iter()
            .filter(|c| c["state"] == "Available")
            .count();
        (available == 3).then_some(())
    })
    .await;
    let dump = node.dump().await;
    let keys: Vec<_> = dump
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let wanted = [
        "capture",
        "certificates",
        "config",
        "policies",
        "services",
        "stagedServices",
        "staticConfig",
        "version",
        "workloadState",
        "workloads",
    ];
    assert_eq!(keys, wanted);
    let leaf = &dump["certificates"][0]["certChain"][0];
    assert!(
        leaf["serialNumber"]
            .as_str()
            .unwrap()
            .bytes()
            .all(|b| b.is_ascii_digit()),
        "{leaf}"
    );
    assert_eq!(
        dump["workloadState"]["Kubernetes//Pod/default/reviews"]["info"]["serviceAccount"],
        "reviews"
    );

    assert_eq!(http(admin, "GET", "/logging").await, (405, String::new()));
    assert_eq!(
        http(admin, "GET", "/quitquitquit").await,
        (405, String::new())
    );
    assert_eq!(http(admin, "GET", "/nothing").await.0, 404);
    assert_eq!(http(admin, "GET", "/").await.0, 200);
    let (status, metrics) = http(node.address("metrics").await, "GET", "/stats/prometheus").await;
    assert_eq!(status, 200);
    assert!(
        metrics.ends_with("# EOF\n") && metrics.contains("istio_xds_message_total{url=\""),
        "{metrics}"
    );

    assert_eq!(
        http(admin, "POST", "/quitquitquit").await,
        (200, "shutdown now\n".to_owned())
    );
    node.drain.finish().await;
    node.role.await.unwrap().unwrap();
    control_plane.kill().await;
}

#[tokio::test]
async fn without_a_control_plane_it_says_what_it_waits_for() {
    let world = World::new();
    // Nobody listens there.
    let nowhere = {
        let listener = listen(any_port(), &ListenOptions::default()).unwrap();
        listener.local_addr()
    };
    let node = Node::start(&world, nowhere);
    let (status, body) = http(node.address("readiness").await, "GET", "/healthz/ready").await;
    assert_eq!(
        (status, body.as_str()),
        (500, "not ready, pending: state manager\n")
    );
}

#[tokio::test]
async fn a_port_in_use_ends_the_start_with_its_address() {
    let taken = listen(any_port(), &ListenOptions::default()).unwrap();
    let args = Args {
        xds_address: Some("http://127.0.0.1:1".to_owned()),
        admin_address: Some(taken.local_addr()),
        ..Args::default()
    };
    let drain = Drain::new(std::time::Duration::ZERO);
    let error = run(args, drain.shutdown(), None).await.unwrap_err();
    assert!(
        matches!(error, RunError::Listen(_))
            && error.to_string().contains(&taken.local_addr().to_string()),
        "{error}"
    );
}
