//! DestinationRule: how a service's endpoints are reached, and its subsets.

use std::time::Duration;

use crate::host::Host;
use crate::istio::ExportTo;
use crate::meta::{Map, ObjectMeta};

/// An Istio DestinationRule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationRule {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// `host`; a short name is of its namespace.
    pub host: Host,
    /// `trafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `subsets`, names unique, none called `http` or `tcp`.
    pub subsets: Vec<Subset>,
    /// `exportTo`.
    pub export_to: ExportTo,
}

impl DestinationRule {
    /// Its host with a short name made full.
    pub fn full_host(&self) -> String {
        self.host.resolve(&self.meta.namespace)
    }

    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|s| s.name == name)
    }
}

/// A subset: the endpoints with these labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subset {
    /// Its name.
    pub name: String,
    /// Labels of its endpoints; empty means all of them.
    pub labels: Map,
    /// `trafficPolicy`: each block that it sets replaces that of the rule.
    pub traffic_policy: TrafficPolicy,
}

/// `trafficPolicy`: each block that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`. Refused until it is enforced, see [`crate::support`].
    pub outlier_detection: Option<OutlierDetection>,
    /// `portLevelSettings`. Refused until they are enforced, see [`crate::support`].
    pub port_level_settings: Vec<PortTrafficPolicy>,
}

/// One of `portLevelSettings`: replaces the blocks of the destination's policy as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTrafficPolicy {
    /// `port.number`.
    pub port: u16,
    /// `loadBalancer`.
    pub load_balancer: Option<LoadBalancer>,
    /// `connectionPool`.
    pub connection_pool: Option<ConnectionPool>,
    /// `outlierDetection`.
    pub outlier_detection: Option<OutlierDetection>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadBalancer {
    /// `LEAST_REQUEST` (also `LEAST_CONN`, `UNSPECIFIED`), the default.
    LeastRequest,
    /// `ROUND_ROBIN`.
    RoundRobin,
    /// `RANDOM`.
    Random,
    /// `PASSTHROUGH`. Refused until it is enforced, see [`crate::support`].
    Passthrough,
    /// `consistentHash`. Refused until it is enforced, see [`crate::support`].
    ConsistentHash(ConsistentHash),
}

/// `consistentHash`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How.
    pub algorithm: HashAlgorithm,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`.
    Header(String),
    /// `httpCookie`.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: Option<String>,
        /// How long it lives; without it none is made.
        ttl: Option<Duration>,
    },
    /// `useSourceIp`.
    SourceIp,
    /// `httpQueryParameterName`.
    QueryParameter(String),
}

/// How endpoints are found from a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// `ringHash` (or nothing): at least so many points.
    RingHash {
        /// `minimumRingSize`, 1024 when not given.
        minimum_ring_size: u64,
    },
    /// `maglev`: a table of this size.
    Maglev {
        /// `tableSize`, 65537 when not given.
        table_size: u64,
    },
}

/// `connectionPool`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`.
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`.
    pub connect_timeout: Option<Duration>,
    /// `tcp.idleTimeout`: a TCP connection without a byte for so long is ended; 0 is never. Connections to endpoints of
    /// HTTP ports heed it where there is no `http.idleTimeout`.
    pub tcp_idle_timeout: Option<Duration>,
    /// `tcp.maxConnectionDuration`: a TCP connection is ended after so long; a connection to an endpoint of an HTTP port
    /// takes no further request.
    pub max_connection_duration: Option<Duration>,
    /// `tcp.tcpKeepalive`. Refused until it is enforced, see [`crate::support`].
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `http.http1MaxPendingRequests`.
    pub http1_max_pending_requests: Option<u32>,
    /// `http.http2MaxRequests`.
    pub http2_max_requests: Option<u32>,
    /// `http.maxRequestsPerConnection`.
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxRetries`.
    pub max_retries: Option<u32>,
    /// `http.idleTimeout`.
    pub http_idle_timeout: Option<Duration>,
    /// `http.h2UpgradePolicy`.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// `http.useClientProtocol`: the endpoint is spoken to in the client's HTTP version.
    pub use_client_protocol: bool,
    /// `http.maxConcurrentStreams`. Refused until it is enforced, see [`crate::support`].
    pub max_concurrent_streams: Option<u32>,
}

/// `h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum H2UpgradePolicy {
    /// As the mesh says, which is not to upgrade.
    #[default]
    Default,
    /// Never.
    DoNotUpgrade,
    /// HTTP/2 to the endpoints, also on HTTP/1.1 ports.
    Upgrade,
}

impl H2UpgradePolicy {
    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("DEFAULT", Self::Default),
        ("DO_NOT_UPGRADE", Self::DoNotUpgrade),
        ("UPGRADE", Self::Upgrade),
    ];
}

/// `tcpKeepalive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// `probes`.
    pub probes: Option<u32>,
    /// `time`.
    pub time: Option<Duration>,
    /// `interval`.
    pub interval: Option<Duration>,
}

/// `outlierDetection`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutlierDetection {
    /// `splitExternalLocalOriginErrors`.
    pub split_external_local_origin_errors: bool,
    /// `consecutiveLocalOriginFailures`.
    pub consecutive_local_origin_failures: Option<u32>,
    /// `consecutiveGatewayErrors`.
    pub consecutive_gateway_errors: Option<u32>,
    /// `consecutive5xxErrors`.
    pub consecutive_5xx_errors: Option<u32>,
    /// `interval`.
    pub interval: Option<Duration>,
    /// `baseEjectionTime`.
    pub base_ejection_time: Option<Duration>,
    /// `maxEjectionPercent`.
    pub max_ejection_percent: Option<u32>,
    /// `minHealthPercent`.
    pub min_health_percent: Option<u32>,
}
