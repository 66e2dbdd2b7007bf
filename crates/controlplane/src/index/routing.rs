//! VirtualServices, HTTPRoutes and DestinationRules, by the hosts that they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use waymark_api::gateway::{HttpRoute, ParentKind};
use waymark_api::host::{host_matches, service_host};
use waymark_api::istio::{DestinationRule, ExportTo, VirtualService};
use waymark_api::meta::{NamespacedName, ObjectKey};

use super::key::ServiceKey;
use crate::ipam::Created;

/// An object that says how requests to hosts are routed.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteObject {
    /// A VirtualService.
    VirtualService(Arc<VirtualService>),
    /// An HTTPRoute.
    HttpRoute(Arc<HttpRoute>),
}

impl RouteObject {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        match self {
            Self::VirtualService(object) => &object.meta.namespace,
            Self::HttpRoute(object) => &object.meta.namespace,
        }
    }

    /// The hosts that it routes requests to, in full. A ServiceEntry that is a parent counts by its name.
    fn subjects(&self) -> Vec<RouteSubject> {
        match self {
            Self::VirtualService(object) if object.is_for_mesh() => {
                object.full_hosts().map(RouteSubject::Host).collect()
            }
            Self::VirtualService(_) => Vec::new(),
            Self::HttpRoute(object) => {
                let subject = |parent: &waymark_api::gateway::ParentRef| {
                    let namespace = parent
                        .namespace
                        .as_deref()
                        .unwrap_or(&object.meta.namespace);
                    match parent.kind {
                        ParentKind::Service => {
                            Some(RouteSubject::Host(service_host(&parent.name, namespace)))
                        }
                        ParentKind::ServiceEntry => Some(RouteSubject::Entry(NamespacedName::new(
                            namespace,
                            parent.name.as_str(),
                        ))),
                        ParentKind::Gateway => None,
                    }
                };
                object.parent_refs.iter().filter_map(subject).collect()
            }
        }
    }

    /// Whether namespace `from` sees it.
    fn is_visible_to(&self, from: &str) -> bool {
        match self {
            Self::VirtualService(object) => object.export_to.visible(&object.meta.namespace, from),
            // Producer or consumer is decided by the namespaces alone.
            Self::HttpRoute(_) => true,
        }
    }
}

/// What a route is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteSubject {
    /// A host, possibly a wildcard.
    Host(String),
    /// The hosts of a ServiceEntry.
    Entry(NamespacedName),
}

/// One route object with its age.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The object.
    pub object: RouteObject,
    /// Its age.
    pub created: Created,
}

/// One DestinationRule with its age.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The object.
    pub object: Arc<DestinationRule>,
    /// Its age.
    pub created: Created,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Routing {
    routes: HashMap<ObjectKey, Route>,
    rules: HashMap<ObjectKey, Rule>,
    routes_of: HashMap<RouteSubject, BTreeSet<ObjectKey>>,
    /// Routes with wildcard hosts, by namespace.
    wildcard_routes: BTreeMap<String, BTreeSet<ObjectKey>>,
    rules_of: HashMap<String, BTreeSet<ObjectKey>>,
    wildcard_rules: BTreeMap<String, BTreeSet<ObjectKey>>,
}

/// What a change of a route or rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concerned {
    /// Exact hosts, and entries.
    pub exact: BTreeSet<RouteSubject>,
    /// Wildcards, with the namespace of their object.
    pub wildcards: BTreeSet<(String, String)>,
}

impl Routing {
    /// Puts a route object in place of its former self; says what hosts either is about.
    pub fn replace_route(&mut self, key: &ObjectKey, new: Option<Route>) -> Concerned {
        let mut concerned = Concerned::default();
        let old = match new {
            Some(new) => self.routes.insert(key.clone(), new),
            None => self.routes.remove(key),
        };
        for (route, listed) in [(old.as_ref(), false), (self.routes.get(key), true)] {
            let Some(route) = route else { continue };
            let namespace = route.object.namespace().to_owned();
            for subject in route.object.subjects() {
                match subject {
                    RouteSubject::Host(host) if host.starts_with('*') => {
                        list(&mut self.wildcard_routes, namespace.clone(), key, listed);
                        concerned.wildcards.insert((namespace.clone(), host));
                    }
                    subject => {
                        list_hashed(&mut self.routes_of, subject.clone(), key, listed);
                        concerned.exact.insert(subject);
                    }
                }
            }
        }
        concerned
    }

    /// Puts a DestinationRule in place of its former self; says what hosts either is about.
    pub fn replace_rule(&mut self, key: &ObjectKey, new: Option<Rule>) -> Concerned {
        let mut concerned = Concerned::default();
        let old = match new {
            Some(new) => self.rules.insert(key.clone(), new),
            None => self.rules.remove(key),
        };
        for (rule, listed) in [(old.as_ref(), false), (self.rules.get(key), true)] {
            let Some(rule) = rule else { continue };
            let namespace = rule.object.meta.namespace.clone();
            let host = rule.object.full_host();
            if host.starts_with('*') {
                list(&mut self.wildcard_rules, namespace.clone(), key, listed);
                concerned.wildcards.insert((namespace, host));
            } else {
                list_hashed(&mut self.rules_of, host.clone(), key, listed);
                concerned.exact.insert(RouteSubject::Host(host));
            }
        }
        concerned
    }

    /// The routes of a service for a proxy of namespace `client`: those of the service's own namespace and of the
    /// proxy's, oldest first.
    pub fn routes(
        &self,
        service: &ServiceKey,
        entry: Option<&NamespacedName>,
        client: &str,
    ) -> Vec<&Route> {
        let host = RouteSubject::Host(service.host.as_ref().to_owned());
        let entry = entry.map(|entry| RouteSubject::Entry(entry.clone()));
        let exact = std::iter::once(&host)
            .chain(&entry)
            .filter_map(|subject| self.routes_of.get(subject))
            .flatten();
        let namespaces = BTreeSet::from([client, &*service.namespace]);
        let wildcard = namespaces
            .iter()
            .filter_map(|namespace| self.wildcard_routes.get(*namespace))
            .flatten();
        let keys: BTreeSet<&ObjectKey> = exact.chain(wildcard).collect();
        let applies = |route: &&Route| {
            namespaces.contains(route.object.namespace())
                && route.object.is_visible_to(client)
                && route.object.subjects().iter().any(|subject| match subject {
                    RouteSubject::Host(pattern) => host_matches(pattern, &service.host),
                    subject => Some(subject) == entry.as_ref(),
                })
        };
        let mut routes: Vec<(&ObjectKey, &Route)> = keys
            .into_iter()
            .filter_map(|key| Some((key, self.routes.get(key)?)))
            .filter(|(_, route)| applies(route))
            .collect();
        routes.sort_by_key(|(key, route)| (route.created, &key.name, &key.namespace));
        routes.into_iter().map(|(_, route)| route).collect()
    }

    /// The DestinationRule of a service for a proxy of namespace `client`.
    ///
    /// Looked for in the proxy's namespace, then the service's, then the root's. In each the exact host comes before
    /// wildcards, the longest of them first, and the oldest of equals.
    pub fn rule(&self, service: &ServiceKey, client: &str, root: &str) -> Option<&Rule> {
        let mut namespaces = vec![client];
        for namespace in [&*service.namespace, root] {
            if !namespaces.contains(&namespace) {
                namespaces.push(namespace);
            }
        }
        namespaces.into_iter().find_map(|namespace| {
            let exact = self.rules_of.get(&*service.host).into_iter().flatten();
            let wildcard = self.wildcard_rules.get(namespace).into_iter().flatten();
            exact
                .chain(wildcard)
                .filter(|key| key.namespace.as_deref() == Some(namespace))
                .filter_map(|key| Some((key, self.rules.get(key)?)))
                .filter(|(_, rule)| {
                    host_matches(&rule.object.full_host(), &service.host)
                        && is_exported(rule, client)
                })
                .min_by_key(|(key, rule)| {
                    let host = rule.object.full_host();
                    (
                        host.starts_with('*'),
                        std::cmp::Reverse(host.len()),
                        rule.created,
                        &key.name,
                    )
                })
                .map(|(_, rule)| rule)
        })
    }
}

fn is_exported(rule: &Rule, client: &str) -> bool {
    let export: &ExportTo = &rule.object.export_to;
    export.visible(&rule.object.meta.namespace, client)
}

fn list(
    map: &mut BTreeMap<String, BTreeSet<ObjectKey>>,
    at: String,
    key: &ObjectKey,
    listed: bool,
) {
    if listed {
        map.entry(at).or_default().insert(key.clone());
    } else if let Some(set) = map.get_mut(&at) {
        set.remove(key);
        if set.is_empty() {
            map.remove(&at);
        }
    }
}

fn list_hashed<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<ObjectKey>>,
    at: K,
    key: &ObjectKey,
    listed: bool,
) {
    if listed {
        map.entry(at).or_default().insert(key.clone());
    } else {
        super::members::remove_from(map, &at, key);
    }
}
