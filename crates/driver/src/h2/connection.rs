//! What the owner of a connection has.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use waymark_engine::h2::{Config, Connection, End, ErrorCode, Refusals};
use waymark_engine::{Field, Head, WriteBuf};

use crate::{Io, Level, buffers};

use super::end::ConnectionEnd;
use super::state::{Phase, State};
use super::stream::Stream;
use super::tasks;

/// How a connection is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When what it has to say is handed to the transport: [`Level::SocketWriter`] over sockets and TLS,
    /// [`Level::InnerWriter`] over a stream of another connection, whose writer runs later.
    pub writer: Level,
    /// Whether it looks for a dead peer.
    pub keep_alive: Option<KeepAlive>,
}

/// PINGs that notice a dead peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// The time from the start, and from each answer, to the next PING.
    pub interval: Duration,
    /// The time an answer may take.
    pub timeout: Duration,
}

/// The accepting end of a connection. Dropping it closes the connection, whatever is open.
pub struct ServerConnection {
    state: Rc<RefCell<State>>,
}

/// The opening end of a connection. Clones are the same connection, which ends with its last handle and its last stream.
pub struct ClientConnection {
    state: Rc<RefCell<State>>,
}

/// Sees how a client's connection ends, without keeping it open.
pub struct Watch {
    state: Rc<RefCell<State>>,
}

/// A stream that the peer opened. Dropping it resets the stream.
#[derive(Debug)]
pub struct Request {
    /// Its fields.
    pub head: Box<Head>,
    /// Whether there is no body.
    pub end: bool,
    /// The stream, which waits for a response.
    pub stream: Stream,
}

/// Why there is no new stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer allows no more streams at once, or we don't want more.
    #[error("no more streams at once")]
    TooManyStreams,
    /// The connection takes no new streams.
    #[error("the connection takes no new streams")]
    Leaving,
    /// The connection is over.
    #[error(transparent)]
    Over(#[from] ConnectionEnd),
}

impl ServerConnection {
    /// Begins to serve `io`, in tasks of its own.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn new(io: impl Io + 'static, config: Arc<Config>, options: Options) -> Self {
        let mut out = WriteBuf::new();
        out.give_memory(buffers::take());
        let conn = Connection::server(config, &mut out);
        let state = Rc::new(RefCell::new(State::new(conn, out, false)));
        tasks::spawn(io, &state, options);
        Self { state }
    }

    /// Waits until the peer has shown that it speaks HTTP/2.
    ///
    /// # Errors
    /// Why it hasn't.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn ready(&mut self) -> Result<(), ConnectionEnd> {
        poll_fn(|cx| {
            let state = &mut *self.state.borrow_mut();
            if state.is_ready {
                return Poll::Ready(Ok(()));
            }
            if let Some(end) = state.end() {
                return Poll::Ready(Err(end));
            }
            state.owner.wait(cx);
            Poll::Pending
        })
        .await
    }

    /// Waits for the next stream.
    ///
    /// # Errors
    /// Why there is none: the connection is over.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Request, ConnectionEnd>> {
        let state = &mut *self.state.borrow_mut();
        if let Some(key) = state.incoming.pop_front() {
            let entry = &mut state.entries[key];
            let head = entry.heads.pop().unwrap_or_default();
            return Poll::Ready(Ok(Request {
                head,
                end: entry.bodiless,
                stream: Stream::new(&self.state, key, false),
            }));
        }
        if let Some(end) = state.end() {
            return Poll::Ready(Err(end));
        }
        state.owner.wait(cx);
        Poll::Pending
    }

    /// As [`poll_accept`](Self::poll_accept).
    ///
    /// # Errors
    /// Why there is none: the connection is over.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn accept(&mut self) -> Result<Request, ConnectionEnd> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Takes no more streams than those that are on their way; open ones go on. Accepting ends with the last one.
    pub fn shut_down(&mut self) {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.phase, Phase::Open) {
            state.conn.shut_down(&mut state.out);
            state.settle();
        }
    }

    /// Ends the connection with GOAWAY, whatever is open.
    pub fn close(&mut self, code: ErrorCode) {
        close(&mut self.state.borrow_mut(), code, ConnectionEnd::Closed);
    }

    /// Streams that haven't ended in both directions.
    #[must_use]
    pub fn active_streams(&self) -> u32 {
        self.state.borrow().conn.active_streams()
    }

    /// What was refused to the peer, and how often.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.state.borrow().conn.refusals().clone()
    }

    /// The memory that the connection holds, apart from what its streams hold unread and from its transport.
    #[must_use]
    pub fn memory(&self) -> usize {
        memory(&self.state.borrow())
    }
}

impl Drop for ServerConnection {
    fn drop(&mut self) {
        self.close(ErrorCode::NO_ERROR);
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(&self.state.borrow(), f.debug_struct("ServerConnection"))
    }
}

impl ClientConnection {
    /// Begins to speak HTTP/2 on `io`, in tasks of its own.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn new(io: impl Io + 'static, config: Arc<Config>, options: Options) -> Self {
        let mut out = WriteBuf::new();
        out.give_memory(buffers::take());
        let conn = Connection::client(config, &mut out);
        let mut state = State::new(conn, out, true);
        state.handles = 1;
        let state = Rc::new(RefCell::new(state));
        tasks::spawn(io, &state, options);
        Self { state }
    }

    /// Opens a stream with a request, whose `fields` are in the order of the wire, as [`Head::wire_fields`] has them.
    ///
    /// # Errors
    /// When the connection takes no more streams, now or ever.
    pub fn open<'f>(
        &self,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
    ) -> Result<Stream, OpenError> {
        let state = &mut *self.state.borrow_mut();
        if let Some(end) = state.end() {
            return Err(end.into());
        }
        state.prepare_output();
        let stream = state.conn.send_request(fields, end, &mut state.out)?;
        state.settle();
        let key = state.enter(stream);
        Ok(Stream::new(&self.state, key, end == End::Yes))
    }

    /// How many streams may be opened now.
    #[must_use]
    pub fn available_streams(&self) -> u32 {
        let state = self.state.borrow();
        match state.phase {
            Phase::Open => state.conn.available_streams(),
            Phase::Closing(_) | Phase::Over(_) => 0,
        }
    }

    /// The most streams at once that both sides want.
    #[must_use]
    pub fn most_streams(&self) -> u32 {
        self.state.borrow().conn.most_streams()
    }

    /// Streams that haven't ended in both directions.
    #[must_use]
    pub fn active_streams(&self) -> u32 {
        self.state.borrow().conn.active_streams()
    }

    /// Whether it takes no new streams, because one of the sides leaves or it is over.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        let state = self.state.borrow();
        state.end().is_some() || state.conn.is_leaving()
    }

    /// Why the connection is over, if it is.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionEnd> {
        self.state.borrow().end()
    }

    /// Takes no new streams; open ones go on.
    pub fn shut_down(&self) {
        let state = &mut *self.state.borrow_mut();
        if matches!(state.phase, Phase::Open) && !state.conn.is_leaving() {
            state.conn.go_away(ErrorCode::NO_ERROR, &mut state.out);
            state.owner.wake();
            state.settle();
        }
    }

    /// Ends the connection with GOAWAY, whatever is open.
    pub fn close(&self, code: ErrorCode) {
        close(&mut self.state.borrow_mut(), code, ConnectionEnd::Closed);
    }

    /// A watcher of the connection, which doesn't keep it open; for one task of all that have a handle.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            state: Rc::clone(&self.state),
        }
    }

    /// The memory that the connection holds, apart from what its streams hold unread and from its transport.
    #[must_use]
    pub fn memory(&self) -> usize {
        memory(&self.state.borrow())
    }
}

impl Clone for ClientConnection {
    fn clone(&self) -> Self {
        self.state.borrow_mut().handles += 1;
        Self {
            state: Rc::clone(&self.state),
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let state = &mut *self.state.borrow_mut();
        state.handles -= 1;
        state.settle();
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(&self.state.borrow(), f.debug_struct("ClientConnection"))
    }
}

impl Watch {
    /// Waits until the connection takes no new streams, because one of the sides leaves or it is over.
    pub fn poll_leaving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut *self.state.borrow_mut();
        if state.end().is_some() || state.conn.is_leaving() {
            return Poll::Ready(());
        }
        state.owner.wait(cx);
        Poll::Pending
    }

    /// Waits until the connection is over.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionEnd> {
        let state = &mut *self.state.borrow_mut();
        if let Some(end) = state.end() {
            return Poll::Ready(end);
        }
        state.owner.wait(cx);
        Poll::Pending
    }

    /// Ends the connection with GOAWAY, whatever is open.
    pub fn close(&mut self, code: ErrorCode) {
        close(&mut self.state.borrow_mut(), code, ConnectionEnd::Closed);
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(&self.state.borrow(), f.debug_struct("Watch"))
    }
}

pub(super) fn close(state: &mut State, code: ErrorCode, end: ConnectionEnd) {
    if matches!(state.phase, Phase::Open) {
        state.conn.go_away(code, &mut state.out);
        state.close(end);
    }
}

fn memory(state: &State) -> usize {
    let streams = state.entries.capacity() * size_of::<super::state::Entry>();
    state.conn.memory() + state.out.capacity() + streams
}

fn debug(state: &State, mut f: fmt::DebugStruct<'_, '_>) -> fmt::Result {
    f.field("phase", &state.phase)
        .field("streams", &state.entries.len())
        .finish_non_exhaustive()
}
