//! Where the instances of a service are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use waymark_api::ambient::{Locality, TrafficDistribution};
use waymark_api::selector::is_subset;

use super::clusters::{Direction, Discovery, Slice};
use super::input::{
    Context, EndpointAddress, EndpointInput, Flavour, Health, InternalTrafficPolicy, Proxy,
    ServiceInput, Tunnel,
};
use super::tunnel::CONNECT_ORIGINATE;
use super::wire::{
    ORIGINAL_DST, core, endpoint, internal_address, metadata, socket_address, string, structure,
    u32_value,
};

/// One assignment for each EDS cluster of a service.
pub(super) fn all(
    ctx: Context<'_>,
    direction: Direction,
    service: &ServiceInput,
) -> Vec<endpoint::ClusterLoadAssignment> {
    Slice::all(direction, service)
        .iter()
        .filter(|slice| Discovery::of(slice) == Discovery::Eds)
        .map(|slice| assignment(ctx, slice, &slice.name()))
        .collect()
}

/// Whether the service prefers endpoints near the proxy.
pub(super) fn prefers_near(service: &ServiceInput) -> bool {
    preference(service).is_some()
}

/// The endpoints of one cluster, by locality.
pub(super) fn assignment(
    ctx: Context<'_>,
    slice: &Slice<'_>,
    name: &str,
) -> endpoint::ClusterLoadAssignment {
    let mut groups: BTreeMap<(String, usize), Vec<&EndpointInput>> = BTreeMap::new();
    for endpoint in usable(ctx, slice) {
        let distance = preference(slice.service)
            .map_or(0, |preference| distance(ctx.proxy, endpoint, preference));
        groups
            .entry((label(&endpoint.locality), distance))
            .or_default()
            .push(endpoint);
    }
    let priorities = renumber(groups.keys().map(|(_, distance)| *distance));
    endpoint::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: groups
            .into_iter()
            .map(|((_, distance), endpoints)| {
                let priority = priorities.get(&distance).copied().unwrap_or(0);
                locality_endpoints(ctx, slice, endpoints, priority)
            })
            .collect(),
        ..Default::default()
    }
}

/// The endpoints that this proxy may use for this cluster.
fn usable<'a>(ctx: Context<'a>, slice: &Slice<'a>) -> impl Iterator<Item = &'a EndpointInput> {
    let service = slice.service;
    let port = slice.port.number;
    let labels = slice.subset.map(|subset| &subset.labels);
    let drops_unhealthy = slice.policy().drops_unhealthy();
    let node_local = match service.internal_traffic_policy {
        InternalTrafficPolicy::Cluster => None,
        InternalTrafficPolicy::Local => Some(ctx.proxy.node_name.as_deref()),
    };
    service
        .endpoints
        .iter()
        .map(AsRef::as_ref)
        .filter(move |endpoint| {
            endpoint.ports.contains_key(&port)
                && labels.is_none_or(|labels| is_subset(labels, &endpoint.labels))
                && node_local.is_none_or(|node| node.is_some_and(|node| node == endpoint.node))
                && match endpoint.health {
                    Health::Healthy | Health::Unknown => true,
                    Health::Unhealthy => !drops_unhealthy,
                    Health::Draining => false,
                }
        })
}

fn locality_endpoints(
    ctx: Context<'_>,
    slice: &Slice<'_>,
    mut endpoints: Vec<&EndpointInput>,
    priority: u32,
) -> endpoint::LocalityLbEndpoints {
    endpoints.sort();
    let locality = endpoints
        .first()
        .map(|endpoint| locality(&endpoint.locality))
        .unwrap_or_default();
    let weight = endpoints.iter().fold(0u32, |sum, endpoint| {
        sum.saturating_add(endpoint.weight.max(1))
    });
    endpoint::LocalityLbEndpoints {
        locality: Some(locality),
        priority,
        load_balancing_weight: Some(u32_value(weight)),
        lb_endpoints: endpoints
            .into_iter()
            .filter_map(|endpoint| lb_endpoint(ctx, slice, endpoint))
            .collect(),
        ..Default::default()
    }
}

fn lb_endpoint(
    ctx: Context<'_>,
    slice: &Slice<'_>,
    input: &EndpointInput,
) -> Option<endpoint::LbEndpoint> {
    let port = *input.ports.get(&slice.port.number)?;
    let target = target(input, port);
    let mut filters = vec![("istio", structure([("workload", string(workload(input)))]))];
    if let Some(local) = &target.tunnel_to {
        filters.push((ORIGINAL_DST, structure([("local", string(&**local))])));
        if (slice.direction, ctx.proxy.flavour) == (Direction::Outbound, Flavour::IstioProxy) {
            filters.push((
                "envoy.transport_socket_match",
                structure([("tunnel", string("http"))]),
            ));
        }
    }
    let health = match input.health {
        Health::Healthy => core::HealthStatus::Healthy,
        Health::Unhealthy => core::HealthStatus::Unhealthy,
        Health::Draining => core::HealthStatus::Draining,
        Health::Unknown => core::HealthStatus::Unknown,
    };
    Some(endpoint::LbEndpoint {
        health_status: health as i32,
        load_balancing_weight: Some(u32_value(input.weight.max(1))),
        metadata: Some(metadata(filters)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(target.address),
                additional_addresses: target.additional,
                ..Default::default()
            },
        )),
    })
}

struct Target {
    address: core::Address,
    additional: Vec<endpoint::endpoint::AdditionalAddress>,
    /// What the tunnel is asked to connect to.
    tunnel_to: Option<String>,
}

fn target(input: &EndpointInput, port: u16) -> Target {
    let plain = |address| Target {
        address,
        additional: Vec::new(),
        tunnel_to: None,
    };
    match (&input.address, input.tunnel) {
        (EndpointAddress::Hostname(host), Tunnel::Hbone | Tunnel::None) => {
            plain(socket_address(&**host, port))
        }
        (EndpointAddress::Ip(first, _), Tunnel::Hbone) => {
            let local = SocketAddr::new(*first, port).to_string();
            Target {
                address: internal_address(CONNECT_ORIGINATE, &local),
                additional: Vec::new(),
                tunnel_to: Some(local),
            }
        }
        (EndpointAddress::Ip(first, more), Tunnel::None) => Target {
            additional: more
                .iter()
                .map(|address: &IpAddr| endpoint::endpoint::AdditionalAddress {
                    address: Some(socket_address(address.to_string(), port)),
                })
                .collect(),
            ..plain(socket_address(first.to_string(), port))
        },
    }
}

/// What telemetry says of an endpoint.
fn workload(input: &EndpointInput) -> String {
    let EndpointInput {
        workload,
        namespace,
        canonical_name,
        canonical_revision,
        cluster,
        ..
    } = input;
    format!("{workload};{namespace};{canonical_name};{canonical_revision};{cluster}")
}

fn locality(locality: &Locality) -> core::Locality {
    core::Locality {
        region: locality.region.clone(),
        zone: locality.zone.clone(),
        sub_zone: locality.subzone.clone(),
    }
}

/// `region/zone/subzone` up to the last that is known: the order of localities.
fn label(locality: &Locality) -> String {
    let mut parts = vec![&*locality.region, &*locality.zone, &*locality.subzone];
    while parts.last().is_some_and(|part| part.is_empty()) {
        parts.pop();
    }
    parts.join("/")
}

// ---- near and far ----

/// What has to be equal for an endpoint to be near, the widest first.
fn preference(service: &ServiceInput) -> Option<&'static [Nearness]> {
    const SAME_ZONE: &[Nearness] = &[Nearness::Network, Nearness::Region, Nearness::Zone];
    const SAME_NODE: &[Nearness] = &[
        Nearness::Network,
        Nearness::Region,
        Nearness::Zone,
        Nearness::SubZone,
        Nearness::Node,
    ];
    match service.traffic_distribution? {
        TrafficDistribution::Any => None,
        TrafficDistribution::PreferSameZone => Some(SAME_ZONE),
        TrafficDistribution::PreferSameNode => Some(SAME_NODE),
    }
}

#[derive(Clone, Copy)]
enum Nearness {
    Network,
    Region,
    Zone,
    SubZone,
    Node,
}

impl Nearness {
    fn agrees(self, proxy: &Proxy, endpoint: &EndpointInput) -> bool {
        match self {
            Self::Network => proxy.network.as_deref().unwrap_or_default() == endpoint.network,
            Self::Region => proxy.locality.region == endpoint.locality.region,
            Self::Zone => proxy.locality.zone == endpoint.locality.zone,
            Self::SubZone => proxy.locality.subzone == endpoint.locality.subzone,
            Self::Node => proxy.node_name.as_deref().unwrap_or_default() == endpoint.node,
        }
    }
}

/// How many levels are left after those that agree, from the widest.
fn distance(proxy: &Proxy, endpoint: &EndpointInput, levels: &[Nearness]) -> usize {
    let agreeing = levels
        .iter()
        .take_while(|level| level.agrees(proxy, endpoint))
        .count();
    levels.len() - agreeing
}

/// Envoy refuses priorities with gaps.
fn renumber(distances: impl Iterator<Item = usize>) -> BTreeMap<usize, u32> {
    let distinct: std::collections::BTreeSet<usize> = distances.collect();
    distinct.into_iter().zip(0..).collect()
}
