//! Connections that leave HTTP after a 101 (WebSocket): bytes both ways.

use std::sync::atomic::Ordering;

use waymark_hbone::{CopyCounters, Tunnel, copy_bidirectional};

use super::exchange::{End, Exchange};
use super::in_flight::Counted;
use crate::cluster::Open;
use crate::originate::Upstream;

/// The upstream's side of a connection that has left HTTP.
pub(super) struct Switched {
    upstream: Upstream,
    /// Request and connection count as active until the end.
    _counted: (Counted, Open),
}

impl Switched {
    pub(super) fn new(upstream: Upstream, open: Open, counted: Counted) -> Self {
        Self {
            upstream,
            _counted: (counted, open),
        }
    }

    /// Relays between the two sides until both directions have ended.
    pub(super) async fn relay(mut self, mut client: Tunnel, exchange: &mut Exchange) {
        let counters = CopyCounters::default();
        // However it ends, that is the end of the exchange, and no error of it.
        copy_bidirectional(&mut client, &mut self.upstream, &counters).await;
        let facts = exchange.facts();
        facts.received += counters.forward.load(Ordering::Relaxed);
        facts.sent += counters.backward.load(Ordering::Relaxed);
        exchange.finish(End::Complete(None));
    }
}
