//! What the system says about sockets.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mio::event::{Event, Source};
use mio::{Events, Interest, Registry, Token};
use slab::Slab;

use crate::executor::Core;

/// The thread's event queue.
#[derive(Debug)]
pub(crate) struct Reactor {
    poll: mio::Poll,
    events: Events,
}

/// The sockets that are watched.
#[derive(Debug)]
pub(crate) struct Sources {
    registry: Registry,
    watched: RefCell<Slab<Rc<Readiness>>>,
}

/// A socket that is watched for both directions from its making to its end.
///
/// Edge by edge: an event says that something has changed, and what it said holds until a read or a write finds otherwise.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    pub(crate) socket: S,
    readiness: Rc<Readiness>,
    key: usize,
    core: Weak<Core>,
}

/// What is known of a socket.
#[derive(Debug, Default)]
struct Readiness {
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer has ended its direction, or the connection is broken: no more events will come for reading.
    last_read_event: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// Whether a new socket is known to be writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// It is connected, or listens: it can be tried at once.
    Open,
    /// It is still connecting.
    Connecting,
}

/// How many events are taken from the system at once.
const EVENTS: usize = 256;
/// The token of the wake-up by other threads.
const WAKER: Token = Token(usize::MAX);

impl Reactor {
    pub(crate) fn new() -> io::Result<(Self, Sources, mio::Waker)> {
        let poll = mio::Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKER)?;
        let sources = Sources {
            registry: poll.registry().try_clone()?,
            watched: RefCell::default(),
        };
        let events = Events::with_capacity(EVENTS);
        Ok((Self { poll, events }, sources, waker))
    }

    /// Waits for events, at most `patience`, and wakes whom they are for.
    pub(crate) fn wait(&mut self, patience: Option<Duration>, sources: &Sources) {
        match self.poll.poll(&mut self.events, patience) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(error) => panic!("a valid event queue was refused: {error}"),
        }
        for event in &self.events {
            let Token(key) = event.token();
            // The socket of an event may be gone, and another have its key: an event too many does no harm.
            let readiness = sources.watched.borrow().get(key).cloned();
            if let Some(readiness) = readiness {
                readiness.note(event);
            }
        }
    }
}

impl Readiness {
    fn note(&self, event: &Event) {
        let broken = event.is_error();
        if event.is_readable() || event.is_read_closed() || broken {
            self.readable.set(true);
            if event.is_read_closed() || broken {
                self.last_read_event.set(true);
            }
            wake(&self.reader);
        }
        if event.is_writable() || event.is_write_closed() || broken {
            self.writable.set(true);
            wake(&self.writer);
        }
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    let waker = waiting.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl<S: Source> Watched<S> {
    /// Watches `socket` on the executor of this thread.
    ///
    /// # Errors
    /// When the system refuses.
    ///
    /// # Panics
    /// Outside an executor.
    pub(crate) fn new(mut socket: S, fresh: Fresh) -> io::Result<Self> {
        let core = Core::current();
        let readiness = Rc::new(Readiness::default());
        readiness.readable.set(fresh == Fresh::Open);
        readiness.writable.set(fresh == Fresh::Open);
        let mut watched = core.sources.watched.borrow_mut();
        let slot = watched.vacant_entry();
        let key = slot.key();
        core.sources.registry.register(
            &mut socket,
            Token(key),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        slot.insert(Rc::clone(&readiness));
        drop(watched);
        Ok(Self {
            socket,
            readiness,
            key,
            core: Rc::downgrade(&core),
        })
    }
}

impl<S> Watched<S> {
    /// Waits until a read may find something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll(&self.readiness.readable, &self.readiness.reader, cx)
    }

    /// Waits until a write may find room.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll(&self.readiness.writable, &self.readiness.writer, cx)
    }

    /// Whether a write may find room.
    pub(crate) fn is_writable(&self) -> bool {
        self.readiness.writable.get()
    }

    /// A read found that there was nothing.
    pub(crate) fn not_readable(&self) {
        self.readiness.readable.set(false);
    }

    /// A read found less than it had room for: there is no more, unless it is the end, of which there is no event to come.
    pub(crate) fn drained(&self) {
        if !self.readiness.last_read_event.get() {
            self.readiness.readable.set(false);
        }
    }

    /// A write found no room.
    pub(crate) fn not_writable(&self) {
        self.readiness.writable.set(false);
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        // Who waits for the other direction learns that there is nothing to wait for any more.
        for waiting in [&self.readiness.reader, &self.readiness.writer] {
            if let Some(waker) = waiting.take() {
                waker.wake();
            }
        }
        // Closing the descriptor ends the system's part.
        if let Some(core) = self.core.upgrade() {
            core.sources.watched.borrow_mut().try_remove(self.key);
        }
    }
}

fn poll(ready: &Cell<bool>, waiting: &RefCell<Option<Waker>>, cx: &mut Context<'_>) -> Poll<()> {
    if ready.get() {
        return Poll::Ready(());
    }
    let mut waiting = waiting.borrow_mut();
    match &mut *waiting {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waiting = Some(cx.waker().clone()),
    }
    Poll::Pending
}
