//! The open connections, for `/config_dump` (`workloadState`) and for counting bytes while they flow.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Description, Direction, Flow, Transport};
use crate::state::Uid;

/// Every open connection of the proxy.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<u64, Arc<Entry>>>,
    next: AtomicU64,
}

/// One open connection.
#[derive(Debug)]
pub struct Entry {
    /// The local workload; `None` for a client outside the mesh.
    pub local: Option<Uid>,
    /// Seen from the local workload.
    pub direction: Direction,
    /// TCP peer.
    pub source: SocketAddr,
    /// What it was addressed to.
    pub original_destination: Option<String>,
    /// Where it is connected to.
    pub actual_destination: SocketAddr,
    /// Mesh side.
    pub transport: Transport,
    flow: Arc<Flow>,
}

impl Connections {
    /// How many are open.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// All of them, oldest first.
    pub fn list(&self) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self
            .lock()
            .iter()
            .map(|(id, entry)| (*id, entry.clone()))
            .collect();
        entries.sort_by_key(|(id, _)| *id);
        entries.into_iter().map(|(_, entry)| entry).collect()
    }

    /// Brings the byte counters of the metrics up to date.
    pub fn flush(&self) {
        for entry in self.list() {
            entry.flow.flush();
        }
    }

    pub(super) fn register(
        this: &Arc<Self>,
        description: &Description,
        flow: Arc<Flow>,
    ) -> Registered {
        let id = this.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            local: description.local.clone(),
            direction: description.direction,
            source: description.source_address,
            original_destination: description.original_destination.clone(),
            actual_destination: description.destination_address,
            transport: description.transport,
            flow,
        };
        this.lock().insert(id, Arc::new(entry));
        Registered {
            id,
            connections: Arc::clone(this),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the list.
pub(super) struct Registered {
    id: u64,
    connections: Arc<Connections>,
}

impl Registered {
    pub(super) fn remove(&self) {
        self.connections.lock().remove(&self.id);
    }
}
