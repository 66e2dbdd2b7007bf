//! VirtualService: how requests to a host are routed.

use std::time::Duration;

use crate::host::Host;
use crate::istio::ExportTo;
use crate::matcher::{Fraction, HeaderName, HeaderOperations, RegexText, Scheme, StringMatch};
use crate::meta::{Map, ObjectMeta};
use crate::names::MESH_GATEWAY;

/// An Istio VirtualService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// `hosts`, at least one.
    pub hosts: Vec<Host>,
    /// `gateways`; `["mesh"]` when not given.
    pub gateways: Vec<String>,
    /// `http`: the first rule that matches is taken.
    pub http: Vec<HttpRule>,
    /// `exportTo`.
    pub export_to: ExportTo,
}

impl VirtualService {
    /// Whether it is meant for the mesh, not only for gateways.
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.iter().any(|g| g == MESH_GATEWAY)
    }

    /// Its hosts with short names made full.
    pub fn full_hosts(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(|h| h.resolve(&self.meta.namespace))
    }
}

/// One rule of `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRule {
    /// `name`.
    pub name: Option<String>,
    /// `match`: any of these; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What is done.
    pub action: HttpAction,
    /// `rewrite`; only with a route.
    pub rewrite: Option<Rewrite>,
    /// `timeout`; `None` and zero mean none.
    pub timeout: Option<Duration>,
    /// `retries`; `None` means the mesh's default policy.
    pub retries: Option<Retries>,
    /// `headers`.
    pub headers: Headers,
    /// `fault`. Refused until it is enforced, see [`crate::support`].
    pub fault: Option<Fault>,
    /// `corsPolicy`. Refused until it is enforced, see [`crate::support`].
    pub cors: Option<CorsPolicy>,
    /// `mirror`, `mirrors`. Refused until they are enforced, see [`crate::support`].
    pub mirrors: Vec<Mirror>,
}

/// What a rule does with a request; exactly one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAction {
    /// `route`: one of these by weight; at least one, weights not all 0 (a single destination counts fully).
    Route(Vec<HttpDestination>),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    DirectResponse(DirectResponse),
}

/// What has to match; all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpMatch {
    /// `name`.
    pub name: Option<String>,
    /// `uri`: the path without query.
    pub uri: Option<StringMatch>,
    /// `ignoreUriCase`, for exact and prefix.
    pub ignore_uri_case: bool,
    /// `scheme`.
    pub scheme: Option<StringMatch>,
    /// `method`.
    pub method: Option<StringMatch>,
    /// `authority`.
    pub authority: Option<StringMatch>,
    /// `headers`, sorted by name.
    pub headers: Vec<(HeaderName, StringMatch)>,
    /// `withoutHeaders`, sorted by name.
    pub without_headers: Vec<(HeaderName, StringMatch)>,
    /// `queryParams`, sorted by name.
    pub query_params: Vec<(String, StringMatch)>,
    /// `port`: only this port of the service.
    pub port: Option<u16>,
    /// `sourceLabels`; a waypoint drops matches that have some, since it does not know its clients' labels.
    pub source_labels: Map,
    /// `sourceNamespace`.
    pub source_namespace: Option<String>,
    /// `gateways`; empty means those of the VirtualService.
    pub gateways: Vec<String>,
}

impl HttpMatch {
    /// Whether it holds for the mesh, not only for gateways.
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|g| g == MESH_GATEWAY)
    }
}

/// A weighted destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpDestination {
    /// Where to.
    pub destination: Destination,
    /// `weight`, 0 to 100 or more; shares are weight / sum.
    pub weight: u32,
    /// `headers`, of this destination alone.
    pub headers: Headers,
}

/// A service, a subset of it, a port of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// `host`, never a wildcard; short names are of the VirtualService's namespace.
    pub host: Host,
    /// `subset`, of a DestinationRule.
    pub subset: Option<String>,
    /// `port.number`.
    pub port: Option<u16>,
}

/// Header changes on the way there and back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers {
    /// `request`.
    pub request: HeaderOperations,
    /// `response`.
    pub response: HeaderOperations,
}

/// `rewrite`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// What becomes of the path.
    pub path: Option<RewritePath>,
    /// `authority`.
    pub authority: Option<String>,
}

/// How a path is rewritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritePath {
    /// `uri`: what matched (the prefix, or all of it) is replaced.
    Uri(String),
    /// `uriRegexRewrite`.
    Regex {
        /// What is replaced, wherever it matches.
        pattern: RegexText,
        /// By what, with groups as `\1`.
        substitution: String,
    },
}

/// `redirect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `uri`: the new path.
    pub uri: Option<String>,
    /// `authority`: the new host.
    pub authority: Option<String>,
    /// `port` or `derivePort`.
    pub port: RedirectPort,
    /// `scheme`.
    pub scheme: Option<Scheme>,
    /// `redirectCode`: 301 (when not given), 302, 303, 307 or 308.
    pub code: u16,
}

/// The port of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// Neither is given.
    Unset,
    /// `port`.
    Number(u16),
    /// `FROM_PROTOCOL_DEFAULT`.
    FromProtocolDefault,
    /// `FROM_REQUEST_PORT`.
    FromRequestPort,
}

/// `directResponse`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`: 200 to 599.
    pub status: u16,
    /// `body`, as text or from base64; at most 1 MiB.
    pub body: Option<Vec<u8>>,
}

/// `retries`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// `attempts`; 0, also when not given, means no retries.
    pub attempts: u32,
    /// `perTryTimeout`.
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`: conditions, without the codes; empty means the default ones.
    pub conditions: Vec<RetryCondition>,
    /// `retryOn`: status codes.
    pub codes: Vec<u16>,
    /// `retryOn` exactly as written.
    pub retry_on: Option<String>,
    /// `retryRemoteLocalities`.
    pub retry_remote_localities: bool,
    /// `retryIgnorePreviousHosts`, true when not given.
    pub ignore_previous_hosts: bool,
    /// `backoff`.
    pub backoff: Option<Duration>,
}

/// A condition of `retryOn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetryCondition {
    /// `5xx`.
    FiveXx,
    /// `gateway-error`.
    GatewayError,
    /// `reset`.
    Reset,
    /// `reset-before-request`.
    ResetBeforeRequest,
    /// `connect-failure`.
    ConnectFailure,
    /// `envoy-ratelimited`.
    EnvoyRatelimited,
    /// `retriable-4xx`.
    Retriable4xx,
    /// `refused-stream`.
    RefusedStream,
    /// `retriable-status-codes`.
    RetriableStatusCodes,
    /// `retriable-headers`.
    RetriableHeaders,
    /// `http3-post-connect-failure`.
    Http3PostConnectFailure,
    /// `cancelled` (gRPC).
    Cancelled,
    /// `deadline-exceeded` (gRPC).
    DeadlineExceeded,
    /// `internal` (gRPC).
    Internal,
    /// `resource-exhausted` (gRPC).
    ResourceExhausted,
    /// `unavailable` (gRPC).
    Unavailable,
}

impl RetryCondition {
    /// Every value, as Envoy spells them.
    pub const ALLOWED: &'static [(&'static str, Self)] = &[
        ("5xx", Self::FiveXx),
        ("gateway-error", Self::GatewayError),
        ("reset", Self::Reset),
        ("reset-before-request", Self::ResetBeforeRequest),
        ("connect-failure", Self::ConnectFailure),
        ("envoy-ratelimited", Self::EnvoyRatelimited),
        ("retriable-4xx", Self::Retriable4xx),
        ("refused-stream", Self::RefusedStream),
        ("retriable-status-codes", Self::RetriableStatusCodes),
        ("retriable-headers", Self::RetriableHeaders),
        ("http3-post-connect-failure", Self::Http3PostConnectFailure),
        ("cancelled", Self::Cancelled),
        ("deadline-exceeded", Self::DeadlineExceeded),
        ("internal", Self::Internal),
        ("resource-exhausted", Self::ResourceExhausted),
        ("unavailable", Self::Unavailable),
    ];

    /// The condition as Envoy spells it.
    pub fn as_str(self) -> &'static str {
        Self::ALLOWED
            .iter()
            .find(|(_, c)| *c == self)
            .map_or("", |(name, _)| name)
    }
}

/// `fault`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<(Duration, Fraction)>,
    /// `abort`.
    pub abort: Option<(Abort, Fraction)>,
}

/// How a request is aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// `httpStatus`.
    Http(u16),
    /// `grpcStatus`, by number.
    Grpc(u8),
}

/// `corsPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsPolicy {
    /// `allowOrigins`.
    pub allow_origins: Vec<StringMatch>,
    /// `allowMethods`.
    pub allow_methods: Vec<String>,
    /// `allowHeaders`.
    pub allow_headers: Vec<String>,
    /// `exposeHeaders`.
    pub expose_headers: Vec<String>,
    /// `maxAge`.
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    pub allow_credentials: Option<bool>,
    /// `unmatchedPreflights`: whether preflights of other origins go to the service.
    pub forward_unmatched_preflights: bool,
}

/// One of `mirrors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go.
    pub destination: Destination,
    /// How many are copied.
    pub fraction: Fraction,
}
