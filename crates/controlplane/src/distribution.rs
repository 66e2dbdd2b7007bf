//! How much configuration a mesh distributes, with sidecars and with waypoints.
//!
//! The unit is that of the published comparison: the configuration of one deployment, held by one proxy. Everything is
//! counted by walking an index; a mesh that does not exist is built as objects and counted by the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use waymark_api::ambient::{TrafficType, UseWaypoint};
use waymark_api::gateway::AllowedNamespaces;
use waymark_api::k8s::TargetPort;
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::names;
use waymark_api::protocol::Protocol;
use waymark_xds::NodeId;
use waymark_xds::server::{ConnectionStatus, Registry};

use crate::index::key::{ServiceKey, Uid, WaypointKey};
use crate::index::namespace::Namespace;
use crate::index::service::{
    IpFamilies, Registry as ServiceRegistry, Resolution, Service, ServicePort,
};
use crate::index::waypoint::{Deployment, Instance, Replica, Scope, Waypoint};
use crate::index::workload::{Health, Origin, Tunnel, Workload};
use crate::index::{Fact, Index, Mesh};
use crate::ipam::Created;

/// What is distributed in a mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How large the mesh is.
    pub mesh: Size,
    /// The ways of distributing configuration: `sidecarsOwnNamespace`, `sidecarsWholeMesh`, `waypoints`.
    pub rows: Vec<Row>,
    /// How they compare; none for a mesh without pods.
    pub ratios: Vec<Ratio>,
    /// What was really sent to the proxies that are connected. Nothing in a simulation.
    pub sent: Vec<Sent>,
}

/// How large a mesh is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// Namespaces that have pods.
    pub namespaces: u64,
    /// Deployments, or whatever else made pods.
    pub deployments: u64,
    /// Pods.
    pub pods: u64,
    /// Services of the mesh, those of waypoints aside.
    pub services: u64,
    /// Waypoints.
    pub waypoints: u64,
    /// Replicas of waypoints.
    pub waypoint_replicas: u64,
}

/// One way of distributing configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Which.
    pub name: String,
    /// Proxies that are configured.
    pub proxies: u64,
    /// Configurations that they hold together.
    pub configurations: u64,
    /// The same, by namespace of the proxies.
    pub namespaces: BTreeMap<String, u64>,
}

/// The configurations of one way for each hundred of another.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ratio {
    /// `waypointsToSidecarsOwnNamespace` or `waypointsToSidecarsWholeMesh`.
    pub name: String,
    /// The ratio, times a hundred.
    pub percent: f64,
}

/// What one proxy was sent since it connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// The proxy, as `<pod>.<namespace>`.
    pub proxy: String,
    /// `waypoint` or `ztunnel`.
    pub kind: String,
    /// The waypoint, as `<namespace>/<gateway>`; empty for node proxies.
    pub waypoint: String,
    /// Configurations that it holds, in the unit of the models.
    pub configurations: u64,
    /// Responses.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Their size.
    pub bytes: u64,
    /// Resources and bytes by type URL.
    pub types: BTreeMap<String, SentType>,
}

/// What was sent of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentType {
    /// Responses.
    pub responses: u64,
    /// Resources in them.
    pub resources: u64,
    /// Their size.
    pub bytes: u64,
}

/// What made a pod: a namespace and the name of a deployment.
type Group<'a> = (&'a str, &'a str);

impl Row {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn add(&mut self, namespace: &str, proxies: u64, configurations_each: u64) {
        let configurations = proxies * configurations_each;
        *self.namespaces.entry(namespace.to_owned()).or_default() += configurations;
        self.proxies += proxies;
        self.configurations += configurations;
    }
}

/// Counts what a mesh distributes, and what was sent to those who are connected.
pub fn report(index: &Index, registry: Option<&Registry>) -> Report {
    let pods: Vec<&Arc<Workload>> = index
        .workloads()
        .filter(|workload| is_application(workload))
        .collect();
    let mut groups: BTreeMap<&str, BTreeSet<Group<'_>>> = BTreeMap::new();
    let mut pods_of: BTreeMap<&str, u64> = BTreeMap::new();
    for pod in &pods {
        groups.entry(&pod.namespace).or_default().insert(group(pod));
        *pods_of.entry(&pod.namespace).or_default() += 1;
    }
    let all_groups = groups.values().map(|groups| count(groups.len())).sum();

    let mut own_namespace = Row::new("sidecarsOwnNamespace");
    let mut whole_mesh = Row::new("sidecarsWholeMesh");
    let mut waypoints = Row::new("waypoints");
    for (namespace, pods) in &pods_of {
        own_namespace.add(
            namespace,
            *pods,
            groups
                .get(namespace)
                .map_or(0, |groups| count(groups.len())),
        );
        whole_mesh.add(namespace, *pods, all_groups);
    }
    let mut replicas = 0;
    for waypoint in index.waypoints().iter() {
        let of_waypoint = waypoint
            .deployment()
            .map_or(0, |deployment| count(deployment.replicas.len()));
        replicas += of_waypoint;
        waypoints.add(
            &waypoint.key.namespace,
            of_waypoint,
            configurations(index, &waypoint.key),
        );
    }
    let is_ours =
        |service: &&Arc<Service>| !matches!(service.registry, ServiceRegistry::Waypoint(_));
    Report {
        mesh: Size {
            namespaces: count(pods_of.len()),
            deployments: all_groups,
            pods: count(pods.len()),
            services: count(index.services().filter(is_ours).count()),
            waypoints: count(index.waypoints().iter().count()),
            waypoint_replicas: replicas,
        },
        ratios: [
            ratio(
                "waypointsToSidecarsOwnNamespace",
                &waypoints,
                &own_namespace,
            ),
            ratio("waypointsToSidecarsWholeMesh", &waypoints, &whole_mesh),
        ]
        .into_iter()
        .flatten()
        .collect(),
        rows: vec![own_namespace, whole_mesh, waypoints],
        sent: registry
            .map(|registry| sent(index, registry))
            .unwrap_or_default(),
    }
}

/// Builds a mesh of so many namespaces, each with a waypoint, so many deployments in each, and so many pods of each; and
/// counts it.
pub fn simulate(namespaces: u32, deployments: u32, pods: u32, waypoint_replicas: u32) -> Report {
    let mut index = Index::new(Mesh::default());
    let mut addresses = (1u32..).map(|n| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)));
    for n in 0..namespaces {
        let namespace = format!("namespace-{n}");
        let mut facts = vec![simulated_namespace(&namespace)];
        facts.extend(simulated_waypoint(
            &namespace,
            waypoint_replicas,
            &mut addresses,
        ));
        for d in 0..deployments {
            facts.extend(simulated_deployment(
                &namespace,
                &format!("deployment-{d}"),
                pods,
                &mut addresses,
            ));
        }
        index.apply(facts);
    }
    report(&index, None)
}

/// The configurations that each replica of a waypoint holds: of the deployments behind what is bound to it.
fn configurations(index: &Index, waypoint: &WaypointKey) -> u64 {
    let bound = index.bound_to(waypoint);
    let members = bound
        .services
        .iter()
        .flat_map(|service| index.members().of_service(service));
    let behind: BTreeSet<&Uid> = members.chain(&bound.workloads).collect();
    let groups: BTreeSet<Group<'_>> = behind
        .into_iter()
        .filter_map(|uid| index.workload(uid))
        .filter(|workload| is_application(workload))
        .map(|workload| group(workload))
        .collect();
    count(groups.len())
}

/// What was sent to the proxies that are connected.
fn sent(index: &Index, registry: &Registry) -> Vec<Sent> {
    let mut sent: Vec<Sent> = registry
        .connections()
        .iter()
        .filter_map(|connection| sent_to(index, connection))
        .collect();
    sent.sort_by(|a, b| (&a.kind, &a.waypoint, &a.proxy).cmp(&(&b.kind, &b.waypoint, &b.proxy)));
    sent
}

fn sent_to(index: &Index, connection: &ConnectionStatus) -> Option<Sent> {
    let id: NodeId = connection.client.node_id.parse().ok()?;
    let waypoint = crate::serve::gateway_of(index, &connection.client);
    let mut sent = Sent {
        proxy: id.proxy.clone(),
        kind: id.kind.as_str().to_owned(),
        configurations: waypoint
            .as_ref()
            .map_or(0, |waypoint| configurations(index, waypoint)),
        waypoint: waypoint
            .map(|waypoint| waypoint.to_string())
            .unwrap_or_default(),
        ..Sent::default()
    };
    for (type_url, status) in &connection.types {
        let of_type = SentType {
            responses: status.responses,
            resources: status.resources_sent,
            bytes: status.bytes_sent,
        };
        sent.responses += of_type.responses;
        sent.resources += of_type.resources;
        sent.bytes += of_type.bytes;
        sent.types.insert(type_url.to_string(), of_type);
    }
    Some(sent)
}

/// Pods of the mesh that would each have a sidecar.
fn is_application(workload: &Workload) -> bool {
    matches!(
        workload.origin,
        Origin::Pod { gateway: None } | Origin::WorkloadEntry
    )
}

fn group(workload: &Workload) -> Group<'_> {
    (&workload.namespace, &workload.workload_name)
}

fn ratio(name: &str, part: &Row, whole: &Row) -> Option<Ratio> {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let percent = part.configurations as f64 * 100.0 / whole.configurations as f64;
    (whole.configurations > 0).then(|| Ratio {
        name: name.to_owned(),
        percent,
    })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn simulated_namespace(name: &str) -> Fact {
    let use_waypoint = Some(UseWaypoint::Named {
        namespace: None,
        name: WAYPOINT.to_owned(),
    });
    Fact::Namespace(
        name.into(),
        Some(Namespace {
            use_waypoint,
            ..Namespace::unlabelled(name)
        }),
    )
}

fn simulated_waypoint(
    namespace: &str,
    replicas: u32,
    addresses: &mut impl Iterator<Item = IpAddr>,
) -> Vec<Fact> {
    let key = WaypointKey::new(namespace, WAYPOINT);
    let deployment = Deployment {
        name: WAYPOINT.into(),
        service_account: WAYPOINT.into(),
        vip: addresses.next(),
        binary: None,
        replicas: (0..replicas)
            .zip(addresses)
            .map(|(n, address)| Replica {
                name: format!("{WAYPOINT}-{n}").into(),
                address,
            })
            .collect(),
    };
    let waypoint = Waypoint {
        key: key.clone(),
        created: Created::default(),
        class: names::WAYPOINT_CLASS.to_owned(),
        scope: Scope::Labelled,
        traffic: TrafficType::Service,
        allowed: AllowedNamespaces::Same,
        enforcement: None,
        revision: None,
        instance: Instance::Deployed(deployment),
    };
    vec![
        Fact::Waypoint(key.clone(), Some(Arc::new(waypoint))),
        Fact::Programmed(key, true),
    ]
}

fn simulated_deployment(
    namespace: &str,
    name: &str,
    pods: u32,
    addresses: &mut impl Iterator<Item = IpAddr>,
) -> Vec<Fact> {
    let selector = BTreeMap::from([("app".to_owned(), name.to_owned())]);
    let service = Service {
        key: ServiceKey::new(namespace, waymark_api::host::service_host(name, namespace)),
        name: name.into(),
        registry: ServiceRegistry::Kubernetes,
        created: Created::default(),
        vips: addresses.next().map(IpNet::from).into_iter().collect(),
        ports: vec![ServicePort {
            number: 80,
            name: "http".to_owned(),
            protocol: Protocol::Http,
            target: TargetPort::Number(8080),
        }],
        selector: selector.clone(),
        resolution: Resolution::Static,
        subject_alt_names: Vec::new(),
        publish_not_ready: false,
        node_local: false,
        traffic_distribution: None,
        ip_families: IpFamilies::Automatic,
        use_waypoint: None,
        enforcement: None,
        ingress_use_waypoint: None,
        managed: false,
    };
    let mut facts = vec![Fact::Services(
        ObjectKey::namespaced(Kind::Service, namespace, name),
        vec![service],
    )];
    for n in 0..pods {
        let pod = format!("{name}-{n}");
        let workload = Workload {
            uid: Uid::pod("Kubernetes", namespace, &pod),
            origin: Origin::Pod { gateway: None },
            namespace: namespace.into(),
            name: pod.as_str().into(),
            addresses: addresses.next().into_iter().collect(),
            hostname: None,
            labels: selector.clone(),
            service_account: name.into(),
            node: "".into(),
            network: "".into(),
            locality: None,
            health: Health::Healthy,
            tunnel: Tunnel::Hbone,
            host_network: false,
            workload_name: name.into(),
            canonical_name: name.to_owned(),
            canonical_revision: "latest".to_owned(),
            weight: None,
            named_ports: BTreeMap::new(),
            declared_ports: vec![8080],
            probe_ports: Vec::new(),
            application_address: None,
            use_waypoint: None,
            enforcement: None,
            explicit_services: BTreeSet::new(),
        };
        facts.push(Fact::Workloads(
            ObjectKey::namespaced(Kind::Pod, namespace, pod),
            vec![workload],
        ));
    }
    facts
}

const WAYPOINT: &str = "waypoint";

#[cfg(test)]
mod tests {
    use super::*;

    fn configurations(report: &Report) -> Vec<u64> {
        report.rows.iter().map(|row| row.configurations).collect()
    }

    #[test]
    fn counts_the_published_comparison() {
        let report = simulate(2, 25, 10, 2);
        assert_eq!(configurations(&report), [12500, 25000, 100]);
        let percents: Vec<f64> = report.ratios.iter().map(|ratio| ratio.percent).collect();
        assert_eq!(percents, [0.8, 0.4]);
        assert_eq!((report.rows[0].proxies, report.rows[2].proxies), (500, 4));
        assert_eq!(report.rows[0].namespaces["namespace-1"], 6250);
    }

    #[test]
    fn counts_the_small_picture() {
        assert_eq!(configurations(&simulate(2, 2, 1, 1)), [8, 16, 4]);
    }

    #[test]
    fn nothing_distributes_nothing() {
        let report = simulate(0, 0, 0, 0);
        assert_eq!(configurations(&report), [0, 0, 0]);
        assert_eq!(report.ratios, []);
    }
}
