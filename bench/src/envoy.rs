//! A static configuration for stock Envoy in the shape that istiod gives a waypoint: three listeners, RBAC, fault, CORS, gRPC
//! statistics, 90/10 weighted clusters, the default retries.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

const OD: &str = "envoy.filters.listener.original_dst";
const SERVICE: &str = "backend.bench.svc.cluster.local";

/// Where the parts of the bench are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) waypoint: IpAddr,
    pub(crate) vip: SocketAddr,
    /// Pod addresses of version v1 and v2, with the application's port.
    pub(crate) pods: [SocketAddr; 2],
    pub(crate) admin_port: u16,
}

/// Envoy's bootstrap; `certs` has cert.pem, key.pem and root.pem.
pub(crate) fn bootstrap(places: &Places, certs: &Path) -> Value {
    json!({
        "admin": {"address": socket(SocketAddr::new(places.waypoint, places.admin_port))},
        "bootstrap_extensions": [typed("envoy.bootstrap.internal_listener",
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener", json!({"buffer_size_kb": 64}))],
        "static_resources": {
            "listeners": [connect_terminate(places, certs), main_internal(places), connect_originate()],
            "clusters": clusters(places, certs),
        }
    })
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": config})
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn tls_context(certs: &Path) -> Value {
    let file = |name: &str| json!({"filename": certs.join(name).display().to_string()});
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file("cert.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("root.pem"),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}]
        }
    })
}

fn state(key: &str, format: &str, hashable: bool) -> Value {
    let mut entry = json!({
        "object_key": key,
        "format_string": {"text_format_source": {"inline_string": format}},
        "shared_with_upstream": "ONCE"
    });
    if hashable {
        entry["factory_key"] = json!("envoy.hashable_string");
    }
    entry
}

fn connect_terminate(places: &Places, certs: &Path) -> Value {
    let authority = typed(
        "connect_authority",
        "envoy.extensions.filters.http.set_filter_state.v3.Config",
        json!({"on_request_headers": [
            state(&format!("{OD}.local_ip"), "%REQ(:AUTHORITY)%", false),
            state(&format!("{OD}.remote_ip"), "%DOWNSTREAM_REMOTE_ADDRESS%", false),
            state("io.istio.connect_authority", "%REQ(:AUTHORITY)%", true),
            state("io.istio.peer_principal", "%DOWNSTREAM_PEER_URI_SAN%", true),
            state("io.istio.local_principal", "%DOWNSTREAM_LOCAL_URI_SAN%", true)]}),
    );
    let manager = json!({
        "stat_prefix": "connect_terminate",
        "route_config": {"name": "default", "virtual_hosts": [{"name": "default", "domains": ["*"], "routes": [{
            "match": {"connect_matcher": {}},
            "route": {"cluster": "main_internal", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
        "forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": true, "uri": true, "dns": true},
        "server_name": "istio-envoy",
        "use_remote_address": false,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "http2_protocol_options": {"allow_connect": true, "max_concurrent_streams": 1000,
            "connection_keepalive": {"interval": "10s", "timeout": "20s"}},
        "http_filters": [authority, router()]
    });
    json!({
        "name": "connect_terminate",
        "address": socket(SocketAddr::new(places.waypoint, 15008)),
        "filter_chains": [{
            "transport_socket": typed("tls", "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                json!({"require_client_certificate": true, "common_tls_context": tls_context(certs)})),
            "filters": [manager_filter(manager)]
        }]
    })
}

fn manager_filter(config: Value) -> Value {
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        config,
    )
}

fn router() -> Value {
    typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    )
}

fn main_internal(places: &Places) -> Value {
    let chain = format!("inbound-vip|{}|http|{SERVICE}", places.vip.port());
    let subset = |v: &str| format!("inbound-vip|{}|http/{v}|{SERVICE}", places.vip.port());
    let action = json!({"action": {"name": chain, "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": chain}}});
    let rbac = typed(
        "envoy.filters.http.rbac",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"policies": {"ns[bench]-policy[viewer]-rule[0]": {
            "permissions": [{"and_rules": {"rules": [{"or_rules": {"rules": [
                {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
                {"header": {"name": ":method", "string_match": {"exact": "POST"}}}]}}]}}],
            "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [{"filter_state": {"key": "io.istio.peer_principal",
                "string_match": {"exact": "spiffe://cluster.local/ns/bench/sa/client"}}}]}}]}}]}}}}),
    );
    let manager = json!({
        "stat_prefix": format!("inbound_0.0.0.0_{};", places.vip.port()),
        "route_config": {"name": chain, "virtual_hosts": [{"name": format!("inbound|http|{}", places.vip.port()), "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "decorator": {"operation": "backend:9080/*"},
            "route": {
                "weighted_clusters": {"clusters": [{"name": subset("v1"), "weight": 90}, {"name": subset("v2"), "weight": 10}]},
                "timeout": "0s",
                "retry_policy": {"num_retries": 2,
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                    "host_selection_retry_max_attempts": "5",
                    "retry_host_predicate": [typed("envoy.retry_host_predicates.previous_hosts",
                        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", json!({}))]}}}]}]},
        "server_name": "istio-envoy",
        "use_remote_address": false,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "proxy_100_continue": true,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "request_id_extension": {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", "use_request_id_for_trace_sampling": true}},
        "http_filters": [
            rbac,
            typed("envoy.filters.http.grpc_stats", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
                json!({"emit_filter_state": true, "stats_for_all_methods": false})),
            typed("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault", json!({})),
            typed("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors", json!({})),
            router()]
    });
    json!({
        "name": "main_internal",
        "internal_listener": {},
        "listener_filters": [typed("envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst", json!({}))],
        "filter_chains": [{"name": chain, "filters": [manager_filter(manager)]}],
        "filter_chain_matcher": {"matcher_tree": {
            "input": typed("ip", "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput", json!({})),
            "custom_match": typed("ip", "xds.type.matcher.v3.IPMatcher", json!({"range_matchers": [{
                "ranges": [{"address_prefix": places.vip.ip().to_string(), "prefix_len": 32}],
                "on_match": {"matcher": {"matcher_tree": {
                    "input": typed("port", "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput", json!({})),
                    "exact_match_map": {"map": {(places.vip.port().to_string()): action}}}}}}]}))}}
    })
}

fn connect_originate() -> Value {
    json!({
        "name": "connect_originate",
        "internal_listener": {},
        "listener_filters": [typed("envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst", json!({}))],
        "filter_chains": [{"filters": [typed("envoy.filters.network.tcp_proxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            json!({"stat_prefix": "connect_originate", "cluster": "connect_originate",
                "tunneling_config": {"hostname": "%DOWNSTREAM_LOCAL_ADDRESS%"}}))]}]
    })
}

fn internal_upstream(passthrough: bool) -> Value {
    let mut config = json!({"transport_socket": typed("raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({}))});
    if passthrough {
        config["passthrough_metadata"] = json!([{"kind": {"host": {}}, "name": OD}]);
    }
    typed(
        "internal_upstream",
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        config,
    )
}

fn http_options(config: Value) -> Value {
    let mut config = config;
    config["@type"] =
        json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": config})
}

fn unlimited() -> Value {
    let max = u32::MAX;
    json!({"thresholds": [{"max_connections": max, "max_pending_requests": max, "max_requests": max, "max_retries": max}]})
}

fn clusters(places: &Places, certs: &Path) -> Value {
    let service = |version: &str, pod: SocketAddr| {
        let name = format!("inbound-vip|{}|http/{version}|{SERVICE}", places.vip.port());
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
            "common_lb_config": {"healthy_panic_threshold": {}},
            "circuit_breakers": unlimited(),
            "transport_socket": internal_upstream(true),
            "typed_extension_protocol_options": http_options(json!({"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}})),
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
                "endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": pod.to_string()}}},
                "metadata": {"filter_metadata": {(OD): {"local": pod.to_string()}}}}]}]}
        })
    };
    json!([
        {"name": "main_internal", "type": "STATIC", "circuit_breakers": unlimited(), "transport_socket": internal_upstream(false),
         "load_assignment": {"cluster_name": "main_internal", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"envoy_internal_address": {"server_listener_name": "main_internal"}}}}]}]}},
        service("v1", places.pods[0]),
        service("v2", places.pods[1]),
        {"name": "connect_originate", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s", "cleanup_interval": "60s",
         "circuit_breakers": unlimited(),
         "original_dst_lb_config": {"upstream_port_override": 15008},
         "typed_extension_protocol_options": http_options(json!({"common_http_protocol_options": {"idle_timeout": "3600s"},
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}}})),
         "transport_socket": typed("tls", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", json!({"common_tls_context": tls_context(certs)}))}
    ])
}
