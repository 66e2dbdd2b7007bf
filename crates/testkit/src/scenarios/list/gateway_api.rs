//! Rules of the Gateway API, where they are not those of a VirtualService.

use super::routing::paths;
use super::scenario;
use crate::scenarios::Scenario;

/// An HTTPRoute for the scenario's service, and services for two of its versions.
macro_rules! http_route {
    ($rules:expr) => {
        concat!(
            "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  selector: {app: echo}\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n---\n",
            "apiVersion: v1\nkind: Service\nmetadata: {name: HOST-v1, namespace: scenarios}\nspec:\n  selector: {app: echo, version: v1}\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n---\n",
            "apiVersion: v1\nkind: Service\nmetadata: {name: HOST-v2, namespace: scenarios}\nspec:\n  selector: {app: echo, version: v2}\n  ports:\n  - {name: http, port: 80, targetPort: 8080}\n---\n",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n",
            "  parentRefs: [{group: '', kind: Service, name: HOST}]\n  rules:\n",
            $rules
        )
    };
}

pub(super) const LIST: &[Scenario] = &[
    scenario(
        "gateway api: prefixes are of path segments",
        http_route!(
            "  - matches: [{path: {type: PathPrefix, value: /pre}}]\n    backendRefs: [{name: HOST-v2, port: 80}]\n  - backendRefs: [{name: HOST-v1, port: 80}]\n"
        ),
        |site| paths(site, &["/pre", "/pre/x?y=z"], &["/prefix", "/"]),
    ),
    scenario(
        "gateway api: split by weight",
        http_route!(
            "  - backendRefs:\n    - {name: HOST-v1, port: 80, weight: 1}\n    - {name: HOST-v2, port: 80, weight: 3}\n"
        ),
        |site| {
            let pods = site.pods("/", 200)?;
            let v2 = pods.get("echo-v2").copied().unwrap_or(0);
            if (120..=180).contains(&v2) && !pods.contains_key("echo-v3") {
                Ok(())
            } else {
                Err(format!("{pods:?}"))
            }
        },
    ),
    scenario(
        "gateway api: a backend that does not exist is 500",
        http_route!("  - backendRefs: [{name: HOST-nowhere, port: 80}]\n"),
        |site| {
            site.get("/")
                .flags("NC")
                .send()?
                .status(500)?
                .attempts(0)?
                .done()
        },
    ),
    scenario(
        "gateway api: header filters and a rewrite of the prefix",
        http_route!(
            "  - matches: [{path: {type: PathPrefix, value: /old}, headers: [{name: x-user, value: jason}]}]\n    filters:\n    - type: RequestHeaderModifier\n      requestHeaderModifier: {set: [{name: x-set, value: new}], remove: [x-gone]}\n    - type: ResponseHeaderModifier\n      responseHeaderModifier: {add: [{name: x-add, value: more}]}\n    - type: URLRewrite\n      urlRewrite: {hostname: other.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}\n    backendRefs: [{name: HOST-v2, port: 80}]\n"
        ),
        |site| {
            let ask = site.get("/old/x?y=z").header("x-user", "jason");
            let ask = ask.header("x-set", "old").header("x-gone", "1");
            ask.send()?
                .status(200)?
                .path("/new/x?y=z")?
                .saw("x-set", "new")?
                .saw("x-gone", "")?
                .saw("host", "other.example")?
                .with("x-add", "more")?;
            site.get("/old/x").flags("NR").send()?.status(404)?.done()
        },
    ),
    scenario(
        "gateway api: redirect with the prefix replaced",
        http_route!(
            "  - matches: [{path: {type: PathPrefix, value: /old}}]\n    filters:\n    - type: RequestRedirect\n      requestRedirect: {scheme: https, hostname: other.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}\n"
        ),
        |site| {
            site.get("/old/x?q=1")
                .send()?
                .status(301)?
                .with("location", "https://other.example/new/x?q=1")?
                .done()
        },
    ),
    scenario(
        "gateway api: timeout of the request",
        http_route!(
            "  - timeouts: {request: 300ms}\n    backendRefs: [{name: HOST-v1, port: 80}]\n"
        ),
        |site| {
            let ask = site.get("/").having("delay=3000").flags("UT");
            ask.send()?.status(504)?.within(280, 2900)?.done()
        },
    ),
];
