//! Connections that leave HTTP after a 101 (WebSocket): bytes both ways.

use std::cell::Cell;
use std::rc::Rc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;

use super::body::BodyEnd;
use super::exchange::Exchange;
use super::in_flight::InFlight;

const BUFFER_BYTES: usize = 16 * 1024;

/// Relays between the two sides of an upgraded connection until both directions have ended.
pub(super) async fn relay(
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    bytes_sent: Rc<Cell<u64>>,
    exchange: Exchange,
    in_flight: InFlight,
) {
    let (Ok(downstream), Ok(upstream)) = (downstream.await, upstream.await) else {
        return; // one side left before the switch: the exchange says so when it is dropped
    };
    let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
    let copied =
        copy_bidirectional_with_sizes(&mut downstream, &mut upstream, BUFFER_BYTES, BUFFER_BYTES)
            .await;
    if let Ok((_, sent)) = copied {
        bytes_sent.set(sent);
    }
    exchange.finish(BodyEnd::Complete(None));
    drop(in_flight);
}
