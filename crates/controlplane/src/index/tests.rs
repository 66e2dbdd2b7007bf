//! Any order of events leads to the index that a full build gives, and effects say exactly what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use waymark_api::ambient::{Enforcement, TrafficType, UseWaypoint};
use waymark_api::gateway::{
    AllowedNamespaces, Gateway, GatewayApiVersion, GatewaySpec, Listener, ListenerProtocol,
};
use waymark_api::host::Host;
use waymark_api::istio::destination_rule::{Subset, TrafficPolicy};
use waymark_api::istio::virtual_service::{
    Destination, Headers, HttpAction, HttpDestination, HttpRule,
};
use waymark_api::istio::{DestinationRule, ExportNamespace, ExportTo, VirtualService};
use waymark_api::k8s::{
    ClusterIps, Container, ContainerPort, LocalPod, Namespace, Pod, PodSpec, PodStatus, Service,
    ServicePort, ServiceSpec, ServiceType, TargetPort,
};
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::protocol::{Protocol, Transport};
use waymark_api::{ObjectMeta, Resource, Timestamp};

use super::key::WaypointKey;
use super::{Dependents, Index, Mesh};
use crate::facts::{Facts, Platform, ReplicaSource, Settings};
use crate::ipam::{Ipam, Owner, Pool};
use crate::store::Change;

const NAMESPACES: [&str; 2] = ["a", "b"];
const WAYPOINTS: [&str; 2] = ["w", "x"];

/// One event of a mesh's life.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Change(Change),
    Replica(WaypointKey, u32, bool),
}

pub(crate) fn settings() -> Settings {
    Settings {
        cluster_id: "Kubernetes".to_owned(),
        node_name: "local".into(),
        replicas: ReplicaSource::Gateway,
        platform: Platform::Directory,
    }
}

/// Everything that could be allocated, allocated in one order, so that addresses do not depend on that of the events.
pub(crate) fn ipam() -> Ipam {
    let mut ipam = Ipam::in_memory();
    for namespace in NAMESPACES {
        for name in WAYPOINTS {
            ipam.assign(&Owner::waypoint(namespace, name), Pool::Vips)
                .expect("enough addresses");
            for ordinal in 0..2 {
                ipam.assign(&Owner::replica(namespace, name, ordinal), Pool::Pods)
                    .expect("enough addresses");
            }
        }
    }
    ipam
}

fn meta(namespace: &str, name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        labels,
        creation_timestamp: Timestamp::from_unix_seconds(1000),
        ..ObjectMeta::named(namespace, name)
    }
}

fn namespaces() -> impl Strategy<Value = &'static str> {
    prop::sample::select(NAMESPACES.to_vec())
}

fn use_waypoint() -> impl Strategy<Value = Option<UseWaypoint>> {
    let named = (
        prop::sample::select(WAYPOINTS.to_vec()),
        prop::option::of(namespaces()),
    )
        .prop_map(|(name, namespace)| UseWaypoint::Named {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        });
    prop_oneof![4 => Just(None), 1 => Just(Some(UseWaypoint::None)), 3 => named.prop_map(Some)]
}

fn enforcement() -> impl Strategy<Value = Option<Enforcement>> {
    prop_oneof![3 => Just(None), 1 => Just(Some(Enforcement::Require)), 1 => Just(Some(Enforcement::Off))]
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = || prop::sample::select(vec!["1", "2"]);
    prop::collection::btree_map(prop::sample::select(vec!["app", "version"]), value(), 0..3)
        .prop_map(|map| {
            map.into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect()
        })
}

fn namespace() -> impl Strategy<Value = Resource> {
    (namespaces(), use_waypoint(), enforcement(), labels()).prop_map(
        |(name, use_waypoint, enforcement, labels)| {
            let mut meta = meta("", name, labels);
            meta.mesh.use_waypoint = use_waypoint;
            meta.mesh.enforcement = enforcement;
            Namespace { meta }.into()
        },
    )
}

fn service() -> impl Strategy<Value = Resource> {
    (
        namespaces(),
        0..3u8,
        use_waypoint(),
        enforcement(),
        labels(),
        any::<bool>(),
    )
        .prop_map(
            |(namespace, n, use_waypoint, enforcement, selector, named)| {
                let mut meta = meta(namespace, &format!("s{n}"), BTreeMap::new());
                meta.mesh.use_waypoint = use_waypoint;
                meta.mesh.enforcement = enforcement;
                let third = u8::from(namespace == "b");
                let port = ServicePort {
                    name: Some("http".to_owned()),
                    port: 80,
                    target_port: if named {
                        TargetPort::Name("web".to_owned())
                    } else {
                        TargetPort::Number(8080)
                    },
                    transport: Transport::Tcp,
                    app_protocol: None,
                    protocol: Protocol::Http,
                };
                let spec = ServiceSpec {
                    service_type: ServiceType::ClusterIp,
                    cluster_ips: ClusterIps::Given(vec![IpAddr::from([10, 96, third, n])]),
                    selector,
                    ports: vec![port],
                    ip_families: Vec::new(),
                    internal_traffic_local: false,
                    traffic_distribution: None,
                    publish_not_ready_addresses: false,
                };
                Service { meta, spec }.into()
            },
        )
}

fn pod() -> impl Strategy<Value = Resource> {
    (
        namespaces(),
        0..3u8,
        use_waypoint(),
        labels(),
        0..2u8,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(namespace, n, use_waypoint, labels, account, ready, moved)| {
                let mut meta = meta(namespace, &format!("p{n}"), labels);
                meta.mesh.use_waypoint = use_waypoint;
                let third = u8::from(namespace == "b") + if moved { 2 } else { 0 };
                let ports = vec![ContainerPort {
                    name: Some("web".to_owned()),
                    port: 8081,
                    transport: Transport::Tcp,
                }];
                let container = Container {
                    name: "c".to_owned(),
                    ports,
                    startup_probe: None,
                    readiness_probe: None,
                    liveness_probe: None,
                    restarts_always: false,
                };
                let spec = PodSpec {
                    service_account_name: format!("account-{account}"),
                    node_name: None,
                    host_network: false,
                    containers: vec![container],
                    init_containers: Vec::new(),
                };
                let status = PodStatus {
                    phase: None,
                    pod_ips: vec![IpAddr::from([10, 244, third, n])],
                    ready: Some(ready),
                };
                Pod {
                    meta,
                    spec,
                    status,
                    local: LocalPod::default(),
                }
                .into()
            },
        )
}

fn gateway() -> impl Strategy<Value = Resource> {
    let traffic = prop::option::of(prop::sample::select(vec![
        TrafficType::Service,
        TrafficType::Workload,
        TrafficType::All,
        TrafficType::None,
    ]));
    let allowed = prop::sample::select(vec![AllowedNamespaces::Same, AllowedNamespaces::All]);
    let account = prop::option::of(prop::sample::select(vec!["account-0", "account-1"]));
    (
        namespaces(),
        prop::sample::select(WAYPOINTS.to_vec()),
        any::<bool>(),
        traffic,
        allowed,
        account,
        1..3u32,
    )
        .prop_map(
            |(namespace, name, old, traffic, allowed_namespaces, account, replicas)| {
                let mut meta = meta(namespace, name, BTreeMap::new());
                meta.mesh.waypoint_for = traffic;
                let listener = Listener {
                    name: "mesh".to_owned(),
                    hostname: None,
                    port: 15008,
                    protocol: ListenerProtocol::Hbone,
                    allowed_namespaces,
                };
                let spec = GatewaySpec {
                    class_name: "istio-waypoint".to_owned(),
                    listeners: vec![listener],
                    addresses: Vec::new(),
                    infrastructure_labels: BTreeMap::new(),
                    infrastructure_annotations: BTreeMap::new(),
                };
                Gateway {
                    meta,
                    version: if old {
                        GatewayApiVersion::V1Beta1
                    } else {
                        GatewayApiVersion::V1
                    },
                    spec,
                    for_service_account: account.map(str::to_owned),
                    own_service_account: None,
                    name_override: None,
                    replicas,
                    binary: None,
                    status_addresses: Vec::new(),
                }
                .into()
            },
        )
}

fn virtual_service() -> impl Strategy<Value = Resource> {
    let destination = || {
        (
            0..3u8,
            prop::option::of(namespaces()),
            prop::option::of(Just("v1")),
            1..100u32,
        )
    };
    let host = prop_oneof![3 => (0..3u8).prop_map(|n| format!("s{n}")), 1 => Just("*.svc.cluster.local".to_owned())];
    (
        namespaces(),
        0..2u8,
        host,
        prop::collection::vec(destination(), 1..3),
    )
        .prop_map(|(namespace, n, host, destinations)| {
            let route = |(to, of, subset, weight): (u8, Option<&str>, Option<&str>, u32)| {
                let host = match of {
                    Some(of) => format!("s{to}.{of}.svc.cluster.local"),
                    None => format!("s{to}"),
                };
                HttpDestination {
                    destination: Destination {
                        host: Host::parse(&host).expect("a host"),
                        subset: subset.map(str::to_owned),
                        port: None,
                    },
                    weight,
                    headers: Headers::default(),
                }
            };
            let rule = HttpRule {
                name: None,
                matches: Vec::new(),
                action: HttpAction::Route(destinations.into_iter().map(route).collect()),
                rewrite: None,
                timeout: None,
                retries: None,
                headers: Headers::default(),
                fault: None,
                cors: None,
                mirrors: Vec::new(),
            };
            VirtualService {
                meta: meta(namespace, &format!("v{n}"), BTreeMap::new()),
                hosts: vec![Host::parse(&host).expect("a host")],
                gateways: vec!["mesh".to_owned()],
                http: vec![rule],
                export_to: ExportTo::All,
            }
            .into()
        })
}

fn destination_rule() -> impl Strategy<Value = Resource> {
    let host = prop_oneof![3 => (0..3u8).prop_map(|n| format!("s{n}")), 1 => Just("*.svc.cluster.local".to_owned())];
    (namespaces(), 0..2u8, host, any::<bool>(), labels()).prop_map(
        |(namespace, n, host, private, labels)| {
            let subset = Subset {
                name: "v1".to_owned(),
                labels,
                traffic_policy: TrafficPolicy::default(),
            };
            DestinationRule {
                meta: meta(namespace, &format!("d{n}"), BTreeMap::new()),
                host: Host::parse(&host).expect("a host"),
                traffic_policy: TrafficPolicy::default(),
                subsets: vec![subset],
                export_to: if private {
                    ExportTo::Namespaces(vec![ExportNamespace::Own])
                } else {
                    ExportTo::All
                },
            }
            .into()
        },
    )
}

pub(crate) fn event() -> impl Strategy<Value = Event> {
    let object = prop_oneof![
        2 => namespace(),
        3 => service(),
        4 => pod(),
        3 => gateway(),
        3 => virtual_service(),
        2 => destination_rule(),
    ];
    let replica = (
        namespaces(),
        prop::sample::select(WAYPOINTS.to_vec()),
        0..2u32,
        any::<bool>(),
    )
        .prop_map(|(namespace, name, ordinal, ready)| {
            Event::Replica(WaypointKey::new(namespace, name), ordinal, ready)
        });
    prop_oneof![
        6 => object.clone().prop_map(|object| Event::Change(Change::Upsert(object))),
        2 => object.prop_map(|object| Event::Change(Change::Delete(object.key()))),
        1 => replica,
    ]
}

pub(crate) fn facts_of(facts: &mut Facts, event: &Event) -> Vec<super::Fact> {
    match event.clone() {
        // Two pods may want one address: then the second is refused, as it would be in a full build of what is in force.
        Event::Change(Change::Upsert(object)) => facts.upsert(object).unwrap_or_default(),
        Event::Change(Change::Delete(key)) => facts.remove(&key),
        Event::Replica(waypoint, ordinal, ready) => {
            // Replicas are named after their deployment, which depends on the Gateway's form.
            let names = [
                waypoint.name.clone(),
                format!("{}-istio-waypoint", waypoint.name),
            ];
            names
                .iter()
                .flat_map(|name| facts.replica(&waypoint, &format!("{name}-{ordinal}"), ready))
                .collect()
        }
    }
}

/// An index that was told at once, and in another order, what is in force.
pub(crate) fn rebuild(facts: &Facts, index: &Index, seed: &prop::sample::Index) -> Index {
    let mut objects: Vec<Resource> = facts
        .store()
        .iter()
        .map(|(_, object)| object.clone())
        .collect();
    let middle = if objects.is_empty() {
        0
    } else {
        seed.index(objects.len())
    };
    objects.rotate_left(middle);
    let mut ipam = ipam();
    for waypoint in index
        .waypoints()
        .iter()
        .filter(|waypoint| index.is_programmed(&waypoint.key))
    {
        ipam.set_programmed(
            &Owner::waypoint(&waypoint.key.namespace, &waypoint.key.name),
            true,
        );
    }
    let mut fresh = Facts::new(settings(), ipam);
    let mut batch = Vec::new();
    for object in objects {
        batch.extend(
            fresh
                .upsert(object)
                .expect("it was in force beside the others"),
        );
    }
    for (waypoint, name, ready) in facts.replicas_reported() {
        batch.extend(fresh.replica(&waypoint, &name, ready));
    }
    let mut rebuilt = Index::new(Mesh::default());
    rebuilt.apply(batch);
    rebuilt
}

/// All that can be seen of an index.
#[derive(Debug, PartialEq)]
struct Seen {
    published: BTreeMap<String, Vec<u8>>,
    bindings: BTreeMap<String, String>,
    bound: BTreeMap<WaypointKey, Dependents>,
    members: BTreeMap<String, BTreeSet<String>>,
}

fn see(index: &Index) -> Seen {
    let mut bindings: BTreeMap<String, String> = index
        .services()
        .map(|service| {
            (
                service.key.to_string(),
                format!("{:?}", index.service_binding(&service.key)),
            )
        })
        .collect();
    bindings.extend(index.workloads().map(|workload| {
        (
            workload.uid.to_string(),
            format!("{:?}", index.workload_binding(&workload.uid)),
        )
    }));
    let of = |service: &super::Service| {
        index
            .members()
            .of_service(&service.key)
            .map(ToString::to_string)
            .collect()
    };
    Seen {
        published: published(index),
        bindings,
        bound: index
            .waypoints()
            .iter()
            .map(|waypoint| (waypoint.key.clone(), index.bound_to(&waypoint.key).clone()))
            .collect(),
        members: index
            .services()
            .map(|service| (service.key.to_string(), of(service)))
            .collect(),
    }
}

fn published(index: &Index) -> BTreeMap<String, Vec<u8>> {
    index
        .addresses()
        .iter()
        .map(|resource| (resource.name().to_owned(), resource.value().to_vec()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_equals_one_full_build(
        events in prop::collection::vec(event(), 1..60),
        batch in 1..5usize,
        seed in any::<prop::sample::Index>(),
    ) {
        let mut facts = Facts::new(settings(), ipam());
        let mut index = Index::new(Mesh::default());
        for events in events.chunks(batch) {
            let before = published(&index);
            let batch: Vec<_> = events.iter().flat_map(|event| facts_of(&mut facts, event)).collect();
            let effects = index.apply(batch);
            let after = published(&index);
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            let changed: BTreeSet<&str> = names
                .into_iter()
                .filter(|name| before.get(*name) != after.get(*name))
                .map(String::as_str)
                .collect();
            let said: BTreeSet<&str> = effects.addresses.iter().map(|name| &**name).collect();
            prop_assert_eq!(said, changed);
        }

        let fresh = rebuild(&facts, &index, &seed);
        prop_assert_eq!(see(&index), see(&fresh));
    }
}

#[test]
fn an_unread_label_of_a_namespace_concerns_nobody() {
    let mut facts = Facts::new(settings(), ipam());
    let mut index = Index::new(Mesh::default());
    let mut object = Namespace {
        meta: meta("", "a", BTreeMap::new()),
    };
    index.apply(facts.upsert(object.clone().into()).expect("valid"));
    object
        .meta
        .labels
        .insert("team".to_owned(), "red".to_owned());
    let effects = index.apply(facts.upsert(object.into()).expect("valid"));
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn an_object_that_never_was_is_deleted_without_effect() {
    let mut facts = Facts::new(settings(), ipam());
    let mut index = Index::new(Mesh::default());
    let effects = index.apply(facts.remove(&ObjectKey::namespaced(Kind::Pod, "a", "nobody")));
    assert!(effects.is_empty());
}
