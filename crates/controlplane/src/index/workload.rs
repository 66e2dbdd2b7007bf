//! Workloads: pods, WorkloadEntries, endpoints, waypoint replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::ambient::{Enforcement, Locality, UseWaypoint};

use super::key::{ServiceKey, Uid, WaypointKey};

/// One workload, reduced to what the mesh needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its key.
    pub uid: Uid,
    /// What it was made from.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses, the primary one first.
    pub addresses: Vec<IpAddr>,
    /// Its DNS name, where there is no address.
    pub hostname: Option<String>,
    /// Its labels: what selectors and subsets look at.
    pub labels: BTreeMap<String, String>,
    /// Its service account; empty when it has no identity.
    pub service_account: Arc<str>,
    /// The node it runs on; empty when unknown.
    pub node: Arc<str>,
    /// Its network, where it is another than the mesh's own.
    pub network: Arc<str>,
    /// Its own locality, where the node's does not decide.
    pub locality: Option<Locality>,
    /// Whether it may be sent traffic.
    pub health: Health,
    /// How it is reached.
    pub tunnel: Tunnel,
    /// Whether its address is also that of others.
    pub host_network: bool,
    /// Name of the controller that made it, or its own.
    pub workload_name: Arc<str>,
    /// Name that telemetry knows it by.
    pub canonical_name: String,
    /// Revision that telemetry knows it by.
    pub canonical_revision: String,
    /// Share of traffic, where it was given.
    pub weight: Option<u32>,
    /// TCP ports by name: a pod's for named target ports, an entry's and a slice's by the service port's name.
    pub named_ports: BTreeMap<String, u16>,
    /// Every TCP port that it declares, sorted.
    pub declared_ports: Vec<u16>,
    /// Ports that probes are declared for, sorted.
    pub probe_ports: Vec<u16>,
    /// Where its application listens, where that is another address than its own.
    pub application_address: Option<IpAddr>,
    /// Label `istio.io/use-waypoint`.
    pub use_waypoint: Option<UseWaypoint>,
    /// Label `istio.io/waypoint-enforcement`.
    pub enforcement: Option<Enforcement>,
    /// Services it belongs to whatever their selectors say.
    pub explicit_services: BTreeSet<ServiceKey>,
}

/// What a workload was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Pod.
    Pod {
        /// The waypoint that it is a replica of, by label.
        gateway: Option<WaypointKey>,
    },
    /// A WorkloadEntry.
    WorkloadEntry,
    /// An inline endpoint of a ServiceEntry; an implicit one stands for the host itself and never has a waypoint.
    ServiceEntryEndpoint {
        /// Whether the entry lists no endpoints.
        implicit: bool,
        /// Its place in the list.
        ordinal: usize,
    },
    /// An EndpointSlice's address without a pod.
    SliceAddress,
    /// A replica of a waypoint that this control plane deploys.
    Replica(WaypointKey),
}

impl Workload {
    /// The waypoint that the workload is itself part of.
    pub fn gateway(&self) -> Option<&WaypointKey> {
        match &self.origin {
            Origin::Pod { gateway } => gateway.as_ref(),
            Origin::Replica(gateway) => Some(gateway),
            Origin::WorkloadEntry | Origin::ServiceEntryEndpoint { .. } | Origin::SliceAddress => {
                None
            }
        }
    }

    /// Whether selectors of services may pick it.
    pub fn is_selectable(&self) -> bool {
        match self.origin {
            Origin::Pod { .. } | Origin::WorkloadEntry | Origin::Replica(_) => true,
            Origin::ServiceEntryEndpoint { .. } | Origin::SliceAddress => false,
        }
    }

    /// Whether it may have a waypoint in front of it.
    pub fn may_bind(&self) -> bool {
        match self.origin {
            Origin::Pod { .. } | Origin::WorkloadEntry => self.gateway().is_none(),
            Origin::ServiceEntryEndpoint { implicit, .. } => !implicit,
            Origin::SliceAddress | Origin::Replica(_) => false,
        }
    }
}

/// Whether a workload may be sent traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Ready.
    Healthy,
    /// Not ready.
    Unhealthy,
    /// On its way out.
    Terminating,
    /// Nobody watches over it: taken to be ready.
    Unwatched,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// In plain text.
    None,
    /// By HBONE that the node proxy terminates.
    Hbone,
    /// By HBONE that it terminates itself.
    NativeHbone,
}
