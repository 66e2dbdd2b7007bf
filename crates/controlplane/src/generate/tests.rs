//! Views after any events are those that a full build gives, and a change costs only what it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use waymark_proto::type_url;
use waymark_xds::ResourceSet;

use super::{Generator, ProxyKey};
use crate::facts::Facts;
use crate::index::tests::{event, facts_of, ipam, rebuild, settings};
use crate::index::{Index, Mesh};
use crate::translate::input::{Flavour, IpFamily, IstioVersion, MeshSettings, Proxy};

fn proxy(namespace: &str, gateway: &str, flavour: Flavour) -> Arc<ProxyKey> {
    Arc::new(ProxyKey::new(Proxy {
        namespace: namespace.to_owned(),
        gateway: gateway.to_owned(),
        deployment: gateway.to_owned(),
        service_account: gateway.to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        network: None,
        locality: Default::default(),
        node_name: None,
        ip_family: IpFamily::V4,
        flavour,
        istio_version: IstioVersion::NEWEST,
        labels: BTreeMap::new(),
        mesh_id: "cluster.local".to_owned(),
    }))
}

fn proxies() -> Vec<Arc<ProxyKey>> {
    let mut proxies = Vec::new();
    for namespace in ["a", "b"] {
        for gateway in ["w", "x"] {
            for flavour in [Flavour::Stock, Flavour::IstioProxy] {
                proxies.push(proxy(namespace, gateway, flavour));
            }
        }
    }
    proxies
}

/// Every resource of a set: type and name, and a hash of its content.
fn contents(set: &ResourceSet) -> BTreeMap<(String, String), String> {
    let of_type = |(type_url, map): (&str, &waymark_xds::ResourceMap)| {
        let type_url = type_url.to_owned();
        map.iter()
            .map(|resource| {
                (
                    (type_url.clone(), resource.name().to_owned()),
                    resource.version().to_owned(),
                )
            })
            .collect::<Vec<_>>()
    };
    // Stock proxies are not kept up to date on workloads, which they never ask for.
    set.iter()
        .filter(|(type_url, _)| *type_url != type_url::WORKLOAD)
        .flat_map(of_type)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn views_after_any_events_are_those_of_a_full_build(
        events in prop::collection::vec(event(), 1..60),
        batch in 1..5usize,
        seed in any::<prop::sample::Index>(),
    ) {
        let mut facts = Facts::new(settings(), ipam());
        let mut index = Index::new(Mesh::default());
        let mut generator = Generator::new(MeshSettings::default());
        let proxies = proxies();
        let mut seen: Vec<ResourceSet> = proxies.iter().map(|proxy| generator.connect(&index, proxy)).collect();
        for events in events.chunks(batch) {
            let batch: Vec<_> = events.iter().flat_map(|event| facts_of(&mut facts, event)).collect();
            let effects = index.apply(batch);
            let changed: BTreeMap<_, _> = generator
                .apply(&index, &effects)
                .into_iter()
                .map(|(proxy, set)| (proxy.text.clone(), set))
                .collect();
            for (proxy, seen) in proxies.iter().zip(&mut seen) {
                // What is not said to have changed has not.
                if let Some(set) = changed.get(&proxy.text) {
                    *seen = set.clone();
                }
                let now = generator.resources(proxy).expect("connected");
                prop_assert_eq!(contents(seen), contents(now));
            }
        }
        let index = rebuild(&facts, &index, &seed);
        let mut fresh = Generator::new(MeshSettings::default());
        for (proxy, seen) in proxies.iter().zip(&seen) {
            prop_assert_eq!(contents(seen), contents(&fresh.connect(&index, proxy)), "{:?}", proxy);
        }
    }
}

#[test]
fn a_view_without_users_is_forgotten() {
    let index = Index::new(Mesh::default());
    let mut generator = Generator::new(MeshSettings::default());
    let proxy = proxy("a", "w", Flavour::Stock);
    generator.connect(&index, &proxy);
    generator.connect(&index, &proxy);
    generator.disconnect(&proxy);
    assert!(generator.resources(&proxy).is_some());
    generator.disconnect(&proxy);
    assert!(generator.resources(&proxy).is_none());
    assert!(generator.waypoints.is_empty() && generator.naming.is_empty());
}

#[test]
fn a_waypoint_of_nothing_has_its_fixed_resources() {
    let mut generator = Generator::new(MeshSettings::default());
    let set = generator.connect(
        &Index::new(Mesh::default()),
        &proxy("a", "w", Flavour::Stock),
    );
    let names = |type_url: &str| -> BTreeSet<String> {
        set.get(type_url)
            .into_iter()
            .flat_map(|map| map.iter())
            .map(|resource| resource.name().to_owned())
            .collect()
    };
    assert_eq!(
        names(type_url::LISTENER).len(),
        3,
        "{:?}",
        names(type_url::LISTENER)
    );
    assert_eq!(
        names(type_url::CLUSTER).len(),
        3,
        "{:?}",
        names(type_url::CLUSTER)
    );
    assert!(names(type_url::ENDPOINT).is_empty() && names(type_url::ROUTE).is_empty());
}
