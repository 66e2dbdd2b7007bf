//! The threads, and which of them a connection goes to.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::TcpStream as StdTcpStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use waymark_driver::{Executor, Mailbox, Sender, Sleep, TcpStream, mailbox, now, sleep, spawn};
use waymark_hbone::{Acceptor, ServerTls};

use crate::listener::{serve_connection, server_settings};
use crate::program::HboneServer;
use crate::worker::{Shared, Worker};

/// Accepted connections that wait for their worker. When it is full the worker is behind, and the kernel's backlog holds
/// the rest.
const QUEUE: usize = 128;
/// How often a worker looks for what no request tells it: idle connections, endpoints that are gone.
const SWEEP: Duration = Duration::from_secs(1);

/// The workers of a waypoint. They end when this is dropped and the drain has killed or finished what is open.
pub struct Workers {
    workers: Vec<Handle>,
}

struct Handle {
    connections: Sender<StdTcpStream>,
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

    /// Hands a connection to the worker that has the fewest; waits while that one is behind. `false` when it is gone.
    pub(crate) async fn serve(&self, tcp: StdTcpStream) -> bool {
        let Some(worker) = self
            .workers
            .iter()
            .min_by_key(|w| w.open.load(Ordering::Relaxed))
        else {
            return false;
        };
        worker.open.fetch_add(1, Ordering::Relaxed);
        let sent = worker.connections.send(tcp).await.is_ok();
        if !sent {
            worker.open.fetch_sub(1, Ordering::Relaxed);
        }
        sent
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
    let (connections, queue) = mailbox(QUEUE);
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let (made, making) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let mut executor = match Executor::new() {
                Ok(executor) => executor,
                // The other end waits for it.
                Err(e) => return drop(made.send(Err(e))),
            };
            drop(made.send(Ok(())));
            executor.block_on(run(shared, tls, queue, counted));
        })?;
    match making.recv() {
        Ok(made) => made?,
        Err(_) => return Err(io::Error::other("the thread ended at once")),
    }
    Ok(Handle {
        connections,
        open,
        thread,
    })
}

async fn run(
    shared: Arc<Shared>,
    tls: Arc<dyn ServerTls>,
    mut queue: Mailbox<StdTcpStream>,
    open: Arc<AtomicUsize>,
) {
    let worker = Worker::new(Arc::clone(&shared));
    let watch = spawn("drain", {
        let (worker, drain) = (Rc::clone(&worker), shared.drain.clone());
        async move {
            drain.cancelled().await;
            worker.draining.happen();
        }
    });
    let killed = shared.drain.killed();
    let mut killed = pin!(killed.cancelled());
    let mut terminator = Terminator { tls, current: None };
    let mut sweep = sleep(SWEEP);
    loop {
        let next = poll_fn(|cx| {
            if killed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Turn::End);
            }
            if let Poll::Ready(tcp) = queue.poll_recv(cx) {
                return Poll::Ready(tcp.map_or(Turn::End, Turn::Connection));
            }
            poll_tick(&mut sweep, cx).map(|()| Turn::Sweep)
        });
        match next.await {
            Turn::Connection(tcp) => {
                let counted = OpenConnection(Arc::clone(&open));
                let Ok(tcp) = TcpStream::from_std(tcp) else {
                    continue;
                };
                let Some(acceptor) = terminator.acceptor(&worker) else {
                    continue;
                };
                let of_connection = Rc::clone(&worker);
                worker.spawn("connection", async move {
                    serve_connection(of_connection, acceptor, tcp).await;
                    drop(counted);
                });
            }
            Turn::Sweep => worker.sweep(),
            Turn::End => break,
        }
    }
    // No more connections come: those that are open finish, until the deadline.
    let finished = worker.finished();
    let mut finished = pin!(finished);
    poll_fn(|cx| match killed.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => finished.as_mut().poll(cx),
    })
    .await;
    drop(watch);
}

/// What a worker's own task has to do.
enum Turn {
    Connection(StdTcpStream),
    Sweep,
    /// No more connections come.
    End,
}

/// Ready now and then.
fn poll_tick(sleep: &mut Sleep, cx: &mut Context<'_>) -> Poll<()> {
    if Pin::new(&mut *sleep).poll(cx).is_pending() {
        return Poll::Pending;
    }
    sleep.reset(now() + SWEEP);
    Poll::Ready(())
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
