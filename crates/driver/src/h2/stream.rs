//! One stream: bytes both ways, heads before them, trailers behind.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use waymark_engine::h2::{End, ErrorCode, SendError};
use waymark_engine::{Field, Head};

use crate::{Io, buffers};

use super::end::StreamEnd;
use super::state::{Phase, State};

/// A stream of a connection, as its only holder has it.
///
/// Its bytes are read and written as those of any [`Io`]. What came before the stream failed is read first; a failure after
/// the peer's END_STREAM is none for the reader. Errors of reads and writes have a [`StreamEnd`] inside.
///
/// Dropping it resets what has not ended: with CANCEL, or with NO_ERROR by a server that has said all.
pub struct Stream {
    state: Rc<RefCell<State>>,
    key: usize,
    /// What was fetched from the connection; the first `taken` bytes are consumed.
    fetched: Vec<u8>,
    taken: usize,
    /// Whether our direction has ended.
    finished: bool,
}

/// An answer, or an informational one before it.
#[derive(Debug)]
pub struct Response {
    /// Its fields.
    pub head: Box<Head>,
    /// Whether there is no body.
    pub end: bool,
}

impl Stream {
    pub(super) fn new(state: &Rc<RefCell<State>>, key: usize, finished: bool) -> Self {
        Self {
            state: Rc::clone(state),
            key,
            fetched: Vec::new(),
            taken: 0,
            finished,
        }
    }

    /// The stream identifier of the wire.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.state.borrow().entries[self.key].stream.id()
    }

    /// Answers a request, finally or with an informational response. A server's.
    ///
    /// `fields` are in the order of the wire, as [`Head::wire_fields`] has them.
    ///
    /// # Errors
    /// When the stream is over, or a final response was sent.
    pub fn send_response<'f>(
        &mut self,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
    ) -> Result<(), StreamEnd> {
        let state = &mut *self.state.borrow_mut();
        state.prepare_output();
        let stream = state.entries[self.key].stream;
        let sent = state
            .conn
            .send_response(stream, fields, end, &mut state.out);
        state.settle();
        sent.map_err(|_| why_over(state, self.key))?;
        self.finished = end == End::Yes;
        Ok(())
    }

    /// Ends our direction with trailers.
    ///
    /// # Errors
    /// When the stream is over, or our direction has ended, or has no head yet.
    pub fn send_trailers<'f>(
        &mut self,
        fields: impl IntoIterator<Item = Field<'f>>,
    ) -> Result<(), StreamEnd> {
        let state = &mut *self.state.borrow_mut();
        state.prepare_output();
        let stream = state.entries[self.key].stream;
        let sent = state.conn.send_trailers(stream, fields, &mut state.out);
        state.settle();
        sent.map_err(|_| why_over(state, self.key))?;
        self.finished = true;
        Ok(())
    }

    /// Waits for the next informational response or the final one. A client's.
    ///
    /// # Errors
    /// Why none comes.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, StreamEnd>> {
        let state = &mut *self.state.borrow_mut();
        let entry = &mut state.entries[self.key];
        if !entry.heads.is_empty() {
            let head = entry.heads.remove(0);
            let end = entry.bodiless && entry.heads.is_empty();
            return Poll::Ready(Ok(Response { head, end }));
        }
        if let Some(end) = entry.failed {
            return Poll::Ready(Err(end));
        }
        entry.read.wait(cx);
        Poll::Pending
    }

    /// As [`poll_response`](Self::poll_response).
    ///
    /// # Errors
    /// Why none comes.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn response(&mut self) -> Result<Response, StreamEnd> {
        poll_fn(|cx| self.poll_response(cx)).await
    }

    /// The trailers, once reading has come to the end; `None` when there are none.
    pub fn take_trailers(&mut self) -> Option<Box<Head>> {
        self.state.borrow_mut().entries[self.key].trailers.take()
    }

    /// Whether the peer has ended its direction and everything is consumed; trailers may be there still.
    #[must_use]
    pub fn is_read(&self) -> bool {
        let state = self.state.borrow();
        let entry = &state.entries[self.key];
        entry.ended && entry.inbound.is_empty() && self.taken == self.fetched.len()
    }

    /// Whether our direction has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// What the last fill gave and was not consumed.
    #[must_use]
    #[inline]
    pub fn fetched(&self) -> &[u8] {
        &self.fetched[self.taken..]
    }

    /// Why the stream is over, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<StreamEnd> {
        self.state.borrow().entries[self.key].failed
    }

    /// Waits until the stream fails. It uses the place of one who waits to write.
    pub fn poll_failure(&mut self, cx: &mut Context<'_>) -> Poll<StreamEnd> {
        let state = &mut *self.state.borrow_mut();
        let entry = &mut state.entries[self.key];
        if let Some(end) = entry.failed {
            return Poll::Ready(end);
        }
        entry.write.wait(cx);
        Poll::Pending
    }

    /// Ends both directions at once.
    pub fn reset(&mut self, code: ErrorCode) {
        self.finished = true;
        let state = &mut *self.state.borrow_mut();
        let entry = &mut state.entries[self.key];
        entry.fail(StreamEnd::GivenUp);
        entry.inbound.clear();
        self.fetched.clear();
        self.taken = 0;
        let stream = entry.stream;
        if matches!(state.phase, Phase::Open) {
            state.conn.reset(stream, code, &mut state.out);
            state.settle();
        }
    }

    /// The memory that it holds for what has come.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.fetched.capacity() + self.state.borrow().entries[self.key].inbound.capacity()
    }

    /// Brings more of what has come within reach; false when there is nothing.
    fn fetch(&mut self, state: &mut State) -> bool {
        let inbound = &mut state.entries[self.key].inbound;
        if inbound.is_empty() {
            return false;
        }
        if self.taken == self.fetched.len() {
            self.fetched.clear();
            std::mem::swap(&mut self.fetched, inbound);
        } else {
            self.fetched.drain(..self.taken);
            self.fetched.append(inbound);
        }
        self.taken = 0;
        true
    }
}

impl Io for Stream {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.fetched.len() - self.taken > have {
            return Poll::Ready(Ok(&self.fetched[self.taken..]));
        }
        let shared = Rc::clone(&self.state);
        let state = &mut *shared.borrow_mut();
        while self.fetch(state) {
            if self.fetched.len() > have {
                return Poll::Ready(Ok(&self.fetched));
            }
        }
        let unread = self.fetched.len() - self.taken;
        let entry = &mut state.entries[self.key];
        if entry.ended {
            return Poll::Ready(Ok(&self.fetched[self.taken..]));
        }
        if let Some(end) = entry.failed {
            return Poll::Ready(Err(end.into_io()));
        }
        entry.read.wait(cx);
        if unread > 0 {
            // The rest of the window may be what the peer waits for.
            if unread >= state.conn.stream_window(entry.stream) {
                return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
            }
            state.conn.credit_now(entry.stream, &mut state.out);
            state.settle();
            return Poll::Pending;
        }
        // Who waits holds no memory.
        for buffer in [&mut self.fetched, &mut entry.inbound] {
            if buffer.capacity() > 0 {
                buffers::give(std::mem::take(buffer));
            }
        }
        self.taken = 0;
        Poll::Pending
    }

    fn consume(&mut self, bytes: usize) {
        assert!(
            bytes <= self.fetched.len() - self.taken,
            "more consumed than given"
        );
        self.taken += bytes;
        let state = &mut *self.state.borrow_mut();
        let stream = state.entries[self.key].stream;
        state.conn.consume(stream, bytes, &mut state.out);
        state.settle();
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(broken_pipe(&self.state.borrow(), self.key)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let state = &mut *self.state.borrow_mut();
        state.prepare_output();
        let entry = &mut state.entries[self.key];
        if let Some(end) = entry.failed {
            return Poll::Ready(Err(end.into_io()));
        }
        let sent = state
            .conn
            .send_data(entry.stream, bytes, End::No, &mut state.out);
        match sent {
            Ok(0) => {
                entry.write.wait(cx);
                Poll::Pending
            }
            Ok(sent) => {
                state.writer.wake();
                Poll::Ready(Ok(sent))
            }
            Err(_) => Poll::Ready(Err(why_over(state, self.key).into_io())),
        }
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let state = &mut *self.state.borrow_mut();
        state.prepare_output();
        let entry = &state.entries[self.key];
        if let Some(end) = entry.failed {
            return Poll::Ready(Err(end.into_io()));
        }
        let sent = state
            .conn
            .send_data(entry.stream, &[], End::Yes, &mut state.out);
        state.settle();
        if sent.is_err() {
            return Poll::Ready(Err(why_over(state, self.key).into_io()));
        }
        self.finished = true;
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        self.reset(ErrorCode::CANCEL);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.fetched.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.fetched));
        }
        let state = &mut *self.state.borrow_mut();
        let has_said_all = self.finished && !state.is_client;
        let code = if has_said_all {
            ErrorCode::NO_ERROR
        } else {
            ErrorCode::CANCEL
        };
        state.leave(self.key, code);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.borrow();
        let entry = &state.entries[self.key];
        f.debug_struct("Stream")
            .field("id", &entry.stream.id())
            .field("ended", &entry.ended)
            .field("finished", &self.finished)
            .field("failed", &entry.failed)
            .finish_non_exhaustive()
    }
}

/// Why the core has no use for what should be sent.
fn why_over(state: &State, key: usize) -> StreamEnd {
    state.entries[key].failed.unwrap_or(StreamEnd::GivenUp)
}

fn broken_pipe(state: &State, key: usize) -> io::Error {
    match state.entries[key].failed {
        Some(end) => end.into_io(),
        None => io::ErrorKind::BrokenPipe.into(),
    }
}

impl From<SendError> for super::OpenError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::TooManyStreams => Self::TooManyStreams,
            SendError::Leaving | SendError::Gone | SendError::OutOfOrder => Self::Leaving,
        }
    }
}
