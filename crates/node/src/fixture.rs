//! Meshes for tests: workloads and services in a line each.

use std::net::IpAddr;
use std::sync::Arc;

use waymark_identity::SpiffeId;

use crate::policy::Policy;
use crate::state::model::{
    GatewayDestination, GatewayRef, Health, LoadBalancing, Locality, NetworkAddr, NetworkMode,
    Protocol, Service, ServiceKey, Uid, Visibility, Workload, WorkloadExtension, WorkloadType,
};
use crate::state::{Change, Placement, Store, Touched};

pub(crate) const NODE: &str = "node";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn id(namespace: &str, account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
        .parse()
        .unwrap()
}

pub(crate) fn key(host: &str) -> ServiceKey {
    ServiceKey::new("default", host)
}

pub(crate) fn by_host(host: &str) -> GatewayRef {
    GatewayRef {
        destination: GatewayDestination::Hostname(key(host)),
        hbone_mtls_port: 15008,
    }
}

/// An HBONE pod of the default namespace whose service account is its name.
pub(crate) fn pod(name: &str, address: &str) -> Workload {
    Workload {
        uid: Uid::new(format!("Kubernetes//Pod/default/{name}")),
        name: name.into(),
        namespace: "default".into(),
        addresses: vec![ip(address)],
        hostname: "".into(),
        network: "".into(),
        protocol: Protocol::Hbone,
        identity: id("default", name),
        waypoint: None,
        network_gateway: None,
        node: NODE.into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        native_tunnel: false,
        application_tunnel: None,
        services: Default::default(),
        authorization_policies: Vec::new(),
        status: Health::Healthy,
        cluster_id: "Kubernetes".into(),
        locality: Locality::default(),
        network_mode: NetworkMode::Standard,
        capacity: 1,
        extension: WorkloadExtension::default(),
    }
}

/// A replica of the waypoint of that name.
pub(crate) fn waypoint_pod(name: &str, account: &str, address: &str) -> Workload {
    Workload {
        native_tunnel: true,
        identity: id("default", account),
        ..pod(name, address)
    }
    .serving(account, &[(15008, 15008)])
}

/// A service of the default namespace.
pub(crate) fn service(host: &str, vip: Option<&str>, ports: &[(u16, u16)]) -> Service {
    Service {
        key: key(host),
        name: host.into(),
        vips: vip
            .map(|vip| NetworkAddr::new("", ip(vip)))
            .into_iter()
            .collect(),
        cidr_vips: Vec::new(),
        ports: ports.iter().copied().collect(),
        subject_alt_names: Vec::new(),
        extra_identities: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: None,
        canonical: false,
        visibility: Visibility::Public,
        enforcement: None,
    }
}

impl Workload {
    pub(crate) fn serving(mut self, host: &str, ports: &[(u16, u16)]) -> Self {
        self.services
            .insert(key(host), ports.iter().copied().collect());
        self
    }

    pub(crate) fn behind(mut self, waypoint: &str) -> Self {
        self.waypoint = Some(by_host(waypoint));
        self
    }
}

impl Service {
    pub(crate) fn behind(mut self, waypoint: &str) -> Self {
        self.waypoint = Some(by_host(waypoint));
        self
    }
}

impl From<Workload> for Change {
    fn from(workload: Workload) -> Self {
        Self::Workload(Arc::new(workload))
    }
}

impl From<Service> for Change {
    fn from(service: Service) -> Self {
        Self::Service(Arc::new(service))
    }
}

impl From<Policy> for Change {
    fn from(policy: Policy) -> Self {
        Self::Policy(Arc::new(policy))
    }
}

pub(crate) fn placement() -> Placement {
    Placement {
        node: Some(NODE.into()),
        network: "".into(),
    }
}

pub(crate) fn store(changes: impl IntoIterator<Item = Change>) -> Store {
    let mut store = Store::new(placement());
    for change in changes {
        store.apply(change, &mut Touched::default());
    }
    store
}
