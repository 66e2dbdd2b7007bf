//! `proxy-config listener`, in its ordinary form and with `--waypoint`.

use std::cmp::Reverse;

use clap::Args;
use serde_json::Value;

use super::SourceArgs;
use super::matcher::{chain_match, ways};
use super::route::route_match;
use crate::dump::{Dump, field, items, number, path, text};
use crate::error::CliError;
use crate::table::Table;

const HCM: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const BLACK_HOLE: &str = "BlackHoleCluster";

#[derive(Debug, Clone, Args)]
pub(crate) struct ListenerArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only listeners on this address.
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// Only listeners of this type: HTTP, TCP, HTTP+TCP.
    #[arg(long = "type", default_value = "", hide_default_value = true)]
    kind: String,
    /// Only listeners on this port.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u64,
    /// A row a filter chain, with match and destination.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    verbose: bool,
    /// Show the chains of internal listeners and what leads to them.
    #[arg(long)]
    pub(crate) waypoint: bool,
}

pub(crate) fn select<'a>(dump: &'a Dump, args: &ListenerArgs) -> Result<Vec<&'a Value>, CliError> {
    let all = dump.listeners()?;
    if all.is_empty() {
        return Err(CliError::Data("no listeners found".into()));
    }
    let mut listeners: Vec<&Value> = all
        .into_iter()
        .filter(|l| {
            (args.address.is_empty()
                || addresses(l)
                    .iter()
                    .any(|a| a.eq_ignore_ascii_case(&args.address)))
                && (args.port == 0 || port(l) == args.port)
                && (args.kind.is_empty() || kind(l).eq_ignore_ascii_case(&args.kind))
        })
        .collect();
    sort(&mut listeners);
    Ok(listeners)
}

pub(crate) fn table(dump: &Dump, args: &ListenerArgs) -> Result<String, CliError> {
    Ok(rows(select(dump, args)?, args.verbose, None).render())
}

/// `prefix`: of the further first column that `all` shows.
pub(crate) fn rows(mut listeners: Vec<&Value>, verbose: bool, prefix: Option<&str>) -> Table {
    sort(&mut listeners);
    let mut table = Table::new(1);
    let mut line = |first: String, rest: Vec<String>| {
        let first = prefix.map(|_| first);
        table.row(first.into_iter().chain(rest));
    };
    let header: &[&str] = if verbose {
        &["ADDRESSES", "PORT", "MATCH", "DESTINATION"]
    } else {
        &["ADDRESSES", "PORT", "TYPE"]
    };
    line(
        "NAME".into(),
        header.iter().map(|s| (*s).to_owned()).collect(),
    );
    for listener in listeners {
        let name = format!("{}{}", prefix.unwrap_or(""), text(listener, "name"));
        let place = [addresses(listener).join(","), port(listener).to_string()];
        if !verbose {
            line(name, place.into_iter().chain([kind(listener)]).collect());
            continue;
        }
        let mut chains: Vec<(String, String)> = chains(listener)
            .map(|chain| (destination(chain), chain_match(chain)))
            .collect();
        chains.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (destination, matched) in chains {
            let cells = place.clone().into_iter().chain([matched, destination]);
            line(name.clone(), cells.collect());
        }
    }
    table
}

/// Every listener with every chain and every way to it.
pub(crate) fn waypoint_table(dump: &Dump) -> Result<String, CliError> {
    let mut listeners = dump.listeners()?;
    if listeners.is_empty() {
        return Err(CliError::Data("no listeners found".into()));
    }
    // Internal listeners by name, then the others by port and address.
    listeners.sort_by_cached_key(|l| {
        let internal = field(l, "internal_listener").is_some();
        let name = if internal {
            text(l, "name").to_owned()
        } else {
            String::new()
        };
        (Reverse(internal), name, port(l), addresses(l), kind(l))
    });
    let mut table = Table::new(1);
    table.row(["LISTENER", "CHAIN", "MATCH", "DESTINATION"]);
    for listener in listeners {
        let name = format!("envoy://{}", listener_name(listener));
        for chain in chains(listener) {
            for way in ways(listener, chain) {
                table.row([
                    name.clone(),
                    text(chain, "name").to_owned(),
                    way,
                    destination(chain),
                ]);
            }
        }
    }
    Ok(table.render())
}

/// Its name; a static listener without one is called by its address and port.
fn listener_name(listener: &Value) -> String {
    match text(listener, "name") {
        "" => format!("{}_{}", addresses(listener).join(","), port(listener)),
        name => name.to_owned(),
    }
}

fn sort(listeners: &mut [&Value]) {
    listeners.sort_by_cached_key(|l| (port(l), addresses(l), kind(l), text(l, "name").to_owned()));
}

/// Chains in order, the default chain last.
fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    items(listener, "filter_chains")
        .iter()
        .chain(field(listener, "default_filter_chain"))
}

fn addresses(listener: &Value) -> Vec<String> {
    let one = |address: Option<&Value>| -> String {
        let Some(address) = address else {
            return String::new();
        };
        if let Some(socket) = field(address, "socket_address") {
            return text(socket, "address").to_owned();
        }
        path(address, &["pipe"]).map_or_else(String::new, |pipe| text(pipe, "path").to_owned())
    };
    let more = items(listener, "additional_addresses")
        .iter()
        .map(|a| one(field(a, "address")));
    std::iter::once(one(field(listener, "address")))
        .chain(more)
        .collect()
}

fn port(listener: &Value) -> u64 {
    path(listener, &["address", "socket_address"]).map_or(0, |s| number(s, "port_value"))
}

fn kind(listener: &Value) -> String {
    let (mut http, mut tcp) = (false, false);
    for filter in chains(listener).flat_map(|chain| items(chain, "filters")) {
        match text(filter, "name") {
            HCM => http = true,
            TCP_PROXY if !mentions(filter, BLACK_HOLE) => tcp = true,
            _ => {}
        }
    }
    match (http, tcp) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
    .to_owned()
}

/// Where a chain leads: the first HTTP connection manager or TCP proxy says so.
fn destination(chain: &Value) -> String {
    for filter in items(chain, "filters") {
        let Some(config) = field(filter, "typed_config") else {
            continue;
        };
        match text(filter, "name") {
            HCM => return http_destination(config),
            TCP_PROXY if !mentions(filter, BLACK_HOLE) => {
                return cluster_text(text(config, "cluster"));
            }
            _ => {}
        }
    }
    "Non-HTTP/Non-TCP".into()
}

fn http_destination(config: &Value) -> String {
    let Some(routes) = field(config, "route_config") else {
        return match field(config, "rds") {
            Some(rds) => format!("Route: {}", text(rds, "route_config_name")),
            None => "HTTP".into(),
        };
    };
    let hosts = items(routes, "virtual_hosts");
    if let [host] = hosts
        && is_any_domain(host)
        && let [route] = items(host, "routes")
        && path(route, &["match"]).is_some_and(|m| text(m, "prefix") == "/")
        && let Some(action) = field(route, "route")
        && !text(action, "cluster").is_empty()
    {
        return cluster_text(text(action, "cluster"));
    }
    let described: Vec<String> = hosts
        .iter()
        .map(|host| {
            let routes: Vec<String> = items(host, "routes").iter().map(route_match).collect();
            let routes = routes.join(", ");
            if is_any_domain(host) {
                return routes;
            }
            let domains: Vec<&str> = items(host, "domains")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            format!("{} {routes}", domains.join("/"))
        })
        .collect();
    format!("Inline Route: {}", described.join("; "))
}

fn cluster_text(name: &str) -> String {
    if name.contains("Cluster") {
        name.to_owned()
    } else {
        format!("Cluster: {name}")
    }
}

fn is_any_domain(host: &Value) -> bool {
    matches!(items(host, "domains"), [one] if one == "*")
}

fn mentions(filter: &Value, word: &str) -> bool {
    field(filter, "typed_config").is_some_and(|config| config.to_string().contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hcm(config: &Value) -> Value {
        json!({"filters": [{"name": HCM, "typed_config": config}]})
    }

    #[test]
    fn tells_where_a_chain_leads() {
        let route = |m: Value, action: Value| json!({"match": m, "route": action});
        let config = |routes: Value| json!({"route_config": {"virtual_hosts": [{"domains": ["*"], "routes": routes}]}});
        for (chain, want) in [
            (
                hcm(&config(json!([route(
                    json!({"prefix": "/"}),
                    json!({"cluster": "encap"})
                )]))),
                "Cluster: encap",
            ),
            (
                hcm(&config(json!([route(
                    json!({"prefix": "/"}),
                    json!({"weighted_clusters": {}})
                )]))),
                "Inline Route: /*",
            ),
            (
                hcm(&config(json!([route(
                    json!({"connect_matcher": {}}),
                    json!({"cluster": "main_internal"})
                )]))),
                "Inline Route: ",
            ),
            (hcm(&json!({"rds": {"route_config_name": "r"}})), "Route: r"),
            (hcm(&json!({})), "HTTP"),
            (
                json!({"filters": [{"name": TCP_PROXY, "typed_config": {"cluster": "encap"}}]}),
                "Cluster: encap",
            ),
            (
                json!({"filters": [{"name": TCP_PROXY, "typed_config": {"cluster": "BlackHoleCluster"}}]}),
                "Non-HTTP/Non-TCP",
            ),
            (json!({}), "Non-HTTP/Non-TCP"),
        ] {
            assert_eq!(destination(&chain), want);
        }
    }

    #[test]
    fn internal_listeners_come_first_by_name() {
        let dump = Dump {
            value: json!({"configs": [{"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                "dynamic_listeners": [
                    {"active_state": {"listener": {"name": "connect_terminate", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15008}},
                        "filter_chains": [hcm(&json!({}))]}}},
                    {"active_state": {"listener": {"name": "main_internal", "internal_listener": {}, "filter_chains": [hcm(&json!({}))]}}},
                    {"active_state": {"listener": {"name": "connect_originate", "internal_listener": {}, "filter_chains": [hcm(&json!({}))]}}}],
                "static_listeners": [{"listener": {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 15021}},
                    "filter_chains": [hcm(&json!({}))]}}]}]}),
        };
        let text = waypoint_table(&dump).expect("table");
        let names: Vec<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
        assert_eq!(
            names,
            [
                "LISTENER",
                "envoy://connect_originate",
                "envoy://main_internal",
                "envoy://connect_terminate",
                "envoy://0.0.0.0_15021"
            ]
        );
    }
}
