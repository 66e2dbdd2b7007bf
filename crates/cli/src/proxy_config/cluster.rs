//! `proxy-config cluster`.

use clap::Args;
use serde_json::Value;

use super::SourceArgs;
use crate::dump::{Dump, config_object, text};
use crate::error::CliError;
use crate::table::Table;

#[derive(Debug, Clone, Args)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only clusters whose name contains this host.
    #[arg(long, default_value = "", hide_default_value = true)]
    fqdn: String,
    /// Only clusters of this direction: inbound-vip, outbound.
    #[arg(long, default_value = "", hide_default_value = true)]
    direction: String,
    /// Only clusters of this subset.
    #[arg(long, default_value = "", hide_default_value = true)]
    subset: String,
    /// Only clusters of this port.
    #[arg(long)]
    port: Option<u16>,
}

impl ClusterArgs {
    fn admits(&self, name: &str) -> bool {
        [&self.fqdn, &self.direction, &self.subset]
            .iter()
            .all(|part| name.contains(part.as_str()))
            && self
                .port
                .is_none_or(|port| name.contains(&format!("|{port}|")))
    }
}

/// The clusters that the flags admit.
pub(crate) fn select<'a>(dump: &'a Dump, args: &ClusterArgs) -> Result<Vec<&'a Value>, CliError> {
    let clusters = dump.clusters()?;
    if clusters.is_empty() {
        return Err(CliError::Data("no clusters found".into()));
    }
    let mut clusters: Vec<&Value> = clusters
        .into_iter()
        .filter(|c| args.admits(text(c, "name")))
        .collect();
    clusters.sort_by_cached_key(|c| Parts::of(text(c, "name")).key());
    Ok(clusters)
}

pub(crate) fn table(dump: &Dump, args: &ClusterArgs) -> Result<String, CliError> {
    Ok(rows(select(dump, args)?, None).render())
}

/// `prefix`: of the further first column that `all` shows.
pub(crate) fn rows(mut clusters: Vec<&Value>, prefix: Option<&str>) -> Table {
    clusters.sort_by_cached_key(|c| Parts::of(text(c, "name")).key());
    let mut table = Table::new(5);
    let mut line = |first: String, rest: [String; 6]| match prefix {
        Some(_) => table.row(std::iter::once(first).chain(rest)),
        None => table.row(rest),
    };
    line(
        "NAME".into(),
        [
            "SERVICE FQDN",
            "PORT",
            "SUBSET",
            "DIRECTION",
            "TYPE",
            "DESTINATION RULE",
        ]
        .map(Into::into),
    );
    for cluster in clusters {
        let name = text(cluster, "name");
        let [host, port, subset, direction] = Parts::of(name).cells();
        line(
            format!("{}{name}", prefix.unwrap_or("")),
            [
                host,
                port,
                subset,
                direction,
                kind(cluster).into(),
                config_object(cluster),
            ],
        );
    }
    table
}

/// The discovery type; the enum's first value is left out by protobuf JSON, and a custom cluster has it too.
fn kind(cluster: &Value) -> &str {
    match text(cluster, "type") {
        "" => "STATIC",
        kind => kind,
    }
}

/// A cluster name taken apart: `direction|port|subset|host`, or `direction_.port_.subset_.host`.
enum Parts<'a> {
    Parsed {
        direction: &'a str,
        port: u32,
        subset: &'a str,
        host: &'a str,
    },
    Whole(&'a str),
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let separator = if name.contains("_.") && !name.contains('|') {
            "_."
        } else {
            "|"
        };
        let mut pieces = name.splitn(4, separator);
        match (pieces.next(), pieces.next(), pieces.next(), pieces.next()) {
            (Some(direction), Some(port), Some(subset), Some(host)) => Self::Parsed {
                direction,
                port: port.parse().unwrap_or(0),
                subset,
                host,
            },
            _ => Self::Whole(name),
        }
    }

    fn cells(&self) -> [String; 4] {
        match *self {
            Self::Parsed {
                direction,
                port,
                subset,
                host,
            } => {
                let subset = if subset.is_empty() { "-" } else { subset };
                [
                    host.into(),
                    port.to_string(),
                    subset.into(),
                    direction.into(),
                ]
            }
            Self::Whole(name) => [name.into(), "-".into(), "-".into(), "-".into()],
        }
    }

    fn key(&self) -> (String, String, u32, String) {
        match *self {
            Self::Parsed {
                direction,
                port,
                subset,
                host,
            } => (host.into(), subset.into(), port, direction.into()),
            Self::Whole(name) => (name.into(), String::new(), 0, String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_names_apart_and_sorts_by_host_then_subset() {
        let clusters = [
            json!({"name": "inbound-vip|9080|http/v2|reviews.default.svc.cluster.local", "type": "EDS"}),
            json!({"name": "main_internal"}),
            json!({"name": "inbound-vip|9080|http|reviews.default.svc.cluster.local", "type": "EDS",
                "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"}}}}),
            json!({"name": "outbound_.80_._.b.default.svc.cluster.local", "type": "STRICT_DNS"}),
        ];
        let text = rows(clusters.iter().collect(), None).render();
        assert_eq!(
            text,
            "SERVICE FQDN                          PORT     SUBSET      DIRECTION       TYPE           DESTINATION RULE\n\
             b.default.svc.cluster.local           80       -           outbound        STRICT_DNS     \n\
             main_internal                         -        -           -               STATIC         \n\
             reviews.default.svc.cluster.local     9080     http        inbound-vip     EDS            reviews.default\n\
             reviews.default.svc.cluster.local     9080     http/v2     inbound-vip     EDS            \n"
        );
    }
}
