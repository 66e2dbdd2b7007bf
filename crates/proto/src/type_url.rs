//! Type URLs.
//!
//! They name messages in an `Any` and resource types in xDS. A name says where it is used only when the type's own name does not.

macro_rules! type_urls {
    ($($(#[$doc:meta])* $name:ident = $type:literal;)*) => {
        $($(#[$doc])* #[doc = concat!("`", $type, "`")] pub const $name: &str = concat!("type.googleapis.com/", $type);)*
    };
}

/// What every type URL here begins with.
pub const PREFIX: &str = "type.googleapis.com/";

/// What the types of debug requests begin with, in place of [`PREFIX`].
pub const DEBUG_PREFIX: &str = "istio.io/debug";
/// State of synchronisation of all connections.
pub const DEBUG_SYNCZ: &str = "istio.io/debug/syncz";
/// The configuration that one client was sent.
pub const DEBUG_CONFIG_DUMP: &str = "istio.io/debug/config_dump";

// Discovery (ADS).
type_urls! {
    /// CDS.
    ///
    CLUSTER = "envoy.config.cluster.v3.Cluster";
    /// EDS.
    ///
    ENDPOINT = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// LDS.
    ///
    LISTENER = "envoy.config.listener.v3.Listener";
    /// RDS.
    ///
    ROUTE = "envoy.config.route.v3.RouteConfiguration";
    /// SDS.
    ///
    SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// ECDS.
    ///
    EXTENSION_CONFIG = "envoy.config.core.v3.TypedExtensionConfig";
    /// RTDS.
    ///
    RUNTIME = "envoy.service.runtime.v3.Runtime";
    /// NDS, only for agents.
    ///
    NAME_TABLE = "istio.networking.nds.v1.NameTable";
    /// PCDS, only for agents.
    ///
    PROXY_CONFIG = "istio.mesh.v1alpha1.ProxyConfig";
    /// The bootstrap.
    ///
    BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap";
    /// Client to server.
    ///
    HEALTH_INFORMATION = "istio.v1.HealthInformation";
    /// WDS: workloads and services.
    ///
    ADDRESS = "istio.workload.Address";
    /// WDS, workloads only.
    ///
    WORKLOAD = "istio.workload.Workload";
    /// WADS.
    ///
    AUTHORIZATION = "istio.security.Authorization";
}

// Listener, transport.
type_urls! {
    DOWNSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    UPSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    INTERNAL_UPSTREAM_TRANSPORT = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
    RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    PROXY_PROTOCOL_UPSTREAM_TRANSPORT = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
    ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
    HTTP_INSPECTOR = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    INTERNAL_LISTENER_BOOTSTRAP = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
    CARES_DNS_RESOLVER = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
}

// Matching.
type_urls! {
    MATCHER = "xds.type.matcher.v3.Matcher";
    IP_MATCHER = "xds.type.matcher.v3.IPMatcher";
    STRING_VALUE = "google.protobuf.StringValue";
    DESTINATION_IP_INPUT = "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput";
    DESTINATION_PORT_INPUT = "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput";
    SOURCE_IP_INPUT = "envoy.extensions.matching.common_inputs.network.v3.SourceIPInput";
    SERVER_NAME_INPUT = "envoy.extensions.matching.common_inputs.network.v3.ServerNameInput";
    TRANSPORT_PROTOCOL_INPUT = "envoy.extensions.matching.common_inputs.network.v3.TransportProtocolInput";
    APPLICATION_PROTOCOL_INPUT = "envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput";
    FILTER_STATE_INPUT = "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput";
    STRING_MATCHER = "envoy.type.matcher.v3.StringMatcher";
    RBAC_POLICIES = "envoy.config.rbac.v3.RBAC";
    URI_TEMPLATE_MATCH = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
}

// Network filters.
type_urls! {
    HTTP_CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    NETWORK_SET_FILTER_STATE = "envoy.extensions.filters.network.set_filter_state.v3.Config";
    NETWORK_RBAC = "envoy.extensions.filters.network.rbac.v3.RBAC";
    NETWORK_EXT_AUTHZ = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
    NETWORK_WASM = "envoy.extensions.filters.network.wasm.v3.Wasm";
    MONGO_PROXY = "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy";
    MYSQL_PROXY = "envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy";
    REDIS_PROXY = "envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";
    SNI_DYNAMIC_FORWARD_PROXY = "envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig";
}

// HTTP filters.
type_urls! {
    ROUTER = "envoy.extensions.filters.http.router.v3.Router";
    HTTP_SET_FILTER_STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config";
    GRPC_STATS = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
    GRPC_WEB = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
    FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault";
    CORS = "envoy.extensions.filters.http.cors.v3.Cors";
    /// Per route.
    ///
    CORS_POLICY = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
    HTTP_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC";
    JWT_AUTHN = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
    HTTP_EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    EXT_PROC = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
    HEADER_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
    DYNAMIC_FORWARD_PROXY = "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig";
    DYNAMIC_FORWARD_PROXY_CLUSTER = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
    HTTP_WASM = "envoy.extensions.filters.http.wasm.v3.Wasm";
    LUA = "envoy.extensions.filters.http.lua.v3.Lua";
    STATEFUL_SESSION = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
    LOCAL_RATE_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
}

// Other extensions.
type_urls! {
    PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    PREVIOUS_PRIORITIES = "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig";
    UUID_REQUEST_ID = "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig";
    FILE_ACCESS_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
    STDOUT_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
    STDERR_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";
    HTTP_GRPC_ACCESS_LOG = "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig";
    TCP_GRPC_ACCESS_LOG = "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig";
    OPEN_TELEMETRY_ACCESS_LOG = "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig";
    CEL_EXPRESSION_FILTER = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";
    REQ_WITHOUT_QUERY = "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery";
    FORMATTER_METADATA = "envoy.extensions.formatter.metadata.v3.Metadata";
    FORMATTER_CEL = "envoy.extensions.formatter.cel.v3.Cel";
    ZIPKIN = "envoy.config.trace.v3.ZipkinConfig";
    OPEN_TELEMETRY_TRACER = "envoy.config.trace.v3.OpenTelemetryConfig";
    DATADOG = "envoy.config.trace.v3.DatadogConfig";
    SKYWALKING = "envoy.config.trace.v3.SkyWalkingConfig";
    CERTIFICATE_VALIDATION_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext";
}

// Known only to istio-proxy.
type_urls! {
    UDPA_TYPED_STRUCT = "udpa.type.v1.TypedStruct";
    XDS_TYPED_STRUCT = "xds.type.v3.TypedStruct";
    /// Comes in a TypedStruct.
    ///
    PEER_METADATA = "io.istio.http.peer_metadata.Config";
    /// Comes in a TypedStruct.
    ///
    METADATA_EXCHANGE = "envoy.tcp.metadataexchange.config.MetadataExchange";
    /// Comes in a TypedStruct.
    ///
    WORKLOAD_BOOTSTRAP_EXTENSION = "istio.workload.BootstrapExtension";
    /// Comes in a TypedStruct.
    ///
    NETWORK_PEER_METADATA = "envoy.extensions.network_filters.peer_metadata.Config";
    /// Comes in a TypedStruct.
    ///
    NETWORK_PEER_METADATA_UPSTREAM = "envoy.extensions.network_filters.peer_metadata.UpstreamConfig";
    ISTIO_STATS = "stats.PluginConfig";
}

// Ours, in extensions of workloads and services.
type_urls! {
    /// Extension `waymark.dev/workload`.
    ///
    WORKLOAD_EXTENSION = "waymark.workload.v1.WorkloadExtension";
    /// Extension `waymark.dev/service`.
    ///
    SERVICE_EXTENSION = "waymark.workload.v1.ServiceExtension";
}

// Admin.
type_urls! {
    BOOTSTRAP_CONFIG_DUMP = "envoy.admin.v3.BootstrapConfigDump";
    CLUSTERS_CONFIG_DUMP = "envoy.admin.v3.ClustersConfigDump";
    LISTENERS_CONFIG_DUMP = "envoy.admin.v3.ListenersConfigDump";
    ROUTES_CONFIG_DUMP = "envoy.admin.v3.RoutesConfigDump";
    SCOPED_ROUTES_CONFIG_DUMP = "envoy.admin.v3.ScopedRoutesConfigDump";
    ENDPOINTS_CONFIG_DUMP = "envoy.admin.v3.EndpointsConfigDump";
    SECRETS_CONFIG_DUMP = "envoy.admin.v3.SecretsConfigDump";
    ECDS_CONFIG_DUMP = "envoy.admin.v3.EcdsConfigDump";
}

/// Names of our additions to WDS messages.
pub mod extension_name {
    /// Of a `WorkloadExtension` in a Workload.
    pub const WORKLOAD: &str = "waymark.dev/workload";
    /// Of a `ServiceExtension` in a Service.
    pub const SERVICE: &str = "waymark.dev/service";
}
