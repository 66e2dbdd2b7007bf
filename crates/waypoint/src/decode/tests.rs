#![allow(clippy::unwrap_used, reason = "tests")]

mod encodings;
mod istiod;

use serde_json::{Value, json};

use super::*;
use crate::fixture::{self, REVIEWS, bookinfo, bytes};
use crate::program::{Chain, Target};

/// Puts `value` at `pointer`; a missing last member is added, `null` removes it.
fn edited(resource: &Value, pointer: &str, value: Value) -> Value {
    let mut out = resource.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = out
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("{pointer}"));
    match (parent, value) {
        (Value::Object(fields), Value::Null) => drop(fields.shift_remove(last)),
        (Value::Object(fields), value) => drop(fields.insert(last.to_owned(), value)),
        (Value::Array(items), value) if last == "-" => items.insert(0, value),
        (Value::Array(items), value) => items[last.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer}: {other}"),
    }
    out
}

fn why_refused(resource: &Value) -> Option<String> {
    let mut names = Names::default();
    let mut decoder = Decoder::new(&mut names);
    let bytes = bytes(resource);
    let result = match resource["@type"]
        .as_str()
        .unwrap()
        .rsplit('.')
        .next()
        .unwrap()
    {
        "Cluster" => decoder.cluster(&bytes).map(drop),
        "Listener" => decoder.listener(&bytes).map(drop),
        "RouteConfiguration" => decoder.route_configuration(&bytes).map(drop),
        "ClusterLoadAssignment" => decoder.endpoints(&bytes).map(drop),
        other => panic!("{other}"),
    };
    result.err().map(|e| e.to_string())
}

#[test]
fn decodes_a_bookinfo_waypoint_without_leaving_anything_out() {
    let mesh = bookinfo();
    let mut names = Names::default();
    let mut decoder = Decoder::new(&mut names);
    for cluster in &mesh.clusters {
        assert_eq!(decoder.cluster(&bytes(cluster)).unwrap().ignored, []);
    }
    for listener in &mesh.listeners {
        assert_eq!(decoder.listener(&bytes(listener)).unwrap().ignored, []);
    }
    for routes in &mesh.routes {
        assert_eq!(
            decoder.route_configuration(&bytes(routes)).unwrap().ignored,
            []
        );
    }
    for endpoints in &mesh.endpoints {
        assert_eq!(decoder.endpoints(&bytes(endpoints)).unwrap().ignored, []);
    }
}

#[test]
fn every_refused_field_is_named() {
    let mesh = bookinfo();
    let (terminate, router, originate) =
        (&mesh.listeners[0], &mesh.listeners[1], &mesh.listeners[2]);
    let (cluster, tunnel, hop) = (&mesh.clusters[2], &mesh.clusters[6], &mesh.clusters[0]);
    let (routes, assignment) = (&mesh.routes[0], &mesh.endpoints[0]);
    let config = |kind: &str| json!({ "@type": format!("type.googleapis.com/{kind}") });
    let filter = |kind: &str| json!({ "name": "f", "typed_config": config(kind) });
    let hcm = "/filter_chains/0/filters/0/typed_config";
    let route = "/virtual_hosts/0/routes/0";
    let endpoint = "/endpoints/0/lb_endpoints/0";
    let cases = [
        // Security filters, optional or not.
        (router, format!("{hcm}/http_filters/-"), filter("envoy.extensions.filters.http.rbac.v3.RBAC")),
        (
            router,
            format!("{hcm}/http_filters/-"),
            json!({
                "name": "jwt",
                "is_optional": true,
                "typed_config": config("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
            }),
        ),
        (router, format!("{hcm}/http_filters/-"), filter("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz")),
        (
            router,
            "/filter_chains/1/filters/-".to_owned(),
            json!({ "name": "rbac", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "tcp.",
            } }),
        ),
        (terminate, format!("{hcm}/http_filters/-"), filter("envoy.extensions.filters.http.rbac.v3.RBAC")),
        // Traffic behaviour.
        (router, format!("{hcm}/http_filters/-"), filter("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb")),
        (router, format!("{hcm}/use_remote_address"), json!(true)),
        (router, format!("{hcm}/local_reply_config"), json!({})),
        (router, format!("{hcm}/http_filters/3"), filter("envoy.extensions.filters.http.cors.v3.Cors")),
        (router, format!("{hcm}/http_protocol_options"), json!({ "enable_trailers": true })),
        (router, "/default_filter_chain".to_owned(), json!({})),
        (router, "/listener_filters/0".to_owned(), fixture::listener_filter("tls_inspector.v3.TlsInspector")),
        (router, "/filter_chains/1/filter_chain_match".to_owned(), json!({ "destination_port": 1 })),
        (router, "/filter_chains/1/name".to_owned(), json!(REVIEWS)),
        (
            router,
            "/filter_chains/1/filters/0/typed_config/tunneling_config".to_owned(),
            json!({ "hostname": "h:1" }),
        ),
        (
            router,
            "/filter_chain_matcher/matcher_tree/custom_match/typed_config/range_matchers/0/on_match".to_owned(),
            fixture::by_port(&[("9080", fixture::action("nowhere"))]),
        ),
        (
            router,
            "/filter_chain_matcher/matcher_tree/custom_match/typed_config/range_matchers/0/ranges".to_owned(),
            json!([]),
        ),
        (terminate, format!("{hcm}/route_config/virtual_hosts/0/routes/0/match"), json!({ "prefix": "/" })),
        (terminate, format!("{hcm}/http_filters/0/typed_config/on_request_headers"), json!([])),
        (
            terminate,
            format!("{hcm}/http_filters/0/typed_config/on_request_headers/2/format_string"),
            json!({ "text_format_source": { "inline_string": "%REQ(x-principal)%" } }),
        ),
        (
            terminate,
            "/filter_chains/0/transport_socket/typed_config/require_client_certificate".to_owned(),
            json!(false),
        ),
        (
            terminate,
            "/filter_chains/0/transport_socket/typed_config/common_tls_context/combined_validation_context".to_owned(),
            Value::Null,
        ),
        (originate, "/filter_chains/0/filters/0/typed_config/tunneling_config/hostname".to_owned(), json!("h:1")),
        (cluster, "/outlier_detection".to_owned(), json!({ "consecutive_5xx": 3 })),
        (cluster, "/lb_policy".to_owned(), json!("RING_HASH")),
        (cluster, "/health_checks".to_owned(), json!([{}])),
        (cluster, "/eds_cluster_config/eds_config".to_owned(), json!({ "path": "/etc/eds" })),
        (cluster, "/circuit_breakers/per_host_thresholds".to_owned(), json!([{}])),
        (
            cluster,
            "/transport_socket/typed_config/transport_socket".to_owned(),
            json!({ "name": "tls", "typed_config": config("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext") }),
        ),
        (
            cluster,
            "/typed_extension_protocol_options".to_owned(),
            json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "auto_config": {},
            } }),
        ),
        (hop, "/cluster_type".to_owned(), json!({ "name": "envoy.clusters.dynamic_forward_proxy" })),
        (tunnel, "/original_dst_lb_config/use_http_header".to_owned(), json!(true)),
        (
            tunnel,
            "/transport_socket/typed_config/common_tls_context/tls_certificate_sds_secret_configs".to_owned(),
            json!([{ "name": "kubernetes://mine" }]),
        ),
        (routes, format!("{route}/route/request_mirror_policies"), json!([{ "cluster": "x" }])),
        (routes, format!("{route}/route/hash_policy"), json!([{ "header": { "header_name": "x" } }])),
        (routes, format!("{route}/route/weighted_clusters/clusters/0/weight"), Value::Null),
        (routes, format!("{route}/route/retry_policy/retry_on"), json!("5xx,whenever")),
        (
            routes,
            format!("{route}/route/retry_policy/retry_priority"),
            json!({ "name": "envoy.retry_priorities.previous_priorities" }),
        ),
        (routes, format!("{route}/match"), json!({ "safe_regex": { "regex": "(" } })),
        (routes, format!("{route}/match"), json!({ "path_separated_prefix": "/a/" })),
        (
            routes,
            format!("{route}/match"),
            json!({ "prefix": "/", "dynamic_metadata": [{ "filter": "envoy.filters.http.jwt_authn" }] }),
        ),
        (
            routes,
            format!("{route}/request_headers_to_add"),
            json!([{ "header": { "key": "x", "value": "%NO_SUCH_THING%" } }]),
        ),
        (routes, format!("{route}/response_headers_to_remove"), json!([":status"])),
        (routes, format!("{route}/typed_per_filter_config"), json!({ "rbac": config("envoy.config.route.v3.FilterConfig") })),
        (routes, format!("{route}/direct_response"), json!({ "status": 99 })),
        (routes, "/virtual_hosts/0/rate_limits".to_owned(), json!([{}])),
        (routes, "/virtual_hosts/0/domains".to_owned(), json!(["*", "*"])),
        (routes, "/vhds".to_owned(), json!({})),
        (assignment, "/policy".to_owned(), json!({ "drop_overloads": [{}] })),
        (assignment, "/endpoints/0/priority".to_owned(), json!(1)),
        (assignment, format!("{endpoint}/load_balancing_weight"), json!(0)),
        (assignment, format!("{endpoint}/endpoint/address"), json!({ "pipe": { "path": "/x" } })),
        (
            assignment,
            format!("{endpoint}/metadata/filter_metadata/envoy.filters.listener.original_dst"),
            json!({ "local": "localhost:1" }),
        ),
        (
            assignment,
            format!("{endpoint}/metadata/filter_metadata/istio"),
            json!({ "double_hbone": { "hbone_target_address": "h:1" } }),
        ),
    ];
    let mut report = String::new();
    for (resource, pointer, value) in cases {
        let mut changed = edited(resource, &pointer, value);
        // Of a oneof only one may be there.
        for (new, old) in [
            ("/direct_response", format!("{route}/route")),
            ("/cluster_type", "/type".to_owned()),
        ] {
            if pointer.ends_with(new) {
                changed = edited(&changed, &old, Value::Null);
            }
        }
        let why = why_refused(&changed).unwrap_or_else(|| panic!("{pointer} was accepted"));
        report.push_str(&why);
        report.push('\n');
    }
    insta::assert_snapshot!(report);
}

#[test]
fn observability_that_is_not_here_is_accepted_and_noted() {
    let mesh = bookinfo();
    let hcm = "/filter_chains/0/filters/0/typed_config";
    let router = edited(
        &mesh.listeners[1],
        &format!("{hcm}/tracing"),
        json!({ "random_sampling": { "value": 1 } }),
    );
    let wrapped = json!({
        "name": "waypoint_upstream_peer_metadata",
        "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config",
            "value": { "upstream_discovery": [{ "workload_discovery": {} }] },
        },
    });
    let router = edited(&router, &format!("{hcm}/http_filters/-"), wrapped);
    let optional = json!({
        "name": "new",
        "is_optional": true,
        "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/some.new.Filter",
        },
    });
    let router = edited(&router, &format!("{hcm}/http_filters/-"), optional.clone());
    let log = json!([{ "name": "grpc", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    } }]);
    let router = edited(&router, &format!("{hcm}/access_log"), log);
    let mut names = Names::default();
    let decoded = Decoder::new(&mut names).listener(&bytes(&router)).unwrap();
    let notes: Vec<_> = decoded
        .ignored
        .iter()
        .map(|n| format!("{}: {}", n.path, n.what))
        .collect();
    insta::assert_snapshot!(notes.join("\n"));
    // The same extension is refused when it is not optional.
    let required = edited(&optional, "/is_optional", json!(false));
    let why = why_refused(&edited(
        &mesh.listeners[1],
        &format!("{hcm}/http_filters/-"),
        required,
    ))
    .unwrap();
    assert_eq!(
        why,
        "main_internal: filter_chains[0].filters[0].typed_config.http_filters[0]: extension of type some.new.Filter (in a \
         udpa.type.v1.TypedStruct) is not supported"
    );
}

#[test]
fn inspection_is_left_out_where_the_inspector_is_disabled() {
    let chains = [
        fixture::tcp_chain("tcp", "c"),
        fixture::tcp_chain("http", "c"),
    ];
    let sniffed = fixture::by_protocol("http", "tcp");
    let ranges = [
        (
            "10.0.0.1",
            32,
            fixture::by_port(&[("80", sniffed.clone()), ("81", sniffed.clone())]),
        ),
        ("10.0.0.2", 32, sniffed),
    ];
    let listener = fixture::main_internal(&chains, &ranges);
    let disabled = json!({ "or_match": { "rules": [{ "destination_port_range": { "start": 80, "end": 81 } }] } });
    let listener = edited(&listener, "/listener_filters/1/filter_disabled", disabled);
    let mut names = Names::default();
    let decoded = Decoder::new(&mut names)
        .listener(&bytes(&listener))
        .unwrap()
        .value;
    let Listener::Router(router) = decoded.kind else {
        panic!("a router")
    };
    let is_sniffed = |to: &str| match router.destinations.find(to.parse().unwrap()) {
        Some(Target::Sniff { .. }) => true,
        Some(Target::Chain(id)) => {
            assert_eq!(id, router.chains[0].id, "{to}");
            false
        }
        None => panic!("{to} is unknown"),
    };
    assert_eq!(
        ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.2:80", "10.0.0.2:9999"].map(is_sniffed),
        [false, true, false, true]
    );
    assert_eq!(
        router.destinations.find("10.0.0.1:82".parse().unwrap()),
        None
    );
}

#[test]
fn header_operations_go_from_the_destination_outwards() {
    let add = |value: &str| json!([{ "header": { "key": "x", "value": value } }]);
    let mut routes = fixture::route_config(
        "r",
        &json!([{
            "match": { "prefix": "/" },
            "request_headers_to_add": add("route"),
            "request_headers_to_remove": ["y"],
            "route": { "weighted_clusters": { "clusters": [
                { "name": "c", "weight": 1, "request_headers_to_add": add("cluster") },
            ] } },
        }]),
    );
    routes["request_headers_to_add"] = add("config");
    routes["virtual_hosts"][0]["request_headers_to_add"] = add("host");
    let order = |routes: &Value| {
        let mut names = Names::default();
        let table = Decoder::new(&mut names)
            .route_configuration(&bytes(routes))
            .unwrap()
            .value;
        let crate::route::Action::Forward(forward) = &table.hosts()[0].routes()[0].action else {
            panic!("forward")
        };
        let ops = forward
            .pick(0)
            .unwrap()
            .headers
            .request
            .ops()
            .cloned()
            .collect::<Vec<_>>();
        ops.into_iter()
            .map(|op| match op {
                crate::route::HeaderOp::Remove(name) => format!("-{name}"),
                crate::route::HeaderOp::Add { value, .. } => value.as_text().unwrap().to_owned(),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(order(&routes), ["cluster", "-y", "route", "host", "config"]);
    routes["most_specific_header_mutations_wins"] = json!(true);
    assert_eq!(order(&routes), ["config", "host", "-y", "route", "cluster"]);
}

#[test]
fn a_routes_timeout_does_not_count_beside_max_stream_duration() {
    let timeouts = |action: Value| {
        let routes = json!([{ "match": { "prefix": "/" }, "route": action }]);
        let routes = fixture::route_config("r", &routes);
        let mut names = Names::default();
        let table = Decoder::new(&mut names)
            .route_configuration(&bytes(&routes))
            .unwrap()
            .value;
        let crate::route::Action::Forward(forward) = &table.hosts()[0].routes()[0].action else {
            panic!("forward")
        };
        forward.timeouts
    };
    let mut action = json!({ "cluster": "c", "timeout": "3s" });
    let three_seconds = Some(std::time::Duration::from_secs(3));
    assert_eq!(timeouts(action.clone()).route, three_seconds);
    action["max_stream_duration"] = json!({ "grpc_timeout_header_max": "0s" });
    let both = timeouts(action);
    assert_eq!((both.route, both.grpc_max_stream), (None, Some(None)));
}

#[test]
fn a_chain_is_the_same_chain_after_an_update() {
    let mesh = bookinfo();
    let mut names = Names::default();
    let mut chains = |listener: &Value| {
        let decoded = Decoder::new(&mut names)
            .listener(&bytes(listener))
            .unwrap()
            .value;
        let Listener::Router(router) = decoded.kind else {
            panic!("a router")
        };
        router.chains
    };
    let before = chains(&mesh.listeners[1]);
    let after = chains(&edited(
        &mesh.listeners[1],
        "/filter_chains/0/filters/0/typed_config/server_name",
        json!("x"),
    ));
    assert_eq!(before[0].id, after[0].id);
    assert_eq!(after[0].rds.as_deref(), Some(REVIEWS));
    assert!(matches!(&after[0].chain, Chain::Http(http) if http.server_name == "x"));
}
