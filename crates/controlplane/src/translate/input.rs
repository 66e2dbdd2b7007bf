//! What the translation is told: plain, sorted, already resolved values, built by the index.
//!
//! Nothing here is looked up, parsed or validated by the translation: names are fully qualified, virtual services are
//! those that apply, in any order (they carry their sort key), and an address family that the proxy cannot use is
//! left out by [`Proxy::ip_family`], not by the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use waymark_api::ambient::{Locality, TrafficDistribution};
use waymark_api::istio::{DestinationRule, VirtualService};
use waymark_api::protocol::Protocol;

/// Which dialect of Envoy's configuration a proxy is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// Only what stock Envoy 1.40 knows; routes over RDS.
    Stock,
    /// istiod's shape exactly, istio-proxy's own extensions included; routes inlined.
    IstioProxy,
}

/// Address families a proxy can listen on and dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both, IPv4 first.
    Dual,
}

impl IpFamily {
    /// Whether a proxy of this family can use `address`.
    #[must_use]
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
            Self::Dual => true,
        }
    }
}

/// The version a proxy reports as `ISTIO_VERSION`. An empty or unreadable one counts as the newest, as upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IstioVersion {
    /// Major, minor, patch; `None` is newer than every version.
    parts: Option<(u32, u32, u32)>,
}

impl IstioVersion {
    /// The newest there is.
    pub const NEWEST: Self = Self { parts: None };

    /// Reads `1.29.2`, `1.30-alpha.x`, `1.32.0`; anything else is [`Self::NEWEST`].
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut numbers = text
            .split(['-', '+'])
            .next()
            .unwrap_or_default()
            .split('.')
            .map(str::parse::<u32>);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            return Self::NEWEST;
        };
        let patch = match numbers.next() {
            Some(Ok(patch)) => patch,
            Some(Err(_)) => return Self::NEWEST,
            None => 0,
        };
        Self {
            parts: Some((major, minor, patch)),
        }
    }

    /// Whether this version is `major.minor.patch` or newer.
    #[must_use]
    pub fn at_least(self, major: u32, minor: u32, patch: u32) -> bool {
        self.parts
            .is_none_or(|parts| parts >= (major, minor, patch))
    }
}

/// The waypoint that is written for: one value for every replica that is to get the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Config namespace.
    pub namespace: String,
    /// Name of the Gateway.
    pub gateway: String,
    /// Name of the deployment: the Gateway's, or `<gateway>-istio-waypoint` for the form of 2023.
    pub deployment: String,
    /// Service account of its identity.
    pub service_account: String,
    /// `CLUSTER_ID` of the node metadata.
    pub cluster_id: String,
    /// `NETWORK` of the node metadata.
    pub network: Option<String>,
    /// Where the proxy runs, for locality priorities.
    pub locality: Locality,
    /// `NODE_NAME`: without it, services with `internalTrafficPolicy: Local` have no endpoints.
    pub node_name: Option<String>,
    /// From `INSTANCE_IPS`.
    pub ip_family: IpFamily,
    /// `WAYMARK_BIND_ADDRESS`: tunnels are listened for there and not on every address, as where several proxies share a
    /// machine.
    pub bind: Option<IpAddr>,
    /// Which dialect it is sent.
    pub flavour: Flavour,
    /// From `ISTIO_VERSION`.
    pub istio_version: IstioVersion,
    /// `LABELS` of the node metadata.
    pub labels: BTreeMap<String, String>,
    /// `MESH_ID`, for the tracing tags.
    pub mesh_id: String,
}

impl MeshSettings {
    /// The mesh's own trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.trust_domains.first().map_or("", String::as_str)
    }
}

impl Proxy {
    /// Label value `service.istio.io/canonical-name`, else the deployment's name.
    #[must_use]
    pub fn canonical_name(&self) -> &str {
        self.labels
            .get("service.istio.io/canonical-name")
            .unwrap_or(&self.deployment)
    }

    /// Label value `service.istio.io/canonical-revision`, else `latest`.
    #[must_use]
    pub fn canonical_revision(&self) -> &str {
        self.labels
            .get("service.istio.io/canonical-revision")
            .map_or("latest", String::as_str)
    }
}

/// Retries of a route that says nothing about them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryDefault {
    /// How often; 0 turns retries off.
    pub attempts: u32,
    /// Envoy's `retry_on`, comma separated, codes included.
    pub retry_on: String,
}

/// Where and how requests and connections are logged: `accessLogFile` with `accessLogFormat` and `accessLogEncoding`.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// A path in the proxy's file system; `/dev/stdout` is the usual one. Not empty.
    pub file: String,
    /// What a line says.
    pub format: AccessLogFormat,
}

/// What a line of an access log says; without a format of one's own: what Istio's says.
#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFormat {
    /// `TEXT`: a text with `%...%` in it.
    Text(Option<String>),
    /// `JSON`: an object whose values are such texts.
    Json(Option<serde_json::Map<String, serde_json::Value>>),
}

/// What the mesh configuration sets for every waypoint.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    /// Own trust domain first, then its aliases. Never empty.
    pub trust_domains: Vec<String>,
    /// `connectTimeout`.
    pub connect_timeout: Duration,
    /// `hboneIdleTimeout`.
    pub hbone_idle_timeout: Duration,
    /// `dnsRefreshRate`.
    pub dns_refresh_rate: Duration,
    /// `defaultHttpRetryPolicy`.
    pub default_retry: RetryDefault,
    /// `enableTracing` with its random sampling in percent; `None` leaves the tracing block out.
    pub tracing_sampling: Option<f64>,
    /// The access log; `None`: nothing is logged.
    pub access_log: Option<AccessLog>,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domains: vec!["cluster.local".to_owned()],
            connect_timeout: Duration::from_secs(10),
            hbone_idle_timeout: Duration::from_secs(3600),
            dns_refresh_rate: Duration::from_secs(60),
            default_retry: RetryDefault {
                attempts: 2,
                retry_on:
                    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
                        .to_owned(),
            },
            tracing_sampling: Some(1.0),
            access_log: None,
        }
    }
}

/// What every function of the translation needs beside its own input.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Whom it is written for.
    pub proxy: &'a Proxy,
    /// Mesh-wide settings.
    pub mesh: &'a MeshSettings,
    /// What is known of the hosts that routes name.
    pub destinations: &'a dyn Destinations,
}

/// Looks up the hosts that routes name.
pub trait Destinations {
    /// The service with this fully qualified host name, if there is one in the mesh.
    fn find(&self, host: &str) -> Option<Destination<'_>>;
}

/// Whether this waypoint serves a host itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Bound to this waypoint: it has `inbound-vip|...` clusters.
    Owned,
    /// Somebody else's or nobody's: it has `outbound|...` clusters.
    Foreign,
}

/// One host that a route may name.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// Whose it is.
    pub binding: Binding,
    /// The service; its endpoints are not looked at.
    pub service: &'a ServiceInput,
}

/// The hosts of a map: all of them known, those of `owned` bound to the waypoint.
impl Destinations for BTreeMap<String, (Binding, Arc<ServiceInput>)> {
    fn find(&self, host: &str) -> Option<Destination<'_>> {
        self.get(host).map(|(binding, service)| Destination {
            binding: *binding,
            service,
        })
    }
}

/// Where a service was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry with `location: MESH_INTERNAL`.
    ExternalInternal,
    /// A ServiceEntry with `location: MESH_EXTERNAL` (the default).
    ExternalExternal,
}

/// How the endpoints of a service are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// Endpoints are known: an ordinary Service, a STATIC ServiceEntry.
    ClientSide,
    /// DNS, all addresses (ServiceEntry DNS).
    Dns,
    /// DNS, one address at a time (ServiceEntry DNS_ROUND_ROBIN).
    DnsRoundRobin,
    /// The address that was dialled: a headless Service, a ServiceEntry with NONE.
    Passthrough,
    /// The host that the request names: a wildcard ServiceEntry with DYNAMIC_DNS.
    DynamicDns,
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInput {
    /// Service port.
    pub number: u16,
    /// Its name; empty if unnamed.
    pub name: String,
    /// By appProtocol, name and number; UDP ports are listed too and skipped.
    pub protocol: Protocol,
}

/// `spec.internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InternalTrafficPolicy {
    /// Endpoints of every node.
    Cluster,
    /// Only endpoints of the proxy's node.
    Local,
}

/// One service that a waypoint serves.
#[derive(Debug, Clone)]
pub struct ServiceInput {
    /// Fully qualified host name, the key of everything.
    pub host: String,
    /// Object name; for a ServiceEntry the host name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Where it comes from.
    pub registry: Registry,
    /// Creation time, whole seconds since the epoch: the order of chains, then by name and namespace.
    pub created: i64,
    /// Addresses and ranges, allocated ones included, of all families. Empty for headless services.
    pub vips: Vec<IpNet>,
    /// Every port.
    pub ports: Vec<PortInput>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Ready or not, in any order; terminating ones are left out.
    pub endpoints: Vec<Arc<EndpointInput>>,
    /// The one DestinationRule that applies, if any.
    pub destination_rule: Option<Arc<DestinationRule>>,
    /// Those that apply to this host on this waypoint, in any order; HTTPRoutes converted by
    /// [`gateway_api::convert`](super::gateway_api::convert).
    pub virtual_services: Vec<VirtualServiceInput>,
    /// Preference for near endpoints: the service's own or its namespace's.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Restriction to the proxy's node.
    pub internal_traffic_policy: InternalTrafficPolicy,
}

/// How the rules of a virtual service are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Semantics {
    /// As Istio's VirtualService: prefixes of text, 503 for a cluster that does not exist.
    VirtualService,
    /// As the Gateway API: prefixes of path segments, 500 for a backend that does not exist.
    GatewayApi,
}

/// Rules that apply to a service.
#[derive(Debug, Clone)]
pub struct VirtualServiceInput {
    /// The object; its age says where its rules come among others'.
    pub spec: Arc<VirtualService>,
    /// How it is to be understood.
    pub semantics: Semantics,
}

impl VirtualServiceInput {
    /// An Istio VirtualService.
    #[must_use]
    pub fn native(spec: Arc<VirtualService>) -> Self {
        Self {
            spec,
            semantics: Semantics::VirtualService,
        }
    }
}

/// Health of an endpoint as its source knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Health {
    /// A ready pod.
    Healthy,
    /// A pod that is not ready.
    Unhealthy,
    /// A pod labelled `istio.io/draining`.
    Draining,
    /// Nobody says: ServiceEntry, WorkloadEntry, DNS.
    Unknown,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// IP addresses, the one to use first; never empty.
    Ip(IpAddr, Vec<IpAddr>),
    /// A host name, for DNS resolutions.
    Hostname(String),
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// HBONE through `connect_originate`.
    Hbone,
    /// A plain connection.
    None,
}

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointInput {
    /// Where it is.
    pub address: EndpointAddress,
    /// Target port by service port. A service port that is missing here is not served by this endpoint.
    pub ports: BTreeMap<u16, u16>,
    /// Whether it may be used.
    pub health: Health,
    /// At least 1.
    pub weight: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Labels of the workload, for subsets.
    pub labels: BTreeMap<String, String>,
    /// How it is reached.
    pub tunnel: Tunnel,
    /// Workload name; empty if there is none.
    pub workload: String,
    /// Its namespace; empty if there is no workload.
    pub namespace: String,
    /// Canonical service of the workload.
    pub canonical_name: String,
    /// Its revision.
    pub canonical_revision: String,
    /// Cluster of the workload.
    pub cluster: String,
    /// Its network; empty if none.
    pub network: String,
    /// Its node; empty if unknown.
    pub node: String,
}

/// Addresses that are not a service's and still served: traffic that is addressed to a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachedWorkloads {
    /// Workloads bound to this waypoint (`waypoint-for: workload | all`).
    pub workloads: BTreeSet<IpAddr>,
    /// Pods of bound services, which enforcement sends round through the waypoint. Only the stock flavour lists them.
    pub pods_of_services: BTreeSet<IpAddr>,
}
