//! Services: Kubernetes Services, hosts of ServiceEntries, and the Services in front of deployed waypoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use waymark_api::ambient::{Enforcement, TrafficDistribution, UseWaypoint};
use waymark_api::k8s::TargetPort;
use waymark_api::protocol::Protocol;

use super::key::{ServiceKey, WaypointKey};
use super::workload::{Origin, Workload};
use crate::ipam::Created;

/// One service, reduced to what the mesh needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its key.
    pub key: ServiceKey,
    /// Name of the declaring object.
    pub name: Arc<str>,
    /// What declares it.
    pub registry: Registry,
    /// Its age.
    pub created: Created,
    /// Its addresses; empty when it has none of its own (headless).
    pub vips: Vec<IpNet>,
    /// Its ports, in the order of the declaration.
    pub ports: Vec<ServicePort>,
    /// Labels that its workloads must have; empty selects none.
    pub selector: BTreeMap<String, String>,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Further names that its endpoints may present.
    pub subject_alt_names: Vec<String>,
    /// Endpoints that are not ready count as well.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`.
    pub node_local: bool,
    /// The object's own preference for near endpoints.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Address families, as the declaration lists them.
    pub ip_families: IpFamilies,
    /// Label `istio.io/use-waypoint`.
    pub use_waypoint: Option<UseWaypoint>,
    /// Label `istio.io/waypoint-enforcement`.
    pub enforcement: Option<Enforcement>,
    /// Label `istio.io/ingress-use-waypoint`.
    pub ingress_use_waypoint: Option<bool>,
    /// Made by a gateway controller, ours or another: never bound to a waypoint.
    pub managed: bool,
}

/// What declares a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A waypoint Gateway that is deployed here.
    Waypoint(WaypointKey),
    /// A ServiceEntry with `location: MESH_INTERNAL`.
    MeshInternal,
    /// A ServiceEntry with `location: MESH_EXTERNAL`.
    MeshExternal,
}

impl Registry {
    /// Whether it is one host of a ServiceEntry.
    pub fn is_service_entry(&self) -> bool {
        match self {
            Self::MeshInternal | Self::MeshExternal => true,
            Self::Kubernetes | Self::Waypoint(_) => false,
        }
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The number that clients use.
    pub number: u16,
    /// Its name; empty when it has none.
    pub name: String,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The port of the workload.
    pub target: TargetPort,
}

/// How the endpoints of a service are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// They are known.
    Static,
    /// They are the addresses of a DNS name.
    Dns,
    /// One address of a DNS name at a time.
    DnsRoundRobin,
    /// The address that the client used.
    Passthrough,
    /// The host that the request names.
    DynamicDns,
}

/// Address families of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// Not said.
    Automatic,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both.
    Dual,
}

impl Service {
    /// Whether the selector picks a workload, which must be of the same namespace.
    pub fn selects(&self, workload: &Workload) -> bool {
        !self.selector.is_empty()
            && workload.is_selectable()
            && *workload.namespace == *self.key.namespace
            && self
                .selector
                .iter()
                .all(|(name, value)| workload.labels.get(name) == Some(value))
    }

    /// The port of `workload` behind each service port. A port whose name the workload does not declare is left out.
    pub fn targets(&self, workload: &Workload) -> BTreeMap<u16, u16> {
        let target = |port: &ServicePort| {
            let own = workload.named_ports.get(&port.name).copied();
            match (&workload.origin, &port.target) {
                // A slice lists the ports itself, by the names of the service's ports.
                (Origin::SliceAddress, _) => own,
                // So may a WorkloadEntry and an inline endpoint; and a pod's own port of that name counts for ServiceEntries.
                (Origin::WorkloadEntry | Origin::ServiceEntryEndpoint { .. }, _)
                    if own.is_some() =>
                {
                    own
                }
                (Origin::Pod { .. }, _) if self.registry.is_service_entry() && own.is_some() => own,
                (_, TargetPort::Number(number)) => Some(*number),
                (_, TargetPort::Name(name)) => workload.named_ports.get(name).copied(),
            }
        };
        let carried = self
            .ports
            .iter()
            .filter(|port| port.protocol != Protocol::Udp);
        carried
            .filter_map(|port| Some((port.number, target(port)?)))
            .collect()
    }
}
