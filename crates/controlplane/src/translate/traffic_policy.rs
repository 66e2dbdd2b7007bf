//! What a DestinationRule makes of a cluster.

use waymark_api::istio::DestinationRule;
use waymark_api::istio::destination_rule::{
    ConnectionPool, ConsistentHash, H2UpgradePolicy, HashAlgorithm, HashKey, LoadBalancer,
    OutlierDetection, PortTrafficPolicy, TcpKeepalive, TrafficPolicy,
};

use super::input::PortInput;
use super::names::Family;
use super::tunnel;
use super::wire::{cluster, core, duration, envoy_type, protobuf, u32_value, upstream_http};

/// The policy of one cluster: that of the rule, of the rule's port, of the subset, of the subset's port.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effective<'a> {
    load_balancer: Option<&'a LoadBalancer>,
    connection_pool: Option<&'a ConnectionPool>,
    outlier_detection: Option<&'a OutlierDetection>,
    configured: bool,
}

impl<'a> Effective<'a> {
    /// Merges the policies that apply.
    pub(super) fn of(rule: Option<&'a DestinationRule>, subset: Option<&str>, port: u16) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let mut effective = Self::default();
        effective.merge(&rule.traffic_policy, port);
        if let Some(subset) = subset.and_then(|name| rule.subset(name)) {
            effective.merge(&subset.traffic_policy, port);
        }
        effective
    }

    /// Blocks that are set replace those that were; the settings of a port replace all of them.
    fn merge(&mut self, policy: &'a TrafficPolicy, port: u16) {
        self.configured |= *policy != TrafficPolicy::default();
        self.load_balancer = policy.load_balancer.as_ref().or(self.load_balancer);
        self.connection_pool = policy.connection_pool.as_ref().or(self.connection_pool);
        self.outlier_detection = policy.outlier_detection.as_ref().or(self.outlier_detection);
        let of_port = policy
            .port_level_settings
            .iter()
            .find(|settings| settings.port == port);
        if let Some(PortTrafficPolicy {
            port: _,
            load_balancer,
            connection_pool,
            outlier_detection,
        }) = of_port
        {
            self.load_balancer = load_balancer.as_ref();
            self.connection_pool = connection_pool.as_ref();
            self.outlier_detection = outlier_detection.as_ref();
        }
    }

    /// Whether a traffic policy is set at all.
    pub(super) fn is_configured(&self) -> bool {
        self.configured
    }

    /// Whether connections go where the client was going.
    pub(super) fn is_passthrough(&self) -> bool {
        matches!(self.load_balancer, Some(LoadBalancer::Passthrough))
    }

    /// Endpoints that are not healthy are not to be sent.
    pub(super) fn drops_unhealthy(&self) -> bool {
        self.outlier_detection
            .and_then(|outlier| outlier.min_health_percent)
            .is_some_and(|percent| percent > 0)
    }

    /// `consistentHash`, if that is how endpoints are chosen.
    pub(super) fn hash_key(&self) -> Option<&'a HashKey> {
        match self.load_balancer {
            Some(LoadBalancer::ConsistentHash(ConsistentHash { key, .. })) => Some(key),
            _ => None,
        }
    }

    /// The pool's settings.
    pub(super) fn connection_pool(&self) -> Option<&'a ConnectionPool> {
        self.connection_pool
    }

    /// Writes everything into a cluster whose type, name and defaults are set.
    pub(super) fn apply(&self, cluster: &mut cluster::Cluster, port: &PortInput, family: Family) {
        if let Some(pool) = self.connection_pool {
            apply_connection_pool(cluster, pool);
        }
        if let Some(outlier) = self.outlier_detection {
            apply_outlier_detection(cluster, outlier);
        }
        apply_load_balancer(cluster, self.load_balancer);
        if let Some(options) = http_options(self.connection_pool, port, family) {
            tunnel::set_http_options(cluster, &options);
        }
    }
}

fn apply_connection_pool(cluster: &mut cluster::Cluster, pool: &ConnectionPool) {
    let mut limits = tunnel::no_limits();
    let set = |field: &mut Option<protobuf::UInt32Value>, value: Option<u32>| {
        // 0 is "not set", as in Istio's API.
        if let Some(value) = value.filter(|value| *value > 0) {
            *field = Some(u32_value(value));
        }
    };
    set(&mut limits.max_connections, pool.max_connections);
    set(
        &mut limits.max_pending_requests,
        pool.http1_max_pending_requests,
    );
    set(&mut limits.max_requests, pool.http2_max_requests);
    set(&mut limits.max_retries, pool.max_retries);
    cluster.circuit_breakers = Some(cluster::CircuitBreakers {
        thresholds: vec![limits],
        ..Default::default()
    });
    if let Some(timeout) = pool.connect_timeout {
        cluster.connect_timeout = Some(duration(timeout));
    }
    if let Some(keepalive) = &pool.tcp_keepalive {
        cluster.upstream_connection_options = Some(cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(tcp_keepalive(keepalive)),
            ..Default::default()
        });
    }
}

fn tcp_keepalive(keepalive: &TcpKeepalive) -> core::TcpKeepalive {
    let seconds =
        |value: std::time::Duration| u32_value(u32::try_from(value.as_secs()).unwrap_or(u32::MAX));
    core::TcpKeepalive {
        keepalive_probes: keepalive.probes.filter(|probes| *probes > 0).map(u32_value),
        keepalive_time: keepalive.time.map(seconds),
        keepalive_interval: keepalive.interval.map(seconds),
    }
}

fn apply_outlier_detection(cluster: &mut cluster::Cluster, outlier: &OutlierDetection) {
    let enforcing = |count: u32| u32_value(if count > 0 { 100 } else { 0 });
    let mut detection = cluster::OutlierDetection {
        consecutive_5xx: outlier.consecutive_5xx_errors.map(u32_value),
        enforcing_consecutive_5xx: outlier.consecutive_5xx_errors.map(enforcing),
        consecutive_gateway_failure: outlier.consecutive_gateway_errors.map(u32_value),
        enforcing_consecutive_gateway_failure: outlier.consecutive_gateway_errors.map(enforcing),
        enforcing_success_rate: Some(u32_value(0)),
        interval: outlier.interval.map(duration),
        base_ejection_time: outlier.base_ejection_time.map(duration),
        max_ejection_percent: outlier
            .max_ejection_percent
            .filter(|percent| *percent > 0)
            .map(u32_value),
        ..Default::default()
    };
    if outlier.split_external_local_origin_errors {
        detection.split_external_local_origin_errors = true;
        if let Some(failures) = outlier
            .consecutive_local_origin_failures
            .filter(|failures| *failures > 0)
        {
            detection.consecutive_local_origin_failure = Some(u32_value(failures));
            detection.enforcing_consecutive_local_origin_failure = Some(u32_value(100));
        }
        detection.enforcing_local_origin_success_rate = Some(u32_value(0));
    }
    cluster.outlier_detection = Some(detection);
    let panic = envoy_type::v3::Percent {
        value: f64::from(outlier.min_health_percent.unwrap_or(0)),
    };
    if let Some(common) = &mut cluster.common_lb_config {
        common.healthy_panic_threshold = Some(panic);
    }
}

fn apply_load_balancer(cluster: &mut cluster::Cluster, load_balancer: Option<&LoadBalancer>) {
    use cluster::cluster::{
        ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
    };
    // An ORIGINAL_DST or dynamic forward proxy cluster brings its own.
    if cluster.lb_policy == LbPolicy::ClusterProvided as i32 {
        return;
    }
    let policy = match load_balancer {
        None | Some(LoadBalancer::LeastRequest) => LbPolicy::LeastRequest,
        Some(LoadBalancer::RoundRobin) => LbPolicy::RoundRobin,
        Some(LoadBalancer::Random) => LbPolicy::Random,
        Some(LoadBalancer::Passthrough) => {
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst as i32,
            ));
            cluster.eds_cluster_config = None;
            cluster.load_assignment = None;
            LbPolicy::ClusterProvided
        }
        Some(LoadBalancer::ConsistentHash(hash)) => match hash.algorithm {
            HashAlgorithm::RingHash { minimum_ring_size } => {
                cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: Some(protobuf::UInt64Value {
                        value: minimum_ring_size,
                    }),
                    ..Default::default()
                }));
                LbPolicy::RingHash
            }
            HashAlgorithm::Maglev { table_size } => {
                cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
                    table_size: Some(protobuf::UInt64Value { value: table_size }),
                }));
                LbPolicy::Maglev
            }
        },
    };
    cluster.lb_policy = policy as i32;
}

/// The HTTP options of a cluster; `None` where all of them are Envoy's defaults.
fn http_options(
    pool: Option<&ConnectionPool>,
    port: &PortInput,
    family: Family,
) -> Option<upstream_http::HttpProtocolOptions> {
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let common = pool
        .map(common_options)
        .filter(|common| *common != core::HttpProtocolOptions::default());
    let upgrades = family == Family::Http
        && pool.is_some_and(|pool| pool.h2_upgrade_policy == H2UpgradePolicy::Upgrade);
    let protocol = if port.protocol.is_http2() {
        let streams = pool
            .and_then(|pool| pool.max_concurrent_streams)
            .filter(|streams| *streams > 0);
        Some(tunnel::explicit_http2(core::Http2ProtocolOptions {
            max_concurrent_streams: streams.map(u32_value),
            ..Default::default()
        }))
    } else if port.protocol.is_http() && upgrades {
        Some(tunnel::explicit_http2(core::Http2ProtocolOptions::default()))
    } else if port.protocol.is_sniffed() || pool.is_some_and(|pool| pool.use_client_protocol) {
        Some(tunnel::use_downstream_protocol())
    } else {
        None
    };
    let protocol = match (protocol, &common) {
        (None, None) => return None,
        (Some(protocol), _) => protocol,
        (None, Some(_)) => UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(
                core::Http1ProtocolOptions::default(),
            )),
        }),
    };
    Some(upstream_http::HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(protocol),
        ..Default::default()
    })
}

fn common_options(pool: &ConnectionPool) -> core::HttpProtocolOptions {
    core::HttpProtocolOptions {
        idle_timeout: pool
            .http_idle_timeout
            .or(pool.tcp_idle_timeout)
            .map(duration),
        max_connection_duration: pool.max_connection_duration.map(duration),
        max_requests_per_connection: pool
            .max_requests_per_connection
            .filter(|requests| *requests > 0)
            .map(u32_value),
        ..Default::default()
    }
}
