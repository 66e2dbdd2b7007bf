//! Which tasks are ready, and how they are made so: cheaply on their own thread, safely from every other.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use super::{Core, Level};

/// The key of what [`block_on`](super::Executor::block_on) was given.
pub(super) const MAIN: usize = usize::MAX;

/// A task that is to be polled. One that is gone, or whose key another has now, is polled for nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) key: usize,
    pub(super) level: Level,
}

/// What is ready on this thread.
#[derive(Debug, Default)]
pub(super) struct Ready {
    levels: [VecDeque<usize>; LEVELS.len()],
    /// A bit for each level that has tasks.
    some: u32,
    /// Tasks that let the others and the sockets have a turn first.
    deferred: Vec<Waker>,
}

const LEVELS: [Level; 4] = [
    Level::Work,
    Level::Reader,
    Level::InnerWriter,
    Level::SocketWriter,
];

/// What every waker of a task shares.
#[derive(Debug)]
pub(super) struct Header {
    entry: Entry,
    /// Whether it is ready already. Stays so when the task has ended, so that late wake-ups do nothing.
    queued: AtomicBool,
    /// Whether its owner wants it to end.
    cancelled: AtomicBool,
    remote: Arc<Remote>,
}

/// What other threads reach of an executor.
#[derive(Debug)]
pub(super) struct Remote {
    woken: Mutex<Vec<Entry>>,
    /// Whether the thread has been told of what is in `woken`.
    told: AtomicBool,
    waker: mio::Waker,
}

impl Ready {
    #[inline]
    pub(super) fn push(&mut self, entry: Entry) {
        self.levels[entry.level as usize].push_back(entry.key);
        self.some |= 1 << entry.level as u32;
    }

    /// The next task of the lowest level that has one, from level `from` on.
    #[inline]
    pub(super) fn pop(&mut self, from: Level) -> Option<Entry> {
        let some = self.some & (u32::MAX << from as u32);
        let level = *LEVELS.get(some.trailing_zeros() as usize)?;
        let tasks = &mut self.levels[level as usize];
        let key = tasks.pop_front()?;
        if tasks.is_empty() {
            self.some &= !(1 << level as u32);
        }
        Some(Entry { key, level })
    }

    /// Whether the thread may wait.
    pub(super) fn is_idle(&self) -> bool {
        self.deferred.is_empty() && self.some == 0
    }

    pub(super) fn defer(&mut self, waker: Waker) {
        self.deferred.push(waker);
    }

    /// Takes those that wait for the next turn.
    pub(super) fn take_deferred(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.deferred)
    }
}

impl Header {
    /// The header of a task that is about to be queued.
    pub(super) fn new(key: usize, level: Level, remote: &Arc<Remote>) -> Self {
        Self {
            entry: Entry { key, level },
            queued: AtomicBool::new(true),
            cancelled: AtomicBool::new(false),
            remote: Arc::clone(remote),
        }
    }

    pub(super) fn entry(&self) -> Entry {
        self.entry
    }

    /// The task is about to be polled: what happens from now on makes it ready again.
    pub(super) fn starts(&self) {
        self.queued.store(false, Ordering::Release);
    }

    /// The task has ended: nothing makes it ready again.
    pub(super) fn ended(&self) {
        self.queued.store(true, Ordering::Relaxed);
    }

    /// Has the executor drop the task instead of polling it again.
    pub(super) fn cancel(self: &Arc<Self>) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.wake_by_ref();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Wake for Header {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.load(Ordering::Acquire) || self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        if !Core::wake_here(self.entry, &self.remote) {
            self.remote.push(self.entry);
        }
    }
}

impl Remote {
    pub(super) fn new(waker: mio::Waker) -> Self {
        Self {
            woken: Mutex::default(),
            told: AtomicBool::new(false),
            waker,
        }
    }

    fn push(&self, entry: Entry) {
        self.woken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
        if !self.told.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a worker cannot be woken");
        }
    }

    /// Takes what other threads have woken.
    pub(super) fn drain(&self, mut each: impl FnMut(Entry)) {
        if !self.told.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.drain(..).for_each(&mut each);
    }
}
