//! What is told of each connection: metrics, the access line, the list of open connections.
//!
//! Spec: hbone-and-l4.md 17.

mod access;
pub mod connections;
pub mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use waymark_hbone::CopyCounters;
use waymark_identity::SpiffeId;

use crate::headers::Baggage;
use crate::state::model::{Service, Uid, Workload};
use connections::{Connections, Registered};
pub use metrics::{Metrics, ResponseFlag};
use metrics::{Party, Reporter, ServiceLabels, Traffic, TrafficLabels};

/// Which way a connection goes, seen from the local workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the words of the log")]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    /// As logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// One side of a connection, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// The workload.
    pub workload: Option<Arc<Workload>>,
    /// What it says of itself; fills in what the workload does not tell.
    pub baggage: Option<Baggage>,
    /// Who it proved to be.
    pub identity: Option<SpiffeId>,
}

impl Side {
    /// A side of which only the workload is known.
    pub fn of(workload: Option<Arc<Workload>>) -> Self {
        Self {
            workload,
            ..Self::default()
        }
    }

    fn party(&self) -> Party {
        let workload = self.workload.as_deref();
        let baggage = self.baggage.as_ref();
        let pick = |own: fn(&Workload) -> &Arc<str>, said: fn(&Baggage) -> &Option<Arc<str>>| {
            let own = workload.map(own).filter(|text| !text.is_empty());
            own.or_else(|| baggage.and_then(|baggage| said(baggage).as_ref()))
                .cloned()
        };
        Party {
            workload: pick(|w| &w.workload_name, |b| &b.workload_name),
            canonical_service: pick(|w| &w.canonical_name, |b| &b.canonical_name),
            canonical_revision: pick(|w| &w.canonical_revision, |b| &b.canonical_revision),
            namespace: pick(|w| &w.namespace, |b| &b.namespace),
            cluster: pick(|w| &w.cluster_id, |b| &b.cluster),
            region: pick(|w| &w.locality.region, |b| &b.region),
            zone: pick(|w| &w.locality.zone, |b| &b.zone),
            principal: self.identity.clone(),
        }
    }
}

/// How bytes travel on the mesh side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A tunnel with mutual TLS.
    Hbone,
    /// In clear.
    Tcp,
}

/// A connection about to be made: what logs, metrics and the list of connections say of it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Seen from the local workload.
    pub direction: Direction,
    /// The local workload; `None` for a client outside the mesh.
    pub local: Option<Uid>,
    /// TCP peer.
    pub source_address: SocketAddr,
    /// Where it is connected to.
    pub destination_address: SocketAddr,
    /// `:authority` of the tunnel, where there is one.
    pub hbone_address: Option<String>,
    /// What it was addressed to.
    pub original_destination: Option<String>,
    /// Client.
    pub source: Side,
    /// Server.
    pub destination: Side,
    /// Addressed service.
    pub service: Option<Arc<Service>>,
    /// Mesh side.
    pub transport: Transport,
    /// What enforcement did with it, where it did something.
    pub enforcement: Option<&'static str>,
}

/// All telemetry of the proxy.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Counters.
    pub metrics: Metrics,
    /// Open connections.
    pub connections: Arc<Connections>,
}

impl Telemetry {
    /// Notes the beginning of a connection.
    pub fn open(&self, description: Description) -> Open {
        let labels = TrafficLabels {
            reporter: match description.direction {
                Direction::Inbound => Reporter::Destination,
                Direction::Outbound => Reporter::Source,
            },
            source: description.source.party(),
            destination: description.destination.party(),
            service: description.service.as_deref().map(|service| ServiceLabels {
                hostname: service.key.hostname.clone(),
                name: service.name.clone(),
                namespace: service.key.namespace.clone(),
            }),
            mutual_tls: description.transport == Transport::Hbone,
        };
        let traffic = self.metrics.traffic(labels);
        traffic.opened.fetch_add(1, Ordering::Relaxed);
        self.metrics.socket_opened(description.direction);
        access::opened(&description);
        let flow = Arc::new(Flow {
            counters: CopyCounters::default(),
            traffic,
            sent: 0.into(),
            received: 0.into(),
        });
        let registered = Connections::register(&self.connections, &description, Arc::clone(&flow));
        Open {
            description,
            flow,
            started: Instant::now(),
            done: false,
            registered,
            metrics: self.metrics.clone(),
        }
    }

    /// Notes a connection that failed before anything was known of it.
    pub fn failed_early(
        &self,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
        error: &dyn std::error::Error,
    ) {
        access::failed_early(direction, source, destination, &chain(error));
    }
}

/// Bytes of one connection, and the counters that they go to.
#[derive(Debug)]
pub struct Flow {
    /// Forward: from the client. Backward: to the client.
    pub counters: CopyCounters,
    traffic: Arc<Traffic>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Flow {
    /// Adds what was copied since the last time to the metrics.
    pub(crate) fn flush(&self) {
        for (now, told, total) in [
            (&self.counters.backward, &self.sent, &self.traffic.sent),
            (
                &self.counters.forward,
                &self.received,
                &self.traffic.received,
            ),
        ] {
            let now = now.load(Ordering::Relaxed);
            let before = told.fetch_max(now, Ordering::Relaxed);
            total.fetch_add(now.saturating_sub(before), Ordering::Relaxed);
        }
    }
}

/// An open connection. Dropping it unfinished (the client left meanwhile, or the proxy ends) counts as an end as well.
pub struct Open {
    description: Description,
    flow: Arc<Flow>,
    started: Instant,
    done: bool,
    registered: Registered,
    metrics: Metrics,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both sides were done.
    Complete,
    /// It never came to bytes.
    NotConnected(ResponseFlag, String),
    /// It broke.
    Broken(ResponseFlag, String),
}

impl Outcome {
    /// It never came to bytes, because of `error`.
    pub fn not_connected(flag: ResponseFlag, error: &dyn std::error::Error) -> Self {
        Self::NotConnected(flag, chain(error))
    }
}

impl Open {
    /// Where bytes are counted.
    pub fn counters(&self) -> &CopyCounters {
        &self.flow.counters
    }

    /// Sets what is only known once the connection is made.
    pub fn describe(&mut self, change: impl FnOnce(&mut Description)) {
        change(&mut self.description);
    }

    /// Notes the end.
    pub fn finish(mut self, outcome: Outcome) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome) {
        self.done = true;
        self.flow.flush();
        let (flag, error) = match &outcome {
            Outcome::Complete => (ResponseFlag::None, None),
            Outcome::NotConnected(flag, error) => {
                self.flow
                    .traffic
                    .failed(*flag)
                    .fetch_add(1, Ordering::Relaxed);
                (*flag, Some(error.as_str()))
            }
            Outcome::Broken(flag, error) => (*flag, Some(error.as_str())),
        };
        self.flow
            .traffic
            .closed(flag)
            .fetch_add(1, Ordering::Relaxed);
        self.metrics.socket_closed(self.description.direction);
        self.registered.remove();
        access::complete(
            &self.description,
            &self.flow.counters,
            self.started.elapsed(),
            error,
        );
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.done {
            self.end(Outcome::Broken(
                ResponseFlag::None,
                "connection given up before it was established".to_owned(),
            ));
        }
    }
}

/// An error and its causes in one line; a cause that its error repeats is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}
