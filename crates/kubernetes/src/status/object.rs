//! The kinds whose statuses are written, and how.

use kube::api::ApiResource;
use kube::core::GroupVersionKind;

use super::condition::Style;

/// A kind whose status is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatusKind {
    /// `gateway.networking.k8s.io` `GatewayClass`.
    GatewayClass,
    /// `gateway.networking.k8s.io` `Gateway`.
    Gateway,
    /// `gateway.networking.k8s.io` `HTTPRoute`.
    HttpRoute,
    /// `v1` `Service`.
    Service,
    /// `networking.istio.io` `ServiceEntry`.
    ServiceEntry,
}

impl StatusKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::GatewayClass,
        Self::Gateway,
        Self::HttpRoute,
        Self::Service,
        Self::ServiceEntry,
    ];

    /// The kind as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::Service => "Service",
            Self::ServiceEntry => "ServiceEntry",
        }
    }

    pub(super) fn resource(self) -> ApiResource {
        let (group, plural) = match self {
            Self::GatewayClass => (GATEWAY_API, "gatewayclasses"),
            Self::Gateway => (GATEWAY_API, "gateways"),
            Self::HttpRoute => (GATEWAY_API, "httproutes"),
            Self::Service => ("", "services"),
            Self::ServiceEntry => ("networking.istio.io", "serviceentries"),
        };
        ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk(group, "v1", self.as_str()),
            plural,
        )
    }

    /// Who the API server notes as the writer of the status. Upstream's where its controller writes the same.
    pub(super) const fn manager(self) -> &'static str {
        match self {
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => "waymark.dev/gateway-status",
            Self::Service | Self::ServiceEntry => "istio-ambient-service",
        }
    }

    pub(super) const fn style(self) -> Style {
        match self {
            Self::ServiceEntry => Style::Istio,
            Self::GatewayClass | Self::Gateway | Self::HttpRoute | Self::Service => {
                Style::Kubernetes
            }
        }
    }

    /// Whether a part of the status can be applied: where the lists in it have keys. Else it is replaced whole, with what
    /// others have written in it.
    pub(super) const fn is_applied(self) -> bool {
        match self {
            Self::GatewayClass | Self::Gateway | Self::Service => true,
            Self::HttpRoute | Self::ServiceEntry => false,
        }
    }

    /// The types of conditions that are ours on the kind: those that are not wanted are taken away.
    pub(super) const fn condition_types(self) -> &'static [&'static str] {
        match self {
            Self::Service => &["istio.io/WaypointBound"],
            Self::ServiceEntry => &["istio.io/WaypointBound", "istio.io/WaypointMissing"],
            Self::GatewayClass | Self::Gateway | Self::HttpRoute => &[],
        }
    }
}

/// Names an object whose status is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusKey {
    /// Its kind.
    pub kind: StatusKind,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl StatusKey {
    /// Names an object.
    pub fn new(kind: StatusKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for StatusKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
