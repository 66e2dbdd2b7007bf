//! `ClusterLoadAssignment`.

use std::net::SocketAddr;
use std::sync::Arc;

use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::endpoint::v3 as pb;

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::values::{host_and_port, metadata_text, socket_address, u32_value};
use crate::program::{
    DnsHost, Endpoint, EndpointHealth, EndpointKind, EndpointSet, Hashed, LocalityEndpoints,
    LocalityName, Priority, WorkloadName,
};

/// Where an endpoint's metadata say what its tunnel's authority is.
pub(super) const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";
/// Envoy's default.
const OVERPROVISIONING_PERCENT: u32 = 140;
/// Priorities that a load assignment may have.
const MAX_PRIORITIES: usize = 128;

/// A decoded load assignment.
#[derive(Debug)]
pub struct DecodedEndpoints {
    /// The endpoints; generation 0.
    pub set: EndpointSet,
    /// The first endpoint that asks for mutual TLS with a sidecar, which clusters that offer it cannot be given.
    pub sidecar_mtls: Option<String>,
}

pub(super) fn decode(
    notes: &mut Notes,
    at: At<'_>,
    message: pb::ClusterLoadAssignment,
) -> Result<DecodedEndpoints, DecodeError> {
    let mut set = EndpointSet {
        received: true,
        overprovisioning_percent: OVERPROVISIONING_PERCENT,
        ..Default::default()
    };
    let mut sidecar_mtls = None;
    for_each_locality(
        notes,
        at,
        message,
        &mut set.overprovisioning_percent,
        |notes, at, priority, locality| {
            let mut endpoints = Vec::with_capacity(locality.endpoints.len());
            for (i, endpoint) in locality.endpoints.into_iter().enumerate() {
                let at = at.index("lb_endpoints", i);
                if sidecar_mtls.is_none()
                    && metadata_text(
                        endpoint.metadata.as_ref(),
                        "envoy.transport_socket_match",
                        &["tlsMode"],
                    )
                    .is_some()
                {
                    sidecar_mtls = Some(at.to_string());
                }
                endpoints.push(Arc::new(lb_endpoint(
                    notes,
                    at,
                    priority,
                    &locality.name,
                    endpoint,
                )?));
            }
            let index = priority as usize;
            if set.priorities.len() <= index {
                set.priorities.resize_with(index + 1, Priority::default);
            }
            let group = LocalityEndpoints {
                locality: locality.name,
                weight: locality.weight,
                endpoints,
            };
            set.priorities[index].localities.push(group);
            Ok(())
        },
    )?;
    if let Some(gap) = set.priorities.iter().position(|p| p.localities.is_empty()) {
        return Err(at
            .field("endpoints")
            .error(format!("has no priority {gap}, but a higher one")));
    }
    Ok(DecodedEndpoints { set, sidecar_mtls })
}

/// The hosts of a DNS cluster, from the names in its load assignment.
pub(super) fn dns_hosts(
    notes: &mut Notes,
    at: At<'_>,
    message: pb::ClusterLoadAssignment,
) -> Result<Vec<DnsHost>, DecodeError> {
    let mut hosts = Vec::new();
    for_each_locality(
        notes,
        at,
        message,
        &mut 0,
        |notes, at, priority, locality| {
            for (i, endpoint) in locality.endpoints.into_iter().enumerate() {
                let at = at.index("lb_endpoints", i);
                let (weight, workload, endpoint) = parts(notes, at, &endpoint)?;
                let here = at.field("endpoint");
                let here = here.field("address");
                let address = endpoint.address.as_ref().and_then(|a| a.address.as_ref());
                let Some(core::address::Address::SocketAddress(address)) = address else {
                    return Err(here.error("must be a socket address"));
                };
                let (host, port) = host_and_port(here, address)?;
                hosts.push(DnsHost {
                    host: host.into(),
                    port,
                    weight,
                    locality: locality.name.clone(),
                    priority,
                    workload,
                });
            }
            Ok(())
        },
    )?;
    Ok(hosts)
}

/// One locality, its envelope taken off.
struct Locality {
    name: LocalityName,
    weight: Option<u32>,
    endpoints: Vec<pb::LbEndpoint>,
}

fn for_each_locality(
    notes: &mut Notes,
    at: At<'_>,
    message: pb::ClusterLoadAssignment,
    overprovisioning_percent: &mut u32,
    mut each: impl FnMut(&mut Notes, At<'_>, u32, Locality) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let pb::ClusterLoadAssignment {
        cluster_name: _,
        endpoints,
        named_endpoints,
        policy,
    } = message;
    unsupported!(at; named_endpoints);
    if let Some(policy) = policy {
        let at = at.field("policy");
        let pb::cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = policy;
        unsupported!(at; drop_overloads, endpoint_stale_after, weighted_priority_health);
        *overprovisioning_percent =
            u32_value(overprovisioning_factor).unwrap_or(OVERPROVISIONING_PERCENT);
        if *overprovisioning_percent == 0 {
            return Err(at.field("overprovisioning_factor").error("must be above 0"));
        }
    }
    for (i, locality) in endpoints.into_iter().enumerate() {
        let at = at.index("endpoints", i);
        let pb::LocalityLbEndpoints {
            locality,
            metadata: _,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity: _, // does nothing in Envoy either
            lb_config,
        } = locality;
        unsupported!(at; lb_config);
        if priority as usize >= MAX_PRIORITIES {
            return Err(at
                .field("priority")
                .error(format!("must be below {MAX_PRIORITIES}")));
        }
        let core::Locality {
            region,
            zone,
            sub_zone,
        } = locality.unwrap_or_default();
        let name = LocalityName {
            region: region.into(),
            zone: zone.into(),
            sub_zone: sub_zone.into(),
        };
        let weight = u32_value(load_balancing_weight);
        each(
            notes,
            at,
            priority,
            Locality {
                name,
                weight,
                endpoints: lb_endpoints,
            },
        )?;
    }
    Ok(())
}

/// Weight, workload, and the endpoint itself.
type Parts<'e> = (u32, Option<Arc<Hashed<WorkloadName>>>, &'e pb::Endpoint);

/// What endpoints by address and endpoints by name have in common.
fn parts<'e>(
    notes: &mut Notes,
    at: At<'_>,
    value: &'e pb::LbEndpoint,
) -> Result<Parts<'e>, DecodeError> {
    use pb::lb_endpoint::HostIdentifier as H;
    let pb::LbEndpoint {
        health_status: _,
        metadata,
        load_balancing_weight,
        host_identifier,
    } = value;
    let weight = load_balancing_weight.as_ref().map_or(1, |w| w.value);
    if weight == 0 {
        return Err(at.field("load_balancing_weight").error("must be above 0"));
    }
    let endpoint = match host_identifier {
        Some(H::Endpoint(endpoint)) => endpoint,
        Some(H::EndpointName(_)) => return Err(at.field("endpoint_name").unsupported()),
        None => return Err(at.field("endpoint").missing()),
    };
    let inner = at.field("endpoint");
    let pb::Endpoint {
        address: _,
        health_check_config,
        hostname: _,
        additional_addresses,
        observability_name: _,
    } = endpoint;
    // Only asks for something where there are active health checks, which are refused.
    let _ = health_check_config;
    notes.add_if(
        additional_addresses,
        inner.field("additional_addresses"),
        "only the first address is used",
    );
    let workload = metadata_text(metadata.as_ref(), "istio", &["workload"])
        .map(|w| Arc::new(WorkloadName::parse(w).into()));
    Ok((weight, workload, endpoint))
}

fn lb_endpoint(
    notes: &mut Notes,
    at: At<'_>,
    priority: u32,
    locality: &LocalityName,
    value: pb::LbEndpoint,
) -> Result<Endpoint, DecodeError> {
    let (weight, workload, endpoint) = parts(notes, at, &value)?;
    let metadata = value.metadata.as_ref();
    let here = at.field("endpoint");
    let here = here.field("address");
    let address = endpoint
        .address
        .as_ref()
        .and_then(|a| a.address.as_ref())
        .ok_or_else(|| here.missing())?;
    let (kind, text) = match address {
        core::address::Address::SocketAddress(address) => {
            let address = socket_address(here.field("socket_address"), address)?;
            (EndpointKind::Plain(address), address.to_string())
        }
        core::address::Address::EnvoyInternalAddress(internal) => tunnel(
            here.field("envoy_internal_address"),
            at.field("metadata"),
            internal,
            metadata,
        )?,
        core::address::Address::Pipe(_) => return Err(here.field("pipe").unsupported()),
    };
    Ok(Endpoint {
        kind,
        text: text.into(),
        health: health(at.field("health_status"), value.health_status)?,
        weight,
        locality: locality.clone(),
        priority,
        hostname: Some(endpoint.hostname.as_str())
            .filter(|h| !h.is_empty())
            .map(Arc::from),
        workload,
        stats: Arc::default(),
    })
}

/// An endpoint behind an internal listener: a tunnel whose authority is in its metadata.
fn tunnel(
    at: At<'_>,
    metadata_at: At<'_>,
    address: &core::EnvoyInternalAddress,
    metadata: Option<&core::Metadata>,
) -> Result<(EndpointKind, String), DecodeError> {
    let listener = server_listener_name(at, address)?;
    if metadata_text(metadata, "istio", &["double_hbone", "hbone_target_address"]).is_some() {
        return Err(metadata_at.error("double HBONE (istio.double_hbone) is not supported"));
    }
    let od = metadata_at.key("filter_metadata", ORIGINAL_DST);
    let parse = |key| match metadata_text(metadata, ORIGINAL_DST, &[key]) {
        None => Ok(None),
        Some(text) => {
            let address: Result<SocketAddr, _> = text.parse();
            address.map(Some).map_err(|_| {
                od.field(key)
                    .error(format!("{text:?} is not an IP address and port"))
            })
        }
    };
    let local = parse("local")?.ok_or_else(|| od.field("local").missing())?;
    let via = parse("waypoint")?;
    Ok((
        EndpointKind::Tunnel { local, via },
        format!("envoy://{listener}/{}", address.endpoint_id),
    ))
}

pub(super) fn server_listener_name<'a>(
    at: At<'_>,
    address: &'a core::EnvoyInternalAddress,
) -> Result<&'a str, DecodeError> {
    match &address.address_name_specifier {
        Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(name)) => {
            Ok(name)
        }
        None => Err(at.field("server_listener_name").missing()),
    }
}

fn health(at: At<'_>, status: i32) -> Result<EndpointHealth, DecodeError> {
    use core::HealthStatus as H;
    Ok(match H::try_from(status) {
        Ok(H::Unknown) => EndpointHealth::Unknown,
        Ok(H::Healthy) => EndpointHealth::Healthy,
        Ok(H::Unhealthy | H::Timeout) => EndpointHealth::Unhealthy,
        Ok(H::Draining) => EndpointHealth::Draining,
        Ok(H::Degraded) => EndpointHealth::Degraded,
        Err(_) => return Err(at.unsupported()),
    })
}
