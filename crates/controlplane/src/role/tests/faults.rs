//! An API server that is hard to reach, and one whose store sleeps: what is there in the end is served and written, once.

use waymark_testkit::kubernetes::{ApiServer, Crds, Options};
use waymark_testkit::way::Way;

use super::cluster::{args, node_proxy_of, started};
use super::writers::{reason, until};
use super::*;

struct Followed {
    api: ApiServer,
    way: Way,
    system: String,
    shop: String,
    _place: Place,
    running: Running,
    node: Client,
}

impl Followed {
    /// A control plane that sees its API server through a way that can be cut, and a node proxy of it.
    async fn start() -> Option<Self> {
        let options = Options {
            crds: Crds::UpstreamStandard,
            ..Options::default()
        };
        let api = ApiServer::start(options)?;
        let (system, shop) = (api.namespace(), api.namespace());
        let place = Place::new();
        let way = Way::to(&[api.address()]);
        let through = way.kubeconfig(&api.kubeconfig(), place.state.path(), api.address());
        let args = Args {
            kubeconfig: Some(through),
            waypoint_image: Some("example.org/waymark:1".to_owned()),
            lease_seconds: Some(4),
            ..args(&place, &api, &system)
        };
        let running = started(&place, args).await;
        let mut node = node_proxy_of(&place, &api, running.xds, &system);
        node.until("an answer", |held| held.contains_key(type_url::ADDRESS))
            .await;
        Some(Self {
            api,
            way,
            system,
            shop,
            _place: place,
            running,
            node,
        })
    }

    /// A service and a waypoint.
    fn apply(&self, n: usize) {
        let manifests = THINGS.replace("NUMBER", &n.to_string());
        self.api.apply(&manifests.replace("NS", &self.shop));
    }

    /// Waits until so many services and waypoints are served, deployed and told about; each was told once.
    async fn caught_up(&mut self, n: usize) {
        let host = |i: usize| format!("{0}/s{i}.{0}.svc.cluster.local", self.shop);
        let all: Vec<String> = (0..n).map(host).collect();
        self.node
            .until("all services", |held| {
                let held = held.get(type_url::ADDRESS);
                held.is_some_and(|held| all.iter().all(|name| held.contains_key(name)))
            })
            .await;
        for i in 0..n {
            let (api, shop) = (&self.api, &self.shop);
            until("every Gateway is deployed and told about", || {
                let told = reason(&api.get("gateway", shop, &format!("g{i}")), "Programmed")?;
                let deployment = api.get("deployment", shop, &format!("g{i}"));
                (told == "AddressNotAssigned" && !deployment.is_null()).then_some(deployment)
            })
            .await;
        }
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        while let Ok(seen) = self.node.seen.try_recv() {
            assert_eq!(seen.removed, Vec::<String>::new());
            for name in seen.names {
                *told.entry(name).or_default() += 1;
            }
        }
        for name in all {
            assert!(told.get(&name).is_none_or(|times| *times == 1), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_that_is_cut_every_two_seconds_for_a_minute_loses_nothing() {
    let Some(mut followed) = Followed::start().await else {
        return;
    };
    let mut pace = tokio::time::interval(Duration::from_secs(2));
    for n in 0..CUTS {
        pace.tick().await;
        followed.way.cut();
        tokio::task::block_in_place(|| followed.apply(n));
    }
    followed.caught_up(CUTS).await;
    let streams = followed.node.state.borrow().streams;
    assert_eq!(streams, 1, "clients notice nothing of it");
    followed.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_sleeps_and_a_server_that_starts_anew_lose_nothing() {
    let Some(mut followed) = Followed::start().await else {
        return;
    };
    tokio::task::block_in_place(|| followed.apply(0));
    followed.caught_up(1).await;
    let leader = |followed: &Followed| {
        let lease = followed
            .api
            .get("lease", &followed.system, "waymark-leader-default");
        lease["spec"]["renewTime"].as_str().map(str::to_owned)
    };
    let renewed = leader(&followed);
    asleep(&followed).await;
    followed.caught_up(2).await;
    until("the lease is renewed", || {
        (leader(&followed) != renewed).then_some(())
    })
    .await;

    followed.api.stop_api_server();
    followed.api.start_api_server();
    tokio::task::block_in_place(|| followed.apply(2));
    followed.caught_up(3).await;
    assert_eq!(followed.node.state.borrow().streams, 1);
    followed.running.stop().await;
}

/// Stops the store for a while. Whoever writes meanwhile is told to come back; whoever listens is not disturbed.
async fn asleep(followed: &Followed) {
    let awake = tokio::time::Instant::now() + ASLEEP;
    let manifests = THINGS.replace("NUMBER", "1").replace("NS", &followed.shop);
    let apply = |more: &[&str]| followed.api.try_apply(&manifests, more).0;
    followed.api.pause_etcd();
    let accepted = tokio::task::block_in_place(|| apply(&["--request-timeout=3s"]));
    assert!(!accepted, "etcd is not asleep");
    tokio::time::sleep_until(awake).await;
    assert!(followed.node.state.borrow().connected);
    followed.api.resume_etcd();
    until("the store takes something", || apply(&[]).then_some(())).await;
}

const CUTS: usize = 30;
const ASLEEP: Duration = Duration::from_secs(10);

const THINGS: &str = "
apiVersion: v1
kind: Service
metadata: { name: sNUMBER, namespace: NS }
spec: { selector: { app: sNUMBER }, ports: [{ name: http, port: 80 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: gNUMBER, namespace: NS }
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
";
