#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use waymark_api::yaml::parse_documents;
use waymark_identity::TrustDomain;

use super::*;
use crate::facts::{Facts, Platform, ReplicaSource, Settings};
use crate::generate::Generator;
use crate::index::{Index, Mesh};
use crate::ipam::Ipam;
use crate::source::Batch;
use crate::store::Change;
use crate::translate::input::MeshSettings;

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/use-waypoint: w } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: w, namespace: shop, labels: { istio.io/rev: blue } }
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { ports: [{ port: 80 }], selector: { app: cart } }
---
apiVersion: v1
kind: Service
metadata: { name: open, namespace: free }
spec: { ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Service
metadata: { name: guest, namespace: free, labels: { istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: shop } }
spec: { ports: [{ port: 80 }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: wild, namespace: free }
spec: { hosts: ['*.example.org'], ports: [{ number: 443, name: tls, protocol: TLS }], resolution: NONE }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: cart, namespace: shop, generation: 3 }
spec:
  parentRefs: [{ group: '', kind: Service, name: cart, port: 80 }, { group: '', kind: Service, name: cart, port: 81 }]
  rules: [{ backendRefs: [{ name: cart, port: 80 }, { name: gone, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: open, namespace: free, generation: 1 }
spec:
  parentRefs: [{ group: '', kind: Service, name: open }, { group: '', kind: Service, name: nobody }]
  rules: [{ backendRefs: [{ name: open, port: 80 }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: broken, namespace: free }
spec:
  parentRefs: [{ group: '', kind: Service, name: open }]
  rules: [{ timeouts: { request: soon } }]
";

fn status(revision: &str) -> ClusterStatus {
    let settings = Settings {
        cluster_id: "Kubernetes".to_owned(),
        node_name: "local".into(),
        replicas: ReplicaSource::Gateway,
        platform: Platform::Directory,
    };
    let core = Core::new(
        Facts::new(settings, Ipam::in_memory()),
        Index::new(Mesh {
            trust_domain: TrustDomain::default().as_str().to_owned(),
            ..Mesh::default()
        }),
        Generator::new(MeshSettings::default()),
        Arc::default(),
    );
    let (mut changes, mut errors) = (Vec::new(), Vec::new());
    for document in parse_documents("cluster", OBJECTS) {
        match document {
            Ok(document) => changes.push(Change::Upsert(document.resource)),
            Err(error) => errors.push(error),
        }
    }
    core.take(Batch {
        changes,
        errors,
        places: BTreeMap::new(),
    });
    ClusterStatus::new(Arc::new(core), revision)
}

fn lines(conditions: &[Condition]) -> Vec<String> {
    let line = |c: &Condition| format!("{} {:?} {}: {}", c.kind, c.status, c.reason, c.message);
    conditions.iter().map(line).collect()
}

#[test]
fn services_entries_and_routes_say_how_they_are() {
    let status = status("blue");
    let mut told: BTreeMap<String, Vec<String>> = status
        .conditions()
        .iter()
        .map(|(key, conditions)| (key.to_string(), lines(conditions)))
        .collect();
    for (key, route) in status.routes() {
        let said = match &route {
            RouteStatus::Read {
                generation,
                parents,
            } => {
                let parents = parents.iter().enumerate();
                let of = |(n, parent): (usize, &ParentStatus)| {
                    lines(&parent.conditions)
                        .into_iter()
                        .map(move |line| format!("parent {n} of generation {generation:?}: {line}"))
                };
                parents.flat_map(of).collect()
            }
            RouteStatus::Refused(parent) => lines(&parent.conditions),
        };
        told.insert(key.to_string(), said);
    }
    insta::assert_json_snapshot!(told);
}

#[test]
fn a_route_whose_waypoint_is_another_control_planes_is_left_to_it() {
    let names: Vec<String> = status("red")
        .routes()
        .into_iter()
        .map(|(key, _)| key.name)
        .collect();
    assert_eq!(names, ["broken", "open"]);
}

#[test]
fn a_service_is_found_with_its_port_and_its_readiness() {
    let status = status("blue");
    let host = |name: &str| format!("{name}.shop.svc.cluster.local");
    assert_eq!(status.service(&host("none"), 80), ServiceFinding::NotFound);
    assert_eq!(
        status.service(&host("cart"), 80),
        ServiceFinding::NoEndpoints
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: p, namespace: shop, labels: { app: cart } }\nspec: { containers: [{ name: c }] }\n";
    let pod = parse_documents("pod", pod).remove(0).unwrap().resource;
    status.core.take(Batch {
        changes: vec![Change::Upsert(pod)],
        errors: Vec::new(),
        places: BTreeMap::new(),
    });
    assert!(
        matches!(status.service(&host("cart"), 80), ServiceFinding::Ready { vips } if vips.len() == 1)
    );
    assert_eq!(status.service(&host("cart"), 81), ServiceFinding::NoPort);
}
