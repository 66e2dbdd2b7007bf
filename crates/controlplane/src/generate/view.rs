//! What proxies that are written for alike are to have.

use std::collections::{BTreeMap, BTreeSet};

use waymark_proto::type_url;
use waymark_xds::{Encoded, ResourceMap, ResourceSet};

use super::served::Served;
use super::{Stale, Work};
use crate::index::Index;
use crate::translate::input::{Context, Flavour, MeshSettings, Proxy};
use crate::translate::{self, Named};

/// A set of resources and where each came from.
#[derive(Debug)]
pub(super) struct View {
    set: ResourceSet,
    /// Names of what came of each host, by type.
    produced: BTreeMap<(String, &'static str), BTreeSet<String>>,
    /// How many connections it is for.
    pub(super) users: usize,
}

impl View {
    pub(super) fn new(index: &Index, proxy: &Proxy) -> Self {
        let mut set = ResourceSet::new("");
        for type_url in [
            type_url::CLUSTER,
            type_url::ENDPOINT,
            type_url::LISTENER,
            type_url::ROUTE,
        ] {
            set.set(type_url, ResourceMap::new());
        }
        if proxy.flavour == Flavour::IstioProxy {
            set.set(type_url::WORKLOAD, index.workload_resources().clone());
        }
        Self {
            set,
            produced: BTreeMap::new(),
            users: 0,
        }
    }

    pub(super) fn set(&self) -> &ResourceSet {
        &self.set
    }

    /// Hands on the mesh's workloads, which only istio-proxy asks for. Returns whether that made a difference.
    pub(super) fn update_workloads(&mut self, index: &Index, proxy: &Proxy) -> bool {
        let has = self.set.get(type_url::WORKLOAD);
        let wanted = proxy.flavour == Flavour::IstioProxy
            && has.is_none_or(|has| !has.is_same(index.workload_resources()));
        if wanted {
            self.set
                .set(type_url::WORKLOAD, index.workload_resources().clone());
        }
        wanted
    }

    /// Translates again what is stale. Returns whether any byte is different.
    pub(super) fn update(
        &mut self,
        settings: &MeshSettings,
        proxy: &Proxy,
        served: &Served,
        stale: &Stale,
        work: &mut Work,
    ) -> bool {
        let ctx = Context {
            proxy,
            mesh: settings,
            destinations: served,
        };
        let mut changed = false;
        let mut main_internal = stale.main_internal;
        if stale.base {
            work.base += 1;
            changed |= self.replace_base(translate::base(ctx));
        }
        for (host, aspects) in &stale.hosts {
            let own = served.own(host);
            let foreign = served.foreign(host).filter(|_| own.is_none());
            let known = u64::from(own.is_some() || foreign.is_some());
            if aspects.shape || aspects.rule {
                main_internal |= own.is_some();
                work.clusters += known;
                let clusters = own
                    .map(|service| translate::clusters(ctx, service))
                    .or_else(|| foreign.map(|service| translate::outbound_clusters(ctx, service)));
                changed |= self.replace(host, type_url::CLUSTER, clusters);
            }
            if aspects.shape || aspects.rule || aspects.endpoints {
                work.endpoints += known;
                let endpoints = own
                    .map(|service| translate::endpoints(ctx, service))
                    .or_else(|| foreign.map(|service| translate::outbound_endpoints(ctx, service)));
                changed |= self.replace(host, type_url::ENDPOINT, endpoints);
            }
            if aspects.shape || aspects.rule || aspects.routes {
                // istio-proxy's chains hold their routes themselves.
                main_internal |= own.is_some() && proxy.flavour == Flavour::IstioProxy;
                work.routes += u64::from(own.is_some());
                let routes = own.map(|service| translate::routes(ctx, service));
                changed |= self.replace(host, type_url::ROUTE, routes);
            }
        }
        if main_internal {
            work.main_internal += 1;
            let listener = translate::main_internal(ctx, &served.all_own(), served.attached());
            changed |= self.put(type_url::LISTENER, listener);
        }
        changed
    }

    fn replace_base(&mut self, resources: Vec<Named>) -> bool {
        let mut by_type: BTreeMap<&'static str, Vec<Named>> = [
            (type_url::CLUSTER, Vec::new()),
            (type_url::LISTENER, Vec::new()),
        ]
        .into();
        for resource in resources {
            let known = by_type
                .iter_mut()
                .find(|(type_url, _)| **type_url == resource.any.type_url);
            if let Some((_, of_type)) = known {
                of_type.push(resource);
            }
        }
        let mut changed = false;
        for (type_url, resources) in by_type {
            changed |= self.replace("", type_url, Some(resources));
        }
        changed
    }

    /// Puts what came of a host in the place of what came of it before.
    fn replace(&mut self, host: &str, type_url: &'static str, new: Option<Vec<Named>>) -> bool {
        let key = (host.to_owned(), type_url);
        let before = self.produced.remove(&key).unwrap_or_default();
        let mut names = BTreeSet::new();
        let mut changed = false;
        for resource in new.unwrap_or_default() {
            names.insert(resource.name.clone());
            changed |= self.put(type_url, resource);
        }
        for gone in before.difference(&names) {
            changed |= self.edit(type_url, |map| map.remove(gone).is_some());
        }
        if !names.is_empty() {
            self.produced.insert(key, names);
        }
        changed
    }

    fn put(&mut self, type_url: &'static str, resource: Named) -> bool {
        let resource = Encoded::new(resource.name, type_url, resource.any.value);
        let has = self
            .set
            .get(type_url)
            .and_then(|map| map.get(resource.name()));
        if has.is_some_and(|has| has.version() == resource.version()) {
            return false;
        }
        self.edit(type_url, |map| {
            map.insert(resource);
            true
        })
    }

    fn edit(
        &mut self,
        type_url: &'static str,
        change: impl FnOnce(&mut ResourceMap) -> bool,
    ) -> bool {
        let mut map = self.set.get(type_url).cloned().unwrap_or_default();
        let changed = change(&mut map);
        if changed {
            self.set.set(type_url, map);
        }
        changed
    }
}
