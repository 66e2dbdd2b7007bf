//! Two ends of a byte stream in memory.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Io;

/// Two connected ends on one thread, for what is spoken inside a program, and for tests. Each direction holds at most
/// `capacity` bytes that were put and not consumed.
///
/// # Panics
/// When `capacity` is 0.
#[must_use]
pub fn pair(capacity: usize) -> (PairEnd, PairEnd) {
    assert!(capacity > 0, "a stream without room");
    let (one, other) = (Rc::default(), Rc::default());
    let end = |incoming: &Shared, outgoing: &Shared| PairEnd {
        incoming: Rc::clone(incoming),
        outgoing: Rc::clone(outgoing),
        held: Vec::new(),
        taken: 0,
        capacity,
    };
    (end(&one, &other), end(&other, &one))
}

/// One end of a [`pair`].
#[derive(Debug)]
pub struct PairEnd {
    incoming: Shared,
    outgoing: Shared,
    /// What was fetched from `incoming`; the first `taken` of it are consumed.
    held: Vec<u8>,
    taken: usize,
    capacity: usize,
}

type Shared = Rc<RefCell<Pipe>>;

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    bytes: Vec<u8>,
    /// What the reader has fetched and not consumed.
    unconsumed: usize,
    end: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Aborted,
}

impl Pipe {
    fn room(&self, capacity: usize) -> usize {
        capacity - self.bytes.len() - self.unconsumed
    }

    fn end(&mut self, how: End) {
        if self.end != Some(End::Aborted) {
            self.end = Some(how);
        }
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }

    fn aborted(&self) -> bool {
        self.end == Some(End::Aborted)
    }
}

impl Io for PairEnd {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let mut pipe = self.incoming.borrow_mut();
        if pipe.aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.taken > 0 {
            self.held.drain(..self.taken);
            self.taken = 0;
        }
        self.held.append(&mut pipe.bytes);
        pipe.unconsumed = self.held.len();
        if self.held.len() > have || pipe.end.is_some() {
            return Poll::Ready(Ok(&self.held));
        }
        if pipe.room(self.capacity) == 0 {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn consume(&mut self, bytes: usize) {
        assert!(
            bytes <= self.held.len() - self.taken,
            "more consumed than given"
        );
        self.taken += bytes;
        let mut pipe = self.incoming.borrow_mut();
        pipe.unconsumed -= bytes;
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut pipe = self.outgoing.borrow_mut();
        match pipe.end {
            Some(End::Aborted) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(End::Finished) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None => {}
        }
        let taken = bytes.len().min(pipe.room(self.capacity));
        if taken == 0 && !bytes.is_empty() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend_from_slice(&bytes[..taken]);
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        pipe.end(End::Finished);
        Poll::Ready(Ok(()))
    }

    fn abort(&mut self) {
        for pipe in [&self.incoming, &self.outgoing] {
            pipe.borrow_mut().end(End::Aborted);
        }
    }
}

impl Drop for PairEnd {
    fn drop(&mut self) {
        if self.outgoing.borrow().end != Some(End::Finished) {
            self.abort();
        } else if self.incoming.borrow().end.is_none() {
            self.incoming.borrow_mut().end(End::Aborted);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::io::{filled, finish, put_all, read_to_end};
    use crate::{Executor, spawn};

    #[test]
    fn carries_both_directions_in_pieces() {
        Executor::new().unwrap().block_on(async {
            let (mut one, mut other) = pair(16);
            let echo = spawn("echo", async move {
                let all = read_to_end(&mut other, 10_000).await.unwrap();
                put_all(&mut other, &all).await.unwrap();
                finish(&mut other).await.unwrap();
            });
            let message: Vec<u8> = (0..=255).cycle().take(1000).collect();
            put_all(&mut one, &message).await.unwrap();
            finish(&mut one).await.unwrap();
            assert_eq!(read_to_end(&mut one, 10_000).await.unwrap(), message);
            echo.await.unwrap();
        });
    }

    #[test]
    fn holds_no_more_than_its_capacity_until_consumed() {
        Executor::new().unwrap().block_on(async {
            let (mut one, mut other) = pair(4);
            let mut put =
                async |bytes: &'static [u8]| poll_fn(|cx| one.poll_put(bytes, cx)).await.unwrap();
            assert_eq!(put(b"abcdef").await, 4);
            assert_eq!(filled(&mut other).await.unwrap(), 4);
            let full = poll_fn(|cx| other.poll_fill_more(4, cx).map_ok(<[u8]>::len)).await;
            assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
            other.consume(1);
            assert_eq!(put(b"ef").await, 1);
            let held = poll_fn(|cx| other.poll_fill_more(3, cx).map_ok(<[u8]>::to_vec)).await;
            assert_eq!(held.unwrap(), b"bcde");
        });
    }

    #[test]
    fn an_end_that_is_dropped_unfinished_resets_the_other() {
        Executor::new().unwrap().block_on(async {
            let (mut one, mut other) = pair(4);
            finish(&mut one).await.unwrap();
            put_all(&mut other, b"a").await.unwrap();
            drop(other);
            let error = filled(&mut one).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    #[test]
    fn what_an_end_put_before_it_finished_is_read_after_it_was_dropped() {
        Executor::new().unwrap().block_on(async {
            let (mut one, mut other) = pair(4);
            put_all(&mut other, b"a").await.unwrap();
            finish(&mut other).await.unwrap();
            drop(other);
            let error = put_all(&mut one, b"b").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(read_to_end(&mut one, 4).await.unwrap(), b"a");
        });
    }
}
