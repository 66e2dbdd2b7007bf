//! What every object has: its metadata, its kind and its key.

use std::collections::BTreeMap;
use std::fmt;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ambient::MeshLabels;

/// Labels or annotations, sorted by name.
pub type Map = BTreeMap<String, String>;

/// The metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectMeta {
    /// `metadata.name`, unique within kind and namespace.
    pub name: String,
    /// `metadata.namespace`; `default` when a namespaced object gives none, empty for kinds without namespace.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: Map,
    /// `metadata.annotations`.
    pub annotations: Map,
    /// The labels and annotations that steer the mesh, read and checked.
    pub mesh: MeshLabels,
    /// `metadata.creationTimestamp`: what is older wins, nearly everywhere.
    pub creation_timestamp: Option<Timestamp>,
    /// `metadata.deletionTimestamp`: the object is on its way out.
    pub deletion_timestamp: Option<Timestamp>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`, opaque.
    pub resource_version: Option<String>,
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.ownerReferences`.
    pub owner_references: Vec<OwnerReference>,
}

impl ObjectMeta {
    /// Makes metadata with nothing but a name and a namespace.
    pub fn named(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            ..Self::default()
        }
    }

    /// A label's value.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Namespace and name.
    pub fn namespaced_name(&self) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }

    /// What istiod orders by: creation time in whole seconds (an object without one is the oldest), then name, then namespace.
    pub fn age_key(&self) -> (i64, &str, &str) {
        (
            self.creation_timestamp
                .map_or(i64::MIN, Timestamp::unix_seconds),
            &self.name,
            &self.namespace,
        )
    }
}

/// A reference to the object that owns another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerReference {
    /// Group and version of the owner.
    pub api_version: String,
    /// Kind of the owner; any kind, also one that Waymark does not read.
    pub kind: String,
    /// Name of the owner, in the namespace of the owned.
    pub name: String,
    /// UID of the owner.
    pub uid: Option<String>,
    /// Whether the owner is the managing controller.
    pub controller: bool,
}

/// A moment, as Kubernetes writes it (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Reads an RFC 3339 time. `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(Self)
    }

    /// Makes a time from seconds since 1970. `None` when out of range.
    pub fn from_unix_seconds(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(Self)
    }

    /// Whole seconds since 1970.
    pub fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

/// The kinds that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Kubernetes `Namespace`.
    Namespace,
    /// Kubernetes `Node`.
    Node,
    /// Kubernetes `ServiceAccount`.
    ServiceAccount,
    /// Kubernetes `Service`.
    Service,
    /// Kubernetes `Pod`.
    Pod,
    /// Kubernetes `EndpointSlice`.
    EndpointSlice,
    /// Gateway API `GatewayClass`.
    GatewayClass,
    /// Gateway API `Gateway`.
    Gateway,
    /// Gateway API `HTTPRoute`.
    HttpRoute,
    /// Istio `WorkloadEntry`.
    WorkloadEntry,
    /// Istio `ServiceEntry`.
    ServiceEntry,
    /// Istio `VirtualService`.
    VirtualService,
    /// Istio `DestinationRule`.
    DestinationRule,
}

impl Kind {
    /// Every kind, in the order in which they build on each other.
    pub const ALL: [Self; 13] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Service,
        Self::Pod,
        Self::EndpointSlice,
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::WorkloadEntry,
        Self::ServiceEntry,
        Self::VirtualService,
        Self::DestinationRule,
    ];

    /// The kind as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::ServiceEntry => "ServiceEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
        }
    }

    /// The API group, empty for the Kubernetes core.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::ServiceAccount | Self::Service | Self::Pod => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => "gateway.networking.k8s.io",
            Self::WorkloadEntry
            | Self::ServiceEntry
            | Self::VirtualService
            | Self::DestinationRule => "networking.istio.io",
        }
    }

    /// The versions that are read, the preferred one first.
    pub const fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace
            | Self::Node
            | Self::ServiceAccount
            | Self::Service
            | Self::Pod
            | Self::EndpointSlice => &["v1"],
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => &["v1", "v1beta1"],
            Self::WorkloadEntry
            | Self::ServiceEntry
            | Self::VirtualService
            | Self::DestinationRule => &["v1", "v1beta1", "v1alpha3"],
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::GatewayClass)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one object of the mesh. Displayed as `VirtualService default/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// Makes the key of an object from its kind and metadata.
    pub fn of(kind: Kind, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: kind.is_namespaced().then(|| meta.namespace.clone()),
            name: meta.name.clone(),
        }
    }

    /// Makes the key of a namespaced object.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A namespace and a name in it, where the kind is clear. Displayed as `default/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl NamespacedName {
    /// Makes one.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
