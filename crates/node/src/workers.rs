//! The threads that carry the data path: one event loop each, with its own pool of tunnels.
//!
//! A connection is accepted by the worker that watches its listener and stays with the worker that has the fewest; from
//! then on it never changes thread. Control loops (xDS, certificates, admin) run elsewhere.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use waymark_rt::{Spawner, Tasks};

/// A thread and its event loop.
pub struct Worker {
    /// Position among the workers.
    pub index: usize,
    handle: Handle,
    spawner: Spawner,
    active: AtomicUsize,
}

/// All worker threads; they end when this is dropped.
pub struct Workers {
    workers: Arc<[Arc<Worker>]>,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<Tasks>,
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread or its event loop cannot be made.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut this = Self {
            workers: Arc::new([]),
            stop,
            threads: Vec::new(),
            tasks: Vec::new(),
        };
        let mut workers = Vec::with_capacity(count.get());
        for index in 0..count.get() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let tasks = Tasks::new();
            workers.push(Arc::new(Worker {
                index,
                handle: runtime.handle().clone(),
                spawner: tasks.spawner(),
                active: AtomicUsize::new(0),
            }));
            this.tasks.push(tasks);
            let stop = this.stop.clone();
            let run = move || runtime.block_on(stop.cancelled_owned());
            this.threads.push(
                std::thread::Builder::new()
                    .name(format!("waymark-node-{index}"))
                    .spawn(run)?,
            );
        }
        this.workers = workers.into();
        Ok(this)
    }

    /// The workers.
    pub fn all(&self) -> &Arc<[Arc<Worker>]> {
        &self.workers
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tasks.clear();
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Worker {
    /// Starts a task on this worker, from any thread.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let _on_this_worker = self.handle.enter();
        self.spawner.spawn(name, future);
    }

    /// Starts a task that this worker is responsible for a connection with; it counts for [`least_busy`].
    pub fn carry(
        self: &Arc<Self>,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let load = Load::of(self);
        self.spawn(name, async move {
            let _load = load;
            future.await;
        });
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

/// Moves an accepted connection to the event loop of the current thread.
///
/// # Errors
/// When the loop cannot watch it.
pub fn adopt(stream: std::net::TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream)
}

struct Load {
    worker: Arc<Worker>,
}

impl Load {
    fn of(worker: &Arc<Worker>) -> Self {
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
