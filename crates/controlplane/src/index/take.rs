//! Takes in facts: what each changes at once, and what is to be looked at again because of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waymark_api::ambient::Locality;
use waymark_api::meta::{NamespacedName, ObjectKey};

use super::binding::Binding;
use super::dirty::{Addresses, Dirty};
use super::effects::Aspects;
use super::key::{ServiceKey, Uid, WaypointKey};
use super::members::remove_from;
use super::namespace::Namespace;
use super::routing::{Concerned, RouteSubject};
use super::service::{Registry, Service};
use super::waypoint::{Scope, Waypoint};
use super::workload::Workload;
use super::{Fact, Index, Rank};

impl Index {
    pub(super) fn take(&mut self, fact: Fact, dirty: &mut Dirty) {
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
                dirty
                    .effects
                    .wildcard_rules
                    .extend(concerned.wildcards.iter().cloned());
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
}

fn rank(service: &Service, origin: &ObjectKey) -> Rank {
    let class = match &service.registry {
        Registry::Kubernetes => 0,
        Registry::Waypoint(_) => 1,
        Registry::MeshInternal | Registry::MeshExternal => 2,
    };
    (class, service.created, origin.clone())
}
