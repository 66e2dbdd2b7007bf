//! Connections that leave HTTP after a 101 (WebSocket): bytes both ways.

use std::sync::atomic::Ordering;

use waymark_hbone::{CopyCounters, Side, Tunnel, copy_bidirectional};

use super::exchange::{End, Exchange};
use super::in_flight::Counted;
use crate::cluster::{Open, UpstreamBroke};
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

    /// Relays between the two sides until both directions have ended. That there is an end is in the nature of such a
    /// connection; whose it was is what the access log tells, as Envoy's does.
    pub(super) async fn relay(mut self, mut client: Tunnel, exchange: &mut Exchange) {
        let counters = CopyCounters::default();
        let outcome = copy_bidirectional(&mut client, &mut self.upstream, &counters).await;
        let facts = exchange.facts();
        facts.received += counters.forward.load(Ordering::Relaxed);
        facts.sent += counters.backward.load(Ordering::Relaxed);
        exchange.finish(match outcome.ended_first {
            Side::First => End::Downstream,
            Side::Second => End::Upstream(UpstreamBroke::Closed),
        });
    }
}
