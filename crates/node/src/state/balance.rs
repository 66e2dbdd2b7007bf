//! Picks an endpoint of a service.
//!
//! Spec: hbone-and-l4.md 8.

use std::sync::Arc;

use rand::{Rng, RngExt};

use super::model::{BalanceMode, Health, HealthPolicy, Scope, Service, Workload};
use super::store::{Members, Store};

/// What an endpoint is picked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickFor {
    /// Traffic to a port of the service.
    Traffic,
    /// The service is a waypoint's and the port its HBONE port: an endpoint with an application tunnel needs no such port.
    Waypoint,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A workload of the mesh, whose locality preferences are compared with.
    Workload(&'a Workload),
    /// Somebody outside the mesh, next to this node proxy.
    Outside,
}

impl Store {
    /// Picks an endpoint of `service` for `port`, with its target port.
    ///
    /// Random by capacity among the endpoints that the service's load-balancing mode leaves over. `None` when the service
    /// does not have the port or nothing is left over.
    pub fn pick_endpoint(
        &self,
        service: &Service,
        port: u16,
        from: Origin<'_>,
        pick_for: PickFor,
        rng: &mut impl Rng,
    ) -> Option<(&Arc<Workload>, u16)> {
        let default_port = service.ports.get(&port).copied();
        if default_port.is_none() && pick_for == PickFor::Traffic {
            return None;
        }
        let members = self.members(&service.key);
        let eligible = |workload: &'_ Arc<Workload>| -> Option<u16> {
            let healthy = workload.status == Health::Healthy
                || service.load_balancing.health_policy == HealthPolicy::AllowAll;
            (healthy && self.is_reachable(workload, from))
                .then(|| target_port(workload, service, port, pick_for))
                .flatten()
        };
        match service.load_balancing.mode {
            BalanceMode::Standard | BalanceMode::Passthrough => {
                guess(members, &eligible, rng).or_else(|| weighted(members.iter(), &eligible, rng))
            }
            BalanceMode::Strict => {
                let wanted = &service.load_balancing.routing_preference;
                weighted(
                    members.iter().filter(|w| rank(self, wanted, from, w).all),
                    &eligible,
                    rng,
                )
            }
            BalanceMode::Failover => {
                let wanted = &service.load_balancing.routing_preference;
                let ranked = |w: &Arc<Workload>| rank(self, wanted, from, w).score;
                let top = members
                    .iter()
                    .filter(|w| eligible(w).is_some())
                    .map(ranked)
                    .max()?;
                weighted(members.iter().filter(|w| ranked(w) == top), &eligible, rng)
            }
        }
    }

    /// An endpoint without an address or a name of its own can only be reached through its network's gateway.
    fn is_reachable(&self, workload: &Workload, from: Origin<'_>) -> bool {
        let has_place = !workload.addresses.is_empty() || !workload.hostname.is_empty();
        let network = match from {
            Origin::Workload(source) => &source.network,
            Origin::Outside => self.network(),
        };
        has_place || (workload.network != *network && workload.network_gateway.is_some())
    }
}

/// Target port of `port` at this endpoint: its own map, then the service's, then the port itself where an application
/// tunnel takes any.
pub fn target_port(
    workload: &Workload,
    service: &Service,
    port: u16,
    pick_for: PickFor,
) -> Option<u16> {
    let own = workload.target_port(&service.key, port);
    let by_service = || {
        service
            .ports
            .get(&port)
            .copied()
            .filter(|target| *target != 0)
    };
    let by_tunnel = || {
        let any_port = workload
            .application_tunnel
            .is_some_and(|tunnel| tunnel.port.is_some());
        (pick_for == PickFor::Waypoint && any_port).then_some(port)
    };
    own.or_else(by_service).or_else(by_tunnel)
}

/// Tries a few endpoints at random before all of them are looked at: with thousands of equal endpoints, the first is
/// almost always one that can be taken.
fn guess<'a>(
    members: Members<'a>,
    eligible: &impl Fn(&Arc<Workload>) -> Option<u16>,
    rng: &mut impl Rng,
) -> Option<(&'a Arc<Workload>, u16)> {
    const WORTH_IT: usize = 16;
    const TRIES: usize = 8;
    if members.len() < WORTH_IT || !members.is_even() {
        return None;
    }
    for _ in 0..TRIES {
        let workload = members.at(rng.random_range(0..members.len()))?;
        if let Some(port) = eligible(workload) {
            return Some((workload, port));
        }
    }
    None
}

/// One pass over all candidates: the k-th replaces the choice with probability weight / total so far.
fn weighted<'a>(
    candidates: impl Iterator<Item = &'a Arc<Workload>>,
    eligible: &impl Fn(&Arc<Workload>) -> Option<u16>,
    rng: &mut impl Rng,
) -> Option<(&'a Arc<Workload>, u16)> {
    let mut total: u64 = 0;
    let mut chosen = None;
    for workload in candidates {
        let weight = u64::from(workload.capacity);
        if weight == 0 {
            continue;
        }
        let Some(port) = eligible(workload) else {
            continue;
        };
        total += weight;
        if rng.random_range(0..total) < weight {
            chosen = Some((workload, port));
        }
    }
    chosen
}

struct Rank {
    score: usize,
    all: bool,
}

/// How well an endpoint matches the preferences: the number of leading scopes that match; a leading network scope is
/// different, see the spec.
fn rank(store: &Store, wanted: &[Scope], from: Origin<'_>, endpoint: &Workload) -> Rank {
    let matches = |scope: Scope| match from {
        Origin::Workload(source) => scope_matches(scope, source, endpoint),
        Origin::Outside => match scope {
            Scope::Node => store.is_local(endpoint),
            Scope::Network => endpoint.network == *store.network(),
            // Nothing is known of where such a client is; that its node proxy is here says no more than these two.
            Scope::Region | Scope::Zone | Scope::Subzone | Scope::Cluster => false,
        },
    };
    let mut score = 0;
    let mut all = true;
    for (position, scope) in wanted.iter().enumerate() {
        let leading_network = position == 0 && *scope == Scope::Network;
        if matches(*scope) {
            score += if leading_network { wanted.len() } else { 1 };
        } else {
            all = false;
            if !leading_network {
                break;
            }
        }
    }
    Rank { score, all }
}

fn scope_matches(scope: Scope, source: &Workload, endpoint: &Workload) -> bool {
    match scope {
        Scope::Region => source.locality.region == endpoint.locality.region,
        Scope::Zone => source.locality.zone == endpoint.locality.zone,
        Scope::Subzone => source.locality.subzone == endpoint.locality.subzone,
        Scope::Node => source.node == endpoint.node,
        Scope::Cluster => source.cluster_id == endpoint.cluster_id,
        Scope::Network => source.network == endpoint.network,
    }
}
