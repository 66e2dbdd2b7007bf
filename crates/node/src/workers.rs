//! The threads that carry the data path: one executor each, with its own pool of tunnels.
//!
//! A connection is accepted by the worker that watches its listener and stays with the worker that has the fewest; from
//! then on it never changes thread. Control loops (xDS, certificates, admin) run elsewhere.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use waymark_driver::{Executor, Tasks};
use waymark_hbone::Pool;

/// A worker, as other threads see it.
pub struct Worker {
    /// Position among the workers.
    pub index: usize,
    /// What other threads want done here. Holds at most a listener for each captured address, and a connection for each
    /// that this worker has agreed to carry (see [`least_busy`]).
    inbox: Mutex<VecDeque<Job>>,
    filled: Notify,
    active: AtomicUsize,
}

type Job = Box<dyn FnOnce(&Rc<Local>) + Send>;

/// A worker, as its own thread sees it.
pub struct Local {
    worker: Arc<Worker>,
    tasks: Tasks,
    pool: OnceCell<Pool>,
}

/// All worker threads; they end when this is dropped.
pub struct Workers {
    workers: Arc<[Arc<Worker>]>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let worker = |index| {
            Arc::new(Worker {
                index,
                inbox: Mutex::default(),
                filled: Notify::new(),
                active: AtomicUsize::new(0),
            })
        };
        let mut this = Self {
            workers: (0..count.get()).map(worker).collect(),
            stop: CancellationToken::new(),
            threads: Vec::new(),
        };
        for worker in this.workers.iter() {
            // Waits until the event loop is made, so that a lack of descriptors is told here.
            let (made, outcome) = std::sync::mpsc::sync_channel(1);
            let (worker, stop) = (Arc::clone(worker), this.stop.clone());
            let run = move || match Executor::new() {
                Ok(mut executor) => {
                    let _ = made.send(Ok(()));
                    executor.block_on(stop.run_until_cancelled_owned(worker.run()));
                }
                Err(error) => {
                    let _ = made.send(Err(error));
                }
            };
            let name = format!("waymark-node-{}", this.threads.len());
            this.threads
                .push(std::thread::Builder::new().name(name).spawn(run)?);
            outcome
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
        }
        Ok(this)
    }

    /// The workers.
    pub fn all(&self) -> &Arc<[Arc<Worker>]> {
        &self.workers
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Worker {
    /// Has something done on this worker's thread. It must not block.
    pub fn run_there(&self, job: impl FnOnce(&Rc<Local>) + Send + 'static) {
        self.inbox().push_back(Box::new(job));
        self.filled.notify_one();
    }

    /// Does what it is told, on its own thread.
    async fn run(self: Arc<Self>) {
        let local = Rc::new(Local {
            worker: self,
            tasks: Tasks::new(),
            pool: OnceCell::new(),
        });
        loop {
            let job = local.worker.inbox().pop_front();
            match job {
                Some(job) => job(&local),
                None => local.worker.filled.notified().await,
            }
        }
    }

    fn inbox(&self) -> std::sync::MutexGuard<'_, VecDeque<Job>> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    /// This worker, for other threads.
    pub fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    /// The tunnels of this worker.
    pub fn pool(&self, make: impl FnOnce() -> Pool) -> &Pool {
        self.pool.get_or_init(make)
    }

    /// Starts a task on this worker.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(name, future);
    }
}

/// A connection that counts for [`least_busy`], from when its worker is chosen to its end.
pub struct Load {
    worker: Arc<Worker>,
}

impl Load {
    /// Counts one more.
    pub fn of(worker: &Arc<Worker>) -> Self {
        worker.active.fetch_add(1, Ordering::Relaxed);
        Self {
            worker: Arc::clone(worker),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.worker.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The worker with the fewest connections; `preferred` among equals, so that a connection stays where it was accepted.
pub fn least_busy<'a>(workers: &'a [Arc<Worker>], preferred: &'a Arc<Worker>) -> &'a Arc<Worker> {
    let load = |worker: &Worker| worker.active.load(Ordering::Relaxed);
    let least = workers
        .iter()
        .min_by_key(|worker| load(worker))
        .unwrap_or(preferred);
    if load(least) < load(preferred) {
        least
    } else {
        preferred
    }
}
