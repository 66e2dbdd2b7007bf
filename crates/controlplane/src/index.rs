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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use waymark_api::ambient::{Locality, UseWaypoint};
use waymark_api::meta::{NamespacedName, ObjectKey};
use waymark_xds::{Encoded, ResourceMap};

use self::binding::{Binding, Subject, Target, Waypoints};
use self::effects::{Aspects, Effects, WaypointEffect};
use self::key::{ServiceKey, Uid, WaypointKey};
use self::members::{Members, remove_from};
use self::namespace::Namespace;
use self::routing::{Concerned, Route, RouteSubject, Routing, Rule};
use self::service::Service;
use self::waypoint::{Instance, Scope, Waypoint};
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

/// Who names which waypoint.
#[derive(Debug, Default)]
struct Asking {
    of: HashMap<WaypointKey, Dependents>,
    services: HashMap<ServiceKey, WaypointKey>,
    workloads: HashMap<Uid, WaypointKey>,
}

impl Asking {
    fn set_service(&mut self, key: &ServiceKey, waypoint: Option<WaypointKey>) {
        if let Some(old) = self.services.remove(key) {
            edit(&mut self.of, &old, |dependents| {
                dependents.services.remove(key)
            });
        }
        if let Some(new) = waypoint {
            edit(&mut self.of, &new, |dependents| {
                dependents.services.insert(key.clone())
            });
            self.services.insert(key.clone(), new);
        }
    }

    fn set_workload(&mut self, uid: &Uid, waypoint: Option<WaypointKey>) {
        if let Some(old) = self.workloads.remove(uid) {
            edit(&mut self.of, &old, |dependents| {
                dependents.workloads.remove(uid)
            });
        }
        if let Some(new) = waypoint {
            edit(&mut self.of, &new, |dependents| {
                dependents.workloads.insert(uid.clone())
            });
            self.workloads.insert(uid.clone(), new);
        }
    }
}

/// Changes the dependents of a waypoint; those of nobody are not kept.
fn edit(
    map: &mut HashMap<WaypointKey, Dependents>,
    key: &WaypointKey,
    change: impl FnOnce(&mut Dependents) -> bool,
) {
    let dependents = map.entry(key.clone()).or_default();
    change(dependents);
    if dependents.services.is_empty() && dependents.workloads.is_empty() {
        map.remove(key);
    }
}

/// Order of those who declare one service: a Kubernetes Service first, then a waypoint's, then the oldest ServiceEntry.
type Rank = (u8, crate::ipam::Created, ObjectKey);

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    bind_services: BTreeSet<ServiceKey>,
    bind_workloads: BTreeSet<Uid>,
    publish_services: BTreeSet<ServiceKey>,
    publish_workloads: BTreeSet<Uid>,
    /// Services whose members' addresses changed: their waypoint serves these too.
    addresses_of: BTreeSet<ServiceKey>,
    effects: Effects,
}

impl Dirty {
    fn aspect(&mut self, service: &ServiceKey, aspects: Aspects) {
        *self.effects.services.entry(service.clone()).or_default() |= aspects;
    }

    fn waypoint(&mut self, key: &WaypointKey) -> &mut WaypointEffect {
        self.effects.waypoints.entry(key.clone()).or_default()
    }

    /// A workload joined, left or changed within a service.
    fn member(&mut self, service: &ServiceKey, addresses: Addresses) {
        self.aspect(service, Aspects::ENDPOINTS);
        if addresses == Addresses::Changed {
            self.addresses_of.insert(service.clone());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Addresses {
    Changed,
    Same,
}

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

    fn take(&mut self, fact: Fact, dirty: &mut Dirty) {
        match fact {
            Fact::Namespace(name, namespace) => self.take_namespace(&name, namespace, dirty),
            Fact::Node(name, locality) => self.take_node(&name, locality, dirty),
            Fact::Services(origin, services) => self.take_services(origin, services, dirty),
            Fact::Workloads(origin, workloads) => self.take_workloads(origin, workloads, dirty),
            Fact::SliceTargets(slice, targets) => self.take_slice(&slice, targets, dirty),
            Fact::Waypoint(key, waypoint) => self.take_waypoint(&key, waypoint, dirty),
            Fact::Programmed(key, programmed) => self.take_programmed(&key, programmed, dirty),
            Fact::Route(key, route) => {
                let concerned = self.routing.replace_route(&key, route);
                self.concern(concerned, Aspects::ROUTES, dirty);
            }
            Fact::Rule(key, rule) => {
                let concerned = self.routing.replace_rule(&key, rule);
                self.concern(concerned, Aspects::RULE, dirty);
            }
        }
    }

    fn take_namespace(&mut self, name: &Arc<str>, new: Option<Namespace>, dirty: &mut Dirty) {
        let old = self.namespace(name).into_owned();
        let new_or_default = new.clone().unwrap_or_else(|| Namespace::unlabelled(name));
        match new {
            Some(new) => self.namespaces.insert(name.clone(), new),
            None => self.namespaces.remove(name),
        };
        let unread_changed = old.labels != new_or_default.labels;
        let read_changed = Namespace {
            labels: BTreeMap::new(),
            ..old.clone()
        } != Namespace {
            labels: BTreeMap::new(),
            ..new_or_default.clone()
        };
        if read_changed || (unread_changed && self.waypoints.any_by_selector()) {
            self.look_at_namespace(name, dirty);
        }
        if old.traffic_distribution != new_or_default.traffic_distribution {
            let services: Vec<ServiceKey> = self.services_of_namespace(name).cloned().collect();
            services
                .iter()
                .for_each(|key| dirty.aspect(key, Aspects::SHAPE));
        }
    }

    fn take_node(&mut self, name: &Arc<str>, new: Option<Locality>, dirty: &mut Dirty) {
        let old = match new.clone() {
            Some(locality) => self.localities.insert(name.clone(), locality),
            None => self.localities.remove(name),
        };
        if old == new {
            return;
        }
        for uid in self.workloads_by_node.get(name).into_iter().flatten() {
            dirty.publish_workloads.insert(uid.clone());
            for service in self.members.of_workload(uid) {
                dirty.member(service, Addresses::Same);
            }
        }
    }

    fn take_services(&mut self, origin: ObjectKey, services: Vec<Service>, dirty: &mut Dirty) {
        let new: BTreeMap<ServiceKey, Arc<Service>> = services
            .into_iter()
            .map(|service| (service.key.clone(), Arc::new(service)))
            .collect();
        let before = self.services_by_origin.remove(&origin).unwrap_or_default();
        let keys: BTreeSet<ServiceKey> = before.into_iter().chain(new.keys().cloned()).collect();
        for key in &keys {
            let old_winner = self.service(key).cloned();
            let claims = self.claims.entry(key.clone()).or_default();
            claims.retain(|(_, _, holder), _| *holder != origin);
            if let Some(service) = new.get(key) {
                claims.insert(rank(service, &origin), service.clone());
            }
            if claims.is_empty() {
                self.claims.remove(key);
            }
            let new_winner = self.service(key).cloned();
            if old_winner != new_winner {
                self.service_changed(key, old_winner.as_deref(), new_winner.as_deref(), dirty);
            }
        }
        if !new.is_empty() {
            self.services_by_origin
                .insert(origin, new.into_keys().collect());
        }
    }

    fn service_changed(
        &mut self,
        key: &ServiceKey,
        old: Option<&Service>,
        new: Option<&Service>,
        dirty: &mut Dirty,
    ) {
        if new.is_some() {
            self.hosts
                .entry(key.host.clone())
                .or_default()
                .insert(key.clone());
        } else {
            remove_from(&mut self.hosts, &key.host, key);
        }
        // Which of several namespaces answers for the host may have changed.
        dirty
            .publish_services
            .extend(self.services_of_host(&key.host).cloned());
        dirty.publish_services.insert(key.clone());
        dirty.bind_services.insert(key.clone());
        dirty.aspect(
            key,
            if old.is_some() && new.is_some() {
                Aspects::SHAPE
            } else {
                Aspects::ALL
            },
        );

        let moved = self
            .members
            .replace_service(old, new, |uid| self.workloads.get(uid).map(|w| &**w));
        if !moved.is_empty() {
            dirty.member(key, Addresses::Changed);
        }
        dirty.publish_workloads.extend(moved);
        let targets = |service: Option<&Service>| {
            service.map(|s| (s.ports.clone(), s.registry.is_service_entry()))
        };
        if targets(old) != targets(new) {
            dirty.aspect(key, Aspects::ENDPOINTS);
            dirty
                .publish_workloads
                .extend(self.members.of_service(key).cloned());
        }
    }

    fn take_workloads(&mut self, origin: ObjectKey, workloads: Vec<Workload>, dirty: &mut Dirty) {
        let mut new: BTreeMap<Uid, Arc<Workload>> = workloads
            .into_iter()
            .map(|workload| (workload.uid.clone(), Arc::new(workload)))
            .collect();
        let uids: BTreeSet<Uid> = new.keys().cloned().collect();
        let before = self.workloads_by_origin.remove(&origin).unwrap_or_default();
        for uid in before.union(&uids) {
            let new = new.remove(uid);
            let old = match new.clone() {
                Some(new) => self.workloads.insert(uid.clone(), new),
                None => self.workloads.remove(uid),
            };
            if old != new {
                self.workload_changed(uid, old.as_deref(), new.as_deref(), dirty);
            }
        }
        if !uids.is_empty() {
            self.workloads_by_origin.insert(origin, uids);
        }
    }

    fn workload_changed(
        &mut self,
        uid: &Uid,
        old: Option<&Workload>,
        new: Option<&Workload>,
        dirty: &mut Dirty,
    ) {
        self.list_workload(old, new);
        let addresses =
            |workload: Option<&Workload>| workload.map(|w| (w.addresses.clone(), w.tunnel));
        let addresses_changed = if addresses(old) == addresses(new) {
            Addresses::Same
        } else {
            Addresses::Changed
        };
        let account = |workload: Option<&Workload>| workload.map(|w| w.service_account.clone());

        for service in self.members.of_workload(uid) {
            dirty.member(service, addresses_changed);
        }
        let joined_or_left = self.members.replace_workload(old, new, |key| {
            self.claims.get(key)?.values().next().map(|s| &**s)
        });
        for service in &joined_or_left {
            dirty.member(service, Addresses::Changed);
        }
        // Only a waypoint of 2023 for a service account makes a service depend on who its workloads are.
        let namespace = new
            .or(old)
            .map(|workload| workload.namespace.clone())
            .unwrap_or_default();
        if self.waypoints.any_of_account(&namespace) {
            dirty.bind_services.extend(joined_or_left);
            if account(old) != account(new) {
                dirty
                    .bind_services
                    .extend(self.members.of_workload(uid).cloned());
            }
        }
        dirty.bind_workloads.insert(uid.clone());
        dirty.publish_workloads.insert(uid.clone());
        if addresses_changed == Addresses::Changed
            && let Binding::Bound(waypoint) = self.workload_binding(uid).clone()
        {
            dirty.waypoint(&waypoint).attached = true;
        }
    }

    fn list_workload(&mut self, old: Option<&Workload>, new: Option<&Workload>) {
        if let Some(old) = old {
            remove_from(&mut self.workloads_by_namespace, &old.namespace, &old.uid);
            let account = (old.namespace.clone(), old.service_account.clone());
            remove_from(&mut self.workloads_by_account, &account, &old.uid);
            remove_from(&mut self.workloads_by_node, &old.node, &old.uid);
            for address in &old.addresses {
                remove_from(&mut self.workloads_by_address, address, &old.uid);
            }
        }
        if let Some(new) = new {
            self.workloads_by_namespace
                .entry(new.namespace.clone())
                .or_default()
                .insert(new.uid.clone());
            let account = (new.namespace.clone(), new.service_account.clone());
            self.workloads_by_account
                .entry(account)
                .or_default()
                .insert(new.uid.clone());
            self.workloads_by_node
                .entry(new.node.clone())
                .or_default()
                .insert(new.uid.clone());
            for address in &new.addresses {
                self.workloads_by_address
                    .entry(*address)
                    .or_default()
                    .insert(new.uid.clone());
            }
        }
    }

    fn take_slice(
        &mut self,
        slice: &ObjectKey,
        targets: Option<(ServiceKey, BTreeSet<Uid>)>,
        dirty: &mut Dirty,
    ) {
        let moved = self.members.replace_slice(
            slice,
            targets,
            |key| self.claims.get(key)?.values().next().map(|s| &**s),
            |uid| self.workloads.get(uid).map(|w| &**w),
        );
        for (service, uid) in moved {
            dirty.member(&service, Addresses::Changed);
            if self.waypoints.any_of_account(&service.namespace) {
                dirty.bind_services.insert(service);
            }
            dirty.publish_workloads.insert(uid);
        }
    }

    fn take_waypoint(&mut self, key: &WaypointKey, new: Option<Arc<Waypoint>>, dirty: &mut Dirty) {
        let old = self.waypoints.replace(key, new.clone());
        if old == new {
            return;
        }
        dirty.waypoint(key).itself = true;
        for scope in [&old, &new]
            .into_iter()
            .flatten()
            .map(|waypoint| &waypoint.scope)
        {
            match scope {
                Scope::Labelled => {}
                Scope::Namespace => self.look_at_namespace(&key.namespace, dirty),
                Scope::ServiceAccount(account) => {
                    self.look_at_account(&key.namespace, account, dirty)
                }
            }
        }
        self.look_at_dependents(key, dirty);
    }

    fn take_programmed(&mut self, key: &WaypointKey, programmed: bool, dirty: &mut Dirty) {
        let changed = if programmed {
            self.programmed.insert(key.clone())
        } else {
            self.programmed.remove(key)
        };
        if changed {
            self.look_at_dependents(key, dirty);
        }
    }

    /// Everything that names a waypoint, or is bound to it otherwise, is to be bound and published again.
    fn look_at_dependents(&self, key: &WaypointKey, dirty: &mut Dirty) {
        for dependents in [self.asking.of.get(key), self.bound.get(key)]
            .into_iter()
            .flatten()
        {
            dirty
                .bind_services
                .extend(dependents.services.iter().cloned());
            dirty
                .bind_workloads
                .extend(dependents.workloads.iter().cloned());
            dirty
                .publish_services
                .extend(dependents.services.iter().cloned());
            dirty
                .publish_workloads
                .extend(dependents.workloads.iter().cloned());
        }
        dirty.effects.statuses = true;
    }

    fn look_at_namespace(&self, name: &str, dirty: &mut Dirty) {
        for key in self.services_of_namespace(name) {
            dirty.bind_services.insert(key.clone());
            dirty.publish_services.insert(key.clone());
        }
        for uid in self.workloads_by_namespace.get(name).into_iter().flatten() {
            dirty.bind_workloads.insert(uid.clone());
            dirty.publish_workloads.insert(uid.clone());
        }
    }

    fn look_at_account(&self, namespace: &str, account: &Arc<str>, dirty: &mut Dirty) {
        let key = (Arc::from(namespace), account.clone());
        for uid in self.workloads_by_account.get(&key).into_iter().flatten() {
            dirty.bind_workloads.insert(uid.clone());
            dirty
                .bind_services
                .extend(self.members.of_workload(uid).cloned());
        }
    }

    fn services_of_namespace<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ServiceKey> {
        let from = ServiceKey::new(name, "");
        self.claims
            .range(from..)
            .map(|(key, _)| key)
            .take_while(move |key| *key.namespace == *name)
    }

    /// Marks the services that a changed route or rule is about.
    fn concern(&self, concerned: Concerned, aspects: Aspects, dirty: &mut Dirty) {
        for subject in &concerned.exact {
            match subject {
                RouteSubject::Host(host) => {
                    self.services_of_host(host)
                        .for_each(|key| dirty.aspect(key, aspects));
                }
                RouteSubject::Entry(entry) => {
                    for key in self.services_of_entry(entry) {
                        dirty.aspect(key, aspects);
                    }
                }
            }
        }
        // A wildcard is about services of its object's own namespace and about those of waypoints there, or about
        // everything, when it is the root's.
        for (namespace, pattern) in &concerned.wildcards {
            let mut about: BTreeSet<&ServiceKey> = if *namespace == self.mesh.root_namespace {
                self.claims.keys().collect()
            } else {
                self.services_of_namespace(namespace).collect()
            };
            let waypoints = self
                .bound
                .iter()
                .filter(|(waypoint, _)| waypoint.namespace == *namespace);
            about.extend(waypoints.flat_map(|(_, bound)| &bound.services));
            for key in about
                .into_iter()
                .filter(|key| waymark_api::host::host_matches(pattern, &key.host))
            {
                dirty.aspect(key, aspects);
            }
        }
    }

    fn services_of_entry(&self, entry: &NamespacedName) -> impl Iterator<Item = &ServiceKey> {
        let origin = ObjectKey::namespaced(
            waymark_api::meta::Kind::ServiceEntry,
            entry.namespace.as_str(),
            entry.name.as_str(),
        );
        self.services_by_origin.get(&origin).into_iter().flatten()
    }

    /// Finds the waypoints of everything that may have another than before.
    fn rebind(&mut self, dirty: &mut Dirty) {
        for key in std::mem::take(&mut dirty.bind_services) {
            self.rebind_service(&key, dirty);
        }
        for uid in std::mem::take(&mut dirty.bind_workloads) {
            self.rebind_workload(&uid, dirty);
        }
        for service in std::mem::take(&mut dirty.addresses_of) {
            if let Binding::Bound(waypoint) = self.service_binding(&service).clone() {
                dirty.waypoint(&waypoint).attached = true;
            }
        }
    }

    fn rebind_service(&mut self, key: &ServiceKey, dirty: &mut Dirty) {
        let (binding, named) = match self.service(key) {
            None => (Binding::Unbound, None),
            Some(service) if service.managed => (Binding::Unbound, None),
            Some(service) => {
                let accounts: BTreeSet<Arc<str>> = self
                    .members
                    .of_service(key)
                    .filter_map(|uid| self.workloads.get(uid))
                    .map(|workload| workload.service_account.clone())
                    .collect();
                let subject = Subject {
                    target: Target::Service,
                    namespace: &key.namespace,
                    use_waypoint: service.use_waypoint.as_ref(),
                    accounts: &accounts,
                };
                let namespace = self.namespace(&key.namespace);
                (
                    self.waypoints.resolve(subject, &namespace),
                    named(subject, &namespace),
                )
            }
        };
        self.asking.set_service(key, named);
        let old = self
            .service_bindings
            .remove(key)
            .unwrap_or(Binding::Unbound);
        if old != binding {
            dirty.effects.statuses = true;
            dirty.publish_services.insert(key.clone());
            if let Binding::Bound(waypoint) = &old {
                edit(&mut self.bound, waypoint, |bound| {
                    bound.services.remove(key)
                });
                let effect = dirty.waypoint(waypoint);
                effect.attached = true;
                effect.left.insert(key.clone());
            }
            if let Binding::Bound(waypoint) = &binding {
                edit(&mut self.bound, waypoint, |bound| {
                    bound.services.insert(key.clone())
                });
                let effect = dirty.waypoint(waypoint);
                effect.attached = true;
                effect.joined.insert(key.clone());
            }
        }
        if binding != Binding::Unbound {
            self.service_bindings.insert(key.clone(), binding);
        }
    }

    fn rebind_workload(&mut self, uid: &Uid, dirty: &mut Dirty) {
        let (binding, named) = match self.workloads.get(uid) {
            Some(workload) if workload.may_bind() => {
                let accounts = BTreeSet::from([workload.service_account.clone()]);
                let subject = Subject {
                    target: Target::Workload,
                    namespace: &workload.namespace,
                    use_waypoint: workload.use_waypoint.as_ref(),
                    accounts: &accounts,
                };
                let namespace = self.namespace(&workload.namespace);
                (
                    self.waypoints.resolve(subject, &namespace),
                    named(subject, &namespace),
                )
            }
            _ => (Binding::Unbound, None),
        };
        self.asking.set_workload(uid, named);
        let old = self
            .workload_bindings
            .remove(uid)
            .unwrap_or(Binding::Unbound);
        if old != binding {
            dirty.effects.statuses = true;
            dirty.publish_workloads.insert(uid.clone());
            if let Binding::Bound(waypoint) = &old {
                edit(&mut self.bound, waypoint, |bound| {
                    bound.workloads.remove(uid)
                });
                dirty.waypoint(waypoint).attached = true;
            }
            if let Binding::Bound(waypoint) = &binding {
                edit(&mut self.bound, waypoint, |bound| {
                    bound.workloads.insert(uid.clone())
                });
                dirty.waypoint(waypoint).attached = true;
            }
        }
        if binding != Binding::Unbound {
            self.workload_bindings.insert(uid.clone(), binding);
        }
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

fn rank(service: &Service, origin: &ObjectKey) -> Rank {
    let class = match &service.registry {
        service::Registry::Kubernetes => 0,
        service::Registry::Waypoint(_) => 1,
        service::Registry::MeshInternal | service::Registry::MeshExternal => 2,
    };
    (class, service.created, origin.clone())
}

/// The waypoint that a label names, the object's own or its namespace's.
fn named(subject: Subject<'_>, namespace: &Namespace) -> Option<WaypointKey> {
    match subject.use_waypoint.or(namespace.use_waypoint.as_ref())? {
        UseWaypoint::None => None,
        UseWaypoint::Named { namespace, name } => Some(WaypointKey::new(
            namespace.as_deref().unwrap_or(subject.namespace),
            name.as_str(),
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests;
