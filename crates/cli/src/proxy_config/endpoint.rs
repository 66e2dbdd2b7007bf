//! `proxy-config endpoint`, from `/clusters`, and the endpoint section of `all`, from the dump.

use clap::Args;
use serde_json::{Value, json};

use super::SourceArgs;
use crate::dump::{Dump, field, items, number, path, text};
use crate::error::CliError;
use crate::table::Table;

#[derive(Debug, Clone, Args)]
pub(crate) struct EndpointArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Only endpoints on this address.
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// Only endpoints on this port.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u64,
    /// Only endpoints of this cluster.
    #[arg(long, default_value = "", hide_default_value = true)]
    cluster: String,
    /// Only endpoints of this health: healthy, unhealthy.
    #[arg(long, default_value = "", hide_default_value = true)]
    status: String,
}

/// Address of an endpoint, without port, and its port (0 for what is not a socket).
fn place(host: &Value) -> (String, u64) {
    let address = field(host, "address").unwrap_or(&Value::Null);
    if let Some(socket) = field(address, "socket_address") {
        return (
            text(socket, "address").to_owned(),
            number(socket, "port_value"),
        );
    }
    if let Some(pipe) = field(address, "pipe") {
        return (format!("unix://{}", text(pipe, "path")), 0);
    }
    if let Some(internal) = field(address, "envoy_internal_address") {
        let listener = text(internal, "server_listener_name");
        return (
            format!("envoy://{listener}/{}", text(internal, "endpoint_id")),
            0,
        );
    }
    ("unknown".to_owned(), 0)
}

fn with_port((address, port): &(String, u64)) -> String {
    match port {
        0 => address.clone(),
        port => format!("{address}:{port}"),
    }
}

fn health(host: &Value) -> &str {
    match path(host, &["health_status"]).map_or("", |h| text(h, "eds_health_status")) {
        "" => "UNKNOWN",
        status => status,
    }
}

impl EndpointArgs {
    fn admits(&self, cluster: &str, host: &Value) -> bool {
        let (address, port) = place(host);
        let same = |want: &str, is: &str| want.is_empty() || want.eq_ignore_ascii_case(is);
        same(&self.address, &address)
            && (self.port == 0 || self.port == port)
            && same(&self.cluster, cluster)
            && same(&self.status, health(host))
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(bytes)
        .map_err(|e| CliError::Data(format!("the answer of /clusters is not JSON: {e}")))
}

/// The clusters that have an endpoint which the flags admit, whole.
pub(crate) fn select(clusters: &Value, args: &EndpointArgs) -> Value {
    items(clusters, "cluster_statuses")
        .iter()
        .filter(|c| {
            let name = text(c, "name");
            items(c, "host_statuses")
                .iter()
                .any(|host| args.admits(name, host))
        })
        .cloned()
        .collect()
}

pub(crate) fn table(clusters: &Value, args: &EndpointArgs) -> String {
    let mut rows = Vec::new();
    for cluster in items(clusters, "cluster_statuses") {
        let name = text(cluster, "name");
        for host in items(cluster, "host_statuses")
            .iter()
            .filter(|h| args.admits(name, h))
        {
            let failed =
                path(host, &["health_status", "failed_outlier_check"]) == Some(&json!(true));
            let outlier = if failed { "FAILED" } else { "OK" };
            rows.push((place(host), name, health(host), outlier));
        }
    }
    rows.sort();
    let mut table = Table::new(5);
    table.row(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    for (place, cluster, status, outlier) in rows {
        table.row([
            with_port(&place),
            status.into(),
            outlier.into(),
            cluster.into(),
        ]);
    }
    table.render()
}

/// The endpoints of a dump made with `include_eds`.
pub(crate) fn eds_table(dump: &Dump) -> Result<String, CliError> {
    let section = dump.section("Endpoints")?;
    let mut assignments: Vec<&Value> = ["dynamic_endpoint_configs", "static_endpoint_configs"]
        .iter()
        .flat_map(|list| items(section, list))
        .filter_map(|entry| field(entry, "endpoint_config"))
        .collect();
    assignments.sort_by_key(|a| text(a, "cluster_name"));
    let mut table = Table::new(5);
    table.row(["NAME", "STATUS", "LOCALITY", "CLUSTER"]);
    for assignment in assignments {
        for locality in items(assignment, "endpoints") {
            let l = field(locality, "locality").unwrap_or(&Value::Null);
            let parts: Vec<&str> = ["region", "zone", "sub_zone"]
                .iter()
                .map(|name| text(l, name))
                .filter(|part| !part.is_empty())
                .collect();
            for endpoint in items(locality, "lb_endpoints") {
                let host = field(endpoint, "endpoint").unwrap_or(&Value::Null);
                let status = match text(endpoint, "health_status") {
                    "" => "UNKNOWN",
                    status => status,
                };
                table.row([
                    format!("endpoint/{}", with_port(&place(host))),
                    status.to_owned(),
                    parts.join("/"),
                    text(assignment, "cluster_name").to_owned(),
                ]);
            }
        }
    }
    Ok(table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> EndpointArgs {
        EndpointArgs {
            source: SourceArgs {
                proxy_admin_port: 15000,
                target: None,
                file: None,
                output: None,
            },
            address: String::new(),
            port: 0,
            cluster: String::new(),
            status: String::new(),
        }
    }

    fn clusters() -> Value {
        json!({"cluster_statuses": [
            {"name": "inbound-vip|9080|http|r", "host_statuses": [
                {"address": {"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": "10.244.1.6:9080"}},
                 "health_status": {"eds_health_status": "HEALTHY"}}]},
            {"name": "xds-grpc", "host_statuses": [{"address": {"pipe": {"path": "./etc/istio/proxy/XDS"}}, "health_status": {"eds_health_status": "HEALTHY"}}]},
            {"name": "agent", "host_statuses": [{"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15020}},
                "health_status": {"eds_health_status": "UNHEALTHY", "failed_outlier_check": true}}]},
            {"name": "encap", "host_statuses": [{"address": {"envoy_internal_address": {"server_listener_name": "connect_originate"}}}]}]})
    }

    #[test]
    fn shows_every_kind_of_address() {
        assert_eq!(
            table(&clusters(), &args()),
            "ENDPOINT                                      STATUS        OUTLIER CHECK     CLUSTER\n\
             127.0.0.1:15020                               UNHEALTHY     FAILED            agent\n\
             envoy://connect_originate/                    UNKNOWN       OK                encap\n\
             envoy://connect_originate/10.244.1.6:9080     HEALTHY       OK                inbound-vip|9080|http|r\n\
             unix://./etc/istio/proxy/XDS                  HEALTHY       OK                xds-grpc\n"
        );
    }

    #[test]
    fn filters_apply_together() {
        let only = EndpointArgs {
            status: "healthy".into(),
            cluster: "XDS-grpc".into(),
            ..args()
        };
        assert_eq!(table(&clusters(), &only).lines().count(), 2);
        assert_eq!(select(&clusters(), &only).as_array().map(Vec::len), Some(1));
    }
}
