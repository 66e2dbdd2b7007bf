//! Waypoints: Gateways that traffic can be sent through.

use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::ambient::{Enforcement, TrafficType};
use waymark_api::gateway::{AllowedNamespaces, WaypointBinary};

use super::key::WaypointKey;
use crate::ipam::Created;

/// One waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waypoint {
    /// Its key.
    pub key: WaypointKey,
    /// The Gateway's age.
    pub created: Created,
    /// The Gateway's class.
    pub class: String,
    /// How it finds what it serves.
    pub scope: Scope,
    /// Which traffic it takes.
    pub traffic: TrafficType,
    /// Who may bind to it from where.
    pub allowed: AllowedNamespaces,
    /// Label `istio.io/waypoint-enforcement`.
    pub enforcement: Option<Enforcement>,
    /// Label `istio.io/rev`.
    pub revision: Option<String>,
    /// Who runs it.
    pub instance: Instance,
}

/// How a waypoint finds what it serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Today's form: objects and namespaces name it.
    Labelled,
    /// The form of 2023 for the whole namespace.
    Namespace,
    /// The form of 2023 for one service account.
    ServiceAccount(Arc<str>),
}

/// Who runs a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instance {
    /// This control plane.
    Deployed(Deployment),
    /// Somebody else, at the address that the Gateway's status gives.
    External(WaypointAddress),
}

/// A waypoint that this control plane runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Name of the deployment and of its Service.
    pub name: Arc<str>,
    /// The account it runs as.
    pub service_account: Arc<str>,
    /// Address of its Service, where that is not an object of its own.
    pub vip: Option<IpAddr>,
    /// The program that its Gateway asks for.
    pub binary: Option<WaypointBinary>,
    /// Its replicas, where those are not pods.
    pub replicas: Vec<Replica>,
}

/// One process of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its name, as a pod.
    pub name: Arc<str>,
    /// Its address.
    pub address: IpAddr,
}

/// How WDS refers to a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaypointAddress {
    /// By host name, in the waypoint's own namespace.
    Hostname(Arc<str>),
    /// By address.
    Ip(IpAddr),
}

impl Waypoint {
    /// The deployment, where there is one.
    pub fn deployment(&self) -> Option<&Deployment> {
        match &self.instance {
            Instance::Deployed(deployment) => Some(deployment),
            Instance::External(_) => None,
        }
    }
}
