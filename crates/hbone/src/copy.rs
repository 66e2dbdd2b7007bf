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
    /// Which side ended first: it sent its end, or nothing could be read from it or written to it any more.
    pub ended_first: Side,
}

/// One of the two streams of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
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
    let mut forward = Direction::from(Side::First);
    let mut backward = Direction::from(Side::Second);
    let mut end = End::default();
    poll_fn(|cx| {
        let there = forward.poll(cx, a, b, &counters.forward, &mut end);
        let back = backward.poll(cx, b, a, &counters.backward, &mut end);
        match (there, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    CopyOutcome {
        forward: counters.forward.load(Ordering::Relaxed),
        backward: counters.backward.load(Ordering::Relaxed),
        error: end.error,
        ended_first: end.first.unwrap_or(Side::First),
    }
}

/// What is known of the end of a copy.
#[derive(Default)]
struct End {
    error: Option<io::Error>,
    first: Option<Side>,
}

impl End {
    /// A side has ended, or is broken.
    fn of(&mut self, side: Side) {
        self.first.get_or_insert(side);
    }

    fn broken(&mut self, side: Side, e: io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
        self.of(side);
        let ordinary = matches!(
            e.kind(),
            NotConnected | UnexpectedEof | ConnectionReset | BrokenPipe
        );
        if !ordinary {
            self.error.get_or_insert(e);
        }
    }
}

/// One direction of a copy.
struct Direction {
    from: Side,
    step: Step,
}

/// How far a direction is.
#[derive(Clone, Copy)]
enum Step {
    Copy,
    Finish,
    Done,
}

impl From<Side> for Direction {
    fn from(from: Side) -> Self {
        Self {
            from,
            step: Step::Copy,
        }
    }
}

impl Direction {
    fn poll<S, D>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        destination: &mut D,
        counter: &AtomicU64,
        end: &mut End,
    ) -> Poll<()>
    where
        S: Io + ?Sized,
        D: Io + ?Sized,
    {
        let mut moved = 0;
        loop {
            match self.step {
                Step::Copy if moved >= BYTES_PER_TURN => {
                    wake_next_turn(cx);
                    return Poll::Pending;
                }
                Step::Copy => match ready!(poll_move(cx, source, destination)) {
                    Ok(0) => {
                        end.of(self.from);
                        self.step = Step::Finish;
                    }
                    Ok(count) => {
                        moved += count;
                        // Nobody else writes it.
                        let before = counter.load(Ordering::Relaxed);
                        counter.store(before + count as u64, Ordering::Relaxed);
                    }
                    Err(broken) => {
                        let side = match broken.at {
                            At::Source => self.from,
                            At::Destination => self.from.other(),
                        };
                        end.broken(side, broken.error);
                        self.step = Step::Finish;
                    }
                },
                Step::Finish => {
                    if let Err(e) = ready!(destination.poll_finish(cx)) {
                        end.broken(self.from.other(), e);
                    }
                    self.step = Step::Done;
                }
                Step::Done => return Poll::Ready(()),
            }
        }
    }
}

/// A move that failed.
struct Broken {
    at: At,
    error: io::Error,
}

/// The end of a direction at which something failed.
enum At {
    Source,
    Destination,
}

/// Moves what has come as far as there is room; 0 at the end.
fn poll_move<S, D>(
    cx: &mut Context<'_>,
    source: &mut S,
    destination: &mut D,
) -> Poll<Result<usize, Broken>>
where
    S: Io + ?Sized,
    D: Io + ?Sized,
{
    let at = |at| move |error| Broken { at, error };
    let bytes = ready!(source.poll_fill(cx)).map_err(at(At::Source))?;
    if bytes.is_empty() {
        return Poll::Ready(Ok(0));
    }
    let count = ready!(destination.poll_put(bytes, cx)).map_err(at(At::Destination))?;
    source.consume(count);
    Poll::Ready(Ok(count))
}
