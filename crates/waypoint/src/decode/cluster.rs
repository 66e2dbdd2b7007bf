//! `Cluster`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::cluster::v3 as pb;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::endpoint::v3 as endpoint;
use waymark_proto::envoy::envoy::extensions::transport_sockets::internal_upstream::v3 as internal;
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::type_url;

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::endpoints::{self, ORIGINAL_DST, server_listener_name};
use super::http_options::{Upstream, upstream};
use super::tls;
use super::values::{
    ads, duration, inner_type, istio_config, metadata_text, positive, u32_value, unpack,
};
use crate::program::{
    Breakers, Cluster, Discovery, DnsSettings, EndpointSet, Hashed, LbPolicy, Names, ServiceName,
    SlowStart, Thresholds, TunnelClient,
};

/// Envoy's default connect timeout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default panic threshold in percent.
const PANIC_THRESHOLD: f64 = 50.0;
/// Envoy's default DNS refresh rate.
const DNS_REFRESH: Duration = Duration::from_secs(5);
/// Where a typed extension's HTTP options are.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A decoded cluster.
#[derive(Debug)]
pub struct DecodedCluster {
    /// The cluster, with fresh figures and no endpoints but static ones.
    pub cluster: Cluster,
    /// Whether it is a hop between internal listeners, which are compiled away.
    pub hop: Hop,
    /// It offers mutual TLS to endpoints that ask for it, which is not supported: its endpoints must not.
    pub sidecar_mtls: bool,
}

/// What a cluster is to the internal listeners.
#[derive(Debug, Clone, PartialEq)]
pub enum Hop {
    /// A cluster like any other.
    No,
    /// Its one endpoint is an internal listener (`main_internal`, `encap`).
    ToListener(Arc<str>),
    /// It makes tunnels (`connect_originate`).
    Tunnel(TunnelClient),
    /// It makes tunnels within tunnels, with the help of that listener (`inner_connect_originate`); nothing here goes there.
    DoubleTunnel(Arc<str>),
}

/// What an endpoint's bytes are wrapped in.
enum Transport {
    Plain,
    /// An internal connection where the endpoint's address is internal, else plain.
    Internal,
    /// An internal connection that TLS is spoken over.
    InternalTls,
    /// TLS as of tunnels.
    Tls(crate::program::PeerRule),
}

pub(super) fn decode(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    message: pb::Cluster,
) -> Result<DecodedCluster, DecodeError> {
    let pb::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init: _, // clusters wait for nothing
        outlier_detection,
        cleanup_interval: _, // of original destinations, which are not kept
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal: _, // only where health is checked
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = message;
    if name.is_empty() {
        return Err(at.field("name").missing());
    }
    unsupported!(
        at; transport_socket_matcher, per_connection_buffer_high_watermark_timeout, health_checks,
        max_requests_per_connection, upstream_http_protocol_options, common_http_protocol_options,
        http_protocol_options, http2_protocol_options, dns_failure_refresh_rate, dns_resolvers,
        use_tcp_for_dns_lookups, dns_resolution_config, upstream_bind_config, lb_subset_config, protocol_selection,
        close_connections_on_host_health_failure, load_balancing_policy, upstream_config,
        connection_pool_per_downstream_connection, queuing_policies, outlier_detection,
    );
    let stats = "no such statistics";
    notes.add_if(&stats_matcher, at.field("stats_matcher"), stats);
    notes.add_if(&lrs_server, at.field("lrs_server"), stats);
    notes.add_if(
        &lrs_report_endpoint_metrics,
        at.field("lrs_report_endpoint_metrics"),
        stats,
    );
    notes.add_if(
        &track_timeout_budgets,
        at.field("track_timeout_budgets"),
        stats,
    );
    notes.add_if(&track_cluster_stats, at.field("track_cluster_stats"), stats);
    notes.add_if(
        &preconnect_policy,
        at.field("preconnect_policy"),
        "connections are not made ahead",
    );
    notes.add_if(
        &per_connection_buffer_limit_bytes,
        at.field("per_connection_buffer_limit_bytes"),
        "buffers have their own limits",
    );
    notes.add_if(&dns_jitter, at.field("dns_jitter"), "no jitter");
    notes.add_if(
        &typed_dns_resolver_config,
        at.field("typed_dns_resolver_config"),
        "the system resolves names",
    );
    for (i, filter) in filters.into_iter().enumerate() {
        cluster_filter(notes, at.index("filters", i), filter)?;
    }
    let sidecar_mtls = socket_matches(at, &transport_socket_matches, transport_socket.is_some())?;
    let options = http_options(notes, at, typed_extension_protocol_options)?;
    let transport = match &transport_socket {
        None if !transport_socket_matches.is_empty() => Transport::Internal,
        socket => transport(notes, at.field("transport_socket"), socket.as_ref())?,
    };
    let common = common_lb(
        notes,
        at.field("common_lb_config"),
        common_lb_config.unwrap_or_default(),
    )?;
    let kind = discovery_type(at, cluster_discovery_type)?;
    let dns = DnsTimes {
        rate: dns_refresh_rate,
        ttl: respect_dns_ttl,
        family: dns_lookup_family,
    };
    let mut endpoints = EndpointSet::default();
    let mut internal_listener = None;
    let mut original_dst = OriginalDst::default();
    let discovery = {
        let assignment = || at.field("load_assignment").missing();
        use pb::cluster::DiscoveryType as D;
        match kind {
            D::Eds => {
                let at = at.field("eds_cluster_config");
                let pb::cluster::EdsClusterConfig {
                    eds_config,
                    service_name,
                } = eds_cluster_config.ok_or_else(|| at.missing())?;
                ads(at.field("eds_config"), eds_config.as_ref())?;
                let service = if service_name.is_empty() {
                    name.as_str()
                } else {
                    service_name.as_str()
                };
                Discovery::Eds {
                    service_name: service.into(),
                }
            }
            D::Static => {
                let assigned = load_assignment.ok_or_else(assignment)?;
                internal_listener = only_listener(at.field("load_assignment"), &assigned)?;
                if internal_listener.is_some() {
                    Discovery::OriginalDstTunnel
                } else {
                    endpoints =
                        endpoints::decode(notes, at.field("load_assignment"), assigned)?.set;
                    Discovery::Static
                }
            }
            D::StrictDns | D::LogicalDns => {
                let assigned = load_assignment.ok_or_else(assignment)?;
                let hosts = endpoints::dns_hosts(notes, at.field("load_assignment"), assigned)?;
                Discovery::Dns(dns.settings(at, hosts, kind == D::StrictDns)?)
            }
            D::OriginalDst => {
                original_dst = original_dst_config(at, lb_config.as_ref())?;
                Discovery::OriginalDst {
                    port_override: original_dst.port_override,
                }
            }
        }
    };
    let connect_timeout = connect_timeout
        .map(|d| positive(at.field("connect_timeout"), &d))
        .transpose()?
        .unwrap_or(CONNECT_TIMEOUT);
    let hop = match (transport, internal_listener) {
        (Transport::Plain | Transport::Internal, None) => Hop::No,
        (Transport::Plain | Transport::Internal, Some(listener)) => Hop::ToListener(listener),
        (Transport::InternalTls, Some(listener)) => Hop::DoubleTunnel(listener),
        (Transport::Tls(peers), None)
            if kind == pb::cluster::DiscoveryType::OriginalDst && options.http2.allow_connect =>
        {
            let port = original_dst.port_override.ok_or_else(|| {
                at.field("original_dst_lb_config")
                    .error("must have an upstream_port_override: that of tunnels")
            })?;
            Hop::Tunnel(TunnelClient {
                port,
                connect_timeout,
                idle_timeout: options.http.idle_timeout,
                peers,
                initial_stream_window_bytes: options.http2.initial_stream_window_bytes,
                initial_connection_window_bytes: options.http2.initial_connection_window_bytes,
                keep_alive: options.http2.keep_alive,
            })
        }
        (Transport::InternalTls | Transport::Tls(_), _) => {
            return Err(at
                .field("transport_socket")
                .error("TLS to endpoints is not supported (only tunnels are TLS)"));
        }
    };
    connection_options(
        notes,
        at.field("upstream_connection_options"),
        upstream_connection_options,
    )?;
    let named = names.cluster(&name);
    let cluster = Cluster {
        id: named.id,
        name: named.name,
        discovery,
        lb: lb_policy_of(at, lb_policy, lb_config, kind)?,
        panic_threshold_percent: common.panic_threshold_percent,
        locality_weighted: common.locality_weighted,
        connect_timeout,
        breakers: breakers(
            at.field("circuit_breakers"),
            circuit_breakers.unwrap_or_default(),
        )?,
        protocol: options.protocol,
        http: options.http,
        service: service_name(metadata.as_ref()),
        subset: metadata_text(metadata.as_ref(), "istio", &["subset"]).map(Arc::from),
        config: istio_config(metadata.as_ref()),
        stat_name: if alt_stat_name.is_empty() {
            name.into()
        } else {
            alt_stat_name.into()
        },
        endpoints: Arc::new(ArcSwap::from_pointee(endpoints)),
        stats: Arc::default(),
    };
    Ok(DecodedCluster {
        cluster,
        hop,
        sidecar_mtls,
    })
}

fn discovery_type(
    at: At<'_>,
    value: Option<pb::cluster::ClusterDiscoveryType>,
) -> Result<pb::cluster::DiscoveryType, DecodeError> {
    use pb::cluster::ClusterDiscoveryType as T;
    match value {
        None => Ok(pb::cluster::DiscoveryType::Static),
        Some(T::Type(kind)) => {
            pb::cluster::DiscoveryType::try_from(kind).map_err(|_| at.field("type").unsupported())
        }
        Some(T::ClusterType(custom)) => {
            let kind = custom
                .typed_config
                .map_or_else(|| custom.name, |any| type_name(&any.type_url).to_owned());
            Err(at
                .field("cluster_type")
                .error(format!("{kind} is not supported")))
        }
    }
}

/// The internal listener that is a static cluster's only endpoint.
fn only_listener(
    at: At<'_>,
    assigned: &endpoint::ClusterLoadAssignment,
) -> Result<Option<Arc<str>>, DecodeError> {
    use core::address::Address as A;
    use endpoint::lb_endpoint::HostIdentifier as H;
    let [locality] = assigned.endpoints.as_slice() else {
        return Ok(None);
    };
    let [only] = locality.lb_endpoints.as_slice() else {
        return Ok(None);
    };
    let Some(H::Endpoint(one)) = &only.host_identifier else {
        return Ok(None);
    };
    let Some(A::EnvoyInternalAddress(address)) =
        one.address.as_ref().and_then(|a| a.address.as_ref())
    else {
        return Ok(None);
    };
    if metadata_text(only.metadata.as_ref(), ORIGINAL_DST, &["local"]).is_some() {
        return Ok(None);
    }
    server_listener_name(at, address).map(|name| Some(name.into()))
}

struct DnsTimes {
    rate: Option<wkt::Duration>,
    ttl: bool,
    family: i32,
}

impl DnsTimes {
    fn settings(
        self,
        at: At<'_>,
        hosts: Vec<crate::program::DnsHost>,
        all_addresses: bool,
    ) -> Result<DnsSettings, DecodeError> {
        use pb::cluster::DnsLookupFamily as F;
        let rate = self
            .rate
            .map(|d| positive(at.field("dns_refresh_rate"), &d))
            .transpose()?;
        let (v4, v6) = match F::try_from(self.family) {
            Ok(F::Auto | F::V4Preferred | F::All) => (true, true),
            Ok(F::V4Only) => (true, false),
            Ok(F::V6Only) => (false, true),
            Err(_) => return Err(at.field("dns_lookup_family").unsupported()),
        };
        if !all_addresses && hosts.len() != 1 {
            return Err(at
                .field("load_assignment")
                .error("must have one endpoint in a LOGICAL_DNS cluster"));
        }
        let refresh = rate.unwrap_or(DNS_REFRESH);
        Ok(DnsSettings {
            hosts,
            all_addresses,
            refresh,
            respect_ttl: self.ttl,
            v4,
            v6,
        })
    }
}

#[derive(Default)]
struct OriginalDst {
    port_override: Option<u16>,
}

fn original_dst_config(
    at: At<'_>,
    config: Option<&pb::cluster::LbConfig>,
) -> Result<OriginalDst, DecodeError> {
    use waymark_proto::envoy::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    let at = at.field("original_dst_lb_config");
    let Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) = config else {
        return Ok(OriginalDst::default());
    };
    let pb::cluster::OriginalDstLbConfig {
        use_http_header,
        http_header_name,
        upstream_port_override,
        metadata_key,
    } = config;
    unsupported!(at; use_http_header, http_header_name);
    if let Some(key) = metadata_key {
        let path: Vec<_> = key.path.iter().filter_map(|p| p.segment.as_ref()).collect();
        let waypoint = matches!(path.as_slice(), [Segment::Key(k)] if k == "waypoint");
        if key.key != ORIGINAL_DST || !waypoint {
            return Err(at
                .field("metadata_key")
                .error(format!("must be \"waypoint\" of {ORIGINAL_DST}")));
        }
    }
    let port_override = match u32_value(*upstream_port_override) {
        None => None,
        Some(port) => match u16::try_from(port) {
            Ok(port) => Some(port),
            Err(_) => return Err(at.field("upstream_port_override").error("is not a port")),
        },
    };
    Ok(OriginalDst { port_override })
}

fn transport(
    notes: &mut Notes,
    at: At<'_>,
    socket: Option<&core::TransportSocket>,
) -> Result<Transport, DecodeError> {
    let Some(socket) = socket else {
        return Ok(Transport::Plain);
    };
    let config_at = at.field("typed_config");
    let any = tls::typed_config(config_at, socket)?;
    match any.type_url.as_str() {
        type_url::RAW_BUFFER => Ok(Transport::Plain),
        type_url::UPSTREAM_TLS_CONTEXT => tls::upstream(notes, at, socket).map(Transport::Tls),
        type_url::INTERNAL_UPSTREAM_TRANSPORT => {
            let internal::InternalUpstreamTransport {
                passthrough_metadata,
                transport_socket,
            } = unpack(config_at, any)?;
            // What the tunnel needs of an endpoint's metadata it has; nobody else reads them.
            let _ = passthrough_metadata;
            let inner_at = config_at.field("transport_socket");
            let inner = transport_socket.ok_or_else(|| inner_at.missing())?;
            let inner_any = tls::typed_config(inner_at.field("typed_config"), &inner)?;
            match inner_any.type_url.as_str() {
                type_url::RAW_BUFFER => Ok(Transport::Internal),
                type_url::UPSTREAM_TLS_CONTEXT => {
                    // Either a hop of tunnels within tunnels, or TLS to endpoints: the caller tells.
                    match tls::upstream(notes, inner_at, &inner) {
                        Ok(_) => Ok(Transport::InternalTls),
                        Err(_) => Err(inner_at
                            .error("TLS to endpoints is not supported (only tunnels are TLS)")),
                    }
                }
                other => Err(inner_at.error(format!("{} is not supported", type_name(other)))),
            }
        }
        other => Err(config_at.error(format!("{} is not supported", type_name(other)))),
    }
}

/// Takes istiod's list of transport sockets by label: tunnel, mutual TLS with a sidecar, plain. Whether mutual TLS is in it.
fn socket_matches(
    at: At<'_>,
    matches: &[pb::cluster::TransportSocketMatch],
    default: bool,
) -> Result<bool, DecodeError> {
    let mut tls = false;
    if default && !matches.is_empty() {
        return Err(at
            .field("transport_socket_matches")
            .error("is not supported beside transport_socket"));
    }
    for (i, one) in matches.iter().enumerate() {
        let at = at.index("transport_socket_matches", i);
        let pb::cluster::TransportSocketMatch {
            name: _,
            r#match,
            transport_socket,
        } = one;
        let socket = transport_socket
            .as_ref()
            .ok_or_else(|| at.field("transport_socket").missing())?;
        let labels = r#match.clone().unwrap_or_default();
        let label = |key: &str| match labels.fields.get(key)?.kind.as_ref()? {
            wkt::value::Kind::StringValue(text) => Some(text.as_str()),
            _ => None,
        };
        let socket_at = at.field("transport_socket");
        let socket_at = socket_at.field("typed_config");
        let any = tls::typed_config(socket_at, socket)?;
        let fits = match (
            labels.fields.len(),
            label("tunnel"),
            label("tlsMode"),
            any.type_url.as_str(),
        ) {
            (1, Some("http"), None, type_url::INTERNAL_UPSTREAM_TRANSPORT) => {
                let transport: internal::InternalUpstreamTransport = unpack(socket_at, any)?;
                let inner = transport.transport_socket.unwrap_or_default();
                tls::typed_config(socket_at, &inner)?.type_url == type_url::RAW_BUFFER
            }
            (1, None, Some("istio"), type_url::UPSTREAM_TLS_CONTEXT) => {
                tls = true;
                true
            }
            (0, _, _, type_url::RAW_BUFFER) => true,
            _ => false,
        };
        if !fits {
            return Err(at.unsupported());
        }
    }
    Ok(tls)
}

fn http_options(
    notes: &mut Notes,
    at: At<'_>,
    options: HashMap<String, wkt::Any>,
) -> Result<Upstream, DecodeError> {
    let mut out = Upstream::unset();
    for (key, any) in options {
        let at = at.key("typed_extension_protocol_options", &key);
        if key != HTTP_OPTIONS {
            return Err(at.unsupported());
        }
        out = upstream(notes, at, unpack(at, &any)?)?;
    }
    Ok(out)
}

fn cluster_filter(notes: &mut Notes, at: At<'_>, filter: pb::Filter) -> Result<(), DecodeError> {
    let pb::Filter {
        name,
        typed_config,
        config_discovery,
    } = filter;
    unsupported!(at; config_discovery);
    let kind = typed_config.as_ref().map(inner_type);
    match kind.as_deref() {
        Some("envoy.tcp.metadataexchange.config.MetadataExchange") => {
            notes.add(at, format!("{name}: peers are not asked for metadata"));
            Ok(())
        }
        Some(other) => Err(at.error(format!("{other} is not supported"))),
        None => Err(at.field("typed_config").missing()),
    }
}

struct CommonLb {
    panic_threshold_percent: f64,
    locality_weighted: bool,
}

fn common_lb(
    notes: &mut Notes,
    at: At<'_>,
    config: pb::cluster::CommonLbConfig,
) -> Result<CommonLb, DecodeError> {
    use pb::cluster::common_lb_config::LocalityConfigSpecifier as L;
    let pb::cluster::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window: _, // updates are applied one by one
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = config;
    unsupported!(
        at; ignore_new_hosts_until_first_hc, close_connections_on_host_set_change, consistent_hashing_lb_config,
        override_host_status,
    );
    let locality_weighted = match locality_config_specifier {
        None => false,
        Some(L::LocalityWeightedLbConfig(
            pb::cluster::common_lb_config::LocalityWeightedLbConfig {},
        )) => true,
        Some(L::ZoneAwareLbConfig(_)) => {
            return Err(at.field("zone_aware_lb_config").unsupported());
        }
    };
    let _ = notes;
    let panic_threshold_percent = healthy_panic_threshold.map_or(PANIC_THRESHOLD, |p| p.value);
    if !(0.0..=100.0).contains(&panic_threshold_percent) {
        return Err(at
            .field("healthy_panic_threshold")
            .error("is not a percentage"));
    }
    Ok(CommonLb {
        panic_threshold_percent,
        locality_weighted,
    })
}

fn lb_policy_of(
    at: At<'_>,
    policy: i32,
    config: Option<pb::cluster::LbConfig>,
    kind: pb::cluster::DiscoveryType,
) -> Result<LbPolicy, DecodeError> {
    use pb::cluster::{LbConfig as C, LbPolicy as P};
    let policy_at = at.field("lb_policy");
    let policy = P::try_from(policy).map_err(|_| policy_at.unsupported())?;
    let original = kind == pb::cluster::DiscoveryType::OriginalDst;
    if original != (policy == P::ClusterProvided) {
        return Err(
            policy_at.error("CLUSTER_PROVIDED goes with ORIGINAL_DST, and nothing else does")
        );
    }
    match policy {
        P::RoundRobin => {
            let config = match config {
                Some(C::RoundRobinLbConfig(config)) => config,
                _ => pb::cluster::RoundRobinLbConfig::default(),
            };
            let pb::cluster::RoundRobinLbConfig { slow_start_config } = config;
            let at = at.field("round_robin_lb_config");
            Ok(LbPolicy::RoundRobin {
                slow_start: slow_start(at.field("slow_start_config"), slow_start_config)?,
            })
        }
        P::LeastRequest => {
            let config = match config {
                Some(C::LeastRequestLbConfig(config)) => config,
                _ => pb::cluster::LeastRequestLbConfig::default(),
            };
            let pb::cluster::LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            let at = at.field("least_request_lb_config");
            let choices = u32_value(choice_count).unwrap_or(2);
            if choices < 2 {
                return Err(at.field("choice_count").error("must be at least 2"));
            }
            let active_request_bias = active_request_bias.map_or(1.0, |b| b.default_value);
            if !active_request_bias.is_finite() || active_request_bias < 0.0 {
                return Err(at.field("active_request_bias").error("must be at least 0"));
            }
            let slow_start = slow_start(at.field("slow_start_config"), slow_start_config)?;
            Ok(LbPolicy::LeastRequest {
                choices,
                active_request_bias,
                slow_start,
            })
        }
        P::Random => Ok(LbPolicy::Random),
        P::ClusterProvided => Ok(LbPolicy::ClusterProvided),
        P::RingHash => Err(policy_at.error("RING_HASH is not supported")),
        P::Maglev => Err(policy_at.error("MAGLEV is not supported")),
        P::LoadBalancingPolicyConfig => {
            Err(policy_at.error("LOAD_BALANCING_POLICY_CONFIG is not supported"))
        }
    }
}

fn slow_start(
    at: At<'_>,
    config: Option<pb::cluster::SlowStartConfig>,
) -> Result<Option<SlowStart>, DecodeError> {
    let Some(config) = config else {
        return Ok(None);
    };
    let pb::cluster::SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = config;
    let window = slow_start_window.ok_or_else(|| at.field("slow_start_window").missing())?;
    let window = duration(at.field("slow_start_window"), &window)?;
    let aggression = aggression.map_or(1.0, |a| a.default_value);
    if !(aggression > 0.0 && aggression.is_finite()) {
        return Err(at.field("aggression").error("must be above 0"));
    }
    let min_weight_percent = min_weight_percent.map_or(10.0, |p| p.value);
    if !(0.0..=100.0).contains(&min_weight_percent) {
        return Err(at.field("min_weight_percent").error("is not a percentage"));
    }
    Ok((!window.is_zero()).then_some(SlowStart {
        window,
        aggression,
        min_weight_percent,
    }))
}

fn breakers(at: At<'_>, value: pb::CircuitBreakers) -> Result<Breakers, DecodeError> {
    let pb::CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = value;
    unsupported!(at; per_host_thresholds);
    let mut out = Breakers {
        default: Thresholds::default(),
        high: Thresholds::default(),
    };
    for (i, one) in thresholds.into_iter().enumerate() {
        let at = at.index("thresholds", i);
        let pb::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining: _, // only adds gauges
            max_connection_pools,
        } = one;
        unsupported!(at; max_connection_pools);
        let defaults = Thresholds::default();
        let read = Thresholds {
            max_connections: u32_value(max_connections).unwrap_or(defaults.max_connections),
            max_pending_requests: u32_value(max_pending_requests)
                .unwrap_or(defaults.max_pending_requests),
            max_requests: u32_value(max_requests).unwrap_or(defaults.max_requests),
            max_retries: u32_value(max_retries).unwrap_or(defaults.max_retries),
            retry_budget: retry_budget
                .map(|b| retry_budget_of(at.field("retry_budget"), b))
                .transpose()?,
        };
        match core::RoutingPriority::try_from(priority) {
            Ok(core::RoutingPriority::Default) => out.default = read,
            Ok(core::RoutingPriority::High) => out.high = read,
            Err(_) => return Err(at.field("priority").unsupported()),
        }
    }
    Ok(out)
}

fn retry_budget_of(
    at: At<'_>,
    value: pb::circuit_breakers::thresholds::RetryBudget,
) -> Result<(f64, u32), DecodeError> {
    let pb::circuit_breakers::thresholds::RetryBudget {
        budget_percent,
        budget_interval,
        min_retry_concurrency,
    } = value;
    unsupported!(at; budget_interval);
    let percent = budget_percent.map_or(20.0, |p| p.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(at.field("budget_percent").error("is not a percentage"));
    }
    Ok((percent, u32_value(min_retry_concurrency).unwrap_or(3)))
}

fn connection_options(
    notes: &mut Notes,
    at: At<'_>,
    value: Option<pb::UpstreamConnectionOptions>,
) -> Result<(), DecodeError> {
    let Some(value) = value else { return Ok(()) };
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = value;
    unsupported!(at; set_local_interface_name_on_upstream_connections);
    notes.add_if(
        &tcp_keepalive,
        at.field("tcp_keepalive"),
        "connections are probed as all others are",
    );
    notes.add_if(
        &happy_eyeballs_config,
        at.field("happy_eyeballs_config"),
        "only the first address is used",
    );
    Ok(())
}

fn service_name(metadata: Option<&core::Metadata>) -> Option<Hashed<ServiceName>> {
    let istio = metadata?.filter_metadata.get("istio")?;
    let Some(wkt::value::Kind::ListValue(services)) = istio.fields.get("services")?.kind.as_ref()
    else {
        return None;
    };
    let Some(wkt::value::Kind::StructValue(first)) = services.values.first()?.kind.as_ref() else {
        return None;
    };
    let text = |key: &str| match first.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(wkt::value::Kind::StringValue(text)) => Arc::from(text.as_str()),
        _ => Arc::from(""),
    };
    let name = ServiceName {
        host: text("host"),
        name: text("name"),
        namespace: text("namespace"),
    };
    Some(name.into())
}
