//! The clusters of services.

use waymark_api::istio::destination_rule::Subset;

use super::input::{Context, Flavour, IpFamily, PortInput, Registry, Resolution, ServiceInput};
use super::names::{self, Family};
use super::traffic_policy::Effective;
use super::tunnel::{self, Passthrough};
use super::wire::{
    Any, ORIGINAL_DST, ads, any, boolean, cluster, core, duration, envoy_type, ext, list, metadata,
    object, string, structure, u32_value,
};
use super::{endpoints, families, ports, telemetry};

/// Whose the host of a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// This waypoint's.
    InboundVip,
    /// Another's or nobody's; a route of this waypoint's names it.
    Outbound,
}

/// One cluster of a service: a port, a family, perhaps a subset.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    pub(super) direction: Direction,
    pub(super) service: &'a ServiceInput,
    pub(super) port: &'a PortInput,
    pub(super) family: Family,
    pub(super) subset: Option<&'a Subset>,
}

impl<'a> Slice<'a> {
    /// Every cluster of a service, sorted by name.
    pub(super) fn all(direction: Direction, service: &'a ServiceInput) -> Vec<Self> {
        let rule = service.destination_rule.as_deref();
        let subsets = rule.map_or(&[][..], |rule| &rule.subsets);
        let mut slices = Vec::new();
        for port in ports(service) {
            for family in cluster_families(direction, service, port) {
                let one = |subset| Self {
                    direction,
                    service,
                    port,
                    family: *family,
                    subset,
                };
                slices.push(one(None));
                slices.extend(subsets.iter().map(|subset| one(Some(subset))));
            }
        }
        slices.sort_by_cached_key(Self::name);
        slices
    }

    /// `inbound-vip|...` or `outbound|...`
    pub(super) fn name(&self) -> String {
        let (port, subset, host) = (self.port.number, self.subset_name(), &self.service.host);
        match self.direction {
            Direction::InboundVip => names::inbound_vip_subset(port, self.family, subset, host),
            Direction::Outbound => names::outbound(port, subset, host),
        }
    }

    /// The policy of a DestinationRule for it.
    pub(super) fn policy(&self) -> Effective<'a> {
        Effective::of(
            self.service.destination_rule.as_deref(),
            self.subset_name(),
            self.port.number,
        )
    }

    fn subset_name(&self) -> Option<&'a str> {
        self.subset.map(|subset| subset.name.as_str())
    }
}

fn cluster_families(
    direction: Direction,
    service: &ServiceInput,
    port: &PortInput,
) -> &'static [Family] {
    let families = families(port);
    match direction {
        // A service whose host is in each request has no clusters but for HTTP.
        Direction::InboundVip if service.resolution == Resolution::DynamicDns => {
            if families.contains(&Family::Http) {
                &[Family::Http]
            } else {
                &[]
            }
        }
        Direction::InboundVip => families,
        // One cluster a port, whatever is spoken.
        Direction::Outbound => &families[families.len() - 1..],
    }
}

/// Where the endpoints of a cluster come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Discovery {
    /// From ClusterLoadAssignments.
    Eds,
    /// From the cluster, names to be resolved.
    Inline(cluster::cluster::DiscoveryType),
    /// From the connection.
    OriginalDst,
    /// From each request.
    ForwardProxy,
}

impl Discovery {
    pub(super) fn of(slice: &Slice<'_>) -> Self {
        use cluster::cluster::DiscoveryType;
        match slice.service.resolution {
            Resolution::Passthrough => Self::OriginalDst,
            Resolution::DynamicDns => Self::ForwardProxy,
            Resolution::ClientSide | Resolution::Dns | Resolution::DnsRoundRobin
                if slice.policy().is_passthrough() =>
            {
                Self::OriginalDst
            }
            Resolution::ClientSide => Self::Eds,
            Resolution::Dns => Self::Inline(DiscoveryType::StrictDns),
            Resolution::DnsRoundRobin => Self::Inline(DiscoveryType::LogicalDns),
        }
    }
}

/// The clusters of a service.
pub(super) fn all(
    ctx: Context<'_>,
    direction: Direction,
    service: &ServiceInput,
) -> Vec<cluster::Cluster> {
    Slice::all(direction, service)
        .iter()
        .map(|slice| one(ctx, slice))
        .collect()
}

fn one(ctx: Context<'_>, slice: &Slice<'_>) -> cluster::Cluster {
    let name = slice.name();
    let mut cluster = discovered(ctx, slice, &name);
    cluster.connect_timeout = Some(duration(ctx.mesh.connect_timeout));
    slice.policy().apply(&mut cluster, slice.port, slice.family);
    match (slice.direction, ctx.proxy.flavour) {
        (Direction::InboundVip, _) | (Direction::Outbound, Flavour::Stock) => {
            cluster.transport_socket = Some(tunnel::internal_upstream(
                "internal_upstream",
                &[Passthrough::Host(ORIGINAL_DST), Passthrough::Host("istio")],
                tunnel::raw_buffer("raw_buffer"),
            ));
        }
        (Direction::Outbound, Flavour::IstioProxy) => {
            cluster.transport_socket_matches = sockets_by_endpoint(slice);
            cluster.filters = vec![telemetry::upstream_metadata_exchange()];
        }
    }
    cluster.metadata = Some(istio_metadata(slice));
    cluster
}

/// The forms of a connection among which each endpoint's metadata chooses, as a sidecar has them.
///
/// The one for sidecars' mutual TLS lacks the names of the service accounts: no endpoint of ours chooses it.
fn sockets_by_endpoint(slice: &Slice<'_>) -> Vec<cluster::cluster::TransportSocketMatch> {
    let one = |name: &str, condition: Option<(&str, &str)>, socket| {
        cluster::cluster::TransportSocketMatch {
            name: name.to_owned(),
            r#match: Some(structure(
                condition.map(|(key, value)| (key, string(value))),
            )),
            transport_socket: Some(socket),
        }
    };
    let plain = || tunnel::raw_buffer("envoy.transport_sockets.raw_buffer");
    let hbone = tunnel::internal_upstream(
        "envoy.transport_sockets.internal_upstream",
        &[
            Passthrough::Host(ORIGINAL_DST),
            Passthrough::Cluster("istio"),
            Passthrough::Host("istio"),
        ],
        plain(),
    );
    let mut sockets = vec![one("hbone", Some(("tunnel", "http")), hbone)];
    if slice.service.registry != Registry::ExternalExternal {
        let sni = format!(
            "outbound_.{}_.{}_.{}",
            slice.port.number,
            slice.subset_name().unwrap_or_default(),
            slice.service.host
        );
        let socket = tunnel::sidecar_tls(sni, slice.port.protocol.is_http2());
        sockets.push(one("tlsMode-istio", Some(("tlsMode", "istio")), socket));
    }
    sockets.push(one("tlsMode-disabled", None, plain()));
    sockets
}

fn discovered(ctx: Context<'_>, slice: &Slice<'_>, name: &str) -> cluster::Cluster {
    use cluster::cluster::{DiscoveryType, LbPolicy};
    match Discovery::of(slice) {
        Discovery::Eds => {
            let mut cluster = tunnel::named_cluster(name, DiscoveryType::Eds);
            cluster.eds_cluster_config = Some(cluster::cluster::EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: name.to_owned(),
            });
            cluster.common_lb_config = Some(lb_config(slice.service));
            cluster
        }
        Discovery::Inline(kind) => {
            let mut cluster = tunnel::named_cluster(name, kind);
            cluster.load_assignment = Some(endpoints::assignment(ctx, slice, name));
            cluster.common_lb_config = Some(lb_config(slice.service));
            resolve_names(ctx, &mut cluster);
            cluster
        }
        Discovery::OriginalDst => {
            let mut cluster = tunnel::named_cluster(name, DiscoveryType::OriginalDst);
            cluster.lb_policy = LbPolicy::ClusterProvided as i32;
            cluster.common_lb_config = Some(lb_config(slice.service));
            cluster
        }
        Discovery::ForwardProxy => {
            let mut cluster = tunnel::named_cluster(name, DiscoveryType::Static);
            cluster.lb_policy = LbPolicy::ClusterProvided as i32;
            cluster.cluster_discovery_type =
                Some(cluster::cluster::ClusterDiscoveryType::ClusterType(
                    cluster::cluster::CustomClusterType {
                        name: "envoy.clusters.dynamic_forward_proxy".to_owned(),
                        typed_config: Some(forward_proxy_cluster(ctx, slice.service)),
                    },
                ));
            cluster
        }
    }
}

/// No panic: what is unhealthy is sent, and must not be used because most are.
fn lb_config(service: &ServiceInput) -> cluster::cluster::CommonLbConfig {
    use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
    cluster::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(envoy_type::v3::Percent { value: 0.0 }),
        locality_config_specifier: endpoints::prefers_near(service).then_some(
            LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}),
        ),
        ..Default::default()
    }
}

#[expect(
    deprecated,
    reason = "istiod sends the refresh settings in these fields, and Envoy 1.40 reads them"
)]
fn resolve_names(ctx: Context<'_>, cluster: &mut cluster::Cluster) {
    let cares = ext::network::dns_resolver::cares::v3::CaresDnsResolverConfig {
        udp_max_queries: Some(u32_value(100)),
        ..Default::default()
    };
    cluster.typed_dns_resolver_config = Some(core::TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(any(&cares)),
    });
    cluster.dns_refresh_rate = Some(duration(ctx.mesh.dns_refresh_rate));
    cluster.dns_jitter = Some(duration(std::time::Duration::from_millis(100)));
    cluster.respect_dns_ttl = true;
    cluster.dns_lookup_family = dns_lookup_family(ctx) as i32;
}

fn dns_lookup_family(ctx: Context<'_>) -> cluster::cluster::DnsLookupFamily {
    use cluster::cluster::DnsLookupFamily;
    match ctx.proxy.ip_family {
        IpFamily::V4 => DnsLookupFamily::V4Only,
        IpFamily::V6 => DnsLookupFamily::V6Only,
        IpFamily::Dual => DnsLookupFamily::All,
    }
}

fn istio_metadata(slice: &Slice<'_>) -> core::Metadata {
    let service = slice.service;
    let mut fields = vec![(
        "services",
        list(vec![object([
            ("host", string(&*service.host)),
            ("name", string(&*service.name)),
            ("namespace", string(&*service.namespace)),
        ])]),
    )];
    match (slice.direction, slice.subset) {
        (Direction::InboundVip, Some(subset)) => {
            fields.push((
                "subset",
                string(format!("{}/{}", slice.family, subset.name)),
            ));
        }
        (Direction::InboundVip, None) => fields.push(("subset", string(slice.family.to_string()))),
        (Direction::Outbound, subset) => {
            fields.extend(subset.map(|subset| ("subset", string(&*subset.name))));
            let origin = if service.registry == Registry::ExternalExternal {
                "external"
            } else {
                "disable_mx"
            };
            fields.push((origin, boolean(true)));
        }
    }
    if let Some(rule) = service
        .destination_rule
        .as_deref()
        .filter(|_| slice.policy().is_configured())
    {
        let path = names::config_path("destination-rule", &rule.meta.namespace, &rule.meta.name);
        fields.push(("config", string(path)));
    }
    metadata([("istio", structure(fields))])
}

// ---- hosts that are named by requests ----

fn dns_cache(
    ctx: Context<'_>,
    service: &ServiceInput,
) -> ext::common::dynamic_forward_proxy::v3::DnsCacheConfig {
    ext::common::dynamic_forward_proxy::v3::DnsCacheConfig {
        name: format!("{}_dfp_dns_cache", service.host),
        dns_lookup_family: dns_lookup_family(ctx) as i32,
        ..Default::default()
    }
}

/// The HTTP filter that resolves the host of a request, with the cache of the cluster.
pub(super) fn forward_proxy_filter(
    ctx: Context<'_>,
    service: &ServiceInput,
) -> ext::filters::http::dynamic_forward_proxy::v3::FilterConfig {
    use ext::filters::http::dynamic_forward_proxy::v3::{
        FilterConfig, filter_config::ImplementationSpecifier,
    };
    FilterConfig {
        implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache(
            ctx, service,
        ))),
        ..Default::default()
    }
}

fn forward_proxy_cluster(ctx: Context<'_>, service: &ServiceInput) -> Any {
    use ext::clusters::dynamic_forward_proxy::v3::{
        ClusterConfig, cluster_config::ClusterImplementationSpecifier,
    };
    any(&ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(
            dns_cache(ctx, service),
        )),
        ..Default::default()
    })
}
