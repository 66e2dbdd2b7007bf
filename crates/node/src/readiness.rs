//! Whether the proxy does its work, and what it waits for if not.
//!
//! Spec: hbone-and-l4.md 17.4.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::{Capture, Entry};

/// What start-up waits for, and what stands in the way of capture.
#[derive(Clone)]
pub struct Readiness {
    shared: Arc<Shared>,
}

struct Shared {
    pending: Mutex<BTreeSet<&'static str>>,
    capture: Box<dyn Capture + Send + Sync>,
}

impl Readiness {
    /// Waits for each of `pending`, and for the capture of what the state asks for.
    pub fn new(
        pending: impl IntoIterator<Item = &'static str>,
        capture: Box<dyn Capture + Send + Sync>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                pending: Mutex::new(pending.into_iter().collect()),
                capture,
            }),
        }
    }

    /// A part of start-up is done.
    pub fn done(&self, part: &'static str) {
        self.shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(part);
    }

    /// What is waited for; empty when ready. Obstacles of capture say address and cause.
    pub fn pending(&self) -> Vec<String> {
        let parts = self
            .shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut pending: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        if parts.is_empty() && !self.shared.capture.is_settled() {
            pending.push("capture".to_owned());
        }
        pending.extend(self.shared.capture.obstacles());
        pending
    }

    /// Addresses that are captured now.
    pub fn captured(&self) -> BTreeMap<SocketAddr, Entry> {
        self.shared.capture.captured()
    }

    /// What stands in the way of capture.
    pub fn obstacles(&self) -> Vec<String> {
        self.shared.capture.obstacles()
    }
}
