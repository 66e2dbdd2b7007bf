//! A CONNECT stream as a byte stream with half-close in both directions.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::pool::Lease;

/// The most that one `poll_write` copies: larger writes are cut, so that one writer's memory stays small.
const WRITE_CHUNK_BYTES: usize = 128 * 1024;

/// An open tunnel: bytes both ways over one HTTP/2 stream.
///
/// What was received counts against the peer's window until the reader took it, so a slow reader stops its own peer and
/// nobody else. Dropping a tunnel before both directions ended resets the stream.
///
/// Ends as hbone-and-l4.md 3.5 says: a reset with `NO_ERROR` while reading is an end, `CANCEL` is
/// [`io::ErrorKind::ConnectionReset`]; a reset while writing is [`io::ErrorKind::BrokenPipe`].
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not yet taken by the reader.
    chunk: Bytes,
    /// Handed out by [`Tunnel::poll_chunk`] and not yet given back to the peer's window.
    owed: usize,
    read_ended: bool,
    write_ended: bool,
    lease: Option<Lease>,
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, recv: RecvStream, lease: Option<Lease>) -> Self {
        Self {
            send,
            recv,
            chunk: Bytes::new(),
            owed: 0,
            read_ended: false,
            write_ended: false,
            lease,
        }
    }

    /// Takes the next received bytes without copying them; `None` at the end of the stream.
    ///
    /// They count against the peer's window until [`Tunnel::release`].
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.chunk.is_empty() && !ready!(self.poll_fill(cx))? {
            return Poll::Ready(Ok(None));
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.owed += chunk.len();
        Poll::Ready(Ok(Some(chunk)))
    }

    /// Gives bytes taken by [`Tunnel::poll_chunk`] back to the peer's window.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.owed);
        self.owed -= bytes;
        self.release_window(bytes);
    }

    /// The bytes received and not yet taken; reading returns them first.
    #[must_use]
    pub fn peeked(&self) -> &[u8] {
        &self.chunk
    }

    /// Receives at least one more byte behind what is already [`peeked`](Tunnel::peeked).
    ///
    /// Returns false when the peer ended its direction first.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As reading.
    pub async fn peek_more(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| self.poll_peek_more(cx)).await
    }

    /// The polled form of [`Tunnel::peek_more`].
    pub fn poll_peek_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.chunk.is_empty() {
            return self.poll_fill(cx);
        }
        let mut seen = std::mem::take(&mut self.chunk);
        let filled = self.poll_fill(cx);
        if self.chunk.is_empty() {
            std::mem::swap(&mut self.chunk, &mut seen);
        } else {
            let mut joined = BytesMut::with_capacity(seen.len() + self.chunk.len());
            joined.extend_from_slice(&seen);
            joined.extend_from_slice(&self.chunk);
            self.chunk = joined.freeze();
        }
        filled
    }

    /// Sends as much of `bytes` as the peer's window admits, without copying; what is left stays in `bytes`.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, bytes.len()))?;
        let part = bytes.split_to(room.min(bytes.len()));
        let sent = part.len();
        self.send
            .send_data(part, false)
            .map_err(|e| write_error(&e))?;
        Poll::Ready(Ok(sent))
    }

    /// Ends this side's direction: an empty DATA frame with END_STREAM behind everything sent so far.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.write_ended, true) {
            // An error says that the stream is gone already, which is an end as well.
            let _ = self.send.send_data(Bytes::new(), true);
        }
    }

    /// Resets the stream: the peer sees an error, not an end.
    pub fn reset(mut self, reason: Reason) {
        self.write_ended = true;
        self.send.send_reset(reason);
    }

    /// Whether the peer has ended its direction and everything was read.
    #[must_use]
    pub fn is_read_closed(&self) -> bool {
        self.chunk.is_empty() && (self.read_ended || self.recv.is_end_stream())
    }

    /// Whether the pooled connection below carries on; a tunnel of a server has none.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Receives into the empty `chunk`; false at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        debug_assert!(self.chunk.is_empty(), "filling over unread bytes");
        while !self.read_ended {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.chunk = data;
                    return Poll::Ready(Ok(true));
                }
                Some(Err(e)) => {
                    self.read_ended = true;
                    match read_error(&e) {
                        None => {}
                        Some(e) => return Poll::Ready(Err(e)),
                    }
                }
                None => self.read_ended = true,
            }
        }
        Poll::Ready(Ok(false))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.send.reserve_capacity(want);
        loop {
            // `poll_capacity` reports only increases, so what is there already is looked at first.
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(write_error(&e))),
                None => return Poll::Ready(Err(self.why_closed(cx))),
            }
        }
    }

    fn why_closed(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            Poll::Ready(Ok(reason)) => write_error(&reason.into()),
            Poll::Ready(Err(e)) => write_error(&e),
            Poll::Pending => io::ErrorKind::BrokenPipe.into(),
        }
    }

    fn release_window(&mut self, bytes: usize) {
        if bytes > 0 {
            // An error means that the stream or connection is gone: there is no window left to give back to.
            let _ = self.recv.flow_control().release_capacity(bytes);
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.chunk.is_empty() && !ready!(this.poll_fill(cx))? {
            return Poll::Ready(Ok(()));
        }
        let part = this.chunk.split_to(this.chunk.len().min(buf.remaining()));
        buf.put_slice(&part);
        this.release_window(part.len());
        if this.chunk.is_empty() {
            this.chunk = Bytes::new(); // lets go of the frame's memory
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        let want = total.min(WRITE_CHUNK_BYTES);
        let room = ready!(this.poll_room(cx, want))?.min(want);
        let mut data = BytesMut::with_capacity(room);
        for buf in bufs {
            let left = room - data.len();
            data.extend_from_slice(&buf[..buf.len().min(left)]);
        }
        this.send
            .send_data(data.freeze(), false)
            .map_err(|e| write_error(&e))?;
        Poll::Ready(Ok(room))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task was woken by the write and puts everything on the wire at once.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().finish();
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("stream", &self.recv.stream_id())
            .field("read_ended", &self.read_ended)
            .field("write_ended", &self.write_ended)
            .finish_non_exhaustive()
    }
}

/// `None` for an end.
fn read_error(e: &h2::Error) -> Option<io::Error> {
    match e.reason() {
        Some(Reason::NO_ERROR) => None,
        Some(Reason::CANCEL) => Some(io::ErrorKind::ConnectionReset.into()),
        Some(Reason::STREAM_CLOSED) => Some(io::ErrorKind::BrokenPipe.into()),
        _ => Some(other_error(e)),
    }
}

fn write_error(e: &h2::Error) -> io::Error {
    match e.reason() {
        Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED) => {
            io::ErrorKind::BrokenPipe.into()
        }
        None if e.get_io().is_none() => io::ErrorKind::BrokenPipe.into(), // "inactive stream"
        _ => other_error(e),
    }
}

fn other_error(e: &h2::Error) -> io::Error {
    match (e.get_io(), e.reason()) {
        (Some(io), _) => io::Error::new(io.kind(), io.to_string()),
        (None, Some(reason)) => io::Error::new(io::ErrorKind::ConnectionAborted, H2Failure(reason)),
        (None, None) => io::Error::other(e.to_string()),
    }
}

/// The HTTP/2 error code that ended a tunnel; inside the [`io::Error`] of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel ended with HTTP/2 error {}", .0.description())]
pub struct H2Failure(pub Reason);
