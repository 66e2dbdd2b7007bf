//! Finds the waypoints of everything that may have another than before, and keeps who asks for which.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use waymark_api::ambient::UseWaypoint;

use super::binding::{Binding, Subject, Target};
use super::dirty::Dirty;
use super::key::{ServiceKey, Uid, WaypointKey};
use super::namespace::Namespace;
use super::{Dependents, Index};

/// Who names which waypoint.
#[derive(Debug, Default)]
pub(super) struct Asking {
    pub(super) of: HashMap<WaypointKey, Dependents>,
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

impl Index {
    /// Finds the waypoints of everything that may have another than before.
    pub(super) fn rebind(&mut self, dirty: &mut Dirty) {
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
