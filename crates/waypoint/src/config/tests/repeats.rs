//! What configuration costs: nothing where nothing has changed, and in proportion to what is sent else.

use std::sync::Arc;

use waymark_proto::type_url;

use super::World;
use crate::fixture::{self, REVIEWS_V1, bookinfo, canary, route_config};
use crate::program::EndpointSet;

impl World {
    /// Every figure of what configuration has cost, but how much was recognised.
    fn cost(&self) -> Vec<(&'static str, u64)> {
        let counters = self.stats.config.counters();
        let managers = self.stats.counters();
        counters
            .chain(managers)
            .filter(|(name, _)| *name != "unchanged")
            .map(|(name, counter)| (name, counter.value()))
            .collect()
    }

    fn sets(&self) -> Vec<Arc<EndpointSet>> {
        let snapshot = self.cell.load();
        snapshot
            .clusters()
            .map(|c| c.endpoints.load_full())
            .collect()
    }
}

#[test]
fn the_same_once_more_is_recognised_and_costs_nothing() {
    let mesh = bookinfo();
    let resources =
        mesh.clusters.len() + mesh.endpoints.len() + mesh.listeners.len() + mesh.routes.len();
    let mut world = World::new();
    world.send_all(&mesh);
    let (cost, snapshot, sets) = (world.cost(), world.cell.load_full(), world.sets());
    assert!(cost.contains(&("clusters_decoded", mesh.clusters.len() as u64)));
    for round in 1..=5 {
        world.send_all(&mesh);
        assert_eq!(world.cost(), cost);
        assert!(Arc::ptr_eq(&world.cell.load_full(), &snapshot));
        let same = world.sets();
        assert!(sets.iter().zip(&same).all(|(a, b)| Arc::ptr_eq(a, b)));
        let unchanged = world.stats.config.unchanged.value();
        assert_eq!(unchanged, (round * resources) as u64);
    }
    // Of a push in which one thing differs, as istiod's are, that one thing is looked at.
    let mut listeners = mesh.listeners.clone();
    listeners[0]["stat_prefix"] = "x".into();
    world.send(type_url::CLUSTER, &mesh.clusters, &[]).unwrap();
    world.send(type_url::LISTENER, &listeners, &[]).unwrap();
    let differs: Vec<_> = world
        .cost()
        .into_iter()
        .zip(cost)
        .filter(|(now, before)| now != before)
        .map(|((name, now), (_, before))| (name, now - before))
        .collect();
    assert_eq!(
        differs,
        [
            ("listeners_decoded", 1),
            ("snapshots_published", 1),
            ("listener_modified", 1)
        ]
    );
}

#[test]
fn thousands_of_clusters_are_decoded_once_each_and_published_together() {
    const CLUSTERS: usize = 3000;
    let names: Vec<String> = (0..CLUSTERS)
        .map(|n| format!("inbound-vip|80|http|s{n}.default.svc.cluster.local"))
        .collect();
    let clusters: Vec<_> = names.iter().map(|n| fixture::cluster(n)).collect();
    let pods = [("10.0.0.1:80", ";;;;Kubernetes")];
    let endpoints: Vec<_> = names
        .iter()
        .map(|n| fixture::assignment(n, &pods))
        .collect();
    let mut world = World::new();
    world.send(type_url::CLUSTER, &clusters, &[]).unwrap();
    world.send(type_url::ENDPOINT, &endpoints, &[]).unwrap();
    let config = &world.stats.config;
    let cost = [
        &config.clusters_decoded,
        &config.endpoints_decoded,
        &config.snapshots_published,
    ];
    assert_eq!(cost.map(|c| c.value()), [3000, 3000, 2]);
    assert_eq!(world.cell.load().clusters().count(), CLUSTERS);
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    world.send(type_url::CLUSTER, &[], &all[1..]).unwrap();
    assert_eq!(world.wants(type_url::ENDPOINT), [names[0].clone()]);
    assert_eq!(world.cell.load().clusters().count(), 1);
}

#[test]
fn endpoints_that_no_cluster_uses_are_kept_by_nobody() {
    let mesh = bookinfo();
    let mut world = World::new();
    world.send_all(&mesh);
    let orphan = fixture::assignment("nobody", &[("10.0.0.1:80", ";;;;")]);
    world.send(type_url::ENDPOINT, &[orphan], &[]).unwrap();
    world.send(type_url::CLUSTER, &[], &[REVIEWS_V1]).unwrap();
    let names: Vec<_> = world
        .config
        .dump()
        .endpoints
        .into_iter()
        .map(|d| d.name)
        .collect();
    assert!(
        !names.iter().any(|n| n == "nobody" || n == REVIEWS_V1),
        "{names:?}"
    );
    // A route that leads nowhere any more is no reason to refuse anything.
    let again = route_config(fixture::REVIEWS, &canary(1, 1));
    world.send(type_url::ROUTE, &[again], &[]).unwrap();
}
