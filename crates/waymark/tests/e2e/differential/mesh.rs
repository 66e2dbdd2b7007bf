//! Random meshes: a few services with ports and subsets, and what routes to them. They use few words, so that requests
//! made of the same words match often.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use waymark_api::yaml::to_yaml;

use super::route::{http_route, virtual_service};

/// Namespace of everything.
pub(super) const NAMESPACE: &str = "mesh";
/// Stands for the mesh's own prefix in names; the service of an index is `CASE-0`, `CASE-1`, ...
pub(super) const PREFIX: &str = "CASE";
/// At most so many services a mesh.
pub(super) const SERVICES: usize = 3;

/// A service port: its number, name and target.
pub(super) type Port = (u16, &'static str, u16);

/// Ports that services have some of.
const PORTS: [Port; 4] = [
    (80, "http", 8080),
    (81, "http-more", 8081),
    (7000, "undeclared", 8080),
    (9000, "tcp", 9000),
];

/// A small mesh. Every part of it stands for itself: any of them can be left out.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    pub(super) services: Vec<Service>,
}

/// A service with what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Label `app` of its pods.
    app: &'static str,
    pub(super) ports: Vec<Port>,
    /// Objects that name the service `HOST` and its index in their names `INDEX`.
    objects: Vec<Value>,
}

pub(super) fn mesh() -> impl Strategy<Value = Mesh> {
    vec(service(), 1..=SERVICES).prop_map(|services| Mesh { services })
}

fn service() -> impl Strategy<Value = Service> {
    (
        select(vec!["a", "b", "c"]),
        subsequence(PORTS.to_vec(), 1..=PORTS.len()),
        option::weighted(0.8, destination_rule()),
        option::weighted(0.5, virtual_service()),
        option::weighted(0.4, http_route("first")),
        option::weighted(0.2, http_route("second")),
    )
        .prop_map(|(app, ports, rule, service, first, second)| Service {
            app,
            ports,
            objects: [rule, service, first, second]
                .into_iter()
                .flatten()
                .collect(),
        })
}

fn destination_rule() -> impl Strategy<Value = Value> {
    let subsets = [
        ("v1", json!({"version": "v1"})),
        ("v2", json!({"version": "v2"})),
        ("every", json!({})),
        ("none", json!({"version": "v9"})),
    ];
    let subsets = subsequence(subsets.to_vec(), 0..=4);
    let policy = prop_oneof![
        3 => Just(None),
        1 => select(vec!["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"]).prop_map(Some),
    ];
    (subsets, policy).prop_map(|(subsets, policy)| {
        let subsets: Vec<Value> = subsets
            .into_iter()
            .map(|(name, labels)| json!({"name": name, "labels": labels}))
            .collect();
        let spec = object([
            ("host", Some("HOST".into())),
            ("subsets", Some(subsets.into())),
            (
                "trafficPolicy",
                policy.map(|p| json!({"loadBalancer": {"simple": p}})),
            ),
        ]);
        manifest(
            "networking.istio.io/v1",
            "DestinationRule",
            "HOST-rule",
            spec,
        )
    })
}

/// An object of the mesh.
pub(super) fn manifest(api: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

/// The fields that are there.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

impl Mesh {
    /// Address of a service of the mesh at that place.
    pub(super) fn vip(place: usize, service: usize) -> Ipv4Addr {
        // Lower addresses are given to what names none.
        let place = u8::try_from(place + 100).expect("few meshes");
        let service = u8::try_from(service).expect("few services");
        Ipv4Addr::new(127, 96, place, service + 1)
    }

    /// The manifests of the mesh at a place: its names begin with `m<place>`, its addresses are those of [`Mesh::vip`].
    pub(super) fn manifests(&self, place: usize) -> String {
        let mut text = String::new();
        for (index, service) in self.services.iter().enumerate() {
            let ports: Vec<Value> = service
                .ports
                .iter()
                .map(|(port, name, target)| json!({"name": name, "port": port, "targetPort": target}))
                .collect();
            let spec = json!({
                "clusterIP": Self::vip(place, index),
                "selector": {"app": service.app},
                "ports": ports,
            });
            let itself = manifest("v1", "Service", "HOST", spec);
            for object in std::iter::once(&itself).chain(&service.objects) {
                let yaml = to_yaml(object).replace("HOST", &format!("{PREFIX}-{index}"));
                let _ = write!(text, "---\n{yaml}");
            }
        }
        text.replace(PREFIX, &format!("m{place}"))
    }
}
