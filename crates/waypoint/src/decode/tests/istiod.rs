//! What istiod sends, built after its contract (waypoint-xds.md 5 to 9) and not after a recording: every listener, filter,
//! cluster, endpoint and route of an ordinary install is accepted and means what it says; what is refused names its field.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::{edited, why_refused};
use crate::decode::{Decoder, Hop, Listener};
use crate::fixture::{self, DB, REVIEWS, REVIEWS_V1, bytes};
use crate::program::{Chain, Discovery, EndpointHealth, EndpointKind, LbPolicy, Names, Target};
use crate::route::{Action, Clusters, RouteTable};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const HCM: &str = "/filter_chains/0/filters/0/typed_config";

fn accepted(what: &str, resource: &Value) {
    if let Some(why) = why_refused(resource) {
        panic!("{what}: {why}");
    }
}

fn listener(resource: &Value) -> Listener {
    let mut names = Names::default();
    let decoded = Decoder::new(&mut names).listener(&bytes(resource));
    decoded.unwrap_or_else(|e| panic!("{e}")).value.kind
}

fn cluster(resource: &Value) -> crate::decode::DecodedCluster {
    let mut names = Names::default();
    let decoded = Decoder::new(&mut names).cluster(&bytes(resource));
    decoded.unwrap_or_else(|e| panic!("{e}")).value
}

fn routes(list: &Value) -> std::sync::Arc<RouteTable> {
    let mut names = Names::default();
    let config = fixture::route_config(REVIEWS, list);
    let decoded = Decoder::new(&mut names).route_configuration(&bytes(&config));
    decoded.unwrap_or_else(|e| panic!("{e}")).value
}

/// An extension of istio-proxy's own, as a `TypedStruct` carries it.
fn own(name: &str, kind: &str, value: Value) -> Value {
    json!({ "name": name, "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": format!("type.googleapis.com/{kind}"),
        "value": value,
    } })
}

fn peer_metadata(name: &str) -> Value {
    let value = json!({ "downstream_discovery": [{ "workload_discovery": {} }], "shared_with_upstream": true });
    own(name, "io.istio.http.peer_metadata.Config", value)
}

fn metadata_exchange() -> Value {
    let value = json!({ "protocol": "istio-peer-exchange", "enable_discovery": true });
    own(
        "istio.metadata_exchange",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        value,
    )
}

fn stats(more: &Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/stats.PluginConfig",
        "disable_host_header_fallback": true,
        "reporter": "SERVER_GATEWAY",
    });
    let fields = config.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    json!({ "name": "istio.stats", "typed_config": config })
}

/// Five keys of filter state, with that factory.
fn connect_authority(factory: Option<&str>) -> Value {
    let keys = [
        (
            "envoy.filters.listener.original_dst.local_ip",
            "%REQ(:AUTHORITY)%",
            None,
        ),
        ("io.istio.connect_authority", "%REQ(:AUTHORITY)%", factory),
        (
            "envoy.filters.listener.original_dst.remote_ip",
            "%DOWNSTREAM_REMOTE_ADDRESS%",
            None,
        ),
        (
            "io.istio.peer_principal",
            "%DOWNSTREAM_PEER_URI_SAN%",
            factory,
        ),
        (
            "io.istio.local_principal",
            "%DOWNSTREAM_LOCAL_URI_SAN%",
            factory,
        ),
    ];
    let values: Vec<_> = keys
        .iter()
        .map(|(key, format, factory)| {
            let mut value = json!({
                "object_key": key,
                "format_string": { "text_format_source": { "inline_string": format } },
                "shared_with_upstream": "ONCE",
            });
            if let Some(factory) = factory {
                value["factory_key"] = json!(factory);
            }
            value
        })
        .collect();
    json!({ "name": "connect_authority", "typed_config": {
        "@type": format!("{FILTERS}.http.set_filter_state.v3.Config"), "on_request_headers": values,
    } })
}

/// Network filter of `direct-*` chains.
fn carried_on() -> Value {
    json!({ "name": "connect_authority", "typed_config": {
        "@type": format!("{FILTERS}.network.set_filter_state.v3.Config"),
        "on_new_connection": [{
            "object_key": "envoy.filters.listener.original_dst.local_ip",
            "format_string": { "text_format_source": {
                "inline_string": "%FILTER_STATE(envoy.filters.listener.original_dst.local_ip:PLAIN)%",
            } },
            "shared_with_upstream": "ONCE",
        }],
    } })
}

fn default_routes(name: &str, vhost: &str, cluster: &str) -> Value {
    json!({ "route_config": {
        "name": name,
        "max_direct_response_body_size_bytes": 1_048_576,
        "validate_clusters": false,
        "virtual_hosts": [{ "name": vhost, "domains": ["*"], "routes": [{
            "name": "default",
            "match": { "prefix": "/" },
            "decorator": { "operation": ":0/*" },
            "route": { "cluster": cluster, "timeout": "0s", "max_grpc_timeout": "0s", "retry_policy": retries() },
        }] }],
    } })
}

fn retries() -> Value {
    json!({
        "num_retries": 2,
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "host_selection_retry_max_attempts": "5",
        "retry_host_predicate": [{ "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        } }],
    })
}

/// `direct-tcp` and `direct-http`, which are always there.
fn direct_chains() -> [Value; 2] {
    let mut tcp = fixture::tcp_chain("direct-tcp", "encap");
    let mut http = fixture::http_chain(
        "direct-http",
        &default_routes("encap", "inbound|http|0", "encap"),
    );
    let filters = |chain: &mut Value, more: &[Value]| {
        let list = chain["filters"].as_array_mut().expect("filters");
        for filter in more.iter().rev() {
            list.insert(0, filter.clone());
        }
    };
    filters(
        &mut tcp,
        &[carried_on(), metadata_exchange(), stats(&json!({}))],
    );
    filters(&mut http, &[carried_on()]);
    [tcp, http]
}

fn target(router: &crate::decode::Router, to: &str) -> Option<String> {
    let name = |id| {
        let chain = router.chains.iter().find(|c| c.id == id).expect("a chain");
        chain.chain.name().to_string()
    };
    let to: SocketAddr = to.parse().expect("an address");
    Some(match router.destinations.find(to)? {
        Target::Chain(id) => name(id),
        Target::Sniff {
            h2c,
            http11,
            http10,
            other,
        } => {
            let each = [h2c, http11, http10, other].map(|id| id.map(name).unwrap_or_default());
            each.join(" ")
        }
    })
}

fn router(resource: &Value) -> crate::decode::Router {
    match listener(resource) {
        Listener::Router(router) => router,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_waypoint_that_owns_nothing_is_five_listeners_and_five_clusters() {
    let empty = fixture::main_internal(&direct_chains(), &[]);
    let decoded = router(&empty);
    assert_eq!(decoded.chains.len(), 2);
    assert_eq!(target(&decoded, "10.96.0.1:80"), None);
    assert!(matches!(
        listener(&fixture::terminate()),
        Listener::Terminate(_)
    ));
    assert!(matches!(
        listener(&fixture::originate()),
        Listener::Originate(_)
    ));
    for [listener_resource, cluster_resource] in double_tunnel() {
        assert!(matches!(
            listener(&listener_resource),
            Listener::DoubleTunnel
        ));
        accepted("a cluster of double tunnels", &cluster_resource);
    }
    for name in ["main_internal", "encap"] {
        // Without passthrough_metadata, unlike the clusters of services.
        let hop = edited(
            &fixture::hop_cluster(name, "l"),
            "/transport_socket/typed_config/passthrough_metadata",
            Value::Null,
        );
        assert_eq!(cluster(&hop).hop, Hop::ToListener("l".into()));
    }
    assert!(matches!(
        cluster(&fixture::tunnel_cluster()).hop,
        Hop::Tunnel(_)
    ));
}

/// `inner_connect_originate` and `outer_connect_originate`: listener and cluster of each.
fn double_tunnel() -> [[Value; 2]; 2] {
    let state = "%FILTER_STATE(istio.double_hbone.hbone_target_address:PLAIN)%";
    let proxy = |name: &str, header: Value| {
        json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": format!("{FILTERS}.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": name,
            "cluster": name,
            "tunneling_config": { "hostname": state, "headers_to_add": [header] },
        } })
    };
    let propagate = json!({ "name": "propagate_endpoint_metadata", "typed_config": {
        "@type": format!("{FILTERS}.network.set_filter_state.v3.Config"),
        "on_new_connection": [
            {
                "object_key": "envoy.filters.listener.original_dst.local_ip",
                "format_string": { "text_format_source": {
                    "inline_string": "%DYNAMIC_METADATA(envoy.filters.listener.original_dst:local)%",
                } },
                "shared_with_upstream": "TRANSITIVE",
            },
            {
                "object_key": "istio.double_hbone.hbone_target_address",
                "factory_key": "istio.hashable_string",
                "format_string": { "text_format_source": {
                    "inline_string": "%DYNAMIC_METADATA(istio:double_hbone:hbone_target_address)%",
                } },
                "shared_with_upstream": "TRANSITIVE",
            },
        ],
    } });
    let append = "OVERWRITE_IF_EXISTS_OR_ADD";
    let network = json!({ "header": { "key": "x-forwarded-network" }, "append_action": append, "keep_empty_value": true });
    let source = json!({ "header": { "key": "x-istio-source", "value": "waypoint" }, "append_action": append });
    let internal = |name: &str, listener_filters: Value, filters: Value| {
        json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": name,
            "internal_listener": {},
            "use_original_dst": false,
            "listener_filters": listener_filters,
            "filter_chains": [{ "filters": filters }],
        })
    };
    let (inner, outer) = ("inner_connect_originate", "outer_connect_originate");
    let tunnels = fixture::tunnel_cluster();
    let options =
        "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let once = format!("{options}/common_http_protocol_options/max_requests_per_connection");
    let outer_cluster = edited(&tunnels, &once, json!(1));
    let outer_cluster = edited(&outer_cluster, "/name", json!(outer));
    let outer_cluster = edited(
        &outer_cluster,
        "/original_dst_lb_config/metadata_key",
        Value::Null,
    );
    let mut inner_cluster = fixture::hop_cluster(inner, outer);
    inner_cluster["typed_extension_protocol_options"] =
        outer_cluster["typed_extension_protocol_options"].clone();
    inner_cluster["transport_socket"] = json!({ "name": "internal_upstream_with_tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "transport_socket": tunnels["transport_socket"],
    } });
    [
        [
            internal(inner, json!([]), json!([propagate, proxy(inner, network)])),
            inner_cluster,
        ],
        [
            internal(
                outer,
                json!([fixture::listener_filter("original_dst.v3.OriginalDst")]),
                json!([proxy(outer, source)]),
            ),
            outer_cluster,
        ],
    ]
}

#[test]
fn the_entrance_is_accepted_in_all_its_forms() {
    let filters = |list: Value| edited(&fixture::terminate(), &format!("{HCM}/http_filters"), list);
    for factory in [
        Some("istio.hashable_string"),
        Some("envoy.hashable_string"),
        Some("envoy.string"),
        None,
    ] {
        let list = json!([
            peer_metadata("waypoint_downstream_peer_metadata"),
            connect_authority(factory),
            fixture::router(),
        ]);
        accepted("a factory", &filters(list));
    }
    let mut proxy_headers = fixture::router();
    proxy_headers["typed_config"]["suppress_envoy_headers"] = json!(true);
    proxy_headers["typed_config"]["start_child_span"] = json!(false);
    accepted(
        "proxyHeaders",
        &filters(json!([connect_authority(None), proxy_headers])),
    );
    let log = |filter: Value| {
        json!([{ "name": "envoy.access_loggers.file", "filter": filter, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "/dev/stdout",
            "log_format": { "text_format_source": { "inline_string": "%RESPONSE_FLAGS%\n" } },
        } }])
    };
    let no_route = log(json!({ "response_flag_filter": { "flags": ["NR"] } }));
    let refused = log(json!({ "status_code_filter": { "comparison": {
        "op": "GE", "value": { "default_value": 400, "runtime_key": "istio.io/unset" },
    } } }));
    let six = json!({ "socket_address": { "address": "::", "port_value": 15008 } });
    let terminate = fixture::terminate();
    let sans = "/filter_chains/0/transport_socket/typed_config/common_tls_context/combined_validation_context/\
        default_validation_context";
    let timeout = format!("{HCM}/route_config/virtual_hosts/0/routes/0/route/timeout");
    for (pointer, value) in [
        ("/access_log", no_route),
        (&format!("{HCM}/access_log"), refused),
        ("/address", six.clone()),
        ("/additional_addresses", json!([{ "address": six }])),
        // With PILOT_SKIP_VALIDATE_TRUST_DOMAIN there is nothing to match.
        (sans, json!({})),
        // istiod gives none: 15 s by Envoy's default, which would cut tunnels.
        (&timeout, Value::Null),
    ] {
        accepted(pointer, &edited(&terminate, pointer, value));
    }
}

#[test]
fn destinations_are_found_as_the_matcher_says() {
    let chains: Vec<_> = ["a", "b", "c", "http", "tcp"]
        .iter()
        .map(|name| fixture::tcp_chain(name, "x"))
        .collect();
    let to = |name: &str| fixture::by_port(&[("80", fixture::action(name))]);
    let mut sniffed = fixture::by_protocol("http", "tcp");
    sniffed["matcher"]["matcher_tree"]["exact_match_map"]["map"]["'http/1.0'"] =
        fixture::action("http");
    let ranges = [
        // Two headless services: the first listed wins.
        ("0.0.0.0", 32, to("a")),
        ("0.0.0.0", 32, to("b")),
        // A ServiceEntry's CIDR, and an address within it: the most specific wins, whatever comes first.
        ("10.0.1.0", 24, to("a")),
        ("10.0.1.7", 32, to("b")),
        ("2001:db8::7", 128, to("c")),
        (
            "10.0.2.1",
            32,
            fixture::by_port(&[("80", sniffed.clone()), ("81", fixture::action("b"))]),
        ),
        // Attached workloads.
        ("10.244.0.7", 32, sniffed),
    ];
    let mut resource = fixture::main_internal(&chains, &ranges);
    // All VIPs of one service are ranges of one matcher.
    let more = json!({ "address_prefix": "10.0.3.3", "prefix_len": 32 });
    let list = &mut resource["filter_chain_matcher"]["matcher_tree"]["custom_match"]["typed_config"]
        ["range_matchers"];
    let first = list[4]["ranges"].as_array_mut().expect("ranges");
    first.push(more);
    let decoded = router(&resource);
    for (address, want) in [
        ("0.0.0.0:80", Some("a")),
        ("10.0.1.8:80", Some("a")),
        ("10.0.1.7:80", Some("b")),
        ("[2001:db8::7]:80", Some("c")),
        ("10.0.3.3:80", Some("c")),
        ("10.0.2.1:80", Some("http http http tcp")),
        ("10.0.2.1:81", Some("b")),
        ("10.0.2.1:82", None),
        ("10.244.0.7:4711", Some("http http http tcp")),
        ("10.0.4.4:80", None),
    ] {
        assert_eq!(target(&decoded, address).as_deref(), want, "{address}");
    }
}

#[test]
fn inspectors_are_left_out_of_ports_one_or_many() {
    let port = |p: u32| json!({ "destination_port_range": { "start": p, "end": p + 1 } });
    let many = json!({ "or_match": { "rules": [port(443), port(9080), port(53)] } });
    let tls = json!({
        "name": "envoy.filters.listener.tls_inspector",
        "typed_config": {
            "@type": format!("{FILTERS}.listener.tls_inspector.v3.TlsInspector"), "initial_read_buffer_size": 512,
        },
    });
    let chains = direct_chains();
    let plain = fixture::main_internal(&chains, &[]);
    for disabled in [port(9080), many] {
        let resource = edited(
            &plain,
            "/listener_filters/1/filter_disabled",
            disabled.clone(),
        );
        let tls = edited(&tls, "/filter_disabled", disabled);
        let mut resource = resource;
        let filters = resource["listener_filters"].as_array_mut();
        filters.expect("filters").push(tls);
        accepted("inspectors", &resource);
    }
}

#[test]
fn an_http_chain_has_every_filter_and_option_of_istiods() {
    let identity = json!({ "name": "istio.waypoint.xfcc_client_identity", "typed_config": {
        "@type": format!("{FILTERS}.http.header_mutation.v3.HeaderMutation"),
        "mutations": { "request_mutations": [{ "append": {
            "header": {
                "key": "x-forwarded-client-cert",
                "value": "By=%FILTER_STATE(io.istio.local_principal:PLAIN)%;URI=%FILTER_STATE(io.istio.peer_principal:PLAIN)%",
            },
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        } }] },
    } });
    let metrics = json!({
        "tcp_reporting_duration": "15s",
        "metrics": [
            { "name": "requests_total", "dimensions": { "method": "request.method" }, "tags_to_remove": ["grpc_response_status"] },
            { "name": "request_bytes", "drop": true },
        ],
    });
    let mut chain = fixture::http_chain(REVIEWS, &default_routes(REVIEWS, "inbound|http|80", "c"));
    let config = &mut chain["filters"][0]["typed_config"];
    let filters = config["http_filters"].as_array_mut().expect("filters");
    let router = filters.pop().expect("a router");
    filters.insert(0, identity);
    filters.extend([
        peer_metadata("waypoint_upstream_peer_metadata"),
        stats(&metrics),
        router,
    ]);
    let resource = fixture::main_internal(&[chain], &[]);
    accepted("all filters", &resource);
    let tag = json!({ "tag": "istio.source_app", "value": "%FILTER_STATE(downstream_peer_obj:FIELD:app)%" });
    for (pointer, value) in [
        ("http2_protocol_options", json!({})),
        ("merge_slashes", json!(true)),
        (
            "path_with_escaped_slashes_action",
            json!("UNESCAPE_AND_FORWARD"),
        ),
        ("normalize_path", json!(false)),
        ("http_protocol_options", json!({ "accept_http_10": true })),
        (
            "common_http_protocol_options",
            json!({
                "idle_timeout": "5s", "max_connection_duration": "60s", "max_stream_duration": "30s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            }),
        ),
        ("request_timeout", json!("10s")),
        ("request_headers_timeout", json!("10s")),
        ("drain_timeout", json!("5s")),
        ("stream_idle_timeout", json!("300s")),
        ("forward_client_cert_details", json!("ALWAYS_FORWARD_ONLY")),
        ("append_x_forwarded_port", json!(true)),
        ("server_header_transformation", json!("APPEND_IF_ABSENT")),
        (
            "tracing",
            json!({
                "client_sampling": { "value": 100.0 }, "random_sampling": { "value": 1.0 },
                "overall_sampling": { "value": 100.0 }, "custom_tags": [
                    { "tag": "istio.mesh_id", "literal": { "value": "cluster.local" } },
                    { "tag": "istio.authorization.dry_run.allow_policy.name", "metadata": {
                        "kind": { "request": {} },
                        "metadata_key": {
                            "key": "envoy.filters.http.rbac",
                            "path": [{ "key": "istio_dry_run_allow_shadow_effective_policy_id" }],
                        },
                    } },
                    tag,
                ],
            }),
        ),
    ] {
        accepted(
            pointer,
            &edited(&resource, &format!("{HCM}/{pointer}"), value),
        );
    }
}

#[test]
fn a_tcp_chain_has_every_filter_and_option_of_istiods() {
    let mut chain = fixture::tcp_chain(DB, DB);
    let proxy = chain["filters"][0]["typed_config"].clone();
    let weighted =
        json!({ "clusters": [{ "name": DB, "weight": 3 }, { "name": "nowhere", "weight": 1 }] });
    let proxy = edited(&proxy, "/cluster", Value::Null);
    let proxy = edited(&proxy, "/weighted_clusters", weighted);
    let proxy = edited(&proxy, "/idle_timeout", json!("90s"));
    let proxy = edited(&proxy, "/max_downstream_connection_duration", json!("600s"));
    let sniffer = |name: &str, kind: &str| {
        json!({ "name": name, "typed_config": {
            "@type": format!("{FILTERS}.network.{kind}"), "stat_prefix": DB,
        } })
    };
    chain["filters"] = json!([
        metadata_exchange(),
        stats(&json!({ "tcp_reporting_duration": "15s" })),
        // Sent for every port that is declared to speak MongoDB: it only counts.
        sniffer("envoy.filters.network.mongo_proxy", "mongo_proxy.v3.MongoProxy"),
        { "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy },
    ]);
    let decoded = router(&fixture::main_internal(&[chain], &[]));
    let Chain::Tcp(tcp) = &decoded.chains[0].chain else {
        panic!("TCP")
    };
    assert_eq!(
        (tcp.idle_timeout, tcp.max_duration),
        (
            Some(Duration::from_secs(90)),
            Some(Duration::from_secs(600))
        )
    );
    assert_eq!(
        tcp.stats.as_ref().expect("reported").tcp_reporting,
        Some(Duration::from_secs(15))
    );
}

#[test]
fn clusters_of_all_kinds_of_services_are_accepted() {
    let plain = fixture::cluster(REVIEWS);
    let options = |value: Value| {
        let mut options = value;
        options["@type"] =
            json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
        json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options })
    };
    let host = json!({ "cluster_name": "x", "endpoints": [{ "lb_endpoints": [{
        "endpoint": { "address": { "socket_address": { "address": "db.example", "port_value": 443 } } },
        "load_balancing_weight": 1,
    }] }] });
    let dns = |kind: &str| {
        let mut cluster = edited(&plain, "/eds_cluster_config", Value::Null);
        let fields = json!({
            "type": kind,
            "load_assignment": host,
            "dns_lookup_family": "V4_ONLY",
            "dns_refresh_rate": "60s",
            "dns_jitter": "0.1s",
            "respect_dns_ttl": true,
            "typed_dns_resolver_config": { "name": "envoy.network.dns_resolver.cares", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "udp_max_queries": 100,
            } },
        });
        let object = cluster.as_object_mut().expect("an object");
        object.extend(fields.as_object().expect("an object").clone());
        cluster
    };
    let mut passthrough = edited(&plain, "/eds_cluster_config", Value::Null);
    passthrough["type"] = json!("ORIGINAL_DST");
    passthrough["lb_policy"] = json!("CLUSTER_PROVIDED");
    let discovery = |resource: &Value| cluster(resource).cluster.discovery;
    assert!(matches!(discovery(&plain), Discovery::Eds { .. }));
    assert!(matches!(discovery(&dns("STRICT_DNS")), Discovery::Dns(_)));
    assert!(matches!(discovery(&dns("LOGICAL_DNS")), Discovery::Dns(_)));
    assert!(matches!(
        discovery(&passthrough),
        Discovery::OriginalDst {
            port_override: None
        }
    ));
    assert_eq!(cluster(&plain).cluster.panic_threshold_percent, 0.0);
    let round_robin = edited(&plain, "/lb_policy", Value::Null);
    assert!(matches!(
        cluster(&round_robin).cluster.lb,
        LbPolicy::RoundRobin { .. }
    ));
    let http2 = json!({ "max_concurrent_streams": 7 });
    let common = json!({
        "idle_timeout": "30s", "max_connection_duration": "60s", "max_requests_per_connection": 9,
    });
    let warm = json!({ "slow_start_config": {
        "slow_start_window": "60s",
        "aggression": { "default_value": 1.0, "runtime_key": "(" },
        "min_weight_percent": { "value": 10.0 },
    } });
    for (pointer, value) in [
        ("/connect_timeout", json!("1s")),
        ("/least_request_lb_config", warm),
        (
            "/common_lb_config",
            json!({ "healthy_panic_threshold": {}, "locality_weighted_lb_config": {} }),
        ),
        (
            "/circuit_breakers",
            json!({ "thresholds": [{ "max_connections": 1, "retry_budget": {
                "budget_percent": { "value": 20.0 }, "min_retry_concurrency": 3,
            } }] }),
        ),
        (
            "/upstream_connection_options",
            json!({ "tcp_keepalive": { "keepalive_time": 300 } }),
        ),
        (
            "/typed_extension_protocol_options",
            options(
                json!({ "explicit_http_config": { "http2_protocol_options": http2 }, "common_http_protocol_options": common }),
            ),
        ),
        (
            "/typed_extension_protocol_options",
            options(json!({ "explicit_http_config": { "http_protocol_options": {} } })),
        ),
        (
            "/typed_extension_protocol_options",
            options(
                json!({ "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} } }),
            ),
        ),
        (
            "/metadata/filter_metadata/istio/config",
            json!("/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"),
        ),
    ] {
        accepted(pointer, &edited(&plain, pointer, value));
    }
}

#[test]
fn clusters_outside_are_accepted_and_never_offer_a_sidecars_mtls_in_vain() {
    let internal = fixture::cluster(REVIEWS)["transport_socket"].clone();
    let raw = internal["typed_config"]["transport_socket"].clone();
    let tls = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "outbound_.80_._.reviews.default.svc.cluster.local",
    } });
    let name = "outbound|80||reviews.default.svc.cluster.local";
    let mut outbound = edited(&fixture::cluster(REVIEWS), "/transport_socket", Value::Null);
    outbound["name"] = json!(name);
    outbound["eds_cluster_config"]["service_name"] = json!(name);
    outbound["transport_socket_matches"] = json!([
        { "name": "hbone", "match": { "tunnel": "http" }, "transport_socket": internal },
        { "name": "tlsMode-istio", "match": { "tlsMode": "istio" }, "transport_socket": tls },
        { "name": "tlsMode-disabled", "match": {}, "transport_socket": raw },
    ]);
    outbound["filters"] = json!([metadata_exchange()]);
    outbound["metadata"]["filter_metadata"]["istio"]["disable_mx"] = json!(true);
    let decoded = cluster(&outbound);
    assert!(decoded.sidecar_mtls);
    assert_eq!(decoded.hop, Hop::No);
}

#[test]
fn endpoints_of_all_kinds_are_accepted() {
    let set = |resource: &Value| {
        let mut names = Names::default();
        let decoded = Decoder::new(&mut names).endpoints(&bytes(resource));
        decoded.unwrap_or_else(|e| panic!("{e}")).value.set
    };
    assert!(set(&fixture::assignment(REVIEWS, &[])).is_empty());
    let plain = |address: &str| {
        json!({
            "endpoint": { "address": { "socket_address": { "address": address, "port_value": 8080 } } },
            "metadata": { "filter_metadata": { "istio": { "workload": ";;;;Kubernetes" } } },
            "load_balancing_weight": 2,
        })
    };
    let mut dual = plain("10.0.0.3");
    dual["endpoint"]["additional_addresses"] = json!([{ "address": { "socket_address": { "address": "2001:db8::3", "port_value": 8080 } } }]);
    dual["health_status"] = json!("DRAINING");
    let tunnel = fixture::assignment(REVIEWS, &[("10.0.0.1:80", "a;default;a;v1;Kubernetes")]);
    let tunnel = tunnel["endpoints"][0]["lb_endpoints"][0].clone();
    let unready = edited(&tunnel, "/health_status", json!("UNHEALTHY"));
    let assigned = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": REVIEWS,
        "endpoints": [
            { "locality": {}, "load_balancing_weight": 1, "lb_endpoints": [unready] },
            // A locality that a distribution does not list stays, empty.
            { "locality": { "region": "r1", "zone": "z2" }, "load_balancing_weight": 1 },
            { "locality": { "region": "r2" }, "priority": 1, "load_balancing_weight": 4,
              "lb_endpoints": [plain("10.0.0.2"), dual] },
        ],
    });
    let set = set(&assigned);
    let got: Vec<_> = set.iter().map(|e| (e.kind, e.health, e.priority)).collect();
    let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let tunnel = EndpointKind::Tunnel {
        local: at("10.0.0.1:80"),
        via: None,
    };
    assert_eq!(
        got,
        [
            (tunnel, EndpointHealth::Unhealthy, 0),
            (
                EndpointKind::Plain(at("10.0.0.2:8080")),
                EndpointHealth::Unknown,
                1
            ),
            (
                EndpointKind::Plain(at("10.0.0.3:8080")),
                EndpointHealth::Draining,
                1
            ),
        ]
    );
}

#[test]
fn routes_may_lead_nowhere() {
    let to =
        |cluster: &str| json!({ "cluster": cluster, "timeout": "0s", "max_grpc_timeout": "0s" });
    let mut gateway = to("inbound-vip|80|http|nowhere.default.svc.cluster.local");
    gateway["cluster_not_found_response_code"] = json!("INTERNAL_SERVER_ERROR");
    let table = routes(&json!([
        { "match": { "path": "/none" }, "route": to("UnknownService") },
        { "match": { "path": "/gateway" }, "route": gateway },
        { "match": { "path": "/empty" }, "direct_response": { "status": 500 } },
        { "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [
            { "name": REVIEWS_V1, "weight": 1 }, { "name": "nowhere", "weight": 2 },
        ] } } },
    ]));
    let found = table.hosts()[0].routes();
    let not_found = |at: usize| match &found[at].action {
        Action::Forward(forward) => forward.cluster_not_found.as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!([not_found(0), not_found(1)], [503, 500]);
    assert!(matches!(&found[2].action, Action::Direct(d) if d.status == 500));
    let Action::Forward(forward) = &found[3].action else {
        panic!("forward")
    };
    assert!(matches!(&forward.clusters, Clusters::Weighted(w) if w.iter().count() == 2));
}

#[test]
fn routes_of_every_form_are_accepted() {
    let plain = json!({ "cluster": REVIEWS, "timeout": "0s", "max_grpc_timeout": "0s" });
    let full = json!({ "numerator": 100, "denominator": "HUNDRED" });
    let matches = [
        json!({ "prefix": "/", "case_sensitive": true }),
        json!({ "path": "/x", "case_sensitive": false }),
        json!({ "path_separated_prefix": "/x" }),
        json!({ "safe_regex": { "regex": "/a.*" } }),
        json!({ "prefix": "/", "headers": [
            { "name": "a", "string_match": { "exact": "1" } },
            { "name": "b", "string_match": { "safe_regex": { "regex": ".+" } }, "invert_match": true,
              "treat_missing_header_as_empty": true },
            { "name": "c", "present_match": true },
            { "name": ":method", "string_match": { "prefix": "G" } },
            { "name": ":authority", "string_match": { "exact": "h" } },
            { "name": ":scheme", "string_match": { "exact": "http" } },
        ] }),
        json!({ "prefix": "/", "query_parameters": [
            { "name": "q", "string_match": { "safe_regex": { "regex": "a" } } }, { "name": "p", "present_match": true },
        ] }),
    ];
    for matcher in matches {
        routes(&json!([{ "match": matcher, "route": plain }]));
    }
    let one = |field: &str, value: Value| {
        let mut route = json!({ "match": { "prefix": "/" }, "route": plain });
        route[field] = value;
        if ["redirect", "direct_response"].contains(&field) {
            route
                .as_object_mut()
                .expect("an object")
                .shift_remove("route");
        }
        routes(&json!([route]));
    };
    let fault = json!({ "envoy.filters.http.fault": {
        "@type": format!("{FILTERS}.http.fault.v3.HTTPFault"),
        "delay": { "fixed_delay": "5s", "percentage": { "numerator": 100_000, "denominator": "MILLION" } },
        "abort": { "http_status": 555, "percentage": { "numerator": 100_000, "denominator": "MILLION" } },
    } });
    let cors = json!({ "envoy.filters.http.cors": {
        "@type": format!("{FILTERS}.http.cors.v3.CorsPolicy"),
        "allow_origin_string_match": [{ "exact": "http://a.example" }],
        "allow_methods": "GET,PUT",
        "allow_headers": "x",
        "expose_headers": "y",
        "max_age": "60",
        "allow_credentials": true,
        "filter_enabled": { "default_value": full },
        "forward_not_matching_preflights": true,
    } });
    let add = |action: &str| json!([{ "header": { "key": "x", "value": "%REQ(a)%" }, "append_action": action }]);
    one("redirect", json!({ "path_redirect": "" }));
    one(
        "redirect",
        json!({ "host_redirect": "h", "port_redirect": 8080, "scheme_redirect": "https", "response_code": "PERMANENT_REDIRECT" }),
    );
    one("redirect", json!({ "prefix_rewrite": "/y" }));
    one(
        "redirect",
        json!({ "regex_rewrite": { "pattern": { "regex": "^/a(/?)(.*)" }, "substitution": "/\\2" } }),
    );
    one(
        "direct_response",
        json!({ "status": 418, "body": { "inline_string": "tea" } }),
    );
    one("typed_per_filter_config", fault);
    one("typed_per_filter_config", cors);
    one("request_headers_to_add", add("OVERWRITE_IF_EXISTS_OR_ADD"));
    one("response_headers_to_add", add("APPEND_IF_EXISTS_OR_ADD"));
    one("request_headers_to_remove", json!(["x"]));
    one("stat_prefix", json!("p"));
    one("name", json!("default.route.0"));
    let action = |field: &str, value: Value| {
        let mut action = plain.clone();
        action[field] = value;
        routes(&json!([{ "match": { "prefix": "/" }, "route": action }]));
    };
    action("prefix_rewrite", json!("/y"));
    action("host_rewrite_literal", json!("h"));
    action(
        "regex_rewrite",
        json!({ "pattern": { "regex": "^/a" }, "substitution": "/b" }),
    );
    action("retry_policy", retries());
    let mut policy = retries();
    policy["retry_on"] =
        json!("5xx,reset,retriable-status-codes,gateway-error,retriable-4xx,connect-failure");
    policy["retriable_status_codes"] = json!([503, 429]);
    policy["per_try_timeout"] = json!("2s");
    policy["retry_back_off"] = json!({ "base_interval": "0.1s" });
    action(
        "retry_policy",
        edited(&policy, "/retry_host_predicate", Value::Null),
    );
    // Nothing in it but the name: what istiod answers for a table that it does not know.
    let empty = json!({ "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "unknown" });
    accepted("an empty table", &empty);
}

#[test]
fn what_is_left_for_later_is_refused_by_its_field() {
    let http = fixture::main_internal(
        &[fixture::http_chain(REVIEWS, &default_routes("r", "v", "c"))],
        &[],
    );
    let tcp = fixture::main_internal(&[fixture::tcp_chain(DB, DB)], &[]);
    let plain = fixture::cluster(REVIEWS);
    let filter = |kind: &str| json!({ "name": "f", "typed_config": { "@type": format!("type.googleapis.com/{kind}") } });
    let unread = |kind: &str| json!({ "name": "f", "typed_config": { "@type": format!("type.googleapis.com/{kind}"), "value": "" } });
    let route = format!("{HCM}/route_config/virtual_hosts/0/routes/0");
    let wrapped = |inner: &str| {
        json!({ "name": "s", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "transport_socket": unread(inner),
    } })
    };
    let discovered = json!({ "name": "extensions.istio.io/wasmplugin/default.w", "config_discovery": {
        "config_source": fixture::ads(),
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"],
    } });
    let authority = json!({ "name": "authority-filter-state", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
        "key": "io.istio.connect_authority",
    } });
    let next_filter = "/filter_chains/0/filters/-";
    let cases = [
        (
            &http,
            format!("{HCM}/http_filters/-"),
            filter("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
        ),
        (
            &http,
            format!("{HCM}/http_filters/-"),
            unread("envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig"),
        ),
        (
            &http,
            format!("{HCM}/http_filters/-"),
            unread("envoy.extensions.filters.http.lua.v3.Lua"),
        ),
        (
            &http,
            format!("{HCM}/http_filters/-"),
            unread("envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"),
        ),
        (&http, format!("{HCM}/http_filters/-"), discovered),
        (
            &http,
            format!("{HCM}/http_protocol_options"),
            json!({ "header_key_format": { "proper_case_words": {} } }),
        ),
        (
            &http,
            format!("{route}/route/hash_policy"),
            json!([{ "cookie": { "name": "c", "ttl": "0s" } }]),
        ),
        (
            &http,
            format!("{route}/route/request_mirror_policies"),
            json!([{ "cluster": "m" }]),
        ),
        (
            &http,
            "/filter_chain_matcher/matcher_tree/input".to_owned(),
            authority,
        ),
        (
            &tcp,
            next_filter.to_owned(),
            unread("envoy.extensions.filters.network.redis_proxy.v3.RedisProxy"),
        ),
        (
            &tcp,
            next_filter.to_owned(),
            unread("envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig"),
        ),
        (
            &tcp,
            next_filter.to_owned(),
            filter("envoy.extensions.filters.network.rbac.v3.RBAC"),
        ),
        (
            &tcp,
            "/filter_chains/0/filters/0/typed_config/hash_policy".to_owned(),
            json!([{ "source_ip": {} }]),
        ),
        (
            &plain,
            "/transport_socket".to_owned(),
            wrapped("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        ),
        (
            &plain,
            "/transport_socket".to_owned(),
            wrapped(
                "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
            ),
        ),
        (&plain, "/lb_policy".to_owned(), json!("RING_HASH")),
        (&plain, "/lb_policy".to_owned(), json!("MAGLEV")),
        (
            &plain,
            "/outlier_detection".to_owned(),
            json!({ "consecutive_5xx": 5 }),
        ),
        (
            &plain,
            "/upstream_http_protocol_options".to_owned(),
            json!({ "auto_sni": true }),
        ),
    ];
    let mut report = String::new();
    for (resource, pointer, value) in cases {
        let why = why_refused(&edited(resource, &pointer, value));
        let why = why.unwrap_or_else(|| panic!("{pointer} was accepted"));
        report.push_str(&why);
        report.push('\n');
    }
    insta::assert_snapshot!(report);
}
