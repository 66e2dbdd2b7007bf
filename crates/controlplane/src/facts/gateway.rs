//! Gateways: the waypoints, and for those deployed here their Service and replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::ambient::TrafficType;
use waymark_api::gateway::{Gateway, GatewayAddress, WaypointForm};
use waymark_api::k8s::TargetPort;
use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::protocol::Protocol;
use waymark_api::{Resource, names};

use super::{Facts, Platform, Refused, ReplicaSource, waypoint_key};
use crate::index::Fact;
use crate::index::key::{ServiceKey, Uid, WaypointKey};
use crate::index::service::{IpFamilies, Registry, Resolution, Service, ServicePort};
use crate::index::waypoint::{Deployment, Instance, Replica, Scope, Waypoint, WaypointAddress};
use crate::index::workload::{Health, Origin, Tunnel, Workload};
use crate::ipam::{Created, Exhausted, Owner, Pool};

impl Facts {
    pub(super) fn gateway(
        &mut self,
        key: &ObjectKey,
        gateway: &Gateway,
    ) -> Result<Vec<Fact>, Refused> {
        let Some(instance) = self.instance(gateway)? else {
            return Ok(self.no_gateway(key));
        };
        let waypoint = Waypoint {
            key: waypoint_key(key),
            created: self.created(key, &gateway.meta),
            class: gateway.spec.class_name.clone(),
            scope: match gateway.form() {
                WaypointForm::Today => Scope::Labelled,
                WaypointForm::Namespace2023 => Scope::Namespace,
                WaypointForm::ServiceAccount2023(account) => Scope::ServiceAccount(account.into()),
            },
            traffic: gateway.traffic_type(self.class_traffic(&gateway.spec.class_name)),
            allowed: gateway.allowed_namespaces().clone(),
            enforcement: gateway.meta.mesh.enforcement,
            revision: gateway.meta.label(names::REVISION).map(str::to_owned),
            instance,
        };
        let (services, workloads) = match waypoint.deployment() {
            // A cluster has them as objects of their own.
            Some(_) if self.settings.platform == Platform::Kubernetes => (Vec::new(), Vec::new()),
            Some(deployment) => (
                vec![waypoint_service(
                    &waypoint.key,
                    gateway,
                    deployment,
                    waypoint.created,
                )],
                self.replicas(&waypoint.key, gateway, deployment),
            ),
            None => (Vec::new(), Vec::new()),
        };
        let programmed = match self.settings.platform {
            Platform::Directory => self.programmed(&waypoint.key, !services.is_empty()),
            Platform::Kubernetes => !gateway.status_addresses.is_empty(),
        };
        Ok(vec![
            Fact::Services(key.clone(), services),
            Fact::Workloads(key.clone(), workloads),
            Fact::Programmed(waypoint.key.clone(), programmed),
            Fact::Waypoint(waypoint.key.clone(), Some(Arc::new(waypoint))),
        ])
    }

    /// A Gateway that is gone, or that is no waypoint.
    pub(super) fn no_gateway(&mut self, key: &ObjectKey) -> Vec<Fact> {
        let waypoint = waypoint_key(key);
        self.ready.retain(|(of, _), _| *of != waypoint);
        self.ipam
            .set_programmed(&Owner::waypoint(&waypoint.namespace, &waypoint.name), false);
        vec![
            Fact::Services(key.clone(), Vec::new()),
            Fact::Workloads(key.clone(), Vec::new()),
            Fact::Programmed(waypoint.clone(), false),
            Fact::Waypoint(waypoint, None),
        ]
    }

    /// Who runs the waypoint of a Gateway. A host name, or several addresses, say that somebody else does.
    fn instance(&mut self, gateway: &Gateway) -> Result<Option<Instance>, Refused> {
        // In a cluster it is the Gateway's controller that says where its waypoint is.
        let addresses = match self.settings.platform {
            Platform::Kubernetes if !gateway.spec.addresses.is_empty() => &gateway.status_addresses,
            Platform::Directory | Platform::Kubernetes => &gateway.spec.addresses,
        };
        let elsewhere =
            addresses.len() > 1 || matches!(addresses.first(), Some(GatewayAddress::Hostname(_)));
        if elsewhere {
            // A host name is preferred wherever it stands.
            let hostname = addresses.iter().find_map(|address| match address {
                GatewayAddress::Hostname(host) => {
                    Some(WaypointAddress::Hostname(host.as_str().into()))
                }
                GatewayAddress::Ip(_) => None,
            });
            let ip = addresses.iter().find_map(|address| match address {
                GatewayAddress::Ip(ip) => Some(WaypointAddress::Ip(*ip)),
                GatewayAddress::Hostname(_) => None,
            });
            return Ok(hostname.or(ip).map(Instance::External));
        }
        if !gateway.is_waypoint() {
            return Ok(None);
        }
        let (namespace, name) = (gateway.meta.namespace.as_str(), gateway.meta.name.as_str());
        let vip = match (addresses.first(), self.settings.platform) {
            (Some(GatewayAddress::Ip(ip)), _) => Some(*ip),
            (_, Platform::Directory) => {
                Some(self.allocate(&Owner::waypoint(namespace, name), Pool::Vips)?)
            }
            (_, Platform::Kubernetes) => None,
        };
        let deployment = gateway.deployment_name();
        let replicas = match self.settings.replicas {
            ReplicaSource::Gateway => (0..gateway.replicas)
                .map(|ordinal| {
                    let address =
                        self.allocate(&Owner::replica(namespace, name, ordinal), Pool::Pods)?;
                    Ok(Replica {
                        name: format!("{deployment}-{ordinal}").into(),
                        address,
                    })
                })
                .collect::<Result<Vec<Replica>, Exhausted>>()?,
            ReplicaSource::Pods => Vec::new(),
            ReplicaSource::Connections => {
                let connected = self
                    .connected
                    .get(&WaypointKey::new(namespace, name))
                    .into_iter()
                    .flatten();
                connected
                    .map(|(name, address)| Replica {
                        name: name.clone(),
                        address: *address,
                    })
                    .collect()
            }
        };
        Ok(Some(Instance::Deployed(Deployment {
            name: deployment.into(),
            service_account: gateway.service_account_name().into(),
            vip,
            binary: gateway.binary,
            replicas,
        })))
    }

    /// Whether the waypoint has an address: from its first ready replica on, and for as long as it exists.
    fn programmed(&mut self, waypoint: &WaypointKey, deployed: bool) -> bool {
        let owner = Owner::waypoint(&waypoint.namespace, &waypoint.name);
        let reported = self
            .ready
            .iter()
            .any(|((of, _), ready)| of == waypoint && *ready);
        let ready = reported
            || self
                .connected
                .get(waypoint)
                .is_some_and(|replicas| !replicas.is_empty());
        if deployed && ready {
            self.ipam.set_programmed(&owner, true);
        }
        deployed && self.ipam.was_programmed(&owner)
    }

    fn is_ready(&self, waypoint: &WaypointKey, replica: &Arc<str>) -> bool {
        self.ready
            .get(&(waypoint.clone(), replica.clone()))
            .copied()
            .unwrap_or(false)
    }

    fn class_traffic(&self, class: &str) -> Option<TrafficType> {
        let key = ObjectKey {
            kind: Kind::GatewayClass,
            namespace: None,
            name: class.to_owned(),
        };
        match self.store.find(&key)? {
            Resource::GatewayClass(class) => class.meta.mesh.waypoint_for,
            _ => None,
        }
    }

    fn replicas(
        &self,
        waypoint: &WaypointKey,
        gateway: &Gateway,
        deployment: &Deployment,
    ) -> Vec<Workload> {
        let labels = replica_labels(gateway, &deployment.name);
        let replica = |replica: &Replica| {
            let ready = match self.settings.replicas {
                ReplicaSource::Gateway => self.is_ready(waypoint, &replica.name),
                ReplicaSource::Connections | ReplicaSource::Pods => true,
            };
            Workload {
                uid: Uid::pod(
                    &self.settings.cluster_id,
                    &waypoint.namespace,
                    &replica.name,
                ),
                origin: Origin::Replica(waypoint.clone()),
                namespace: waypoint.namespace.as_str().into(),
                name: replica.name.clone(),
                addresses: vec![replica.address],
                hostname: None,
                labels: labels.clone(),
                service_account: deployment.service_account.clone(),
                node: self.settings.node_name.clone(),
                network: "".into(),
                locality: None,
                health: if ready {
                    Health::Healthy
                } else {
                    Health::Unhealthy
                },
                tunnel: Tunnel::NativeHbone,
                host_network: false,
                workload_name: deployment.name.clone(),
                canonical_name: super::pod::canonical_name(&labels, &deployment.name),
                canonical_revision: super::pod::canonical_revision(&labels),
                weight: None,
                named_ports: BTreeMap::new(),
                declared_ports: Vec::new(),
                probe_ports: Vec::new(),
                application_address: None,
                use_waypoint: None,
                enforcement: None,
                explicit_services: BTreeSet::new(),
            }
        };
        deployment.replicas.iter().map(replica).collect()
    }
}

/// Labels of a waypoint's pods. Spec: control-plane.md 8.4.
pub(crate) fn replica_labels(gateway: &Gateway, deployment: &str) -> BTreeMap<String, String> {
    gateway
        .infrastructure()
        .map(|infrastructure| infrastructure.pod_labels(deployment))
        .unwrap_or_default()
}

/// The one address that a Gateway to be deployed asks for.
pub(super) fn requested_address(gateway: &Gateway) -> Option<Vec<IpAddr>> {
    match gateway.spec.addresses.as_slice() {
        [GatewayAddress::Ip(ip)] => Some(vec![*ip]),
        _ => None,
    }
}

/// The Service in front of a deployed waypoint: its listeners' ports, always with HBONE's.
fn waypoint_service(
    key: &WaypointKey,
    gateway: &Gateway,
    deployment: &Deployment,
    created: Created,
) -> Service {
    let mut ports: Vec<ServicePort> = Vec::new();
    let listeners = gateway
        .spec
        .listeners
        .iter()
        .map(|listener| (listener.name.as_str(), listener.port));
    for (name, number) in listeners.chain([("mesh", names::HBONE_PORT)]) {
        if ports.iter().all(|port| port.number != number) {
            ports.push(ServicePort {
                number,
                name: name.to_owned(),
                protocol: Protocol::Sniffed,
                target: TargetPort::Number(number),
            });
        }
    }
    Service {
        key: ServiceKey::new(
            key.namespace.as_str(),
            waymark_api::host::service_host(&deployment.name, &key.namespace),
        ),
        name: deployment.name.clone(),
        registry: Registry::Waypoint(key.clone()),
        created,
        vips: deployment.vip.into_iter().map(Into::into).collect(),
        ports,
        selector: BTreeMap::from([(names::GATEWAY_NAME.to_owned(), key.name.clone())]),
        resolution: Resolution::Static,
        subject_alt_names: Vec::new(),
        publish_not_ready: false,
        node_local: false,
        traffic_distribution: Some(waymark_api::ambient::TrafficDistribution::PreferSameZone),
        ip_families: IpFamilies::Automatic,
        use_waypoint: None,
        enforcement: None,
        ingress_use_waypoint: None,
        managed: true,
    }
}
