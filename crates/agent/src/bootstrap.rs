//! What Envoy is started with. Everything else it learns from the control plane.
//!
//! Spec: waypoint-xds.md 2.2 and 2.3.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use crate::args::Settings;

/// Names of the sockets, as Envoy sees them: it runs in the agent's directory, whose path may be longer than a socket's
/// address can hold.
pub(crate) const SDS_SOCKET: &str = "socket";
pub(crate) const XDS_SOCKET: &str = "XDS";

/// Envoy's bootstrap, as JSON.
#[must_use]
pub fn bootstrap(settings: &Settings) -> Value {
    json!({
        "node": node(settings),
        "admin": { "address": address(settings.admin()) },
        // Connections come from the waypoint's own address, as a pod's do.
        "cluster_manager": {
            "upstream_bind_config": { "source_address": { "address": ip(settings.address), "port_value": 0 } },
        },
        "dynamic_resources": {
            "lds_config": ads(),
            "cds_config": ads(),
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{ "envoy_grpc": {
                    "cluster_name": "xds-grpc",
                    "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "3s" } },
                } }],
            },
        },
        "static_resources": {
            "clusters": [
                http1_cluster("prometheus_stats", settings.admin()),
                http1_cluster("agent", settings.status()),
                pipe_cluster("sds-grpc", SDS_SOCKET),
                pipe_cluster("xds-grpc", XDS_SOCKET),
            ],
            "listeners": [
                listener("ready", SocketAddr::new(settings.address, READY_PORT), "/healthz/ready", "agent"),
                listener("metrics", SocketAddr::new(settings.address, PROMETHEUS_PORT), "/stats/prometheus", "prometheus_stats"),
            ],
        },
        "bootstrap_extensions": [{
            "name": "envoy.bootstrap.internal_listener",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
                "buffer_size_kb": 64,
            },
        }],
        "layered_runtime": { "layers": [
            { "name": "static_layer", "static_layer": {
                "re2.max_program_size.error_level": 32768,
                "envoy.reloadable_features.http_reject_path_with_fragment": false,
            } },
            { "name": "admin", "admin_layer": {} },
        ] },
        "overload_manager": { "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": i32::MAX,
            },
        }] },
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        // What would be many thousand numbers of which nobody asks for one.
        "stats_config": { "stats_matcher": { "exclusion_list": { "patterns": [
            { "safe_regex": { "regex": r".*\.ssl\.(ciphers|curves|sigalgs|versions|was_key_usage_invalid).*" } },
            { "safe_regex": { "regex": r"cluster\..*\.(external|internal)\..*" } },
            { "safe_regex": { "regex": r"cluster\..*\.(lb_|original_dst_host_invalid|bind_errors|retry_or_shadow_abandoned).*" } },
            { "prefix": "vhost." },
        ] } } },
    })
}

fn node(settings: &Settings) -> Value {
    let (namespace, account) = (
        settings.identity.namespace(),
        settings.identity.service_account(),
    );
    let domain = settings.identity.trust_domain();
    let Settings {
        name,
        gateway,
        address,
        ..
    } = settings;
    let mut metadata = json!({
        "NAME": name,
        "NAMESPACE": namespace,
        "SERVICE_ACCOUNT": account,
        "CLUSTER_ID": settings.cluster_id,
        "INSTANCE_IPS": address.to_string(),
        "MESH_ID": domain,
        "WORKLOAD_NAME": gateway,
        "WAYMARK_FLAVOUR": "stock",
        // Where the tunnels are listened for: other proxies of this machine have the same port on other addresses.
        "WAYMARK_BIND_ADDRESS": address.to_string(),
        "LABELS": {
            "gateway.networking.k8s.io/gateway-name": gateway,
            "gateway.networking.k8s.io/gateway-class-name": "istio-waypoint",
            "gateway.istio.io/managed": "istio.io-mesh-controller",
            "service.istio.io/canonical-name": gateway,
            "service.istio.io/canonical-revision": "latest",
        },
    });
    let optional = [
        ("NETWORK", &settings.network),
        ("NODE_NAME", &settings.node_name),
    ];
    if let Value::Object(metadata) = &mut metadata {
        metadata.extend(
            optional
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), Value::from(value.clone()?)))),
        );
    }
    json!({
        "id": format!("waypoint~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"),
        "cluster": format!("{account}.{namespace}"),
        "metadata": metadata,
    })
}

fn ads() -> Value {
    json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" })
}

fn http1_cluster(name: &str, to: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.250s",
        "load_assignment": load_assignment(name, address(to)),
    })
}

/// Over a Unix socket, HTTP/2.
fn pipe_cluster(name: &str, socket: &str) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": load_assignment(name, json!({ "pipe": { "path": format!("./{socket}") } })),
        "circuit_breakers": { "thresholds": [
            { "priority": "DEFAULT", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 },
            { "priority": "HIGH", "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 },
        ] },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
    })
}

fn load_assignment(cluster: &str, address: Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })
}

/// Sends one path on; nothing else is there.
fn listener(name: &str, on: SocketAddr, path: &str, cluster: &str) -> Value {
    json!({
        "name": name,
        "address": address(on),
        // The probe's connections and the scraper's are not what is drained.
        "ignore_global_conn_limit": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "route_config": { "virtual_hosts": [{
                    "name": "backend",
                    "domains": ["*"],
                    "routes": [{ "match": { "path": path }, "route": { "cluster": cluster } }],
                }] },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    })
}

fn address(of: SocketAddr) -> Value {
    let mut socket = Map::new();
    socket.insert("address".to_owned(), ip(of.ip()));
    socket.insert("port_value".to_owned(), of.port().into());
    json!({ "socket_address": socket })
}

fn ip(of: IpAddr) -> Value {
    of.to_string().into()
}

const READY_PORT: u16 = 15021;
const PROMETHEUS_PORT: u16 = 15090;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use waymark_proto::envoy::envoy::config::bootstrap::v3::Bootstrap;
    use waymark_proto::json::{Unknown, from_value};

    use super::*;

    fn value() -> Value {
        let settings = crate::args::tests::parse(&["--node-name", "local"])
            .settings()
            .unwrap();
        bootstrap(&settings)
    }

    #[test]
    fn looks_like_this() {
        insta::assert_json_snapshot!(value());
    }

    #[test]
    fn is_a_bootstrap_by_its_descriptors() {
        let mut value = value();
        // Its message is not among our descriptors; Envoy itself has a look at it.
        value
            .as_object_mut()
            .unwrap()
            .shift_remove("overload_manager")
            .unwrap();
        from_value::<Bootstrap>(&value, Unknown::Refuse).unwrap();
    }

    #[test]
    fn envoy_takes_it() {
        let Some(envoy) = waymark_testkit::peers::envoy() else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("envoy.json");
        std::fs::write(&path, value().to_string()).unwrap();
        let output = std::process::Command::new(envoy)
            .args(["--mode", "validate", "--disable-hot-restart", "-c"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
