//! Services and ServiceEntries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use waymark_api::ambient::UseWaypoint;
use waymark_api::istio::ServiceEntry;
use waymark_api::istio::service_entry::{Location, Resolution as EntryResolution};
use waymark_api::istio::workload_entry::{WorkloadAddress, WorkloadEntrySpec};
use waymark_api::k8s::{
    ClusterIps, IpFamily, Service as KubernetesService, ServiceType, TargetPort,
};
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::waypoint::WaypointClass;
use waymark_api::{ObjectMeta, names};

use super::{Facts, Platform, Refused, ingress_use_waypoint};
use crate::index::key::{ServiceKey, Uid};
use crate::index::service::{IpFamilies, Registry, Resolution, Service, ServicePort};
use crate::index::workload::{Health, Origin, Tunnel, Workload};
use crate::ipam::{Owner, Pool};

impl Facts {
    pub(super) fn kubernetes_service(
        &mut self,
        service: &KubernetesService,
    ) -> Result<Vec<Service>, Refused> {
        let (meta, spec) = (&service.meta, &service.spec);
        if matches!(spec.service_type, ServiceType::ExternalName(_)) {
            return Ok(Vec::new());
        }
        let vips = match &spec.cluster_ips {
            ClusterIps::Headless => Vec::new(),
            ClusterIps::Given(addresses) => addresses.clone(),
            ClusterIps::Unset if self.settings.platform == Platform::Kubernetes => Vec::new(),
            ClusterIps::Unset => {
                vec![self.allocate(&Owner::service(&meta.namespace, &meta.name), Pool::Vips)?]
            }
        };
        let port = |port: &waymark_api::k8s::ServicePort| ServicePort {
            number: port.port,
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol,
            target: port.target_port.clone(),
        };
        Ok(vec![Service {
            key: ServiceKey::new(meta.namespace.as_str(), service.host()),
            name: meta.name.as_str().into(),
            registry: Registry::Kubernetes,
            created: self.created(&ObjectKey::of(Kind::Service, meta), meta),
            vips: vips.into_iter().map(IpNet::from).collect(),
            ports: spec.ports.iter().map(port).collect(),
            selector: spec.selector.clone(),
            resolution: match spec.cluster_ips {
                ClusterIps::Headless => Resolution::Passthrough,
                ClusterIps::Given(_) | ClusterIps::Unset => Resolution::Static,
            },
            subject_alt_names: Vec::new(),
            publish_not_ready: spec.publish_not_ready_addresses,
            node_local: spec.internal_traffic_local,
            traffic_distribution: spec.traffic_distribution.or(meta.mesh.traffic_distribution),
            ip_families: match spec.ip_families.as_slice() {
                [] => IpFamilies::Automatic,
                [IpFamily::V4] => IpFamilies::V4,
                [IpFamily::V6] => IpFamilies::V6,
                _ => IpFamilies::Dual,
            },
            use_waypoint: meta.mesh.use_waypoint.clone(),
            enforcement: meta.mesh.enforcement,
            ingress_use_waypoint: ingress_use_waypoint(meta),
            managed: is_managed(&meta.labels) || is_managed(&spec.selector),
        }])
    }

    pub(super) fn service_entry(&mut self, entry: &ServiceEntry) -> Result<Vec<Service>, Refused> {
        let meta = &entry.meta;
        let created = self.created(&ObjectKey::of(Kind::ServiceEntry, meta), meta);
        let mut services = Vec::new();
        for host in &entry.hosts {
            let named = !host.is_wildcard() || entry.resolution == EntryResolution::DynamicDns;
            let vips = if !entry.addresses.is_empty() {
                entry.addresses.clone()
            } else if !named || entry.resolution == EntryResolution::None {
                Vec::new()
            } else if self.settings.platform == Platform::Kubernetes {
                let of_host = entry.allocated.iter().filter(|(of, _)| of == host.as_str());
                of_host.map(|(_, address)| IpNet::from(*address)).collect()
            } else {
                let owner = Owner::service_entry(&meta.namespace, &meta.name, host.as_str());
                vec![self.allocate(&owner, Pool::Vips)?.into()]
            };
            services.push(Service {
                key: ServiceKey::new(meta.namespace.as_str(), host.as_str()),
                name: meta.name.as_str().into(),
                registry: match entry.location {
                    Location::MeshExternal => Registry::MeshExternal,
                    Location::MeshInternal => Registry::MeshInternal,
                },
                created,
                vips,
                ports: entry.ports.iter().map(entry_port).collect(),
                selector: entry.workload_selector.clone().unwrap_or_default(),
                resolution: match entry.resolution {
                    EntryResolution::None => Resolution::Passthrough,
                    EntryResolution::Static => Resolution::Static,
                    EntryResolution::Dns => Resolution::Dns,
                    EntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
                    EntryResolution::DynamicDns => Resolution::DynamicDns,
                },
                subject_alt_names: entry.subject_alt_names.clone(),
                publish_not_ready: false,
                node_local: false,
                traffic_distribution: meta.mesh.traffic_distribution,
                ip_families: IpFamilies::Automatic,
                use_waypoint: meta.mesh.use_waypoint.clone(),
                enforcement: meta.mesh.enforcement,
                ingress_use_waypoint: ingress_use_waypoint(meta),
                managed: false,
            });
        }
        Ok(services)
    }

    /// The endpoints that a ServiceEntry lists, or the hosts themselves where DNS is to say and nothing is listed.
    pub(super) fn inline_endpoints(&self, entry: &ServiceEntry) -> Vec<Workload> {
        let meta = &entry.meta;
        let key = |host: &waymark_api::host::Host| {
            ServiceKey::new(meta.namespace.as_str(), host.as_str())
        };
        let implicit = entry.endpoints.is_empty()
            && entry.workload_selector.is_none()
            && matches!(
                entry.resolution,
                EntryResolution::Dns | EntryResolution::DnsRoundRobin | EntryResolution::DynamicDns
            );
        if implicit {
            let endpoint = |host: &waymark_api::host::Host| {
                let address = WorkloadAddress::Hostname(host.as_str().to_owned());
                let spec = WorkloadEntrySpec {
                    address,
                    ports: BTreeMap::new(),
                    labels: BTreeMap::new(),
                    network: None,
                    locality: None,
                    weight: None,
                    service_account: None,
                };
                self.inline_endpoint(
                    meta,
                    &spec,
                    BTreeSet::from([key(host)]),
                    Origin::ServiceEntryEndpoint {
                        implicit: true,
                        ordinal: 0,
                    },
                )
            };
            return entry.hosts.iter().map(endpoint).collect();
        }
        let services: BTreeSet<ServiceKey> = entry.hosts.iter().map(key).collect();
        let endpoint = |(ordinal, spec)| {
            let origin = Origin::ServiceEntryEndpoint {
                implicit: false,
                ordinal,
            };
            self.inline_endpoint(meta, spec, services.clone(), origin)
        };
        entry.endpoints.iter().enumerate().map(endpoint).collect()
    }

    fn inline_endpoint(
        &self,
        meta: &ObjectMeta,
        spec: &WorkloadEntrySpec,
        services: BTreeSet<ServiceKey>,
        origin: Origin,
    ) -> Workload {
        let text = match &spec.address {
            WorkloadAddress::Ip(ip) => ip.to_string(),
            WorkloadAddress::Hostname(name) => name.clone(),
        };
        let uid = Uid::service_entry_endpoint(
            &self.settings.cluster_id,
            &meta.namespace,
            &meta.name,
            &text,
        );
        Workload {
            explicit_services: services,
            use_waypoint: use_waypoint_label(&spec.labels),
            tunnel: if meta.mesh.native_tunnel {
                Tunnel::NativeHbone
            } else {
                Tunnel::None
            },
            canonical_name: super::pod::canonical_name(&meta.labels, &meta.name),
            canonical_revision: super::pod::canonical_revision(&meta.labels),
            labels: spec.labels.clone(),
            ..entry_workload(uid, origin, meta, spec)
        }
    }
}

/// What a WorkloadEntry and an inline endpoint have in common.
pub(super) fn entry_workload(
    uid: Uid,
    origin: Origin,
    meta: &ObjectMeta,
    spec: &WorkloadEntrySpec,
) -> Workload {
    let (addresses, hostname): (Vec<IpAddr>, _) = match &spec.address {
        WorkloadAddress::Ip(ip) => (vec![*ip], None),
        WorkloadAddress::Hostname(name) => (Vec::new(), Some(name.clone())),
    };
    let mut declared_ports: Vec<u16> = spec.ports.values().copied().collect();
    declared_ports.sort_unstable();
    declared_ports.dedup();
    Workload {
        uid,
        origin,
        namespace: meta.namespace.as_str().into(),
        name: meta.name.as_str().into(),
        addresses,
        hostname,
        labels: BTreeMap::new(),
        service_account: spec.service_account.as_deref().unwrap_or_default().into(),
        node: "".into(),
        network: spec.network.as_deref().unwrap_or_default().into(),
        locality: spec.locality.clone(),
        health: Health::Unwatched,
        tunnel: Tunnel::None,
        host_network: false,
        workload_name: meta.name.as_str().into(),
        canonical_name: meta.name.clone(),
        canonical_revision: String::new(),
        weight: spec.weight,
        named_ports: spec.ports.clone(),
        declared_ports,
        probe_ports: Vec::new(),
        application_address: None,
        use_waypoint: None,
        enforcement: None,
        explicit_services: BTreeSet::new(),
    }
}

fn entry_port(port: &waymark_api::istio::service_entry::ServiceEntryPort) -> ServicePort {
    ServicePort {
        number: port.number,
        name: port.name.clone(),
        protocol: port.protocol,
        target: TargetPort::Number(port.target_port.unwrap_or(port.number)),
    }
}

/// An inline endpoint's own labels are not read by the parser.
fn use_waypoint_label(labels: &BTreeMap<String, String>) -> Option<UseWaypoint> {
    Some(match labels.get(names::USE_WAYPOINT)?.as_str() {
        "none" => UseWaypoint::None,
        name => UseWaypoint::Named {
            namespace: labels.get(names::USE_WAYPOINT_NAMESPACE).cloned(),
            name: name.to_owned(),
        },
    })
}

fn is_managed(labels: &BTreeMap<String, String>) -> bool {
    let by = labels.get(names::GATEWAY_MANAGED).map(String::as_str);
    WaypointClass::is_managed(by) || by == Some(names::MANAGED_EAST_WEST_CONTROLLER)
}
