//! The tasks of one thread, and the turn in which they run.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::reactor::{Reactor, Sources};
use crate::timer::Wheel;

mod group;
mod ready;
mod task;
mod yielding;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub use group::{Tasks, WeakTasks};
pub use task::{Task, TaskError};
pub use yielding::{wake_next_turn, yield_now};

use ready::{Entry, Header, MAIN, Ready, Remote};
use task::TaskTable;

/// Which tasks run first: the lowest level that has ready tasks, until none has; then the thread waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything that is not one of the others: streams, tunnels, exchanges, connections without streams.
    Work,
    /// Tasks that read a connection with many streams and wake their tasks.
    Reader,
    /// Tasks that hand what such a connection has to send to the stream that carries it.
    InnerWriter,
    /// Tasks that write to sockets: last, so that all that a turn has for a socket goes out in one write.
    SocketWriter,
}

/// The event loop of one thread and the tasks on it.
///
/// Readiness of sockets, due timers, and wake-ups from other threads are looked at once a turn. A turn ends when no task is
/// ready, or when much has run: then only the writers run before sockets and timers are looked at again, so tasks
/// that wake each other for ever starve nobody.
#[derive(Debug)]
pub struct Executor {
    core: Rc<Core>,
    reactor: Reactor,
}

/// What tasks reach of their executor.
#[derive(Debug)]
pub(crate) struct Core {
    tasks: RefCell<TaskTable>,
    ready: RefCell<Ready>,
    remote: Arc<Remote>,
    now: Cell<Instant>,
    panicked: Cell<u64>,
    pub(crate) timers: RefCell<Wheel>,
    pub(crate) sources: Sources,
}

/// How far a turn has come.
#[derive(Debug, Default)]
struct Turn {
    polls: usize,
    /// It has been long enough: only writers run.
    spent: bool,
}

/// How many tasks are polled before sockets and timers are looked at again.
const POLLS_PER_TURN: usize = 1024;
/// After how long sockets and timers are looked at again, if the tasks are few and slow (handshakes).
const LONG_TURN: Duration = Duration::from_millis(2);
/// After how many tasks the clock is looked at.
const POLLS_PER_LOOK: usize = 32;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// Starts a task on the executor of this thread, at [`Level::Work`]. See [`spawn_at`].
///
/// # Panics
/// Outside an executor.
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + 'static,
{
    spawn_at(Level::Work, name, future)
}

/// Starts a task on the executor of this thread. The value that is returned owns it: dropping it ends the task.
///
/// A task that panics ends alone: what it said is logged with its name.
///
/// # Panics
/// Outside an executor.
pub fn spawn_at<F>(level: Level, name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + 'static,
{
    let core = Core::current();
    let (task, entry) = core
        .tasks
        .borrow_mut()
        .insert(level, name, &core.remote, future);
    core.ready.borrow_mut().push(entry);
    task
}

/// When this turn began. Outside an executor, the time.
#[must_use]
pub fn now() -> Instant {
    CURRENT
        .with_borrow(|current| current.as_ref().map(|core| core.now.get()))
        .unwrap_or_else(Instant::now)
}

impl Executor {
    /// An executor without tasks.
    ///
    /// # Errors
    /// When the system gives no event queue.
    pub fn new() -> io::Result<Self> {
        let (reactor, sources, waker) = Reactor::new()?;
        let now = Instant::now();
        Ok(Self {
            core: Rc::new(Core {
                tasks: RefCell::default(),
                ready: RefCell::default(),
                remote: Arc::new(Remote::new(waker)),
                now: Cell::new(now),
                panicked: Cell::new(0),
                timers: RefCell::new(Wheel::new(now)),
                sources,
            }),
            reactor,
        })
    }

    /// Runs `main` and the tasks that are started meanwhile, until `main` is done. The other tasks stay as they are, and
    /// end when the executor is dropped.
    ///
    /// # Panics
    /// When `main` does, and within an executor.
    pub fn block_on<F: Future>(&mut self, main: F) -> F::Output {
        let _entered = Entered::new(&self.core);
        let header = Arc::new(Header::new(MAIN, Level::Work, &self.core.remote));
        let waker = Waker::from(Arc::clone(&header));
        let mut main = pin!(main);
        self.core.now.set(Instant::now());
        self.core.ready.borrow_mut().push(header.entry());
        loop {
            let mut turn = Turn::default();
            while let Some(entry) = self.core.next(&mut turn) {
                if entry.key != MAIN {
                    self.core.run(entry);
                    continue;
                }
                header.starts();
                if let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return output;
                }
            }
            self.wait();
        }
    }

    /// How many tasks have panicked.
    #[must_use]
    pub fn panicked(&self) -> u64 {
        self.core.panicked.get()
    }

    /// Waits for events, if no task is ready, and makes the tasks ready that they are for.
    fn wait(&mut self) {
        let core = &self.core;
        let patience = if core.ready.borrow().is_idle() {
            let due = core.timers.borrow().next_due();
            due.map(|due| due.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        };
        self.reactor.wait(patience, &core.sources);
        core.now.set(Instant::now());
        core.timers.borrow_mut().advance(core.now.get());
        Wheel::wake_due(&core.timers);
        core.remote
            .drain(|entry| core.ready.borrow_mut().push(entry));
        let deferred = core.ready.borrow_mut().take_deferred();
        deferred.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _entered = Entered::new(&self.core);
        // What a task drops may start or end others.
        loop {
            let task = self.core.tasks.borrow_mut().pop();
            let Some(task) = task else { break };
            task.end();
        }
        let deferred = self.core.ready.take();
        drop(deferred);
    }
}

impl Core {
    /// The executor of this thread.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn current() -> Rc<Self> {
        CURRENT
            .with_borrow(Clone::clone)
            .expect("called outside a waymark_driver::Executor")
    }

    /// Makes a task ready if it belongs to the executor of this thread. Returns whether it does.
    fn wake_here(entry: Entry, remote: &Arc<Remote>) -> bool {
        let here = CURRENT.try_with(|current| match current.try_borrow().as_deref() {
            Ok(Some(core)) if Arc::ptr_eq(&core.remote, remote) => {
                core.ready.borrow_mut().push(entry);
                true
            }
            Ok(_) | Err(_) => false,
        });
        here.unwrap_or(false)
    }

    /// The task that runs next in this turn.
    fn next(&self, turn: &mut Turn) -> Option<Entry> {
        turn.polls += 1;
        if !turn.spent && turn.polls.is_multiple_of(POLLS_PER_LOOK) {
            turn.spent = turn.polls >= POLLS_PER_TURN || self.now.get().elapsed() > LONG_TURN;
            if turn.spent {
                turn.polls = 0;
            }
        }
        let from = match (turn.spent, turn.polls) {
            (false, _) => Level::Work,
            (true, ..POLLS_PER_TURN) => Level::InnerWriter,
            (true, POLLS_PER_TURN..) => return None,
        };
        self.ready.borrow_mut().pop(from)
    }

    /// Polls one task.
    fn run(&self, entry: Entry) {
        let Some(mut task) = self.tasks.borrow_mut().start(entry.key) else {
            return;
        };
        let stays = task.poll(&self.panicked);
        let ended = self.tasks.borrow_mut().stop(entry.key, task, stays);
        // Outside the borrow: what is dropped may start or end other tasks.
        if let Some(ended) = ended {
            ended.end();
        }
    }
}

/// Makes an executor the one of this thread.
struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Self {
        CURRENT.with_borrow_mut(|current| {
            assert!(current.is_none(), "an executor within an executor");
            *current = Some(Rc::clone(core));
        });
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}
