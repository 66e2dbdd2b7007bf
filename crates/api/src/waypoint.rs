//! What is put on everything that is made for a waypoint's Gateway: names, labels and annotations.
//!
//! Shared by whoever runs waypoints: processes of this machine, and pods of a cluster. Spec: control-plane.md 8.3.

use crate::meta::Map;
use crate::names;

/// A class of waypoint Gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaypointClass {
    /// Upstream's `istio-waypoint`.
    Istio,
    /// Ours, `waymark-waypoint`: an upstream control plane in the same cluster leaves its Gateways alone.
    Waymark,
}

impl WaypointClass {
    /// Every class.
    pub const ALL: [Self; 2] = [Self::Istio, Self::Waymark];

    /// The class of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// The GatewayClass's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Istio => names::WAYPOINT_CLASS,
            Self::Waymark => names::WAYMARK_WAYPOINT_CLASS,
        }
    }

    /// The GatewayClass's `controllerName`.
    pub const fn controller_name(self) -> &'static str {
        match self {
            Self::Istio => names::WAYPOINT_CONTROLLER,
            Self::Waymark => names::WAYMARK_WAYPOINT_CONTROLLER,
        }
    }

    /// Value of the label `gateway.istio.io/managed` on what is made for a Gateway of the class.
    pub const fn managed(self) -> &'static str {
        match self {
            Self::Istio => names::MANAGED_MESH_CONTROLLER,
            Self::Waymark => names::MANAGED_WAYMARK_CONTROLLER,
        }
    }

    /// Whether the label `gateway.istio.io/managed` says that something was made for a waypoint.
    pub fn is_managed(label: Option<&str>) -> bool {
        Self::ALL
            .into_iter()
            .any(|class| label == Some(class.managed()))
    }
}

/// What a Gateway says about the metadata of what is made for it.
#[derive(Debug, Clone, Copy)]
pub struct Infrastructure<'a> {
    /// The Gateway's name.
    pub gateway: &'a str,
    /// Its class.
    pub class: WaypointClass,
    /// Its own labels, which are taken when it gives none for its infrastructure.
    pub own_labels: &'a Map,
    /// Its own annotations, which are taken when it gives none for its infrastructure.
    pub own_annotations: &'a Map,
    /// `spec.infrastructure.labels`.
    pub labels: &'a Map,
    /// `spec.infrastructure.annotations`.
    pub annotations: &'a Map,
}

impl Infrastructure<'_> {
    /// The labels that the Gateway passes on.
    pub fn passed_labels(&self) -> Map {
        let given = if self.labels.is_empty() {
            self.own_labels
        } else {
            self.labels
        };
        given
            .iter()
            .filter(|(name, _)| !name.starts_with(GATEWAY_API_PREFIX))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The annotations that the Gateway passes on.
    pub fn passed_annotations(&self) -> Map {
        let given = if self.annotations.is_empty() {
            self.own_annotations
        } else {
            self.annotations
        };
        given
            .iter()
            .filter(|(name, _)| !NEVER_PASSED_ON.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The labels of every object that is made.
    pub fn object_labels(&self) -> Map {
        let mut labels = self.passed_labels();
        labels.insert(names::GATEWAY_NAME.to_owned(), self.gateway.to_owned());
        labels.insert(
            names::GATEWAY_CLASS_NAME.to_owned(),
            self.class.name().to_owned(),
        );
        labels.insert(
            names::GATEWAY_MANAGED.to_owned(),
            self.class.managed().to_owned(),
        );
        labels
    }

    /// The labels of the waypoint's pods: it is no client of the mesh itself, and metrics know it by its deployment.
    pub fn pod_labels(&self, deployment: &str) -> Map {
        let mut labels = self.object_labels();
        labels
            .entry(names::CANONICAL_NAME.to_owned())
            .or_insert_with(|| deployment.to_owned());
        labels
            .entry(names::CANONICAL_REVISION.to_owned())
            .or_insert_with(|| "latest".to_owned());
        labels.insert(names::DATAPLANE_MODE.to_owned(), "none".to_owned());
        labels
    }
}

const GATEWAY_API_PREFIX: &str = "gateway.networking.k8s.io/";
/// What says something about the Gateway, not about what is made for it.
const NEVER_PASSED_ON: [&str; 4] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    names::GATEWAY_NAME_OVERRIDE,
    names::GATEWAY_SERVICE_ACCOUNT,
    names::GATEWAY_CONTROLLER_VERSION,
];
