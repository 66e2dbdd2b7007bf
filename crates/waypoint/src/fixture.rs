//! Envoy resources as a control plane would send them, for tests.

use serde_json::{Value, json};
use waymark_proto::json::value_to_any;
use waymark_xds::discovery::Resource;

pub(crate) const REVIEWS: &str = "inbound-vip|9080|http|reviews.default.svc.cluster.local";
pub(crate) const REVIEWS_V1: &str = "inbound-vip|9080|http/v1|reviews.default.svc.cluster.local";
pub(crate) const REVIEWS_V2: &str = "inbound-vip|9080|http/v2|reviews.default.svc.cluster.local";
pub(crate) const DB: &str = "inbound-vip|3306|tcp|db.default.svc.cluster.local";

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// The bytes of a resource.
pub(crate) fn bytes(resource: &Value) -> Vec<u8> {
    let any: prost_types::Any = value_to_any(resource).expect("a well-formed resource");
    any.value
}

/// A resource as xDS carries it.
pub(crate) fn resource(value: &Value, version: &str) -> Resource {
    let name = value
        .get("name")
        .or_else(|| value.get("cluster_name"))
        .and_then(Value::as_str)
        .expect("a name");
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(value_to_any(value).expect("a well-formed resource")),
        ..Resource::default()
    }
}

pub(crate) fn ads() -> Value {
    json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" })
}

fn raw_buffer() -> Value {
    json!({
        "name": "raw_buffer",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" },
    })
}

fn internal_upstream() -> Value {
    json!({
        "name": "internal_upstream",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
            "passthrough_metadata": [{ "kind": { "host": {} }, "name": "envoy.filters.listener.original_dst" }],
            "transport_socket": raw_buffer(),
        },
    })
}

fn unlimited() -> Value {
    let max = u32::MAX;
    json!({ "thresholds": [{
        "max_connections": max, "max_pending_requests": max, "max_requests": max, "max_retries": max,
    }] })
}

fn common_tls(sans: &[&str]) -> Value {
    let sds = json!({
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "sds-grpc" } }],
        },
        "resource_api_version": "V3",
    });
    let sans: Vec<_> = sans
        .iter()
        .map(|s| json!({ "san_type": "URI", "matcher": { "prefix": s } }))
        .collect();
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": sds }],
        "combined_validation_context": {
            "default_validation_context": { "match_typed_subject_alt_names": sans },
            "validation_context_sds_secret_config": { "name": "ROOTCA", "sds_config": sds },
        },
    })
}

/// `inbound-vip|...`
pub(crate) fn cluster(name: &str) -> Value {
    let mut parts = name.split('|').skip(2);
    let (subset, host) = (
        parts.next().expect("a subset"),
        parts.next().expect("a host"),
    );
    let mut labels = host.split('.');
    let (service, namespace) = (labels.next(), labels.next());
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": { "eds_config": ads(), "service_name": name },
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": unlimited(),
        "common_lb_config": { "healthy_panic_threshold": {} },
        "alt_stat_name": format!("{name};"),
        "transport_socket": internal_upstream(),
        "metadata": { "filter_metadata": { "istio": {
            "services": [{ "host": host, "name": service, "namespace": namespace }],
            "subset": subset,
        } } },
    })
}

/// `main_internal`, `encap`
pub(crate) fn hop_cluster(name: &str, listener: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "circuit_breakers": unlimited(),
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{
                "endpoint": { "address": { "envoy_internal_address": { "server_listener_name": listener } } },
            }] }],
        },
        "transport_socket": internal_upstream(),
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": { "idle_timeout": "300s" },
            "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} },
        } },
    })
}

/// `connect_originate`
pub(crate) fn tunnel_cluster() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": "connect_originate",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "cleanup_interval": "60s",
        "circuit_breakers": unlimited(),
        "original_dst_lb_config": {
            "upstream_port_override": 15008,
            "metadata_key": { "key": "envoy.filters.listener.original_dst", "path": [{ "key": "waypoint" }] },
        },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": { "idle_timeout": "3600s" },
            "explicit_http_config": { "http2_protocol_options": { "allow_connect": true } },
        } },
        "transport_socket": { "name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"),
            "common_tls_context": common_tls(&["spiffe://cluster.local/", "spiffe://cluster.local/ns/default/sa/"]),
        } },
    })
}

/// `connect_terminate`
pub(crate) fn terminate() -> Value {
    let state = |key: &str, format: &str| {
        json!({
            "object_key": key,
            "factory_key": "envoy.hashable_string",
            "format_string": { "text_format_source": { "inline_string": format } },
            "shared_with_upstream": "ONCE",
        })
    };
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "connect_terminate",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15008 } },
        "connection_balance_config": { "exact_balance": {} },
        "filter_chains": [{
            "name": "default",
            "transport_socket": { "name": "tls", "typed_config": {
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "require_client_certificate": true,
                "common_tls_context": common_tls(&["spiffe://cluster.local/"]),
            } },
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "connect_terminate",
                "route_config": { "name": "default", "virtual_hosts": [{
                    "name": "default",
                    "domains": ["*"],
                    "routes": [{
                        "match": { "connect_matcher": {} },
                        "route": {
                            "cluster": "main_internal",
                            "timeout": "0s",
                            "upgrade_configs": [{ "upgrade_type": "CONNECT", "connect_config": {} }],
                        },
                    }],
                }] },
                "forward_client_cert_details": "APPEND_FORWARD",
                "set_current_client_cert_details": { "subject": true, "uri": true, "dns": true },
                "server_name": "istio-envoy",
                "use_remote_address": false,
                "stream_idle_timeout": "0s",
                "upgrade_configs": [{ "upgrade_type": "CONNECT" }],
                "http2_protocol_options": {
                    "allow_connect": true,
                    "max_concurrent_streams": 100,
                    "connection_keepalive": { "interval": "10s", "timeout": "20s" },
                },
                "http_filters": [
                    { "name": "connect_authority", "typed_config": {
                        "@type": format!("{FILTERS}.http.set_filter_state.v3.Config"),
                        "on_request_headers": [
                            state("envoy.filters.listener.original_dst.local_ip", "%REQ(:AUTHORITY)%"),
                            state("envoy.filters.listener.original_dst.remote_ip", "%DOWNSTREAM_REMOTE_ADDRESS%"),
                            state("io.istio.peer_principal", "%DOWNSTREAM_PEER_URI_SAN%"),
                        ],
                    } },
                    router(),
                ],
            } }],
        }],
    })
}

/// `connect_originate`
pub(crate) fn originate() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "connect_originate",
        "internal_listener": {},
        "use_original_dst": false,
        "listener_filters": [listener_filter("original_dst.v3.OriginalDst")],
        "filter_chains": [{ "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "connect_originate",
            "cluster": "connect_originate",
            "tunneling_config": { "hostname": "%DOWNSTREAM_LOCAL_ADDRESS%" },
        } }] }],
    })
}

pub(crate) fn listener_filter(kind: &str) -> Value {
    json!({ "name": kind, "typed_config": { "@type": format!("{FILTERS}.listener.{kind}") } })
}

pub(crate) fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": format!("{FILTERS}.http.router.v3.Router") },
    })
}

/// A chain's connection manager whose routes are `specifier` (`{"rds": ...}` or `{"route_config": ...}`).
pub(crate) fn http_chain(name: &str, specifier: &Value) -> Value {
    let mut manager = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "inbound_0.0.0.0_9080;",
        "server_name": "istio-envoy",
        "use_remote_address": false,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "proxy_100_continue": true,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "request_id_extension": { "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
            "use_request_id_for_trace_sampling": true,
        } },
        "http_filters": [
            { "name": "envoy.filters.http.grpc_stats", "typed_config": {
                "@type": format!("{FILTERS}.http.grpc_stats.v3.FilterConfig"), "emit_filter_state": true,
            } },
            { "name": "envoy.filters.http.fault",
              "typed_config": { "@type": format!("{FILTERS}.http.fault.v3.HTTPFault") } },
            { "name": "envoy.filters.http.cors",
              "typed_config": { "@type": format!("{FILTERS}.http.cors.v3.Cors") } },
            router(),
        ],
    });
    let fields = manager.as_object_mut().expect("an object");
    fields.extend(specifier.as_object().expect("an object").clone());
    json!({ "name": name, "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    }] })
}

pub(crate) fn tcp_chain(name: &str, cluster: &str) -> Value {
    json!({ "name": name, "filters": [{ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": name,
        "cluster": cluster,
    } }] })
}

pub(crate) fn action(chain: &str) -> Value {
    json!({ "action": { "name": chain, "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.StringValue", "value": chain,
    } } })
}

/// A choice by application protocol.
pub(crate) fn by_protocol(http: &str, tcp: &str) -> Value {
    json!({ "matcher": {
        "matcher_tree": {
            "input": input("application-protocol", "ApplicationProtocolInput"),
            "exact_match_map": { "map": { "'h2c'": action(http), "'http/1.1'": action(http) } },
        },
        "on_no_match": action(tcp),
    } })
}

/// A choice by port.
pub(crate) fn by_port(ports: &[(&str, Value)]) -> Value {
    let map: serde_json::Map<_, _> = ports
        .iter()
        .map(|(port, to)| ((*port).to_owned(), to.clone()))
        .collect();
    json!({ "matcher": { "matcher_tree": {
        "input": input("port", "DestinationPortInput"),
        "exact_match_map": { "map": map },
    } } })
}

fn input(name: &str, kind: &str) -> Value {
    let kind =
        format!("type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{kind}");
    json!({ "name": name, "typed_config": { "@type": kind } })
}

/// `main_internal`; `ranges` are prefix, length, and what matches.
pub(crate) fn main_internal(chains: &[Value], ranges: &[(&str, u32, Value)]) -> Value {
    let ranges: Vec<_> = ranges
        .iter()
        .map(|(prefix, len, to)| {
            json!({
                "ranges": [{ "address_prefix": prefix, "prefix_len": len }], "on_match": to,
            })
        })
        .collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "main_internal",
        "internal_listener": {},
        "traffic_direction": "INBOUND",
        "listener_filters": [
            listener_filter("original_dst.v3.OriginalDst"),
            listener_filter("http_inspector.v3.HttpInspector"),
        ],
        "filter_chains": chains,
        "filter_chain_matcher": { "matcher_tree": {
            "input": input("ip", "DestinationIPInput"),
            "custom_match": { "name": "ip", "typed_config": {
                "@type": "type.googleapis.com/xds.type.matcher.v3.IPMatcher", "range_matchers": ranges,
            } },
        } },
    })
}

pub(crate) fn rds(name: &str) -> Value {
    json!({ "rds": { "config_source": ads(), "route_config_name": name } })
}

/// A route configuration with one virtual host for all domains.
pub(crate) fn route_config(name: &str, routes: &Value) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": name,
        "validate_clusters": false,
        "virtual_hosts": [{ "name": "inbound|http|9080", "domains": ["*"], "routes": routes }],
    })
}

/// The routes of a canary: weights of v1 and v2.
pub(crate) fn canary(v1: u32, v2: u32) -> Value {
    json!([{
        "match": { "prefix": "/" },
        "metadata": { "filter_metadata": { "istio": {
            "config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews",
        } } },
        "decorator": { "operation": "reviews:9080/*" },
        "route": {
            "weighted_clusters": { "clusters": [
                { "name": REVIEWS_V1, "weight": v1 }, { "name": REVIEWS_V2, "weight": v2 },
            ] },
            "timeout": "0s",
            "max_stream_duration": { "max_stream_duration": "0s", "grpc_timeout_header_max": "0s" },
            "retry_policy": {
                "num_retries": 2,
                "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                "host_selection_retry_max_attempts": "5",
                "retry_host_predicate": [{
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    },
                }],
            },
        },
    }])
}

/// A load assignment of tunnelled pods.
pub(crate) fn assignment(name: &str, pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|(at, workload)| {
            json!({
                "health_status": "HEALTHY",
                "load_balancing_weight": 1,
                "endpoint": { "address": { "envoy_internal_address": {
                    "server_listener_name": "connect_originate", "endpoint_id": at,
                } } },
                "metadata": { "filter_metadata": {
                    "envoy.filters.listener.original_dst": { "local": at },
                    "istio": { "workload": workload },
                } },
            })
        })
        .collect();
    let localities = match endpoints.is_empty() {
        true => json!([]),
        false => json!([{
            "locality": { "region": "r1", "zone": "z1" },
            "load_balancing_weight": endpoints.len(),
            "lb_endpoints": endpoints,
        }]),
    };
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": localities,
    })
}

/// Clusters, listeners, route configurations and load assignments of a bookinfo-like waypoint, routes over RDS.
pub(crate) struct Bookinfo {
    pub(crate) clusters: Vec<Value>,
    pub(crate) listeners: Vec<Value>,
    pub(crate) routes: Vec<Value>,
    pub(crate) endpoints: Vec<Value>,
}

pub(crate) fn bookinfo() -> Bookinfo {
    let encap = json!({ "route_config": {
        "name": "encap",
        "virtual_hosts": [{ "name": "inbound|http|0", "domains": ["*"], "routes": [{
            "name": "default",
            "match": { "prefix": "/" },
            "decorator": { "operation": ":0/*" },
            "route": { "cluster": "encap", "timeout": "0s", "max_grpc_timeout": "0s" },
        }] }],
    } });
    let chains = [
        http_chain(REVIEWS, &rds(REVIEWS)),
        tcp_chain(DB, DB),
        tcp_chain("direct-tcp", "encap"),
        http_chain("direct-http", &encap),
    ];
    let ranges = [
        ("127.96.0.3", 32, by_port(&[("9080", action(REVIEWS))])),
        ("127.96.0.4", 32, by_port(&[("3306", action(DB))])),
        ("127.244.0.7", 32, by_protocol("direct-http", "direct-tcp")),
    ];
    Bookinfo {
        clusters: vec![
            hop_cluster("main_internal", "main_internal"),
            hop_cluster("encap", "connect_originate"),
            cluster(REVIEWS),
            cluster(REVIEWS_V1),
            cluster(REVIEWS_V2),
            cluster(DB),
            tunnel_cluster(),
        ],
        listeners: vec![terminate(), main_internal(&chains, &ranges), originate()],
        routes: vec![route_config(REVIEWS, &canary(90, 10))],
        endpoints: vec![
            assignment(
                REVIEWS,
                &[
                    (
                        "127.244.0.7:9080",
                        "reviews-v1;default;reviews;v1;Kubernetes",
                    ),
                    (
                        "127.244.0.8:9080",
                        "reviews-v2;default;reviews;v2;Kubernetes",
                    ),
                ],
            ),
            assignment(
                REVIEWS_V1,
                &[(
                    "127.244.0.7:9080",
                    "reviews-v1;default;reviews;v1;Kubernetes",
                )],
            ),
            assignment(
                REVIEWS_V2,
                &[(
                    "127.244.0.8:9080",
                    "reviews-v2;default;reviews;v2;Kubernetes",
                )],
            ),
            assignment(DB, &[("127.244.0.9:3306", "db;default;db;;Kubernetes")]),
        ],
    }
}
