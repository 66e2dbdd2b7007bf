//! What the tests are made of.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use waymark_hbone_tokio::{
    Acceptor, Authority, ConnectError, Connected, CopyCounters, Drain, ExpectedPeer, Incoming,
    Pool, PoolKey, PoolSettings, ServeAs, ServerSettings, Tunnel, copy_bidirectional,
};
use waymark_identity::{
    Ca, CertHandle, CertStore, PeerPolicy, SpiffeId, StoreOptions, TrustDomain,
};
use waymark_node::capture::Capture;
use waymark_node::capture::listeners::Listeners;
use waymark_node::certificates::Certificates;
use waymark_node::proxy::{Parts, Proxy};
use waymark_node::resources::{self, ResourceType};
use waymark_node::state::{Placement, StateHandle};
use waymark_node::telemetry::Telemetry;
use waymark_node::workers::Workers;
use waymark_proto::extension::{Enforcement, ServiceExtension, WorkloadExtension};
use waymark_proto::security::Authorization;
use waymark_proto::workload::{
    Address, Extension, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList,
    Service, TunnelProtocol, Workload, address, gateway_address,
};
use waymark_rt::{Shutdown, SystemClock, Tasks};

pub(crate) const NODE: &str = "node-1";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Polls until `condition` gives something.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let poll = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll)
        .await
        .unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Addresses that no other test has: 127.B.C.0/24.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    b: u8,
    c: u8,
}

impl Net {
    /// A socket marks them as taken, for as long as the process lives: other processes may run the same tests.
    pub(crate) fn new() -> Self {
        static TAKEN: Mutex<Vec<std::net::TcpListener>> = Mutex::new(Vec::new());
        loop {
            let net = Self {
                b: rand::random_range(100..240),
                c: rand::random(),
            };
            if let Ok(mark) = std::net::TcpListener::bind(net.at(254, 65_000)) {
                TAKEN.lock().unwrap().push(mark);
                return net;
            }
        }
    }

    pub(crate) fn ip(self, last: u8) -> IpAddr {
        Ipv4Addr::new(127, self.b, self.c, last).into()
    }

    pub(crate) fn at(self, last: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(last), port)
    }
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
        .parse()
        .unwrap()
}

pub(crate) fn node_id() -> SpiffeId {
    "spiffe://cluster.local/ns/istio-system/sa/waymark-node"
        .parse()
        .unwrap()
}

pub(crate) fn ca() -> Arc<Ca> {
    Arc::new(Ca::in_memory(&TrustDomain::default(), Arc::new(SystemClock)).unwrap())
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn hostname(name: &str) -> String {
    format!("{name}.default.svc.cluster.local")
}

fn ports(list: &[(u16, u16)]) -> Vec<Port> {
    let port = |(service, target): &(u16, u16)| Port {
        service_port: (*service).into(),
        target_port: (*target).into(),
        ..Port::default()
    };
    list.iter().map(port).collect()
}

fn gateway(name: &str) -> GatewayAddress {
    GatewayAddress {
        destination: Some(gateway_address::Destination::Hostname(NamespacedHostname {
            namespace: "default".into(),
            hostname: hostname(name),
        })),
        hbone_mtls_port: 15008,
    }
}

/// A pod; its service account is its name.
pub(crate) fn pod(name: &str, ip: IpAddr) -> Workload {
    Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "default".into(),
        addresses: vec![octets(ip)],
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        service_account: name.into(),
        node: NODE.into(),
        canonical_name: name.into(),
        workload_name: name.into(),
        ..Workload::default()
    }
}

pub(crate) fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/default/{name}")
}

pub(crate) fn service(name: &str, vip: Option<IpAddr>, list: &[(u16, u16)]) -> Service {
    let network_address = |ip| NetworkAddress {
        network: String::new(),
        address: octets(ip),
        length: None,
    };
    Service {
        name: name.into(),
        namespace: "default".into(),
        hostname: hostname(name),
        addresses: vip.map(network_address).into_iter().collect(),
        ports: ports(list),
        ..Service::default()
    }
}

pub(crate) trait WorkloadExt {
    fn serving(self, service: &str, list: &[(u16, u16)]) -> Self;
    fn behind(self, waypoint: &str) -> Self;
    fn extended(self, extension: WorkloadExtension) -> Self;
}

impl WorkloadExt for Workload {
    fn serving(mut self, service: &str, list: &[(u16, u16)]) -> Self {
        self.services.insert(
            format!("default/{}", hostname(service)),
            PortList { ports: ports(list) },
        );
        self
    }

    fn behind(mut self, waypoint: &str) -> Self {
        self.waypoint = Some(gateway(waypoint));
        self
    }

    fn extended(mut self, extension: WorkloadExtension) -> Self {
        self.extensions = vec![packed("waymark.dev/workload", &extension)];
        self
    }
}

pub(crate) trait ServiceExt {
    fn behind(self, waypoint: &str) -> Self;
    fn enforcing(self, enforcement: Enforcement) -> Self;
}

impl ServiceExt for Service {
    fn behind(mut self, waypoint: &str) -> Self {
        self.waypoint = Some(gateway(waypoint));
        self
    }

    fn enforcing(mut self, enforcement: Enforcement) -> Self {
        let extension = ServiceExtension {
            enforcement: enforcement.into(),
        };
        self.extensions = vec![packed("waymark.dev/service", &extension)];
        self
    }
}

fn packed<M: prost::Name>(name: &str, message: &M) -> Extension {
    let config = prost_types::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    };
    Extension {
        name: name.into(),
        config: Some(config),
    }
}

/// An application address beside the pod's, and declared ports.
pub(crate) fn apart(application: IpAddr, declared: &[u16]) -> WorkloadExtension {
    WorkloadExtension {
        ports: declared.iter().map(|port| (*port).into()).collect(),
        application_address: octets(application),
        ..WorkloadExtension::default()
    }
}

/// A WDS resource and its name.
pub(crate) struct Resource(pub(crate) String, pub(crate) Vec<u8>);

impl From<Workload> for Resource {
    fn from(workload: Workload) -> Self {
        let name = workload.uid.clone();
        Self(
            name,
            Address {
                r#type: Some(address::Type::Workload(workload)),
            }
            .encode_to_vec(),
        )
    }
}

impl From<Service> for Resource {
    fn from(service: Service) -> Self {
        let name = format!("{}/{}", service.namespace, service.hostname);
        Self(
            name,
            Address {
                r#type: Some(address::Type::Service(service)),
            }
            .encode_to_vec(),
        )
    }
}

/// A running node proxy without a control plane: tests apply resources themselves.
pub(crate) struct Mesh {
    pub(crate) net: Net,
    pub(crate) ca: Arc<Ca>,
    pub(crate) state: StateHandle,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) capture: Listeners,
    pub(crate) proxy: Proxy,
    pub(crate) shutdown: Shutdown,
    drain: Mutex<Option<waymark_rt::Drain>>,
    tasks: Tasks,
    _certificates: waymark_rt::Task<()>,
    _workers: Workers,
}

impl Mesh {
    pub(crate) fn start() -> Self {
        let net = Net::new();
        let ca = ca();
        let state = StateHandle::new(Placement {
            node: Some(NODE.into()),
            network: "".into(),
        });
        let store = CertStore::new(Arc::clone(&ca) as _, StoreOptions::default());
        let certificates = Certificates::new(store, state.clone(), node_id());
        let telemetry = Arc::new(Telemetry::default());
        let drain = waymark_rt::Drain::new(Duration::ZERO);
        let shutdown = drain.shutdown();
        let workers = Workers::start(NonZeroUsize::new(2).unwrap()).unwrap();
        let proxy = Proxy::new(Parts {
            state: state.clone(),
            certificates: certificates.clone(),
            telemetry: Arc::clone(&telemetry),
            own_address: Some(net.ip(250)),
            workers: Arc::clone(workers.all()),
            shutdown: shutdown.clone(),
        });
        let capture = Listeners::start(
            state.clone(),
            Arc::clone(workers.all()),
            Arc::new(proxy.clone()),
            shutdown.draining_token(),
        );
        Self {
            net,
            ca,
            state,
            telemetry,
            capture,
            proxy,
            shutdown,
            drain: Mutex::new(Some(drain)),
            tasks: Tasks::new(),
            _certificates: certificates.follow(),
            _workers: workers,
        }
    }

    /// Drains as a program that was told to end; what is open is cut at once.
    pub(crate) fn drain_within(&self) -> impl Future<Output = waymark_rt::Drained> + use<> {
        let drain = self.drain.lock().unwrap().take().unwrap();
        async move { drain.finish().await }
    }

    pub(crate) fn apply(&self, resources: impl IntoIterator<Item = Resource>) {
        let resources: Vec<_> = resources.into_iter().collect();
        let bodies = resources
            .iter()
            .map(|Resource(name, body)| (name.as_str(), body.as_slice()));
        let (_, refused) = resources::apply(&self.state, ResourceType::Address, bodies, []);
        assert!(refused.is_empty(), "{refused:?}");
    }

    pub(crate) fn remove(&self, name: &str) {
        resources::apply(&self.state, ResourceType::Address, [], [name]);
    }

    pub(crate) fn set_policy(&self, policy: &Authorization) {
        let name = format!("{}/{}", policy.namespace, policy.name);
        let body = policy.encode_to_vec();
        let bodies = [(name.as_str(), body.as_slice())];
        let (_, refused) = resources::apply(&self.state, ResourceType::Authorization, bodies, []);
        assert!(refused.is_empty(), "{refused:?}");
    }

    /// Waits until an address is captured.
    pub(crate) async fn captured(&self, address: SocketAddr) {
        eventually(&format!("capture of {address}"), || async move {
            self.capture.captured().contains_key(&address).then_some(())
        })
        .await;
    }

    /// Starts an application that answers each connection, once the client has ended its side, with its name, the peer's
    /// address and what it was sent.
    pub(crate) async fn app(&self, name: &'static str, at: SocketAddr) {
        let listener = TcpListener::bind(at).await.unwrap();
        let connections = self.tasks.spawner();
        self.tasks.spawn("app", async move {
            loop {
                let (mut stream, peer) = listener.accept().await.unwrap();
                connections.spawn("app connection", async move {
                    let mut text = String::new();
                    if stream.read_to_string(&mut text).await.is_ok() {
                        let answer = format!("{name} {} {text}", peer.ip());
                        let _ = stream.write_all(answer.as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
    }

    /// Starts a waypoint that relays by a table of authorities.
    pub(crate) async fn waypoint(&self, account: &str, ip: IpAddr) -> Waypoint {
        let handle = CertHandle::fixed(self.ca.credentials_for(&id(account), None).unwrap());
        let waypoint = Waypoint {
            ip,
            seen: Arc::default(),
            routes: Arc::default(),
            identity: id(account),
            pool: Pool::new(handle.clone(), PoolSettings::default(), &Drain::new()),
        };
        let acceptor = Acceptor::new(
            ServeAs::new(handle, PeerPolicy::trust_domain(TrustDomain::default())),
            ServerSettings::default(),
        );
        let listener = TcpListener::bind((ip, 15008)).await.unwrap();
        let connections = self.tasks.spawner();
        let relay = waypoint.clone();
        self.tasks.spawn("waypoint", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, relay, streams) =
                    (acceptor.clone(), relay.clone(), connections.clone());
                connections.spawn("waypoint connection", async move {
                    let Ok(mut connection) = acceptor.accept(stream, &Drain::new()).await else {
                        return;
                    };
                    while let Some(incoming) = connection.next().await {
                        streams.spawn("waypoint stream", relay.clone().relay(incoming));
                    }
                });
            }
        });
        waypoint
    }

    /// A client that speaks HBONE itself, as `account`.
    pub(crate) fn peer(&self, account: &str) -> Peer {
        Peer::new(&self.ca, &id(account))
    }

    pub(crate) fn metrics(&self) -> String {
        self.telemetry.connections.flush();
        self.telemetry.metrics.render(&[])
    }

    /// The sum of the samples of a metric whose line has all these parts.
    pub(crate) fn metric(&self, name: &str, parts: &[&str]) -> u64 {
        let text = self.metrics();
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && parts.iter().all(|part| line.contains(part)));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}

/// A CONNECT that a waypoint has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) authority: String,
    /// `x-waymark-source-principal`.
    pub(crate) principal: Option<String>,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) peer_ip: IpAddr,
}

#[derive(Clone)]
pub(crate) struct Waypoint {
    pub(crate) ip: IpAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    routes: Arc<Mutex<HashMap<String, SocketAddr>>>,
    identity: SpiffeId,
    pool: Pool,
}

impl Waypoint {
    /// Sends what is addressed to `authority` to a pod's port.
    pub(crate) fn route(&self, authority: SocketAddr, pod: SocketAddr) {
        self.routes
            .lock()
            .unwrap()
            .insert(authority.to_string(), pod);
    }

    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    async fn relay(self, incoming: Incoming) {
        let authority = incoming.authority.to_string();
        let header = incoming.headers.get("x-waymark-source-principal");
        self.seen.lock().unwrap().push(Seen {
            authority: authority.clone(),
            principal: header.map(|value| value.to_str().unwrap().to_owned()),
            peer: incoming.connection.peer.clone(),
            peer_ip: incoming.connection.peer_addr.ip(),
        });
        let Some(pod) = self.routes.lock().unwrap().get(&authority).copied() else {
            return incoming.refuse(StatusCode::NOT_FOUND);
        };
        let key = PoolKey {
            source: self.identity.clone(),
            expected: ExpectedPeer::TrustDomains(Arc::new([TrustDomain::default()])),
            destination: SocketAddr::new(pod.ip(), 15008),
            bind: Some(self.ip),
        };
        match self
            .pool
            .connect(&key, &Authority::from(pod), HeaderMap::new())
            .await
        {
            Ok(Connected { mut tunnel, .. }) => {
                let mut near = incoming.accept(HeaderMap::new()).unwrap();
                copy_bidirectional(&mut near, &mut tunnel, &CopyCounters::default()).await;
            }
            Err(_) => incoming.refuse(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// A client with a certificate.
pub(crate) struct Peer {
    identity: SpiffeId,
    pool: Pool,
}

impl Peer {
    pub(crate) fn new(ca: &Ca, identity: &SpiffeId) -> Self {
        let handle = CertHandle::fixed(ca.credentials_for(identity, None).unwrap());
        Self {
            identity: identity.clone(),
            pool: Pool::new(handle, PoolSettings::default(), &Drain::new()),
        }
    }

    /// Opens a tunnel by way of `pod`'s 15008.
    pub(crate) async fn connect(
        &self,
        pod: IpAddr,
        from: IpAddr,
        authority: &str,
    ) -> Result<Tunnel, ConnectError> {
        let key = PoolKey {
            source: self.identity.clone(),
            expected: ExpectedPeer::TrustDomains(Arc::new([TrustDomain::default()])),
            destination: SocketAddr::new(pod, 15008),
            bind: Some(from),
        };
        let connected = self
            .pool
            .connect(&key, &authority.parse().unwrap(), HeaderMap::new())
            .await?;
        Ok(connected.tunnel)
    }

    /// Asks as [`ask`] does.
    pub(crate) async fn ask(
        &self,
        pod: IpAddr,
        from: IpAddr,
        authority: &str,
        text: &str,
    ) -> Result<String, ConnectError> {
        let mut tunnel = self.connect(pod, from, authority).await?;
        Ok(converse(&mut tunnel, text).await.unwrap())
    }
}

/// Connects from an address.
pub(crate) async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    tokio::time::timeout(PATIENCE, socket.connect(to)).await?
}

/// Sends `text`, ends that side, and reads the answer. An empty answer is what a refused client sees.
pub(crate) async fn ask(from: IpAddr, to: SocketAddr, text: &str) -> String {
    let mut stream = connect(from, to).await.unwrap();
    // A refused connection may be reset before or after the write: both are no answer.
    converse(&mut stream, text).await.unwrap_or_default()
}

pub(crate) async fn converse(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    text: &str,
) -> io::Result<String> {
    let talk = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, talk).await?
}
