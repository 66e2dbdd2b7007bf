//! Kinds of the Gateway API: waypoints and the routes that are attached to services.

use std::time::Duration;

use crate::ambient::TrafficType;
use crate::host::Host;
use crate::matcher::{Fraction, HeaderName, HeaderOperations, RegexText, Scheme};
use crate::meta::{Map, ObjectMeta};
use crate::names;
use crate::selector::LabelSelector;
use crate::waypoint::{Infrastructure, WaypointClass};

/// The version that a Gateway API object was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayApiVersion {
    /// `gateway.networking.k8s.io/v1`.
    V1,
    /// `gateway.networking.k8s.io/v1beta1`: on a waypoint, the mark of the 2023 form.
    V1Beta1,
}

impl GatewayApiVersion {
    /// The `apiVersion`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "gateway.networking.k8s.io/v1",
            Self::V1Beta1 => "gateway.networking.k8s.io/v1beta1",
        }
    }
}

/// A GatewayClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayClass {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// `spec.controllerName`.
    pub controller_name: String,
}

/// A Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// The version that it was written in.
    pub version: GatewayApiVersion,
    /// What it asks for.
    pub spec: GatewaySpec,
    /// Annotation `istio.io/for-service-account`.
    pub for_service_account: Option<String>,
    /// Annotation `gateway.istio.io/service-account`.
    pub own_service_account: Option<String>,
    /// Annotation `gateway.istio.io/name-override`.
    pub name_override: Option<String>,
    /// Annotation `waymark.dev/replicas`, 1 when not given.
    pub replicas: u32,
    /// Annotation `waymark.dev/waypoint-binary`; the control plane's choice when not given.
    pub binary: Option<WaypointBinary>,
    /// `status.addresses`, where its controller says that it is reached; types other than these two are left out.
    pub status_addresses: Vec<GatewayAddress>,
}

/// The program that serves as a waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaypointBinary {
    /// Ours.
    Waymark,
    /// A stock Envoy with an agent of ours beside it.
    Envoy,
}

impl Gateway {
    /// Whether it is a waypoint that Waymark deploys, by its class.
    pub fn is_waypoint(&self) -> bool {
        self.class().is_some()
    }

    /// Which class of waypoints it is of.
    pub fn class(&self) -> Option<WaypointClass> {
        WaypointClass::of_name(&self.spec.class_name)
    }

    /// What it says about the metadata of what is made for it; for waypoints.
    pub fn infrastructure(&self) -> Option<Infrastructure<'_>> {
        Some(Infrastructure {
            gateway: &self.meta.name,
            class: self.class()?,
            own_labels: &self.meta.labels,
            own_annotations: &self.meta.annotations,
            labels: &self.spec.infrastructure_labels,
            annotations: &self.spec.infrastructure_annotations,
        })
    }

    /// Whether it is of today's form or of that of 2023.
    pub fn form(&self) -> WaypointForm<'_> {
        match &self.for_service_account {
            Some(account) => WaypointForm::ServiceAccount2023(account),
            None if self.version == GatewayApiVersion::V1Beta1 => WaypointForm::Namespace2023,
            None => WaypointForm::Today,
        }
    }

    /// The name of its deployment and service: `gateway.istio.io/name-override`, else its own, in the 2023 form with the class.
    pub fn deployment_name(&self) -> String {
        match (&self.name_override, self.form()) {
            (Some(name), _) => name.clone(),
            (None, WaypointForm::Today) => self.meta.name.clone(),
            (None, WaypointForm::ServiceAccount2023(_) | WaypointForm::Namespace2023) => {
                format!("{}-{}", self.meta.name, self.spec.class_name)
            }
        }
    }

    /// The service account that it runs as.
    pub fn service_account_name(&self) -> String {
        self.own_service_account
            .clone()
            .unwrap_or_else(|| self.deployment_name())
    }

    /// The host name of its service.
    pub fn host(&self) -> String {
        crate::host::service_host(&self.deployment_name(), &self.meta.namespace)
    }

    /// Which traffic it takes: its own label, else `class` (the label of its class), else the default of its form.
    pub fn traffic_type(&self, class: Option<TrafficType>) -> TrafficType {
        self.meta
            .mesh
            .waypoint_for
            .or(class)
            .unwrap_or(match self.form() {
                WaypointForm::ServiceAccount2023(_) | WaypointForm::Namespace2023 => {
                    TrafficType::All
                }
                WaypointForm::Today => TrafficType::Service,
            })
    }

    /// Which namespaces may bind to it: by its listener `HBONE` on 15008, else its own only.
    pub fn allowed_namespaces(&self) -> &AllowedNamespaces {
        let hbone =
            |l: &&Listener| l.protocol == ListenerProtocol::Hbone && l.port == names::HBONE_PORT;
        self.spec
            .listeners
            .iter()
            .find(hbone)
            .map_or(&AllowedNamespaces::Same, |l| &l.allowed_namespaces)
    }
}

/// The form of a waypoint Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaypointForm<'a> {
    /// Bound by labels.
    Today,
    /// Of 2023, for the pods of this service account.
    ServiceAccount2023(&'a str),
    /// Of 2023, for its namespace.
    Namespace2023,
}

/// The specification of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewaySpec {
    /// `gatewayClassName`.
    pub class_name: String,
    /// `listeners`: one, for HBONE on 15008.
    pub listeners: Vec<Listener>,
    /// `addresses`. Refused until they are honoured, see [`crate::support`].
    pub addresses: Vec<GatewayAddress>,
    /// `infrastructure.labels`: put on what is made for it.
    pub infrastructure_labels: Map,
    /// `infrastructure.annotations`.
    pub infrastructure_annotations: Map,
}

/// A listener of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its host name, if it has one. Refused until it is honoured, see [`crate::support`].
    pub hostname: Option<Host>,
    /// Its port.
    pub port: u16,
    /// Its protocol.
    pub protocol: ListenerProtocol,
    /// `allowedRoutes.namespaces`.
    pub allowed_namespaces: AllowedNamespaces,
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// `HBONE`, the one of waypoints.
    Hbone,
}

/// Who may attach to a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedNamespaces {
    /// Its own namespace: the default.
    Same,
    /// Every namespace.
    All,
    /// Namespaces with these labels.
    Selector(LabelSelector),
}

impl AllowedNamespaces {
    /// Whether objects of `namespace` (with these labels) may attach to a Gateway in `own`.
    pub fn allows(&self, own: &str, namespace: &str, labels: &Map) -> bool {
        match self {
            Self::Same => own == namespace,
            Self::All => true,
            Self::Selector(selector) => selector.selects(labels),
        }
    }
}

/// An address that a Gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayAddress {
    /// `IPAddress`.
    Ip(std::net::IpAddr),
    /// `Hostname`: another's service is used, nothing is deployed.
    Hostname(String),
}

/// An HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// What it is attached to.
    pub parent_refs: Vec<ParentRef>,
    /// `hostnames`; by specification without meaning on routes of services.
    pub hostnames: Vec<Host>,
    /// `rules`; one that matches everything when none is given.
    pub rules: Vec<HttpRouteRule>,
}

/// What a route is attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The kind of the parent.
    pub kind: ParentKind,
    /// Its namespace; that of the route when not given.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Only this port.
    pub port: Option<u16>,
}

/// The kind of a route's parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParentKind {
    /// Kubernetes Service: the route is the mesh's.
    Service,
    /// Istio ServiceEntry: the route is the mesh's.
    ServiceEntry,
    /// Gateway: the route is for ingress. Refused until it is enforced, see [`crate::support`].
    Gateway,
}

/// A rule of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteRule {
    /// Its name.
    pub name: Option<String>,
    /// Any of these; empty means `PathPrefix /`.
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to requests and responses.
    pub filters: HttpRouteFilters,
    /// Where requests go; none (or weights that sum to 0) without redirect answers 500.
    pub backend_refs: Vec<HttpBackendRef>,
    /// `timeouts.request`; zero means none.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero means none.
    pub backend_request_timeout: Option<Duration>,
    /// `retry`.
    pub retry: Option<HttpRouteRetry>,
}

/// What an HTTPRoute matches: all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteMatch {
    /// The path, `PathPrefix /` when not given.
    pub path: PathMatch,
    /// Headers, names unique.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters, names unique.
    pub query_params: Vec<(String, ValueMatch)>,
    /// The method, in capitals.
    pub method: Option<String>,
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Equal.
    Exact(String),
    /// Begins with these segments.
    Prefix(String),
    /// The whole path matches.
    Regex(RegexText),
}

/// How a header or query parameter is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Equal.
    Exact(String),
    /// The whole value matches.
    Regex(RegexText),
}

/// The filters of a rule or of a backend; each kind at most once, mirrors aside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpRouteFilters {
    /// `RequestHeaderModifier`.
    pub request_headers: HeaderOperations,
    /// `ResponseHeaderModifier`.
    pub response_headers: HeaderOperations,
    /// `RequestRedirect`; excludes backends and rewrite.
    pub redirect: Option<HttpRouteRedirect>,
    /// `URLRewrite`.
    pub rewrite: Option<UrlRewrite>,
    /// `RequestMirror`.
    pub mirrors: Vec<HttpRouteMirror>,
}

/// A `RequestRedirect` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteRedirect {
    /// `scheme`.
    pub scheme: Option<Scheme>,
    /// `hostname`.
    pub hostname: Option<Host>,
    /// `path`.
    pub path: Option<PathModifier>,
    /// `port`.
    pub port: Option<u16>,
    /// `statusCode`: 301, 302, 303, 307 or 308; 302 when not given.
    pub status: u16,
}

/// A `URLRewrite` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRewrite {
    /// `hostname`.
    pub hostname: Option<Host>,
    /// `path`.
    pub path: Option<PathModifier>,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathModifier {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`; only on rules whose matches are all `PathPrefix`.
    Prefix(String),
}

/// A `RequestMirror` filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteMirror {
    /// Where the copies go.
    pub backend: BackendRef,
    /// How many are copied.
    pub fraction: Fraction,
}

/// Where a route sends requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRef {
    /// The kind of the backend.
    pub kind: BackendKind,
    /// Its namespace; that of the route when not given.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// The kind of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendKind {
    /// Kubernetes Service.
    Service,
    /// Istio's `Hostname` (group `networking.istio.io`): a host by name.
    Hostname,
}

/// A weighted backend of an HTTPRoute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpBackendRef {
    /// The backend.
    pub backend: BackendRef,
    /// Its weight, 1 when not given; shares are weight / sum.
    pub weight: u32,
    /// Filters of this backend alone.
    pub filters: HttpRouteFilters,
}

/// `retry` of an HTTPRoute rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRouteRetry {
    /// `codes`: 400 to 599.
    pub codes: Vec<u16>,
    /// `attempts`, 2 when not given.
    pub attempts: Option<u32>,
    /// `backoff`.
    pub backoff: Option<Duration>,
}
