//! `HttpConnectionManager`.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use waymark_proto::envoy::envoy::config::route::v3 as route;
use waymark_proto::envoy::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use waymark_proto::envoy::envoy::extensions::request_id::uuid::v3 as uuid;

use super::DecodeError;
use super::access_log::access_logs;
use super::at::{At, IsSet, Notes, unsupported};
use super::filters::{http_filters, terminate_filters};
use super::http_options::{Http2, common, http1, http2};
use super::routes;
use super::values::{ads, flag, timer, u32_value, unpack};
use crate::program::{
    AccessLog, Codec, EscapedSlashes, Http1Options, HttpChain, HttpTimeouts, Names, PathOptions,
    RequestIdOptions, ServerHeader,
};
use crate::route::RouteTable;

/// Envoy's default limits of request headers.
const MAX_HEADERS_BYTES: u32 = 60 << 10;
const MAX_HEADERS: u32 = 100;
/// Envoy's default for a silent stream.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const SERVER_NAME: &str = "envoy";

/// Everything of a connection manager but filters and routes.
struct Manager {
    stat_prefix: Arc<str>,
    codec: Codec,
    http1: Http1Options,
    http2: Http2,
    common: super::http_options::Common,
    max_request_headers_bytes: u32,
    path: PathOptions,
    server_name: HeaderValue,
    server_header: ServerHeader,
    request_id: RequestIdOptions,
    relay_100_continue: bool,
    append_x_forwarded_port: bool,
    client_cert: i32,
    upgrades: Vec<Box<str>>,
    timeouts: HttpTimeouts,
    access_logs: Vec<AccessLog>,
    tracing: bool,
    http_filters: Vec<pb::HttpFilter>,
    routes: Option<pb::http_connection_manager::RouteSpecifier>,
}

/// A chain that routes, and the name of its route table where that comes over RDS.
pub(super) fn chain(
    names: &mut Names,
    notes: &mut Notes,
    at: At<'_>,
    name: Arc<str>,
    message: pb::HttpConnectionManager,
) -> Result<(HttpChain, Option<Arc<str>>), DecodeError> {
    use pb::http_connection_manager::{ForwardClientCertDetails as X, RouteSpecifier as R};
    let manager = manager(notes, at, message)?;
    let (table, rds) = match manager.routes {
        Some(R::RouteConfig(config)) => (
            routes::decode(names, notes, at.field("route_config"), config)?,
            None,
        ),
        Some(R::Rds(rds)) => {
            let at = at.field("rds");
            let pb::Rds {
                config_source,
                route_config_name,
            } = rds;
            ads(at.field("config_source"), config_source.as_ref())?;
            if route_config_name.is_empty() {
                return Err(at.field("route_config_name").missing());
            }
            (RouteTable::default(), Some(Arc::from(route_config_name)))
        }
        Some(R::ScopedRoutes(_)) => return Err(at.field("scoped_routes").unsupported()),
        None => return Err(at.field("route_config").missing()),
    };
    let forward_client_cert = match X::try_from(manager.client_cert) {
        Ok(X::Sanitize) => false,
        Ok(X::AlwaysForwardOnly) => true,
        // These are about the client's certificate, and the inner connection has none: nothing is set or appended.
        Ok(X::ForwardOnly | X::AppendForward | X::SanitizeSet) => false,
        Err(_) => return Err(at.field("forward_client_cert_details").unsupported()),
    };
    if let Some(other) = manager.upgrades.iter().find(|u| ***u == *"connect") {
        return Err(at
            .field("upgrade_configs")
            .error(format!("{other} is not supported here")));
    }
    let filters = http_filters(notes, at, manager.http_filters)?;
    let chain = HttpChain {
        name,
        stat_prefix: manager.stat_prefix,
        codec: manager.codec,
        http1: manager.http1,
        http2: manager.http2.of_chain(),
        max_request_headers_bytes: manager.max_request_headers_bytes,
        max_headers: manager.common.max_headers.unwrap_or(MAX_HEADERS),
        max_requests_per_connection: manager.common.max_requests_per_connection,
        underscores: manager.common.underscores,
        path: manager.path,
        server_name: manager.server_name,
        server_header: manager.server_header,
        request_id: manager.request_id,
        relay_100_continue: manager.relay_100_continue,
        append_x_forwarded_port: manager.append_x_forwarded_port,
        suppress_envoy_headers: filters.suppress_envoy_headers,
        forward_client_cert,
        upgrades: manager.upgrades,
        timeouts: manager.timeouts,
        filters: filters.filters,
        routes: Arc::new(table),
        access_logs: manager.access_logs,
        tracing: manager.tracing,
    };
    Ok((chain, rds))
}

/// What the HBONE terminator's connection manager says.
pub(super) struct Terminator {
    pub(super) http2: Http2,
    pub(super) server_name: HeaderValue,
    pub(super) idle_timeout: Option<Duration>,
    /// The cluster that CONNECTs go to.
    pub(super) cluster: String,
}

pub(super) fn terminator(
    notes: &mut Notes,
    at: At<'_>,
    message: pb::HttpConnectionManager,
) -> Result<Terminator, DecodeError> {
    use pb::http_connection_manager::RouteSpecifier as R;
    let manager = manager(notes, at, message)?;
    if manager.codec == Codec::Http1 {
        return Err(at
            .field("codec_type")
            .error("must allow HTTP/2: HBONE is HTTP/2"));
    }
    if !manager.http2.allow_connect {
        return Err(at
            .field("http2_protocol_options")
            .field("allow_connect")
            .error("must be true"));
    }
    if !manager.upgrades.iter().any(|u| **u == *"connect") {
        return Err(at.field("upgrade_configs").error("must have CONNECT"));
    }
    let Some(R::RouteConfig(config)) = manager.routes else {
        return Err(at.field("route_config").error("must be inline"));
    };
    notes.add_if(
        &manager.access_logs,
        at.field("access_log"),
        "refused CONNECTs are in the program's own log",
    );
    let cluster = connect_route(at.field("route_config"), config)?;
    terminate_filters(notes, at, manager.http_filters)?;
    Ok(Terminator {
        http2: manager.http2,
        server_name: manager.server_name,
        idle_timeout: manager.common.idle_timeout,
        cluster,
    })
}

/// Whether a connection manager's routes are about CONNECT.
pub(super) fn terminates(message: &pb::HttpConnectionManager) -> bool {
    use pb::http_connection_manager::RouteSpecifier as R;
    use route::route_match::PathSpecifier as P;
    match &message.route_specifier {
        Some(R::RouteConfig(config)) => {
            config
                .virtual_hosts
                .iter()
                .flat_map(|v| &v.routes)
                .any(|r| {
                    matches!(
                        r.r#match.as_ref().and_then(|m| m.path_specifier.as_ref()),
                        Some(P::ConnectMatcher(_))
                    )
                })
        }
        _ => false,
    }
}

/// The cluster of the one route, which takes every CONNECT.
///
/// Its timeout is disregarded: Envoy's default of 15 s, counted from the client's half-close, would cut tunnels.
fn connect_route(at: At<'_>, config: route::RouteConfiguration) -> Result<String, DecodeError> {
    use route::route::Action as A;
    use route::route_action::ClusterSpecifier as C;
    use route::route_match::PathSpecifier as P;
    let [host] = config.virtual_hosts.as_slice() else {
        return Err(at.field("virtual_hosts").error("must be one"));
    };
    let host_at = at.index("virtual_hosts", 0);
    if host.domains != ["*"] {
        return Err(host_at.field("domains").error("must be [*]"));
    }
    let [only] = host.routes.as_slice() else {
        return Err(host_at.field("routes").error("must be one"));
    };
    let at = host_at.index("routes", 0);
    let matcher = only.r#match.clone().unwrap_or_default();
    let expected = route::RouteMatch {
        path_specifier: Some(P::ConnectMatcher(route::route_match::ConnectMatcher {})),
        ..route::RouteMatch::default()
    };
    if matcher != expected {
        return Err(at
            .field("match")
            .error("must be a connect_matcher and nothing else"));
    }
    let edits = only.request_headers_to_add.is_set()
        || only.request_headers_to_remove.is_set()
        || only.response_headers_to_add.is_set()
        || only.response_headers_to_remove.is_set()
        || only.typed_per_filter_config.is_set();
    if edits {
        return Err(at.error("headers and filters of CONNECT are not supported"));
    }
    let Some(A::Route(action)) = &only.action else {
        return Err(at.field("route").missing());
    };
    let at = at.field("route");
    match &action.cluster_specifier {
        Some(C::Cluster(name)) => Ok(name.clone()),
        _ => Err(at.error("must name one cluster")),
    }
}

fn manager(
    notes: &mut Notes,
    at: At<'_>,
    message: pb::HttpConnectionManager,
) -> Result<Manager, DecodeError> {
    let pb::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration: _, // it is always safe
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout: _, // how long the kernel is given to send the rest
        access_log,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append: _, // only with use_remote_address
        via,
        generate_request_id,
        preserve_external_request_id: _, // request ids are kept as it is
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details: _, // of the client's certificate, which the inner connection has not
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state: _, // only with a PROXY protocol listener filter
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = message;
    if flag(use_remote_address, false) {
        return Err(at.field("use_remote_address").unsupported());
    }
    if flag(add_user_agent, false) {
        return Err(at.field("add_user_agent").unsupported());
    }
    unsupported!(
        at; http3_protocol_options, scheme_header_transformation, xff_num_trusted_hops,
        original_ip_detection_extensions, early_header_mutation_extensions, via, forward_client_cert_matcher,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, local_reply_config, strip_matching_host_port,
        path_normalization_options, strip_trailing_host_dot, proxy_status_config, typed_header_validation_config,
        append_local_overload, forward_proto_config, strip_port_mode, stream_flush_timeout,
    );
    if internal_address_config
        .as_ref()
        .is_some_and(|c| c.unix_sockets || !c.cidr_ranges.is_empty())
    {
        return Err(at
            .field("internal_address_config")
            .error("requests are external, whatever their address"));
    }
    notes.add_if(
        &drain_timeout_jitter,
        at.field("drain_timeout_jitter"),
        "no jitter",
    );
    let at_the_end = "requests are logged when they end";
    notes.add_if(
        &access_log_flush_interval,
        at.field("access_log_flush_interval"),
        at_the_end,
    );
    notes.add_if(
        &flush_access_log_on_new_request,
        at.field("flush_access_log_on_new_request"),
        at_the_end,
    );
    notes.add_if(
        &access_log_options,
        at.field("access_log_options"),
        at_the_end,
    );
    notes.add_if(&tracing, at.field("tracing"), "no spans are reported");
    // A malformed stream ends that stream, never more, whatever this says.
    let _ = stream_error_on_invalid_http_message;
    let common = common(
        notes,
        at.field("common_http_protocol_options"),
        common_http_protocol_options,
    )?;
    let off = |name: &'static str, value: Option<_>| timer(at.field(name), value.as_ref(), None);
    notes.add_if(
        &drain_timeout,
        at.field("drain_timeout"),
        "connections drain within the process's own time",
    );
    let timeouts = HttpTimeouts {
        idle: common.idle_timeout,
        max_connection: common.max_connection_duration,
        max_stream: common.max_stream_duration,
        stream_idle: timer(
            at.field("stream_idle_timeout"),
            stream_idle_timeout.as_ref(),
            Some(STREAM_IDLE_TIMEOUT),
        )?,
        request: off("request_timeout", request_timeout)?,
        request_headers: off("request_headers_timeout", request_headers_timeout)?,
    };
    let max_request_headers_bytes = match u32_value(max_request_headers_kb) {
        None => MAX_HEADERS_BYTES,
        Some(kb) if (1..=8192).contains(&kb) => kb << 10,
        Some(_) => {
            return Err(at
                .field("max_request_headers_kb")
                .error("is not from 1 to 8192"));
        }
    };
    let server_name = if server_name.is_empty() {
        SERVER_NAME
    } else {
        server_name.as_str()
    };
    let request_id = request_id(
        at,
        generate_request_id,
        always_set_request_id_in_response,
        request_id_extension,
    )?;
    Ok(Manager {
        stat_prefix: stat_prefix.into(),
        codec: codec(at.field("codec_type"), codec_type)?,
        http1: http1(at.field("http_protocol_options"), http_protocol_options)?,
        http2: http2(
            notes,
            at.field("http2_protocol_options"),
            http2_protocol_options,
        )?,
        common,
        max_request_headers_bytes,
        path: PathOptions {
            normalize: flag(normalize_path, false),
            merge_slashes,
            escaped_slashes: escaped_slashes(
                at.field("path_with_escaped_slashes_action"),
                path_with_escaped_slashes_action,
            )?,
        },
        server_name: HeaderValue::from_str(server_name)
            .map_err(|_| at.field("server_name").error("is not a header value"))?,
        server_header: server_header(
            at.field("server_header_transformation"),
            server_header_transformation,
        )?,
        request_id,
        relay_100_continue: proxy_100_continue,
        append_x_forwarded_port,
        client_cert: forward_client_cert_details,
        upgrades: upgrades(at, upgrade_configs)?,
        timeouts,
        access_logs: access_logs(notes, at, access_log)?,
        tracing: tracing.is_some(),
        http_filters,
        routes: route_specifier,
    })
}

fn codec(at: At<'_>, value: i32) -> Result<Codec, DecodeError> {
    use pb::http_connection_manager::CodecType as C;
    match C::try_from(value) {
        Ok(C::Auto) => Ok(Codec::Auto),
        Ok(C::Http1) => Ok(Codec::Http1),
        Ok(C::Http2) => Ok(Codec::Http2),
        Ok(C::Http3) | Err(_) => Err(at.unsupported()),
    }
}

fn escaped_slashes(at: At<'_>, value: i32) -> Result<EscapedSlashes, DecodeError> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as A;
    match A::try_from(value) {
        Ok(A::ImplementationSpecificDefault | A::KeepUnchanged) => Ok(EscapedSlashes::Keep),
        Ok(A::RejectRequest) => Ok(EscapedSlashes::Reject),
        Ok(A::UnescapeAndRedirect) => Ok(EscapedSlashes::Redirect),
        Ok(A::UnescapeAndForward) => Ok(EscapedSlashes::Forward),
        Err(_) => Err(at.unsupported()),
    }
}

fn server_header(at: At<'_>, value: i32) -> Result<ServerHeader, DecodeError> {
    use pb::http_connection_manager::ServerHeaderTransformation as T;
    match T::try_from(value) {
        Ok(T::Overwrite) => Ok(ServerHeader::Overwrite),
        Ok(T::AppendIfAbsent) => Ok(ServerHeader::AppendIfAbsent),
        Ok(T::PassThrough) => Ok(ServerHeader::PassThrough),
        Err(_) => Err(at.unsupported()),
    }
}

fn request_id(
    at: At<'_>,
    generate: Option<waymark_proto::envoy::google::protobuf::BoolValue>,
    in_response: bool,
    extension: Option<pb::RequestIdExtension>,
) -> Result<RequestIdOptions, DecodeError> {
    if let Some(any) = extension.and_then(|e| e.typed_config) {
        let at = at.field("request_id_extension");
        let at = at.field("typed_config");
        // There is no trace whose reason could be packed.
        let uuid::UuidRequestIdConfig {
            pack_trace_reason: _,
            use_request_id_for_trace_sampling: _,
        } = unpack(at, &any)?;
    }
    Ok(RequestIdOptions {
        generate: flag(generate, true),
        in_response,
    })
}

fn upgrades(
    at: At<'_>,
    configs: Vec<pb::http_connection_manager::UpgradeConfig>,
) -> Result<Vec<Box<str>>, DecodeError> {
    let mut out = Vec::new();
    for (i, config) in configs.into_iter().enumerate() {
        let at = at.index("upgrade_configs", i);
        let pb::http_connection_manager::UpgradeConfig {
            upgrade_type,
            filters,
            enabled,
        } = config;
        unsupported!(at; filters);
        if flag(enabled, true) {
            out.push(upgrade_type.to_ascii_lowercase().into());
        }
    }
    Ok(out)
}
