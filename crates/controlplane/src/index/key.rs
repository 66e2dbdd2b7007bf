//! What the things of the mesh are called.

use std::fmt;
use std::sync::Arc;

use waymark_api::meta::NamespacedName;

/// A service of the mesh: the namespace of the object that declares it and its host name.
///
/// Displayed as `default/reviews.default.svc.cluster.local`, which is also its name in WDS.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Namespace of the declaring object.
    pub namespace: Arc<str>,
    /// Fully qualified host name.
    pub host: Arc<str>,
}

impl ServiceKey {
    /// Makes a key.
    pub fn new(namespace: impl Into<Arc<str>>, host: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            host: host.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.host)
    }
}

/// A workload's unique name in WDS, such as `Kubernetes//Pod/default/reviews-v1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(Arc<str>);

impl Uid {
    /// A pod's.
    pub fn pod(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}//Pod/{namespace}/{name}").into())
    }

    /// A WorkloadEntry's.
    pub fn workload_entry(cluster: &str, namespace: &str, name: &str) -> Self {
        Self(format!("{cluster}/networking.istio.io/WorkloadEntry/{namespace}/{name}").into())
    }

    /// An inline endpoint's of a ServiceEntry.
    pub fn service_entry_endpoint(
        cluster: &str,
        namespace: &str,
        name: &str,
        address: &str,
    ) -> Self {
        Self(
            format!("{cluster}/networking.istio.io/ServiceEntry/{namespace}/{name}/{address}")
                .into(),
        )
    }

    /// An address of an EndpointSlice behind which there is no pod.
    pub fn slice_address(cluster: &str, namespace: &str, slice: &str, address: &str) -> Self {
        Self(
            format!("{cluster}/discovery.k8s.io/EndpointSlice/{namespace}/{slice}/{address}")
                .into(),
        )
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A waypoint: namespace and name of its Gateway.
pub type WaypointKey = NamespacedName;
