//! Several control planes of one cluster: who leads changes all the time, one is killed, one leaves; clients notice nothing.

use waymark_testkit::kubernetes::{ApiServer, Crds, Options, run_pod};
use waymark_testkit::way::Way;

use super::cluster::{args, node_proxy_of, proxy_of, started};
use super::writers::{reason, until};
use super::*;

struct Replica {
    name: String,
    place: Place,
    running: Running,
}

impl Replica {
    async fn start(api: &ApiServer, system: &str, name: &str) -> Self {
        let place = Place::new();
        let args = Args {
            pod_name: Some(name.to_owned()),
            waypoint_image: Some("example.org/waymark:1".to_owned()),
            lease_seconds: Some(2),
            ..args(&place, api, system)
        };
        let running = started(&place, args).await;
        Self {
            name: name.to_owned(),
            place,
            running,
        }
    }

    fn xds(&self) -> SocketAddr {
        self.running.xds
    }

    fn plaintext(&self) -> SocketAddr {
        self.running.plaintext.unwrap()
    }
}

/// What a client has been told, all in all.
#[derive(Default)]
struct Told {
    names: BTreeMap<String, usize>,
    removed: Vec<String>,
}

impl Told {
    fn hear(&mut self, client: &mut Client) {
        while let Ok(seen) = client.seen.try_recv() {
            for name in seen.names {
                *self.names.entry(name).or_default() += 1;
            }
            self.removed.extend(seen.removed);
        }
    }
}

fn holder(api: &ApiServer, system: &str) -> String {
    let lease = api.get("lease", system, "waymark-leader-default");
    let holder = lease["spec"]["holderIdentity"].as_str();
    holder.unwrap_or_default().to_owned()
}

fn hand_lease(api: &ApiServer, system: &str, to: &str) {
    let patch = format!(r#"{{"spec":{{"holderIdentity":"{to}"}}}}"#);
    let lease = ["patch", "lease", "waymark-leader-default", "--namespace"];
    api.run(&[&lease[..], &[system, "--type=merge", "--patch", &patch]].concat());
}

/// What is applied in one round: services of a waypoint, a waypoint, and a route's new weights.
fn round(shop: &str, round: usize) -> String {
    let services: String = (0..SERVICES)
        .map(|i| SERVICE.replace("NAME", &format!("s{round}-{i}")))
        .collect();
    let gateway = GATEWAY.replace("NAME", &format!("g{round}"));
    let route = ROUTE.replace("WEIGHT", &(round + 1).to_string());
    format!("{services}{gateway}{route}").replace("NS", shop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn leaders_come_and_go_under_load_and_nobody_notices() {
    let options = Options {
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(api) = ApiServer::start(options) else {
        return;
    };
    let (system, shop) = (api.namespace(), api.namespace());
    let steady = SERVICE.replace("NAME", "steady").replace("NS", &shop);
    let waypoint = GATEWAY.replace("NAME", "w").replace("NS", &shop);
    api.apply(&format!("{steady}{waypoint}"));
    let mut a = Replica::start(&api, &system, "a").await;
    let b = Replica::start(&api, &system, "b").await;
    let deployment = until("a Deployment", || {
        let deployment = api.get("deployment", &shop, "w");
        (!deployment.is_null()).then_some(deployment)
    })
    .await;
    until("the waypoint's account", || {
        (!api.get("serviceaccount", &shop, "w").is_null()).then_some(())
    })
    .await;
    let _ = run_pod(&api, &deployment, "w-1", "10.244.0.6");
    let bound = |service: &str| {
        let service = api.get("service", &shop, service);
        (reason(&service, "istio.io/WaypointBound")? == "WaypointAccepted").then_some(())
    };
    until("the waypoint is programmed", || bound("steady")).await;

    let way = Way::to(&[a.xds(), b.xds()]);
    let plain = Way::to(&[b.plaintext(), a.plaintext()]);
    // Beside the replicas, of which none lasts.
    let files = Place::new();
    let roots = fs::read(a.place.state("root-cert.pem")).unwrap();
    fs::write(files.state("root-cert.pem"), roots).unwrap();
    let mut node = node_proxy_of(&files, &api, way.address(), &system);
    let mut proxy = proxy_of(plain.address(), &shop, "w-1", "w", ("steady", 80));
    let host = |service: &str| format!("{shop}/{service}.{shop}.svc.cluster.local");
    let route = format!("inbound-vip|80|http|steady.{shop}.svc.cluster.local");
    node.until("the mesh", |held| {
        held.get(type_url::ADDRESS)
            .is_some_and(|held| held.contains_key(&host("steady")))
    })
    .await;
    proxy
        .until("its routes", |held| held.contains_key(type_url::ROUTE))
        .await;

    let (mut to_node, mut to_proxy) = (Told::default(), Told::default());
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    let mut names = ["a", "b"];
    let mut led = BTreeSet::new();
    for n in 0..ROUNDS {
        pace.tick().await;
        led.insert(holder(&api, &system));
        if n == KILL_AT {
            // Whoever leads: it is gone from one moment to the next, and another takes its place.
            hand_lease(&api, &system, &a.name);
            until("a leads", || {
                (holder(&api, &system) == a.name).then_some(())
            })
            .await;
            drop(a.running.task);
            way.lead(&[b.xds()]);
            plain.lead(&[b.plaintext()]);
            way.cut();
            plain.cut();
            a = Replica::start(&api, &system, "c").await;
            way.lead(&[a.xds(), b.xds()]);
            plain.lead(&[b.plaintext(), a.plaintext()]);
            names = ["c", "b"];
        } else if n % 3 == 2 {
            let leads = holder(&api, &system);
            let next = names.iter().find(|name| **name != leads).unwrap();
            hand_lease(&api, &system, next);
        }
        tokio::task::block_in_place(|| api.apply(&round(&shop, n)));
        to_node.hear(&mut node);
        to_proxy.hear(&mut proxy);
    }

    for n in 0..ROUNDS {
        let gateway = format!("g{n}");
        until("every Gateway is deployed and told about", || {
            let gateway = api.get("gateway", &shop, &gateway);
            reason(&gateway, "Programmed").filter(|reason| reason == "AddressNotAssigned")
        })
        .await;
        for i in 0..SERVICES {
            until("every service is told about", || {
                bound(&format!("s{n}-{i}"))
            })
            .await;
        }
    }
    let listed = |kind: &str| -> Vec<Value> {
        let text = api.run(&["get", kind, "--namespace", &shop, "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    let deployments = listed("deployments");
    assert_eq!(deployments.len(), ROUNDS + 1);
    for deployment in &deployments {
        assert_eq!(
            deployment["metadata"]["generation"], 1,
            "written more than once: {}",
            deployment["metadata"]["name"]
        );
    }
    assert_eq!(listed("services").len(), ROUNDS * SERVICES + ROUNDS + 2);
    assert_eq!(led, BTreeSet::from(["a", "b", "c"].map(str::to_owned)));

    // Whatever happened, each thing was told once, and nothing was taken away.
    node.until("all services", |held| {
        let held = &held[type_url::ADDRESS];
        (0..ROUNDS).all(|n| (0..SERVICES).all(|i| held.contains_key(&host(&format!("s{n}-{i}")))))
    })
    .await;
    proxy
        .until("the last weights", |held| {
            let last = u32::try_from(ROUNDS).unwrap();
            weights(&held[type_url::ROUTE][&route]).contains(&last)
        })
        .await;
    to_node.hear(&mut node);
    to_proxy.hear(&mut proxy);
    assert_eq!(
        (&to_node.removed, &to_proxy.removed),
        (&Vec::new(), &Vec::new())
    );
    let services = std::iter::once("steady".to_owned())
        .chain((0..ROUNDS).flat_map(|n| (0..SERVICES).map(move |i| format!("s{n}-{i}"))));
    for service in services {
        assert_eq!(to_node.names.get(&host(&service)), Some(&1), "{service}");
    }
    assert!(node.state.borrow().streams >= 2, "its replica was killed");

    // One that is told to end hands its clients over, and they are sent nothing that they have.
    let streams = node.state.borrow().streams + proxy.state.borrow().streams;
    way.lead(&[a.xds()]);
    plain.lead(&[a.plaintext()]);
    b.running.stop().await;
    until("both are with the other", || {
        let (node, proxy) = (node.state.borrow(), proxy.state.borrow());
        (node.connected && proxy.connected && node.streams + proxy.streams > streams).then_some(())
    })
    .await;
    to_node = Told::default();
    api.apply(&SERVICE.replace("NAME", "late").replace("NS", &shop));
    node.until("the late service", |held| {
        held[type_url::ADDRESS].contains_key(&host("late"))
    })
    .await;
    to_node.hear(&mut node);
    to_proxy.hear(&mut proxy);
    assert_eq!(to_node.names, BTreeMap::from([(host("late"), 1)]));
    assert_eq!(
        (&to_node.removed, &to_proxy.removed),
        (&Vec::new(), &Vec::new())
    );
    a.running.stop().await;
}

/// The weights of a route configuration.
fn weights(route: &[u8]) -> BTreeSet<u32> {
    use waymark_proto::envoy::envoy::config::route::v3::route::Action;
    use waymark_proto::envoy::envoy::config::route::v3::route_action::ClusterSpecifier;
    use waymark_proto::envoy::envoy::config::route::v3::{RouteAction, RouteConfiguration};
    let route = RouteConfiguration::decode(route).unwrap();
    let routes = route.virtual_hosts.into_iter().flat_map(|host| host.routes);
    routes
        .filter_map(|route| match route.action {
            Some(Action::Route(RouteAction {
                cluster_specifier: Some(ClusterSpecifier::WeightedClusters(clusters)),
                ..
            })) => Some(clusters.clusters),
            _ => None,
        })
        .flatten()
        .filter_map(|cluster| Some(cluster.weight?.value))
        .collect()
}

const ROUNDS: usize = 15;
const KILL_AT: usize = 7;
const SERVICES: usize = 6;

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: { name: NAME, namespace: NS, labels: { istio.io/use-waypoint: w } }
spec: { selector: { app: NAME }, ports: [{ name: http, port: 80 }] }
";

const GATEWAY: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: NAME, namespace: NS }
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
";

const ROUTE: &str = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: steady, namespace: NS }
spec:
  parentRefs: [{ group: '', kind: Service, name: steady }]
  rules:
  - backendRefs: [{ name: steady, port: 80, weight: WEIGHT }, { name: s0-0, port: 80, weight: 100 }]
";
