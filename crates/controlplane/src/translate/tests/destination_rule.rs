//! One setting of a DestinationRule after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use insta::assert_json_snapshot;
use serde_json::Value;
use waymark_api::istio::destination_rule::{
    ConnectionPool, ConsistentHash, H2UpgradePolicy, HashAlgorithm, HashKey, LoadBalancer,
    OutlierDetection, PortTrafficPolicy, TcpKeepalive, TrafficPolicy,
};
use waymark_api::protocol::Protocol;

use super::fixture::{Mesh, destination_rule, pod, service};
use crate::translate::input::{Flavour, Health};

fn policy(
    load_balancer: Option<LoadBalancer>,
    connection_pool: Option<ConnectionPool>,
) -> TrafficPolicy {
    TrafficPolicy {
        load_balancer,
        connection_pool,
        ..TrafficPolicy::default()
    }
}

fn pool() -> ConnectionPool {
    ConnectionPool {
        max_connections: Some(1),
        connect_timeout: Some(Duration::from_secs(2)),
        tcp_idle_timeout: Some(Duration::from_secs(3)),
        max_connection_duration: Some(Duration::from_secs(4)),
        tcp_keepalive: Some(TcpKeepalive {
            probes: Some(5),
            time: Some(Duration::from_secs(6)),
            interval: Some(Duration::from_secs(7)),
        }),
        http1_max_pending_requests: Some(8),
        http2_max_requests: Some(9),
        max_requests_per_connection: Some(10),
        max_retries: Some(11),
        ..ConnectionPool::default()
    }
}

fn hash(algorithm: HashAlgorithm) -> LoadBalancer {
    LoadBalancer::ConsistentHash(ConsistentHash {
        key: HashKey::SourceIp,
        algorithm,
    })
}

/// Name, protocol of the port, policy.
fn cases() -> Vec<(&'static str, Protocol, TrafficPolicy)> {
    let upgrade = || ConnectionPool {
        h2_upgrade_policy: H2UpgradePolicy::Upgrade,
        ..ConnectionPool::default()
    };
    let client = ConnectionPool {
        use_client_protocol: true,
        ..ConnectionPool::default()
    };
    let streams = ConnectionPool {
        max_concurrent_streams: Some(12),
        ..ConnectionPool::default()
    };
    let balanced = |load_balancer| policy(Some(load_balancer), None);
    let outlier = OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failures: Some(1),
        consecutive_gateway_errors: Some(0),
        consecutive_5xx_errors: Some(2),
        interval: Some(Duration::from_secs(3)),
        base_ejection_time: Some(Duration::from_secs(4)),
        max_ejection_percent: Some(50),
        min_health_percent: Some(30),
    };
    let of_port = PortTrafficPolicy {
        port: 80,
        load_balancer: None,
        connection_pool: Some(pool()),
        outlier_detection: None,
    };
    vec![
        (
            "round-robin",
            Protocol::Http,
            balanced(LoadBalancer::RoundRobin),
        ),
        ("random", Protocol::Http, balanced(LoadBalancer::Random)),
        (
            "passthrough",
            Protocol::Http,
            balanced(LoadBalancer::Passthrough),
        ),
        (
            "ring",
            Protocol::Tcp,
            balanced(hash(HashAlgorithm::RingHash {
                minimum_ring_size: 2048,
            })),
        ),
        (
            "maglev",
            Protocol::Http,
            balanced(hash(HashAlgorithm::Maglev { table_size: 65537 })),
        ),
        ("pool", Protocol::Http, policy(None, Some(pool()))),
        ("pool-of-bytes", Protocol::Tcp, policy(None, Some(pool()))),
        ("upgrade", Protocol::Http, policy(None, Some(upgrade()))),
        (
            "upgrade-of-grpc",
            Protocol::Grpc,
            policy(None, Some(upgrade())),
        ),
        (
            "client-protocol",
            Protocol::Http,
            policy(None, Some(client)),
        ),
        ("streams", Protocol::Http2, policy(None, Some(streams))),
        (
            "outlier",
            Protocol::Http,
            TrafficPolicy {
                outlier_detection: Some(outlier),
                ..TrafficPolicy::default()
            },
        ),
        (
            "of-port",
            Protocol::Http,
            TrafficPolicy {
                port_level_settings: vec![of_port],
                ..balanced(LoadBalancer::Random)
            },
        ),
    ]
}

#[test]
fn settings() {
    let mut clusters = BTreeMap::new();
    for (name, protocol, policy) in cases() {
        let mut service = service(name, "10.0.0.1", 80, protocol);
        service.destination_rule = Some(Arc::new(destination_rule(name, policy, &[])));
        let json = Mesh::new(Flavour::Stock, vec![service]).json();
        let all = json["Cluster"].as_object().expect("clusters");
        clusters.extend(
            all.iter()
                .filter(|(cluster, _)| cluster.starts_with("inbound-vip"))
                .map(|(cluster, value)| (cluster.clone(), value.clone())),
        );
    }
    assert_json_snapshot!(clusters);
}

/// What a subset sets replaces what the rule sets; its endpoints are those with its labels.
#[test]
fn subsets() {
    let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
    web.endpoints = vec![
        pod(&web, "v1", "10.1.0.1", "z1"),
        pod(&web, "v2", "10.1.0.2", "z1"),
    ];
    let limits = ConnectionPool {
        max_connections: Some(7),
        ..ConnectionPool::default()
    };
    let rule = destination_rule(
        "web",
        policy(Some(LoadBalancer::RoundRobin), Some(limits)),
        &[
            ("v1", TrafficPolicy::default()),
            ("v2", policy(Some(LoadBalancer::Random), None)),
            ("v3", policy(None, None)),
        ],
    );
    web.destination_rule = Some(Arc::new(rule));
    let json = Mesh::new(Flavour::Stock, vec![web]).json();
    let of = |subset: &str| format!("inbound-vip|80|http{subset}|web.shop.svc.cluster.local");
    let cluster = |subset: &str| &json["Cluster"][of(subset)];
    let balanced = |subset: &str| cluster(subset)["lb_policy"].as_str();
    assert_eq!(
        (balanced(""), balanced("/v1"), balanced("/v2")),
        (None, None, Some("RANDOM"))
    );
    for subset in ["", "/v1", "/v2", "/v3"] {
        assert_eq!(
            cluster(subset)["circuit_breakers"]["thresholds"][0]["max_connections"],
            7
        );
    }
    let endpoints = |subset: &str| -> Vec<&str> {
        let localities = json["ClusterLoadAssignment"][of(subset)]["endpoints"].as_array();
        let all = localities
            .into_iter()
            .flatten()
            .flat_map(|one| one["lb_endpoints"].as_array().into_iter().flatten());
        all.filter_map(|one| {
            one["endpoint"]["address"]["envoy_internal_address"]["endpoint_id"].as_str()
        })
        .collect()
    };
    assert_eq!(endpoints(""), ["10.1.0.1:80", "10.1.0.2:80"]);
    assert_eq!(endpoints("/v2"), ["10.1.0.2:80"]);
    assert_eq!(endpoints("/v3"), [""; 0]);
}

/// `minHealthPercent` leaves unhealthy endpoints out, which otherwise are sent as such.
#[test]
fn unhealthy_endpoints() {
    let health = |min_health_percent| -> Vec<Value> {
        let mut web = service("web", "10.0.0.1", 80, Protocol::Http);
        let states = [
            Health::Healthy,
            Health::Unhealthy,
            Health::Draining,
            Health::Unknown,
        ];
        for (host, state) in (1..).zip(states) {
            let mut endpoint = (*pod(&web, "v1", &format!("10.1.0.{host}"), "z1")).clone();
            endpoint.health = state;
            web.endpoints.push(Arc::new(endpoint));
        }
        let outlier = OutlierDetection {
            min_health_percent,
            ..OutlierDetection::default()
        };
        let policy = TrafficPolicy {
            outlier_detection: Some(outlier),
            ..TrafficPolicy::default()
        };
        web.destination_rule = Some(Arc::new(destination_rule("web", policy, &[])));
        let json = Mesh::new(Flavour::Stock, vec![web]).json();
        let name = "inbound-vip|80|http|web.shop.svc.cluster.local";
        let endpoints =
            json["ClusterLoadAssignment"][name]["endpoints"][0]["lb_endpoints"].as_array();
        endpoints
            .into_iter()
            .flatten()
            .map(|endpoint| endpoint["health_status"].clone())
            .collect()
    };
    assert_eq!(
        health(None),
        [
            Value::from("HEALTHY"),
            Value::from("UNHEALTHY"),
            Value::Null
        ]
    );
    assert_eq!(health(Some(30)), [Value::from("HEALTHY"), Value::Null]);
}
