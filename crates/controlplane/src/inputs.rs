//! From the index to what the translation is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use waymark_api::NamespacedName;
use waymark_api::gateway::{HttpRoute, ParentKind};
use waymark_api::istio::virtual_service::HttpAction;

use crate::index::Index;
use crate::index::key::{ServiceKey, WaypointKey};
use crate::index::routing::RouteObject;
use crate::index::service::{Registry, Resolution, Service};
use crate::index::workload::{Health, Origin, Tunnel, Workload};
use crate::translate::gateway_api;
use crate::translate::input::{
    self, AttachedWorkloads, EndpointAddress, EndpointInput, ServiceInput, VirtualServiceInput,
};

/// A service as a proxy of namespace `client` is to know it. `None` when there is none, or none that it can use.
pub fn service(index: &Index, key: &ServiceKey, client: &str) -> Option<ServiceInput> {
    let service = index.service(key)?;
    let registry = match service.registry {
        Registry::Kubernetes | Registry::Waypoint(_) => input::Registry::Kubernetes,
        Registry::MeshInternal => input::Registry::ExternalInternal,
        Registry::MeshExternal => input::Registry::ExternalExternal,
    };
    // As upstream: a name that is only known at request time can only be one outside.
    if service.resolution == Resolution::DynamicDns && registry != input::Registry::ExternalExternal
    {
        return None;
    }
    let root = &index.mesh().root_namespace;
    let name = if service.registry.is_service_entry() {
        &key.host
    } else {
        &service.name
    };
    Some(ServiceInput {
        host: key.host.as_ref().to_owned(),
        name: name.as_ref().to_owned(),
        namespace: key.namespace.as_ref().to_owned(),
        registry,
        created: service.created.seconds,
        vips: service.vips.clone(),
        ports: service
            .ports
            .iter()
            .map(|port| input::PortInput {
                number: port.number,
                name: port.name.clone(),
                protocol: port.protocol,
            })
            .collect(),
        resolution: match service.resolution {
            Resolution::Static => input::Resolution::ClientSide,
            Resolution::Dns => input::Resolution::Dns,
            Resolution::DnsRoundRobin => input::Resolution::DnsRoundRobin,
            Resolution::Passthrough => input::Resolution::Passthrough,
            Resolution::DynamicDns => input::Resolution::DynamicDns,
        },
        endpoints: endpoints(index, service),
        destination_rule: index
            .routing()
            .rule(key, client, root)
            .map(|rule| rule.object.clone()),
        virtual_services: virtual_services(index, service, client),
        traffic_distribution: service
            .traffic_distribution
            .or(index.namespace(&key.namespace).traffic_distribution),
        internal_traffic_policy: if service.node_local {
            input::InternalTrafficPolicy::Local
        } else {
            input::InternalTrafficPolicy::Cluster
        },
    })
}

/// The hosts that the routes of a service send requests to.
pub fn named_hosts(service: &ServiceInput) -> BTreeSet<String> {
    let mut hosts = BTreeSet::new();
    for routes in &service.virtual_services {
        let namespace = &routes.spec.meta.namespace;
        for rule in &routes.spec.http {
            if let HttpAction::Route(destinations) = &rule.action {
                hosts.extend(
                    destinations
                        .iter()
                        .map(|to| to.destination.host.resolve(namespace)),
                );
            }
            hosts.extend(
                rule.mirrors
                    .iter()
                    .map(|mirror| mirror.destination.host.resolve(namespace)),
            );
        }
    }
    hosts
}

/// The addresses that a waypoint serves beside those of its services.
pub fn attached(index: &Index, waypoint: &WaypointKey) -> AttachedWorkloads {
    let (workloads, pods_of_services) = index.addresses_served_by(waypoint);
    AttachedWorkloads {
        workloads,
        pods_of_services,
    }
}

fn virtual_services(index: &Index, service: &Service, client: &str) -> Vec<VirtualServiceInput> {
    let entry = service
        .registry
        .is_service_entry()
        .then(|| NamespacedName::new(&*service.key.namespace, &*service.name));
    let mut native = Vec::new();
    let mut routes: Vec<Arc<HttpRoute>> = Vec::new();
    for route in index.routing().routes(&service.key, entry.as_ref(), client) {
        match &route.object {
            RouteObject::VirtualService(object) => {
                native.push(VirtualServiceInput::native(object.clone()))
            }
            RouteObject::HttpRoute(object) => routes.push(object.clone()),
        }
    }
    let parent = gateway_api::Parent {
        kind: if entry.is_some() {
            ParentKind::ServiceEntry
        } else {
            ParentKind::Service
        },
        namespace: &service.key.namespace,
        name: &service.name,
        host: &service.key.host,
    };
    native.extend(gateway_api::convert(parent, &routes));
    native
}

fn endpoints(index: &Index, service: &Service) -> Vec<Arc<EndpointInput>> {
    index
        .members()
        .of_service(&service.key)
        .filter_map(|uid| index.workload(uid))
        .filter(|workload| workload.health != Health::Terminating)
        .filter_map(|workload| endpoint(index, service, workload))
        .map(Arc::new)
        .collect()
}

fn endpoint(index: &Index, service: &Service, workload: &Workload) -> Option<EndpointInput> {
    let address = match workload.addresses.first() {
        Some(first) => EndpointAddress::Ip(*first, workload.addresses.clone()),
        None => EndpointAddress::Hostname(workload.hostname.clone()?),
    };
    let name = match &workload.origin {
        Origin::ServiceEntryEndpoint { ordinal, .. } => format!("{}-{ordinal}", workload.name),
        Origin::Pod { .. } | Origin::WorkloadEntry | Origin::SliceAddress | Origin::Replica(_) => {
            workload.workload_name.as_ref().to_owned()
        }
    };
    let anonymous = workload.origin == Origin::SliceAddress;
    Some(EndpointInput {
        address,
        ports: service.targets(workload),
        health: match workload.health {
            _ if workload.labels.contains_key(DRAINING) => input::Health::Draining,
            Health::Healthy => input::Health::Healthy,
            Health::Unhealthy | Health::Terminating => input::Health::Unhealthy,
            Health::Unwatched => input::Health::Unknown,
        },
        weight: workload.weight.unwrap_or(1).max(1),
        locality: index.locality(workload).cloned().unwrap_or_default(),
        labels: workload.labels.clone(),
        tunnel: match workload.tunnel {
            Tunnel::None => input::Tunnel::None,
            Tunnel::Hbone | Tunnel::NativeHbone => input::Tunnel::Hbone,
        },
        namespace: if anonymous {
            String::new()
        } else {
            workload.namespace.as_ref().to_owned()
        },
        canonical_name: workload.canonical_name.clone(),
        canonical_revision: workload.canonical_revision.clone(),
        cluster: index.mesh().cluster_id.clone(),
        network: workload.network.as_ref().to_owned(),
        node: workload.node.as_ref().to_owned(),
        workload: name,
    })
}

/// Label: the pod takes no new requests.
const DRAINING: &str = "istio.io/draining";
