//! Clusters and their endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::program::{ClusterId, Hashed};
use crate::telemetry::{ClusterStats, EndpointStats};

/// A cluster: what its endpoints have in common, and where they are.
///
/// An endpoint update replaces [`Cluster::endpoints`] only; a change of the cluster itself makes a new `Cluster` that
/// shares the endpoints and the counters of the old one.
#[derive(Debug)]
pub struct Cluster {
    /// Its index in every snapshot.
    pub id: ClusterId,
    /// `inbound-vip|9080|http/v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// How it comes by its endpoints.
    pub discovery: Discovery,
    /// How one is picked.
    pub lb: LbPolicy,
    /// Below that percentage of healthy endpoints in a priority health is disregarded; 0 never.
    pub panic_threshold_percent: f64,
    /// Localities are weighted.
    pub locality_weighted: bool,
    /// Establishing a connection, tunnel included.
    pub connect_timeout: Duration,
    /// Limits for default-priority traffic.
    pub breakers: Breakers,
    /// The version of HTTP that its endpoints speak.
    pub protocol: UpstreamProtocol,
    /// HTTP pool settings.
    pub http: UpstreamHttp,
    /// The service it is of, for telemetry.
    pub service: Option<Hashed<ServiceName>>,
    /// `http/v1`.
    pub subset: Option<Arc<str>>,
    /// Where its policy was written: `metadata.istio.config`.
    pub config: Option<Arc<str>>,
    /// Prefix of its Envoy statistics.
    pub stat_name: Arc<str>,
    /// The endpoints now. Empty, with [`EndpointSet::received`] false, until they are known.
    pub endpoints: Arc<ArcSwap<EndpointSet>>,
    /// Counters, which outlive a change of configuration.
    pub stats: Arc<ClusterStats>,
}

/// How a cluster comes by its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// Over EDS, by that name.
    Eds {
        /// Name of the `ClusterLoadAssignment`.
        service_name: Arc<str>,
    },
    /// In the cluster itself.
    Static,
    /// Host names in the cluster itself, resolved now and then.
    Dns(DnsSettings),
    /// The address that the connection was sent to, through a tunnel to that very address (`encap`).
    OriginalDstTunnel,
    /// The address that the connection was sent to, in plain.
    OriginalDst {
        /// Port to use instead of the original one.
        port_override: Option<u16>,
    },
}

/// A DNS cluster's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// What is resolved.
    pub hosts: Vec<DnsHost>,
    /// `STRICT_DNS`: every address is an endpoint; `LOGICAL_DNS`: the first one is used for new connections.
    pub all_addresses: bool,
    /// Between queries, when the answer's own time does not count.
    pub refresh: Duration,
    /// The answer's time to live counts.
    pub respect_ttl: bool,
    /// IPv4 addresses are wanted.
    pub v4: bool,
    /// IPv6 addresses are wanted.
    pub v6: bool,
}

/// One host name of a DNS cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsHost {
    /// The name.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// Weight of the name as a whole.
    pub weight: u32,
    /// Where it is.
    pub locality: LocalityName,
    /// Its priority.
    pub priority: u32,
    /// Who it is, for telemetry.
    pub workload: Option<Arc<Hashed<WorkloadName>>>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin {
        /// Newcomers are spared at first.
        slow_start: Option<SlowStart>,
    },
    /// Of `choices` random ones the one with the fewest requests.
    LeastRequest {
        /// Number of candidates, at least 2.
        choices: u32,
        /// Exponent of the number of requests where weights differ.
        active_request_bias: f64,
        /// Newcomers are spared at first.
        slow_start: Option<SlowStart>,
    },
    /// At random.
    Random,
    /// The cluster itself says ([`Discovery::OriginalDst`]).
    ClusterProvided,
}

/// How newcomers are spared: weight times `max(min_weight_percent / 100, (elapsed / window) ^ (1 / aggression))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long.
    pub window: Duration,
    /// The curve; 1 is a line.
    pub aggression: f64,
    /// Where it starts, in percent of the weight.
    pub min_weight_percent: f64,
}

/// The circuit breakers of a cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Breakers {
    /// For traffic of default priority.
    pub default: Thresholds,
    /// For traffic of high priority.
    pub high: Thresholds,
}

/// Limits, per process; `u32::MAX` is as good as none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    /// Upstream connections.
    pub max_connections: u32,
    /// Requests that wait for a connection.
    pub max_pending_requests: u32,
    /// Requests at once.
    pub max_requests: u32,
    /// Retries at once; not used when there is a budget.
    pub max_retries: u32,
    /// Retries in percent of requests active and pending, and how many are allowed at least.
    pub retry_budget: Option<(f64, u32)>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

/// Which version of HTTP upstream requests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The version of the downstream request.
    Downstream,
}

/// HTTP pool settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamHttp {
    /// A connection without requests is closed after that long; `None` is never.
    pub idle_timeout: Option<Duration>,
    /// A connection takes no new request after that long.
    pub max_connection_duration: Option<Duration>,
    /// A connection takes that many requests.
    pub max_requests_per_connection: Option<u32>,
    /// HTTP/2 settings.
    pub http2: UpstreamHttp2,
}

/// HTTP/2 settings of an upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamHttp2 {
    /// Streams at once on one connection.
    pub max_concurrent_streams: u32,
    /// Initial stream window.
    pub initial_stream_window_bytes: u32,
    /// Initial connection window.
    pub initial_connection_window_bytes: u32,
    /// PINGs.
    pub keep_alive: Option<crate::program::KeepAlive>,
}

/// A service, as `metadata.istio.services[0]` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// Host name.
    pub host: Arc<str>,
    /// Short name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// The endpoints of a cluster at one moment.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Counts changes, so that a load balancer knows when to rebuild.
    pub generation: u64,
    /// Whether the set was ever received or resolved. A cluster that was not is still warming.
    pub received: bool,
    /// By priority, 0 first; may be empty.
    pub priorities: Vec<Priority>,
    /// Overprovisioning factor in percent; 140 by default.
    pub overprovisioning_percent: u32,
}

impl EndpointSet {
    /// Every endpoint.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.priorities
            .iter()
            .flat_map(|p| &p.localities)
            .flat_map(|l| &l.endpoints)
    }

    /// Number of endpoints.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// The endpoints of one priority.
#[derive(Debug, Default)]
pub struct Priority {
    /// By locality, in the order received.
    pub localities: Vec<LocalityEndpoints>,
}

/// The endpoints of one locality.
#[derive(Debug)]
pub struct LocalityEndpoints {
    /// Where.
    pub locality: LocalityName,
    /// Weight of the locality; `None`: none of the traffic where localities are weighted.
    pub weight: Option<u32>,
    /// The endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Region, zone, sub-zone; empty where unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LocalityName {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Sub-zone.
    pub sub_zone: Arc<str>,
}

/// One endpoint. An update that changes only its health or weight keeps [`Endpoint::stats`].
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How it is reached; its identity within the cluster.
    pub kind: EndpointKind,
    /// As Envoy prints it: `10.0.0.1:9080`, `envoy://connect_originate/10.0.0.1:9080`.
    pub text: Arc<str>,
    /// As the control plane says.
    pub health: EndpointHealth,
    /// At least 1.
    pub weight: u32,
    /// Where it is.
    pub locality: LocalityName,
    /// Its priority.
    pub priority: u32,
    /// Host name, where it has one.
    pub hostname: Option<Arc<str>>,
    /// Who it is, for telemetry.
    pub workload: Option<Arc<Hashed<WorkloadName>>>,
    /// Figures, which outlive updates.
    pub stats: Arc<EndpointStats>,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointKind {
    /// `CONNECT local` over mTLS.
    Tunnel {
        /// The authority of the CONNECT: pod IP and target port.
        local: SocketAddr,
        /// The TCP address of the tunnel's far end: the pod's IP and [`crate::program::TunnelClient::port`], unless the
        /// endpoint's metadata name another (`waypoint`).
        via: Option<SocketAddr>,
    },
    /// A plain connection.
    Plain(SocketAddr),
}

impl EndpointKind {
    /// The address of the application.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match self {
            EndpointKind::Tunnel { local, .. } => *local,
            EndpointKind::Plain(address) => *address,
        }
    }
}

/// Health as the control plane says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointHealth {
    /// `UNKNOWN`, which counts as healthy.
    Unknown,
    /// `HEALTHY`.
    Healthy,
    /// `UNHEALTHY`, `TIMEOUT`: not picked.
    Unhealthy,
    /// `DRAINING`: not picked.
    Draining,
    /// `DEGRADED`: picked when nothing better is left.
    Degraded,
}

impl EndpointHealth {
    /// Whether it may be picked.
    #[must_use]
    pub fn is_available(self) -> bool {
        matches!(self, EndpointHealth::Unknown | EndpointHealth::Healthy)
    }
}

/// `metadata.istio.workload`: `<workload>;<namespace>;<canonical name>;<canonical revision>;<cluster>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct WorkloadName {
    /// Workload; empty where unknown, as are the others.
    pub workload: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Canonical service name.
    pub canonical_name: Arc<str>,
    /// Canonical revision.
    pub canonical_revision: Arc<str>,
    /// Cluster id.
    pub cluster: Arc<str>,
}

impl WorkloadName {
    /// Takes the five parts; missing ones are empty.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(Arc::from);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            workload: next(),
            namespace: next(),
            canonical_name: next(),
            canonical_revision: next(),
            cluster: next(),
        }
    }
}
