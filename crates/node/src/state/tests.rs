use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::balance::{Origin, PickFor};
use super::lookup::Address;
use super::model::{
    BalanceMode, Health, HealthPolicy, LoadBalancing, Locality, NetworkAddr, NetworkMode,
    NetworkRange, Scope, Visibility,
};
use super::*;
use crate::fixture::{id, ip, key, placement, pod, service, store};

fn here(address: &str) -> NetworkAddr {
    NetworkAddr::new("", ip(address))
}

#[test]
fn an_address_that_is_pod_and_vip_is_found_in_both_orders() {
    let store = store([
        pod("a", "10.0.0.1").into(),
        service("s", Some("10.0.0.1"), &[(80, 80)]).into(),
    ]);
    assert!(matches!(
        store.find_address(&here("10.0.0.1"), View::Mesh),
        Some(Address::Workload(_))
    ));
    assert!(matches!(
        store.find_upstream(&here("10.0.0.1"), View::Mesh),
        Some(Address::Service(_))
    ));
}

#[test]
fn host_network_workloads_have_no_address() {
    let mut host = pod("a", "10.0.0.1");
    host.network_mode = NetworkMode::HostNetwork;
    let store = store([host.into()]);
    assert!(store.workload_by_address(&here("10.0.0.1")).is_none());
    assert!(store.workload("Kubernetes//Pod/default/a").is_some());
}

#[test]
fn of_two_workloads_on_an_address_the_pod_is_meant() {
    let mut entry = pod("entry", "10.0.0.1");
    entry.uid = Uid::new("Kubernetes/networking.istio.io/WorkloadEntry/default/entry");
    for order in [
        [entry.clone(), pod("a", "10.0.0.1")],
        [pod("a", "10.0.0.1"), entry],
    ] {
        let store = store(order.map(Change::from));
        assert_eq!(
            &*store.workload_by_address(&here("10.0.0.1")).unwrap().name,
            "a"
        );
    }
}

#[test]
fn services_on_one_vip_are_told_apart_by_the_clients_namespace() {
    let of = |namespace: &str, canonical, visibility| {
        let mut s = service("s", Some("10.96.0.1"), &[(80, 80)]);
        s.key.namespace = namespace.into();
        s.canonical = canonical;
        s.visibility = visibility;
        s
    };
    let store = store([
        of("a", false, Visibility::Public).into(),
        of("b", true, Visibility::Public).into(),
        of("c", false, Visibility::Namespace).into(),
    ]);
    let seen = |view| {
        store
            .service_by_vip(&here("10.96.0.1"), view)
            .map(|s| s.key.namespace.to_string())
    };
    assert_eq!(seen(View::Namespace("a")).as_deref(), Some("a"));
    assert_eq!(seen(View::Namespace("c")).as_deref(), Some("c"));
    assert_eq!(
        seen(View::Namespace("x")).as_deref(),
        Some("b"),
        "the canonical one"
    );
    assert_eq!(seen(View::Outside).as_deref(), Some("b"));
    assert_eq!(
        store
            .service_by_host("s", View::Namespace("c"))
            .unwrap()
            .key
            .namespace
            .as_ref(),
        "c"
    );
}

#[test]
fn ranges_come_after_exact_addresses_and_longest_first() {
    let range = |host: &str, cidr: &str| {
        let mut s = service(host, None, &[(80, 80)]);
        s.cidr_vips = vec![NetworkRange {
            network: "".into(),
            range: cidr.parse().unwrap(),
        }];
        s
    };
    let store = store([
        range("wide", "10.96.0.0/16").into(),
        range("narrow", "10.96.1.0/24").into(),
        service("exact", Some("10.96.1.1"), &[(80, 80)]).into(),
    ]);
    let host = |address: &str| {
        store
            .service_by_vip(&here(address), View::Mesh)
            .map(|s| s.key.hostname.to_string())
    };
    assert_eq!(host("10.96.1.1").as_deref(), Some("exact"));
    assert_eq!(host("10.96.1.2").as_deref(), Some("narrow"));
    assert_eq!(host("10.96.2.2").as_deref(), Some("wide"));
    assert_eq!(host("10.97.0.1"), None);
}

#[test]
fn endpoints_wait_for_their_service() {
    let mut store = store([pod("a", "10.0.0.1").serving("s", &[(80, 8080)]).into()]);
    assert_eq!(
        store
            .staged()
            .map(|(key, _)| key.clone())
            .collect::<Vec<_>>(),
        [key("s")]
    );
    store.apply(
        service("s", Some("10.96.0.1"), &[(80, 80)]).into(),
        &mut Touched::default(),
    );
    assert_eq!(store.staged().count(), 0);
    assert_eq!(store.members(&key("s")).len(), 1);
    store.apply(
        Change::RemoveAddress("default/s".into()),
        &mut Touched::default(),
    );
    assert_eq!(store.staged().count(), 1);
    store.apply(
        Change::RemoveAddress("Kubernetes//Pod/default/a".into()),
        &mut Touched::default(),
    );
    assert_eq!(store.staged().count(), 0);
}

fn picks(store: &Store, host: &str, origin: Origin<'_>, n: usize) -> BTreeSet<String> {
    let mut rng = StdRng::seed_from_u64(3);
    let service = store.service(&key(host)).unwrap();
    let pick = |_| {
        store
            .pick_endpoint(service, 80, origin, PickFor::Traffic, &mut rng)
            .map(|(w, _)| w.name.to_string())
    };
    (0..n).filter_map(pick).collect()
}

#[test]
fn unhealthy_endpoints_are_for_those_who_ask() {
    let mut sick = pod("sick", "10.0.0.2").serving("s", &[(80, 80)]);
    sick.status = Health::Unhealthy;
    let mesh = |policy| {
        let mut s = service("s", None, &[(80, 80)]);
        s.load_balancing.health_policy = policy;
        store([
            pod("well", "10.0.0.1").serving("s", &[(80, 80)]).into(),
            sick.clone().into(),
            s.into(),
        ])
    };
    let only: BTreeSet<String> = ["well".to_owned()].into();
    assert_eq!(
        picks(&mesh(HealthPolicy::OnlyHealthy), "s", Origin::Outside, 100),
        only
    );
    assert_eq!(
        picks(&mesh(HealthPolicy::AllowAll), "s", Origin::Outside, 100).len(),
        2
    );
}

#[test]
fn preferences_rank_as_the_spec_says() {
    let at = |name: &str, address: &str, network: &str, region: &str, zone: &str| {
        let mut w = pod(name, address).serving("s", &[(80, 80)]);
        w.network = network.into();
        w.locality = Locality {
            region: region.into(),
            zone: zone.into(),
            subzone: "".into(),
        };
        w
    };
    let client = at("client", "10.0.0.9", "n1", "r1", "z1");
    // In the order of their rank: 5, 4, 3, 2, 1, 0.
    let ranked = [
        at("all", "10.0.0.1", "n1", "r1", "z1"),
        at("network-region", "10.0.0.2", "n1", "r1", "z2"),
        at("network", "10.0.0.3", "n1", "r2", "z1"),
        at("region-zone", "10.0.0.4", "n2", "r1", "z1"),
        at("region", "10.0.0.5", "n2", "r1", "z2"),
        at("none", "10.0.0.6", "n2", "r2", "z2"),
    ];
    let wanted = vec![Scope::Network, Scope::Region, Scope::Zone];
    let mesh = |mode, from: usize| {
        let mut s = service("s", None, &[(80, 80)]);
        s.load_balancing = LoadBalancing {
            routing_preference: wanted.clone(),
            mode,
            ..LoadBalancing::default()
        };
        store(
            ranked[from..]
                .iter()
                .cloned()
                .map(Change::from)
                .chain([s.into()]),
        )
    };
    for (from, best) in ranked.iter().enumerate() {
        let picked = picks(
            &mesh(BalanceMode::Failover, from),
            "s",
            Origin::Workload(&client),
            50,
        );
        assert_eq!(picked, [best.name.to_string()].into());
        let strict = picks(
            &mesh(BalanceMode::Strict, from),
            "s",
            Origin::Workload(&client),
            50,
        );
        assert_eq!(strict.is_empty(), from > 0, "strict from {from}");
    }
    assert_eq!(
        picks(
            &mesh(BalanceMode::Standard, 0),
            "s",
            Origin::Workload(&client),
            500
        )
        .len(),
        6
    );
}

#[test]
fn capacity_is_a_weight_however_many_endpoints() {
    for others in [3, 60] {
        let mut heavy = pod("heavy", "10.1.0.1").serving("s", &[(80, 80)]);
        heavy.capacity = others;
        let light = (0..others).map(|n| {
            Change::from(pod(&format!("p{n}"), &format!("10.0.0.{n}")).serving("s", &[(80, 80)]))
        });
        let store = store(light.chain([heavy.into(), service("s", None, &[(80, 80)]).into()]));
        let service = store.service(&key("s")).unwrap();
        let mut rng = StdRng::seed_from_u64(5);
        let heavy = (0..1000)
            .filter(|_| {
                let picked =
                    store.pick_endpoint(service, 80, Origin::Outside, PickFor::Traffic, &mut rng);
                &*picked.unwrap().0.name == "heavy"
            })
            .count();
        assert!(
            (430..570).contains(&heavy),
            "{heavy} of 1000 with {others} others"
        );
    }
}

#[test]
fn many_equal_endpoints_are_all_used() {
    let pods = (0..100).map(|n| {
        Change::from(pod(&format!("p{n}"), &format!("10.0.0.{n}")).serving("s", &[(80, 80)]))
    });
    let store = store(pods.chain([service("s", None, &[(80, 80)]).into()]));
    assert_eq!(picks(&store, "s", Origin::Outside, 2000).len(), 100);
}

#[test]
fn certificates_are_wanted_for_captured_local_workloads() {
    let mut elsewhere = pod("elsewhere", "10.0.0.2");
    elsewhere.node = "other".into();
    let mut native = pod("native", "10.0.0.3");
    native.native_tunnel = true;
    let mut store = store([pod("a", "10.0.0.1").into(), elsewhere.into(), native.into()]);
    assert_eq!(
        store.local_identities().collect::<Vec<_>>(),
        [&id("default", "a")]
    );
    let mut other = pod("a", "10.0.0.1");
    other.identity = id("default", "b");
    store.apply(other.into(), &mut Touched::default());
    assert_eq!(
        store.local_identities().collect::<Vec<_>>(),
        [&id("default", "b")]
    );
    store.apply(
        Change::RemoveAddress("Kubernetes//Pod/default/a".into()),
        &mut Touched::default(),
    );
    assert_eq!(store.local_identities().count(), 0);
}

#[test]
fn a_held_snapshot_does_not_change_and_does_not_stop_changes() {
    let state = StateHandle::new(placement());
    state.apply(vec![pod("a", "10.0.0.1").into()]);
    let held = state.load_full();
    for n in 2..6 {
        state.apply(vec![pod(&format!("p{n}"), &format!("10.0.0.{n}")).into()]);
    }
    assert_eq!(held.workloads().count(), 1);
    assert_eq!(state.load().workloads().count(), 5);
    drop(held);
    state.apply(vec![Change::RemoveAddress(
        "Kubernetes//Pod/default/a".into(),
    )]);
    assert_eq!(state.load().workloads().count(), 4);
}

#[tokio::test]
async fn a_feed_merges_what_was_not_read() {
    let state = StateHandle::new(placement());
    let mut feed = state.feed();
    state.apply(vec![pod("a", "10.0.0.1").into()]);
    state.apply(vec![
        pod("b", "10.0.0.2").into(),
        service("s", None, &[]).into(),
    ]);
    let touched = feed.next().await;
    assert_eq!(touched.workloads.len(), 2);
    assert_eq!(touched.services, [key("s")].into());
}

#[derive(Clone, Debug)]
enum Op {
    Pod {
        name: u8,
        address: u8,
        services: Vec<u8>,
        healthy: bool,
    },
    Service {
        host: u8,
        vip: u8,
    },
    Remove {
        pod: bool,
        name: u8,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (
            0u8..6,
            0u8..4,
            prop::collection::vec(0u8..3, 0..3),
            any::<bool>()
        )
            .prop_map(|(name, address, services, healthy)| Op::Pod {
                name,
                address,
                services,
                healthy
            }),
        (0u8..3, 0u8..3).prop_map(|(host, vip)| Op::Service { host, vip }),
        (any::<bool>(), 0u8..6).prop_map(|(pod, name)| Op::Remove { pod, name }),
    ];
    prop::collection::vec(op, 0..40)
}

impl Op {
    fn change(&self) -> Change {
        match self {
            Self::Pod {
                name,
                address,
                services,
                healthy,
            } => {
                let mut w = pod(&format!("p{name}"), &format!("10.0.0.{address}"));
                for host in services {
                    w = w.serving(&format!("s{host}"), &[(80, 80)]);
                }
                w.status = if *healthy {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                };
                w.into()
            }
            Self::Service { host, vip } => service(
                &format!("s{host}"),
                Some(&format!("10.96.0.{vip}")),
                &[(80, 80)],
            )
            .into(),
            Self::Remove { pod: true, name } => {
                Change::RemoveAddress(format!("Kubernetes//Pod/default/p{name}").into())
            }
            Self::Remove { pod: false, name } => {
                Change::RemoveAddress(format!("default/s{name}").into())
            }
        }
    }
}

/// All that can be asked, as text.
fn view(store: &Store) -> String {
    let mut lines = BTreeSet::new();
    for n in 0..6 {
        let address = here(&format!("10.0.0.{n}"));
        let vip = here(&format!("10.96.0.{n}"));
        lines.insert(format!(
            "{address} {:?}",
            store.workload_by_address(&address).map(|w| &w.uid)
        ));
        lines.insert(format!(
            "{vip} {:?}",
            store.service_by_vip(&vip, View::Mesh).map(|s| &s.key)
        ));
        let host = key(&format!("s{n}"));
        let members: BTreeSet<_> = store
            .members(&host)
            .iter()
            .map(|w| (w.uid.clone(), w.status == Health::Healthy))
            .collect();
        lines.insert(format!(
            "{host} {members:?} {:?}",
            store
                .service_by_host(&host.hostname, View::Mesh)
                .map(|s| &s.key)
        ));
    }
    lines.insert(format!(
        "{:?}",
        store
            .staged()
            .map(|(key, _)| key.clone())
            .collect::<BTreeSet<_>>()
    ));
    lines.insert(format!(
        "{:?}",
        store.local_identities().collect::<BTreeSet<_>>()
    ));
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

proptest! {
    /// Any history of changes gives the state that its last versions alone give, in any batches, held or not.
    #[test]
    fn history_does_not_matter(ops in ops(), batch in 1usize..5) {
        let state = StateHandle::new(placement());
        let mut last: std::collections::BTreeMap<String, Change> = Default::default();
        let mut held = Vec::new();
        for (n, chunk) in ops.chunks(batch).enumerate() {
            state.apply(chunk.iter().map(Op::change).collect());
            if n % 3 == 0 {
                held.push(state.load_full());
            }
            for op in chunk {
                match op.change() {
                    Change::Workload(w) => { last.insert(w.uid.to_string(), Change::Workload(w)); }
                    Change::Service(s) => { last.insert(s.key.to_string(), Change::Service(s)); }
                    Change::RemoveAddress(name) => { last.remove(&*name); }
                    Change::Policy(_) | Change::RemovePolicy(_) => {}
                }
            }
        }
        let fresh = store(last.into_values());
        prop_assert_eq!(view(&state.load()), view(&fresh));
    }
}
