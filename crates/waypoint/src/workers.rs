//! The threads, and which of them a connection goes to.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use waymark_hbone::{Acceptor, ServerTls};
use waymark_rt::Listener;

use crate::listener::{serve_connection, server_settings};
use crate::program::HboneServer;
use crate::worker::{Shared, Worker};

/// Accepted connections that wait for their worker. When it is full the worker is behind, and the kernel's backlog holds
/// the rest.
const QUEUE: usize = 128;
/// How often a worker looks for what no request tells it: idle connections, endpoints that are gone.
const SWEEP: Duration = Duration::from_secs(1);

/// How long it takes until everybody has heard that a waypoint drains.
const ACCEPT_WHILE_DRAINING: Duration = Duration::from_millis(300);

/// The workers of a waypoint. They end when this is dropped and the drain has killed or finished what is open.
pub struct Workers {
    workers: Vec<Handle>,
}

struct Handle {
    connections: mpsc::Sender<StdTcpStream>,
    open: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(count: usize, shared: &Arc<Shared>, tls: &Arc<dyn ServerTls>) -> io::Result<Self> {
        let workers = (0..count.max(1))
            .map(|index| start_one(index, Arc::clone(shared), Arc::clone(tls)))
            .collect::<io::Result<_>>()?;
        Ok(Self { workers })
    }

    /// Accepts connections, each for the worker that has the fewest, until a moment after the drain has begun: who did not
    /// hear of it yet is served, and told to go away.
    ///
    /// A kernel that spreads them by hash gives one worker the busiest two of three clients as often as not, and a source
    /// pod has but one connection.
    pub async fn accept(&self, mut listener: Listener, shared: &Shared) {
        let drained = async {
            shared.drain.cancelled().await;
            sleep(ACCEPT_WHILE_DRAINING).await;
        };
        tokio::pin!(drained);
        loop {
            let (tcp, _) = tokio::select! {
                biased;
                () = &mut drained => return,
                accepted = listener.accept() => accepted,
            };
            let Some(worker) = self
                .workers
                .iter()
                .min_by_key(|w| w.open.load(Ordering::Relaxed))
            else {
                return;
            };
            let Ok(tcp) = tcp.into_std() else { continue };
            worker.open.fetch_add(1, Ordering::Relaxed);
            if worker.connections.send(tcp).await.is_err() {
                worker.open.fetch_sub(1, Ordering::Relaxed);
                tracing::error!("a worker is gone");
                return;
            }
        }
    }

    /// How many connections each worker has.
    #[must_use]
    pub fn open_connections(&self) -> Vec<usize> {
        self.workers
            .iter()
            .map(|w| w.open.load(Ordering::Relaxed))
            .collect()
    }

    /// Waits until every worker has ended. Blocks the thread.
    pub fn join(self) {
        for worker in self.workers {
            drop(worker.connections);
            if worker.thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

fn start_one(index: usize, shared: Arc<Shared>, tls: Arc<dyn ServerTls>) -> io::Result<Handle> {
    let (connections, queue) = mpsc::channel(QUEUE);
    let open = Arc::new(AtomicUsize::new(0));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let counted = Arc::clone(&open);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, run(shared, tls, queue, counted));
        })?;
    Ok(Handle {
        connections,
        open,
        thread,
    })
}

async fn run(
    shared: Arc<Shared>,
    tls: Arc<dyn ServerTls>,
    mut queue: mpsc::Receiver<StdTcpStream>,
    open: Arc<AtomicUsize>,
) {
    let worker = Worker::new(Arc::clone(&shared));
    let mut terminator = Terminator { tls, current: None };
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let killed = shared.drain.killed();
    loop {
        tokio::select! {
            biased;
            () = killed.cancelled() => break,
            tcp = queue.recv() => {
                let Some(tcp) = tcp else { break };
                let counted = OpenConnection(Arc::clone(&open));
                let Ok(tcp) = TcpStream::from_std(tcp) else { continue };
                let Some(acceptor) = terminator.acceptor(&worker) else { continue };
                let of_connection = Rc::clone(&worker);
                worker.spawn("connection", async move {
                    serve_connection(of_connection, acceptor, tcp).await;
                    drop(counted);
                });
            }
            _ = sweep.tick() => worker.sweep(),
        }
    }
    // No more connections come: those that are open finish, until the deadline.
    tokio::select! {
        biased;
        () = killed.cancelled() => {}
        () = worker.finished() => {}
    }
}

/// The acceptor for the configuration of the moment.
struct Terminator {
    tls: Arc<dyn ServerTls>,
    current: Option<(Arc<HboneServer>, Acceptor)>,
}

impl Terminator {
    fn acceptor(&mut self, worker: &Worker) -> Option<Acceptor> {
        let snapshot = worker.snapshot();
        let hbone = snapshot.hbone.as_ref()?;
        match &self.current {
            Some((of, acceptor)) if Arc::ptr_eq(of, hbone) => Some(acceptor.clone()),
            Some(_) | None => {
                let acceptor = Acceptor::new(Arc::clone(&self.tls), server_settings(hbone));
                self.current = Some((Arc::clone(hbone), acceptor.clone()));
                Some(acceptor)
            }
        }
    }
}

/// Counts a connection for as long as it is open.
struct OpenConnection(Arc<AtomicUsize>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
