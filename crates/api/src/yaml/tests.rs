use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::ambient::{Enforcement, TrafficType, UseWaypoint};
use crate::gateway::{GatewayApiVersion, PathMatch, WaypointForm};
use crate::istio::virtual_service::{HttpAction, RetryCondition};
use crate::k8s::{ClusterIps, TargetPort};
use crate::matcher::StringMatch;

/// What is wrong with a text, one line each.
fn errors(text: &str) -> Vec<String> {
    parse_documents("mesh.yaml", text)
        .into_iter()
        .filter_map(Result::err)
        .map(|e| e.to_string())
        .collect()
}

fn good(text: &str) -> Vec<Resource> {
    parse_documents("mesh.yaml", text)
        .into_iter()
        .map(|r| r.unwrap_or_else(|e| panic!("{e}")).resource)
        .collect()
}

fn one(text: &str) -> Resource {
    let mut resources = good(text);
    assert_eq!(resources.len(), 1);
    resources.remove(0)
}

macro_rules! the {
    ($kind:ident, $text:expr) => {
        match one($text) {
            Resource::$kind(object) => object,
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn says_what_is_wrong_and_what_is_allowed() {
    insta::assert_snapshot!(
        "broken",
        errors(include_str!("testdata/broken.yaml")).join("\n")
    );
}

#[test]
fn every_error_names_its_column_and_class() {
    let text =
        "kind: Service\napiVersion: v1\nmetadata:\n  name: a\nspec:\n  ports:\n  - port: 99999\n";
    let error = parse_documents("f", text)
        .pop()
        .and_then(Result::err)
        .expect("an error");
    assert_eq!((error.line, error.column), (7, 11));
    assert_eq!(error.field.as_deref(), Some("spec.ports[0].port"));
    assert_eq!(error.class, ErrorClass::Invalid);
    assert_eq!(
        error.key().map(|k| k.to_string()).as_deref(),
        Some("Service default/a")
    );
}

#[test]
fn a_broken_document_does_not_stop_the_others() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n: [\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n...\n# c\n";
    let results = parse_documents("f", text);
    let lines: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().map(|d| d.line).map_err(|e| e.line))
        .collect();
    assert_eq!(lines, [Ok(1), Err(5), Ok(7)]);
}

#[test]
fn the_object_of_a_document_that_is_not_yaml_is_made_out() {
    let cases = [
        (
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  labels: {name: x}\n  name: reviews\nspec: [\n",
            Some("VirtualService default/reviews"),
        ),
        (
            "kind: Service\nmetadata: {namespace: 'shop', name: \"a\"}\n bad\n: [",
            Some("Service shop/a"),
        ),
        (
            "kind: Namespace\nmetadata:\n  name: a # b\n  x: {",
            Some("Namespace a"),
        ),
        ("kind: Service\n  name: {", None),
    ];
    for (text, object) in cases {
        let error = parse_documents("f", text)
            .pop()
            .and_then(Result::err)
            .expect("an error");
        assert_eq!(error.class, ErrorClass::Syntax, "{text}");
        assert_eq!(
            error.object.map(|o| o.to_string()).as_deref(),
            object,
            "{text}"
        );
    }
}

#[test]
fn documents_may_be_lists_json_anchored_or_merged() {
    let text = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: a}}
- {apiVersion: v1, kind: Namespace, metadata: {name: b}}
---
{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}
--- # anchors
x-common: &common
  app: d
apiVersion: v1
kind: Service
metadata:
  name: d
  labels: {<<: *common, version: v1}
spec:
  selector: *common
  ports: [{port: 80}]
"#;
    let keys: Vec<String> = good(text).iter().map(|r| r.key().to_string()).collect();
    assert_eq!(
        keys,
        [
            "Namespace a",
            "Namespace b",
            "Namespace c",
            "Service default/d"
        ]
    );
}

#[test]
fn aliases_cannot_exhaust_memory() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        text += &format!("a{i}: &a{i} [{}]\n", [before.as_str(); 10].join(", "));
    }
    assert_eq!(errors(&text).len(), 1);
    assert_eq!(errors(&"[".repeat(100_000)).len(), 1);
    assert_eq!(
        errors(&format!("a: {}1{}", "{b: ".repeat(100), "}".repeat(100))).len(),
        1
    );
    // nested deeper at each step
    let mut text = String::from("a0: &a0 [x]\n");
    for i in 1..1000 {
        text += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert_eq!(errors(&text).len(), 1);
}

#[test]
fn reads_a_virtual_service() {
    let vs = the!(
        VirtualService,
        "
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews]
  http:
  - name: a
    match:
    - uri: {prefix: /api}
      headers: {end-user: {exact: jason}, x-b: {}, x-a: {regex: '*'}}
      withoutHeaders: {x-c: {prefix: p}}
      queryParams: {q: {regex: a+}}
      method: {exact: GET}
    rewrite: {uri: /}
    timeout: 1.5s
    retries: {attempts: 3, retryOn: '5xx, 503,reset', perTryTimeout: 500ms}
    headers: {request: {set: {host: a.b, X-A: '%REQ(x)%'}, remove: [b]}}
    route:
    - destination: {host: reviews, subset: v1, port: {number: 9080}}
      weight: 90
    - destination: {host: reviews.shop.svc.cluster.local}
      weight: 190
  - redirect: {authority: a.b}
"
    );
    assert_eq!(
        vs.full_hosts().collect::<Vec<_>>(),
        ["reviews.shop.svc.cluster.local"]
    );
    assert!(vs.is_for_mesh());
    let rule = &vs.http[0];
    assert_eq!(
        rule.matches[0].uri,
        Some(StringMatch::Prefix("/api".into()))
    );
    let headers: Vec<_> = rule.matches[0]
        .headers
        .iter()
        .map(|(n, m)| (n.as_str(), m.clone()))
        .collect();
    assert_eq!(
        headers,
        [
            ("end-user", StringMatch::Exact("jason".into())),
            ("x-a", StringMatch::Present),
            ("x-b", StringMatch::Present),
        ]
    );
    let retries = rule.retries.as_ref().expect("retries");
    assert_eq!(
        retries.conditions,
        [RetryCondition::FiveXx, RetryCondition::Reset]
    );
    assert_eq!(retries.codes, [503]);
    assert_eq!(rule.headers.request.host.as_deref(), Some("a.b"));
    let HttpAction::Route(destinations) = &rule.action else {
        panic!("{:?}", rule.action)
    };
    assert_eq!(
        destinations.iter().map(|d| d.weight).collect::<Vec<_>>(),
        [90, 190]
    );
    assert!(matches!(&vs.http[1].action, HttpAction::Redirect(r) if r.code == 301));
}

#[test]
fn reads_time_limits_of_tcp_connections() {
    let rule = |tcp: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a}}\nspec: {{host: r, trafficPolicy: {{connectionPool: {{tcp: {{{tcp}}}}}}}}}\n"
        )
    };
    // Idle for ever is something that one may want; a connection that lasts no time is not.
    let text = rule("idleTimeout: 0s, maxConnectionDuration: 5m");
    let read = the!(DestinationRule, &text);
    let pool = read.traffic_policy.connection_pool.as_ref();
    let pool = pool.expect("a pool");
    assert_eq!(pool.tcp_idle_timeout, Some(std::time::Duration::ZERO));
    assert_eq!(
        pool.max_connection_duration,
        Some(std::time::Duration::from_secs(300))
    );
    let wrong = errors(&rule("maxConnectionDuration: 0s"));
    assert!(
        wrong[0].contains("maxConnectionDuration: must be at least 1ms"),
        "{wrong:?}"
    );
}

#[test]
fn reads_waypoints_of_both_forms() {
    let gateway = |version: &str, extra: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/{version}\nkind: Gateway\nmetadata: {{name: w, namespace: shop, {extra}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n"
        );
        the!(Gateway, &text)
    };
    let today = gateway("v1", "labels: {istio.io/waypoint-for: all}");
    assert_eq!(
        (today.form(), today.version),
        (WaypointForm::Today, GatewayApiVersion::V1)
    );
    assert_eq!(
        today.traffic_type(Some(TrafficType::None)),
        TrafficType::All
    );
    assert_eq!(today.host(), "w.shop.svc.cluster.local");
    let old = gateway("v1beta1", "");
    assert_eq!(old.form(), WaypointForm::Namespace2023);
    assert_eq!(old.deployment_name(), "w-istio-waypoint");
    assert_eq!(old.service_account_name(), "w-istio-waypoint");
    assert_eq!(old.traffic_type(None), TrafficType::All);
    let account = gateway(
        "v1",
        "annotations: {istio.io/for-service-account: sa, gateway.istio.io/service-account: own}",
    );
    assert_eq!(account.form(), WaypointForm::ServiceAccount2023("sa"));
    assert_eq!(account.service_account_name(), "own");
}

#[test]
fn reads_mesh_labels() {
    let service = the!(
        Service,
        "
apiVersion: v1
kind: Service
metadata:
  name: a
  labels:
    istio.io/use-waypoint: w
    istio.io/use-waypoint-namespace: other
    istio.io/waypoint-enforcement: require
spec:
  clusterIP: 10.0.0.1
  selector: {app: a}
  unknownToUs: [1, 2]
  ports: [{port: 80, name: http, targetPort: web}]
"
    );
    let mesh = &service.meta.mesh;
    assert_eq!(mesh.enforcement, Some(Enforcement::Require));
    assert_eq!(
        mesh.use_waypoint,
        Some(UseWaypoint::Named {
            namespace: Some("other".into()),
            name: "w".into()
        })
    );
    assert_eq!(
        service.spec.cluster_ips,
        ClusterIps::Given(vec!["10.0.0.1".parse().expect("address")])
    );
    assert_eq!(
        service.spec.ports[0].target_port,
        TargetPort::Name("web".into())
    );
    assert_eq!(service.host(), "a.default.svc.cluster.local");
}

#[test]
fn an_http_route_without_matches_takes_every_path() {
    let route = the!(
        HttpRoute,
        "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: a}
spec:
  parentRefs: [{group: '', kind: Service, name: a, port: 80}]
  rules:
  - matches: [{headers: [{name: x, value: '1'}]}]
    backendRefs: [{name: a, port: 80}, {name: b, namespace: c, port: 81, weight: 0}]
"
    );
    assert_eq!(
        route.rules[0].matches[0].path,
        PathMatch::Prefix("/".into())
    );
    assert_eq!(
        route.rules[0]
            .backend_refs
            .iter()
            .map(|b| b.weight)
            .collect::<Vec<_>>(),
        [1, 0]
    );
}

#[test]
fn json_is_read_like_yaml() {
    let json = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    assert_eq!(
        parse_json("api", &json).map(|r| r.key().to_string()),
        Ok("Namespace a".to_owned())
    );
    let errors = parse_json("api", &json!([])).expect_err("no object");
    assert_eq!(errors.len(), 1);
}

#[test]
fn no_status_of_others_disturbs() {
    let text = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a, managedFields: [{x: y}]}\nspec: {host: a}\nstatus: {anything: 1}\n";
    assert_eq!(good(text).len(), 1);
}

#[test]
fn writes_yaml_as_kubernetes_tools_do() {
    let value = json!({
        "apiVersion": "v1",
        "empty": {"list": [], "map": {}, "null": null, "text": ""},
        "items": [{"name": "a", "args": ["x", "-y", "1"]}, ["nested", ["deeper"]], 5, true],
        "texts": {
            "plain": "a b/c:d", "colon": "a: b", "hash": "a #b", "quote": "it's", "number": "1.0", "bool": "yes",
            "date": "2026-01-31T12:00:00Z", "octal": "0755", "sexagesimal": "12:30:45", "star": "*", "percent": "%a",
            "lines": "one\ntwo\n", "no end": "one\ntwo", "trailing": "one\ntwo\n\n", "tab": "a\tb", "pipe": "a|b",
            "dash": "-", "dashes": "---", "brace": "{a}", "space": " a", "inside": "a{b}", "ip": "10.0.0.1", "tilde": "~",
            "vip": "inbound-vip|9080|http|reviews.default.svc.cluster.local", "null": "null", "colon at end": "a:"
        }
    });
    insta::assert_snapshot!("emitted", to_yaml(&value));
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let text = prop_oneof![
        "[ -~\n\t]{0,20}",
        "\\PC{0,8}",
        ".{0,8}",
        "(yes|no|on|~|null|0x1f|0o7|1e3|1_000|012|1:30|2026-01-02|\\.5|5\\.|-|- a|\\? b|: c|a:|#|a #b|'|\"|%|@|`|!x|&y|\\*z)",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        text.clone().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn load_back(yaml: &str) -> Result<serde_json::Value, String> {
    let chunks = load::split(yaml);
    let [chunk] = chunks.as_slice() else {
        return Err(format!("{} documents", chunks.len()));
    };
    match load::load(*chunk) {
        Ok(node) => Ok(node.map_or(serde_json::Value::Null, |n| n.to_json())),
        Err(e) => Err(e.message),
    }
}

const MESH: &str = include_str!("testdata/broken.yaml");
/// Bits of manifests and of YAML, to be put together at random.
const BITS: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<",
    "|",
    ">",
    "'",
    "\"",
    "#",
    "---\n",
    "...\n",
    "!",
    "!!str ",
    "%",
    "? ",
    "\t",
    "a",
    "apiVersion: v1\n",
    "kind: Service\n",
    "metadata: {name: a}\n",
    "spec:\n",
    "ports: ",
    "80",
    "\u{feff}",
    "\u{0}",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_written_is_read_again(value in json_value()) {
        let yaml = to_yaml(&value);
        if value.is_null() {
            return Ok(());
        }
        prop_assert_eq!(load_back(&yaml), Ok(value), "{}", yaml);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = parse_documents("f", &text);
    }

    #[test]
    fn no_mixture_of_yaml_makes_the_parser_panic(bits in prop::collection::vec(prop::sample::select(BITS), 0..40)) {
        let _ = parse_documents("f", &bits.concat());
    }

    #[test]
    fn no_damage_to_manifests_makes_the_parser_panic(at in 0..MESH.len(), len in 0..40usize, bit in prop::sample::select(BITS)) {
        let end = (at + len).min(MESH.len());
        if let (Some(before), Some(after)) = (MESH.get(..at), MESH.get(end..)) {
            let _ = parse_documents("f", &format!("{before}{bit}{after}"));
        }
    }
}
