//! A worker: one thread, its event loop, and everything that requests on it need, shared with no other thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use waymark_hbone::{ClientTls, Drain};
use waymark_identity::SpiffeId;

use crate::cluster::Clusters;
use crate::downstream::NodeAccount;
use crate::near::Near;
use crate::originate::Originator;
use crate::program::{Snapshot, SnapshotCell};
use crate::random::Random;
use crate::signal::{Event, Signal};
use crate::telemetry::Telemetry;

/// What all workers of a waypoint share.
pub struct Shared {
    /// The configuration.
    pub snapshot: SnapshotCell,
    /// Who the waypoint is.
    pub identity: SpiffeId,
    /// The address that tunnels to endpoints are dialled from.
    pub bind: Option<std::net::IpAddr>,
    /// Whose certificate tunnels to endpoints show.
    pub client_tls: Arc<dyn ClientTls>,
    /// Whose word about a client's principal is believed.
    pub node_account: NodeAccount,
    /// Takes note of what happens.
    pub telemetry: Arc<Telemetry>,
    /// When to finish.
    pub drain: Drain,
}

/// One worker.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    snapshot: RefCell<Current>,
    pub(crate) clusters: Clusters,
    pub(crate) originator: Rc<Originator>,
    pub(crate) random: Random,
    /// The drain has begun.
    pub(crate) draining: Event,
    serving: Cell<usize>,
    served: Signal,
}

impl Worker {
    /// A worker of the current thread, whose executor runs.
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let originator = Originator::new(
            Arc::clone(&shared.client_tls),
            shared.identity.clone(),
            shared.bind,
        );
        Rc::new(Self {
            snapshot: RefCell::new(Current::new(&shared.snapshot)),
            clusters: Clusters::default(),
            originator: Rc::new(originator),
            random: Random::from_system(),
            draining: Event::default(),
            serving: Cell::new(0),
            served: Signal::default(),
            shared,
        })
    }

    /// The configuration now. Taken once a request, so that everything in it agrees.
    pub(crate) fn snapshot(&self) -> Near<Snapshot> {
        self.snapshot.borrow_mut().load()
    }

    /// What all workers share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The waypoint's identity as text.
    pub(crate) fn local_principal(&self) -> &str {
        self.shared.identity.as_str()
    }

    /// What takes note.
    pub(crate) fn telemetry(&self) -> &Telemetry {
        &self.shared.telemetry
    }

    /// Starts a task that serves a client; the drain waits for it.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        name: &'static str,
        task: impl Future<Output = ()> + 'static,
    ) {
        let serving = Serving::begin(self);
        waymark_driver::spawn(name, async move {
            task.await;
            drop(serving);
        })
        .detach();
    }

    /// Resolves when no client's connection or tunnel is served any more.
    pub(crate) async fn finished(&self) {
        while self.serving.get() > 0 {
            self.served.raised().await;
        }
    }

    /// Follows the configuration where no request does: idle connections, endpoints and clusters that are gone.
    pub(crate) fn sweep(&self) {
        let nodes = self.clusters.sweep(&self.snapshot(), &self.random);
        self.originator.retain(nodes.as_ref());
    }
}

/// The configuration as a worker saw it last.
struct Current {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    near: Near<Snapshot>,
}

impl Current {
    fn new(cell: &SnapshotCell) -> Self {
        Self {
            cache: Cache::new(Arc::clone(cell)),
            near: Near::new(&cell.load()),
        }
    }

    fn load(&mut self) -> Near<Snapshot> {
        let now = self.cache.load();
        if !Arc::ptr_eq(&self.near, now) {
            self.near = Near::new(now);
        }
        self.near.clone()
    }
}

/// Counts a client that is served.
struct Serving(Weak<Worker>);

impl Serving {
    fn begin(worker: &Rc<Worker>) -> Self {
        worker.serving.set(worker.serving.get() + 1);
        Self(Rc::downgrade(worker))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(worker) = self.0.upgrade() {
            worker.serving.set(worker.serving.get() - 1);
            worker.served.raise();
        }
    }
}
