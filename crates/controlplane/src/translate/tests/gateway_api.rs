//! HTTPRoutes.

use std::sync::Arc;

use insta::assert_json_snapshot;
use waymark_api::Resource;
use waymark_api::gateway::{HttpRoute, ParentKind};
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, parse, service};
use crate::translate::gateway_api::{Parent, convert};
use crate::translate::input::{Flavour, PortInput, ServiceInput};

const CHAIN: &str = "inbound-vip|80|http|web.shop.svc.cluster.local";

const RULES: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  parentRefs:
  - {group: '', kind: Service, name: web}
  - {group: '', kind: Service, name: other}
  rules:
  - backendRefs: [{name: web, port: 80}]
  - name: regex
    matches: [{path: {type: RegularExpression, value: '/r/[a-z]+'}}]
    backendRefs: [{name: web, port: 80}]
  - matches:
    - path: {type: PathPrefix, value: /a}
    - path: {type: PathPrefix, value: /a/longer}
      method: GET
      headers: [{name: x-a, value: '1'}, {type: RegularExpression, name: x-b, value: b.*}]
      queryParams: [{name: q, value: '1'}]
    - path: {type: Exact, value: /a}
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-s, value: s}], add: [{name: x-t, value: t}], remove: [x-u]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-v, value: v}]}
    timeouts: {request: 5s, backendRequest: 2s}
    backendRefs:
    - {name: web, port: 80, weight: 9}
    - {name: other, port: 80, weight: 1}
    - {name: web, port: 81, weight: 0}
  - matches: [{path: {type: PathPrefix, value: /root/}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: root.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    retry: {attempts: 3, codes: [503], backoff: 20ms}
    timeouts: {request: 5s, backendRequest: 2s}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /full}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /all}}
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /moved}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}
  - matches: [{path: {type: PathPrefix, value: /secure}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: web.example}
  - matches: [{path: {type: PathPrefix, value: /nobody}}]
  - matches: [{path: {type: PathPrefix, value: /missing}}]
    backendRefs: [{name: missing, port: 1234}]
";

fn route(yaml: &str) -> Arc<HttpRoute> {
    match parse(yaml) {
        Resource::HttpRoute(route) => route,
        other => panic!("{:?}", other.kind()),
    }
}

fn parent(service: &ServiceInput) -> Parent<'_> {
    Parent {
        kind: ParentKind::Service,
        namespace: &service.namespace,
        name: &service.name,
        host: &service.host,
    }
}

#[test]
fn rules() {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    web.ports.push(PortInput {
        number: 81,
        name: String::new(),
        protocol: Protocol::Http,
    });
    web.virtual_services = convert(parent(&web), &[route(RULES)]);
    let other = service("other", "10.0.0.2", 80, Protocol::Http);
    let mesh = |flavour| Mesh::new(flavour, vec![web.clone(), other.clone()]);
    assert_json_snapshot!(mesh(Flavour::Stock).routes(CHAIN));

    // The catch-all hides the regular expression from istio-proxy, as upstream's does.
    let names = |flavour| -> Vec<String> {
        let routes = mesh(flavour).routes(CHAIN);
        let routes = routes["virtual_hosts"][0]["routes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        routes
            .iter()
            .filter_map(|route| route["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let (stock, istio) = (names(Flavour::Stock), names(Flavour::IstioProxy));
    assert_eq!(
        stock.iter().position(|name| name == "regex"),
        Some(stock.len() - 2)
    );
    assert_eq!(
        istio,
        stock
            .into_iter()
            .filter(|name| name != "regex")
            .collect::<Vec<_>>()
    );
}

/// Routes of one namespace, service and port are one; their rules are sorted together.
#[test]
fn merges_by_namespace_and_port() {
    let one = |namespace: &str, name: &str, port: &str, path: &str| {
        route(&format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, \
             metadata: {{name: {name}, namespace: {namespace}}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: web, namespace: shop{port}}}], \
             rules: [{{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], \
             backendRefs: [{{name: web, namespace: shop, port: 80}}]}}]}}}}"
        ))
    };
    let routes = [
        one("shop", "a", "", "/a"),
        one("shop", "b", "", "/bb"),
        one("shop", "c", ", port: 80", "/c"),
        one("other", "d", "", "/d"),
    ];
    let web = service("web", "10.0.0.1", 80, Protocol::Http);
    let converted = convert(parent(&web), &routes);
    let summary: Vec<_> = converted
        .iter()
        .map(|input| {
            let rules = input
                .spec
                .http
                .iter()
                .filter_map(|rule| rule.name.as_deref())
                .collect::<Vec<_>>();
            (&*input.spec.meta.name, rules)
        })
        .collect();
    assert_eq!(
        summary,
        [
            ("other~web.shop.svc.cluster.local", vec!["other.d.0"]),
            (
                "shop~web.shop.svc.cluster.local",
                vec!["shop.b.0", "shop.a.0"]
            ),
            ("shop~80~web.shop.svc.cluster.local", vec!["shop.c.0"]),
        ]
    );
}
