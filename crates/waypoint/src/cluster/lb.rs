//! Load balancing: which endpoint a request goes to.

use std::collections::HashMap;
use std::time::Instant;

use super::edf::Edf;
use super::load::{self, Health, Share};
use crate::near::Near;
use crate::program::{
    Cluster, Endpoint, EndpointHealth, EndpointKind, EndpointSet, LbPolicy, Priority, SlowStart,
};
use crate::random::Random;

/// One worker's balancer of one cluster, for one set of endpoints.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    shares: Vec<Share>,
    priorities: Vec<Localities>,
    /// Since when this worker knows each endpoint, where newcomers are spared.
    joined: HashMap<EndpointKind, Instant>,
}

/// The localities of a priority that can be picked, each with its share.
#[derive(Debug, Default)]
struct Localities {
    schedule: Option<Edf>,
    weights: Vec<f64>,
    pools: Vec<Hosts>,
}

/// Endpoints to pick among.
#[derive(Debug)]
struct Hosts {
    endpoints: Vec<Near<Endpoint>>,
    /// All weights are the same and nobody is spared: then no schedule is needed.
    equal: bool,
    next: usize,
    schedule: Edf,
}

impl Balancer {
    /// A balancer for `endpoints`. `previous` is the one before, which knows who is new.
    pub(super) fn new(
        cluster: &Cluster,
        endpoints: &EndpointSet,
        previous: Option<&Self>,
        now: Instant,
        random: &Random,
    ) -> Self {
        let health: Vec<Health> = endpoints.priorities.iter().map(health).collect();
        let overprovisioning = match endpoints.overprovisioning_percent {
            0 => 140,
            percent => percent,
        };
        let shares = load::shares(&health, overprovisioning, cluster.panic_threshold_percent);
        let joined = match slow_start(&cluster.lb) {
            None => HashMap::new(),
            Some(slow) => joined(endpoints, previous, slow, now),
        };
        let sparing = Sparing {
            policy: &cluster.lb,
            joined: &joined,
            now,
        };
        let priorities = endpoints
            .priorities
            .iter()
            .zip(&shares)
            .map(|(priority, share)| {
                Localities::new(
                    cluster,
                    priority,
                    share.panic,
                    overprovisioning,
                    &sparing,
                    random,
                )
            })
            .collect();
        Self {
            shares,
            priorities,
            joined,
        }
    }

    /// The endpoint for one request; `None` when there is none that may be picked.
    pub(super) fn pick(
        &mut self,
        policy: &LbPolicy,
        now: Instant,
        random: &Random,
    ) -> Option<&Near<Endpoint>> {
        let priority = load::choose(&self.shares, random.next())?;
        let sparing = Sparing {
            policy,
            joined: &self.joined,
            now,
        };
        self.priorities[priority].pick(&sparing, random)
    }
}

impl Localities {
    fn new(
        cluster: &Cluster,
        priority: &Priority,
        panic: bool,
        overprovisioning: u32,
        sparing: &Sparing<'_>,
        random: &Random,
    ) -> Self {
        let usable = |want: fn(EndpointHealth) -> bool| {
            priority.localities.iter().map(move |l| {
                let chosen = l.endpoints.iter().filter(|e| want(e.health));
                (l, chosen.map(Near::new).collect::<Vec<_>>())
            })
        };
        let any = |e: EndpointHealth| match e {
            EndpointHealth::Unknown
            | EndpointHealth::Healthy
            | EndpointHealth::Unhealthy
            | EndpointHealth::Draining
            | EndpointHealth::Degraded => true,
        };
        let mut localities: Vec<_> = if panic {
            usable(any).collect()
        } else {
            usable(EndpointHealth::is_available).collect()
        };
        if localities.iter().all(|(_, endpoints)| endpoints.is_empty()) {
            localities = usable(|h| h == EndpointHealth::Degraded).collect();
        }
        if !cluster.locality_weighted {
            let all: Vec<_> = localities
                .into_iter()
                .flat_map(|(_, endpoints)| endpoints)
                .collect();
            let pools = if all.is_empty() {
                vec![]
            } else {
                vec![Hosts::new(all, sparing, random)]
            };
            return Self {
                pools,
                ..Self::default()
            };
        }
        let mut out = Self::default();
        for (locality, endpoints) in localities {
            let weight = f64::from(locality.weight.unwrap_or(0));
            if endpoints.is_empty() || weight == 0.0 {
                continue;
            }
            // As a priority, a locality can take more than its healthy part; below that its weight shrinks.
            let healthy = endpoints.len() as f64 / locality.endpoints.len() as f64;
            out.weights
                .push(weight * (healthy * f64::from(overprovisioning) / 100.0).min(1.0));
            out.pools.push(Hosts::new(endpoints, sparing, random));
        }
        if out.pools.len() > 1 {
            out.schedule = Some(Edf::new(
                out.weights.iter().copied(),
                random.below(out.weights.len()),
            ));
        }
        out
    }

    fn pick(&mut self, sparing: &Sparing<'_>, random: &Random) -> Option<&Near<Endpoint>> {
        let at = match &mut self.schedule {
            None => 0,
            Some(schedule) => schedule.pick(|i| self.weights[i])?,
        };
        self.pools
            .get_mut(at)
            .map(|hosts| hosts.pick(sparing, random))
    }
}

impl Hosts {
    /// `endpoints` is not empty.
    fn new(endpoints: Vec<Near<Endpoint>>, sparing: &Sparing<'_>, random: &Random) -> Self {
        let first = endpoints.first().map_or(1, |e| e.weight);
        let equal = endpoints.iter().all(|e| e.weight == first)
            && !endpoints.iter().any(|e| sparing.spares(e));
        let start = random.below(endpoints.len());
        let schedule = match sparing.policy {
            LbPolicy::RoundRobin { .. } | LbPolicy::LeastRequest { .. } if !equal => {
                Edf::new(endpoints.iter().map(|e| sparing.weight(e)), start)
            }
            LbPolicy::RoundRobin { .. }
            | LbPolicy::LeastRequest { .. }
            | LbPolicy::Random
            | LbPolicy::ClusterProvided => Edf::default(),
        };
        Self {
            endpoints,
            equal,
            next: start,
            schedule,
        }
    }

    fn pick(&mut self, sparing: &Sparing<'_>, random: &Random) -> &Near<Endpoint> {
        let endpoints = &self.endpoints;
        let at = match sparing.policy {
            LbPolicy::RoundRobin { .. } | LbPolicy::LeastRequest { .. } if !self.equal => {
                let turn = self.schedule.pick(|i| sparing.weight(&endpoints[i]));
                turn.unwrap_or_default()
            }
            LbPolicy::RoundRobin { .. } => {
                self.next = (self.next + 1) % endpoints.len();
                self.next
            }
            LbPolicy::LeastRequest { choices, .. } => {
                let mut best = random.below(endpoints.len());
                for _ in 1..(*choices).max(2) {
                    let other = random.below(endpoints.len());
                    if active(&endpoints[other]) < active(&endpoints[best]) {
                        best = other;
                    }
                }
                best
            }
            LbPolicy::Random | LbPolicy::ClusterProvided => random.below(endpoints.len()),
        };
        &self.endpoints[at]
    }
}

/// What an endpoint's weight is worth at the moment.
struct Sparing<'a> {
    policy: &'a LbPolicy,
    joined: &'a HashMap<EndpointKind, Instant>,
    now: Instant,
}

impl Sparing<'_> {
    fn weight(&self, endpoint: &Endpoint) -> f64 {
        let weight = f64::from(endpoint.weight.max(1)) * self.factor(endpoint);
        match self.policy {
            LbPolicy::LeastRequest {
                active_request_bias,
                ..
            } => weight / libm::pow(active(endpoint) as f64 + 1.0, *active_request_bias),
            LbPolicy::RoundRobin { .. } | LbPolicy::Random | LbPolicy::ClusterProvided => weight,
        }
    }

    fn spares(&self, endpoint: &Endpoint) -> bool {
        self.factor(endpoint) < 1.0
    }

    fn factor(&self, endpoint: &Endpoint) -> f64 {
        let (Some(slow), Some(joined)) = (slow_start(self.policy), self.joined.get(&endpoint.kind))
        else {
            return 1.0;
        };
        let elapsed = self.now.saturating_duration_since(*joined);
        if elapsed >= slow.window {
            return 1.0;
        }
        let progress = elapsed.as_secs_f64() / slow.window.as_secs_f64();
        libm::pow(progress, 1.0 / slow.aggression)
            .max(slow.min_weight_percent / 100.0)
            .min(1.0)
    }
}

fn active(endpoint: &Endpoint) -> i64 {
    endpoint.stats.rq_active.value()
}

fn slow_start(policy: &LbPolicy) -> Option<&SlowStart> {
    match policy {
        LbPolicy::RoundRobin { slow_start } | LbPolicy::LeastRequest { slow_start, .. } => {
            slow_start.as_ref()
        }
        LbPolicy::Random | LbPolicy::ClusterProvided => None,
    }
}

/// Who joined when: newcomers now, unless everybody is new.
fn joined(
    endpoints: &EndpointSet,
    previous: Option<&Balancer>,
    slow: &SlowStart,
    now: Instant,
) -> HashMap<EndpointKind, Instant> {
    let long_ago = now.checked_sub(slow.window).unwrap_or(now);
    let known = previous
        .map(|p| &p.joined)
        .filter(|known| !known.is_empty());
    endpoints
        .iter()
        .map(|e| {
            let since = match known {
                None => long_ago,
                Some(known) => known.get(&e.kind).copied().unwrap_or(now),
            };
            (e.kind, since)
        })
        .collect()
}

fn health(priority: &Priority) -> Health {
    let mut health = Health {
        total: 0,
        available: 0,
    };
    let mut degraded = 0;
    for endpoint in priority.localities.iter().flat_map(|l| &l.endpoints) {
        health.total += 1;
        health.available += usize::from(endpoint.health.is_available());
        degraded += usize::from(endpoint.health == EndpointHealth::Degraded);
    }
    if health.available == 0 {
        health.available = degraded;
    }
    health
}

#[cfg(test)]
mod tests;
