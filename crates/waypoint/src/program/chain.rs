//! Filter chains: what happens to a connection once its destination is known.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::program::ClusterRef;
use crate::route::{HeaderOps, LogFormat, RouteTable, Weighted};

/// One filter chain of `main_internal`.
#[derive(Debug, Clone)]
pub enum Chain {
    /// `http_connection_manager`.
    Http(Box<HttpChain>),
    /// `tcp_proxy`.
    Tcp(TcpChain),
}

impl Chain {
    /// The filter chain's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Chain::Http(http) => &http.name,
            Chain::Tcp(tcp) => &tcp.name,
        }
    }
}

/// An HTTP connection manager, compiled.
#[derive(Debug, Clone)]
pub struct HttpChain {
    /// The filter chain's name, `inbound-vip|9080|http|reviews...`.
    pub name: Arc<str>,
    /// Prefix of its Envoy statistics, `inbound_0.0.0.0_9080;`.
    pub stat_prefix: Arc<str>,
    /// Which versions of HTTP are spoken.
    pub codec: Codec,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// Size limit of request headers in bytes (431 beyond); Envoy's default is 60 KiB.
    pub max_request_headers_bytes: u32,
    /// Limit of the number of request headers; Envoy's default is 100.
    pub max_headers: u32,
    /// Requests after which a downstream connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// What becomes of header names with `_`.
    pub underscores: Underscores,
    /// What is done to the path before anything looks at it.
    pub path: PathOptions,
    /// Value of the `server` header.
    pub server_name: HeaderValue,
    /// When it is written.
    pub server_header: ServerHeader,
    /// What is done about `x-request-id`.
    pub request_id: RequestIdOptions,
    /// Relay `100-continue` instead of answering it here.
    pub relay_100_continue: bool,
    /// Add `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Leave out headers named `x-envoy-*` that Envoy adds (router `suppress_envoy_headers`).
    pub suppress_envoy_headers: bool,
    /// Keep `x-forwarded-client-cert` as the client sent it (`ALWAYS_FORWARD_ONLY`); otherwise it is removed.
    pub forward_client_cert: bool,
    /// Upgrades that are passed on, lower case (`websocket`).
    pub upgrades: Vec<Box<str>>,
    /// Timers.
    pub timeouts: HttpTimeouts,
    /// Filters in order, ending with [`HttpFilter::Router`].
    pub filters: Vec<HttpFilter>,
    /// The routes. For a chain whose routes come over RDS the table of that name as it was received last.
    pub routes: Arc<RouteTable>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
    /// Spans are reported nowhere yet, but a tracer's presence changes what is done to `x-envoy-decorator-operation`.
    pub tracing: bool,
}

/// Which versions of HTTP a chain speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// HTTP/2 when the connection begins with its preface, else HTTP/1.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// HTTP/1 settings of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http1Options {
    /// HTTP/1.0 is served.
    pub accept_http10: bool,
}

/// HTTP/2 settings of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at once; Envoy's default is 1024.
    pub max_concurrent_streams: u32,
    /// Initial stream window; Envoy's default is 16 MiB.
    pub initial_stream_window_bytes: u32,
    /// Initial connection window; Envoy's default is 24 MiB.
    pub initial_connection_window_bytes: u32,
    /// PINGs.
    pub keep_alive: Option<KeepAlive>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window_bytes: 16 << 20,
            initial_connection_window_bytes: 24 << 20,
            keep_alive: None,
        }
    }
}

/// HTTP/2 PINGs: one each `interval`; no answer within `timeout` closes the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Time between PINGs; `None`: none are sent unless a request finds the connection idle.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What becomes of request header names that contain `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// They are headers like any other.
    #[default]
    Allow,
    /// 400.
    Reject,
    /// The header is removed.
    Drop,
}

/// What is done to the path before filters and routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathOptions {
    /// Dot segments, `\`, percent-encoded unreserved characters.
    pub normalize: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What is done about `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

/// What is done about `%2F` and `%5C` in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Nothing.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the unescaped path.
    Redirect,
    /// Unescaped.
    Forward,
}

/// When the `server` header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// Always.
    #[default]
    Overwrite,
    /// When the upstream sent none.
    AppendIfAbsent,
    /// Never.
    PassThrough,
}

/// What is done about `x-request-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestIdOptions {
    /// A missing one is made.
    pub generate: bool,
    /// It is put on the response.
    pub in_response: bool,
}

/// Timers of a chain; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpTimeouts {
    /// A connection without requests.
    pub idle: Option<Duration>,
    /// The life of a connection, whatever it does.
    pub max_connection: Option<Duration>,
    /// A stream without a byte in either direction.
    pub stream_idle: Option<Duration>,
    /// The life of a stream, whatever it does.
    pub max_stream: Option<Duration>,
    /// Until the request is complete.
    pub request: Option<Duration>,
    /// Until the request's headers are complete.
    pub request_headers: Option<Duration>,
}

/// The HTTP filters that exist, in the order of the chain.
#[derive(Debug, Clone)]
pub enum HttpFilter {
    /// Mutates headers (`istio.waypoint.xfcc_client_identity`).
    HeaderMutation {
        /// Applied to requests.
        request: HeaderOps,
        /// Applied to responses.
        response: HeaderOps,
    },
    /// Counts gRPC messages.
    GrpcStats,
    /// Applies [`crate::route::Route::fault`].
    Fault,
    /// Applies [`crate::route::Route::cors`].
    Cors,
    /// Finds out who the peers are, for telemetry.
    PeerMetadata,
    /// Istio's metrics.
    IstioStats(StatsOptions),
    /// Routes.
    Router,
}

/// What `stats.PluginConfig` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsOptions {
    /// How often a TCP connection reports; `None`: only when it closes.
    pub tcp_reporting: Option<Duration>,
}

/// A TCP proxy, compiled.
#[derive(Debug, Clone)]
pub struct TcpChain {
    /// The filter chain's name.
    pub name: Arc<str>,
    /// Prefix of its Envoy statistics.
    pub stat_prefix: Arc<str>,
    /// Where connections go.
    pub to: TcpDestination,
    /// Without a byte in either direction; `None` is off.
    pub idle_timeout: Option<Duration>,
    /// The life of a connection; `None` is off.
    pub max_duration: Option<Duration>,
    /// Attempts to connect, at least 1.
    pub max_connect_attempts: u32,
    /// Istio's metrics.
    pub stats: Option<StatsOptions>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
}

/// Where a TCP chain's connections go.
#[derive(Debug, Clone)]
pub enum TcpDestination {
    /// One cluster.
    One(ClusterRef),
    /// One of several, by weight.
    Weighted(Weighted<ClusterRef>),
}

impl TcpDestination {
    /// The cluster for one connection; `random` decides where several are weighted.
    #[must_use]
    pub fn pick(&self, random: u64) -> &ClusterRef {
        match self {
            TcpDestination::One(cluster) => cluster,
            TcpDestination::Weighted(clusters) => clusters.pick(random),
        }
    }
}

/// One access log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// What a line looks like.
    pub format: Arc<LogFormat>,
    /// Where lines go.
    pub to: LogTarget,
    /// Which requests or connections are logged.
    pub only: Option<AccessLogFilter>,
}

/// Where an access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogTarget {
    /// Standard output (`/dev/stdout`).
    Stdout,
    /// Standard error (`/dev/stderr`).
    Stderr,
    /// A file, appended to.
    File(Box<str>),
}

/// Which requests or connections an access log is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogFilter {
    /// Response code at least that.
    StatusAtLeast(StatusCode),
    /// Response code at most that.
    StatusAtMost(StatusCode),
    /// Response code equal to that.
    StatusIs(StatusCode),
    /// One of these response flags; none named: any flag at all.
    Flags(Vec<Box<str>>),
    /// The header is there.
    HeaderPresent(HeaderName),
    /// All of them.
    All(Vec<AccessLogFilter>),
    /// One of them.
    Any(Vec<AccessLogFilter>),
}
