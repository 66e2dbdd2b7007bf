//! The two tasks of a connection: one reads, one writes.

use std::cell::{RefCell, RefMut};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use waymark_engine::h2::ErrorCode;

use crate::{Io, Level, Sleep, buffers, now, sleep_until, spawn_at, wake_next_turn};

use super::connection::{KeepAlive, Options, close};
use super::end::ConnectionEnd;
use super::state::{Phase, State};

/// What is read of a connection before others have their turn.
const BYTES_PER_TURN: usize = 256 * 1024;
/// The time in which a peer takes what a connection that ends has to say.
const LINGER: Duration = Duration::from_secs(1);
/// What our PINGs say.
const PING: [u8; 8] = *b"waymark\0";

/// Starts the tasks of a connection, which end with it.
pub(super) fn spawn<T: Io + 'static>(io: T, state: &Rc<RefCell<State>>, options: Options) {
    let io = Rc::new(RefCell::new(io));
    let reader = Reader {
        io: Rc::clone(&io),
        state: Rc::clone(state),
        pulse: options.keep_alive.map(Pulse::new),
        at_end: false,
        deadline: None,
    };
    let writer = Writer {
        io,
        state: Rc::clone(state),
        is_last: options.writer == Level::SocketWriter,
    };
    // They end by what is in the state: with the transport, with what the peer or the owner says, or a little later.
    spawn_at(Level::Reader, "h2 reader", reader).detach();
    spawn_at(options.writer, "h2 writer", writer).detach();
}

struct Reader<T> {
    io: Rc<RefCell<T>>,
    state: Rc<RefCell<State>>,
    pulse: Option<Pulse>,
    /// Whether the transport's other end has ended its direction.
    at_end: bool,
    /// When a connection that ends is gone.
    deadline: Option<Sleep>,
}

impl<T: Io> Reader<T> {
    /// Reads what is there; false when there may be more, but others should have their turn.
    fn read(&mut self, state: &mut State, now: Instant, cx: &mut Context<'_>) -> bool {
        let mut io: RefMut<'_, T> = self.io.borrow_mut();
        let mut left = BYTES_PER_TURN;
        while !self.at_end && left > 0 {
            match io.poll_fill(cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok([])) => {
                    self.at_end = true;
                    state.close(ConnectionEnd::Eof);
                }
                Poll::Ready(Ok(bytes)) => {
                    let count = bytes.len();
                    if matches!(state.phase, Phase::Open) {
                        state.receive(bytes, now);
                    }
                    io.consume(count);
                    left = left.saturating_sub(count);
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "connection broke");
                    state.abort(ConnectionEnd::Broken(error.kind()));
                    self.at_end = true;
                }
            }
        }
        self.at_end
    }

    /// Whether a connection that ends is gone.
    fn is_over(&mut self, state: &mut State, cx: &mut Context<'_>) -> bool {
        match state.phase {
            Phase::Over(_) => true,
            // Closing a socket before its peer has read to the end may take the last words from it.
            Phase::Closing(end) => {
                let deadline = self
                    .deadline
                    .get_or_insert_with(|| sleep_until(now() + LINGER));
                let late = Pin::new(deadline).poll(cx).is_ready();
                if late || (self.at_end && state.flushed) {
                    state.phase = Phase::Over(end);
                    state.writer.wake();
                    return true;
                }
                false
            }
            Phase::Open => false,
        }
    }
}

impl<T: Io> Future for Reader<T> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let shared = Rc::clone(&this.state);
        let state = &mut *shared.borrow_mut();
        let now = now();
        if !this.read(state, now, cx) {
            wake_next_turn(cx);
        }
        if let Some(pulse) = &mut this.pulse
            && matches!(state.phase, Phase::Open)
        {
            pulse.look(state, now, cx);
        }
        if this.is_over(state, cx) {
            return Poll::Ready(());
        }
        state.reader.wait(cx);
        Poll::Pending
    }
}

impl<T> Unpin for Reader<T> {}

/// Sends PINGs, and ends the connection of a peer that doesn't answer.
struct Pulse {
    settings: KeepAlive,
    timer: Sleep,
    /// A PING is on its way.
    asked: bool,
    /// Whether the timer knows the task.
    armed: bool,
}

impl Pulse {
    fn new(settings: KeepAlive) -> Self {
        Self {
            settings,
            timer: sleep_until(now() + settings.interval),
            asked: false,
            armed: false,
        }
    }

    fn look(&mut self, state: &mut State, now: Instant, cx: &mut Context<'_>) {
        if std::mem::take(&mut state.ponged) && std::mem::take(&mut self.asked) {
            self.wait_until(now + self.settings.interval);
        }
        while !self.armed || now >= self.timer.deadline() {
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                self.armed = true;
                return;
            }
            if self.asked {
                close(state, ErrorCode::NO_ERROR, ConnectionEnd::Dead);
                return;
            }
            self.asked = true;
            state.conn.ping(PING, &mut state.out);
            state.conn.release();
            state.settle();
            self.wait_until(now + self.settings.timeout);
        }
    }

    fn wait_until(&mut self, at: Instant) {
        self.timer.reset(at);
        self.armed = false;
    }
}

struct Writer<T> {
    io: Rc<RefCell<T>>,
    state: Rc<RefCell<State>>,
    /// Whether nobody puts anything behind it in the same turn.
    is_last: bool,
}

impl<T: Io> Writer<T> {
    /// Hands over what there is; ready when that is all.
    fn write(io: &mut T, state: &mut State, last: bool, cx: &mut Context<'_>) -> Poll<()> {
        while !state.out.is_empty() {
            let put = if last {
                io.poll_put_last(state.out.unsent(), cx)
            } else {
                io.poll_put(state.out.unsent(), cx)
            };
            match put {
                Poll::Ready(Ok(count)) => {
                    state.out.advance(count);
                    state.resume();
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "connection broke");
                    state.abort(ConnectionEnd::Broken(error.kind()));
                    return Poll::Ready(());
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        if let Some(memory) = state.out.take_memory()
            && memory.capacity() > 0
        {
            buffers::give(memory);
        }
        Poll::Ready(())
    }
}

impl<T: Io> Future for Writer<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let io = &mut *self.io.borrow_mut();
        let state = &mut *self.state.borrow_mut();
        state.writer.wait(cx);
        if matches!(state.phase, Phase::Over(_)) {
            io.abort();
            return Poll::Ready(());
        }
        if Self::write(io, state, self.is_last, cx).is_pending() {
            return Poll::Pending;
        }
        if state.is_finished() {
            close(state, ErrorCode::NO_ERROR, ConnectionEnd::Finished);
            if Self::write(io, state, self.is_last, cx).is_pending() {
                return Poll::Pending;
            }
        }
        match state.phase {
            Phase::Open => Poll::Pending,
            Phase::Closing(_) => io.poll_finish(cx).map(|_| {
                state.flushed = true;
                state.reader.wake();
            }),
            Phase::Over(_) => Poll::Ready(()),
        }
    }
}

impl<T> Unpin for Writer<T> {}
