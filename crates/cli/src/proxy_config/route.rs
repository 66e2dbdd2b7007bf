//! `proxy-config route`.

use clap::Args;
use serde_json::Value;

use super::SourceArgs;
use crate::dump::{Dump, config_object, field, items, path, text};
use crate::error::CliError;
use crate::table::Table;

const PASSTHROUGH: &str = "PassthroughCluster";
const MOST_DOMAINS: usize = 2;

#[derive(Debug, Clone, Args)]
pub(crate) struct RouteArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only the route configuration of this name.
    #[arg(long)]
    name: Option<String>,
    /// A row a route; otherwise a row a route configuration.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    verbose: bool,
}

pub(crate) fn select<'a>(dump: &'a Dump, args: &RouteArgs) -> Result<Vec<&'a Value>, CliError> {
    let routes = dump.routes()?;
    if routes.is_empty() {
        return Err(CliError::Data("no routes found".into()));
    }
    Ok(ordered(routes)
        .into_iter()
        .filter(|r| {
            args.name
                .as_deref()
                .is_none_or(|name| name == text(r, "name"))
        })
        .collect())
}

pub(crate) fn table(dump: &Dump, args: &RouteArgs) -> Result<String, CliError> {
    Ok(rows(select(dump, args)?, args.verbose).render())
}

pub(crate) fn rows(configs: Vec<&Value>, verbose: bool) -> Table {
    let mut table = Table::new(5);
    if !verbose {
        table.row(["NAME", "VIRTUAL HOSTS"]);
        for config in ordered(configs) {
            let hosts = items(config, "virtual_hosts").len();
            table.row([text(config, "name").to_owned(), hosts.to_string()]);
        }
        return table;
    }
    table.row(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]);
    for config in ordered(configs) {
        for host in items(config, "virtual_hosts") {
            let first = [
                text(config, "name").to_owned(),
                text(host, "name").to_owned(),
                domains(host),
            ];
            let routes = items(host, "routes");
            if routes.is_empty() {
                table.row(first.into_iter().chain(["/*".to_owned(), "404".to_owned()]));
                continue;
            }
            for route in routes {
                let to = path(route, &["route"]).map_or("", |action| text(action, "cluster"));
                if to == PASSTHROUGH {
                    continue;
                }
                let last = [route_match(route), config_object(route)];
                table.row(first.clone().into_iter().chain(last));
            }
        }
    }
    table
}

/// Path, as the tables show it: headers and the like are not shown.
pub(crate) fn route_match(route: &Value) -> String {
    let Some(m) = field(route, "match") else {
        return String::new();
    };
    let mut parts = Vec::new();
    let prefix = text(m, "prefix");
    if !prefix.is_empty() {
        parts.push(format!("{prefix}*"));
    }
    let segments = text(m, "path_separated_prefix");
    if !segments.is_empty() {
        parts.push(format!("PathPrefix:{segments}"));
    }
    let exact = text(m, "path");
    if !exact.is_empty() {
        parts.push(exact.to_owned());
    }
    if let Some(regex) = field(m, "safe_regex") {
        parts.push(format!("regex {}", text(regex, "regex")));
    }
    parts.join(" ")
}

/// Numeric names first, ascending; the rest as dumped.
fn ordered(configs: Vec<&Value>) -> Vec<&Value> {
    let (mut numeric, rest): (Vec<&Value>, Vec<&Value>) = configs
        .into_iter()
        .partition(|c| text(c, "name").parse::<u64>().is_ok());
    numeric.sort_by_key(|c| text(c, "name").parse::<u64>().unwrap_or(0));
    numeric.into_iter().chain(rest).collect()
}

fn domains(host: &Value) -> String {
    let all: Vec<&str> = items(host, "domains")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    if all.len() < 2 {
        return all.concat();
    }
    let with_port = |d: &str| {
        let bare_ipv6 = d.matches(':').count() > 2 && d.ends_with(']');
        d.contains(':') && !bare_ipv6
    };
    let longer_form = |d: &str| {
        [".svc.cluster.local", ".svc"]
            .iter()
            .filter_map(|suffix| d.strip_suffix(suffix))
            .any(|short| all.contains(&short))
    };
    let shown: Vec<&str> = all
        .iter()
        .copied()
        .filter(|d| !with_port(d) && !longer_form(d))
        .collect();
    if shown.len() > MOST_DOMAINS {
        let more = shown.len() - MOST_DOMAINS;
        format!("{} + {more} more...", shown[..MOST_DOMAINS].join(", "))
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shows_a_row_a_route() {
        let configs = [
            json!({"name": "default", "virtual_hosts": [{"name": "default", "domains": ["*"], "routes": [{"match": {"connect_matcher": {}}}]}]}),
            json!({"name": "80", "virtual_hosts": [{"name": "empty", "domains": ["a.b.svc.cluster.local", "a.b", "a.b:80", "c", "d"]}]}),
            json!({"name": "inbound-vip|9080|http|r", "virtual_hosts": [{"name": "inbound|http|9080", "domains": ["*"], "routes": [
                {"match": {"path_separated_prefix": "/x"}, "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}}},
                {"match": {"safe_regex": {"regex": "/y.*"}}},
                {"match": {"prefix": "/"}, "route": {"cluster": "PassthroughCluster"}}]}]}),
        ];
        assert_eq!(
            rows(configs.iter().collect(), true).render(),
            "NAME                        VHOST NAME            DOMAINS                MATCH             VIRTUAL SERVICE\n\
             80                          empty                 a.b, c + 1 more...     /*                404\n\
             default                     default               *                                        \n\
             inbound-vip|9080|http|r     inbound|http|9080     *                      PathPrefix:/x     reviews.default\n\
             inbound-vip|9080|http|r     inbound|http|9080     *                      regex /y.*        \n"
        );
    }
}
