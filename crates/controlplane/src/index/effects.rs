//! What a change of the index concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::BitOrAssign;
use std::sync::Arc;

use super::key::{ServiceKey, WaypointKey};

/// What came of applying some facts: the only things that anything downstream has to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// WDS resources that are new, different or gone, by name.
    pub addresses: BTreeSet<Arc<str>>,
    /// Services of which something changed that a waypoint is configured with.
    pub services: BTreeMap<ServiceKey, Aspects>,
    /// DestinationRules for wildcard hosts that are new, different or gone: their namespace and host. They hold for
    /// services of that namespace, which are among the services above, and for whatever its waypoints route to.
    pub wildcard_rules: BTreeSet<(String, String)>,
    /// Waypoints of which something changed beside their services.
    pub waypoints: BTreeMap<WaypointKey, WaypointEffect>,
    /// Services and workloads whose binding, or whose waypoint's readiness, changed: what statuses are made from.
    pub statuses: bool,
}

impl Effects {
    /// Whether nothing came of it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What changed of one waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaypointEffect {
    /// The waypoint itself: it is new, different or gone.
    pub itself: bool,
    /// The addresses of workloads that it serves.
    pub attached: bool,
    /// Services that are bound to it now.
    pub joined: BTreeSet<ServiceKey>,
    /// Services that no longer are.
    pub left: BTreeSet<ServiceKey>,
}

/// What changed of one service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aspects {
    /// Its declaration: addresses, ports, protocols.
    pub shape: bool,
    /// Its endpoints.
    pub endpoints: bool,
    /// Its DestinationRule.
    pub rule: bool,
    /// Its routes.
    pub routes: bool,
}

impl Aspects {
    /// Everything.
    pub const ALL: Self = Self {
        shape: true,
        endpoints: true,
        rule: true,
        routes: true,
    };
    /// The declaration.
    pub const SHAPE: Self = Self {
        shape: true,
        endpoints: false,
        rule: false,
        routes: false,
    };
    /// The endpoints.
    pub const ENDPOINTS: Self = Self {
        shape: false,
        endpoints: true,
        rule: false,
        routes: false,
    };
    /// The DestinationRule.
    pub const RULE: Self = Self {
        shape: false,
        endpoints: false,
        rule: true,
        routes: false,
    };
    /// The routes.
    pub const ROUTES: Self = Self {
        shape: false,
        endpoints: false,
        rule: false,
        routes: true,
    };
}

impl BitOrAssign for Aspects {
    fn bitor_assign(&mut self, other: Self) {
        self.shape |= other.shape;
        self.endpoints |= other.endpoints;
        self.rule |= other.rule;
        self.routes |= other.routes;
    }
}
