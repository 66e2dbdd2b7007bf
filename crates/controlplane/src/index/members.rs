//! Which workloads belong to which services.
//!
//! The invariant, after every call: a workload is a member of a service exactly when the service's selector picks it, the
//! workload names the service itself, or, for a service without selector, an EndpointSlice of the service names the workload. Both sides are found through inverted indexes of labels, so that a change
//! costs what it changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use waymark_api::meta::ObjectKey;

use super::key::{ServiceKey, Uid};
use super::service::Service;
use super::workload::Workload;

/// A label of a workload or of a selector, in its namespace.
type LabelKey = (Arc<str>, String, String);

/// The membership of workloads in services.
#[derive(Debug, Default)]
pub struct Members {
    of_service: HashMap<ServiceKey, BTreeSet<Uid>>,
    of_workload: HashMap<Uid, BTreeSet<ServiceKey>>,
    /// Selectable workloads by each of their labels.
    workloads_by_label: HashMap<LabelKey, BTreeSet<Uid>>,
    /// Services by the first label of their selector: a workload without it cannot be theirs.
    services_by_label: HashMap<LabelKey, BTreeSet<ServiceKey>>,
    /// Workloads that name a service themselves.
    named_by: HashMap<ServiceKey, BTreeSet<Uid>>,
    slices: HashMap<ObjectKey, (ServiceKey, BTreeSet<Uid>)>,
    slices_of_service: HashMap<ServiceKey, BTreeSet<ObjectKey>>,
    slices_of_workload: HashMap<Uid, BTreeSet<ObjectKey>>,
}

impl Members {
    /// The members of a service.
    pub fn of_service(&self, service: &ServiceKey) -> impl ExactSizeIterator<Item = &Uid> + Clone {
        static NONE: BTreeSet<Uid> = BTreeSet::new();
        self.of_service.get(service).unwrap_or(&NONE).iter()
    }

    /// The services of a workload.
    pub fn of_workload(
        &self,
        workload: &Uid,
    ) -> impl ExactSizeIterator<Item = &ServiceKey> + Clone {
        static NONE: BTreeSet<ServiceKey> = BTreeSet::new();
        self.of_workload.get(workload).unwrap_or(&NONE).iter()
    }

    /// Puts `new` in the place of `old`, two versions of one workload; returns the services it joined or left.
    pub fn replace_workload<'a>(
        &mut self,
        old: Option<&Workload>,
        new: Option<&Workload>,
        service: impl Fn(&ServiceKey) -> Option<&'a Service>,
    ) -> Vec<ServiceKey> {
        let Some(uid) = new.or(old).map(|workload| workload.uid.clone()) else {
            return Vec::new();
        };
        if let Some(old) = old {
            self.unlist_workload(old);
        }
        let mut wanted = BTreeSet::new();
        if let Some(new) = new {
            self.list_workload(new);
            wanted = self
                .candidate_services(new)
                .filter(|key| service(key).is_some_and(|s| s.selects(new)))
                .collect();
            wanted.extend(
                new.explicit_services
                    .iter()
                    .filter(|key| service(key).is_some())
                    .cloned(),
            );
            let by_slice = self
                .slices_of_workload
                .get(&uid)
                .into_iter()
                .flatten()
                .map(|slice| &self.slices[slice].0);
            wanted.extend(
                by_slice
                    .filter(|key| service(key).is_some_and(takes_slices))
                    .cloned(),
            );
        }
        let before = self.of_workload.remove(&uid).unwrap_or_default();
        let changed: Vec<ServiceKey> = before.symmetric_difference(&wanted).cloned().collect();
        for key in &changed {
            if wanted.contains(key) {
                self.of_service
                    .entry(key.clone())
                    .or_default()
                    .insert(uid.clone());
            } else {
                remove_from(&mut self.of_service, key, &uid);
            }
        }
        if !wanted.is_empty() {
            self.of_workload.insert(uid, wanted);
        }
        changed
    }

    /// Puts `new` in the place of `old`, two versions of one service; returns the workloads that joined or left.
    pub fn replace_service<'a>(
        &mut self,
        old: Option<&Service>,
        new: Option<&Service>,
        workload: impl Fn(&Uid) -> Option<&'a Workload>,
    ) -> Vec<Uid> {
        let Some(key) = new.or(old).map(|service| service.key.clone()) else {
            return Vec::new();
        };
        if let Some(label) = old.and_then(first_label) {
            remove_from(&mut self.services_by_label, &label, &key);
        }
        let mut wanted = BTreeSet::new();
        if let Some(new) = new {
            if let Some(label) = first_label(new) {
                self.services_by_label
                    .entry(label)
                    .or_default()
                    .insert(key.clone());
            }
            wanted = self
                .candidate_workloads(new)
                .filter(|uid| workload(uid).is_some_and(|w| new.selects(w)))
                .collect();
            wanted.extend(self.named_by.get(&key).into_iter().flatten().cloned());
            if takes_slices(new) {
                let slices = self.slices_of_service.get(&key).into_iter().flatten();
                let targets = slices.flat_map(|slice| &self.slices[slice].1);
                wanted.extend(targets.filter(|uid| workload(uid).is_some()).cloned());
            }
        }
        let before = self.of_service.remove(&key).unwrap_or_default();
        let changed: Vec<Uid> = before.symmetric_difference(&wanted).cloned().collect();
        for uid in &changed {
            if wanted.contains(uid) {
                self.of_workload
                    .entry(uid.clone())
                    .or_default()
                    .insert(key.clone());
            } else {
                remove_from(&mut self.of_workload, uid, &key);
            }
        }
        if !wanted.is_empty() {
            self.of_service.insert(key, wanted);
        }
        changed
    }

    /// Puts `new` in the place of what an EndpointSlice said before: a service and the pods that it puts behind it.
    /// Returns who joined or left what.
    pub fn replace_slice<'a>(
        &mut self,
        slice: &ObjectKey,
        new: Option<(ServiceKey, BTreeSet<Uid>)>,
        service: impl Fn(&ServiceKey) -> Option<&'a Service>,
        workload: impl Fn(&Uid) -> Option<&'a Workload>,
    ) -> Vec<(ServiceKey, Uid)> {
        let mut affected = BTreeSet::new();
        if let Some((key, uids)) = self.slices.remove(slice) {
            remove_from(&mut self.slices_of_service, &key, slice);
            for uid in &uids {
                remove_from(&mut self.slices_of_workload, uid, slice);
            }
            affected.extend(uids);
        }
        if let Some((key, uids)) = new {
            self.slices_of_service
                .entry(key.clone())
                .or_default()
                .insert(slice.clone());
            for uid in &uids {
                self.slices_of_workload
                    .entry(uid.clone())
                    .or_default()
                    .insert(slice.clone());
            }
            affected.extend(uids.iter().cloned());
            self.slices.insert(slice.clone(), (key, uids));
        }
        let mut moved = Vec::new();
        for uid in affected {
            let current = workload(&uid);
            let services = self.replace_workload(current, current, &service);
            moved.extend(services.into_iter().map(|key| (key, uid.clone())));
        }
        moved
    }

    fn list_workload(&mut self, workload: &Workload) {
        for label in labels(workload) {
            self.workloads_by_label
                .entry(label)
                .or_default()
                .insert(workload.uid.clone());
        }
        for service in &workload.explicit_services {
            self.named_by
                .entry(service.clone())
                .or_default()
                .insert(workload.uid.clone());
        }
    }

    fn unlist_workload(&mut self, workload: &Workload) {
        for label in labels(workload) {
            remove_from(&mut self.workloads_by_label, &label, &workload.uid);
        }
        for service in &workload.explicit_services {
            remove_from(&mut self.named_by, service, &workload.uid);
        }
    }

    fn candidate_services(&self, workload: &Workload) -> impl Iterator<Item = ServiceKey> {
        labels(workload)
            .filter_map(|label| self.services_by_label.get(&label))
            .flatten()
            .cloned()
    }

    /// The workloads that have the rarest of the selector's labels.
    fn candidate_workloads(&self, service: &Service) -> impl Iterator<Item = Uid> {
        service
            .selector
            .iter()
            .map(|(name, value)| {
                self.workloads_by_label.get(&(
                    service.key.namespace.clone(),
                    name.clone(),
                    value.clone(),
                ))
            })
            .min_by_key(|found| found.map_or(0, BTreeSet::len))
            .flatten()
            .into_iter()
            .flatten()
            .cloned()
    }
}

/// With a selector, pods are found by it, and what slices say of pods adds nothing.
fn takes_slices(service: &Service) -> bool {
    service.selector.is_empty()
}

fn labels(workload: &Workload) -> impl Iterator<Item = LabelKey> {
    workload
        .labels
        .iter()
        .filter(|_| workload.is_selectable())
        .map(|(name, value)| (workload.namespace.clone(), name.clone(), value.clone()))
}

fn first_label(service: &Service) -> Option<LabelKey> {
    let (name, value) = service.selector.first_key_value()?;
    Some((service.key.namespace.clone(), name.clone(), value.clone()))
}

/// Removes a value from a map of sets, and the set with its last value.
pub(super) fn remove_from<K, V>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V)
where
    K: std::hash::Hash + Eq,
    V: Ord,
{
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
