//! What a server counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use waymark_engine::h2::{Refusal, Refusals};

use super::AcceptorInner;

/// What a server counted; all relaxed.
#[derive(Debug, Default)]
pub struct ServerStats {
    /// Connections that were given to [`Acceptor::accept`](super::Acceptor::accept).
    pub connections: AtomicU64,
    /// Connections open now, the ones in a handshake included.
    pub connections_active: AtomicUsize,
    /// Connections closed at once because there were `max_connections`.
    pub connections_refused: AtomicU64,
    /// Failed or timed out handshakes.
    pub handshake_failures: AtomicU64,
    /// CONNECT requests handed out.
    pub streams: AtomicU64,
    /// Requests answered 400: not a CONNECT, or an authority that is none.
    pub bad_requests: AtomicU64,
    /// Connections ended by a protocol error or an exceeded limit of the peer's.
    pub protocol_errors: AtomicU64,
    /// Connections ended because a PING was not answered.
    pub dead_peers: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
}

impl ServerStats {
    /// How often something was refused to peers, on connections that are over.
    #[must_use]
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize].load(Ordering::Relaxed)
    }

    pub(super) fn add_refusals(&self, refusals: &Refusals) {
        for (refusal, count) in refusals.iter() {
            self.refusals[refusal as usize].fetch_add(u64::from(count), Ordering::Relaxed);
        }
    }
}

/// Counts a connection for as long as it lives.
pub(super) struct Active {
    pub(super) acceptor: Arc<AcceptorInner>,
    pub(super) count: usize,
}

impl Active {
    pub(super) fn new(acceptor: Arc<AcceptorInner>) -> Self {
        let active = &acceptor.stats.connections_active;
        let count = active.fetch_add(1, Ordering::Relaxed) + 1;
        Self { acceptor, count }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.acceptor
            .stats
            .connections_active
            .fetch_sub(1, Ordering::Relaxed);
    }
}
