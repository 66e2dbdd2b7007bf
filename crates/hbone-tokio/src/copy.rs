//! Copying between two byte streams in both directions, each with its own end.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use crate::Tunnel;

/// Chunks moved in one direction before the task lets others run.
const CHUNKS_PER_TURN: usize = 32;
const SMALLEST_READ_BYTES: usize = 4 * 1024;
const LARGEST_READ_BYTES: usize = 256 * 1024;

/// A byte stream that gives and takes whole chunks, so that a copy between two tunnels moves no bytes.
pub trait ByteStream {
    /// Takes what has arrived; `None` at the end. `state` belongs to this stream and direction.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut ReadState,
    ) -> Poll<io::Result<Option<Bytes>>>;
    /// Says that taken bytes were passed on: only now may the peer send as many more.
    fn taken(&mut self, bytes: usize);
    /// Sends a part of `bytes` (all of it, if there is room) and takes that part off.
    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>>;
    /// Ends this side's direction.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The read buffer of one direction: grows while reads fill it, shrinks while they don't, holds nothing while idle.
#[derive(Debug)]
pub struct ReadState {
    buffer: BytesMut,
    size: usize,
}

/// Bytes copied so far, readable while the copy runs.
#[derive(Debug, Default)]
pub struct CopyCounters {
    /// From the first stream to the second.
    pub forward: AtomicU64,
    /// From the second stream to the first.
    pub backward: AtomicU64,
}

/// How a copy went.
#[derive(Debug)]
pub struct CopyOutcome {
    /// Bytes from the first stream to the second.
    pub forward: u64,
    /// Bytes from the second stream to the first.
    pub backward: u64,
    /// The first failure that is not one of the ordinary ends (reset, broken pipe, not connected, unexpected end).
    pub error: Option<io::Error>,
}

/// Copies both ways until both directions have ended.
///
/// The end of one stream ends the other's opposite direction and no more; there is no time limit on a half-closed
/// connection. A failure in one direction ends that direction, the other goes on until its own end
/// (hbone-and-l4.md 3.5).
///
/// # Cancel safety
/// Bytes in flight are lost when the future is dropped; `counters` then still tells what was copied.
pub async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B, counters: &CopyCounters) -> CopyOutcome
where
    A: ByteStream,
    B: ByteStream,
{
    let mut forward = Direction::new();
    let mut backward = Direction::new();
    let mut error = None;
    std::future::poll_fn(|cx| {
        let there = forward.poll(cx, a, b, &counters.forward, &mut error);
        let back = backward.poll(cx, b, a, &counters.backward, &mut error);
        match (there, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    CopyOutcome {
        forward: counters.forward.load(Ordering::Relaxed),
        backward: counters.backward.load(Ordering::Relaxed),
        error,
    }
}

struct Direction {
    read: ReadState,
    step: Step,
}

enum Step {
    Read,
    /// The chunk's rest, and how long the chunk was.
    Write(Bytes, usize),
    Finish,
    Done,
}

impl Direction {
    fn new() -> Self {
        Self {
            read: ReadState::default(),
            step: Step::Read,
        }
    }

    fn poll<S: ByteStream, D: ByteStream>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        destination: &mut D,
        counter: &AtomicU64,
        error: &mut Option<io::Error>,
    ) -> Poll<()> {
        let mut turns = 0;
        loop {
            match &mut self.step {
                Step::Read => {
                    if turns == CHUNKS_PER_TURN {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    turns += 1;
                    self.step = match ready!(source.poll_take(cx, &mut self.read)) {
                        Ok(Some(chunk)) => {
                            let len = chunk.len();
                            Step::Write(chunk, len)
                        }
                        Ok(None) => Step::Finish,
                        Err(e) => {
                            note(error, e);
                            Step::Finish
                        }
                    };
                }
                Step::Write(rest, len) => match ready!(destination.poll_put(cx, rest)) {
                    Ok(sent) => {
                        counter.fetch_add(sent as u64, Ordering::Relaxed);
                        if rest.is_empty() {
                            source.taken(*len);
                            self.step = Step::Read;
                        }
                    }
                    Err(e) => {
                        note(error, e);
                        source.taken(*len);
                        self.step = Step::Finish;
                    }
                },
                Step::Finish => {
                    self.read = ReadState::default();
                    if let Err(e) = ready!(destination.poll_finish(cx)) {
                        note(error, e);
                    }
                    self.step = Step::Done;
                }
                Step::Done => return Poll::Ready(()),
            }
        }
    }
}

impl Default for ReadState {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            size: SMALLEST_READ_BYTES,
        }
    }
}

impl ReadState {
    fn adapt(&mut self, read: usize) {
        if read >= self.size / 2 {
            self.size = (self.size * 2).min(LARGEST_READ_BYTES);
        } else if read < self.size / 4 {
            self.size = (self.size / 2).max(SMALLEST_READ_BYTES);
        }
    }
}

impl ByteStream for Tunnel {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        _: &mut ReadState,
    ) -> Poll<io::Result<Option<Bytes>>> {
        self.poll_chunk(cx)
    }

    fn taken(&mut self, bytes: usize) {
        self.release(bytes);
    }

    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl ByteStream for TcpStream {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        state: &mut ReadState,
    ) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if self.poll_read_ready(cx)?.is_pending() {
                state.buffer = BytesMut::new(); // an idle connection holds no buffer
                return Poll::Pending;
            }
            if state.buffer.capacity() < state.size / 2 {
                state.buffer.reserve(state.size);
            }
            match self.try_read_buf(&mut state.buffer) {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(read) => {
                    state.adapt(read);
                    return Poll::Ready(Ok(Some(state.buffer.split().freeze())));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    fn taken(&mut self, _: usize) {}

    fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(self).poll_write(cx, bytes))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let _ = bytes.split_to(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

fn note(error: &mut Option<io::Error>, e: io::Error) {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
    let ordinary = matches!(
        e.kind(),
        NotConnected | UnexpectedEof | ConnectionReset | BrokenPipe
    );
    if !ordinary && error.is_none() {
        *error = Some(e);
    }
}
