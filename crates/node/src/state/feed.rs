//! Tells those who keep something in line with the state what to look at again.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::store::Touched;

/// What was touched since the last look. Never full: a slow reader finds several batches merged into one set of keys.
#[derive(Debug)]
pub struct Feed {
    pending: Arc<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    touched: Mutex<Option<Touched>>,
    arrived: Notify,
}

/// All feeds of a state.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    open: Mutex<Vec<Weak<Pending>>>,
}

impl Feeds {
    pub(super) fn subscribe(&self) -> Feed {
        let pending = Arc::new(Pending::default());
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&pending));
        Feed { pending }
    }

    pub(super) fn publish(&self, touched: &Touched) {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|feed| match feed.upgrade() {
                Some(pending) => {
                    pending.merge(touched);
                    true
                }
                None => false,
            });
    }
}

impl Pending {
    fn merge(&self, touched: &Touched) {
        let mut pending = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let merged = pending.get_or_insert_default();
        merged.workloads.extend(touched.workloads.iter().cloned());
        merged.services.extend(touched.services.iter().cloned());
        merged.policies |= touched.policies;
        self.arrived.notify_one();
    }
}

impl Feed {
    /// What was touched since the last call; waits until something is.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Touched {
        loop {
            let arrived = self.pending.arrived.notified();
            if let Some(touched) = self
                .pending
                .touched
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
            {
                return touched;
            }
            arrived.await;
        }
    }
}
