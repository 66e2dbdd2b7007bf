//! Random VirtualServices and HTTPRoutes.

use proptest::bool::ANY;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_oneof};
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::mesh::{NAMESPACE, PREFIX, SERVICES, manifest, object};

const EXACT_PATHS: [&str; 6] = ["/", "/a", "/a/b", "/ab", "/A/B", "/b/"];
const PREFIXES: [&str; 6] = ["/", "/a", "/a/", "/ab", "/b", "/A"];
const PATH_REGEXES: [&str; 5] = ["/a.*", "/[ab]/.+", "/a(/b)?", ".*b", "/(a|b)/?"];
/// What paths become; the prefix that was matched is replaced where there is one.
const NEW_PATHS: [&str; 5] = ["/", "/x", "/x/", "/x/y", "/a"];
const HEADERS: [&str; 2] = ["x-one", "x-two"];
const VALUES: [&str; 3] = ["one", "two", "on"];
const VALUE_REGEXES: [&str; 4] = ["o.*", "one|two", "[a-z]+", ".*e"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const REDIRECTS: [u16; 4] = [301, 302, 307, 308];
/// Few enough that the rarest destination is seen soon.
const WEIGHTS: [u32; 4] = [0, 1, 2, 3];

type Fragment = BoxedStrategy<Value>;

pub(super) fn virtual_service() -> impl Strategy<Value = Value> {
    let hosts = select(vec!["HOST", "HOST.mesh.svc.cluster.local"]);
    (hosts, vec(rule(), 1..=4)).prop_map(|(host, rules)| {
        manifest(
            "networking.istio.io/v1",
            "VirtualService",
            "HOST-rules",
            json!({"hosts": [host], "http": rules}),
        )
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let action = prop_oneof![
        5 => (vec(destination(), 1..=3), option::of(rewrite())).prop_map(|(mut route, rewrite)| {
            // Some weight there has to be.
            if route.len() > 1 && route.iter().all(|d| d["weight"].as_u64().unwrap_or(0) == 0) {
                route[0]["weight"] = 1.into();
            }
            vec![("route", Some(route.into())), ("rewrite", rewrite)]
        }),
        1 => redirect().prop_map(|redirect| vec![("redirect", Some(redirect))]),
        1 => select(vec![200, 404, 503]).prop_map(|status| {
            let body = json!({"string": format!("direct {status}")});
            vec![("directResponse", Some(json!({"status": status, "body": body})))]
        }),
    ];
    let matches = prop_oneof![1 => Just(Vec::new()), 4 => vec(rule_match(), 1..=3)];
    (matches, action, option::weighted(0.3, headers())).prop_map(|(matches, action, headers)| {
        let mut rule = object([("match", some(matches)), ("headers", headers)]);
        for (name, value) in action {
            if let Some(value) = value {
                rule[name] = value;
            }
        }
        rule
    })
}

fn rule_match() -> impl Strategy<Value = Value> {
    (
        option::weighted(0.7, (uri_match(), option::weighted(0.2, ANY))),
        option::weighted(0.2, text_match(&METHODS, &["GET|POST"])),
        option::weighted(0.15, authority_match()),
        option::weighted(0.3, by_name(value_match())),
        option::weighted(0.2, by_name(value_match())),
        option::weighted(0.2, by_query(text_match(&VALUES, &VALUE_REGEXES))),
        option::weighted(0.15, select(vec![80, 81, 7000])),
    )
        .prop_map(|(uri, method, authority, with, without, query, port)| {
            let (uri, ignore) = uri.map_or((None, None), |(uri, ignore)| (Some(uri), ignore));
            object([
                ("uri", uri),
                ("ignoreUriCase", ignore.map(Value::from)),
                ("method", method),
                ("authority", authority),
                ("headers", with),
                ("withoutHeaders", without),
                ("queryParams", query),
                ("port", port.map(Value::from)),
            ])
        })
}

fn destination() -> impl Strategy<Value = Value> {
    (
        0..SERVICES,
        option::weighted(0.6, select(vec!["v1", "v2", "every", "none"])),
        option::weighted(0.4, select(vec![80, 81, 9000])),
        option::weighted(0.8, select(WEIGHTS.to_vec())),
        option::weighted(0.2, headers()),
    )
        .prop_map(|(service, subset, port, weight, headers)| {
            let to = object([
                ("host", Some(format!("{PREFIX}-{service}").into())),
                ("subset", subset.map(Value::from)),
                ("port", port.map(|number| json!({"number": number}))),
            ]);
            object([
                ("destination", Some(to)),
                ("weight", weight.map(Value::from)),
                ("headers", headers),
            ])
        })
}

fn rewrite() -> impl Strategy<Value = Value> {
    let regex = json!({"match": "/([a-z])", "rewrite": "/r-\\1"});
    let path = prop_oneof![
        3 => select(NEW_PATHS.to_vec()).prop_map(|path| json!({"uri": path})),
        1 => Just(json!({"uriRegexRewrite": regex})),
        1 => Just(json!({})),
    ];
    (path, ANY).prop_map(|(mut rewrite, authority)| {
        if authority || rewrite == json!({}) {
            rewrite["authority"] = "rewritten.example".into();
        }
        rewrite
    })
}

fn redirect() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        Just(json!({})),
        Just(json!({"port": 8443})),
        Just(json!({"derivePort": "FROM_REQUEST_PORT"})),
        Just(json!({"derivePort": "FROM_PROTOCOL_DEFAULT"})),
    ];
    (
        option::of(select(NEW_PATHS.to_vec())),
        option::of(Just("elsewhere.example")),
        option::of(select(vec!["https", "http"])),
        port,
        option::of(select(REDIRECTS.to_vec())),
    )
        .prop_map(|(uri, authority, scheme, mut redirect, code)| {
            for (name, value) in [
                ("uri", uri.map(Value::from)),
                ("authority", authority.map(Value::from)),
                ("scheme", scheme.map(Value::from)),
            ] {
                if let Some(value) = value {
                    redirect[name] = value;
                }
            }
            // It has to lead elsewhere.
            if redirect == json!({}) {
                redirect["uri"] = "/moved".into();
            }
            if let Some(code) = code {
                redirect["redirectCode"] = code.into();
            }
            redirect
        })
}

fn headers() -> impl Strategy<Value = Value> {
    (option::of(operations()), option::of(operations()))
        .prop_map(|(request, response)| object([("request", request), ("response", response)]))
}

fn operations() -> impl Strategy<Value = Value> {
    (
        option::of(changes()),
        option::of(changes()),
        option::of(select(HEADERS.to_vec())),
    )
        .prop_map(|(set, add, remove)| {
            object([
                ("set", set),
                ("add", add),
                ("remove", remove.map(|name| json!([name]))),
            ])
        })
}

fn changes() -> impl Strategy<Value = Value> {
    let value = select(vec!["set", "%REQ(x-one)%", "50%%", "%PROTOCOL%"]);
    (subsequence(vec!["x-one", "x-two", "x-new"], 1..=2), value).prop_map(|(names, value)| {
        let pairs = names.into_iter().map(|n| (n.to_owned(), value.into()));
        Value::Object(pairs.collect())
    })
}

fn uri_match() -> Fragment {
    prop_oneof![
        select(EXACT_PATHS.to_vec()).prop_map(|path| json!({"exact": path})),
        select(PREFIXES.to_vec()).prop_map(|path| json!({"prefix": path})),
        select(PATH_REGEXES.to_vec()).prop_map(|regex| json!({"regex": regex})),
    ]
    .boxed()
}

fn authority_match() -> Fragment {
    let exact = ["HOST", "HOST.mesh.svc.cluster.local", "other.example"];
    text_match(&exact, &["HOST.*", ".*example"])
}

/// Exactly, by a beginning, or by a regular expression.
fn text_match(words: &[&'static str], regexes: &[&'static str]) -> Fragment {
    let words = words.to_vec();
    prop_oneof![
        select(words.clone()).prop_map(|word| json!({"exact": word})),
        select(words).prop_map(|word| json!({"prefix": word[..word.len() - 1]})),
        select(regexes.to_vec()).prop_map(|regex| json!({"regex": regex})),
    ]
    .boxed()
}

/// Of a header; that it is there may be all.
fn value_match() -> Fragment {
    prop_oneof![5 => text_match(&VALUES, &VALUE_REGEXES), 1 => Just(json!({}))].boxed()
}

fn by_name(value: Fragment) -> impl Strategy<Value = Value> {
    (subsequence(HEADERS.to_vec(), 1..=2), value).prop_map(|(names, value)| {
        let pairs = names.into_iter().map(|n| (n.to_owned(), value.clone()));
        Value::Object(pairs.collect())
    })
}

fn by_query(value: Fragment) -> impl Strategy<Value = Value> {
    (select(vec!["q", "r"]), value).prop_map(|(name, value)| json!({name: value}))
}

fn some(list: Vec<Value>) -> Option<Value> {
    (!list.is_empty()).then(|| list.into())
}

/// An HTTPRoute of the service, or of one of its ports.
pub(super) fn http_route(name: &'static str) -> impl Strategy<Value = Value> {
    let port = option::weighted(0.4, select(vec![80, 81, 7000]));
    (port, vec(route_rule(), 1..=3)).prop_map(move |(port, rules)| {
        let parent = object([
            ("group", Some("".into())),
            ("kind", Some("Service".into())),
            ("name", Some("HOST".into())),
            ("port", port.map(Value::from)),
        ]);
        manifest(
            "gateway.networking.k8s.io/v1",
            "HTTPRoute",
            &format!("HOST-{name}"),
            json!({"parentRefs": [parent], "rules": rules}),
        )
    })
}

fn route_rule() -> impl Strategy<Value = Value> {
    // Only where a single prefix is matched there is one to replace.
    let of_prefix = (select(PREFIXES.to_vec()), route_match(Just(None).boxed())).prop_map(
        |(prefix, mut one)| {
            one["path"] = json!({"type": "PathPrefix", "value": prefix});
            (vec![one], true)
        },
    );
    let any = vec(
        route_match(option::weighted(0.7, path_match()).boxed()),
        0..=3,
    )
    .prop_map(|matches| (matches, false));
    (
        prop_oneof![of_prefix, any],
        vec(backend(), 0..=3),
        option::weighted(0.25, (path_change(), option::of(Just("rewritten.example")))),
        option::weighted(0.15, route_redirect()),
        option::weighted(
            0.3,
            modifier("RequestHeaderModifier", "requestHeaderModifier"),
        ),
        option::weighted(
            0.3,
            modifier("ResponseHeaderModifier", "responseHeaderModifier"),
        ),
    )
        .prop_map(
            |((matches, one_prefix), backends, rewrite, redirect, request, response)| {
                let path = |(mut path, plain): (Value, Value)| {
                    if path["type"] == "ReplacePrefixMatch" && !one_prefix {
                        path = plain;
                    }
                    path
                };
                let mut filters: Vec<Value> = [request, response].into_iter().flatten().collect();
                let redirected = redirect.is_some();
                if let Some((mut redirect, change)) = redirect {
                    if let Some(change) = change {
                        redirect["path"] = path(change);
                    }
                    filters.push(json!({"type": "RequestRedirect", "requestRedirect": redirect}));
                } else if let Some((change, host)) = rewrite {
                    let rewrite = object([
                        ("path", Some(path(change))),
                        ("hostname", host.map(Value::from)),
                    ]);
                    filters.push(json!({"type": "URLRewrite", "urlRewrite": rewrite}));
                }
                let backends = if redirected { Vec::new() } else { backends };
                object([
                    ("matches", some(matches)),
                    ("filters", some(filters)),
                    ("backendRefs", some(backends)),
                ])
            },
        )
}

fn route_match(path: BoxedStrategy<Option<Value>>) -> impl Strategy<Value = Value> {
    (
        path,
        option::weighted(0.3, named(&HEADERS)),
        option::weighted(0.2, named(&["q", "r"])),
        option::weighted(0.2, select(METHODS.to_vec())),
    )
        .prop_map(|(path, headers, query, method)| {
            object([
                ("path", path),
                ("headers", headers),
                ("queryParams", query),
                ("method", method.map(Value::from)),
            ])
        })
}

fn path_match() -> Fragment {
    let of = |kind: &'static str, paths: &[&'static str]| {
        select(paths.to_vec()).prop_map(move |path| json!({"type": kind, "value": path}))
    };
    prop_oneof![
        of("Exact", &EXACT_PATHS),
        of("PathPrefix", &PREFIXES),
        of("RegularExpression", &PATH_REGEXES),
    ]
    .boxed()
}

/// Matches of headers or query parameters.
fn named(names: &[&'static str]) -> impl Strategy<Value = Value> + use<> {
    let value = prop_oneof![
        select(VALUES.to_vec()).prop_map(|v| json!({"type": "Exact", "value": v})),
        select(VALUE_REGEXES.to_vec())
            .prop_map(|v| json!({"type": "RegularExpression", "value": v})),
    ];
    (subsequence(names.to_vec(), 1..=2), value).prop_map(|(names, value)| {
        let with_name = |name: &str| {
            let mut value = value.clone();
            value["name"] = name.into();
            value
        };
        names.into_iter().map(with_name).collect::<Vec<_>>().into()
    })
}

fn backend() -> impl Strategy<Value = Value> {
    (
        0..SERVICES,
        select(vec![80, 81, 9000]),
        option::weighted(0.7, select(WEIGHTS.to_vec())),
        option::weighted(
            0.2,
            modifier("RequestHeaderModifier", "requestHeaderModifier"),
        ),
    )
        .prop_map(|(service, port, weight, filter)| {
            object([
                ("name", Some(format!("{PREFIX}-{service}").into())),
                ("port", Some(port.into())),
                ("weight", weight.map(Value::from)),
                ("filters", filter.map(|f| json!([f]))),
            ])
        })
}

/// A change of the path, and another for where no prefix can be replaced.
fn path_change() -> impl Strategy<Value = (Value, Value)> {
    (select(NEW_PATHS.to_vec()), ANY).prop_map(|(path, prefix)| {
        let full = json!({"type": "ReplaceFullPath", "replaceFullPath": path});
        let replaced = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path});
        (if prefix { replaced } else { full.clone() }, full)
    })
}

fn route_redirect() -> impl Strategy<Value = (Value, Option<(Value, Value)>)> {
    (
        option::of(path_change()),
        option::of(Just("elsewhere.example")),
        option::of(select(vec!["https", "http"])),
        option::of(Just(8443)),
        option::of(select(REDIRECTS.to_vec())),
    )
        .prop_map(|(path, hostname, scheme, port, code)| {
            let redirect = object([
                ("hostname", hostname.map(Value::from)),
                ("scheme", scheme.map(Value::from)),
                ("port", port.map(Value::from)),
                ("statusCode", code.map(Value::from)),
            ]);
            (redirect, path)
        })
}

/// A filter that changes headers.
fn modifier(kind: &'static str, field: &'static str) -> impl Strategy<Value = Value> {
    let change = || {
        (
            select(vec!["x-one", "x-two", "x-new"]),
            select(VALUES.to_vec()),
        )
            .prop_map(|(name, value)| json!([{"name": name, "value": value}]))
    };
    (
        option::of(change()),
        option::of(change()),
        option::of(select(HEADERS.to_vec())),
    )
        .prop_map(move |(set, add, remove)| {
            let changes = object([
                ("set", set),
                ("add", add),
                ("remove", remove.map(|name| json!([name]))),
            ]);
            json!({"type": kind, field: changes})
        })
}

/// Where manifests are: for messages.
pub(super) fn names_of_service(prefix: &str, service: usize) -> [String; 3] {
    let short = format!("{prefix}-{service}");
    [
        short.clone(),
        format!("{short}.{NAMESPACE}"),
        format!("{short}.{NAMESPACE}.svc.cluster.local"),
    ]
}
