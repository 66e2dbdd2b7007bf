//! What node proxies are told: `istio.workload.Address` resources out of the index.
//!
//! Pure functions; equal facts give equal bytes, and so equal versions, on every replica and after every restart.
//! Spec: control-plane.md 3 to 5.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prost::{Message, Name};
use waymark_api::ambient::{Enforcement, TrafficDistribution};
use waymark_api::k8s::TargetPort;
use waymark_api::names::HBONE_PORT;
use waymark_api::protocol::Protocol;
use waymark_proto::extension::{self, ServiceExtension, WorkloadExtension};
use waymark_proto::workload::{
    self as proto, Address, Extension, GatewayAddress, LoadBalancing, NamespacedHostname,
    NetworkAddress, Port, PortList, address, gateway_address, load_balancing,
};
use waymark_xds::Encoded;

use crate::index::Index;
use crate::index::binding::Binding;
use crate::index::key::WaypointKey;
use crate::index::service::{IpFamilies, Resolution, Service};
use crate::index::waypoint::{Instance, WaypointAddress};
use crate::index::workload::{Health, Tunnel, Workload};

/// Name of our extension of a Workload.
pub const WORKLOAD_EXTENSION: &str = "waymark.dev/workload";
/// Name of our extension of a Service.
pub const SERVICE_EXTENSION: &str = "waymark.dev/service";

/// One WDS resource as it goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// As `istio.workload.Address`.
    pub address: Arc<Encoded>,
    /// As `istio.workload.Workload`, if it is one.
    pub workload: Option<Arc<Encoded>>,
}

/// The resource of a service.
pub fn service(index: &Index, service: &Service) -> Published {
    let namespace = index.namespace(&service.key.namespace);
    let waypoint = ready_waypoint(index, index.service_binding(&service.key));
    let ingress = service
        .ingress_use_waypoint
        .or(namespace.ingress_use_waypoint)
        .unwrap_or(false);
    let enforcement = service
        .enforcement
        .or(namespace.enforcement)
        .or_else(|| waypoint.and_then(|w| w.1));
    let extension = ServiceExtension {
        enforcement: wire_enforcement(enforcement),
    };
    let resource = proto::Service {
        name: service.name.as_ref().to_owned(),
        namespace: service.key.namespace.as_ref().to_owned(),
        hostname: service.key.host.as_ref().to_owned(),
        addresses: service
            .vips
            .iter()
            .map(|vip| network_address(*vip))
            .collect(),
        ports: service.ports.iter().map(service_port).collect(),
        subject_alt_names: service.subject_alt_names.clone(),
        waypoint: waypoint
            .map(|(key, _)| gateway_address(index, key))
            .unwrap_or_default(),
        load_balancing: load_balancing(service, namespace.traffic_distribution),
        ip_families: match service.ip_families {
            IpFamilies::Automatic => proto::IpFamilies::Automatic,
            IpFamilies::V4 => proto::IpFamilies::Ipv4Only,
            IpFamilies::V6 => proto::IpFamilies::Ipv6Only,
            IpFamilies::Dual => proto::IpFamilies::Dual,
        }
        .into(),
        extensions: extension_of(SERVICE_EXTENSION, &extension),
        canonical: index
            .canonical(&service.key.host)
            .is_some_and(|canonical| canonical.key == service.key),
        ingress_use_waypoint: ingress && waypoint.is_some(),
        weighted_waypoints: Vec::new(),
        visibility: proto::service::Visibility::Public.into(),
    };
    let address = Address {
        r#type: Some(address::Type::Service(resource)),
    };
    Published {
        address: Arc::new(Encoded::pack(service.key.to_string(), &address)),
        workload: None,
    }
}

/// The resource of a workload.
pub fn workload(index: &Index, workload: &Workload) -> Published {
    let mesh = index.mesh();
    let has_identity = !workload.service_account.is_empty();
    let resource = proto::Workload {
        uid: workload.uid.as_str().to_owned(),
        name: workload.name.as_ref().to_owned(),
        namespace: workload.namespace.as_ref().to_owned(),
        addresses: workload.addresses.iter().map(|ip| octets(*ip)).collect(),
        hostname: workload.hostname.clone().unwrap_or_default(),
        network: workload.network.as_ref().to_owned(),
        tunnel_protocol: match workload.tunnel {
            Tunnel::None => proto::TunnelProtocol::None,
            Tunnel::Hbone | Tunnel::NativeHbone => proto::TunnelProtocol::Hbone,
        }
        .into(),
        // Both are left out where they are the default.
        trust_domain: if has_identity && mesh.trust_domain != "cluster.local" {
            mesh.trust_domain.clone()
        } else {
            String::new()
        },
        service_account: match &*workload.service_account {
            "default" => String::new(),
            account => account.to_owned(),
        },
        waypoint: ready_waypoint(index, index.workload_binding(&workload.uid))
            .map(|(key, _)| gateway_address(index, key))
            .unwrap_or_default(),
        network_gateway: None,
        node: workload.node.as_ref().to_owned(),
        canonical_name: workload.canonical_name.clone(),
        canonical_revision: workload.canonical_revision.clone(),
        workload_type: proto::WorkloadType::Pod.into(),
        workload_name: workload.workload_name.as_ref().to_owned(),
        native_tunnel: workload.tunnel == Tunnel::NativeHbone,
        application_tunnel: None,
        services: services(index, workload),
        authorization_policies: Vec::new(),
        status: match workload.health {
            Health::Healthy | Health::Unwatched => proto::WorkloadStatus::Healthy,
            Health::Unhealthy | Health::Terminating => proto::WorkloadStatus::Unhealthy,
        }
        .into(),
        cluster_id: mesh.cluster_id.clone(),
        locality: index
            .locality(workload)
            .filter(|locality| **locality != Default::default())
            .map(|locality| proto::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                subzone: locality.subzone.clone(),
            }),
        network_mode: if workload.host_network {
            proto::NetworkMode::HostNetwork
        } else {
            proto::NetworkMode::Standard
        }
        .into(),
        extensions: extension_of(WORKLOAD_EXTENSION, &workload_extension(index, workload)),
        capacity: workload.weight,
    };
    let alone = Arc::new(Encoded::pack(workload.uid.as_str(), &resource));
    let address = Address {
        r#type: Some(address::Type::Workload(resource)),
    };
    Published {
        address: Arc::new(Encoded::pack(workload.uid.as_str(), &address)),
        workload: Some(alone),
    }
}

fn services(index: &Index, workload: &Workload) -> std::collections::BTreeMap<String, PortList> {
    let of = index
        .members()
        .of_workload(&workload.uid)
        .filter_map(|key| index.service(key));
    of.map(|service| {
        let ports = service
            .targets(workload)
            .into_iter()
            .map(|(service_port, target_port)| Port {
                service_port: service_port.into(),
                target_port: target_port.into(),
                app_protocol: proto::AppProtocol::Unknown.into(),
            });
        (
            service.key.to_string(),
            PortList {
                ports: ports.collect(),
            },
        )
    })
    .collect()
}

/// What only our own node proxies read. A workload that nothing of it holds for has no extension.
fn workload_extension(index: &Index, workload: &Workload) -> WorkloadExtension {
    let namespace = index.namespace(&workload.namespace);
    let waypoint = ready_waypoint(index, index.workload_binding(&workload.uid));
    let inherited = namespace
        .enforcement
        .or_else(|| waypoint.and_then(|(_, enforcement)| enforcement));
    let numbers = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    WorkloadExtension {
        ports: numbers(&workload.declared_ports),
        probe_ports: numbers(&workload.probe_ports),
        application_address: workload.application_address.map(octets).unwrap_or_default(),
        enforcement: wire_enforcement(workload.enforcement),
        inherited_enforcement: wire_enforcement(inherited),
    }
}

fn extension_of<M: Message + Name + Default + PartialEq>(
    name: &str,
    message: &M,
) -> Vec<Extension> {
    if *message == M::default() {
        return Vec::new();
    }
    let config = prost_types::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    };
    vec![Extension {
        name: name.to_owned(),
        config: Some(config),
    }]
}

/// The waypoint that node proxies are told of, with its own word on enforcement: only one that has ever been ready.
fn ready_waypoint<'a>(
    index: &'a Index,
    binding: &'a Binding,
) -> Option<(&'a WaypointKey, Option<Enforcement>)> {
    match binding {
        Binding::Bound(key) if index.is_programmed(key) => {
            Some((key, index.waypoints().find(key)?.enforcement))
        }
        Binding::Bound(_) | Binding::Unbound | Binding::Refused(..) => None,
    }
}

fn gateway_address(index: &Index, key: &WaypointKey) -> Option<GatewayAddress> {
    use gateway_address::Destination;
    let waypoint = index.waypoints().find(key)?;
    let hostname = |hostname: String| NamespacedHostname {
        namespace: key.namespace.clone(),
        hostname,
    };
    let destination = match &waypoint.instance {
        Instance::Deployed(deployment) => Destination::Hostname(hostname(
            waymark_api::host::service_host(&deployment.name, &key.namespace),
        )),
        Instance::External(WaypointAddress::Hostname(host)) => {
            Destination::Hostname(hostname(host.as_ref().to_owned()))
        }
        Instance::External(WaypointAddress::Ip(ip)) => {
            Destination::Address(network_address((*ip).into()))
        }
    };
    Some(GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: HBONE_PORT.into(),
    })
}

fn network_address(net: IpNet) -> NetworkAddress {
    NetworkAddress {
        network: String::new(),
        address: octets(net.addr()),
        length: (net.prefix_len() != net.max_prefix_len()).then(|| net.prefix_len().into()),
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn service_port(port: &crate::index::service::ServicePort) -> Port {
    use proto::AppProtocol;
    let app_protocol = match port.protocol {
        Protocol::Http => AppProtocol::Http11,
        Protocol::Http2 => AppProtocol::Http2,
        Protocol::Grpc => AppProtocol::Grpc,
        Protocol::Tls | Protocol::Https => AppProtocol::Tls,
        Protocol::Tcp => AppProtocol::Tcp,
        Protocol::HttpProxy
        | Protocol::GrpcWeb
        | Protocol::Mongo
        | Protocol::Redis
        | Protocol::Mysql
        | Protocol::Udp
        | Protocol::Sniffed => AppProtocol::Unknown,
    };
    Port {
        service_port: port.number.into(),
        target_port: match &port.target {
            TargetPort::Number(number) => (*number).into(),
            TargetPort::Name(_) => 0,
        },
        app_protocol: app_protocol.into(),
    }
}

fn load_balancing(
    service: &Service,
    inherited: Option<TrafficDistribution>,
) -> Option<LoadBalancing> {
    use load_balancing::{HealthPolicy, Mode, Scope};
    let near = [Scope::Network, Scope::Region, Scope::Zone];
    let (scopes, mode) =
        if service.resolution == Resolution::Passthrough && service.registry.is_service_entry() {
            (Vec::new(), Mode::Passthrough)
        } else if service.node_local {
            (vec![Scope::Node], Mode::Strict)
        } else {
            match service.traffic_distribution.or(inherited) {
                Some(TrafficDistribution::PreferSameZone) => (near.to_vec(), Mode::Failover),
                Some(TrafficDistribution::PreferSameNode) => (
                    near.into_iter()
                        .chain([Scope::Subzone, Scope::Node])
                        .collect(),
                    Mode::Failover,
                ),
                Some(TrafficDistribution::Any) | None => (Vec::new(), Mode::UnspecifiedMode),
            }
        };
    let allow_all = service.publish_not_ready || mode == Mode::Passthrough;
    if mode == Mode::UnspecifiedMode && !allow_all {
        return None;
    }
    Some(LoadBalancing {
        routing_preference: scopes.into_iter().map(Into::into).collect(),
        mode: mode.into(),
        health_policy: if allow_all {
            HealthPolicy::AllowAll
        } else {
            HealthPolicy::OnlyHealthy
        }
        .into(),
    })
}

fn wire_enforcement(enforcement: Option<Enforcement>) -> i32 {
    match enforcement {
        None => extension::Enforcement::Unspecified,
        Some(Enforcement::Hairpin) => extension::Enforcement::Hairpin,
        Some(Enforcement::Service) => extension::Enforcement::Service,
        Some(Enforcement::Require) => extension::Enforcement::Require,
        Some(Enforcement::Off) => extension::Enforcement::Off,
    }
    .into()
}

#[cfg(test)]
mod tests;
