//! The data path: takes captured connections and carries their bytes.

mod arrival;
mod carry;
mod dial;
mod inbound;
mod outbound;

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use waymark_hbone::{Acceptor, Drain, Pool, PoolSettings, ServerSettings};
use waymark_rt::connect::{Keepalive, set_keepalive};
use waymark_rt::{ConnectOptions, Shutdown};

use crate::capture::{Captured, Entry, Intake};
use crate::certificates::Certificates;
use crate::state::{StateHandle, Workload};
use crate::telemetry::Telemetry;
use crate::workers::{Load, Local, Worker, least_busy};

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
    /// Where names are resolved.
    control: Handle,
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
    ///
    /// # Panics
    /// Outside a tokio runtime: names are resolved there.
    pub fn new(parts: Parts) -> Self {
        let drain = Drain::from(&parts.shutdown);
        Self {
            shared: Arc::new(Shared {
                control: Handle::current(),
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

    fn pool<'l>(&self, here: &'l Local) -> &'l Pool {
        let shared = &self.shared;
        here.pool(|| {
            Pool::new(
                shared.certificates.clone(),
                PoolSettings::default(),
                &shared.drain,
            )
        })
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

    fn take(&self, here: &Rc<Local>, captured: Captured) {
        let worker = least_busy(&self.shared.workers, here.worker());
        let load = Load::of(worker);
        let hold = self.shared.open.token();
        let proxy = self.clone();
        let serve = move |there: &Rc<Local>| {
            let local = Rc::clone(there);
            there.spawn("connection", async move {
                let (_load, _hold) = (load, hold);
                proxy.serve(&local, captured).await;
            });
        };
        if Arc::ptr_eq(worker, here.worker()) {
            serve(here);
        } else {
            worker.run_there(serve);
        }
    }
}

impl Proxy {
    async fn serve(&self, here: &Rc<Local>, captured: Captured) {
        // Tunnels have HTTP/2 pings instead. It fails only on a socket that is gone, whose first use says so.
        if captured.entry != Entry::InboundHbone {
            let _ = set_keepalive(&captured.stream, &Keepalive::default());
        }
        match captured.entry {
            Entry::Outbound => {
                let client = self.mesh_client(captured.peer.ip());
                self.outbound(here, captured, client).await;
            }
            // A workload of the mesh that addresses a pod: captured at its destination instead of its source, and served as
            // if it had been captured there.
            Entry::InboundPlain => match self.mesh_client(captured.peer.ip()) {
                Some(client) => self.outbound(here, captured, Some(client)).await,
                None => self.inbound_plain(here, captured).await,
            },
            Entry::InboundHbone => self.inbound_hbone(here, captured).await,
        }
    }
}
