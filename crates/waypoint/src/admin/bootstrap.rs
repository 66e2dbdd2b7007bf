//! What a bootstrap would say of this process: its node, its own listeners, and whom it talks to.

use std::net::SocketAddr;

use serde_json::{Value, json};
use waymark_proto::json::{JsonStyle, to_value};

use super::{Admin, Places};

/// A cluster that no control plane sends: the process itself, and what it connects to.
pub(super) struct StaticCluster {
    pub(super) name: &'static str,
    /// `host:port`
    pub(super) address: String,
    http2: bool,
}

/// In the order of istio's bootstrap.
pub(super) fn static_clusters(places: &Places) -> Vec<StaticCluster> {
    vec![
        StaticCluster {
            name: "prometheus_stats",
            address: places.admin.to_string(),
            http2: false,
        },
        StaticCluster {
            name: "agent",
            address: places.metrics.to_string(),
            http2: false,
        },
        StaticCluster {
            name: "sds-grpc",
            address: places.ca.clone(),
            http2: true,
        },
        StaticCluster {
            name: "xds-grpc",
            address: places.control_plane.clone(),
            http2: true,
        },
    ]
}

impl StaticCluster {
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let address = self
            .address
            .trim_start_matches("http://")
            .trim_start_matches("https://");
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        (
            host.trim_start_matches('[').trim_end_matches(']'),
            port.parse().unwrap_or(0),
        )
    }

    /// Its one endpoint, as a ClusterLoadAssignment, with a health where one is to be shown.
    pub(super) fn load_assignment(&self, health: Option<&str>) -> Value {
        let (host, port) = self.host_and_port();
        let mut endpoint = json!({
            "endpoint": { "address": { "socket_address": { "address": host, "port_value": port } } },
        });
        if let Some(health) = health {
            endpoint["health_status"] = health.into();
        }
        json!({ "cluster_name": self.name, "endpoints": [{ "lb_endpoints": [endpoint] }] })
    }

    /// As a Cluster.
    pub(super) fn json(&self) -> Value {
        let (host, _) = self.host_and_port();
        let numeric = host.parse::<std::net::IpAddr>().is_ok();
        let mut cluster = json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": self.name,
            "type": if numeric { "STATIC" } else { "STRICT_DNS" },
            "connect_timeout": "10s",
            "load_assignment": self.load_assignment(None),
        });
        if let Some(fields) = cluster.as_object_mut().filter(|_| self.http2) {
            let options = json!({
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            });
            let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            fields.insert(
                "typed_extension_protocol_options".into(),
                json!({ key: options }),
            );
        }
        cluster
    }
}

/// `<address>_<port>`, as istio's bootstrap names its listeners.
pub(super) fn listener_name(at: SocketAddr) -> String {
    format!("{}_{}", at.ip(), at.port())
}

/// The process's own listeners, as Listeners.
pub(super) fn static_listeners(places: &Places) -> Vec<Value> {
    let listener = |at: SocketAddr, prefix: &str, cluster: &str, stat: &str| {
        json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": listener_name(at),
            "address": { "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } },
            "filter_chains": [{
                "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": stat,
                        "route_config": route_config(prefix, cluster),
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                        }],
                    },
                }],
            }],
        })
    };
    vec![
        listener(
            places.metrics,
            "/stats/prometheus",
            "prometheus_stats",
            "stats",
        ),
        listener(places.readiness, "/healthz/ready", "agent", "agent"),
    ]
}

/// The routes of those listeners.
pub(super) fn static_routes() -> Vec<Value> {
    [
        ("/stats/prometheus", "prometheus_stats"),
        ("/healthz/ready", "agent"),
    ]
    .into_iter()
    .map(|(prefix, cluster)| {
        let mut config =
            json!({ "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration" });
        if let (Some(fields), Value::Object(rest)) =
            (config.as_object_mut(), route_config(prefix, cluster))
        {
            fields.extend(rest);
        }
        config
    })
    .collect()
}

fn route_config(prefix: &str, cluster: &str) -> Value {
    json!({
        "name": "backend",
        "virtual_hosts": [{
            "name": "backend",
            "domains": ["*"],
            "routes": [{ "match": { "prefix": prefix }, "route": { "cluster": cluster } }],
        }],
    })
}

impl Admin {
    /// The effective bootstrap.
    pub(super) fn bootstrap(&self) -> Value {
        // The node is a message of Envoy's, whose descriptor is there.
        let node = to_value(&self.node.node(), JsonStyle::Snake).unwrap_or_default();
        let ads = json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
        let untyped = |mut value: Value| {
            if let Some(fields) = value.as_object_mut() {
                fields.shift_remove("@type");
            }
            value
        };
        let admin = self.places.admin;
        json!({
            "node": node,
            "static_resources": {
                "listeners": static_listeners(&self.places).into_iter().map(untyped).collect::<Vec<_>>(),
                "clusters": static_clusters(&self.places).iter().map(|c| untyped(c.json())).collect::<Vec<_>>(),
            },
            "dynamic_resources": {
                "lds_config": ads,
                "cds_config": ads,
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds-grpc" } }],
                    "set_node_on_first_message_only": true,
                    "transport_api_version": "V3",
                },
            },
            "admin": {
                "address": {
                    "socket_address": { "address": admin.ip().to_string(), "port_value": admin.port() },
                },
            },
        })
    }
}
