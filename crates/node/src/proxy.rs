//! The data path: takes captured connections and carries their bytes.

mod arrival;
mod carry;
mod dial;
mod inbound;
mod outbound;

use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;
use waymark_hbone::{Acceptor, Drain, Pool, PoolSettings, ServerSettings};
use waymark_rt::connect::{Keepalive, set_keepalive};
use waymark_rt::{ConnectOptions, Shutdown};

use crate::capture::{Captured, Entry, Intake};
use crate::certificates::Certificates;
use crate::state::{StateHandle, Workload};
use crate::telemetry::Telemetry;
use crate::workers::{Worker, adopt, least_busy};

/// Everything that a connection needs. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

struct Shared {
    state: StateHandle,
    certificates: Certificates,
    telemetry: Arc<Telemetry>,
    /// Source address of what the proxy sends in its own name.
    own_address: Option<IpAddr>,
    workers: Arc<[Arc<Worker>]>,
    /// One for each worker.
    pools: Box<[Pool]>,
    acceptor: Acceptor,
    drain: Drain,
    shutdown: Shutdown,
    /// Connections that have not ended.
    open: TaskTracker,
    connect: ConnectOptions,
}

/// What a [`Proxy`] is made of.
pub struct Parts {
    /// What is known of the mesh.
    pub state: StateHandle,
    /// Certificates of the local workloads and the proxy's own.
    pub certificates: Certificates,
    /// Where connections are accounted for.
    pub telemetry: Arc<Telemetry>,
    /// Source address of what the proxy sends in its own name; `None`: whatever the kernel chooses.
    pub own_address: Option<IpAddr>,
    /// The threads that carry connections.
    pub workers: Arc<[Arc<Worker>]>,
    /// When to end.
    pub shutdown: Shutdown,
}

impl Proxy {
    /// A proxy that serves what it is given by its [`Intake`].
    pub fn new(parts: Parts) -> Self {
        let drain = Drain::from(&parts.shutdown);
        let pool = |_: &Arc<Worker>| {
            Pool::new(parts.certificates.clone(), PoolSettings::default(), &drain)
        };
        Self {
            shared: Arc::new(Shared {
                pools: parts.workers.iter().map(pool).collect(),
                acceptor: Acceptor::new(parts.certificates.clone(), ServerSettings::default()),
                state: parts.state,
                certificates: parts.certificates,
                telemetry: parts.telemetry,
                own_address: parts.own_address,
                workers: parts.workers,
                drain,
                shutdown: parts.shutdown,
                open: TaskTracker::new(),
                connect: ConnectOptions::default(),
            }),
        }
    }

    /// Resolves when the last connection has ended; to be asked once nothing is captured any more.
    pub async fn finished(&self) {
        self.shared.open.close();
        self.shared.open.wait().await;
    }

    fn pool(&self, worker: &Worker) -> &Pool {
        &self.shared.pools[worker.index]
    }

    /// The workload of this node that calls from an address, if the mesh carries its connections. Anybody else is a client
    /// outside the mesh.
    fn mesh_client(&self, address: IpAddr) -> Option<Arc<Workload>> {
        self.shared
            .state
            .load()
            .local_workload(address)
            .filter(|workload| workload.is_captured())
            .cloned()
    }
}

impl Intake for Proxy {
    fn hold(&self) -> TaskTrackerToken {
        self.shared.open.token()
    }

    fn take(&self, accepted_by: &Arc<Worker>, captured: Captured) {
        let worker = Arc::clone(least_busy(&self.shared.workers, accepted_by));
        let proxy = self.clone();
        let hold = self.shared.open.token();
        if Arc::ptr_eq(&worker, accepted_by) {
            worker.clone().carry("connection", async move {
                let _hold = hold;
                proxy.serve(&worker, captured).await;
            });
            return;
        }
        // A socket is watched by the event loop of the thread that uses it.
        let Captured {
            stream,
            peer,
            destination,
            entry,
            released,
        } = captured;
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%peer, %error, "accepted connection is gone");
                return;
            }
        };
        worker.clone().carry("connection", async move {
            let _hold = hold;
            match adopt(stream) {
                Ok(stream) => {
                    proxy
                        .serve(
                            &worker,
                            Captured {
                                stream,
                                peer,
                                destination,
                                entry,
                                released,
                            },
                        )
                        .await
                }
                Err(error) => debug!(%peer, %error, "accepted connection is gone"),
            }
        });
    }
}

impl Proxy {
    async fn serve(&self, worker: &Arc<Worker>, captured: Captured) {
        // Tunnels have HTTP/2 pings instead. It fails only on a socket that is gone, whose first use says so.
        if captured.entry != Entry::InboundHbone {
            let _ = set_keepalive(&captured.stream, &Keepalive::default());
        }
        match captured.entry {
            Entry::Outbound => {
                let client = self.mesh_client(captured.peer.ip());
                self.outbound(worker, captured, client).await;
            }
            // A workload of the mesh that addresses a pod: captured at its destination instead of its source, and served as
            // if it had been captured there.
            Entry::InboundPlain => match self.mesh_client(captured.peer.ip()) {
                Some(client) => self.outbound(worker, captured, Some(client)).await,
                None => self.inbound_plain(worker, captured).await,
            },
            Entry::InboundHbone => self.inbound_hbone(worker, captured).await,
        }
    }
}
