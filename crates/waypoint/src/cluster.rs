//! A worker's view of a cluster: who is picked, and the connections there are.
//!
//! Figures and limits are the cluster's own and shared by all workers; balancers and pools are each worker's.

mod edf;
#[cfg(test)]
pub(crate) mod fixture;
mod host_pool;
mod lb;
mod lease;
mod load;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

pub(crate) use self::host_pool::{AcquireError, HostPool, Open, Version};
use self::lb::Balancer;
pub(crate) use self::lease::{Acquired, Unsent, UpstreamBroke};
use crate::near::Near;
use crate::program::{
    Cluster, ClusterId, Discovery, Endpoint, EndpointHealth, EndpointKind, EndpointSet,
    LocalityName, Snapshot, Thresholds,
};
use crate::random::Random;
use crate::telemetry::EndpointStats;

/// Original destinations that are remembered for their figures and connections.
const MAX_ORIGINAL_DESTINATIONS: usize = 1024;

/// A worker's clusters, by [`ClusterId`].
#[derive(Default)]
pub(crate) struct Clusters {
    all: RefCell<Vec<Option<Rc<ClusterRuntime>>>>,
}

impl Clusters {
    /// The cluster of that id as the snapshot has it; `None` when it has none.
    pub(crate) fn of(
        &self,
        snapshot: &Snapshot,
        id: ClusterId,
        random: &Random,
    ) -> Option<Rc<ClusterRuntime>> {
        let config = snapshot.cluster(id)?;
        let mut all = self.all.borrow_mut();
        if all.len() <= id.index() {
            all.resize_with(id.index() + 1, || None);
        }
        let slot = &mut all[id.index()];
        match slot {
            Some(runtime) => {
                runtime.refresh(config, random);
                Some(Rc::clone(runtime))
            }
            None => {
                let runtime = Rc::new(ClusterRuntime::new(config, random));
                *slot = Some(Rc::clone(&runtime));
                Some(runtime)
            }
        }
    }

    /// Brings every cluster up to date, closes idle connections that are due, forgets removed clusters. Gives the nodes
    /// that tunnels to endpoints go to, when they are not the same as last time.
    pub(crate) fn sweep(
        &self,
        snapshot: &Snapshot,
        random: &Random,
    ) -> Option<HashSet<SocketAddr>> {
        let mut moved = false;
        let mut all = self.all.borrow_mut();
        for slot in all.iter_mut() {
            let Some(runtime) = slot else { continue };
            let id = runtime.config.borrow().id;
            match snapshot.cluster(id) {
                None => {
                    runtime.close_pools(|_| false);
                    *slot = None;
                    moved = true;
                }
                Some(config) => {
                    runtime.refresh(config, random);
                    runtime.close_idle();
                    moved |= runtime.moved.take();
                }
            }
        }
        moved.then(|| {
            let mut nodes = HashSet::new();
            let port = snapshot
                .tunnel
                .as_ref()
                .map_or(waymark_hbone::HBONE_PORT, |t| t.port);
            for runtime in all.iter().flatten() {
                runtime.nodes(port, &mut nodes);
            }
            nodes
        })
    }
}

/// One cluster in one worker.
pub(crate) struct ClusterRuntime {
    config: RefCell<Near<Cluster>>,
    balance: RefCell<Balance>,
    pools: RefCell<HashMap<EndpointKind, Rc<HostPool>>>,
    original: RefCell<HashMap<SocketAddr, Near<Endpoint>>>,
    /// Endpoints have come or gone since the last sweep.
    moved: Cell<bool>,
}

struct Balance {
    endpoints: Arc<EndpointSet>,
    balancer: Balancer,
}

impl ClusterRuntime {
    fn new(config: &Arc<Cluster>, random: &Random) -> Self {
        let endpoints = config.endpoints.load_full();
        let balancer = Balancer::new(config, &endpoints, None, waymark_driver::now(), random);
        Self {
            config: RefCell::new(Near::new(config)),
            balance: RefCell::new(Balance {
                endpoints,
                balancer,
            }),
            pools: RefCell::default(),
            original: RefCell::default(),
            moved: Cell::new(false),
        }
    }

    /// The configuration.
    pub(crate) fn config(&self) -> Near<Cluster> {
        self.config.borrow().clone()
    }

    /// The limits for a request of that priority.
    pub(crate) fn thresholds(&self, high_priority: bool) -> Thresholds {
        let config = self.config.borrow();
        if high_priority {
            config.breakers.high
        } else {
            config.breakers.default
        }
    }

    /// The endpoint for one request or connection that was sent to `original`; `None` when there is no healthy one.
    ///
    /// One of `tried` is picked only after `reselections` picks have all given one of them.
    pub(crate) fn pick(
        &self,
        original: SocketAddr,
        tried: &[EndpointKind],
        reselections: u32,
        random: &Random,
    ) -> Option<Near<Endpoint>> {
        let config = self.config.borrow();
        match config.discovery {
            Discovery::OriginalDst { port_override } => {
                let to = SocketAddr::new(original.ip(), port_override.unwrap_or(original.port()));
                Some(self.original(EndpointKind::Plain(to), to))
            }
            Discovery::OriginalDstTunnel => {
                let kind = EndpointKind::Tunnel {
                    local: original,
                    via: None,
                };
                Some(self.original(kind, original))
            }
            Discovery::Eds { .. } | Discovery::Static | Discovery::Dns(_) => {
                let mut balance = self.balance.borrow_mut();
                let now = waymark_driver::now();
                let mut picked = balance.balancer.pick(&config.lb, now, random)?.clone();
                for _ in 0..reselections {
                    if !tried.contains(&picked.kind) {
                        break;
                    }
                    picked = balance.balancer.pick(&config.lb, now, random)?.clone();
                }
                Some(picked)
            }
        }
    }

    /// The connections to an endpoint.
    pub(crate) fn pool(&self, endpoint: &Arc<Endpoint>) -> Rc<HostPool> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools
            .entry(endpoint.kind)
            .or_insert_with(|| HostPool::new(endpoint));
        pool.set_endpoint(endpoint);
        Rc::clone(pool)
    }

    fn refresh(&self, config: &Arc<Cluster>, random: &Random) {
        let changed = !Arc::ptr_eq(&self.config.borrow(), config);
        if changed {
            let old = self.config.replace(Near::new(config));
            if old.http != config.http || old.protocol != config.protocol {
                self.close_pools(|_| false);
            }
        }
        let endpoints = config.endpoints.load();
        let mut balance = self.balance.borrow_mut();
        if !changed && Arc::ptr_eq(&balance.endpoints, &endpoints) {
            return;
        }
        let balancer = Balancer::new(
            config,
            &endpoints,
            Some(&balance.balancer),
            waymark_driver::now(),
            random,
        );
        let replaced = !Arc::ptr_eq(&balance.endpoints, &endpoints);
        *balance = Balance {
            endpoints: Arc::clone(&endpoints),
            balancer,
        };
        self.moved.set(self.moved.get() || replaced);
        if replaced && !is_original(&config.discovery) {
            let there: HashSet<EndpointKind> = balance.endpoints.iter().map(|e| e.kind).collect();
            self.close_pools(|kind| there.contains(kind));
        }
    }

    /// Closes the connections to every endpoint that `keep` refuses, each once its requests are done.
    fn close_pools(&self, keep: impl Fn(&EndpointKind) -> bool) {
        self.pools.borrow_mut().retain(|kind, pool| {
            let kept = keep(kind);
            if !kept {
                pool.close();
            }
            kept
        });
    }

    fn close_idle(&self) {
        let config = self.config();
        self.pools.borrow_mut().retain(|_, pool| {
            pool.close_idle(&config);
            pool.is_used()
        });
    }

    fn nodes(&self, port: u16, nodes: &mut HashSet<SocketAddr>) {
        let balance = self.balance.borrow();
        let original = self.original.borrow();
        let original = original.values().map(|endpoint| &**endpoint);
        for endpoint in balance.endpoints.iter().chain(original) {
            if let EndpointKind::Tunnel { local, via } = endpoint.kind {
                nodes.insert(via.unwrap_or_else(|| SocketAddr::new(local.ip(), port)));
            }
        }
    }

    fn original(&self, kind: EndpointKind, to: SocketAddr) -> Near<Endpoint> {
        let mut original = self.original.borrow_mut();
        if !original.contains_key(&to) && original.len() >= MAX_ORIGINAL_DESTINATIONS {
            original.retain(|_, e| e.stats.rq_active.value() > 0 || e.stats.cx_active.value() > 0);
        }
        let endpoint = original.entry(to).or_insert_with(|| {
            let text = match kind {
                EndpointKind::Tunnel { .. } => format!("envoy://connect_originate/{to}"),
                EndpointKind::Plain(_) => to.to_string(),
            };
            Near::new(&Arc::new(Endpoint {
                kind,
                text: text.into(),
                health: EndpointHealth::Unknown,
                weight: 1,
                locality: LocalityName::default(),
                priority: 0,
                hostname: None,
                workload: None,
                stats: Arc::new(EndpointStats::default()),
            }))
        });
        endpoint.clone()
    }
}

fn is_original(discovery: &Discovery) -> bool {
    matches!(
        discovery,
        Discovery::OriginalDst { .. } | Discovery::OriginalDstTunnel
    )
}
