//! The decision table of hbone-and-l4.md 7, and what goes beyond it.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::fixture::{by_host, id, ip, key, pod, service, store, waypoint_pod};
use crate::state::Change;
use crate::state::model::{
    GatewayDestination, Health, LoadBalancing, NetworkAddr, NetworkMode, Visibility,
    WeightedWaypoint,
};

fn mesh() -> Store {
    let passthrough = LoadBalancing {
        mode: BalanceMode::Passthrough,
        ..LoadBalancing::default()
    };
    store([
        pod("client", "10.0.0.1").into(),
        pod("plain", "10.0.0.2")
            .with(|w| w.protocol = Protocol::Tcp)
            .serving("plain", &[(80, 8080)])
            .into(),
        pod("hbone", "10.0.0.3")
            .serving("direct", &[(80, 8080)])
            .into(),
        pod("guarded", "10.0.0.4")
            .behind("wp")
            .serving("guarded", &[(80, 8080)])
            .serving("unbound", &[(80, 8080)])
            .into(),
        pod("host", "10.0.0.5")
            .with(|w| w.network_mode = NetworkMode::HostNetwork)
            .into(),
        waypoint_pod("wp-0", "wp", "10.0.0.9").into(),
        service("wp", Some("10.96.0.9"), &[(15008, 15008)]).into(),
        service("plain", Some("10.96.0.1"), &[(80, 8080)]).into(),
        service("direct", Some("10.96.0.2"), &[(80, 8080)]).into(),
        service("guarded", Some("10.96.0.3"), &[(80, 8080)])
            .behind("wp")
            .into(),
        service("unbound", Some("10.96.0.4"), &[(80, 8080)]).into(),
        service("empty", Some("10.96.0.5"), &[(80, 8080)]).into(),
        service("pass", Some("10.96.0.6"), &[(80, 8080)])
            .with(|s| s.load_balancing = passthrough.clone())
            .into(),
        service("pass-wp", Some("10.96.0.7"), &[(80, 8080)])
            .behind("wp")
            .with(|s| s.load_balancing = passthrough.clone())
            .into(),
        service("lost-wp", Some("10.96.0.8"), &[(80, 8080)])
            .behind("nowhere")
            .into(),
    ])
}

impl Workload {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Service {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// The outcome in one line.
fn outcome(store: &Store, client: Option<&str>, from: &str, to: &str) -> String {
    let workload = client.map(|name| {
        store
            .workload(&format!("Kubernetes//Pod/default/{name}"))
            .unwrap()
            .clone()
    });
    let captured = Captured {
        origin: workload
            .as_deref()
            .map_or(Origin::Outside, Origin::Workload),
        from: format!("{from}:40000").parse().unwrap(),
        to: to.parse().unwrap(),
    };
    match decide(store, captured, &mut StdRng::seed_from_u64(1)) {
        Ok(Decision::Tcp(route)) => format!("tcp {}", shown(&route.address)),
        Ok(Decision::Hbone(route)) => {
            let via = match route.via {
                Via::Waypoint => "waypoint",
                Via::Endpoint => "direct",
            };
            format!(
                "{via} {} CONNECT {}",
                shown(&route.address),
                route.authority
            )
        }
        Err(refusal) => format!("refused: {refusal}"),
    }
}

fn shown(target: &Target) -> String {
    match target {
        Target::Address(address) => address.to_string(),
        Target::Name { host, port, .. } => format!("{host}:{port}"),
    }
}

#[test]
fn decides_as_the_table_says() {
    let mesh = mesh();
    let via_wp = |authority: &str| format!("waypoint 10.0.0.9:15008 CONNECT {authority}");
    let client = ("client", "10.0.0.1");
    for (what, (name, from), to, want) in [
        (
            "unknown address",
            client,
            "1.2.3.4:80",
            "tcp 1.2.3.4:80".to_owned(),
        ),
        (
            "workload, TCP",
            client,
            "10.0.0.2:8080",
            "tcp 10.0.0.2:8080".to_owned(),
        ),
        (
            "workload, HBONE",
            client,
            "10.0.0.3:8080",
            "direct 10.0.0.3:15008 CONNECT 10.0.0.3:8080".to_owned(),
        ),
        (
            "VIP of TCP endpoints",
            client,
            "10.96.0.1:80",
            "tcp 10.0.0.2:8080".to_owned(),
        ),
        (
            "VIP of HBONE endpoints",
            client,
            "10.96.0.2:80",
            "direct 10.0.0.3:15008 CONNECT 10.0.0.3:8080".to_owned(),
        ),
        (
            "VIP, no endpoints",
            client,
            "10.96.0.5:80",
            "refused: no healthy upstream: 10.96.0.5:80".to_owned(),
        ),
        (
            "VIP, unknown port",
            client,
            "10.96.0.2:81",
            "refused: no healthy upstream: 10.96.0.2:81".to_owned(),
        ),
        (
            "passthrough VIP",
            client,
            "10.96.0.6:80",
            "tcp 10.96.0.6:80".to_owned(),
        ),
        (
            "passthrough VIP with waypoint",
            client,
            "10.96.0.7:80",
            via_wp("10.96.0.7:80"),
        ),
        (
            "VIP with waypoint",
            client,
            "10.96.0.3:80",
            via_wp("10.96.0.3:80"),
        ),
        (
            "VIP with waypoint, from it",
            ("wp-0", "10.0.0.9"),
            "10.96.0.3:80",
            via_wp("10.96.0.3:80"),
        ),
        (
            "VIP without, endpoint with waypoint",
            client,
            "10.96.0.4:80",
            "direct 10.0.0.4:15008 CONNECT 10.0.0.4:8080".to_owned(),
        ),
        (
            "pod with waypoint",
            client,
            "10.0.0.4:8080",
            via_wp("10.0.0.4:8080"),
        ),
        (
            "pod with waypoint, from it",
            ("wp-0", "10.0.0.9"),
            "10.0.0.4:8080",
            "direct 10.0.0.4:15008 CONNECT 10.0.0.4:8080".to_owned(),
        ),
        (
            "pod with waypoint, its identity elsewhere",
            ("wp-0", "10.0.0.1"),
            "10.0.0.4:8080",
            via_wp("10.0.0.4:8080"),
        ),
        (
            "host network",
            client,
            "10.0.0.5:80",
            "tcp 10.0.0.5:80".to_owned(),
        ),
        (
            "own port on loopback",
            client,
            "127.0.0.1:15008",
            "refused: attempted recursive call to ourselves".to_owned(),
        ),
        (
            "v4-mapped address",
            client,
            "[::ffff:10.96.0.3]:80",
            via_wp("10.96.0.3:80"),
        ),
    ] {
        assert_eq!(outcome(&mesh, Some(name), from, to), want, "{what}");
    }
}

#[test]
fn a_waypoint_that_is_missing_is_never_gone_round() {
    let mesh = mesh();
    let refused = "refused: unknown waypoint: waypoint default/nowhere not found";
    assert_eq!(
        outcome(&mesh, Some("client"), "10.0.0.1", "10.96.0.8:80"),
        refused
    );
    assert_eq!(outcome(&mesh, None, "127.0.0.1", "10.96.0.8:80"), refused);
    let mesh = store([
        service("wp", None, &[(15008, 15008)]).into(),
        waypoint_pod("wp-0", "wp", "10.0.0.9")
            .with(|w| w.status = Health::Unhealthy)
            .into(),
        service("s", Some("10.96.0.1"), &[(80, 80)])
            .behind("wp")
            .into(),
    ]);
    let refused = "refused: unknown waypoint: waypoint default/wp has no healthy replica";
    assert_eq!(outcome(&mesh, None, "127.0.0.1", "10.96.0.1:80"), refused);
}

#[test]
fn clients_outside_the_mesh_take_the_waypoint_or_go_in_clear() {
    let mesh = mesh();
    for (to, want) in [
        (
            "10.96.0.3:80",
            "waypoint 10.0.0.9:15008 CONNECT 10.96.0.3:80",
        ),
        (
            "10.0.0.4:8080",
            "waypoint 10.0.0.9:15008 CONNECT 10.0.0.4:8080",
        ),
        ("10.96.0.2:80", "tcp 10.0.0.3:8080"),
        ("10.96.0.4:80", "tcp 10.0.0.4:8080"),
    ] {
        assert_eq!(outcome(&mesh, None, "127.0.0.1", to), want);
    }
}

#[test]
fn expected_identities_are_the_workloads_and_what_its_service_adds() {
    let extra = id("other", "elsewhere");
    let mesh = store([
        pod("client", "10.0.0.1").into(),
        pod("hbone", "10.0.0.3").serving("s", &[(80, 8080)]).into(),
        service("s", Some("10.96.0.1"), &[(80, 8080)])
            .with(|s| s.extra_identities = vec![extra.clone()])
            .into(),
    ]);
    let client = mesh
        .workload("Kubernetes//Pod/default/client")
        .unwrap()
        .clone();
    let captured = Captured {
        origin: Origin::Workload(&client),
        from: "10.0.0.1:1".parse().unwrap(),
        to: "10.96.0.1:80".parse().unwrap(),
    };
    let Ok(Decision::Hbone(route)) = decide(&mesh, captured, &mut StdRng::seed_from_u64(1)) else {
        panic!("not by HBONE")
    };
    assert_eq!(*route.expected, [id("default", "hbone"), extra]);
}

#[test]
fn weighted_waypoints_are_chosen_by_weight_and_never_with_weight_zero() {
    let weighted = |a, b| {
        store([
            waypoint_pod("a-0", "a", "10.0.0.8").into(),
            waypoint_pod("b-0", "b", "10.0.0.9").into(),
            service("a", None, &[(15008, 15008)]).into(),
            service("b", None, &[(15008, 15008)]).into(),
            service("s", Some("10.96.0.1"), &[(80, 80)])
                .behind("a")
                .with(|s| {
                    s.weighted_waypoints = vec![
                        WeightedWaypoint {
                            destination: by_host("a"),
                            weight: a,
                        },
                        WeightedWaypoint {
                            destination: by_host("b"),
                            weight: b,
                        },
                    ];
                })
                .into(),
        ])
    };
    let share_of_b = |store: &Store| {
        let mut rng = StdRng::seed_from_u64(7);
        let captured = Captured {
            origin: Origin::Outside,
            from: "127.0.0.1:1".parse().unwrap(),
            to: "10.96.0.1:80".parse().unwrap(),
        };
        let hits = (0..1000).filter(|_| match decide(store, captured, &mut rng) {
            Ok(Decision::Hbone(route)) => &*route.peer.name == "b-0",
            other => panic!("{other:?}"),
        });
        hits.count()
    };
    assert!((150..250).contains(&share_of_b(&weighted(80, 20))));
    assert_eq!(share_of_b(&weighted(100, 0)), 0);
    assert_eq!(
        share_of_b(&weighted(0, 0)),
        0,
        "all zero: the single reference"
    );
    assert_eq!(share_of_b(&weighted(0, 5)), 1000);
}

#[test]
fn a_waypoint_may_be_named_by_address() {
    let by_address = |address: &str| GatewayRef {
        destination: GatewayDestination::Address(NetworkAddr::new("", ip(address))),
        hbone_mtls_port: 15008,
    };
    let mesh = |address: &str| {
        store([
            waypoint_pod("wp-0", "wp", "10.0.0.9").into(),
            service("wp", Some("10.96.0.9"), &[(15008, 15009)]).into(),
            service("s", Some("10.96.0.1"), &[(80, 80)])
                .with(|s| s.waypoint = Some(by_address(address)))
                .into(),
        ])
    };
    let to = "10.96.0.1:80";
    // The endpoint's own port map comes before the service's.
    assert_eq!(
        outcome(&mesh("10.96.0.9"), None, "127.0.0.1", to),
        "waypoint 10.0.0.9:15008 CONNECT 10.96.0.1:80"
    );
    assert_eq!(
        outcome(&mesh("10.0.0.9"), None, "127.0.0.1", to),
        "waypoint 10.0.0.9:15008 CONNECT 10.96.0.1:80"
    );
    assert_eq!(
        outcome(&mesh("10.0.0.7"), None, "127.0.0.1", to),
        "refused: unknown waypoint: waypoint /10.0.0.7 not found"
    );
}

#[test]
fn private_services_are_seen_by_their_namespace_only() {
    let private = |visibility| {
        store([
            pod("client", "10.0.0.1").into(),
            pod("server", "10.0.0.2").serving("s", &[(80, 8080)]).into(),
            service("s", Some("10.96.0.1"), &[(80, 8080)])
                .with(|s| s.visibility = visibility)
                .into(),
        ])
    };
    let store = private(Visibility::Namespace);
    let to = "10.96.0.1:80";
    assert_eq!(
        outcome(&store, Some("client"), "10.0.0.1", to),
        "direct 10.0.0.2:15008 CONNECT 10.0.0.2:8080"
    );
    assert_eq!(outcome(&store, None, "127.0.0.1", to), "tcp 10.96.0.1:80");
    assert_eq!(
        outcome(&private(Visibility::Public), None, "127.0.0.1", to),
        "tcp 10.0.0.2:8080"
    );
}

#[test]
fn target_ports_come_from_the_endpoint_then_the_service() {
    let mesh = store([
        pod("client", "10.0.0.1").into(),
        pod("a", "10.0.0.2").serving("named", &[(80, 9999)]).into(),
        pod("b", "10.0.0.3").serving("silent", &[]).into(),
        pod("c", "10.0.0.4").serving("neither", &[]).into(),
        service("named", Some("10.96.0.1"), &[(80, 0)]).into(),
        service("silent", Some("10.96.0.2"), &[(80, 8080)]).into(),
        service("neither", Some("10.96.0.3"), &[(80, 0)]).into(),
    ]);
    for (to, want) in [
        (
            "10.96.0.1:80",
            "direct 10.0.0.2:15008 CONNECT 10.0.0.2:9999",
        ),
        (
            "10.96.0.2:80",
            "direct 10.0.0.3:15008 CONNECT 10.0.0.3:8080",
        ),
        ("10.96.0.3:80", "refused: no healthy upstream: 10.96.0.3:80"),
    ] {
        assert_eq!(outcome(&mesh, Some("client"), "10.0.0.1", to), want);
    }
}

#[test]
fn an_endpoint_that_is_a_name_is_resolved_later() {
    let mesh = store([
        pod("client", "10.0.0.1").into(),
        pod("ext", "10.0.0.2")
            .with(|w| {
                w.addresses = Vec::new();
                w.hostname = "example.com".into();
                w.protocol = Protocol::Tcp;
            })
            .serving("ext", &[(443, 8443)])
            .into(),
        service("ext", Some("10.96.0.1"), &[(443, 443)]).into(),
    ]);
    assert_eq!(
        outcome(&mesh, Some("client"), "10.0.0.1", "10.96.0.1:443"),
        "tcp example.com:8443"
    );
}

#[test]
fn another_network_is_refused_by_name() {
    let change: Change = pod("far", "10.0.0.2")
        .with(|w| w.network = "net2".into())
        .serving("s", &[(80, 80)])
        .into();
    let mesh = store([
        pod("client", "10.0.0.1").into(),
        change,
        service("s", Some("10.96.0.1"), &[(80, 80)]).into(),
    ]);
    assert_eq!(
        outcome(&mesh, Some("client"), "10.0.0.1", "10.96.0.1:80"),
        "refused: no valid routing destination for workload: Kubernetes//Pod/default/far is on network \"net2\""
    );
    let _ = key("s");
}
