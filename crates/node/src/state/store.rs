//! The index over workloads, services and policies, changed one resource at a time.
//!
//! Spec: hbone-and-l4.md 6.1, 15.4.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use waymark_identity::SpiffeId;

use super::model::{NetworkAddr, NetworkMode, NetworkRange, Service, ServiceKey, Uid, Workload};
use crate::policy::{Policy, PolicyKey, PolicyScope};

/// Where this node proxy is.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Own node; `None`: every workload counts as local.
    pub node: Option<Arc<str>>,
    /// Own network; the default one has the empty name.
    pub network: Arc<str>,
}

/// One resource that came or went.
#[derive(Clone, Debug)]
pub enum Change {
    /// A workload, new or changed.
    Workload(Arc<Workload>),
    /// A service, new or changed.
    Service(Arc<Service>),
    /// The removal of a workload (uid) or service (`namespace/hostname`).
    RemoveAddress(Arc<str>),
    /// A policy, new or changed.
    Policy(Arc<Policy>),
    /// The removal of a policy.
    RemovePolicy(PolicyKey),
}

/// What a batch of changes concerned.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Workloads that came, changed or went.
    pub workloads: BTreeSet<Uid>,
    /// Services that came, changed or went.
    pub services: BTreeSet<ServiceKey>,
    /// Whether what is admitted may have changed: a policy, or the list of policies of a workload.
    pub policies: bool,
}

/// All that is known, indexed. `Clone` copies the index and shares the entries.
#[derive(Clone, Debug, Default)]
pub struct Store {
    placement: Placement,
    pub(super) workloads: HashMap<Uid, Arc<Workload>>,
    pub(super) by_address: HashMap<NetworkAddr, Vec<Arc<Workload>>>,
    /// Workloads that are only a host name.
    pub(super) by_hostname: HashMap<ServiceKey, Vec<Arc<Workload>>>,
    /// Local workloads that the node proxy needs a certificate for.
    local: HashMap<SpiffeId, BTreeSet<Uid>>,
    pub(super) services: HashMap<ServiceKey, Arc<Service>>,
    pub(super) by_vip: HashMap<NetworkAddr, Vec<Arc<Service>>>,
    pub(super) by_host: HashMap<Arc<str>, Vec<Arc<Service>>>,
    pub(super) ranges: HashMap<Arc<str>, Vec<(NetworkRange, Arc<Service>)>>,
    /// Endpoints by the service that they name, whether that service is known yet or not ("staged"), healthy or not.
    members: HashMap<ServiceKey, MemberSet>,
    policies: HashMap<PolicyKey, Arc<Policy>>,
    /// Global policies under the empty name, namespace-wide ones under their namespace.
    wide_policies: HashMap<Arc<str>, Vec<Arc<Policy>>>,
}

impl Store {
    /// An empty store.
    pub fn new(placement: Placement) -> Self {
        Self {
            placement,
            ..Self::default()
        }
    }

    /// Applies one change. Applying the same changes in the same order to equal stores gives equal stores.
    pub fn apply(&mut self, change: Change, touched: &mut Touched) {
        match change {
            Change::Workload(workload) => self.insert_workload(workload, touched),
            Change::Service(service) => self.insert_service(service, touched),
            Change::RemoveAddress(name) => self.remove_address(&name, touched),
            Change::Policy(policy) => {
                self.remove_policy(&policy.key);
                self.insert_policy(policy);
                touched.policies = true;
            }
            Change::RemovePolicy(key) => touched.policies |= self.remove_policy(&key),
        }
    }

    /// Own network.
    pub fn network(&self) -> &Arc<str> {
        &self.placement.network
    }

    /// An address on the own network.
    pub fn here(&self, ip: std::net::IpAddr) -> NetworkAddr {
        NetworkAddr::new(self.placement.network.clone(), ip)
    }

    /// Whether a workload runs on this node.
    pub fn is_local(&self, workload: &Workload) -> bool {
        self.placement
            .node
            .as_ref()
            .is_none_or(|node| *node == workload.node)
    }

    /// A workload by uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// A service by key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Everything that names `service` as one of its services, healthy or not.
    pub fn members(&self, service: &ServiceKey) -> Members<'_> {
        Members {
            of: self.members.get(service),
        }
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values()
    }

    /// Services that have endpoints but are not known yet, with those endpoints.
    pub fn staged(&self) -> impl Iterator<Item = (&ServiceKey, Members<'_>)> {
        self.members
            .iter()
            .filter(|(key, _)| !self.services.contains_key(*key))
            .map(|(key, members)| (key, Members { of: Some(members) }))
    }

    /// Identities whose certificates this node needs.
    pub fn local_identities(&self) -> impl Iterator<Item = &SpiffeId> {
        self.local.keys()
    }

    /// Whether a local workload has this identity.
    pub fn is_local_identity(&self, identity: &SpiffeId) -> bool {
        self.local.contains_key(identity)
    }

    /// A policy by key.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Policy>> {
        self.policies.get(key)
    }

    /// Whether a policy of that key is known.
    pub fn has_policy(&self, key: &str) -> bool {
        self.policies.contains_key(key)
    }

    /// A policy that applies to the workloads which name it.
    pub fn selector_policy(&self, key: &str) -> Option<&Arc<Policy>> {
        self.policies
            .get(key)
            .filter(|policy| policy.scope == PolicyScope::WorkloadSelector)
    }

    /// Policies of the whole mesh (`None`) or of a namespace.
    pub fn wide_policies(&self, namespace: Option<&str>) -> &[Arc<Policy>] {
        self.wide_policies
            .get(namespace.unwrap_or_default())
            .map_or(&[], Vec::as_slice)
    }

    fn insert_workload(&mut self, workload: Arc<Workload>, touched: &mut Touched) {
        touched.workloads.insert(workload.uid.clone());
        let before = self.workloads.get(&workload.uid).cloned();
        touched.policies |= before.as_ref().is_some_and(|before| {
            before.authorization_policies != workload.authorization_policies
                || before.namespace != workload.namespace
        });
        if let Some(before) = before {
            self.unlink_workload(&before, Some(&workload));
        }
        if workload.network_mode == NetworkMode::Standard {
            for ip in &workload.addresses {
                let here = NetworkAddr::new(workload.network.clone(), *ip);
                let sharers = self.by_address.entry(here).or_default();
                sharers.push(workload.clone());
                // Two workloads on one address: a pod before others, then one that speaks HBONE; uids break ties, so that
                // the order of arrival decides nothing.
                sharers.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.uid.cmp(&b.uid)));
            }
        }
        if !workload.hostname.is_empty() {
            let key = ServiceKey::new(workload.namespace.clone(), workload.hostname.clone());
            self.by_hostname
                .entry(key)
                .or_default()
                .push(workload.clone());
        }
        if workload.is_captured() && self.is_local(&workload) {
            self.local
                .entry(workload.identity.clone())
                .or_default()
                .insert(workload.uid.clone());
        }
        for key in workload.services.keys() {
            self.members
                .entry(key.clone())
                .or_default()
                .insert(workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload);
    }

    /// Takes a workload out of every index; memberships that `next` keeps stay where they are, to be overwritten in place.
    fn unlink_workload(&mut self, workload: &Workload, next: Option<&Workload>) {
        for ip in &workload.addresses {
            remove_where(
                &mut self.by_address,
                &NetworkAddr::new(workload.network.clone(), *ip),
                |w| w.uid == workload.uid,
            );
        }
        if !workload.hostname.is_empty() {
            let key = ServiceKey::new(workload.namespace.clone(), workload.hostname.clone());
            remove_where(&mut self.by_hostname, &key, |w| w.uid == workload.uid);
        }
        if let Some(uids) = self.local.get_mut(&workload.identity) {
            uids.remove(&workload.uid);
            if uids.is_empty() {
                self.local.remove(&workload.identity);
            }
        }
        for key in workload.services.keys() {
            if next.is_some_and(|next| next.services.contains_key(key)) {
                continue;
            }
            if let Some(members) = self.members.get_mut(key) {
                members.remove(&workload.uid);
                if members.by_uid.is_empty() {
                    self.members.remove(key);
                }
            }
        }
    }

    fn insert_service(&mut self, service: Arc<Service>, touched: &mut Touched) {
        touched.services.insert(service.key.clone());
        if let Some(before) = self.services.get(&service.key).cloned() {
            self.unlink_service(&before);
        }
        for vip in &service.vips {
            insert_sorted(self.by_vip.entry(vip.clone()).or_default(), service.clone());
        }
        for range in &service.cidr_vips {
            self.ranges
                .entry(range.network.clone())
                .or_default()
                .push((range.clone(), service.clone()));
        }
        insert_sorted(
            self.by_host
                .entry(service.key.hostname.clone())
                .or_default(),
            service.clone(),
        );
        self.services.insert(service.key.clone(), service);
    }

    fn unlink_service(&mut self, service: &Service) {
        for vip in &service.vips {
            remove_where(&mut self.by_vip, vip, |s| s.key == service.key);
        }
        for range in &service.cidr_vips {
            remove_where(&mut self.ranges, &range.network, |(_, s)| {
                s.key == service.key
            });
        }
        remove_where(&mut self.by_host, &service.key.hostname, |s| {
            s.key == service.key
        });
    }

    /// Removals name a uid or `namespace/hostname`, and do not say which.
    fn remove_address(&mut self, name: &str, touched: &mut Touched) {
        if let Some(workload) = self.workloads.remove(name) {
            touched.workloads.insert(workload.uid.clone());
            self.unlink_workload(&workload, None);
        } else if let Some(key) = ServiceKey::parse(name)
            && let Some(service) = self.services.remove(&key)
        {
            touched.services.insert(key);
            self.unlink_service(&service);
        }
    }

    fn insert_policy(&mut self, policy: Arc<Policy>) {
        let wide = match policy.scope {
            PolicyScope::Global => Some(Arc::from("")),
            PolicyScope::Namespace => Some(policy.key.namespace().into()),
            PolicyScope::WorkloadSelector => None,
        };
        if let Some(scope) = wide {
            let list = self.wide_policies.entry(scope).or_default();
            list.push(policy.clone());
            list.sort_by(|a, b| a.key.cmp(&b.key));
        }
        self.policies.insert(policy.key.clone(), policy);
    }

    fn remove_policy(&mut self, key: &PolicyKey) -> bool {
        let Some(policy) = self.policies.remove(key) else {
            return false;
        };
        match policy.scope {
            PolicyScope::Global => remove_where(&mut self.wide_policies, "", |p| p.key == *key),
            PolicyScope::Namespace => {
                remove_where(&mut self.wide_policies, policy.key.namespace(), |p| {
                    p.key == *key
                })
            }
            PolicyScope::WorkloadSelector => {}
        }
        true
    }
}

/// Endpoints by uid, in positions, so that one can be drawn at random.
#[derive(Clone, Debug, Default)]
struct MemberSet {
    by_uid: IndexMap<Uid, Arc<Workload>>,
    /// How many have a capacity other than 1.
    uneven: usize,
}

impl MemberSet {
    fn insert(&mut self, workload: Arc<Workload>) {
        self.uneven += usize::from(workload.capacity != 1);
        if let Some(before) = self.by_uid.insert(workload.uid.clone(), workload) {
            self.uneven -= usize::from(before.capacity != 1);
        }
    }

    fn remove(&mut self, uid: &Uid) {
        if let Some(before) = self.by_uid.swap_remove(uid) {
            self.uneven -= usize::from(before.capacity != 1);
        }
    }
}

/// The endpoints of a service.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    of: Option<&'a MemberSet>,
}

impl<'a> Members<'a> {
    /// Each endpoint, in no order that means anything.
    pub fn iter(self) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.of.into_iter().flat_map(|set| set.by_uid.values())
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.of.map_or(0, |set| set.by_uid.len())
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether all have capacity 1.
    pub fn is_even(self) -> bool {
        self.of.is_none_or(|set| set.uneven == 0)
    }

    /// The endpoint at a position below [`Members::len`].
    pub fn at(self, position: usize) -> Option<&'a Arc<Workload>> {
        self.of?
            .by_uid
            .get_index(position)
            .map(|(_, workload)| workload)
    }

    /// The endpoint of that uid.
    pub fn get(self, uid: &Uid) -> Option<&'a Arc<Workload>> {
        self.of?.by_uid.get(uid)
    }
}

fn rank(workload: &Workload) -> (bool, bool) {
    (
        !workload.uid.is_pod(),
        workload.protocol != super::model::Protocol::Hbone,
    )
}

fn insert_sorted(list: &mut Vec<Arc<Service>>, service: Arc<Service>) {
    let at = list.partition_point(|other| other.key < service.key);
    list.insert(at, service);
}

fn remove_where<K, Q, V>(map: &mut HashMap<K, Vec<V>>, key: &Q, is_it: impl Fn(&V) -> bool)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    if let Some(list) = map.get_mut(key) {
        list.retain(|entry| !is_it(entry));
        if list.is_empty() {
            map.remove(key);
        }
    }
}
