//! Changes of the manifests while the mesh works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use waymark_testkit::http::{self, Connection};
use waymark_testkit::mesh::Mesh;
use waymark_testkit::netns::isolated;
use waymark_testkit::wait::until;

use crate::{WAYPOINT, percent_v2, waymark};

pub(crate) const ROUTING: &str = "reviews-routing.yaml";

/// Paced load on the reviews service, counted by version in windows that a test can read.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Counters {
    v1: AtomicU64,
    v2: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn start(mesh: &Mesh, per_second: u32) -> Self {
        const THREADS: u32 = 5;
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let (source, to) = (mesh.pod("productpage-v1"), mesh.service("reviews"));
        let threads = (0..THREADS)
            .map(|_| {
                let (stop, counters) = (Arc::clone(&stop), Arc::clone(&counters));
                std::thread::spawn(move || {
                    let pause = Duration::from_secs(1) * THREADS / per_second;
                    let mut next = Instant::now();
                    let mut connection = Connection::open(Some(source), to).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        match connection.get("/reviews/0") {
                            Ok(answer) if answer.status == 200 => {
                                let pod =
                                    answer.json()["podname"].as_str().unwrap_or("").to_owned();
                                let counter = if pod == "reviews-v1" {
                                    &counters.v1
                                } else {
                                    &counters.v2
                                };
                                counter.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => {
                                counters.failed.fetch_add(1, Ordering::Relaxed);
                                connection = Connection::open(Some(source), to).unwrap();
                            }
                        }
                        next += pause;
                        std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
                    }
                })
            })
            .collect();
        Self {
            stop,
            counters,
            threads,
        }
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.counters.v1.load(Ordering::Relaxed),
            self.counters.v2.load(Ordering::Relaxed),
        )
    }

    /// Ends it; returns how many were answered and how many failed.
    pub(crate) fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let (v1, v2) = (
            self.counters.v1.load(Ordering::Relaxed),
            self.counters.v2.load(Ordering::Relaxed),
        );
        (v1 + v2, self.counters.failed.load(Ordering::Relaxed))
    }
}

#[test]
fn new_weights_are_in_force_within_a_second_and_cost_no_request() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let load = Load::start(&mesh, 500);
        until("load is flowing", Duration::from_secs(10), || {
            (load.counts().0 > 500).then_some(())
        });

        mesh.edit(ROUTING, |text| {
            text.replace("weight: 90", "weight: 50")
                .replace("weight: 10", "weight: 50")
        });
        let edited = Instant::now();
        // Windows of 100 requests: under 90/10 one with 30 or more of v2 has a chance below one in a million.
        let mut last = load.counts();
        until("the new split is visible", Duration::from_secs(5), || {
            let (v1, v2) = load.counts();
            let (d1, d2) = (v1 - last.0, v2 - last.1);
            if d1 + d2 < 100 {
                return None;
            }
            last = (v1, v2);
            (d2 >= 30).then_some(())
        });
        // The window itself takes 200 ms at this rate.
        let seen = edited.elapsed();
        assert!(seen < Duration::from_millis(1300), "seen after {seen:?}");

        let (before1, before2) = load.counts();
        until("2,000 more", Duration::from_secs(20), || {
            let (v1, v2) = load.counts();
            (v1 + v2 - before1 - before2 > 2000).then_some(())
        });
        let (v1, v2) = load.counts();
        let (d1, d2) = (v1 - before1, v2 - before2);
        assert!(
            d2 * 100 / (d1 + d2) > 44 && d2 * 100 / (d1 + d2) < 56,
            "{d1} and {d2}"
        );
        let (answered, failed) = load.stop();
        assert_eq!(failed, 0, "of {answered}");
    });
}

#[test]
fn a_bad_edit_is_reported_and_changes_nothing() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        mesh.edit(ROUTING, |text| text.replace("weight: 90", "weight: -10"));
        let (error, _) = until(
            "the error is in the status",
            Duration::from_secs(10),
            || {
                let status = std::fs::read(mesh.state().join("status.json")).ok()?;
                let status: Value = serde_json::from_slice(&status).ok()?;
                status["errors"].as_array()?.first().cloned()
            },
        );
        let text = error.to_string();
        for want in [ROUTING, "VirtualService", "reviews", "weight", "-10"] {
            assert!(text.contains(want), "{want} is not in {text}");
        }
        let counts = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 500);
        let share = percent_v2(&counts);
        assert!((5.0..=16.0).contains(&share), "{share} % of {counts:?}");
        // Mended again, the error goes away.
        mesh.edit(ROUTING, |text| {
            text.replace("weight: -10", "weight: 0")
                .replace("weight: 10", "weight: 100")
        });
        until("v2 has it all", Duration::from_secs(10), || {
            let counts = mesh.split(Some("productpage-v1"), mesh.service("reviews"), 50);
            (percent_v2(&counts) > 99.0).then_some(())
        });
    });
}

#[test]
fn a_second_gateway_gets_a_process_and_only_its_own_configuration() {
    isolated(|| {
        let mesh = Mesh::bookinfo(waymark());
        let first = mesh.waypoint_admin(WAYPOINT);
        let names_before = resource_names(first);
        std::fs::write(mesh.manifests().join("shop.yaml"), SHOP).unwrap();
        let (second, took) = until(
            "the second waypoint serves",
            Duration::from_secs(15),
            || {
                let current = mesh.current();
                let waypoint = current["waypoints"]
                    .as_array()?
                    .iter()
                    .find(|w| w["name"] == "shop-waypoint")?
                    .clone();
                let admin = waypoint["admin"].as_str()?.parse().ok()?;
                http::get(None, admin, "/ready")
                    .ok()
                    .filter(|a| a.status == 200)
                    .map(|_| admin)
            },
        );
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_ne!(first, second);
        let names = resource_names(second);
        assert!(
            names
                .iter()
                .any(|n| n.contains("cart.shop.svc.cluster.local")),
            "{names:?}"
        );
        assert!(!names.iter().any(|n| n.contains("reviews")), "{names:?}");
        assert_eq!(
            resource_names(first),
            names_before,
            "the first waypoint has nothing of the second's"
        );
        // By what was really sent: the second got less than 20 resources, and none of the first's.
        let report = http::get(None, mesh.debug(), "/debug/distribution")
            .unwrap()
            .json();
        let sent = report["sent"].as_array().unwrap().clone();
        let shop = sent
            .iter()
            .find(|s| s["proxy"].as_str().unwrap().starts_with("shop-waypoint"))
            .unwrap();
        assert!(shop["bytes"].as_u64().unwrap() < 40_000, "{shop}");
        // Removing it drains and ends the process.
        std::fs::remove_file(mesh.manifests().join("shop.yaml")).unwrap();
        until(
            "the second waypoint is gone",
            Duration::from_secs(20),
            || http::get(None, second, "/ready").is_err().then_some(()),
        );
    });
}

/// Names of clusters and listeners' chains and routes that a waypoint holds.
fn resource_names(admin: std::net::SocketAddr) -> Vec<String> {
    let dump = http::get(None, admin, "/config_dump").unwrap().json();
    let mut names = Vec::new();
    let mut stack = vec![dump];
    while let Some(value) = stack.pop() {
        match value {
            Value::Object(map) => {
                names.extend(map.get("name").and_then(Value::as_str).map(str::to_owned));
                stack.extend(map.into_iter().map(|(_, v)| v));
            }
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
    names.retain(|n| n.contains('|'));
    names.sort();
    names.dedup();
    names
}

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels:
    istio.io/dataplane-mode: ambient
    istio.io/use-waypoint: shop-waypoint
---
apiVersion: v1
kind: Service
metadata:
  name: cart
  namespace: shop
spec:
  selector:
    app: cart
  ports:
  - name: http
    port: 80
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: shop-waypoint
  namespace: shop
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
";
