//! From the wire to the model. What is not understood is refused with the reason, never guessed at.
//!
//! Spec: hbone-and-l4.md 15.3 (decode defaults), control-plane.md 3 (unknown enum numbers).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use waymark_identity::{ServiceAccountRef, SpiffeError, SpiffeId, TrustDomain};
use waymark_proto::{extension as ext, workload as wds};

use super::model::{
    ApplicationTunnel, BalanceMode, Enforcement, GatewayDestination, GatewayRef, Health,
    HealthPolicy, IpFamilies, LoadBalancing, Locality, NetworkAddr, NetworkMode, NetworkRange,
    Protocol, Scope, Service, ServiceKey, TunnelHeader, Uid, Visibility, WeightedWaypoint,
    Workload, WorkloadExtension, WorkloadType,
};

/// Name of our extension on Workloads.
pub const WORKLOAD_EXTENSION: &str = "waymark.dev/workload";
/// Name of our extension on Services.
pub const SERVICE_EXTENSION: &str = "waymark.dev/service";

const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_SERVICE_ACCOUNT: &str = "default";
const DEFAULT_CLUSTER: &str = "Kubernetes";

/// Why a resource is refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the bytes of such a message.
    #[error("{field} is not a valid message")]
    Bytes {
        /// Where.
        field: &'static str,
        /// What protobuf says.
        source: prost::DecodeError,
    },
    /// An enum number that this version does not know.
    #[error("{field}: {value} is not a known value")]
    UnknownEnum {
        /// Where.
        field: &'static str,
        /// The number.
        value: i32,
    },
    /// An address that has neither 4 nor 16 bytes, or a prefix longer than the address.
    #[error("{field}: malformed address")]
    Address {
        /// Where.
        field: &'static str,
    },
    /// A port above 65535.
    #[error("{field}: {value} is not a port")]
    Port {
        /// Where.
        field: &'static str,
        /// The number.
        value: u32,
    },
    /// A required field is empty.
    #[error("{field} is missing")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A namespace, service account or trust domain that no SPIFFE ID can hold.
    #[error("identity")]
    Identity(#[source] SpiffeError),
    /// A service key that is not `namespace/hostname`.
    #[error("services: {0:?} is not <namespace>/<hostname>")]
    ServiceKey(String),
}

/// One resource of the type `istio.workload.Address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A workload.
    Workload(Arc<Workload>),
    /// A service.
    Service(Arc<Service>),
}

/// Reads an Address from its serialized form.
///
/// # Errors
/// See [`DecodeError`].
pub fn address(bytes: &[u8]) -> Result<Address, DecodeError> {
    let message = wds::Address::decode(bytes).map_err(|source| DecodeError::Bytes {
        field: "istio.workload.Address",
        source,
    })?;
    match message.r#type {
        Some(wds::address::Type::Workload(workload)) => {
            Ok(Address::Workload(Arc::new(self::workload(workload)?)))
        }
        Some(wds::address::Type::Service(service)) => {
            Ok(Address::Service(Arc::new(self::service(service)?)))
        }
        None => Err(DecodeError::Missing { field: "type" }),
    }
}

/// Checks and converts a Workload.
///
/// # Errors
/// See [`DecodeError`].
pub fn workload(message: wds::Workload) -> Result<Workload, DecodeError> {
    if message.uid.is_empty() {
        return Err(DecodeError::Missing { field: "uid" });
    }
    let identity = identity(
        &message.trust_domain,
        &message.namespace,
        &message.service_account,
    )?;
    let protocol = match wds::TunnelProtocol::try_from(message.tunnel_protocol) {
        Ok(wds::TunnelProtocol::None) => Protocol::Tcp,
        Ok(wds::TunnelProtocol::Hbone) => Protocol::Hbone,
        Ok(wds::TunnelProtocol::LegacyIstioMtls) | Err(_) => {
            return Err(DecodeError::UnknownEnum {
                field: "tunnel_protocol",
                value: message.tunnel_protocol,
            });
        }
    };
    let workload_type = match known("workload_type", message.workload_type)? {
        wds::WorkloadType::Deployment => WorkloadType::Deployment,
        wds::WorkloadType::Cronjob => WorkloadType::CronJob,
        wds::WorkloadType::Pod => WorkloadType::Pod,
        wds::WorkloadType::Job => WorkloadType::Job,
    };
    let status = match known("status", message.status)? {
        wds::WorkloadStatus::Healthy => Health::Healthy,
        wds::WorkloadStatus::Unhealthy => Health::Unhealthy,
    };
    let network_mode = match known("network_mode", message.network_mode)? {
        wds::NetworkMode::Standard => NetworkMode::Standard,
        wds::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    };
    let addresses = message
        .addresses
        .iter()
        .map(|bytes| ip("addresses", bytes))
        .collect::<Result<_, _>>()?;
    let services = message
        .services
        .into_iter()
        .map(|(key, list)| {
            let parsed = ServiceKey::parse(&key).ok_or(DecodeError::ServiceKey(key))?;
            Ok((parsed, ports("services.ports", &list.ports)?))
        })
        .collect::<Result<_, DecodeError>>()?;
    let locality = message.locality.unwrap_or_default();
    Ok(Workload {
        uid: Uid::new(message.uid),
        name: message.name.into(),
        namespace: message.namespace.into(),
        addresses,
        hostname: message.hostname.into(),
        network: message.network.into(),
        protocol,
        identity,
        waypoint: message
            .waypoint
            .map(|gateway| self::gateway("waypoint", gateway))
            .transpose()?,
        network_gateway: message
            .network_gateway
            .map(|g| self::gateway("network_gateway", g))
            .transpose()?,
        node: message.node.into(),
        canonical_name: message.canonical_name.into(),
        canonical_revision: message.canonical_revision.into(),
        workload_type,
        workload_name: message.workload_name.into(),
        native_tunnel: message.native_tunnel,
        application_tunnel: message
            .application_tunnel
            .map(application_tunnel)
            .transpose()?,
        services,
        authorization_policies: message
            .authorization_policies
            .into_iter()
            .map(Into::into)
            .collect(),
        status,
        cluster_id: or_default(&message.cluster_id, DEFAULT_CLUSTER).into(),
        locality: Locality {
            region: locality.region.into(),
            zone: locality.zone.into(),
            subzone: locality.subzone.into(),
        },
        network_mode,
        capacity: message.capacity.unwrap_or(1),
        extension: workload_extension(&message.extensions)?,
    })
}

/// Checks and converts a Service.
///
/// # Errors
/// See [`DecodeError`].
pub fn service(message: wds::Service) -> Result<Service, DecodeError> {
    if message.hostname.is_empty() {
        return Err(DecodeError::Missing { field: "hostname" });
    }
    let mut vips = Vec::new();
    let mut cidr_vips = Vec::new();
    for address in message.addresses {
        let ip = ip("addresses", &address.address)?;
        let full = if ip.is_ipv4() { 32 } else { 128 };
        match address.length {
            Some(length) if length != full => cidr_vips.push(NetworkRange {
                network: address.network.into(),
                range: range("addresses.length", ip, length)?,
            }),
            Some(_) | None => vips.push(NetworkAddr::new(address.network, ip)),
        }
    }
    let extra_identities = message
        .subject_alt_names
        .iter()
        .filter_map(|san| san.parse().ok())
        .collect();
    // `AUTOMATIC` says nothing about the family.
    let ip_families = match known("ip_families", message.ip_families)? {
        wds::IpFamilies::Automatic => None,
        wds::IpFamilies::Ipv4Only => Some(IpFamilies::Ipv4),
        wds::IpFamilies::Ipv6Only => Some(IpFamilies::Ipv6),
        wds::IpFamilies::Dual => Some(IpFamilies::Dual),
    };
    // The one enum whose unknown numbers have a meaning (control-plane.md 3).
    let visibility = match wds::service::Visibility::try_from(message.visibility) {
        Ok(wds::service::Visibility::Namespace) => Visibility::Namespace,
        Ok(wds::service::Visibility::Public) | Err(_) => Visibility::Public,
    };
    let weighted_waypoints = message
        .weighted_waypoints
        .into_iter()
        .map(|weighted| {
            let destination = weighted.destination.ok_or(DecodeError::Missing {
                field: "weighted_waypoints.destination",
            })?;
            Ok(WeightedWaypoint {
                destination: gateway("weighted_waypoints.destination", destination)?,
                weight: weighted.weight,
            })
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok(Service {
        key: ServiceKey::new(message.namespace, message.hostname),
        name: message.name.into(),
        vips,
        cidr_vips,
        ports: ports("ports", &message.ports)?,
        subject_alt_names: message
            .subject_alt_names
            .into_iter()
            .map(Into::into)
            .collect(),
        extra_identities,
        waypoint: message
            .waypoint
            .map(|gateway| self::gateway("waypoint", gateway))
            .transpose()?,
        weighted_waypoints,
        load_balancing: message
            .load_balancing
            .map(load_balancing)
            .transpose()?
            .unwrap_or_default(),
        ip_families,
        canonical: message.canonical,
        visibility,
        enforcement: service_extension(&message.extensions)?,
    })
}

fn workload_extension(extensions: &[wds::Extension]) -> Result<WorkloadExtension, DecodeError> {
    let Some(message) = extension::<ext::WorkloadExtension>(extensions, WORKLOAD_EXTENSION)? else {
        return Ok(WorkloadExtension::default());
    };
    let port_list = |field, list: &[u32]| {
        list.iter()
            .map(|value| port(field, *value))
            .collect::<Result<_, _>>()
    };
    let application_address = match message.application_address.as_slice() {
        [] => None,
        bytes => Some(ip("application_address", bytes)?),
    };
    Ok(WorkloadExtension {
        ports: port_list("ports", &message.ports)?,
        probe_ports: port_list("probe_ports", &message.probe_ports)?,
        application_address,
        enforcement: enforcement("enforcement", message.enforcement)?,
        inherited_enforcement: enforcement("inherited_enforcement", message.inherited_enforcement)?,
    })
}

fn service_extension(extensions: &[wds::Extension]) -> Result<Option<Enforcement>, DecodeError> {
    match extension::<ext::ServiceExtension>(extensions, SERVICE_EXTENSION)? {
        Some(message) => enforcement("enforcement", message.enforcement),
        None => Ok(None),
    }
}

fn extension<M: Message + Default>(
    list: &[wds::Extension],
    name: &'static str,
) -> Result<Option<M>, DecodeError> {
    let Some(config) = list
        .iter()
        .find(|extension| extension.name == name)
        .and_then(|e| e.config.as_ref())
    else {
        return Ok(None);
    };
    M::decode(config.value.as_slice())
        .map(Some)
        .map_err(|source| DecodeError::Bytes {
            field: name,
            source,
        })
}

fn enforcement(field: &'static str, value: i32) -> Result<Option<Enforcement>, DecodeError> {
    Ok(match known(field, value)? {
        ext::Enforcement::Unspecified => None,
        ext::Enforcement::Hairpin => Some(Enforcement::Hairpin),
        ext::Enforcement::Service => Some(Enforcement::Service),
        ext::Enforcement::Require => Some(Enforcement::Require),
        ext::Enforcement::Off => Some(Enforcement::Off),
    })
}

fn load_balancing(message: wds::LoadBalancing) -> Result<LoadBalancing, DecodeError> {
    use wds::load_balancing as lb;
    let mut routing_preference = Vec::with_capacity(message.routing_preference.len());
    for value in message.routing_preference {
        routing_preference.push(match known("routing_preference", value)? {
            lb::Scope::UnspecifiedScope => {
                return Err(DecodeError::UnknownEnum {
                    field: "routing_preference",
                    value,
                });
            }
            lb::Scope::Region => Scope::Region,
            lb::Scope::Zone => Scope::Zone,
            lb::Scope::Subzone => Scope::Subzone,
            lb::Scope::Node => Scope::Node,
            lb::Scope::Cluster => Scope::Cluster,
            lb::Scope::Network => Scope::Network,
        });
    }
    let mode = match known("mode", message.mode)? {
        lb::Mode::UnspecifiedMode => BalanceMode::Standard,
        lb::Mode::Strict => BalanceMode::Strict,
        lb::Mode::Failover => BalanceMode::Failover,
        lb::Mode::Passthrough => BalanceMode::Passthrough,
    };
    let health_policy = match known("health_policy", message.health_policy)? {
        lb::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
        lb::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
    };
    Ok(LoadBalancing {
        routing_preference,
        mode,
        health_policy,
    })
}

fn application_tunnel(message: wds::ApplicationTunnel) -> Result<ApplicationTunnel, DecodeError> {
    let protocol = match known("application_tunnel.protocol", message.protocol)? {
        wds::application_tunnel::Protocol::None => TunnelHeader::None,
        wds::application_tunnel::Protocol::Proxy => TunnelHeader::Proxy,
    };
    let port = port("application_tunnel.port", message.port)?;
    Ok(ApplicationTunnel {
        protocol,
        port: (port != 0).then_some(port),
    })
}

fn gateway(field: &'static str, message: wds::GatewayAddress) -> Result<GatewayRef, DecodeError> {
    let destination = match message.destination.ok_or(DecodeError::Missing { field })? {
        wds::gateway_address::Destination::Hostname(name) => {
            GatewayDestination::Hostname(ServiceKey::new(name.namespace, name.hostname))
        }
        wds::gateway_address::Destination::Address(address) => GatewayDestination::Address(
            NetworkAddr::new(address.network, ip(field, &address.address)?),
        ),
    };
    Ok(GatewayRef {
        destination,
        hbone_mtls_port: port(field, message.hbone_mtls_port)?,
    })
}

fn identity(
    trust_domain: &str,
    namespace: &str,
    service_account: &str,
) -> Result<SpiffeId, DecodeError> {
    let trust_domain = or_default(trust_domain, DEFAULT_TRUST_DOMAIN);
    let service_account = or_default(service_account, DEFAULT_SERVICE_ACCOUNT);
    let parse = || -> Result<SpiffeId, SpiffeError> {
        let domain: TrustDomain = trust_domain.parse()?;
        Ok(ServiceAccountRef::new(namespace, service_account)?.identity(&domain))
    };
    parse().map_err(DecodeError::Identity)
}

fn or_default<'a>(text: &'a str, default: &'static str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn ports(field: &'static str, list: &[wds::Port]) -> Result<BTreeMap<u16, u16>, DecodeError> {
    list.iter()
        .map(|p| Ok((port(field, p.service_port)?, port(field, p.target_port)?)))
        .collect()
}

/// The application protocol of a port is a waypoint's business and not looked at here.
pub(crate) fn port(field: &'static str, value: u32) -> Result<u16, DecodeError> {
    u16::try_from(value).map_err(|_| DecodeError::Port { field, value })
}

pub(crate) fn known<T: TryFrom<i32>>(field: &'static str, value: i32) -> Result<T, DecodeError> {
    T::try_from(value).map_err(|_| DecodeError::UnknownEnum { field, value })
}

pub(crate) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, DecodeError> {
    let parsed = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(|b| IpAddr::V4(Ipv4Addr::from(b))),
        16 => <[u8; 16]>::try_from(bytes).map(|b| IpAddr::V6(Ipv6Addr::from(b))),
        _ => return Err(DecodeError::Address { field }),
    };
    parsed
        .map(|ip| ip.to_canonical())
        .map_err(|_| DecodeError::Address { field })
}

pub(crate) fn range(field: &'static str, ip: IpAddr, length: u32) -> Result<IpNet, DecodeError> {
    let length = u8::try_from(length).map_err(|_| DecodeError::Address { field })?;
    IpNet::new(ip, length)
        .map(|net| net.trunc())
        .map_err(|_| DecodeError::Address { field })
}

#[cfg(test)]
mod tests;
