//! The services of one waypoint, and those that its routes name, as the translation is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Stale;
use crate::index::Index;
use crate::index::effects::Aspects;
use crate::index::key::{ServiceKey, WaypointKey};
use crate::inputs;
use crate::translate::input::{
    AttachedWorkloads, Binding, Destination, Destinations, ServiceInput,
};

/// What a waypoint serves and what its routes name, by host.
///
/// Two services of one host (of different namespaces) cannot both be a waypoint's: its clusters are named by hosts. The
/// waypoint's own namespace comes first, then the first by name.
#[derive(Debug, Default)]
pub(super) struct Served {
    own: BTreeMap<String, Own>,
    /// Hosts that routes name and that are not this waypoint's.
    foreign: BTreeMap<String, Arc<ServiceInput>>,
    /// Whose routes name a host.
    named_by: BTreeMap<String, BTreeSet<String>>,
    attached: AttachedWorkloads,
    /// Hosts that were named, or are since, by what was looked up last.
    touched: BTreeSet<String>,
}

#[derive(Debug)]
struct Own {
    key: ServiceKey,
    input: Arc<ServiceInput>,
    names: BTreeSet<String>,
}

impl Served {
    /// The service of a host, if it is the waypoint's.
    pub(super) fn own(&self, host: &str) -> Option<&ServiceInput> {
        self.own.get(host).map(|own| &*own.input)
    }

    /// The service of a host that is not the waypoint's and that its routes name.
    pub(super) fn foreign(&self, host: &str) -> Option<&ServiceInput> {
        self.foreign.get(host).map(|input| &**input)
    }

    /// The hosts that are not the waypoint's and that its routes name.
    pub(super) fn foreign_hosts(&self) -> impl Iterator<Item = &str> {
        self.foreign.keys().map(String::as_str)
    }

    /// Every service of the waypoint.
    pub(super) fn all_own(&self) -> Vec<&ServiceInput> {
        self.own.values().map(|own| &*own.input).collect()
    }

    /// Addresses served beside services.
    pub(super) fn attached(&self) -> &AttachedWorkloads {
        &self.attached
    }

    /// Whether some route names a host.
    pub(super) fn names(&self, host: &str) -> bool {
        self.named_by.contains_key(host)
    }

    /// Hosts that are named, or no longer, since the last look.
    pub(super) fn touched_names<'a>(&'a self, stale: &'a Stale) -> impl Iterator<Item = &'a str> {
        stale.hosts.keys().chain(&self.touched).map(String::as_str)
    }

    /// All of it, to be translated.
    pub(super) fn everything(&self) -> Stale {
        let hosts = self.own.keys().chain(self.foreign.keys());
        Stale {
            hosts: hosts.map(|host| (host.clone(), Aspects::ALL)).collect(),
            main_internal: true,
            base: true,
        }
    }

    /// Looks up again what is stale, and marks as stale what depends on it. Returns how many services were looked up.
    pub(super) fn refresh(
        &mut self,
        index: &Index,
        waypoint: &WaypointKey,
        stale: &mut Stale,
    ) -> u64 {
        let mut looked_up = 0;
        self.touched.clear();
        if stale.main_internal {
            self.attached = inputs::attached(index, waypoint);
        }
        let mut about = BTreeSet::new();
        let mut whole = Vec::new();
        for (host, aspects) in &stale.hosts {
            let key = own_service(index, waypoint, host);
            let before = self.own.remove(host);
            let changed_hands = before.as_ref().map(|own| &own.key) != key.as_ref();
            let input = key
                .as_ref()
                .and_then(|key| inputs::service(index, key, &waypoint.namespace));
            looked_up += u64::from(key.is_some());
            let own = key.zip(input).map(|(key, input)| {
                let names = inputs::named_hosts(&input);
                Own {
                    key,
                    input: Arc::new(input),
                    names,
                }
            });
            self.rename(
                host,
                before.map(|own| own.names),
                own.as_ref().map(|own| own.names.clone()),
            );
            if let Some(own) = own {
                self.own.insert(host.clone(), own);
            }
            // What a route says of a destination depends on its ports, its rule and whose it is, not on its endpoints.
            if changed_hands || aspects.shape || aspects.rule {
                about.insert(host.clone());
            }
            if changed_hands {
                whole.push(host.clone());
            }
        }
        // Its clusters have other names, or it is another service altogether.
        whole.iter().for_each(|host| stale.mark(host, Aspects::ALL));
        let named: Vec<String> = stale.hosts.keys().chain(&self.touched).cloned().collect();
        for host in named {
            let foreign = (!self.own.contains_key(&host) && self.names(&host))
                .then(|| foreign_service(index, waypoint, &host))
                .flatten();
            match foreign {
                Some(input) => {
                    looked_up += 1;
                    if self.foreign.insert(host.clone(), Arc::new(input)).is_none() {
                        stale.mark(&host, Aspects::ALL);
                    }
                }
                None => {
                    if self.foreign.remove(&host).is_some() {
                        stale.mark(&host, Aspects::ALL);
                    }
                }
            }
        }
        for service in about
            .iter()
            .filter_map(|host| self.named_by.get(host))
            .flatten()
        {
            stale.mark(service, Aspects::ROUTES);
        }
        looked_up
    }

    /// Notes that the routes of `service` name other hosts than before.
    fn rename(
        &mut self,
        service: &str,
        before: Option<BTreeSet<String>>,
        now: Option<BTreeSet<String>>,
    ) {
        let (before, now) = (before.unwrap_or_default(), now.unwrap_or_default());
        for host in before.symmetric_difference(&now) {
            self.touched.insert(host.clone());
            let by = self.named_by.entry(host.clone()).or_default();
            if now.contains(host) {
                by.insert(service.to_owned());
            } else {
                by.remove(service);
                if by.is_empty() {
                    self.named_by.remove(host);
                }
            }
        }
    }
}

impl Destinations for Served {
    fn find(&self, host: &str) -> Option<Destination<'_>> {
        let own = self.own(host).map(|service| Destination {
            binding: Binding::Owned,
            service,
        });
        own.or_else(|| {
            self.foreign(host).map(|service| Destination {
                binding: Binding::Foreign,
                service,
            })
        })
    }
}

/// The service with this host that is bound to the waypoint.
fn own_service(index: &Index, waypoint: &WaypointKey, host: &str) -> Option<ServiceKey> {
    let bound = index
        .services_of_host(host)
        .filter(|key| index.waypoint_of(key) == Some(waypoint));
    bound
        .min_by_key(|key| (*key.namespace != *waypoint.namespace, *key))
        .cloned()
}

/// The service that a route means by a host that is not the waypoint's.
fn foreign_service(index: &Index, waypoint: &WaypointKey, host: &str) -> Option<ServiceInput> {
    let nearest = index
        .services_of_host(host)
        .find(|key| *key.namespace == *waypoint.namespace);
    let key = nearest.or_else(|| index.canonical(host).map(|service| &service.key))?;
    inputs::service(index, key, &waypoint.namespace)
}
