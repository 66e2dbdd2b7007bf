//! Pods, WorkloadEntries and the addresses of EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use waymark_api::ambient::{DataplaneMode, Redirection};
use waymark_api::host::service_host;
use waymark_api::istio::WorkloadEntry;
use waymark_api::k8s::{AddressType, Endpoint, EndpointSlice, Pod};
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::protocol::Transport;
use waymark_api::waypoint::WaypointClass;
use waymark_api::{ObjectMeta, names};

use super::service::entry_workload;
use super::{Facts, Platform, Refused};
use crate::index::Fact;
use crate::index::key::{ServiceKey, Uid, WaypointKey};
use crate::index::workload::{Health, Origin, Tunnel, Workload};
use crate::ipam::{Owner, Pool};

impl Facts {
    /// A pod that is over is no workload.
    pub(super) fn pod(&mut self, pod: &Pod) -> Result<Option<Workload>, Refused> {
        let meta = &pod.meta;
        if pod.is_terminal() {
            return Ok(None);
        }
        let addresses = match (pod.status.pod_ips.as_slice(), self.settings.platform) {
            ([], Platform::Directory) => {
                vec![self.allocate(&Owner::pod(&meta.namespace, &meta.name), Pool::Pods)?]
            }
            // It has not been started yet.
            ([], Platform::Kubernetes) => return Ok(None),
            (addresses, _) => addresses.to_vec(),
        };
        let workload_name = controller_name(meta);
        let gateway = meta
            .label(names::GATEWAY_NAME)
            .map(|gateway| WaypointKey::new(meta.namespace.as_str(), gateway));
        Ok(Some(Workload {
            uid: Uid::pod(&self.settings.cluster_id, &meta.namespace, &meta.name),
            origin: Origin::Pod { gateway },
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
            hostname: None,
            service_account: pod.spec.service_account_name.as_str().into(),
            node: pod
                .spec
                .node_name
                .as_deref()
                .map_or_else(|| self.settings.node_name.clone(), Arc::from),
            network: meta.label(names::NETWORK).unwrap_or_default().into(),
            locality: None,
            health: self.pod_health(pod),
            tunnel: self.pod_tunnel(pod),
            host_network: pod.spec.host_network,
            canonical_name: canonical_name(&meta.labels, &workload_name),
            canonical_revision: canonical_revision(&meta.labels),
            workload_name: workload_name.as_str().into(),
            weight: None,
            named_ports: named_ports(pod),
            declared_ports: pod.tcp_ports(),
            probe_ports: pod.probe_ports(),
            application_address: application_address(pod, &addresses),
            addresses,
            labels: meta.labels.clone(),
            use_waypoint: meta.mesh.use_waypoint.clone(),
            enforcement: meta.mesh.enforcement,
            explicit_services: BTreeSet::new(),
        }))
    }

    fn pod_health(&self, pod: &Pod) -> Health {
        match (pod.status.ready, self.settings.platform) {
            _ if pod.meta.deletion_timestamp.is_some() => Health::Terminating,
            (Some(true), _) => Health::Healthy,
            // Nobody probes the pods of a directory: they are ready unless their manifest says otherwise.
            (None, Platform::Directory) => Health::Healthy,
            (Some(false), _) | (None, Platform::Kubernetes) => Health::Unhealthy,
        }
    }

    /// The pods of a directory are taken to be captured, unless they or their namespace opt out; those of a cluster are
    /// when the node's agent says so.
    fn pod_tunnel(&self, pod: &Pod) -> Tunnel {
        let mesh = &pod.meta.mesh;
        if self.settings.platform == Platform::Kubernetes {
            return match (mesh.native_tunnel, mesh.redirection) {
                (true, _) => Tunnel::NativeHbone,
                (false, Some(Redirection::Enabled)) => Tunnel::Hbone,
                (false, _) => Tunnel::None,
            };
        }
        let namespace = ObjectKey {
            kind: Kind::Namespace,
            namespace: None,
            name: pod.meta.namespace.clone(),
        };
        let inherited = self
            .store
            .find(&namespace)
            .and_then(|namespace| namespace.meta().mesh.dataplane_mode);
        let is_waypoint = WaypointClass::is_managed(pod.meta.label(names::GATEWAY_MANAGED));
        if mesh.native_tunnel || is_waypoint {
            return Tunnel::NativeHbone;
        }
        let out = mesh.dataplane_mode.or(inherited) == Some(DataplaneMode::None)
            || matches!(
                mesh.redirection,
                Some(Redirection::Disabled | Redirection::Pending)
            )
            || pod.spec.host_network;
        if out { Tunnel::None } else { Tunnel::Hbone }
    }

    pub(super) fn workload_entry(&self, entry: &WorkloadEntry) -> Workload {
        let meta = &entry.meta;
        let labels = entry.all_labels();
        let uid = Uid::workload_entry(&self.settings.cluster_id, &meta.namespace, &meta.name);
        let captured = meta.mesh.redirection == Some(Redirection::Enabled);
        Workload {
            tunnel: match (meta.mesh.native_tunnel, captured) {
                (true, _) => Tunnel::NativeHbone,
                (false, true) => Tunnel::Hbone,
                (false, false) => Tunnel::None,
            },
            // Upstream's default for a workload with an identity.
            service_account: entry
                .spec
                .service_account
                .as_deref()
                .unwrap_or("default")
                .into(),
            canonical_name: canonical_name(&labels, &meta.name),
            canonical_revision: canonical_revision(&labels),
            use_waypoint: meta.mesh.use_waypoint.clone(),
            enforcement: meta.mesh.enforcement,
            labels,
            ..entry_workload(uid, Origin::WorkloadEntry, meta, &entry.spec)
        }
    }

    /// The addresses of a slice that are nobody's we know, and the pods that it names.
    pub(super) fn endpoint_slice(&self, key: &ObjectKey, slice: &EndpointSlice) -> Vec<Fact> {
        let meta = &slice.meta;
        let usable = slice.address_type != AddressType::Fqdn;
        let Some(service) = slice.service_name.as_deref().filter(|_| usable) else {
            return vec![
                Fact::Workloads(key.clone(), Vec::new()),
                Fact::SliceTargets(key.clone(), None),
            ];
        };
        let service = ServiceKey::new(
            meta.namespace.as_str(),
            service_host(service, &meta.namespace),
        );
        let present = || {
            slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.terminating != Some(true))
        };
        let targets = present()
            .filter_map(|endpoint| self.target_pod(meta, endpoint))
            .collect();
        let workloads = present()
            .filter(|endpoint| self.target_pod(meta, endpoint).is_none())
            .flat_map(|endpoint| endpoint.addresses.iter().map(move |ip| (endpoint, *ip)))
            .map(|(endpoint, ip)| self.slice_address(slice, &service, endpoint, ip))
            .collect();
        vec![
            Fact::Workloads(key.clone(), workloads),
            Fact::SliceTargets(key.clone(), Some((service, targets))),
        ]
    }

    fn target_pod(&self, meta: &ObjectMeta, endpoint: &Endpoint) -> Option<Uid> {
        let target = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind == "Pod")?;
        let namespace = target.namespace.as_deref().unwrap_or(&meta.namespace);
        (namespace == meta.namespace)
            .then(|| Uid::pod(&self.settings.cluster_id, namespace, &target.name))
    }

    fn slice_address(
        &self,
        slice: &EndpointSlice,
        service: &ServiceKey,
        endpoint: &Endpoint,
        ip: IpAddr,
    ) -> Workload {
        let meta = &slice.meta;
        let tcp = slice
            .ports
            .iter()
            .filter(|port| port.transport == Transport::Tcp);
        let ports: BTreeMap<String, u16> = tcp
            .filter_map(|port| Some((port.name.clone().unwrap_or_default(), port.port?)))
            .collect();
        Workload {
            uid: Uid::slice_address(
                &self.settings.cluster_id,
                &meta.namespace,
                &meta.name,
                &ip.to_string(),
            ),
            origin: Origin::SliceAddress,
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
            addresses: vec![ip],
            hostname: None,
            labels: BTreeMap::new(),
            service_account: "".into(),
            node: endpoint.node_name.as_deref().unwrap_or_default().into(),
            network: "".into(),
            locality: None,
            health: if endpoint.ready == Some(false) {
                Health::Unhealthy
            } else {
                Health::Healthy
            },
            tunnel: Tunnel::None,
            host_network: true,
            workload_name: "".into(),
            canonical_name: String::new(),
            canonical_revision: String::new(),
            weight: None,
            named_ports: ports,
            declared_ports: Vec::new(),
            probe_ports: Vec::new(),
            application_address: None,
            use_waypoint: None,
            enforcement: None,
            explicit_services: BTreeSet::from([service.clone()]),
        }
    }
}

/// Name that telemetry knows a workload's service by.
pub(super) fn canonical_name(labels: &BTreeMap<String, String>, otherwise: &str) -> String {
    first_label(
        labels,
        &[names::CANONICAL_NAME, names::APP_KUBERNETES_NAME, "app"],
        otherwise,
    )
}

/// Revision that telemetry knows a workload by.
pub(super) fn canonical_revision(labels: &BTreeMap<String, String>) -> String {
    first_label(
        labels,
        &[
            names::CANONICAL_REVISION,
            names::APP_KUBERNETES_VERSION,
            "version",
        ],
        "latest",
    )
}

fn first_label(labels: &BTreeMap<String, String>, of: &[&str], otherwise: &str) -> String {
    of.iter()
        .find_map(|name| labels.get(*name))
        .map_or(otherwise, String::as_str)
        .to_owned()
}

/// The name of what made a pod: its Deployment rather than its ReplicaSet, its CronJob rather than its Job.
fn controller_name(meta: &ObjectMeta) -> String {
    let Some(owner) = meta.owner_references.iter().find(|owner| owner.controller) else {
        return meta.name.clone();
    };
    let shorter = match owner.kind.as_str() {
        "ReplicaSet" => meta
            .label("pod-template-hash")
            .and_then(|hash| owner.name.strip_suffix(hash))
            .and_then(|name| name.strip_suffix('-')),
        // A CronJob names its Jobs by the minute they were due, counted since 1970.
        "Job" => owner
            .name
            .rsplit_once('-')
            .filter(|(_, minute)| minute.len() >= 8 && minute.bytes().all(|b| b.is_ascii_digit()))
            .map(|(name, _)| name),
        _ => None,
    };
    shorter.unwrap_or(&owner.name).to_owned()
}

fn named_ports(pod: &Pod) -> BTreeMap<String, u16> {
    let sidecars = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restarts_always);
    let ports = pod
        .spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports);
    let mut named = BTreeMap::new();
    for port in ports.filter(|port| port.transport == Transport::Tcp) {
        if let Some(name) = &port.name {
            named.entry(name.clone()).or_insert(port.port);
        }
    }
    named
}

/// Where the application of a pod listens: what the annotation says, else the twin in 127.245.0.0/16 of an address in
/// 127.244.0.0/16. `None` when that is the pod's own address.
fn application_address(pod: &Pod, addresses: &[IpAddr]) -> Option<IpAddr> {
    let own = addresses.first()?;
    let address = pod.local.app_address.or(match own {
        IpAddr::V4(v4) if Pool::Pods.contains(*own) => {
            let [_, _, c, d] = v4.octets();
            Some(IpAddr::V4(Ipv4Addr::new(127, 245, c, d)))
        }
        _ => None,
    })?;
    (address != *own).then_some(address)
}

#[cfg(test)]
mod tests {
    use waymark_api::meta::OwnerReference;

    use super::*;

    fn owned_by(kind: &str, name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
        let mut meta = ObjectMeta::named("default", "the-pod");
        meta.labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        meta.owner_references.push(OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: None,
            controller: true,
        });
        meta
    }

    #[test]
    fn a_workload_is_named_after_what_a_person_made() {
        let cases = [
            (ObjectMeta::named("default", "the-pod"), "the-pod"),
            (
                owned_by(
                    "ReplicaSet",
                    "reviews-v1-abc12",
                    &[("pod-template-hash", "abc12")],
                ),
                "reviews-v1",
            ),
            (owned_by("ReplicaSet", "reviews-v1", &[]), "reviews-v1"),
            (owned_by("StatefulSet", "db", &[]), "db"),
            (owned_by("Job", "nightly-28401234", &[]), "nightly"),
            (owned_by("Job", "once-2", &[]), "once-2"),
        ];
        for (meta, name) in cases {
            assert_eq!(controller_name(&meta), name);
        }
    }

    #[test]
    fn canonical_names_come_from_the_first_label_that_is_there() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect()
        };
        let both = labels(&[("app", "a"), (names::APP_KUBERNETES_NAME, "b")]);
        assert_eq!(canonical_name(&both, "w"), "b");
        assert_eq!(canonical_name(&labels(&[]), "w"), "w");
        assert_eq!(canonical_revision(&labels(&[("version", "v1")])), "v1");
        assert_eq!(canonical_revision(&labels(&[])), "latest");
    }
}
