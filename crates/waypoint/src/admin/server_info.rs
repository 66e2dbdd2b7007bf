//! `/server_info`, `/memory`, `/runtime`, `/listeners`, `/init_dump`.

use serde_json::{Value, json};
use waymark_proto::json::{JsonStyle, to_value};

use super::json::object;
use super::query::Query;
use super::{Admin, Answer};
use crate::program::Snapshot;

/// The version, in Envoy's form: `<revision>/<version>/<state>/<type>/<ssl>`.
pub(super) fn version() -> String {
    let kind = if cfg!(debug_assertions) {
        "DEBUG"
    } else {
        "RELEASE"
    };
    format!("waymark/{}/Clean/{kind}/aws-lc", env!("CARGO_PKG_VERSION"))
}

pub(super) fn memory() -> Answer {
    let usage = waymark_rt::usage::of_this_process();
    let text = |n: u64| Value::from(n.to_string());
    Answer::json(&json!({
        "allocated": text(usage.resident_bytes),
        "heap_size": text(usage.virtual_bytes),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": text(usage.resident_bytes),
    }))
}

/// There is no runtime.
pub(super) fn runtime() -> Answer {
    Answer::json(&json!({ "layers": [], "entries": {} }))
}

impl Admin {
    pub(super) fn server_info(&self) -> Answer {
        let uptime = self
            .clock
            .wall()
            .duration_since(self.telemetry.started)
            .unwrap_or_default();
        let uptime = format!("{}s", uptime.as_secs());
        // The node is a message of Envoy's, whose descriptor is there.
        let node = to_value(&self.node.node(), JsonStyle::Snake).unwrap_or_default();
        let options = object([
            ("concurrency", Value::from(self.places.workers)),
            (
                "service_cluster",
                node.get("cluster").cloned().unwrap_or_default(),
            ),
            ("service_node", node.get("id").cloned().unwrap_or_default()),
            (
                "log_level",
                Value::from(
                    self.log
                        .as_ref()
                        .map(|l| l.current().to_string())
                        .unwrap_or_default(),
                ),
            ),
            ("disable_hot_restart", Value::from(true)),
        ]);
        Answer::json(&json!({
            "version": version(),
            "state": self.lifecycle.shown().name(),
            "uptime_current_epoch": uptime,
            "uptime_all_epochs": uptime,
            "hot_restart_version": "disabled",
            "command_line_options": options,
            "node": node,
        }))
    }

    pub(super) fn listeners(&self, query: &Query) -> Answer {
        let snapshot = self.snapshot.load();
        let mut rows = Vec::new();
        for (name, address) in self.bound(&snapshot) {
            rows.push((name, address));
        }
        if query.get("format") != Some("json") {
            return Answer::text(
                rows.iter()
                    .map(|(name, at)| format!("{name}::{at}\n"))
                    .collect::<String>(),
            );
        }
        let statuses = rows.iter().map(|(name, at)| {
            let address = json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
            json!({ "name": name, "local_address": address })
        });
        Answer::json(&json!({ "listener_statuses": statuses.collect::<Vec<_>>() }))
    }

    /// Every socket that is listened on, with the name of its listener.
    fn bound(&self, snapshot: &Snapshot) -> Vec<(String, std::net::SocketAddr)> {
        let mut rows = vec![
            (
                super::bootstrap::listener_name(self.places.readiness),
                self.places.readiness,
            ),
            (
                super::bootstrap::listener_name(self.places.metrics),
                self.places.metrics,
            ),
        ];
        if snapshot.hbone.is_some() {
            let name = self
                .config
                .dump()
                .entrance
                .unwrap_or_else(|| "connect_terminate".to_owned());
            rows.extend(self.places.tunnels.iter().map(|at| (name.clone(), *at)));
        }
        rows
    }

    /// What is still waited for.
    pub(super) fn init_dump(&self) -> Answer {
        let dump = self.config.dump();
        let waiting = |all: &[crate::config::Dumped]| {
            all.iter()
                .filter(|d| d.warming.is_some())
                .map(|d| d.name.clone())
                .collect::<Vec<_>>()
        };
        let targets = [
            ("clusters", waiting(&dump.clusters.0)),
            ("listeners", waiting(&dump.listeners.0)),
        ];
        let unready: Vec<_> = targets
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(name, names)| json!({ "name": name, "target_names": names }))
            .collect();
        Answer::json(&object([("unready_targets_dumps", Value::from(unready))]))
    }
}
