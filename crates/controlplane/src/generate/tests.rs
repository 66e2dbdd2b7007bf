//! Views after any events are those that a full build gives, and a change costs only what it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use waymark_proto::type_url;
use waymark_xds::ResourceSet;

use super::{Generator, ProxyKey, Work};
use crate::facts::Facts;
use crate::fixture::{Fixture, MESH, ROUTES};
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
        bind: None,
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
    set.iter().flat_map(of_type).collect()
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

/// The mesh, its waypoint and another namespace's, connected in both flavours.
struct Connected {
    fixture: Fixture,
    generator: Generator,
}

const OTHER: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: elsewhere
  labels:
    istio.io/use-waypoint: waypoint
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: elsewhere
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
";

impl Connected {
    fn new(flavours: &[Flavour]) -> Self {
        let fixture = Fixture::new(&[MESH, ROUTES, OTHER]);
        let mut generator = Generator::new(MeshSettings::default());
        for namespace in ["default", "elsewhere"] {
            for flavour in flavours {
                generator.connect(&fixture.index, &proxy(namespace, "waypoint", *flavour));
            }
        }
        Self { fixture, generator }
    }

    /// Puts a manifest; returns the resources that changed, by waypoint and type, and the work that it took.
    fn put(&mut self, text: &str) -> (BTreeSet<String>, Work) {
        let before: BTreeMap<_, _> = self.sets();
        let work = self.generator.work();
        let effects = self.fixture.put(text);
        self.generator.apply(&self.fixture.index, &effects);
        let mut changed = BTreeSet::new();
        for (proxy, set) in self.sets() {
            let old = contents(&before[&proxy]);
            let new = contents(&set);
            let names = old
                .keys()
                .chain(new.keys())
                .filter(|name| old.get(*name) != new.get(*name));
            changed.extend(names.map(|(type_url, name)| {
                let (_, short) = type_url.rsplit_once('.').expect("a type URL");
                format!("{proxy} {short} {name}")
            }));
        }
        (changed, self.generator.work() - work)
    }

    fn sets(&self) -> BTreeMap<String, ResourceSet> {
        let waypoints = self.generator.waypoints.values();
        let views = waypoints.flat_map(|waypoint| &waypoint.views);
        views
            .map(|(proxy, view)| (format!("{proxy:?}"), view.set().clone()))
            .collect()
    }
}

impl std::ops::Sub for Work {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            inputs: self.inputs - before.inputs,
            base: self.base - before.base,
            main_internal: self.main_internal - before.main_internal,
            clusters: self.clusters - before.clusters,
            endpoints: self.endpoints - before.endpoints,
            routes: self.routes - before.routes,
        }
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_weight_change_touches_exactly_one_resource_of_one_waypoint() {
    let mut connected = Connected::new(&[Flavour::Stock]);
    let (changed, work) = connected.put(&ROUTES.replace("weight: 90", "weight: 50"));
    let routes = "default/waypoint (Stock) RouteConfiguration inbound-vip|9080|http|reviews.default.svc.cluster.local";
    assert_eq!(changed, names(&[routes]));
    assert_eq!(
        work,
        Work {
            inputs: 1,
            routes: 1,
            ..Work::default()
        }
    );
}

#[test]
fn a_weight_change_touches_only_main_internal_where_routes_are_inlined() {
    let mut connected = Connected::new(&[Flavour::IstioProxy]);
    let (changed, work) = connected.put(&ROUTES.replace("weight: 90", "weight: 50"));
    assert_eq!(
        changed,
        names(&["default/waypoint (IstioProxy) Listener main_internal"])
    );
    assert_eq!(
        (work.main_internal, work.clusters, work.endpoints),
        (1, 0, 0)
    );
}

#[test]
fn what_is_unrelated_costs_nothing() {
    let mut connected = Connected::new(&[Flavour::Stock, Flavour::IstioProxy]);
    let unrelated = [
        ROUTES.replace("namespace: default", "namespace: third"),
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: x\n  namespace: third\nspec:\n  ports:\n  - port: 80\n".to_owned(),
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: x\n  namespace: default\nspec:\n  containers: [{name: x}]\n".to_owned(),
        ROUTES.replace("  name: reviews\n", "  name: reviews\n  annotations:\n    team: red\n"),
    ];
    for text in &unrelated[..3] {
        let (mut changed, work) = connected.put(text);
        // istio-proxy holds the workloads of the whole mesh, for its metrics; that costs no translation.
        changed.retain(|name| !name.contains("(IstioProxy) Workload "));
        assert_eq!(
            (changed, work),
            (BTreeSet::new(), Work::default()),
            "{text}"
        );
    }
    // An annotation is looked at, and makes no difference to anybody.
    let (changed, _) = connected.put(&unrelated[3]);
    assert_eq!(changed, BTreeSet::new());
}

#[test]
fn a_pod_that_is_no_longer_ready_touches_the_endpoints_that_it_is_in() {
    let mut connected = Connected::new(&[Flavour::Stock]);
    let unready = MESH.replace(
        "      containerPort: 8081\n    readinessProbe",
        "      containerPort: 8081\n    # x\n    readinessProbe",
    );
    let unready = unready.replacen(
        "        port: health\n",
        "        port: health\nstatus:\n  conditions:\n  - type: Ready\n    status: \"False\"\n",
        1,
    );
    assert_ne!(unready, MESH);
    let (changed, work) = connected.put(&unready);
    let endpoints = |subset: &str| {
        format!(
            "default/waypoint (Stock) ClusterLoadAssignment inbound-vip|9080|http{subset}|reviews.default.svc.cluster.local"
        )
    };
    assert_eq!(changed, BTreeSet::from([endpoints(""), endpoints("/v1")]));
    assert_eq!(
        work,
        Work {
            inputs: 1,
            endpoints: 1,
            ..Work::default()
        }
    );
}

#[test]
fn a_new_subset_touches_its_own_resources() {
    let mut connected = Connected::new(&[Flavour::Stock]);
    let with_subset = MESH.replace(
        "  - name: v2\n    labels:\n      version: v2\n",
        "  - name: v2\n    labels:\n      version: v2\n  - name: v3\n    labels:\n      version: v3\n",
    );
    assert_ne!(with_subset, MESH);
    let (changed, _) = connected.put(&with_subset);
    let v3 = "inbound-vip|9080|http/v3|reviews.default.svc.cluster.local";
    assert_eq!(
        changed,
        BTreeSet::from([
            format!("default/waypoint (Stock) Cluster {v3}"),
            format!("default/waypoint (Stock) ClusterLoadAssignment {v3}"),
        ])
    );
}

const HTTP_ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: reviews
  namespace: NAMESPACE
spec:
  parentRefs:
  - group: ''
    kind: Service
    name: reviews
    namespace: default
  rules:
  - backendRefs:
    - name: BACKEND
      namespace: BACKENDS
      port: 9080
";

fn http_route(namespace: &str, backend: &str, of: &str) -> String {
    HTTP_ROUTE
        .replace("NAMESPACE", namespace)
        .replace("BACKENDS", of)
        .replace("BACKEND", backend)
}

#[test]
fn an_http_route_is_its_services_and_a_backend_elsewhere_brings_its_clusters() {
    let mut connected = Connected::new(&[Flavour::Stock]);
    let routes = "default/waypoint (Stock) RouteConfiguration inbound-vip|9080|http|reviews.default.svc.cluster.local";
    let (changed, _) = connected.put(&http_route("default", "reviews", "default"));
    assert_eq!(changed, names(&[routes]));
    // A route of another namespace holds for that namespace's clients, and this waypoint is none.
    let (changed, _) = connected.put(&http_route("third", "other", "elsewhere"));
    assert_eq!(changed, BTreeSet::new());

    let far = "
apiVersion: v1
kind: Service
metadata: {name: far, namespace: third}
spec: {ports: [{name: http, port: 9080}]}
";
    connected.put(far);
    let (changed, _) = connected.put(&http_route("default", "far", "third"));
    let far = "outbound|9080||far.third.svc.cluster.local";
    let expected = [
        routes.to_owned(),
        format!("default/waypoint (Stock) Cluster {far}"),
        format!("default/waypoint (Stock) ClusterLoadAssignment {far}"),
    ];
    assert_eq!(changed, BTreeSet::from(expected.clone()));
    // And they go when nobody names it any more.
    let (changed, _) = connected.put(&http_route("default", "reviews", "default"));
    assert_eq!(changed, BTreeSet::from(expected));
    let (changed, work) = connected.put("apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: third}\nspec: {ports: [{name: tcp, port: 9080}]}\n");
    assert_eq!((changed, work), (BTreeSet::new(), Work::default()));
}

#[test]
fn a_rule_for_a_wildcard_host_holds_for_what_routes_name_too() {
    let mut connected = Connected::new(&[Flavour::Stock]);
    connected.put("apiVersion: v1\nkind: Service\nmetadata: {name: far, namespace: third}\nspec: {ports: [{name: http, port: 9080}]}\n");
    connected.put(&http_route("default", "far", "third"));
    let rule = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: all, namespace: default}
spec: {host: '*.third.svc.cluster.local', subsets: [{name: v1, labels: {version: v1}}]}
";
    let (changed, _) = connected.put(rule);
    let v1 = "outbound|9080|v1|far.third.svc.cluster.local";
    assert_eq!(
        changed,
        BTreeSet::from([
            format!("default/waypoint (Stock) Cluster {v1}"),
            format!("default/waypoint (Stock) ClusterLoadAssignment {v1}"),
        ])
    );
}
