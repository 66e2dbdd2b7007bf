//! What a namespace says about the objects in it.

use std::collections::BTreeMap;

use waymark_api::ambient::{Enforcement, TrafficDistribution, UseWaypoint};

/// A namespace's labels and annotations, as far as they are inherited.
///
/// A namespace without a manifest is one without labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels, `kubernetes.io/metadata.name` included.
    pub labels: BTreeMap<String, String>,
    /// Label `istio.io/use-waypoint`.
    pub use_waypoint: Option<UseWaypoint>,
    /// Label `istio.io/waypoint-enforcement`.
    pub enforcement: Option<Enforcement>,
    /// Annotation `networking.istio.io/traffic-distribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Label `istio.io/ingress-use-waypoint`.
    pub ingress_use_waypoint: Option<bool>,
}

impl Namespace {
    /// A namespace that has no manifest.
    pub fn unlabelled(name: &str) -> Self {
        let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
        Self {
            labels,
            ..Self::default()
        }
    }
}
