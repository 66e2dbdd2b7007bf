//! From manifests to facts: what of an object the index needs, with addresses and birthdays filled in.
//!
//! This is where objects that only mean something together are put together: a pod and its namespace's mode, a Gateway and
//! its class, a waypoint and the state of its replicas.

pub(crate) mod gateway;
mod pod;
mod service;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::{ObjectMeta, Resource, Timestamp};

use crate::index::Fact;
use crate::index::key::WaypointKey;
use crate::index::namespace::Namespace;
use crate::index::routing::{Route, RouteObject, Rule};
use crate::ipam::{AddressConflict, Created, Exhausted, Ipam, Owner, Pool};
use crate::store::{Store, namespaced_name};

/// What every object is read with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Cluster that workloads are in.
    pub cluster_id: String,
    /// The node of pods that name none, and of waypoints that are deployed here.
    pub node_name: Arc<str>,
    /// Which processes a waypoint has.
    pub replicas: ReplicaSource,
    /// Who made the objects.
    pub platform: Platform,
}

/// Who made the objects, and so what is to be filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// A person: addresses and birthdays that are left out are allocated here, and pods are taken to be captured.
    Directory,
    /// An API server and its controllers: what has no address is not there yet, captured is who is said to be, and a waypoint
    /// is what its Gateway's status, its Service and its pods say.
    Kubernetes,
}

/// Which processes a waypoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaSource {
    /// As many as its Gateway asks for, at addresses that are allocated here: they are deployed.
    Gateway,
    /// Those that connect: somebody else runs them.
    Connections,
    /// Its pods.
    Pods,
}

/// An object that is valid by itself but cannot be had beside the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It wants an address that another has.
    #[error("{field}: {conflict}")]
    Address {
        /// The field that names the address.
        field: &'static str,
        /// Whose it is.
        conflict: AddressConflict,
    },
    /// There is no address left for it.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

impl Refused {
    /// The field that is to blame.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::Address { field, .. } => Some(field),
            Self::Exhausted(_) => None,
        }
    }

    /// What is wrong, without the field.
    pub fn message(&self) -> String {
        match self {
            Self::Address { conflict, .. } => conflict.to_string(),
            Self::Exhausted(exhausted) => exhausted.to_string(),
        }
    }
}

/// The objects in force and what they come to.
#[derive(Debug)]
pub struct Facts {
    settings: Settings,
    store: Store,
    ipam: Ipam,
    /// What replicas of waypoints were reported to be.
    ready: HashMap<(WaypointKey, Arc<str>), bool>,
    /// Replicas of waypoints that are connected, where nobody deploys them.
    connected: BTreeMap<WaypointKey, BTreeMap<Arc<str>, IpAddr>>,
    /// Time of first sight of whatever is seen now.
    now_seconds: i64,
}

impl Facts {
    /// No objects yet.
    pub fn new(settings: Settings, ipam: Ipam) -> Self {
        Self {
            settings,
            store: Store::default(),
            ipam,
            ready: HashMap::new(),
            connected: BTreeMap::new(),
            now_seconds: 0,
        }
    }

    /// What every object is read with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The objects in force.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The address book.
    pub fn ipam(&mut self) -> &mut Ipam {
        &mut self.ipam
    }

    /// Sets the time that objects without a timestamp are given.
    pub fn set_now(&mut self, seconds_since_epoch: i64) {
        self.now_seconds = seconds_since_epoch;
    }

    /// Takes in a new or different object.
    ///
    /// # Errors
    /// When it cannot be had beside the others; then nothing changes and its former self stays in force.
    pub fn upsert(&mut self, object: Resource) -> Result<Vec<Fact>, Refused> {
        let key = object.key();
        let object = self.dated(&key, object);
        let old = self.store.find(&key).cloned();
        if old.as_ref() == Some(&object) {
            return Ok(Vec::new());
        }
        let facts = self
            .claim(&object)
            .and_then(|()| self.facts_of(&key, Some(&object)));
        let mut facts = match facts {
            Ok(facts) => facts,
            Err(refused) => {
                self.release(&object, None);
                if let Some(old) = &old {
                    // Nobody else can have taken what it had a moment ago.
                    let _ = self
                        .claim(old)
                        .and_then(|()| self.facts_of(&key, Some(old)));
                }
                return Err(refused);
            }
        };
        if let Some(old) = &old {
            self.release(old, Some(&object));
        }
        self.store.insert(object.clone());
        facts.extend(self.dependents(&key, old.as_ref(), Some(&object)));
        Ok(facts)
    }

    /// Takes out an object.
    pub fn remove(&mut self, key: &ObjectKey) -> Vec<Fact> {
        let Some(object) = self.store.remove(key) else {
            return Vec::new();
        };
        self.release(&object, None);
        let mut facts = self.facts_of(key, None).unwrap_or_default();
        facts.extend(self.dependents(key, Some(&object), None));
        facts
    }

    /// Takes in whether a replica of a waypoint is ready.
    pub fn replica(&mut self, waypoint: &WaypointKey, name: &str, ready: bool) -> Vec<Fact> {
        let before = self.ready.insert((waypoint.clone(), name.into()), ready);
        if before == Some(ready) {
            return Vec::new();
        }
        let facts = self.gateway_again(waypoint);
        if facts.is_empty() {
            self.ready.remove(&(waypoint.clone(), name.into()));
        }
        facts
    }

    /// Takes a replica to be ready before its Gateway has been read.
    pub fn remember(&mut self, waypoint: &WaypointKey, name: &Arc<str>) {
        self.ready.insert((waypoint.clone(), name.clone()), true);
    }

    /// Takes in which replicas of waypoints are connected, where nobody deploys them.
    pub fn connected(
        &mut self,
        replicas: BTreeMap<WaypointKey, BTreeMap<Arc<str>, IpAddr>>,
    ) -> Vec<Fact> {
        let before = std::mem::replace(&mut self.connected, replicas);
        let waypoints: BTreeSet<WaypointKey> = before
            .keys()
            .chain(self.connected.keys())
            .cloned()
            .collect();
        waypoints
            .iter()
            .filter(|waypoint| before.get(*waypoint) != self.connected.get(*waypoint))
            .cloned()
            .collect::<Vec<_>>()
            .iter()
            .flat_map(|waypoint| self.gateway_again(waypoint))
            .collect()
    }

    /// The facts of a Gateway whose replicas changed; none when there is no such Gateway.
    fn gateway_again(&mut self, waypoint: &WaypointKey) -> Vec<Fact> {
        let key = ObjectKey::namespaced(
            Kind::Gateway,
            waypoint.namespace.as_str(),
            waypoint.name.as_str(),
        );
        let Some(object) = self.store.find(&key).cloned() else {
            return Vec::new();
        };
        // Everything it needs is allocated already.
        self.facts_of(&key, Some(&object)).unwrap_or_default()
    }

    /// What replicas of waypoints were last reported to be, in no order.
    pub fn replicas_reported(&self) -> impl Iterator<Item = (WaypointKey, Arc<str>, bool)> {
        self.ready
            .iter()
            .map(|((waypoint, name), ready)| (waypoint.clone(), name.clone(), *ready))
    }

    /// Facts of other objects that a changed object has a part in.
    fn dependents(
        &mut self,
        key: &ObjectKey,
        old: Option<&Resource>,
        new: Option<&Resource>,
    ) -> Vec<Fact> {
        let mode =
            |object: Option<&Resource>| object.and_then(|object| object.meta().mesh.dataplane_mode);
        let traffic =
            |object: Option<&Resource>| object.and_then(|object| object.meta().mesh.waypoint_for);
        let others: Vec<(ObjectKey, Resource)> = match key.kind {
            Kind::Namespace if mode(old) != mode(new) => {
                clone_all(self.store.of_namespace(Kind::Pod, &key.name))
            }
            Kind::GatewayClass if traffic(old) != traffic(new) => {
                let of_class = |object: &Resource| match object {
                    Resource::Gateway(gateway) => gateway.spec.class_name == key.name,
                    _ => false,
                };
                clone_all(
                    self.store
                        .of_kind(Kind::Gateway)
                        .filter(|(_, object)| of_class(object)),
                )
            }
            _ => Vec::new(),
        };
        others
            .iter()
            .flat_map(|(key, object)| self.facts_of(key, Some(object)).unwrap_or_default())
            .collect()
    }

    /// Everything that one object comes to; with `None`, that there is no such object.
    fn facts_of(
        &mut self,
        key: &ObjectKey,
        object: Option<&Resource>,
    ) -> Result<Vec<Fact>, Refused> {
        Ok(match (key.kind, object) {
            (Kind::Namespace, object) => {
                let namespace = object.map(|object| namespace(object.meta()));
                vec![Fact::Namespace(key.name.as_str().into(), namespace)]
            }
            (Kind::Node, object) => {
                let locality = match object {
                    Some(Resource::Node(node)) => Some(node.locality()),
                    _ => None,
                };
                vec![Fact::Node(key.name.as_str().into(), locality)]
            }
            // Accounts are named by those who use them; that there is a manifest changes nothing.
            (Kind::ServiceAccount | Kind::GatewayClass, _) => Vec::new(),
            (Kind::Service, object) => {
                let services = match object {
                    Some(Resource::Service(service)) => self.kubernetes_service(service)?,
                    _ => Vec::new(),
                };
                vec![Fact::Services(key.clone(), services)]
            }
            (Kind::ServiceEntry, object) => match object {
                Some(Resource::ServiceEntry(entry)) => {
                    let services = self.service_entry(entry)?;
                    let endpoints = self.inline_endpoints(entry);
                    vec![
                        Fact::Services(key.clone(), services),
                        Fact::Workloads(key.clone(), endpoints),
                    ]
                }
                _ => vec![
                    Fact::Services(key.clone(), Vec::new()),
                    Fact::Workloads(key.clone(), Vec::new()),
                ],
            },
            (Kind::Pod, object) => {
                let workloads = match object {
                    Some(Resource::Pod(pod)) => self.pod(pod)?.into_iter().collect(),
                    _ => Vec::new(),
                };
                vec![Fact::Workloads(key.clone(), workloads)]
            }
            (Kind::WorkloadEntry, object) => {
                let workloads = match object {
                    Some(Resource::WorkloadEntry(entry)) => vec![self.workload_entry(entry)],
                    _ => Vec::new(),
                };
                vec![Fact::Workloads(key.clone(), workloads)]
            }
            (Kind::EndpointSlice, object) => match object {
                Some(Resource::EndpointSlice(slice)) => self.endpoint_slice(key, slice),
                _ => vec![
                    Fact::Workloads(key.clone(), Vec::new()),
                    Fact::SliceTargets(key.clone(), None),
                ],
            },
            (Kind::Gateway, object) => match object {
                Some(Resource::Gateway(gateway)) => self.gateway(key, gateway)?,
                _ => self.no_gateway(key),
            },
            (Kind::HttpRoute | Kind::VirtualService, object) => {
                let created = object.map(|object| self.created(key, object.meta()));
                let object = match object {
                    Some(Resource::HttpRoute(route)) => Some(RouteObject::HttpRoute(route.clone())),
                    Some(Resource::VirtualService(service)) => {
                        Some(RouteObject::VirtualService(service.clone()))
                    }
                    _ => None,
                };
                let route = object
                    .zip(created)
                    .map(|(object, created)| Route { object, created });
                vec![Fact::Route(key.clone(), route)]
            }
            (Kind::DestinationRule, object) => {
                let rule = match object {
                    Some(Resource::DestinationRule(object)) => Some(Rule {
                        created: self.created(key, &object.meta),
                        object: object.clone(),
                    }),
                    _ => None,
                };
                vec![Fact::Rule(key.clone(), rule)]
            }
        })
    }

    /// Takes the addresses that an object's manifest names, and gives back those that it no longer does.
    fn claim(&mut self, object: &Resource) -> Result<(), Refused> {
        if self.settings.platform == Platform::Kubernetes {
            // A cluster gives addresses itself, and for a moment the same one to two: the old pod's end is told later.
            return Ok(());
        }
        let Some((owner, field, addresses)) = named_addresses(object) else {
            return Ok(());
        };
        self.ipam
            .claim(&owner, &addresses)
            .map_err(|conflict| Refused::Address { field, conflict })
    }

    /// Gives back what `old` had and its successor does not.
    fn release(&mut self, old: &Resource, new: Option<&Resource>) {
        let kept = new.map(owners).unwrap_or_default();
        for owner in owners(old).iter().filter(|owner| !kept.contains(owner)) {
            self.ipam.release(owner);
        }
    }

    /// Routes and rules take precedence by age, which the translation reads from their metadata.
    fn dated(&mut self, key: &ObjectKey, object: Resource) -> Resource {
        if object.meta().creation_timestamp.is_some() {
            return object;
        }
        let created = Timestamp::from_unix_seconds(self.created(key, object.meta()).seconds);
        match object {
            Resource::VirtualService(mut object) => {
                Arc::make_mut(&mut object).meta.creation_timestamp = created;
                Resource::VirtualService(object)
            }
            Resource::HttpRoute(mut object) => {
                Arc::make_mut(&mut object).meta.creation_timestamp = created;
                Resource::HttpRoute(object)
            }
            Resource::DestinationRule(mut object) => {
                Arc::make_mut(&mut object).meta.creation_timestamp = created;
                Resource::DestinationRule(object)
            }
            other => other,
        }
    }

    fn created(&mut self, key: &ObjectKey, meta: &ObjectMeta) -> Created {
        let timestamp = meta.creation_timestamp.map(Timestamp::unix_seconds);
        self.ipam
            .created(&key.to_string(), timestamp, self.now_seconds)
    }

    fn allocate(&mut self, owner: &Owner, pool: Pool) -> Result<IpAddr, Exhausted> {
        self.ipam.assign(owner, pool).map(IpAddr::V4)
    }
}

/// Whether an object's manifest names addresses for it.
pub fn names_addresses(object: &Resource) -> bool {
    named_addresses(object).is_some_and(|(_, _, addresses)| !addresses.is_empty())
}

/// Everything of an object that has an address.
fn owners(object: &Resource) -> Vec<Owner> {
    let (namespace, name) = (
        object.meta().namespace.as_str(),
        object.meta().name.as_str(),
    );
    match object {
        Resource::Service(_) => vec![Owner::service(namespace, name)],
        Resource::Pod(_) => vec![Owner::pod(namespace, name)],
        Resource::ServiceEntry(entry) => entry
            .hosts
            .iter()
            .map(|host| Owner::service_entry(namespace, name, host.as_str()))
            .collect(),
        Resource::Gateway(gateway) => (0..gateway.replicas)
            .map(|ordinal| Owner::replica(namespace, name, ordinal))
            .chain([Owner::waypoint(namespace, name)])
            .collect(),
        _ => Vec::new(),
    }
}

/// The addresses that a manifest names for its object, and the field that does.
fn named_addresses(object: &Resource) -> Option<(Owner, &'static str, Vec<IpAddr>)> {
    let (namespace, name) = (
        object.meta().namespace.as_str(),
        object.meta().name.as_str(),
    );
    Some(match object {
        Resource::Service(service) => (
            Owner::service(namespace, name),
            "spec.clusterIP",
            service.spec.cluster_ips.addresses().to_vec(),
        ),
        Resource::Pod(pod) => {
            // Pods on the host's network share its address, and what is over has none any more.
            let own = !pod.spec.host_network && !pod.is_terminal();
            let addresses = if own {
                pod.status.pod_ips.clone()
            } else {
                Vec::new()
            };
            (Owner::pod(namespace, name), "status.podIP", addresses)
        }
        Resource::Gateway(gateway) if gateway.is_waypoint() => {
            let addresses = gateway::requested_address(gateway).unwrap_or_default();
            (
                Owner::waypoint(namespace, name),
                "spec.addresses[0].value",
                addresses,
            )
        }
        _ => return None,
    })
}

fn namespace(meta: &ObjectMeta) -> Namespace {
    let mut labels = meta.labels.clone();
    labels.insert("kubernetes.io/metadata.name".to_owned(), meta.name.clone());
    Namespace {
        labels,
        use_waypoint: meta.mesh.use_waypoint.clone(),
        enforcement: meta.mesh.enforcement,
        traffic_distribution: meta.mesh.traffic_distribution,
        ingress_use_waypoint: ingress_use_waypoint(meta),
    }
}

fn ingress_use_waypoint(meta: &ObjectMeta) -> Option<bool> {
    meta.label("istio.io/ingress-use-waypoint")
        .map(|value| value == "true")
}

fn clone_all<'a>(
    objects: impl Iterator<Item = (&'a ObjectKey, &'a Resource)>,
) -> Vec<(ObjectKey, Resource)> {
    objects
        .map(|(key, object)| (key.clone(), object.clone()))
        .collect()
}

/// Namespace and name of a Gateway, which is what its waypoint is called.
fn waypoint_key(key: &ObjectKey) -> WaypointKey {
    namespaced_name(key)
}
