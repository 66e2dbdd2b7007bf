//! What was received over xDS, what of it was accepted, and the snapshots made of it.
//!
//! [`Config`] is the xDS client's handler. It keeps every resource as sent, decodes what changed, tells the server what it
//! refuses, and publishes a new [`Snapshot`](crate::program::Snapshot) for what it accepts. A refused update leaves the
//! last good one serving. Resources that are sent again with the bytes they had cost nothing.
//!
//! - A cluster is in the snapshot once its endpoints are known; until then it is *warming*.
//! - A listener is put to use once the route tables that it names are known; until then the one before it serves.
//! - Endpoints change in place, without a new snapshot.

mod clusters;
mod entry;
mod link;
mod listeners;
mod node;
mod routes;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::{debug, info};
use waymark_proto::type_url;
use waymark_rt::Clock;
use waymark_xds::{AdsClient, Handler, NackReason, Subscriptions, Update};

pub use self::entry::{Dump, Dumped, Received, Refused};
pub use self::node::NodeOptions;
use self::state::State;
use crate::decode::Ignored;
use crate::program::SnapshotCell;
use crate::telemetry::ServerStats;

/// The configuration of one waypoint. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Config {
    state: Arc<Mutex<State>>,
    readiness: Arc<watch::Sender<Readiness>>,
}

/// How far the configuration has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Clusters were accepted at least once.
    pub clusters: bool,
    /// Listeners were accepted at least once.
    pub listeners: bool,
    /// Every endpoint set and route table that is needed has come, and tunnels can be accepted.
    pub complete: bool,
}

impl Readiness {
    /// Whether traffic can be served.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self.clusters && self.listeners && self.complete
    }
}

impl Config {
    /// An empty configuration that publishes to `cell`.
    #[must_use]
    pub fn new(cell: SnapshotCell, stats: Arc<ServerStats>, clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(cell, stats, clock))),
            readiness: Arc::new(watch::Sender::new(Readiness::default())),
        }
    }

    /// The xDS client that feeds this configuration, for that node.
    #[must_use]
    pub fn client(&self, node: &NodeOptions) -> AdsClient {
        let mut subscriptions = Subscriptions::new();
        subscriptions.all(type_url::CLUSTER);
        subscriptions.all(type_url::LISTENER);
        AdsClient::new(node.node(), subscriptions)
    }

    /// Follows how far the configuration has come. Once complete it stays so.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Everything received, for admin.
    #[must_use]
    pub fn dump(&self) -> Dump {
        self.state().dump()
    }

    /// What of the resources in use does nothing here, by resource.
    #[must_use]
    pub fn ignored(&self) -> Vec<(String, Ignored)> {
        self.state().ignored()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there can panic half-way and leave nonsense behind: what is decoded is put in place whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Config {
    fn apply(
        &mut self,
        update: Update<'_>,
        subscriptions: &mut Subscriptions,
    ) -> Result<(), NackReason> {
        let (count, removed, kind) = (
            update.resources.len(),
            update.removed.len(),
            update.type_url.to_owned(),
        );
        let (result, readiness) = {
            let mut state = self.state();
            let result = state.apply(update, subscriptions);
            (result, state.readiness())
        };
        debug!(
            type_url = kind,
            resources = count,
            removed,
            refused = result.is_err(),
            "xds update applied"
        );
        self.readiness.send_if_modified(|known| {
            let next = Readiness {
                clusters: known.clusters || readiness.clusters,
                listeners: known.listeners || readiness.listeners,
                complete: known.complete || readiness.complete,
            };
            let changed = *known != next;
            if changed && next.is_ready() {
                info!("configuration complete");
            }
            *known = next;
            changed
        });
        result
    }
}

#[cfg(test)]
mod tests;
