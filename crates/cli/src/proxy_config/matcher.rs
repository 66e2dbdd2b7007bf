//! What leads to a filter chain: the text of a `filter_chain_match`, and the walk through a matcher tree.

use std::cmp::Ordering;
use std::net::IpAddr;

use serde_json::Value;

use crate::dump::{field, items, number, path, text};

const IP_MATCHER: &str = "type.googleapis.com/xds.type.matcher.v3.IPMatcher";

/// Known lists of application protocols and what upstream calls them.
const PROTOCOLS: &[(&str, &[&str])] = &[
    (
        "App: HTTP TLS",
        &[
            "http/1.0",
            "http/1.1",
            "h2c",
            "istio-http/1.0",
            "istio-http/1.1",
            "istio-h2",
        ],
    ),
    (
        "App: Istio HTTP Plain",
        &["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"],
    ),
    ("App: TCP TLS", &["istio-peer-exchange", "istio"]),
    ("App: HTTP", &["http/1.0", "http/1.1", "h2c"]),
];

/// The text of a chain's `filter_chain_match`; `ALL` when it has none.
pub(crate) fn chain_match(chain: &Value) -> String {
    let Some(m) = field(chain, "filter_chain_match") else {
        return "ALL".into();
    };
    let strings = |name| -> Vec<&str> { items(m, name).iter().filter_map(Value::as_str).collect() };
    let mut parts = Vec::new();
    let names = strings("server_names");
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(m, "transport_protocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols = strings("application_protocols");
    if !protocols.is_empty() {
        let known = PROTOCOLS.iter().find(|(_, list)| *list == protocols);
        parts.push(known.map_or_else(
            || format!("App: {}", protocols.join(",")),
            |(text, _)| (*text).to_owned(),
        ));
    }
    let port = number(m, "destination_port");
    let ranges: Vec<String> = items(m, "prefix_ranges")
        .iter()
        .map(|r| format!("{}/{}", text(r, "address_prefix"), number(r, "prefix_len")))
        .collect();
    match (ranges.is_empty(), port) {
        (true, 0) => {}
        (true, port) => parts.push(format!("Addr: *:{port}")),
        (false, 0) => parts.push(format!("Addr: {}", ranges.join(","))),
        (false, port) => parts.push(format!("Addr: {}:{port}", ranges.join(","))),
    }
    if parts.is_empty() {
        "ALL".into()
    } else {
        parts.join("; ")
    }
}

/// The texts of all ways through the listener's matcher to the chain of that name.
pub(crate) fn ways(listener: &Value, chain: &Value) -> Vec<String> {
    let Some(matcher) = field(listener, "filter_chain_matcher") else {
        return vec![chain_match(chain)];
    };
    let name = text(chain, "name");
    let found = match field(matcher, "on_no_match") {
        Some(other) if action(other) == Some(name) => return vec!["UNMATCHED".into()],
        Some(other) => {
            field(other, "matcher").map_or_else(|| walk(name, matcher), |m| walk(name, m))
        }
        None => walk(name, matcher),
    };
    if found.is_empty() {
        vec!["NONE".into()]
    } else {
        found
    }
}

fn walk(chain: &str, matcher: &Value) -> Vec<String> {
    if let Some(other) = field(matcher, "on_no_match") {
        if action(other) == Some(chain) {
            return vec!["ANY".into()];
        }
        if let Some(nested) = field(other, "matcher") {
            let found = walk(chain, nested);
            return if found.is_empty() {
                vec!["NONE".into()]
            } else {
                found
            };
        }
    }
    let Some(tree) = field(matcher, "matcher_tree") else {
        return Vec::new();
    };
    let input = path(tree, &["input"]).map_or("", |i| text(i, "name"));
    let mut found: Vec<(Key, String)> = Vec::new();
    for (operator, key, on_match) in entries(tree) {
        let label = format!("{input}{operator}{key}");
        if action(on_match) == Some(chain) {
            found.push((Key::of(&key), label));
        } else if let Some(nested) = field(on_match, "matcher") {
            let children = walk(chain, nested);
            found.extend(
                children
                    .into_iter()
                    .map(|child| (Key::of(&key), format!("{label} -> {child}"))),
            );
        }
    }
    // Upstream's order is that of a hash map: ours is by address, then port, then text, `ANY` last.
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| natural(&a.1, &b.1)));
    found.into_iter().map(|(_, text)| text).collect()
}

/// Operator, key and target of every entry of a matcher tree.
fn entries(tree: &Value) -> Vec<(&'static str, String, &Value)> {
    let map = |name: &str, operator: &'static str| {
        path(tree, &[name, "map"])
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(move |(key, on_match)| (operator, key.clone(), on_match))
            .collect::<Vec<_>>()
    };
    let mut all = map("exact_match_map", "=");
    all.extend(map("prefix_match_map", "^"));
    if let Some(config) = path(tree, &["custom_match", "typed_config"]) {
        if text(config, "@type") != IP_MATCHER {
            all.push(("=", "?".into(), &Value::Null));
        }
        for matcher in items(config, "range_matchers") {
            let Some(on_match) = field(matcher, "on_match") else {
                continue;
            };
            for range in items(matcher, "ranges") {
                let address = text(range, "address_prefix");
                let length = number(range, "prefix_len");
                let host = if address.contains(':') { 128 } else { 32 };
                let key = if length == host {
                    address.to_owned()
                } else {
                    format!("{address}/{length}")
                };
                all.push(("=", key, on_match));
            }
        }
    }
    all
}

fn action(on_match: &Value) -> Option<&str> {
    field(on_match, "action").map(|a| text(a, "name"))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Address(IpAddr),
    Number(u64),
    Text(String),
}

impl Key {
    fn of(key: &str) -> Self {
        let address = key.split('/').next().unwrap_or(key);
        if let Ok(ip) = address.parse() {
            Self::Address(ip)
        } else if let Ok(n) = key.parse() {
            Self::Number(n)
        } else {
            Self::Text(key.to_owned())
        }
    }
}

fn natural(a: &str, b: &str) -> Ordering {
    let any_last = |s: &str| s.ends_with("ANY");
    any_last(a).cmp(&any_last(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn listener() -> Value {
        let chain = |name: &str| json!({"action": {"name": name}});
        json!({"filter_chain_matcher": {"matcher_tree": {
            "input": {"name": "ip"},
            "custom_match": {"name": "ip", "typed_config": {"@type": IP_MATCHER, "range_matchers": [
                {"ranges": [{"address_prefix": "10.96.104.108", "prefix_len": 32}],
                 "on_match": {"matcher": {"matcher_tree": {"input": {"name": "port"},
                    "exact_match_map": {"map": {"9080": chain("http"), "80": chain("http")}}}}}},
                {"ranges": [{"address_prefix": "10.244.2.14", "prefix_len": 32}, {"address_prefix": "10.244.1.0", "prefix_len": 24}],
                 "on_match": {"matcher": {"matcher_tree": {"input": {"name": "application-protocol"},
                    "exact_match_map": {"map": {"'http/1.1'": chain("direct-http"), "'h2c'": chain("direct-http")}}},
                    "on_no_match": chain("direct-tcp")}}}]}}}}})
    }

    #[test]
    fn walks_the_tree_of_a_waypoint() {
        let ways = |name: &str| ways(&listener(), &json!({"name": name}));
        assert_eq!(
            ways("http"),
            [
                "ip=10.96.104.108 -> port=80",
                "ip=10.96.104.108 -> port=9080"
            ]
        );
        assert_eq!(
            ways("direct-tcp"),
            ["ip=10.244.1.0/24 -> ANY", "ip=10.244.2.14 -> ANY"]
        );
        assert_eq!(
            ways("direct-http"),
            [
                "ip=10.244.1.0/24 -> application-protocol='h2c'",
                "ip=10.244.1.0/24 -> application-protocol='http/1.1'",
                "ip=10.244.2.14 -> application-protocol='h2c'",
                "ip=10.244.2.14 -> application-protocol='http/1.1'",
            ]
        );
        assert_eq!(ways("other"), ["NONE"]);
    }

    #[test]
    fn describes_chain_matches() {
        for (chain, want) in [
            (json!({}), "ALL"),
            (
                json!({"filter_chain_match": {"server_names": ["a", "b"], "transport_protocol": "tls"}}),
                "SNI: a,b; Trans: tls",
            ),
            (
                json!({"filter_chain_match": {"application_protocols": ["http/1.0", "http/1.1", "h2c"]}}),
                "App: HTTP",
            ),
            (
                json!({"filter_chain_match": {"prefix_ranges": [{"address_prefix": "10.0.0.1", "prefix_len": 32}], "destination_port": 80}}),
                "Addr: 10.0.0.1/32:80",
            ),
            (
                json!({"filterChainMatch": {"destinationPort": 80}}),
                "Addr: *:80",
            ),
        ] {
            assert_eq!(chain_match(&chain), want);
        }
    }
}
