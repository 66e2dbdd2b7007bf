//! Who is in the mesh and who is bound to whom, kept up to date fact by fact.
//!
//! Facts go in ([`Index::apply`]), and what they concern comes out ([`Effects`]): WDS resources, services of waypoints,
//! waypoints. The cost of a fact is that of what it concerns, never that of the mesh: every question that a change raises
//! ("which services pick this pod", "who asked for this waypoint") has a reverse index that answers it. In whatever order
//! facts arrive, the index they lead to is the same.

pub mod binding;
pub mod effects;
pub mod key;
pub mod members;
pub mod namespace;
pub mod routing;
pub mod service;
pub mod waypoint;
pub mod workload;

mod dirty;
mod rebind;
mod take;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::ambient::Locality;
use waymark_api::meta::ObjectKey;
use waymark_xds::{Encoded, ResourceMap};

use self::binding::{Binding, Waypoints};
use self::dirty::Dirty;
use self::effects::Effects;
use self::key::{ServiceKey, Uid, WaypointKey};
use self::members::Members;
use self::namespace::Namespace;
use self::rebind::Asking;
use self::routing::{Route, Routing, Rule};
use self::service::Service;
use self::waypoint::{Instance, Waypoint};
use self::workload::{Tunnel, Workload};
use crate::wds;

/// What holds for the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// The cluster that everything is in.
    pub cluster_id: String,
    /// The namespace whose DestinationRules hold for all.
    pub root_namespace: String,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            root_namespace: waymark_api::names::SYSTEM_NAMESPACE.to_owned(),
        }
    }
}

/// One thing that the index is told. An object that is gone is told as an empty list or as `None`.
#[derive(Clone, Debug)]
pub enum Fact {
    /// A namespace's labels.
    Namespace(Arc<str>, Option<Namespace>),
    /// Where a node is.
    Node(Arc<str>, Option<Locality>),
    /// The services that an object declares.
    Services(ObjectKey, Vec<Service>),
    /// The workloads that an object declares.
    Workloads(ObjectKey, Vec<Workload>),
    /// The pods that an EndpointSlice puts behind a service without selector.
    SliceTargets(ObjectKey, Option<(ServiceKey, BTreeSet<Uid>)>),
    /// A waypoint.
    Waypoint(WaypointKey, Option<Arc<Waypoint>>),
    /// Whether a waypoint has ever been ready.
    Programmed(WaypointKey, bool),
    /// A VirtualService or an HTTPRoute.
    Route(ObjectKey, Option<Route>),
    /// A DestinationRule.
    Rule(ObjectKey, Option<Rule>),
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    mesh: Mesh,
    namespaces: HashMap<Arc<str>, Namespace>,
    localities: HashMap<Arc<str>, Locality>,
    services_by_origin: HashMap<ObjectKey, BTreeSet<ServiceKey>>,
    /// Every declaration of a service, the one that counts first.
    claims: BTreeMap<ServiceKey, BTreeMap<Rank, Arc<Service>>>,
    hosts: HashMap<Arc<str>, BTreeSet<ServiceKey>>,
    workloads: HashMap<Uid, Arc<Workload>>,
    workloads_by_origin: HashMap<ObjectKey, BTreeSet<Uid>>,
    workloads_by_namespace: HashMap<Arc<str>, BTreeSet<Uid>>,
    workloads_by_account: HashMap<(Arc<str>, Arc<str>), BTreeSet<Uid>>,
    workloads_by_node: HashMap<Arc<str>, BTreeSet<Uid>>,
    workloads_by_address: HashMap<IpAddr, BTreeSet<Uid>>,
    members: Members,
    waypoints: Waypoints,
    programmed: BTreeSet<WaypointKey>,
    service_bindings: HashMap<ServiceKey, Binding>,
    workload_bindings: HashMap<Uid, Binding>,
    /// Who names a waypoint, be it there or not.
    asking: Asking,
    /// Who a waypoint is configured for.
    bound: HashMap<WaypointKey, Dependents>,
    routing: Routing,
    addresses: ResourceMap,
    workload_resources: ResourceMap,
}

/// Services and workloads of a waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dependents {
    /// Its services.
    pub services: BTreeSet<ServiceKey>,
    /// Its workloads.
    pub workloads: BTreeSet<Uid>,
}

/// Order of those who declare one service: a Kubernetes Service first, then a waypoint's, then the oldest ServiceEntry.
type Rank = (u8, crate::ipam::Created, ObjectKey);

impl Index {
    /// An index of nothing.
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            ..Self::default()
        }
    }

    /// Takes in facts and says what they concern.
    pub fn apply(&mut self, facts: impl IntoIterator<Item = Fact>) -> Effects {
        let mut dirty = Dirty::default();
        for fact in facts {
            self.take(fact, &mut dirty);
        }
        self.rebind(&mut dirty);
        self.publish(&mut dirty);
        dirty.effects
    }

    /// What holds for the whole mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// A service.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.claims
            .get(key)?
            .first_key_value()
            .map(|(_, service)| service)
    }

    /// Every service, by key.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.claims
            .values()
            .filter_map(|claims| claims.first_key_value())
            .map(|(_, service)| service)
    }

    /// How many services there are.
    pub fn service_count(&self) -> usize {
        self.claims.len()
    }

    /// The services with this host name, of whatever namespace.
    pub fn services_of_host(&self, host: &str) -> impl Iterator<Item = &ServiceKey> {
        self.hosts.get(host).into_iter().flatten()
    }

    /// The service that answers for a host where no namespace is preferred: a Service, else the oldest ServiceEntry.
    pub fn canonical(&self, host: &str) -> Option<&Arc<Service>> {
        self.services_of_host(host)
            .filter_map(|key| self.claims.get(key)?.first_key_value())
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, service)| service)
    }

    /// A workload.
    pub fn workload(&self, uid: &Uid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// Every workload, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workloads of a service account.
    pub fn workloads_of_account(
        &self,
        namespace: &str,
        account: &str,
    ) -> impl Iterator<Item = &Arc<Workload>> {
        let uids = self
            .workloads_by_account
            .get(&(Arc::from(namespace), Arc::from(account)));
        uids.into_iter()
            .flatten()
            .filter_map(|uid| self.workloads.get(uid))
    }

    /// The workload with an address; one of them, where they share it.
    pub fn workload_of_address(&self, address: IpAddr) -> Option<&Workload> {
        let uid = self.workloads_by_address.get(&address)?.first()?;
        self.workloads.get(uid).map(|workload| &**workload)
    }

    /// Who belongs to what.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The waypoints.
    pub fn waypoints(&self) -> &Waypoints {
        &self.waypoints
    }

    /// Whether a waypoint has an address that traffic can be sent to.
    pub fn is_programmed(&self, key: &WaypointKey) -> bool {
        match self.waypoints.find(key).map(|waypoint| &waypoint.instance) {
            Some(Instance::External(_)) => true,
            Some(Instance::Deployed(_)) => self.programmed.contains(key),
            None => false,
        }
    }

    /// The routes and rules.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// The binding of a service.
    pub fn service_binding(&self, key: &ServiceKey) -> &Binding {
        self.service_bindings.get(key).unwrap_or(&Binding::Unbound)
    }

    /// The waypoint that a service is bound to, be it ready or not.
    pub fn waypoint_of(&self, key: &ServiceKey) -> Option<&WaypointKey> {
        match self.service_binding(key) {
            Binding::Bound(waypoint) => Some(waypoint),
            Binding::Unbound | Binding::Refused(..) => None,
        }
    }

    /// The binding of a workload.
    pub fn workload_binding(&self, uid: &Uid) -> &Binding {
        self.workload_bindings.get(uid).unwrap_or(&Binding::Unbound)
    }

    /// What a waypoint is configured for.
    pub fn bound_to(&self, key: &WaypointKey) -> &Dependents {
        static NOBODY: Dependents = Dependents {
            services: BTreeSet::new(),
            workloads: BTreeSet::new(),
        };
        self.bound.get(key).unwrap_or(&NOBODY)
    }

    /// The labels of a namespace, be there a manifest or not.
    pub fn namespace(&self, name: &str) -> std::borrow::Cow<'_, Namespace> {
        match self.namespaces.get(name) {
            Some(namespace) => std::borrow::Cow::Borrowed(namespace),
            None => std::borrow::Cow::Owned(Namespace::unlabelled(name)),
        }
    }

    /// Where a workload is: what it says itself, else its node.
    pub fn locality<'a>(&'a self, workload: &'a Workload) -> Option<&'a Locality> {
        workload
            .locality
            .as_ref()
            .or_else(|| self.localities.get(&workload.node))
    }

    /// Every WDS resource, as `istio.workload.Address`.
    pub fn addresses(&self) -> &ResourceMap {
        &self.addresses
    }

    /// Every workload, as `istio.workload.Workload`.
    pub fn workload_resources(&self) -> &ResourceMap {
        &self.workload_resources
    }

    /// Addresses of workloads bound to a waypoint, and of captured pods of services bound to it.
    pub fn addresses_served_by(&self, key: &WaypointKey) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
        let bound = self.bound_to(key);
        let addresses = |uid: &Uid| {
            self.workloads
                .get(uid)
                .map(|w| w.addresses.clone())
                .unwrap_or_default()
        };
        let workloads = bound.workloads.iter().flat_map(addresses).collect();
        let pods = bound
            .services
            .iter()
            .flat_map(|service| self.members.of_service(service))
            .filter(|uid| {
                self.workloads
                    .get(*uid)
                    .is_some_and(|workload| workload.tunnel == Tunnel::Hbone)
            })
            .flat_map(addresses)
            .collect();
        (workloads, pods)
    }

    /// Writes anew the WDS resources that may have changed, and notes those that did.
    fn publish(&mut self, dirty: &mut Dirty) {
        for key in std::mem::take(&mut dirty.publish_services) {
            let resource = self
                .service(&key)
                .map(|service| wds::service(self, service));
            self.replace_published(&key.to_string(), resource, dirty);
        }
        for uid in std::mem::take(&mut dirty.publish_workloads) {
            let resource = self
                .workloads
                .get(&uid)
                .map(|workload| wds::workload(self, workload));
            self.replace_published(uid.as_str(), resource, dirty);
        }
    }

    fn replace_published(&mut self, name: &str, new: Option<wds::Published>, dirty: &mut Dirty) {
        let version = |resource: &Arc<Encoded>| resource.version().to_owned();
        if self.addresses.get(name).map(version) == new.as_ref().map(|new| version(&new.address)) {
            return;
        }
        match new {
            Some(new) => {
                self.addresses.insert(new.address);
                if let Some(workload) = new.workload {
                    self.workload_resources.insert(workload);
                }
            }
            None => {
                self.addresses.remove(name);
                self.workload_resources.remove(name);
            }
        }
        dirty.effects.addresses.insert(name.into());
    }
}

#[cfg(test)]
pub(crate) mod tests;
