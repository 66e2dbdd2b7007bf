//! `/clusters`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::json::object;
use super::query::Query;
use super::{Admin, Answer, bootstrap};
use crate::program::{
    Breakers, Cluster, Discovery, Endpoint, EndpointHealth, EndpointKind, LocalityName, Thresholds,
};
use crate::telemetry::EndpointStats;

/// A cluster as shown, wherever it is from.
struct Shown {
    name: String,
    added_via_api: bool,
    eds_name: String,
    breakers: Breakers,
    hosts: Vec<Host>,
}

struct Host {
    address: Address,
    counters: Vec<(&'static str, u64)>,
    gauges: Vec<(&'static str, i64)>,
    health: EndpointHealth,
    weight: u32,
    priority: u32,
    hostname: String,
    locality: LocalityName,
}

enum Address {
    Socket(SocketAddr),
    Name(String, u16),
    Internal { listener: String, id: String },
}

impl Admin {
    pub(super) fn clusters(&self, query: &Query) -> Answer {
        let shown = self.shown_clusters();
        match query.get("format") {
            Some("json") => {
                let statuses: Vec<_> = shown.iter().map(Shown::json).collect();
                Answer::json(&json!({ "cluster_statuses": statuses }))
            }
            _ => {
                let mut out = String::new();
                for cluster in &shown {
                    // Writing to a String does not fail.
                    let _ = cluster.text(&mut out);
                }
                Answer::text(out)
            }
        }
    }

    fn shown_clusters(&self) -> Vec<Shown> {
        let mut out: Vec<_> = bootstrap::static_clusters(&self.places)
            .into_iter()
            .map(Shown::of_static)
            .collect();
        let hops = self.config.dump().hops;
        let snapshot = self.snapshot.load();
        for cluster in snapshot.clusters() {
            let hop = hops
                .iter()
                .find(|(name, _)| **name == *cluster.name)
                .map(|(_, listener)| listener.clone());
            out.push(Shown::of(cluster, hop));
        }
        out
    }
}

impl Shown {
    fn of(cluster: &Cluster, hop: Option<String>) -> Self {
        let eds_name = match &cluster.discovery {
            Discovery::Eds { service_name } => service_name.to_string(),
            Discovery::Static
            | Discovery::Dns(_)
            | Discovery::OriginalDstTunnel
            | Discovery::OriginalDst { .. } => String::new(),
        };
        let mut hosts: Vec<_> = cluster
            .endpoints
            .load()
            .iter()
            .map(|e| Host::of(e))
            .collect();
        hosts.extend(hop.map(|listener| {
            Host::plain(Address::Internal {
                listener,
                id: String::new(),
            })
        }));
        Self {
            name: cluster.name.to_string(),
            added_via_api: true,
            eds_name,
            breakers: cluster.breakers,
            hosts,
        }
    }

    fn of_static(cluster: bootstrap::StaticCluster) -> Self {
        let address = match cluster.address.parse() {
            Ok(address) => Address::Socket(address),
            Err(_) => {
                let (host, port) = cluster.host_and_port();
                Address::Name(host.to_owned(), port)
            }
        };
        Self {
            name: cluster.name.to_owned(),
            added_via_api: false,
            eds_name: String::new(),
            breakers: Breakers {
                default: Thresholds::default(),
                high: Thresholds::default(),
            },
            hosts: vec![Host::plain(address)],
        }
    }

    fn json(&self) -> Value {
        let thresholds = |priority: &str, t: &Thresholds| {
            object([
                ("priority", Value::from(priority)),
                ("max_connections", Value::from(t.max_connections)),
                ("max_pending_requests", Value::from(t.max_pending_requests)),
                ("max_requests", Value::from(t.max_requests)),
                ("max_retries", Value::from(t.max_retries)),
            ])
        };
        let breakers = json!({
            "thresholds": [thresholds("", &self.breakers.default), thresholds("HIGH", &self.breakers.high)],
        });
        object([
            ("name", Value::from(self.name.as_str())),
            ("added_via_api", Value::from(self.added_via_api)),
            (
                "host_statuses",
                Value::from(self.hosts.iter().map(Host::json).collect::<Vec<_>>()),
            ),
            ("circuit_breakers", breakers),
            ("observability_name", Value::from(self.name.as_str())),
            ("eds_service_name", Value::from(self.eds_name.as_str())),
        ])
    }

    fn text(&self, out: &mut String) -> std::fmt::Result {
        let name = &self.name;
        writeln!(out, "{name}::observability_name::{name}")?;
        for (priority, t) in [
            ("default_priority", &self.breakers.default),
            ("high_priority", &self.breakers.high),
        ] {
            writeln!(
                out,
                "{name}::{priority}::max_connections::{}",
                t.max_connections
            )?;
            writeln!(
                out,
                "{name}::{priority}::max_pending_requests::{}",
                t.max_pending_requests
            )?;
            writeln!(out, "{name}::{priority}::max_requests::{}", t.max_requests)?;
            writeln!(out, "{name}::{priority}::max_retries::{}", t.max_retries)?;
        }
        writeln!(out, "{name}::added_via_api::{}", self.added_via_api)?;
        if !self.eds_name.is_empty() {
            writeln!(out, "{name}::eds_service_name::{}", self.eds_name)?;
        }
        for host in &self.hosts {
            let at = host.address.text();
            let mut figures: Vec<_> = host
                .counters
                .iter()
                .map(|(k, v)| (*k, v.to_string()))
                .collect();
            figures.extend(host.gauges.iter().map(|(k, v)| (*k, v.to_string())));
            figures.sort_by_key(|(key, _)| *key);
            for (key, value) in figures {
                writeln!(out, "{name}::{at}::{key}::{value}")?;
            }
            let flags = if host.health.is_available() {
                "healthy"
            } else {
                "/failed_eds_health"
            };
            let locality = &host.locality;
            for (key, value) in [
                ("hostname", host.hostname.as_str()),
                ("health_flags", flags),
                ("weight", &host.weight.to_string()),
                ("region", &locality.region),
                ("zone", &locality.zone),
                ("sub_zone", &locality.sub_zone),
                ("canary", "false"),
                ("priority", &host.priority.to_string()),
                ("success_rate", "-1"),
                ("local_origin_success_rate", "-1"),
            ] {
                writeln!(out, "{name}::{at}::{key}::{value}")?;
            }
        }
        Ok(())
    }
}

impl Host {
    fn of(endpoint: &Endpoint) -> Self {
        let address = match endpoint.kind {
            EndpointKind::Plain(address) => Address::Socket(address),
            EndpointKind::Tunnel { .. } => {
                let rest = endpoint
                    .text
                    .strip_prefix("envoy://")
                    .unwrap_or(&endpoint.text);
                let (listener, id) = rest.split_once('/').unwrap_or((rest, ""));
                Address::Internal {
                    listener: listener.to_owned(),
                    id: id.to_owned(),
                }
            }
        };
        Self {
            health: endpoint.health,
            weight: endpoint.weight,
            priority: endpoint.priority,
            hostname: endpoint.hostname.as_deref().unwrap_or_default().to_owned(),
            locality: endpoint.locality.clone(),
            ..Self::with_stats(address, &endpoint.stats)
        }
    }

    fn plain(address: Address) -> Self {
        Self::with_stats(address, &EndpointStats::default())
    }

    fn with_stats(address: Address, stats: &EndpointStats) -> Self {
        Self {
            address,
            counters: stats
                .counters()
                .map(|(name, c)| (name, c.value()))
                .collect(),
            gauges: stats.gauges().map(|(name, g)| (name, g.value())).collect(),
            health: EndpointHealth::Healthy,
            weight: 1,
            priority: 0,
            hostname: String::new(),
            locality: LocalityName::default(),
        }
    }

    fn json(&self) -> Value {
        let mut stats: Vec<_> = self
            .counters
            .iter()
            .map(|(name, n)| json!({ "value": n.to_string(), "name": name }))
            .collect();
        let gauges = self.gauges.iter();
        stats.extend(
            gauges
                .map(|(name, n)| json!({ "type": "GAUGE", "value": n.to_string(), "name": name })),
        );
        let health = match self.health {
            EndpointHealth::Unknown | EndpointHealth::Healthy => "HEALTHY",
            EndpointHealth::Unhealthy => "UNHEALTHY",
            EndpointHealth::Draining => "DRAINING",
            EndpointHealth::Degraded => "DEGRADED",
        };
        let locality = object([
            ("region", Value::from(&*self.locality.region)),
            ("zone", Value::from(&*self.locality.zone)),
            ("sub_zone", Value::from(&*self.locality.sub_zone)),
        ]);
        object([
            ("address", self.address.json()),
            ("stats", Value::from(stats)),
            ("health_status", json!({ "eds_health_status": health })),
            ("weight", Value::from(self.weight)),
            ("hostname", Value::from(self.hostname.as_str())),
            ("priority", Value::from(self.priority)),
            ("locality", locality),
        ])
    }
}

impl Address {
    fn text(&self) -> String {
        match self {
            Address::Socket(address) => address.to_string(),
            Address::Name(host, port) => format!("{host}:{port}"),
            Address::Internal { listener, id } => format!("envoy://{listener}/{id}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Address::Socket(at) => {
                json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } })
            }
            Address::Name(host, port) => {
                json!({ "socket_address": { "address": host, "port_value": port } })
            }
            Address::Internal { listener, id } => {
                let address = object([
                    ("server_listener_name", Value::from(listener.as_str())),
                    ("endpoint_id", Value::from(id.as_str())),
                ]);
                json!({ "envoy_internal_address": address })
            }
        }
    }
}
