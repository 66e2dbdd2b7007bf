//! What is to be looked at again while facts are taken in.

use std::collections::BTreeSet;

use super::effects::{Aspects, Effects, WaypointEffect};
use super::key::{ServiceKey, Uid, WaypointKey};

/// What is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) bind_services: BTreeSet<ServiceKey>,
    pub(super) bind_workloads: BTreeSet<Uid>,
    pub(super) publish_services: BTreeSet<ServiceKey>,
    pub(super) publish_workloads: BTreeSet<Uid>,
    /// Services whose members' addresses changed: their waypoint serves these too.
    pub(super) addresses_of: BTreeSet<ServiceKey>,
    pub(super) effects: Effects,
}

impl Dirty {
    pub(super) fn aspect(&mut self, service: &ServiceKey, aspects: Aspects) {
        *self.effects.services.entry(service.clone()).or_default() |= aspects;
    }

    pub(super) fn waypoint(&mut self, key: &WaypointKey) -> &mut WaypointEffect {
        self.effects.waypoints.entry(key.clone()).or_default()
    }

    /// A workload joined, left or changed within a service.
    pub(super) fn member(&mut self, service: &ServiceKey, addresses: Addresses) {
        self.aspect(service, Aspects::ENDPOINTS);
        if addresses == Addresses::Changed {
            self.addresses_of.insert(service.clone());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    Changed,
    Same,
}
