#![allow(clippy::unwrap_used, reason = "tests")]

mod repeats;

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::Value;
use waymark_rt::ManualClock;
use waymark_xds::discovery::Resource;

use super::*;
use crate::fixture::{
    self, Bookinfo, DB, REVIEWS, REVIEWS_V1, bookinfo, canary, resource, route_config,
};
use crate::program::{Chain, Snapshot, Target};
use crate::route::{Action, Clusters};

struct World {
    config: Config,
    cell: SnapshotCell,
    stats: Arc<ServerStats>,
    subscriptions: Subscriptions,
}

impl World {
    fn new() -> Self {
        let (cell, stats) = (Snapshot::cell(), Arc::new(ServerStats::default()));
        let clock = Arc::new(ManualClock::new(SystemTime::UNIX_EPOCH));
        let config = Config::new(Arc::clone(&cell), Arc::clone(&stats), clock);
        Self {
            config,
            cell,
            stats,
            subscriptions: Subscriptions::new(),
        }
    }

    fn send(
        &mut self,
        type_url: &str,
        resources: &[Value],
        removed: &[&str],
    ) -> Result<(), NackReason> {
        let resources: Vec<Resource> = resources.iter().map(|r| resource(r, "v")).collect();
        let removed = removed.iter().map(|r| (*r).to_owned()).collect();
        let update = Update {
            type_url,
            system_version: "s",
            resources,
            removed,
        };
        self.config.apply(update, &mut self.subscriptions)
    }

    fn wants(&self, type_url: &str) -> Vec<String> {
        self.subscriptions
            .wanted_names(type_url)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    fn ready(&self) -> bool {
        self.config.readiness().borrow().is_ready()
    }

    /// Everything in the order of a control plane.
    fn send_all(&mut self, mesh: &Bookinfo) {
        self.send(type_url::CLUSTER, &mesh.clusters, &[]).unwrap();
        self.send(type_url::ENDPOINT, &mesh.endpoints, &[]).unwrap();
        self.send(type_url::LISTENER, &mesh.listeners, &[]).unwrap();
        self.send(type_url::ROUTE, &mesh.routes, &[]).unwrap();
    }

    fn weights(&self) -> Vec<u64> {
        let snapshot = self.cell.load();
        let Some(Target::Chain(id)) = snapshot
            .destinations
            .find("127.96.0.3:9080".parse().unwrap())
        else {
            panic!("no reviews")
        };
        let Chain::Http(http) = &**snapshot.chain(id).unwrap() else {
            panic!("not HTTP")
        };
        let Action::Forward(forward) = &http.routes.hosts()[0].routes()[0].action else {
            panic!("no forward")
        };
        let Clusters::Weighted(weighted) = &forward.clusters else {
            panic!("not weighted")
        };
        weighted.iter().map(|(weight, _)| weight).collect()
    }
}

/// A snapshot as text, without what changes from run to run.
fn render(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    let name = |id| {
        snapshot
            .chain(id)
            .map(|c| c.name().to_string())
            .unwrap_or_default()
    };
    let mut rows: Vec<_> = snapshot
        .destinations
        .rows()
        .map(|(net, port, target)| {
            let target = match target {
                Target::Chain(id) => name(id),
                Target::Sniff {
                    h2c,
                    http11,
                    http10,
                    other,
                } => {
                    let each =
                        [h2c, http11, http10, other].map(|c| c.map(name).unwrap_or_default());
                    format!("sniff {each:?}")
                }
            };
            format!(
                "{net} {} -> {target}",
                port.map_or("any".to_owned(), |p| p.to_string())
            )
        })
        .collect();
    rows.sort();
    writeln!(
        out,
        "hbone {:#?}\ntunnel {:#?}",
        snapshot.hbone, snapshot.tunnel
    )
    .unwrap();
    writeln!(out, "destinations {rows:#?}").unwrap();
    for (_, chain) in snapshot.chains() {
        writeln!(out, "chain {chain:#?}").unwrap();
    }
    for cluster in snapshot.clusters() {
        let endpoints: Vec<_> = cluster
            .endpoints
            .load()
            .iter()
            .map(|e| {
                format!(
                    "{} {:?} {:?} weight {} {:?}",
                    e.text, e.kind, e.health, e.weight, e.locality
                )
            })
            .collect();
        writeln!(
            out,
            "cluster {} {:?} {:?} panic {} connect {:?} {:?} {:?} service {:?} subset {:?}\n  breakers {:?}\n  {endpoints:#?}",
            cluster.name,
            cluster.discovery,
            cluster.lb,
            cluster.panic_threshold_percent,
            cluster.connect_timeout,
            cluster.protocol,
            cluster.http,
            cluster.service.as_ref().map(|s| &s.host),
            cluster.subset,
            cluster.breakers.default,
        )
        .unwrap();
    }
    out
}

#[test]
fn compiles_bookinfo() {
    let mut world = World::new();
    world.send_all(&bookinfo());
    assert!(world.ready());
    insta::assert_snapshot!(render(&world.cell.load()));
}

#[test]
fn nothing_serves_before_everything_it_needs_is_there() {
    let mesh = bookinfo();
    let mut world = World::new();
    world.send(type_url::CLUSTER, &mesh.clusters, &[]).unwrap();
    assert_eq!(world.wants(type_url::ENDPOINT).len(), 4);
    // Clusters wait for their endpoints.
    assert!(world.cell.load().cluster_by_name(REVIEWS).is_none());
    assert!(world.cell.load().cluster_by_name("encap").is_some());
    world
        .send(type_url::ENDPOINT, &mesh.endpoints[..3], &[DB])
        .unwrap();
    assert!(world.cell.load().cluster_by_name(REVIEWS).is_some());
    // A name that the server does not have is waited for no longer.
    assert!(
        world
            .cell
            .load()
            .cluster_by_name(DB)
            .unwrap()
            .endpoints
            .load()
            .is_empty()
    );
    // The router waits for its routes.
    world
        .send(type_url::LISTENER, &mesh.listeners, &[])
        .unwrap();
    assert_eq!(world.wants(type_url::ROUTE), [REVIEWS]);
    assert!(world.cell.load().hbone.is_none());
    assert!(!world.ready());
    world.send(type_url::ROUTE, &mesh.routes, &[]).unwrap();
    assert!(world.cell.load().hbone.is_some());
    assert!(world.ready());
    assert_eq!(world.weights(), [90, 10]);
}

#[test]
fn a_refused_update_leaves_the_last_good_one() {
    let mesh = bookinfo();
    let mut world = World::new();
    world.send_all(&mesh);
    let generation = world.cell.load().generation;
    let mut bad = mesh.listeners[1].clone();
    bad["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"][0] = serde_json::json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC" },
    });
    let error = world
        .send(type_url::LISTENER, &[bad.clone()], &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "main_internal: filter_chains[0].filters[0].typed_config.http_filters[0]: \
         envoy.extensions.filters.http.rbac.v3.RBAC is not enforced yet, so it is refused"
    );
    assert_eq!(world.cell.load().generation, generation);
    assert_eq!(world.weights(), [90, 10]);
    let dump = world.config.dump();
    let shown = dump
        .listeners
        .0
        .iter()
        .find(|l| l.name == "main_internal")
        .unwrap();
    assert_eq!(
        shown.active.as_ref().unwrap().bytes,
        fixture::bytes(&mesh.listeners[1])
    );
    assert_eq!(
        shown.refused.as_ref().unwrap().received.bytes,
        fixture::bytes(&bad)
    );
    assert_eq!(
        (
            world.stats.lds.update_success.value(),
            world.stats.lds.update_rejected.value()
        ),
        (1, 1)
    );
    // The good one again: nothing to do, and nothing is refused any more.
    world
        .send(type_url::LISTENER, &mesh.listeners, &[])
        .unwrap();
    assert_eq!(world.cell.load().generation, generation);
    assert!(
        world
            .config
            .dump()
            .listeners
            .0
            .iter()
            .all(|l| l.refused.is_none())
    );
}

#[test]
fn one_bad_resource_does_not_stop_the_others() {
    let mut mesh = bookinfo();
    let mut world = World::new();
    mesh.clusters[3]["lb_policy"] = "MAGLEV".into();
    let error = world
        .send(type_url::CLUSTER, &mesh.clusters, &[])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{REVIEWS_V1}: lb_policy: MAGLEV is not supported")
    );
    world
        .send(type_url::ENDPOINT, &mesh.endpoints, &[])
        .unwrap();
    let snapshot = world.cell.load();
    assert!(
        snapshot.cluster_by_name(REVIEWS).is_some()
            && snapshot.cluster_by_name(REVIEWS_V1).is_none()
    );
}

#[test]
fn changes_cost_what_changed() {
    let mesh = bookinfo();
    let mut world = World::new();
    world.send_all(&mesh);
    let before = world.cell.load_full();
    let reviews = Arc::clone(before.cluster_by_name(REVIEWS_V1).unwrap());
    let first = reviews.endpoints.load_full();
    // Identical resources: no snapshot.
    world.send_all(&mesh);
    assert_eq!(world.cell.load().generation, before.generation);
    // Endpoints: no snapshot either, and who stays keeps his figures.
    let stats = Arc::clone(&first.iter().next().unwrap().stats);
    stats.rq_total.add(7);
    let pods = [
        ("127.244.0.7:9080", "reviews-v1;default;reviews;v1;K"),
        ("127.244.0.17:9080", "reviews-v1;;;;"),
    ];
    world
        .send(
            type_url::ENDPOINT,
            &[fixture::assignment(REVIEWS_V1, &pods)],
            &[],
        )
        .unwrap();
    assert_eq!(world.cell.load().generation, before.generation);
    let second = reviews.endpoints.load_full();
    assert_eq!((second.len(), second.generation), (2, first.generation + 1));
    assert_eq!(second.iter().next().unwrap().stats.rq_total.value(), 7);
    assert_eq!(reviews.stats.membership_total.value(), 2);
    // Routes: a new snapshot with the same clusters, and other chains untouched.
    world
        .send(
            type_url::ROUTE,
            &[route_config(REVIEWS, &canary(50, 50))],
            &[],
        )
        .unwrap();
    assert_eq!(world.weights(), [50, 50]);
    let after = world.cell.load_full();
    assert_eq!(after.generation, before.generation + 1);
    assert!(Arc::ptr_eq(
        &reviews,
        after.cluster_by_name(REVIEWS_V1).unwrap()
    ));
    let tcp = |s: &Snapshot| match s.destinations.find("127.96.0.4:3306".parse().unwrap()) {
        Some(Target::Chain(id)) => Arc::clone(s.chain(id).unwrap()),
        _ => panic!("no db"),
    };
    assert!(Arc::ptr_eq(&tcp(&before), &tcp(&after)));
    // A cluster's own change keeps endpoints and figures.
    let mut changed = mesh.clusters[3].clone();
    changed["connect_timeout"] = "2s".into();
    world.send(type_url::CLUSTER, &[changed], &[]).unwrap();
    let now = Arc::clone(world.cell.load().cluster_by_name(REVIEWS_V1).unwrap());
    assert_eq!(now.connect_timeout.as_secs(), 2);
    assert!(
        Arc::ptr_eq(&now.stats, &reviews.stats) && Arc::ptr_eq(&now.endpoints, &reviews.endpoints)
    );
    assert_eq!(now.id, reviews.id);
}

#[test]
fn what_is_removed_is_gone() {
    let mesh = bookinfo();
    let mut world = World::new();
    world.send_all(&mesh);
    world.send(type_url::CLUSTER, &[], &[DB]).unwrap();
    assert!(world.cell.load().cluster_by_name(DB).is_none());
    assert_eq!(world.wants(type_url::ENDPOINT).len(), 3);
    let chain = match world
        .cell
        .load()
        .destinations
        .find("127.96.0.3:9080".parse().unwrap())
    {
        Some(Target::Chain(id)) => id,
        other => panic!("{other:?}"),
    };
    world
        .send(type_url::LISTENER, &[], &["main_internal"])
        .unwrap();
    let snapshot = world.cell.load();
    assert!(snapshot.hbone.is_none() && snapshot.chain(chain).is_none());
    assert_eq!(world.wants(type_url::ROUTE), Vec::<String>::new());
    assert!(world.ready(), "once ready is ready");
}

#[test]
fn listener_names_do_not_matter() {
    let text = serde_json::to_string(&bookinfo().listeners)
        .unwrap()
        .replace("main_internal", "middle");
    let listeners: Vec<Value> =
        serde_json::from_str(&text.replace("connect_originate", "out")).unwrap();
    let clusters = serde_json::to_string(&bookinfo().clusters)
        .unwrap()
        .replace("main_internal", "middle");
    let clusters: Vec<Value> =
        serde_json::from_str(&clusters.replace("connect_originate", "out")).unwrap();
    let mut world = World::new();
    world.send_all(&Bookinfo {
        listeners,
        clusters,
        ..bookinfo()
    });
    let snapshot = world.cell.load();
    assert!(
        snapshot.hbone.is_some() && snapshot.tunnel.is_some() && !snapshot.destinations.is_empty()
    );
}

#[test]
fn a_resource_of_the_wrong_type_or_name_is_refused() {
    let mut world = World::new();
    let mut wrong = resource(&bookinfo().clusters[0], "v");
    wrong.name = "other".to_owned();
    let apply = |world: &mut World, type_url: &str, r: Resource| {
        let update = Update {
            type_url,
            system_version: "",
            resources: vec![r],
            removed: Vec::new(),
        };
        world
            .config
            .apply(update, &mut world.subscriptions)
            .unwrap_err()
            .to_string()
    };
    let why = apply(&mut world, type_url::CLUSTER, wrong);
    assert_eq!(
        why,
        "other: name: is \"main_internal\", but the resource is called \"other\""
    );
    let why = apply(
        &mut world,
        type_url::CLUSTER,
        resource(&bookinfo().listeners[0], "v"),
    );
    assert_eq!(
        why,
        "connect_terminate: is a envoy.config.listener.v3.Listener"
    );
    let why = apply(
        &mut world,
        type_url::SECRET,
        resource(&bookinfo().clusters[0], "v"),
    );
    assert!(why.ends_with("was not asked for"));
}
