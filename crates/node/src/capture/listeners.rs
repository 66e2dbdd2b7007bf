//! Capture by listening on the addresses of services and pods.
//!
//! The set of listeners follows the state: only what a change touches is opened or closed, everything else is left alone,
//! and connections outlive their listener. An address that cannot be bound is reported and tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, info};
use waymark_driver::TcpListener;
use waymark_rt::Task;
use waymark_rt::listen::{ListenError, ListenOptions, bind};

use super::wanted::{self, Point};
use super::{Capture, Captured, Entry, Intake};
use crate::state::{ServiceKey, StateHandle, Store, Touched, Uid};
use crate::telemetry::chain;
use crate::workers::{Local, Worker};

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Keeps listeners in line with the state until dropped.
pub struct Listeners {
    status: Arc<Mutex<Status>>,
    _task: Task<()>,
}

#[derive(Debug, Default)]
struct Status {
    open: BTreeMap<SocketAddr, Entry>,
    settled: bool,
    obstacles: BTreeMap<SocketAddr, String>,
}

impl Listeners {
    /// Starts capturing what the state has and will have. Ends when `drain` begins: the listeners are closed.
    pub fn start(
        state: StateHandle,
        workers: Arc<[Arc<Worker>]>,
        intake: Arc<dyn Intake>,
        drain: CancellationToken,
    ) -> Self {
        let status = Arc::new(Mutex::new(Status::default()));
        let set = Set {
            workers,
            intake,
            status: Arc::clone(&status),
            owners: HashMap::new(),
            points: HashMap::new(),
        };
        let task = waymark_rt::spawn("capture", async move {
            drain.run_until_cancelled_owned(set.follow(state)).await;
        });
        Self {
            status,
            _task: task,
        }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Capture for Listeners {
    fn obstacles(&self) -> Vec<String> {
        self.status().obstacles.values().cloned().collect()
    }

    fn is_settled(&self) -> bool {
        self.status().settled
    }

    fn captured(&self) -> BTreeMap<SocketAddr, Entry> {
        self.status().open.clone()
    }
}

/// Who wants an address captured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Service(ServiceKey),
    Workload(Uid),
}

/// All listeners. Owned by one task.
struct Set {
    workers: Arc<[Arc<Worker>]>,
    intake: Arc<dyn Intake>,
    status: Arc<Mutex<Status>>,
    owners: HashMap<Owner, BTreeSet<Point>>,
    points: HashMap<SocketAddr, Slot>,
}

/// One address: who wants it for what, and how it stands.
struct Slot {
    wanted: BTreeMap<Entry, usize>,
    listener: Standing,
}

enum Standing {
    Closed,
    Open { entry: Entry, _close: DropGuard },
    Failed { retry_at: Instant, pause: Duration },
}

impl Set {
    async fn follow(mut self, state: StateHandle) {
        let mut feed = state.feed();
        let everything = everything(&state.load());
        if !everything.services.is_empty() || !everything.workloads.is_empty() {
            self.update(&state, everything);
        }
        loop {
            let retry_at = self.next_retry();
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                touched = feed.next() => self.update(&state, touched),
                () = retry => self.retry(),
            }
        }
    }

    /// Looks again at what was touched, and at the workloads whose services were: their target ports may have changed.
    fn update(&mut self, state: &StateHandle, touched: Touched) {
        let mut changed = HashSet::new();
        {
            let store = state.load();
            let members = touched
                .services
                .iter()
                .flat_map(|key| store.members(key).iter());
            let also: BTreeSet<Uid> = members
                .filter(|w| store.is_local(w))
                .map(|w| w.uid.clone())
                .collect();
            for key in &touched.services {
                self.set_wanted(
                    Owner::Service(key.clone()),
                    wanted::of_service(&store, key),
                    &mut changed,
                );
            }
            for uid in touched.workloads.union(&also) {
                self.set_wanted(
                    Owner::Workload(uid.clone()),
                    wanted::of_workload(&store, uid),
                    &mut changed,
                );
            }
        }
        for address in changed {
            self.bring_in_line(address);
        }
        self.settle();
    }

    fn set_wanted(
        &mut self,
        owner: Owner,
        now: BTreeSet<Point>,
        changed: &mut HashSet<SocketAddr>,
    ) {
        let before = self.owners.remove(&owner).unwrap_or_default();
        for point in before.difference(&now) {
            if let Some(slot) = self.points.get_mut(&point.address)
                && let Some(count) = slot.wanted.get_mut(&point.entry)
            {
                *count -= 1;
                if *count == 0 {
                    slot.wanted.remove(&point.entry);
                }
            }
            changed.insert(point.address);
        }
        for point in now.difference(&before) {
            let fresh = || Slot {
                wanted: BTreeMap::new(),
                listener: Standing::Closed,
            };
            *self
                .points
                .entry(point.address)
                .or_insert_with(fresh)
                .wanted
                .entry(point.entry)
                .or_default() += 1;
            changed.insert(point.address);
        }
        if !now.is_empty() {
            self.owners.insert(owner, now);
        }
    }

    /// Opens or closes the listener of one address, if it is not as wanted.
    fn bring_in_line(&mut self, address: SocketAddr) {
        let Some(slot) = self.points.get_mut(&address) else {
            return;
        };
        // HBONE before plain text before a service, should an address ever be several things.
        let Some(wanted) = slot.wanted.keys().next_back().copied() else {
            self.points.remove(&address);
            self.set_standing(address, None);
            debug!(%address, "capture ended");
            return;
        };
        match slot.listener {
            Standing::Open { entry, .. } if entry == wanted => return,
            Standing::Open { .. } | Standing::Closed => {}
            // Its turn comes with the retry.
            Standing::Failed { .. } => return,
        }
        slot.listener = Standing::Closed;
        self.open(address, wanted, RETRY_MIN);
    }

    fn open(&mut self, address: SocketAddr, entry: Entry, pause: Duration) {
        let standing = match self.listen(address, entry) {
            Ok(close) => {
                if self.set_standing(address, Some(Ok(entry))) {
                    info!(%address, "capture works now");
                }
                Standing::Open {
                    entry,
                    _close: close,
                }
            }
            Err(error) => {
                let text = match error.hint() {
                    Some(hint) => format!("{}: {hint}", chain(&error)),
                    None => chain(&error),
                };
                if self.set_standing(address, Some(Err(text.clone()))) {
                    debug!(%address, error = %text, "still cannot capture");
                } else {
                    error!(%address, error = %text, "cannot capture");
                }
                Standing::Failed {
                    retry_at: Instant::now() + pause,
                    pause,
                }
            }
        };
        if let Some(slot) = self.points.get_mut(&address) {
            slot.listener = standing;
        }
    }

    fn listen(&self, address: SocketAddr, entry: Entry) -> Result<DropGuard, ListenError> {
        let socket = bind(address, &ListenOptions::default())?;
        let close = CancellationToken::new();
        // Listeners are spread over the workers; where a connection is carried is decided when it comes.
        let spread = usize::from(address.port()).wrapping_add(hash_ip(address));
        let worker = &self.workers[spread % self.workers.len()];
        let released = close.clone();
        let accepting = Accepting {
            hold: self.intake.hold(),
            intake: Arc::clone(&self.intake),
            entry,
            released,
        };
        worker.run_there(move |here| {
            here.spawn("listener", accepting.run(Rc::clone(here), socket));
        });
        debug!(%address, ?entry, "capturing");
        Ok(close.drop_guard())
    }

    fn retry(&mut self) {
        let now = Instant::now();
        let due = |(address, slot): (&SocketAddr, &Slot)| match slot.listener {
            Standing::Failed { retry_at, pause } if retry_at <= now => {
                let entry = slot.wanted.keys().next_back()?;
                Some((*address, *entry, pause))
            }
            Standing::Failed { .. } | Standing::Open { .. } | Standing::Closed => None,
        };
        let due: Vec<_> = self.points.iter().filter_map(due).collect();
        for (address, entry, pause) in due {
            self.open(address, entry, (pause * 2).min(RETRY_MAX));
        }
    }

    fn next_retry(&self) -> Option<Instant> {
        let times = self.points.values().filter_map(|slot| match slot.listener {
            Standing::Failed { retry_at, .. } => Some(retry_at),
            Standing::Open { .. } | Standing::Closed => None,
        });
        times.min()
    }

    /// Says how an address stands, and whether there was an obstacle before.
    fn set_standing(&self, address: SocketAddr, standing: Option<Result<Entry, String>>) -> bool {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.open.remove(&address);
        let obstacle = status.obstacles.remove(&address);
        match standing {
            Some(Ok(entry)) => {
                status.open.insert(address, entry);
            }
            Some(Err(text)) => {
                status.obstacles.insert(address, text);
            }
            None => {}
        }
        obstacle.is_some()
    }

    /// Everything that is wanted has been tried.
    fn settle(&self) {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .settled = true;
    }
}

fn everything(store: &Store) -> Touched {
    Touched {
        workloads: store
            .workloads()
            .map(|workload| workload.uid.clone())
            .collect(),
        services: store
            .services()
            .map(|service| service.key.clone())
            .collect(),
        policies: false,
    }
}

fn hash_ip(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets().iter().map(|b| usize::from(*b)).sum(),
        SocketAddr::V6(v6) => v6.ip().octets().iter().map(|b| usize::from(*b)).sum(),
    }
}

/// One listener's loop.
struct Accepting {
    hold: TaskTrackerToken,
    intake: Arc<dyn Intake>,
    entry: Entry,
    released: CancellationToken,
}

impl Accepting {
    async fn run(self, here: Rc<Local>, socket: std::net::TcpListener) {
        let _hold = self.hold;
        let mut listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                error!(error = %error, "cannot watch a listener");
                return;
            }
        };
        let destination = listener.local_addr();
        // What was queued when the address was released is still taken (as far as that goes on only for so long): the
        // clients were told that they are connected.
        let mut queued = usize::from(ListenOptions::default().backlog);
        while queued > 0 {
            let stream = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = self.released.cancelled() => break,
            };
            queued -= usize::from(self.released.is_cancelled());
            let released = self.released.clone();
            let captured = Captured {
                peer: stream.peer_addr(),
                stream,
                destination,
                entry: self.entry,
                released,
            };
            self.intake.take(&here, captured);
        }
    }
}
