//! What each waypoint is to have, kept up to date: only what a change concerns is translated again.
//!
//! A waypoint's services are looked up once for all of its proxies; proxies that are to get the same bytes share one view.
//! A resource whose bytes come out as they were keeps its place in the view, so that nobody is sent it again.

mod served;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use waymark_api::host::host_matches;
use waymark_xds::ResourceSet;

use self::served::Served;
use self::view::View;
use crate::index::Index;
use crate::index::effects::{Aspects, Effects};
use crate::index::key::WaypointKey;
use crate::translate::input::{MeshSettings, Proxy};

/// What every connected waypoint is to have.
#[derive(Debug)]
pub struct Generator {
    settings: MeshSettings,
    waypoints: HashMap<WaypointKey, Waypoint>,
    /// Waypoints whose routes name a host.
    naming: HashMap<String, BTreeSet<WaypointKey>>,
    work: Work,
}

/// How often each stage of the translation ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Services looked up.
    pub inputs: u64,
    /// Fixed listeners and clusters.
    pub base: u64,
    /// `main_internal`.
    pub main_internal: u64,
    /// Clusters of a service.
    pub clusters: u64,
    /// Endpoints of a service.
    pub endpoints: u64,
    /// Routes of a service.
    pub routes: u64,
}

/// A waypoint that has views.
#[derive(Debug, Default)]
struct Waypoint {
    served: Served,
    views: HashMap<Arc<ProxyKey>, View>,
}

/// What of one waypoint is to be translated again.
#[derive(Debug, Default)]
struct Stale {
    /// By host of the service, be it the waypoint's or one that its routes name.
    hosts: BTreeMap<String, Aspects>,
    /// Which services there are, or which addresses beside them.
    main_internal: bool,
    base: bool,
}

impl Stale {
    fn mark(&mut self, host: &str, aspects: Aspects) {
        *self.hosts.entry(host.to_owned()).or_default() |= aspects;
    }
}

/// A proxy by everything that its configuration depends on.
pub struct ProxyKey {
    waypoint: WaypointKey,
    proxy: Proxy,
    /// All of the proxy, as text: what it is compared by.
    text: String,
}

impl ProxyKey {
    /// The key of a proxy.
    pub fn new(proxy: Proxy) -> Self {
        let waypoint = WaypointKey::new(proxy.namespace.as_str(), proxy.gateway.as_str());
        Self {
            waypoint,
            text: format!("{proxy:?}"),
            proxy,
        }
    }

    /// The waypoint that it is part of.
    pub fn waypoint(&self) -> &WaypointKey {
        &self.waypoint
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }
}

impl PartialEq for ProxyKey {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ProxyKey {}

impl Hash for ProxyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for ProxyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.waypoint, self.proxy.flavour)
    }
}

impl Generator {
    /// Nobody to write for yet.
    pub fn new(settings: MeshSettings) -> Self {
        Self {
            settings,
            waypoints: HashMap::new(),
            naming: HashMap::new(),
            work: Work::default(),
        }
    }

    /// How often each stage ran.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Adds a user of a proxy's view, which is made if there is none.
    pub fn connect(&mut self, index: &Index, proxy: &Arc<ProxyKey>) -> ResourceSet {
        let key = proxy.waypoint();
        if !self.waypoints.contains_key(key) {
            let mut waypoint = Waypoint::default();
            let mut stale = Stale {
                main_internal: true,
                ..Stale::default()
            };
            for service in &index.bound_to(key).services {
                stale.mark(&service.host, Aspects::ALL);
            }
            self.work.inputs += waypoint.served.refresh(index, key, &mut stale);
            note_names(&mut self.naming, key, &waypoint.served, &stale);
            self.waypoints.insert(key.clone(), waypoint);
        }
        let waypoint = self.waypoints.entry(key.clone()).or_default();
        let view = waypoint.views.entry(proxy.clone()).or_insert_with(|| {
            let mut view = View::new(index, proxy.proxy());
            view.update(
                &self.settings,
                proxy.proxy(),
                &waypoint.served,
                &waypoint.served.everything(),
                &mut self.work,
            );
            view
        });
        view.users += 1;
        view.set().clone()
    }

    /// Takes away a user of a view; one without users is forgotten.
    pub fn disconnect(&mut self, proxy: &Arc<ProxyKey>) {
        let Some(waypoint) = self.waypoints.get_mut(proxy.waypoint()) else {
            return;
        };
        if let Some(view) = waypoint.views.get_mut(proxy) {
            view.users -= 1;
            if view.users == 0 {
                waypoint.views.remove(proxy);
            }
        }
        if waypoint.views.is_empty() {
            self.waypoints.remove(proxy.waypoint());
            self.naming.retain(|_, waypoints| {
                waypoints.remove(proxy.waypoint());
                !waypoints.is_empty()
            });
        }
    }

    /// Brings every view up to date; returns those that changed.
    pub fn apply(&mut self, index: &Index, effects: &Effects) -> Vec<(Arc<ProxyKey>, ResourceSet)> {
        let mut changed = Vec::new();
        for (key, mut stale) in self.stale(index, effects) {
            let Some(waypoint) = self.waypoints.get_mut(&key) else {
                continue;
            };
            self.work.inputs += waypoint.served.refresh(index, &key, &mut stale);
            note_names(&mut self.naming, &key, &waypoint.served, &stale);
            for (proxy, view) in &mut waypoint.views {
                if view.update(
                    &self.settings,
                    proxy.proxy(),
                    &waypoint.served,
                    &stale,
                    &mut self.work,
                ) {
                    changed.push(proxy.clone());
                }
            }
        }
        if !effects.addresses.is_empty() {
            for (proxy, view) in self
                .waypoints
                .values_mut()
                .flat_map(|waypoint| &mut waypoint.views)
            {
                if view.update_workloads(index, proxy.proxy()) && !changed.contains(proxy) {
                    changed.push(proxy.clone());
                }
            }
        }
        changed
            .into_iter()
            .filter_map(|proxy| Some((proxy.clone(), self.resources(&proxy)?.clone())))
            .collect()
    }

    /// What a proxy is to have now.
    pub fn resources(&self, proxy: &Arc<ProxyKey>) -> Option<&ResourceSet> {
        Some(
            self.waypoints
                .get(proxy.waypoint())?
                .views
                .get(proxy)?
                .set(),
        )
    }

    /// What a proxy of the same waypoint and flavour is to have now, the very same one if there is one.
    pub fn resources_like(&self, proxy: &Proxy) -> Option<&ResourceSet> {
        let key = Arc::new(ProxyKey::new(proxy.clone()));
        let views = &self.waypoints.get(key.waypoint())?.views;
        let alike = || {
            let alike = views
                .iter()
                .filter(|(other, _)| other.proxy.flavour == proxy.flavour);
            alike
                .min_by(|(a, _), (b, _)| a.text.cmp(&b.text))
                .map(|(_, view)| view)
        };
        views.get(&key).or_else(alike).map(View::set)
    }

    /// What effects mean for waypoints that somebody is written for.
    fn stale(&self, index: &Index, effects: &Effects) -> BTreeMap<WaypointKey, Stale> {
        let mut stale: BTreeMap<WaypointKey, Stale> = BTreeMap::new();
        let connected = |key: &&WaypointKey| self.waypoints.contains_key(*key);
        for (key, effect) in effects.waypoints.iter().filter(|(key, _)| connected(key)) {
            let entry = stale.entry(key.clone()).or_default();
            entry.base |= effect.itself;
            entry.main_internal |= effect.attached;
            for service in effect.joined.union(&effect.left) {
                entry.main_internal = true;
                entry.mark(&service.host, Aspects::ALL);
            }
        }
        for (service, aspects) in &effects.services {
            let owner = index.waypoint_of(service).filter(connected);
            let naming = self.naming.get(&*service.host).into_iter().flatten();
            for waypoint in owner.into_iter().chain(naming) {
                stale
                    .entry(waypoint.clone())
                    .or_default()
                    .mark(&service.host, *aspects);
            }
        }
        self.mark_wildcard_rules(index, effects, &mut stale);
        stale
    }

    /// A waypoint's namespace, and the root's, have rules for hosts of other namespaces that its routes name.
    fn mark_wildcard_rules(
        &self,
        index: &Index,
        effects: &Effects,
        stale: &mut BTreeMap<WaypointKey, Stale>,
    ) {
        for (namespace, pattern) in &effects.wildcard_rules {
            let in_force = |key: &WaypointKey| {
                key.namespace == *namespace || index.mesh().root_namespace == *namespace
            };
            for (key, waypoint) in self.waypoints.iter().filter(|(key, _)| in_force(key)) {
                for host in waypoint
                    .served
                    .foreign_hosts()
                    .filter(|host| host_matches(pattern, host))
                {
                    stale
                        .entry(key.clone())
                        .or_default()
                        .mark(host, Aspects::RULE);
                }
            }
        }
    }
}

/// Keeps the reverse of "whose routes name which hosts" for what was looked up again.
fn note_names(
    naming: &mut HashMap<String, BTreeSet<WaypointKey>>,
    key: &WaypointKey,
    served: &Served,
    stale: &Stale,
) {
    for host in served.touched_names(stale) {
        if served.names(host) {
            naming
                .entry(host.to_owned())
                .or_default()
                .insert(key.clone());
        } else if let Some(waypoints) = naming.get_mut(host) {
            waypoints.remove(key);
            if waypoints.is_empty() {
                naming.remove(host);
            }
        }
    }
}

#[cfg(test)]
mod tests;
