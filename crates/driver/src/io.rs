//! The seam between byte streams and what is spoken over them.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

mod pair;

pub use pair::{PairEnd, pair};

/// A byte stream with half-close both ways: a TCP connection, a TLS session, a tunnel.
///
/// All methods are for one task at a time and one direction each: the waker of the last poll of a direction is the one that
/// is woken. What is received is borrowed, never copied out; what was not [consumed](Io::consume) stays, and is what the peer
/// has to wait for.
///
/// An error is final for both directions. It has kind [`ConnectionReset`](io::ErrorKind::ConnectionReset) when the peer ended
/// the stream and [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the transport ended before the stream did.
pub trait Io {
    /// What has come and is not consumed, but only when that is more than `have` bytes, or at the end of the peer's
    /// direction: `have` or fewer bytes are all that there is and ever will be.
    ///
    /// `have` is 0, or what an earlier call gave and was too little to go on with (the beginning of a head). A stream holds
    /// at least [`MIN_HELD`] unconsumed bytes; one that can hold no more than `have` answers with an error of kind
    /// [`StorageFull`](io::ErrorKind::StorageFull). Bytes that arrive are appended: what was given before comes first again.
    ///
    /// # Errors
    /// What ended the stream, once what came before it has been given.
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>>;

    /// Takes the first `bytes` of what was given. Only now may the peer send as many more.
    ///
    /// # Panics
    /// When fewer were given.
    fn consume(&mut self, bytes: usize);

    /// Takes as many of `bytes` as there is room for, at least one, and returns how many. They are sent at the end of the
    /// turn; there is no flush. Taking none of no bytes is ready.
    ///
    /// # Errors
    /// What ended the stream; `BrokenPipe` after [`poll_finish`](Io::poll_finish).
    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// As [`poll_put`](Io::poll_put), but sent at once as far as that goes: for who is the last to put something in this turn,
    /// a task at [`Level::SocketWriter`](crate::Level::SocketWriter).
    ///
    /// # Errors
    /// As [`poll_put`](Io::poll_put).
    fn poll_put_last(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_put(bytes, cx)
    }

    /// Ends our direction behind what was put, and is ready once that is handed on (not: received). May be called again.
    ///
    /// # Errors
    /// What ended the stream.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends both directions at once: the peer sees a reset, never an orderly end. Dropping a stream whose own direction was
    /// not [finished](Io::poll_finish) does the same; after that, dropping it only means that nothing more is read.
    fn abort(&mut self);

    /// What has come and is not consumed: at least one byte, or none at the end of the peer's direction.
    ///
    /// # Errors
    /// As [`poll_fill_more`](Io::poll_fill_more).
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.poll_fill_more(0, cx)
    }
}

/// How many unconsumed bytes every [`Io`] holds at least: nothing that has to be seen whole (a head) may be larger.
pub const MIN_HELD: usize = 64 * 1024;

impl<T: Io + ?Sized> Io for Box<T> {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        (**self).poll_fill_more(have, cx)
    }

    fn consume(&mut self, bytes: usize) {
        (**self).consume(bytes);
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        (**self).poll_put(bytes, cx)
    }

    fn poll_put_last(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        (**self).poll_put_last(bytes, cx)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_finish(cx)
    }

    fn abort(&mut self) {
        (**self).abort();
    }
}

/// Waits until something has come, without taking it; returns how much is there, 0 at the end of the peer's direction.
///
/// # Errors
/// What ended the stream.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn filled<T: Io + ?Sized>(io: &mut T) -> io::Result<usize> {
    poll_fn(|cx| io.poll_fill(cx).map_ok(<[u8]>::len)).await
}

/// Puts all of `bytes`.
///
/// # Errors
/// What ended the stream.
///
/// # Cancel safety
/// None: how much was put is not known.
pub async fn put_all<T: Io + ?Sized>(io: &mut T, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let put = poll_fn(|cx| io.poll_put(bytes, cx)).await?;
        bytes = &bytes[put..];
    }
    Ok(())
}

/// Ends our direction.
///
/// # Errors
/// What ended the stream.
pub async fn finish<T: Io + ?Sized>(io: &mut T) -> io::Result<()> {
    poll_fn(|cx| io.poll_finish(cx)).await
}

/// Takes all that comes until the end of the peer's direction, at most `limit` bytes.
///
/// # Errors
/// What ended the stream; `StorageFull` when there was more.
pub async fn read_to_end<T: Io + ?Sized>(io: &mut T, limit: usize) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let more = poll_fn(|cx| io.poll_fill(cx).map_ok(|bytes| append(&mut all, bytes))).await?;
        io.consume(more);
        if more == 0 {
            return Ok(all);
        }
        if all.len() > limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
    }
}

fn append(all: &mut Vec<u8>, bytes: &[u8]) -> usize {
    all.extend_from_slice(bytes);
    bytes.len()
}
