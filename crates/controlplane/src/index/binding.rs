//! Which waypoint an object is bound to, and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waymark_api::ambient::UseWaypoint;
use waymark_api::gateway::AllowedNamespaces;

use super::key::WaypointKey;
use super::namespace::Namespace;
use super::waypoint::{Scope, Waypoint};
use crate::ipam::Created;

/// What a lookup of an object's waypoint came to.
///
/// `Bound` is the intention: the waypoint is configured for the object at once, and node proxies are told of it when the
/// waypoint is ready, so that no connection is sent to a waypoint that does not know what to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing asks for a waypoint.
    Unbound,
    /// To this one.
    Bound(WaypointKey),
    /// One is asked for and cannot be had.
    Refused(WaypointKey, Refusal),
}

/// Why an object cannot have the waypoint it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such waypoint, or none with an address.
    NotReady,
    /// The waypoint does not admit the object's namespace.
    AttachmentDenied,
    /// The waypoint does not take this kind of traffic.
    UnsupportedTrafficType(Target),
    /// A waypoint of one service account cannot have a service whose workloads have several.
    MixedServiceAccounts,
}

/// What traffic is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service.
    Service,
    /// A workload.
    Workload,
}

impl Target {
    fn is_taken_by(self, waypoint: &Waypoint) -> bool {
        match self {
            Self::Service => waypoint.traffic.services(),
            Self::Workload => waypoint.traffic.workloads(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
        }
    }
}

impl Refusal {
    /// The condition's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotReady => "WaypointIsNotReady",
            Self::AttachmentDenied => "AttachmentDenied",
            Self::UnsupportedTrafficType(_) => "UnsupportedTrafficType",
            Self::MixedServiceAccounts => "MixedServiceAccounts",
        }
    }

    /// The condition's message, in upstream's words where it has them.
    pub fn message(self, waypoint: &WaypointKey) -> String {
        match self {
            Self::NotReady => format!("waypoint \"{waypoint}\" is not ready"),
            Self::AttachmentDenied => {
                format!(
                    "we are not permitted to attach to waypoint \"{waypoint}\" (missing allowedRoutes?)"
                )
            }
            Self::UnsupportedTrafficType(target) => format!(
                "attempting to bind to traffic type \"{}\" which the waypoint \"{waypoint}\" does not support",
                target.as_str()
            ),
            Self::MixedServiceAccounts => format!(
                "waypoint \"{waypoint}\" serves one service account, but the service has workloads of several"
            ),
        }
    }
}

/// An object that may have a waypoint.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What traffic to it is addressed to.
    pub target: Target,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its own label.
    pub use_waypoint: Option<&'a UseWaypoint>,
    /// The service accounts behind it.
    pub accounts: &'a BTreeSet<Arc<str>>,
}

/// Waypoints, the oldest first.
type ByAge = BTreeSet<(Created, WaypointKey)>;

/// The waypoints, by every way that leads to one.
#[derive(Debug, Default)]
pub struct Waypoints {
    by_key: BTreeMap<WaypointKey, Arc<Waypoint>>,
    /// Of the 2023 form, by namespace and account, the oldest first.
    of_account: BTreeMap<(String, Arc<str>), ByAge>,
    /// Of the 2023 form for a whole namespace, the oldest first.
    of_namespace: BTreeMap<String, ByAge>,
}

impl Waypoints {
    /// The waypoint called `key`.
    pub fn find(&self, key: &WaypointKey) -> Option<&Arc<Waypoint>> {
        self.by_key.get(key)
    }

    /// Every waypoint, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Waypoint>> {
        self.by_key.values()
    }

    /// Whether some waypoint of the namespace is for one service account.
    pub fn any_of_account(&self, namespace: &str) -> bool {
        self.of_account
            .range((namespace.to_owned(), Arc::from(""))..)
            .next()
            .is_some_and(|((ns, _), _)| ns == namespace)
    }

    /// Whether some waypoint selects namespaces by their labels.
    pub fn any_by_selector(&self) -> bool {
        self.by_key
            .values()
            .any(|waypoint| matches!(waypoint.allowed, AllowedNamespaces::Selector(_)))
    }

    /// Puts a waypoint in place of its former self, or takes it away.
    pub fn replace(
        &mut self,
        key: &WaypointKey,
        new: Option<Arc<Waypoint>>,
    ) -> Option<Arc<Waypoint>> {
        let old = self.by_key.remove(key);
        if let Some(old) = &old {
            self.unlist(old);
        }
        if let Some(new) = new {
            self.list(&new);
            self.by_key.insert(key.clone(), new);
        }
        old
    }

    /// Finds the waypoint of an object.
    ///
    /// In this order: the label on the object, a Gateway of 2023 for its service account, the label on the namespace, a
    /// Gateway of 2023 for the namespace. The first that says something decides; `none` says "no waypoint".
    pub fn resolve(&self, subject: Subject<'_>, namespace: &Namespace) -> Binding {
        if let Some(label) = subject.use_waypoint {
            return self.resolve_label(label, subject, namespace, Inherited::No);
        }
        let by_account = self.resolve_account(subject);
        if let Binding::Bound(_) = by_account {
            return by_account;
        }
        let inherited = match &namespace.use_waypoint {
            Some(label) => self.resolve_label(label, subject, namespace, Inherited::Yes),
            None => self.resolve_namespace(subject),
        };
        match (&inherited, by_account) {
            // Only what nobody else takes is worth a word about the account's waypoint.
            (Binding::Unbound, Binding::Refused(key, refusal)) => Binding::Refused(key, refusal),
            _ => inherited,
        }
    }

    fn resolve_label(
        &self,
        label: &UseWaypoint,
        subject: Subject<'_>,
        namespace: &Namespace,
        inherited: Inherited,
    ) -> Binding {
        let UseWaypoint::Named {
            namespace: of,
            name,
        } = label
        else {
            return Binding::Unbound;
        };
        let key = WaypointKey::new(of.as_deref().unwrap_or(subject.namespace), name.as_str());
        let Some(waypoint) = self.by_key.get(&key) else {
            return Binding::Refused(key, Refusal::NotReady);
        };
        if !waypoint
            .allowed
            .allows(&key.namespace, subject.namespace, &namespace.labels)
        {
            return Binding::Refused(key, Refusal::AttachmentDenied);
        }
        if !subject.target.is_taken_by(waypoint) {
            // That a namespace's waypoint takes no traffic to workloads is the usual case, not a mistake.
            return match (subject.target, inherited) {
                (Target::Workload, Inherited::Yes) => Binding::Unbound,
                (target, _) => Binding::Refused(key, Refusal::UnsupportedTrafficType(target)),
            };
        }
        Binding::Bound(key)
    }

    fn resolve_account(&self, subject: Subject<'_>) -> Binding {
        let oldest = |account: &Arc<str>| {
            self.of_account
                .get(&(subject.namespace.to_owned(), account.clone()))?
                .iter()
                .find(|(_, key)| {
                    self.by_key
                        .get(key)
                        .is_some_and(|waypoint| subject.target.is_taken_by(waypoint))
                })
                .map(|(_, key)| key.clone())
        };
        let Some(key) = subject.accounts.iter().find_map(oldest) else {
            return Binding::Unbound;
        };
        if subject.accounts.len() == 1 {
            Binding::Bound(key)
        } else {
            Binding::Refused(key, Refusal::MixedServiceAccounts)
        }
    }

    fn resolve_namespace(&self, subject: Subject<'_>) -> Binding {
        self.of_namespace
            .get(subject.namespace)
            .into_iter()
            .flatten()
            .find(|(_, key)| {
                self.by_key
                    .get(key)
                    .is_some_and(|waypoint| subject.target.is_taken_by(waypoint))
            })
            .map_or(Binding::Unbound, |(_, key)| Binding::Bound(key.clone()))
    }

    fn list(&mut self, waypoint: &Waypoint) {
        let entry = (waypoint.created, waypoint.key.clone());
        match &waypoint.scope {
            Scope::Labelled => {}
            Scope::Namespace => {
                self.of_namespace
                    .entry(waypoint.key.namespace.clone())
                    .or_default()
                    .insert(entry);
            }
            Scope::ServiceAccount(account) => {
                let key = (waypoint.key.namespace.clone(), account.clone());
                self.of_account.entry(key).or_default().insert(entry);
            }
        }
    }

    fn unlist(&mut self, waypoint: &Waypoint) {
        let entry = (waypoint.created, waypoint.key.clone());
        match &waypoint.scope {
            Scope::Labelled => {}
            Scope::Namespace => {
                remove_from(&mut self.of_namespace, &waypoint.key.namespace, &entry)
            }
            Scope::ServiceAccount(account) => {
                let key = (waypoint.key.namespace.clone(), account.clone());
                remove_from(&mut self.of_account, &key, &entry);
            }
        }
    }
}

/// Whether a label is the object's own or its namespace's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inherited {
    No,
    Yes,
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
