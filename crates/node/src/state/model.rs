//! Workloads and services, parsed. Everything a look-up needs is in the form in which it is needed.
//!
//! Spec: hbone-and-l4.md 15.3, control-plane.md 3.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use waymark_identity::SpiffeId;

/// The resource name of a workload, such as `Kubernetes//Pod/default/reviews-v1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    /// Takes any text: uids are opaque, except that look-ups prefer those of pods.
    pub fn new(uid: impl Into<Arc<str>>) -> Self {
        Self(uid.into())
    }

    /// The uid as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the uid is that of a Kubernetes Pod.
    pub fn is_pod(&self) -> bool {
        self.0.contains("//Pod/")
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Uid {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Names a service: `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Namespace of the object.
    pub namespace: Arc<str>,
    /// Fully qualified host name.
    pub hostname: Arc<str>,
}

impl ServiceKey {
    /// Makes a key of its parts.
    pub fn new(namespace: impl Into<Arc<str>>, hostname: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.into(),
        }
    }

    /// Reads `namespace/hostname`; `None` when there is no slash or a part is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, hostname) = text.split_once('/')?;
        (!namespace.is_empty() && !hostname.is_empty()).then(|| Self::new(namespace, hostname))
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// An address on one network. The default network has the empty name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddr {
    /// Network name.
    pub network: Arc<str>,
    /// Address, never a v4-mapped one.
    pub ip: IpAddr,
}

impl NetworkAddr {
    /// Makes an address; v4-mapped IPv6 becomes IPv4.
    pub fn new(network: impl Into<Arc<str>>, ip: IpAddr) -> Self {
        Self {
            network: network.into(),
            ip: ip.to_canonical(),
        }
    }
}

impl fmt::Display for NetworkAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

/// A reference to a waypoint or a network gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRef {
    /// Who is meant.
    pub destination: GatewayDestination,
    /// Port of its HBONE listener.
    pub hbone_mtls_port: u16,
}

/// The two ways to name a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayDestination {
    /// A service, or failing that a workload, by namespace and host name.
    Hostname(ServiceKey),
    /// A VIP or a workload's address.
    Address(NetworkAddr),
}

impl fmt::Display for GatewayDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hostname(key) => key.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// How a workload is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// In clear.
    Tcp,
    /// Through HBONE.
    Hbone,
}

/// What the control plane says of a workload's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Takes traffic.
    Healthy,
    /// Only services that ask for it send traffic there.
    Unhealthy,
}

/// Whether a workload's address is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// The address names the workload.
    Standard,
    /// The address is the node's and names nobody.
    HostNetwork,
}

/// The kind of a workload's owner; only for telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub enum WorkloadType {
    Deployment,
    CronJob,
    Pod,
    Job,
}

impl WorkloadType {
    /// Lower-case word, as baggage and dumps have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Where decapsulated traffic of a sandwiched waypoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// With or without a PROXY header.
    pub protocol: TunnelHeader,
    /// Port in place of the addressed one.
    pub port: Option<u16>,
}

/// What the application of an [`ApplicationTunnel`] wants in front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelHeader {
    /// Nothing.
    None,
    /// A PROXY protocol v2 header.
    Proxy,
}

/// Region, zone, subzone; empty when unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
}

/// Label `istio.io/waypoint-enforcement`: what becomes of traffic that did not come from the waypoint in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Enforcement {
    /// Delivered as it is.
    Off,
    /// Sent through the waypoint as traffic to the workload.
    Hairpin,
    /// Sent through the waypoint as the service's traffic, where the port belongs to exactly one bound service.
    Service,
    /// Refused.
    Require,
}

/// A pod or another endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Key.
    pub uid: Uid,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Addresses; empty for endpoints that are only a host name or sit behind a network gateway.
    pub addresses: Vec<IpAddr>,
    /// DNS name instead of addresses; empty if none.
    pub hostname: Arc<str>,
    /// Network of the addresses.
    pub network: Arc<str>,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whose certificate it presents.
    pub identity: SpiffeId,
    /// Waypoint for traffic that addresses the workload itself.
    pub waypoint: Option<GatewayRef>,
    /// How clients of other networks reach it.
    pub network_gateway: Option<GatewayRef>,
    /// Node that it runs on.
    pub node: Arc<str>,
    /// Telemetry.
    pub canonical_name: Arc<str>,
    /// Telemetry.
    pub canonical_revision: Arc<str>,
    /// Kind of the owner.
    pub workload_type: WorkloadType,
    /// Name of the owner.
    pub workload_name: Arc<str>,
    /// The workload terminates HBONE itself.
    pub native_tunnel: bool,
    /// For sandwiched waypoints.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Services that it is an endpoint of, with service port -> target port.
    pub services: BTreeMap<ServiceKey, BTreeMap<u16, u16>>,
    /// `ns/name` of the selector-scoped policies that apply.
    pub authorization_policies: Vec<Arc<str>>,
    /// Health.
    pub status: Health,
    /// Cluster; empty means the default one.
    pub cluster_id: Arc<str>,
    /// Locality.
    pub locality: Locality,
    /// Whether the address is its own.
    pub network_mode: NetworkMode,
    /// Load-balancing weight.
    pub capacity: u32,
    /// Extension `waymark.dev/workload`.
    pub extension: WorkloadExtension,
}

/// What our control plane adds to a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadExtension {
    /// TCP ports that the pod declares.
    pub ports: Vec<u16>,
    /// Ports that a probe is declared for.
    pub probe_ports: Vec<u16>,
    /// Where the application listens, if not on the workload's own address.
    pub application_address: Option<IpAddr>,
    /// Label of the workload itself.
    pub enforcement: Option<Enforcement>,
    /// Label of namespace or Gateway, for ports that no bound service owns.
    pub inherited_enforcement: Option<Enforcement>,
}

impl Workload {
    /// Whether the node proxy of the workload's node takes its connections: it speaks HBONE, but not by itself, and its
    /// address is its own.
    pub fn is_captured(&self) -> bool {
        self.protocol == Protocol::Hbone
            && !self.native_tunnel
            && self.network_mode == NetworkMode::Standard
    }

    /// Target port of `service_port` of `service` at this workload, before the service's own default.
    pub fn target_port(&self, service: &ServiceKey, service_port: u16) -> Option<u16> {
        self.services
            .get(service)?
            .get(&service_port)
            .copied()
            .filter(|port| *port != 0)
    }
}

/// Load balancing of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Order of preference.
    pub routing_preference: Vec<Scope>,
    /// What the preferences do.
    pub mode: BalanceMode,
    /// Whether unhealthy endpoints take traffic.
    pub health_policy: HealthPolicy,
}

/// What source and endpoint are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// Mode of [`LoadBalancing`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalanceMode {
    /// All endpoints.
    #[default]
    Standard,
    /// Only endpoints that match every scope.
    Strict,
    /// Those that match most.
    Failover,
    /// The original destination.
    Passthrough,
}

/// Whether unhealthy endpoints are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthPolicy {
    /// They are not.
    #[default]
    OnlyHealthy,
    /// They are.
    AllowAll,
}

/// Which address families a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub enum IpFamilies {
    Ipv4,
    Ipv6,
    Dual,
}

impl IpFamilies {
    /// Whether an endpoint's address may be used.
    pub fn admits(self, ip: &IpAddr) -> bool {
        match self {
            Self::Ipv4 => ip.is_ipv4(),
            Self::Ipv6 => ip.is_ipv6(),
            Self::Dual => true,
        }
    }
}

/// Who may use a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// Clients of its own namespace.
    Namespace,
}

/// One of several waypoints of a service, chosen by weight for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// Which.
    pub destination: GatewayRef,
    /// Share; 0 is never chosen.
    pub weight: u32,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Key.
    pub key: ServiceKey,
    /// Name of the object.
    pub name: Arc<str>,
    /// Virtual addresses.
    pub vips: Vec<NetworkAddr>,
    /// Virtual address ranges.
    pub cidr_vips: Vec<NetworkRange>,
    /// Service port -> target port; target port 0 is a named one, which each endpoint resolves for itself.
    pub ports: BTreeMap<u16, u16>,
    /// As sent.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Those of them that are SPIFFE IDs: what an endpoint may present beside its own identity.
    pub extra_identities: Vec<SpiffeId>,
    /// Waypoint for traffic that addresses the service.
    pub waypoint: Option<GatewayRef>,
    /// Several waypoints, by weight; take precedence.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// Load balancing.
    pub load_balancing: LoadBalancing,
    /// Address families; `None` is any.
    pub ip_families: Option<IpFamilies>,
    /// Answers for clients of other namespaces.
    pub canonical: bool,
    /// Who may use it.
    pub visibility: Visibility,
    /// Extension `waymark.dev/service`: the nearest label of service, namespace and Gateway.
    pub enforcement: Option<Enforcement>,
}

impl Service {
    /// Whether a waypoint is in front of the service.
    pub fn has_waypoint(&self) -> bool {
        self.waypoint.is_some() || !self.weighted_waypoints.is_empty()
    }

    /// Every waypoint that connections to the service may take, those of weight 0 included: they may still be draining.
    pub fn waypoints(&self) -> impl Iterator<Item = &GatewayRef> {
        self.waypoint.iter().chain(
            self.weighted_waypoints
                .iter()
                .map(|weighted| &weighted.destination),
        )
    }
}

/// A range of virtual addresses on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRange {
    /// Network name.
    pub network: Arc<str>,
    /// Range.
    pub range: IpNet,
}

impl fmt::Display for NetworkRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.range)
    }
}
