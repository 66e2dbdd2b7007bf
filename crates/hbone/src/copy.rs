//! Copying between two byte streams in both directions, each with its own end.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use waymark_driver::{Io, wake_next_turn};

/// What is moved in one direction before the task lets others run.
const BYTES_PER_TURN: usize = 512 * 1024;

/// Bytes copied so far, readable while the copy runs, by any thread.
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
/// (hbone-and-l4.md 3.5). What the reader of one side has no room for stays with the other side's peer.
///
/// # Cancel safety
/// What was put is sent when the future is dropped, and `counters` tell how much that was.
pub async fn copy_bidirectional<A, B>(a: &mut A, b: &mut B, counters: &CopyCounters) -> CopyOutcome
where
    A: Io + ?Sized,
    B: Io + ?Sized,
{
    let mut forward = Step::Copy;
    let mut backward = Step::Copy;
    let mut error = None;
    poll_fn(|cx| {
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

/// How far a direction is.
#[derive(Clone, Copy)]
enum Step {
    Copy,
    Finish,
    Done,
}

impl Step {
    fn poll<S, D>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        destination: &mut D,
        counter: &AtomicU64,
        error: &mut Option<io::Error>,
    ) -> Poll<()>
    where
        S: Io + ?Sized,
        D: Io + ?Sized,
    {
        let mut moved = 0;
        loop {
            match self {
                Self::Copy if moved >= BYTES_PER_TURN => {
                    wake_next_turn(cx);
                    return Poll::Pending;
                }
                Self::Copy => match ready!(poll_move(cx, source, destination)) {
                    Ok(0) => *self = Self::Finish,
                    Ok(count) => {
                        moved += count;
                        // Nobody else writes it.
                        let before = counter.load(Ordering::Relaxed);
                        counter.store(before + count as u64, Ordering::Relaxed);
                    }
                    Err(e) => {
                        note(error, e);
                        *self = Self::Finish;
                    }
                },
                Self::Finish => {
                    if let Err(e) = ready!(destination.poll_finish(cx)) {
                        note(error, e);
                    }
                    *self = Self::Done;
                }
                Self::Done => return Poll::Ready(()),
            }
        }
    }
}

/// Moves what has come as far as there is room; 0 at the end.
fn poll_move<S, D>(
    cx: &mut Context<'_>,
    source: &mut S,
    destination: &mut D,
) -> Poll<io::Result<usize>>
where
    S: Io + ?Sized,
    D: Io + ?Sized,
{
    let bytes = ready!(source.poll_fill(cx))?;
    if bytes.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let count = ready!(destination.poll_put(bytes, cx))?;
    source.consume(count);
    Poll::Ready(Ok(count))
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
