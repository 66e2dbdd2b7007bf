//! What the node proxy knows of the mesh: workloads, services and L4 policies, as the control plane sent them.
//!
//! [`model`] are the parsed types, [`decode`] makes them from the wire, [`Store`] indexes them, [`StateHandle`] publishes it.
//!
//! How it is shared. Readers (every connection) need a whole, consistent view without ever waiting for a writer; a writer
//! changes one workload among 100,000 and must not copy the others. Both hold with two copies of the index, in which
//! workloads and services are shared `Arc`s: changes are applied to the copy that nobody reads, which is then swapped in
//! (`ArcSwap`), and the copy that was retired catches up with the same changes when the next ones come. A change so costs
//! two small index updates, and a response of the control plane becomes visible as a whole. Rejected: one `RwLock` (a
//! push of thousands of resources would stop every connection) and persistent maps (slower look-ups on every connection).

pub mod balance;
pub mod decode;
pub mod feed;
pub mod lookup;
pub mod model;
pub mod store;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;

pub use lookup::View;
pub use model::{Service, ServiceKey, Uid, Workload};
pub use store::{Change, Placement, Store, Touched};

/// The published state: cheap to clone, read without locks.
#[derive(Clone)]
pub struct StateHandle {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Store>,
    writer: Mutex<Writer>,
    policies: watch::Sender<u64>,
    changes: watch::Sender<u64>,
    feeds: feed::Feeds,
}

struct Writer {
    /// The copy that was last swapped out; lacks `behind`.
    retired: Arc<Store>,
    behind: Vec<Change>,
}

impl StateHandle {
    /// Starts with an empty state, for a node placed as `placement` says.
    pub fn new(placement: Placement) -> Self {
        let empty = Arc::new(Store::new(placement.clone()));
        Self {
            shared: Arc::new(Shared {
                current: ArcSwap::new(empty),
                writer: Mutex::new(Writer {
                    retired: Arc::new(Store::new(placement)),
                    behind: Vec::new(),
                }),
                policies: watch::Sender::new(0),
                changes: watch::Sender::new(0),
                feeds: feed::Feeds::default(),
            }),
        }
    }

    /// The current state, for one decision. Not to be held over an `.await`: a retired copy that is still read has to be
    /// copied by the next change.
    pub fn load(&self) -> arc_swap::Guard<Arc<Store>> {
        self.shared.current.load()
    }

    /// The current state, to keep for a while (a dump).
    pub fn load_full(&self) -> Arc<Store> {
        self.shared.current.load_full()
    }

    /// Applies the changes of one response as a whole and says what they touched.
    pub fn apply(&self, changes: Vec<Change>) -> Touched {
        let mut writer = self
            .shared
            .writer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let retired = std::mem::take(&mut writer.retired);
        let mut next = match Arc::try_unwrap(retired) {
            Ok(mut store) => {
                for change in writer.behind.drain(..) {
                    store.apply(change, &mut Touched::default());
                }
                store
            }
            // A dump still reads the retired copy: copy the index (its entries are shared) rather than wait for it.
            Err(_) => {
                writer.behind.clear();
                Store::clone(&self.shared.current.load())
            }
        };
        let mut touched = Touched::default();
        for change in &changes {
            next.apply(change.clone(), &mut touched);
        }
        writer.retired = self.shared.current.swap(Arc::new(next));
        writer.behind = changes;
        // Before the lock is given back, so that feeds hear of batches in their order.
        self.shared.feeds.publish(&touched);
        drop(writer);
        if touched.policies {
            self.shared.policies.send_modify(|epoch| *epoch += 1);
        }
        self.shared.changes.send_modify(|epoch| *epoch += 1);
        touched
    }

    /// What changes from now on, for one who keeps something in line with the state.
    pub fn feed(&self) -> feed::Feed {
        self.shared.feeds.subscribe()
    }

    /// Waits until the state has what `find` looks for, `None` when it does not come within `patience`.
    ///
    /// # Cancel safety
    /// Can be dropped at any time.
    pub async fn wait_for<T>(
        &self,
        patience: Duration,
        find: impl Fn(&Store) -> Option<T>,
    ) -> Option<T> {
        if let Some(found) = find(&self.load()) {
            return Some(found);
        }
        let mut changes = self.change_epoch();
        let watch = async {
            loop {
                if let Some(found) = find(&self.load()) {
                    return Some(found);
                }
                // The sender lives as long as this handle.
                changes.changed().await.ok()?;
            }
        };
        waymark_driver::timeout(patience, watch)
            .await
            .ok()
            .flatten()
    }

    /// Changes with every change of a policy, or of the policies that a workload names: what was admitted has to be
    /// judged again.
    pub fn policy_epoch(&self) -> watch::Receiver<u64> {
        self.shared.policies.subscribe()
    }

    /// Changes with every applied response.
    pub fn change_epoch(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

#[cfg(test)]
mod tests;
