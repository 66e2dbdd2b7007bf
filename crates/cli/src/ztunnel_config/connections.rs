//! The table of open connections.

use std::collections::HashMap;

use serde_json::Value;

use super::tables::{services, strings, text, workloads};
use crate::table::Table;

/// What addresses are called.
pub(super) struct Names {
    by_ip: HashMap<String, String>,
}

impl Names {
    /// Services by their first VIP, workloads by their first address; none at all when they are to be shown as they are.
    pub(super) fn of(dump: &Value, raw: bool) -> Self {
        let mut by_ip = HashMap::new();
        if !raw {
            for workload in workloads(dump) {
                if let Some(ip) = strings(&workload["workloadIps"]).first() {
                    let name = format!(
                        "{}.{}",
                        text(&workload, "name"),
                        text(&workload, "namespace")
                    );
                    by_ip.insert((*ip).to_owned(), name);
                }
            }
            for service in services(dump) {
                if let Some(vip) = strings(&service["vips"]).first() {
                    let ip = vip.split_once('/').map_or(*vip, |(_, ip)| ip);
                    by_ip.insert(ip.to_owned(), text(&service, "hostname"));
                }
            }
        }
        Self { by_ip }
    }

    fn show(&self, address: &str) -> String {
        let Some((ip, port)) = address.rsplit_once(':') else {
            return address.to_owned();
        };
        match self.by_ip.get(ip.trim_matches(['[', ']'])) {
            Some(name) => format!("{name}:{port}"),
            None => address.to_owned(),
        }
    }
}

/// The workloads that have connections or may have, by namespace and name.
pub(super) fn states(dump: &Value) -> Vec<Value> {
    let mut states: Vec<Value> = match &dump["workloadState"] {
        Value::Object(map) => map.values().cloned().collect(),
        Value::Array(list) => list.clone(),
        _ => Vec::new(),
    };
    states.sort_by_key(|s| (text(&s["info"], "namespace"), text(&s["info"], "name")));
    states
}

pub(super) fn table(states: &[Value], names: &Names, direction: Option<&str>) -> String {
    let mut table = Table::new(1);
    table.row([
        "WORKLOAD",
        "DIRECTION",
        "LOCAL",
        "REMOTE",
        "REMOTE TARGET",
        "PROTOCOL",
    ]);
    for state in states {
        let workload = format!(
            "{}.{}",
            text(&state["info"], "name"),
            text(&state["info"], "namespace")
        );
        for (list, word) in [("inbound", "Inbound"), ("outbound", "Outbound")] {
            if direction.is_some_and(|wanted| wanted != list) {
                continue;
            }
            let mut connections = state["connections"][list]
                .as_array()
                .cloned()
                .unwrap_or_default();
            connections.sort_by_key(|c| text(c, "src"));
            for connection in &connections {
                let (local, remote) = match list {
                    "inbound" => ("actualDst", "src"),
                    _ => ("src", "actualDst"),
                };
                // What an inbound connection was for is said by the peer, and shown as it said it.
                let target = text(connection, "originalDst");
                table.row([
                    workload.clone(),
                    word.to_owned(),
                    names.show(&text(connection, local)),
                    names.show(&text(connection, remote)),
                    if list == "inbound" {
                        target
                    } else {
                        names.show(&target)
                    },
                    text(connection, "protocol"),
                ]);
            }
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_shown_by_name_unless_raw_ones_are_wanted() {
        let dump = json!({
            "workloads": [{"name": "cart", "namespace": "shop", "workloadIps": ["10.0.0.1"]},
                {"name": "reviews-v1", "namespace": "shop", "workloadIps": ["10.0.0.2"]}],
            "services": [{"name": "reviews", "namespace": "shop", "hostname": "reviews.shop.svc", "vips": ["/10.96.0.1"]}],
            "workloadState": {"u": {"state": "Up", "info": {"name": "cart", "namespace": "shop"}, "connections": {
                "inbound": [{"src": "10.0.0.2:4000", "originalDst": "cart.shop.svc:80", "actualDst": "10.0.0.1:80", "protocol": "HBONE"}],
                "outbound": [{"src": "10.0.0.1:5000", "originalDst": "10.96.0.1:9080", "actualDst": "10.0.0.2:15008", "protocol": "HBONE"}]}}}});
        let states = states(&dump);
        assert_eq!(
            table(&states, &Names::of(&dump, false), None),
            "WORKLOAD  DIRECTION LOCAL          REMOTE                REMOTE TARGET         PROTOCOL\n\
             cart.shop Inbound   cart.shop:80   reviews-v1.shop:4000  cart.shop.svc:80      HBONE\n\
             cart.shop Outbound  cart.shop:5000 reviews-v1.shop:15008 reviews.shop.svc:9080 HBONE\n"
        );
        let raw = table(&states, &Names::of(&dump, true), Some("outbound"));
        let row: Vec<&str> = raw
            .lines()
            .nth(1)
            .expect("a row")
            .split_whitespace()
            .collect();
        assert_eq!(
            row,
            [
                "cart.shop",
                "Outbound",
                "10.0.0.1:5000",
                "10.0.0.2:15008",
                "10.96.0.1:9080",
                "HBONE"
            ]
        );
    }
}
