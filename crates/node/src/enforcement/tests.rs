//! Who is sent through the waypoint, and how: the labels, nearest first, for plain text and HBONE alike.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::fixture::{id, ip, key, pod, service, store, waypoint_pod};
use crate::state::Change;
use crate::state::model::WorkloadExtension;

const POD: &str = "10.0.0.2";

/// One pod with a bound service on 80 -> 8080, an unbound one on 90 -> 9090, and nothing on 7070.
fn mesh(workload: impl FnOnce(&mut Workload), bound: impl FnOnce(&mut Service)) -> Store {
    let mut reviews = pod("reviews", POD)
        .serving("bound", &[(80, 8080)])
        .serving("free", &[(90, 9090)]);
    workload(&mut reviews);
    let mut service_bound = service("bound", Some("10.96.0.1"), &[(80, 8080)]).behind("wp");
    bound(&mut service_bound);
    store([
        Change::from(reviews),
        service_bound.into(),
        service("free", Some("10.96.0.2"), &[(90, 9090)]).into(),
        service("wp", Some("10.96.0.9"), &[(15008, 15008)]).into(),
        waypoint_pod("wp-0", "wp", "10.0.0.9").into(),
        pod("other", "10.0.0.5").into(),
    ])
}

fn outcome(store: &Store, port: u16, peer: &str, identity: Option<&SpiffeId>) -> String {
    let workload = store.workload("Kubernetes//Pod/default/reviews").unwrap();
    let arrival = Arrival {
        workload,
        destination: SocketAddr::new(ip(POD), port),
        peer: ip(peer),
        identity,
    };
    match judge(store, &arrival, &mut StdRng::seed_from_u64(1)).route {
        Route::Deliver(why) => format!("deliver {why:?}"),
        Route::Waypoint(detour) => {
            assert_eq!(detour.replica.address.to_string(), "10.0.0.9:15008");
            format!("{:?} {}", detour.kind, detour.authority)
        }
        Route::Refuse(refused) => format!("refused: {refused}"),
    }
}

#[test]
fn plain_text_and_a_peer_of_the_mesh_are_treated_alike() {
    let peer = id("default", "other");
    for (identity, from) in [(None, "127.0.0.1"), (Some(&peer), "10.0.0.5")] {
        for (label, want) in [
            (None, "Hairpin 10.0.0.2:8080"),
            (Some(Enforcement::Hairpin), "Hairpin 10.0.0.2:8080"),
            (Some(Enforcement::Service), "Service 10.96.0.1:80"),
            (Some(Enforcement::Off), "deliver Off"),
            (
                Some(Enforcement::Require),
                "refused: waypoint enforcement: Kubernetes//Pod/default/reviews takes traffic only from its waypoint",
            ),
        ] {
            let store = mesh(|_| {}, |service| service.enforcement = label);
            assert_eq!(outcome(&store, 8080, from, identity), want, "{label:?}");
        }
    }
}

#[test]
fn ports_of_unbound_services_are_free() {
    let store = mesh(|_| {}, |_| {});
    assert_eq!(outcome(&store, 9090, "127.0.0.1", None), "deliver Unbound");
    assert_eq!(outcome(&store, 7070, "127.0.0.1", None), "deliver Unbound");
}

#[test]
fn a_workloads_own_waypoint_is_in_charge_of_every_port() {
    let bind = |w: &mut Workload| w.waypoint = Some(crate::fixture::by_host("wp"));
    let store = mesh(bind, |_| {});
    for port in [8080, 9090, 7070] {
        assert_eq!(
            outcome(&store, port, "127.0.0.1", None),
            format!("Hairpin 10.0.0.2:{port}")
        );
    }
}

#[test]
fn the_waypoint_is_known_by_identity_and_where_possible_by_address() {
    let store = mesh(
        |_| {},
        |service| service.enforcement = Some(Enforcement::Require),
    );
    let waypoint = id("default", "wp");
    let refused = "refused: waypoint enforcement: Kubernetes//Pod/default/reviews takes traffic only from its waypoint";
    for (peer, identity, want) in [
        ("10.0.0.9", Some(&waypoint), "deliver FromWaypoint"),
        // An address that nobody has says nothing against it.
        ("127.0.0.1", Some(&waypoint), "deliver FromWaypoint"),
        // A pod that shares the account is no replica.
        ("10.0.0.5", Some(&waypoint), refused),
        ("10.0.0.9", Some(&id("other", "wp")), refused),
        (
            "10.0.0.9",
            Some(&"spiffe://foreign/ns/default/sa/wp".parse().unwrap()),
            refused,
        ),
    ] {
        assert_eq!(
            outcome(&store, 8080, peer, identity),
            want,
            "{peer} {identity:?}"
        );
    }
}

#[test]
fn a_waypoint_in_clear_text_is_not_sent_back_to_itself() {
    let store = mesh(|_| {}, |_| {});
    assert_eq!(
        outcome(&store, 8080, "10.0.0.9", None),
        "refused: waypoint enforcement: the waypoint of Kubernetes//Pod/default/reviews connected in clear text"
    );
}

#[test]
fn probe_ports_are_always_delivered() {
    let probe = |w: &mut Workload| w.extension.probe_ports = vec![8080];
    let store = mesh(probe, |service| {
        service.enforcement = Some(Enforcement::Require)
    });
    assert_eq!(outcome(&store, 8080, "127.0.0.1", None), "deliver Probe");
    // What comes from the waypoint is no bypass.
    assert_eq!(
        outcome(&store, 8080, "10.0.0.9", Some(&id("default", "wp"))),
        "deliver FromWaypoint"
    );
}

#[test]
fn the_nearest_label_wins() {
    use Enforcement::{Hairpin, Off, Require};
    type Label = Option<Enforcement>;
    let cases: [(Label, Label, Label, u16, &str); 6] = [
        // workload, service, inherited, port
        (Some(Off), Some(Require), Some(Require), 8080, "deliver Off"),
        (None, Some(Off), Some(Require), 8080, "deliver Off"),
        (None, None, Some(Off), 8080, "Hairpin 10.0.0.2:8080"), // the service says the nearest of its own chain: nothing
        (None, Some(Off), Some(Off), 7070, "deliver Off"), // no bound service owns it: namespace or Gateway decide
        (None, Some(Off), None, 7070, "Hairpin 10.0.0.2:7070"),
        (
            Some(Hairpin),
            Some(Require),
            None,
            8080,
            "Hairpin 10.0.0.2:8080",
        ),
    ];
    for (own, by_service, inherited, port, want) in cases {
        let labels = |w: &mut Workload| {
            w.waypoint = Some(crate::fixture::by_host("wp"));
            w.extension = WorkloadExtension {
                enforcement: own,
                inherited_enforcement: inherited,
                ..WorkloadExtension::default()
            };
        };
        let store = mesh(labels, |service| service.enforcement = by_service);
        assert_eq!(
            outcome(&store, port, "127.0.0.1", None),
            want,
            "{own:?} {by_service:?} {inherited:?} {port}"
        );
    }
}

#[test]
fn of_several_services_on_a_port_the_strictest_decides_and_none_is_its_service() {
    let two = |a, b| {
        let mut first = service("a", Some("10.96.0.1"), &[(80, 8080)]).behind("wp");
        first.enforcement = Some(a);
        let mut second = service("b", Some("10.96.0.2"), &[(81, 8080)]).behind("wp");
        second.enforcement = Some(b);
        store([
            pod("reviews", POD)
                .serving("a", &[(80, 8080)])
                .serving("b", &[(81, 8080)])
                .into(),
            first.into(),
            second.into(),
            service("wp", None, &[(15008, 15008)]).into(),
            waypoint_pod("wp-0", "wp", "10.0.0.9").into(),
        ])
    };
    use Enforcement::{Hairpin, Off, Require, Service};
    assert_eq!(
        outcome(&two(Off, Off), 8080, "127.0.0.1", None),
        "deliver Off"
    );
    assert_eq!(
        outcome(&two(Off, Hairpin), 8080, "127.0.0.1", None),
        "Hairpin 10.0.0.2:8080"
    );
    assert_eq!(
        outcome(&two(Service, Service), 8080, "127.0.0.1", None),
        "Hairpin 10.0.0.2:8080"
    );
    assert!(outcome(&two(Service, Require), 8080, "127.0.0.1", None).starts_with("refused"));
}

#[test]
fn a_headless_service_cannot_be_addressed_so_its_pod_is() {
    let store = mesh(
        |_| {},
        |service| {
            service.enforcement = Some(Enforcement::Service);
            service.vips = Vec::new();
        },
    );
    assert_eq!(
        outcome(&store, 8080, "127.0.0.1", None),
        "Hairpin 10.0.0.2:8080"
    );
}

#[test]
fn a_waypoint_without_replica_refuses_rather_than_lets_pass() {
    let mut store = mesh(|_| {}, |_| {});
    store.apply(
        Change::RemoveAddress("Kubernetes//Pod/default/wp-0".into()),
        &mut Default::default(),
    );
    assert_eq!(
        outcome(&store, 8080, "127.0.0.1", None),
        "refused: unknown waypoint: waypoint default/wp has no healthy replica"
    );
}

#[test]
fn bypasses_are_counted_under_the_bound_service() {
    let store = mesh(|_| {}, |_| {});
    let workload = store.workload("Kubernetes//Pod/default/reviews").unwrap();
    let arrival = |port| Arrival {
        workload,
        destination: SocketAddr::new(ip(POD), port),
        peer: ip("127.0.0.1"),
        identity: None,
    };
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(
        judge(&store, &arrival(8080), &mut rng).service,
        Some(key("bound"))
    );
    assert_eq!(judge(&store, &arrival(9090), &mut rng).service, None);
}
