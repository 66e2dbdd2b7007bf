//! One rule of a VirtualService after the other.

use std::sync::Arc;
use std::time::Duration;

use insta::assert_json_snapshot;
use waymark_api::Resource;
use waymark_api::host::Host;
use waymark_api::istio::destination_rule::{
    ConsistentHash, HashAlgorithm, HashKey, LoadBalancer, TrafficPolicy,
};
use waymark_api::istio::virtual_service::{
    Abort, CorsPolicy, Destination, Fault, HttpMatch, Mirror, Retries,
};
use waymark_api::matcher::{Fraction, StringMatch};
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, destination_rule, parse, rule, service, to, virtual_service};
use crate::translate::input::{Flavour, ServiceInput, VirtualServiceInput};

const CHAIN: &str = "inbound-vip|80|http|web.shop.svc.cluster.local";

fn native(yaml: &str) -> VirtualServiceInput {
    match parse(yaml) {
        Resource::VirtualService(spec) => VirtualServiceInput::native(spec),
        other => panic!("{:?}", other.kind()),
    }
}

fn web() -> ServiceInput {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    let none = TrafficPolicy::default;
    web.destination_rule = Some(Arc::new(destination_rule(
        "web",
        none(),
        &[("v1", none()), ("v2", none())],
    )));
    web
}

fn mesh(flavour: Flavour, web: ServiceInput) -> Mesh {
    let db = service("db", "10.0.0.2", 5432, Protocol::Tcp);
    let mut far = service("far", "10.0.0.3", 8080, Protocol::Http);
    far.host = "far.other.svc.cluster.local".to_owned();
    Mesh::new(flavour, vec![web, db]).foreign(far)
}

const RULES: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http:
  - name: all-matches
    match:
    - name: exact
      uri: {exact: /a}
      ignoreUriCase: true
      method: {exact: GET}
      scheme: {exact: http}
      authority: {prefix: web}
      headers: {x-b: {prefix: b}, x-a: {exact: a}, x-c: {regex: c.*}, x-d: {}}
      withoutHeaders: {x-e: {exact: e}, x-f: {}}
      queryParams: {p: {exact: '1'}, q: {regex: '[0-9]+'}, r: {}}
    - name: regex
      uri: {regex: /r/.*}
    - name: other-port
      uri: {prefix: /never}
      port: 81
    - name: other-gateway
      uri: {prefix: /never}
      gateways: [ingress]
    - name: clients-labels
      uri: {prefix: /never}
      sourceLabels: {app: x}
    - name: other-namespace
      uri: {prefix: /never}
      sourceNamespace: elsewhere
    - name: own-namespace
      uri: {prefix: /own}
      sourceNamespace: shop
    route: [{destination: {host: web, subset: v1}}]
  - name: split
    match: [{uri: {prefix: /split}}]
    route:
    - destination: {host: web, subset: v1}
      weight: 3
      headers: {request: {set: {x-version: v1, host: v1.example}}}
    - destination: {host: web, subset: v2}
      weight: 1
    - destination: {host: web}
      weight: 0
  - name: timeouts
    match: [{uri: {prefix: /slow}}]
    timeout: 1.5s
    retries: {attempts: 4, perTryTimeout: 500ms, retryOn: '5xx,503,429', backoff: 10ms}
    route: [{destination: {host: web}}]
  - name: no-retries
    match: [{uri: {prefix: /once}}]
    retries: {attempts: 0}
    route: [{destination: {host: web}}]
  - name: headers
    match: [{uri: {prefix: /headers}}]
    headers:
      request: {set: {x-b: '2', x-a: '1'}, add: {x-c: '3'}, remove: [x-d]}
      response: {set: {x-e: '%PROTOCOL%'}, add: {x-f: '4'}, remove: [x-g]}
    route: [{destination: {host: web}, headers: {request: {add: {x-h: '5'}}}}]
  - name: rewrite
    match: [{uri: {prefix: /old}}]
    rewrite: {uri: /new, authority: new.example}
    route: [{destination: {host: web}}]
  - name: rewrite-regex
    match: [{uri: {prefix: /id}}]
    rewrite: {uriRegexRewrite: {match: '^/id/([0-9]+)', rewrite: '/item/\1'}}
    route: [{destination: {host: web}}]
  - name: redirect
    match: [{uri: {prefix: /gone}}]
    redirect: {uri: /here, authority: here.example, scheme: https, port: 443, redirectCode: 308}
  - name: redirect-port
    match: [{uri: {prefix: /gone2}}]
    redirect: {authority: here.example, port: 8080}
  - name: answer
    match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: short and stout}}
  - name: foreign
    match: [{uri: {prefix: /far}}]
    route: [{destination: {host: far.other.svc.cluster.local}}]
  - name: missing
    match: [{uri: {prefix: /missing}}]
    route: [{destination: {host: missing.shop.svc.cluster.local, port: {number: 1234}}}]
  - name: bytes
    match: [{uri: {prefix: /db}}]
    route: [{destination: {host: db}}]
  - name: rest
    route: [{destination: {host: web}}]
  - name: never
    match: [{uri: {prefix: /never}}]
    route: [{destination: {host: web}}]
";

#[test]
fn rules() {
    let mut web = web();
    web.virtual_services = vec![native(RULES)];
    assert_json_snapshot!(
        "virtual_service_stock",
        mesh(Flavour::Stock, web.clone()).routes(CHAIN)
    );
    assert_json_snapshot!(
        "virtual_service_istio_proxy",
        mesh(Flavour::IstioProxy, web).routes(CHAIN)
    );
}

/// What manifests may not say yet.
#[test]
fn fault_cors_mirror_hash_and_far_retries() {
    let mut web = web();
    let condition = |path: &str| {
        Some(HttpMatch {
            uri: Some(StringMatch::Prefix(path.to_owned())),
            ..HttpMatch::default()
        })
    };
    let mut faulty = rule("faulty", condition("/faulty"), to(&[("web", 1)]));
    faulty.fault = Some(Fault {
        delay: Some((
            Duration::from_millis(1500),
            Fraction::from_percent(12.5).expect("a share"),
        )),
        abort: Some((
            Abort::Http(503),
            Fraction::from_percent(0.1).expect("a share"),
        )),
    });
    faulty.cors = Some(CorsPolicy {
        allow_origins: vec![StringMatch::Exact("https://a.example".to_owned())],
        allow_methods: vec!["GET".to_owned(), "POST".to_owned()],
        allow_headers: vec!["x-a".to_owned()],
        expose_headers: Vec::new(),
        max_age: Some(Duration::from_secs(86400)),
        allow_credentials: Some(true),
        forward_unmatched_preflights: false,
    });
    let mut mirrored = rule("mirrored", condition("/mirrored"), to(&[("web/v1", 1)]));
    let copy = |fraction| Mirror {
        destination: Destination {
            host: Host::parse("db").expect("a host"),
            subset: None,
            port: None,
        },
        fraction,
    };
    let shares =
        [100.0, 25.0, 0.0].map(|percent| Fraction::from_percent(percent).expect("a share"));
    mirrored.retries = Some(Retries {
        attempts: 1,
        per_try_timeout: None,
        conditions: Vec::new(),
        codes: Vec::new(),
        retry_on: None,
        retry_remote_localities: true,
        ignore_previous_hosts: false,
        backoff: None,
    });
    mirrored.mirrors = shares.map(copy).to_vec();
    let split = rule("split", None, to(&[("web/v1", 1), ("web/v2", 1)]));
    web.virtual_services = vec![virtual_service("web", vec![faulty, mirrored, split])];
    let by_cookie = TrafficPolicy {
        load_balancer: Some(LoadBalancer::ConsistentHash(ConsistentHash {
            key: HashKey::Cookie {
                name: "c".to_owned(),
                path: Some("/".to_owned()),
                ttl: Some(Duration::from_secs(60)),
            },
            algorithm: HashAlgorithm::RingHash {
                minimum_ring_size: 1024,
            },
        })),
        ..TrafficPolicy::default()
    };
    let none = TrafficPolicy::default;
    web.destination_rule = Some(Arc::new(destination_rule(
        "web",
        none(),
        &[("v1", by_cookie), ("v2", none())],
    )));
    assert_json_snapshot!(mesh(Flavour::Stock, web).routes(CHAIN));
}

/// Rules of several, oldest first; one that says nothing for this port leaves the default.
#[test]
fn several_are_concatenated() {
    let one = |name: &str, created: &str, path: &str| {
        native(&format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, \
             metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}, \
             spec: {{hosts: [web], http: [{{match: [{{uri: {{prefix: {path}}}}}], \
             route: [{{destination: {{host: web}}}}]}}]}}}}"
        ))
    };
    let mut web = web();
    web.virtual_services = vec![
        one("b", "2026-01-02T00:00:00Z", "/third"),
        one("c", "2026-01-01T00:00:00Z", "/second"),
        one("a", "2026-01-01T00:00:00Z", "/first"),
    ];
    let routes = mesh(Flavour::Stock, web.clone()).routes(CHAIN);
    let routes = routes["virtual_hosts"][0]["routes"]
        .as_array()
        .expect("routes");
    let paths: Vec<_> = routes
        .iter()
        .map(|route| route["match"]["prefix"].as_str())
        .collect();
    assert_eq!(paths, [Some("/first"), Some("/second"), Some("/third")]);

    web.virtual_services = vec![native(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: shop}, \
         spec: {hosts: [web], http: [{match: [{port: 81}], route: [{destination: {host: web}}]}]}}",
    )];
    let routes = mesh(Flavour::Stock, web).routes(CHAIN);
    assert_eq!(routes["virtual_hosts"][0]["routes"][0]["name"], "default");
}

/// A weight is the routes' business alone.
#[test]
fn a_weight_changes_one_route_configuration() {
    let with = |weight| {
        let mut web = web();
        let split = to(&[("web/v1", weight), ("web/v2", 10)]);
        web.virtual_services = vec![virtual_service("web", vec![rule("", None, split)])];
        mesh(Flavour::Stock, web).resources()
    };
    let (before, after) = (with(90), with(50));
    let changed: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| before != after)
        .collect();
    let names: Vec<_> = changed
        .iter()
        .map(|(_, after)| (after.type_url(), &*after.name))
        .collect();
    assert_eq!(
        names,
        [(
            "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            CHAIN
        )]
    );
}
