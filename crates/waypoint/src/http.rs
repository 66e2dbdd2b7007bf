//! HTTP inside a tunnel: what Envoy's connection manager does, on one connection of a client.

mod admit;
mod client;
mod edit;
mod exchange;
mod failure;
mod filters;
mod forward;
mod grpc_timeout;
mod headers;
mod http1;
mod http2;
mod in_flight;
mod local_reply;
mod path;
mod relay;
mod request;
mod respond;
mod timers;
mod upgrade;
mod upload;

#[cfg(test)]
pub(crate) mod fixture;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use waymark_hbone::Tunnel;

use self::client::After;
use self::upgrade::Switched;
use crate::downstream::Downstream;
use crate::near::Near;
use crate::program::{Chain, ChainId, Snapshot};
use crate::signal::Event;
use crate::telemetry::HttpStats;
use crate::worker::Worker;

/// The version that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// One client connection.
pub(crate) struct HttpConnection {
    worker: Rc<Worker>,
    downstream: Downstream,
    id: ChainId,
    /// The chain as the last request saw it: it serves on when the configuration has it no more, and then ends.
    chain: RefCell<Near<Chain>>,
    /// The figures of that chain.
    stats: RefCell<Arc<HttpStats>>,
    requests: Cell<u32>,
    closing: Event,
}

/// How a request was served.
enum Served {
    /// With a response, or as much of one as there was.
    Answered(After),
    /// By leaving HTTP.
    Switched(Box<Switched>),
}

impl HttpConnection {
    /// The chain and the snapshot for one request.
    fn chain(&self) -> (Near<Chain>, Near<Snapshot>) {
        let snapshot = self.worker.snapshot();
        match snapshot.chain(self.id) {
            Some(arc) if matches!(**arc, Chain::Http(_)) => {
                let mut mine = self.chain.borrow_mut();
                if !Arc::ptr_eq(&mine, arc) {
                    *mine = Near::new(arc);
                    *self.stats.borrow_mut() = stats_of(&self.worker, arc);
                }
            }
            Some(_) | None => self.close_after_response(),
        }
        self.requests.set(self.requests.get().saturating_add(1));
        let chain = self.chain.borrow().clone();
        let most = exchange::http_of(&chain).max_requests_per_connection;
        if most.is_some_and(|most| self.requests.get() >= most) {
            self.close_after_response();
        }
        (chain, snapshot)
    }

    /// Whether the client should send no further request on it.
    fn is_ending(&self) -> bool {
        self.closing.has_happened() || self.worker.draining.has_happened()
    }

    /// Ends the connection once what is open on it is answered.
    fn close_after_response(&self) {
        self.closing.happen();
    }
}

/// Serves a client's connection until either side ends it. `chain` is an HTTP chain.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    tunnel: Tunnel,
    downstream: Downstream,
    id: ChainId,
    chain: Arc<Chain>,
    wire: Wire,
) {
    let connection = Rc::new(HttpConnection {
        stats: RefCell::new(stats_of(&worker, &chain)),
        worker,
        downstream,
        id,
        chain: RefCell::new(Near::new(&chain)),
        requests: Cell::new(0),
        closing: Event::default(),
    });
    match wire {
        Wire::Http1 => http1::serve(&connection, tunnel).await,
        Wire::Http2 => http2::serve(&connection, tunnel).await,
    }
}

fn stats_of(worker: &Worker, chain: &Chain) -> Arc<HttpStats> {
    let prefix = &exchange::http_of(chain).stat_prefix;
    worker.telemetry().http(prefix)
}
