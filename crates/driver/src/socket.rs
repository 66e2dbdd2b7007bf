//! A connected socket as a byte stream, plain or TLS.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use crate::executor::{Level, Task, spawn_at};
use crate::io::Io;
use crate::socket_buffer::{ReceiveBuffer, SendBuffer};
use crate::tcp::TcpStream;
use crate::tls::{Opened, Session};

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

/// A TCP connection, or a TLS session over one, as an [`Io`].
///
/// What is put is encrypted at once, straight into the output buffer, and written at the end of the turn; the output buffer
/// holds 64 KiB, and is written earlier when it is full. Records are decrypted where they were read. Memory of both
/// directions goes back to the thread when the connection is idle.
///
/// The end of a TCP connection without the TLS session's `close_notify` is an error, not an end.
pub struct Socket {
    shared: Rc<RefCell<Shared>>,
    received: ReceiveBuffer,
    /// The peer's direction has ended.
    ended: bool,
    /// Whether there is TLS.
    secure: bool,
    peer: SocketAddr,
    local: SocketAddr,
    _writer: Task<()>,
}

/// What the owner of a socket and its writer share.
struct Shared {
    tcp: Option<TcpStream>,
    session: Option<Box<Session>>,
    out: SendBuffer,
    direction: Direction,
    failed: Option<Arc<io::Error>>,
    /// The writer, while it has nothing to do.
    writer: Option<Waker>,
    /// The owner, while it waits for room or for its end to be handed on.
    owner: Option<Waker>,
}

/// How far our direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Open,
    /// The end is to be sent behind what is buffered.
    Finishing,
    Finished,
}

/// How much may be buffered to be sent.
const OUT_LIMIT: usize = 64 * 1024;
/// The least room that a socket is read into.
const READ_AT_LEAST: usize = 8 * 1024;

impl Socket {
    /// A plain TCP connection.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn plain(tcp: TcpStream) -> io::Result<Self> {
        Self::new(tcp, None, ReceiveBuffer::default(), SendBuffer::default())
    }

    /// A session whose handshake is done, with what was received and is to be sent so far.
    pub(crate) fn new(
        tcp: TcpStream,
        session: Option<Box<Session>>,
        received: ReceiveBuffer,
        out: SendBuffer,
    ) -> io::Result<Self> {
        let (peer, local) = (tcp.peer_addr(), tcp.local_addr()?);
        let secure = session.is_some();
        let shared = Rc::new(RefCell::new(Shared {
            tcp: Some(tcp),
            session,
            out,
            direction: Direction::Open,
            failed: None,
            writer: None,
            owner: None,
        }));
        let of_writer = Rc::clone(&shared);
        let writer = std::future::poll_fn(move |cx| of_writer.borrow_mut().poll_send(cx));
        Ok(Self {
            shared,
            received,
            ended: false,
            secure,
            peer,
            local,
            _writer: spawn_at(Level::SocketWriter, "socket writer", writer),
        })
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether the stream is encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Makes more plain text of what was read, if there is a whole record. Returns whether there was.
    fn open_record(&mut self, shared: &mut Shared) -> io::Result<bool> {
        let Some(session) = &mut shared.session else {
            let any = !self.received.raw().is_empty();
            self.received.raw_is_plain();
            return Ok(any);
        };
        match session.open(&mut self.received, &mut shared.out) {
            Ok(Opened::Partial) => Ok(false),
            Ok(Opened::Data) => Ok(true),
            Ok(Opened::Control) => {
                shared.wake_writer();
                Ok(true)
            }
            Ok(Opened::End) => {
                self.ended = true;
                Ok(true)
            }
            Err(error) => {
                session.alert(&error, &mut shared.out);
                shared.send_now();
                Err(shared.fail(error.into()))
            }
        }
    }

    /// Waits for more than `have` bytes of plain text.
    fn poll_plain(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = Rc::clone(&self.shared);
        let mut shared = shared.borrow_mut();
        while self.received.plain().len() <= have && !self.ended {
            if let Some(error) = &shared.failed {
                return Poll::Ready(Err(again(error)));
            }
            if self.open_record(&mut shared)? {
                continue;
            }
            let Some(tcp) = &shared.tcp else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            if tcp.poll_readable(cx).is_pending() {
                self.received.rest();
                return Poll::Pending;
            }
            match tcp.poll_read(self.received.room(READ_AT_LEAST), cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) if self.secure => {
                    let truncated = io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection ended without a close_notify",
                    );
                    return Poll::Ready(Err(shared.fail(truncated)));
                }
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(count)) => self.received.received(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(shared.fail(error))),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Io for Socket {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_plain(have, cx))?;
        Poll::Ready(Ok(self.received.plain()))
    }

    fn consume(&mut self, bytes: usize) {
        self.received.consume(bytes);
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let shared = &mut *self.shared.borrow_mut();
        let put = shared.poll_put(bytes, cx);
        shared.wake_writer();
        put
    }

    fn poll_put_last(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let shared = &mut *self.shared.borrow_mut();
        let put = shared.poll_put(bytes, cx);
        if !shared.out.is_empty() {
            shared.send_now();
            shared.check()?;
        }
        if !shared.out.is_empty() {
            shared.wake_writer();
        }
        put
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.borrow_mut().poll_finish(cx)
    }

    fn abort(&mut self) {
        self.shared.borrow_mut().abort();
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        match shared.direction {
            Direction::Open | Direction::Finishing => shared.abort(),
            // Closed without more ado: the system sends what it has, and refuses what still comes.
            Direction::Finished => shared.tcp = None,
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("peer", &self.peer)
            .field("local", &self.local)
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.direction != Direction::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.out.unsent().len() >= OUT_LIMIT {
            self.send_now();
            self.check()?;
        }
        let room = OUT_LIMIT.saturating_sub(self.out.unsent().len());
        if room == 0 {
            self.owner = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = &bytes[..bytes.len().min(room)];
        match &mut self.session {
            None => self.out.back(taken.len()).extend_from_slice(taken),
            Some(session) => session
                .seal(taken, &mut self.out)
                .map_err(io::Error::from)?,
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.direction == Direction::Finished {
            return Poll::Ready(Ok(()));
        }
        self.check()?;
        if self.direction == Direction::Open {
            self.direction = Direction::Finishing;
            if let Some(session) = &mut self.session {
                session.close(&mut self.out).map_err(io::Error::from)?;
            }
            self.wake_writer();
        }
        self.owner = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What the writer does: sends what there is. Never ready.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(tcp) = &self.tcp else {
            return Poll::Pending;
        };
        while !self.out.is_empty() {
            match ready!(tcp.poll_write(self.out.unsent(), cx)) {
                Ok(count) => self.out.advance(count),
                Err(error) => {
                    self.fail(error);
                    return Poll::Pending;
                }
            }
        }
        if self.direction == Direction::Finishing {
            match tcp.shut_down() {
                Ok(()) => self.direction = Direction::Finished,
                Err(error) => {
                    self.fail(error);
                }
            }
        }
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
        match &mut self.writer {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.writer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Sends what the system takes at once.
    fn send_now(&mut self) {
        let Some(tcp) = &self.tcp else { return };
        match tcp.try_write(self.out.unsent()) {
            Ok(count) => self.out.advance(count),
            Err(error) => {
                self.fail(error);
            }
        }
    }

    fn wake_writer(&self) {
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some(error) => Err(again(error)),
            None => Ok(()),
        }
    }

    /// Both directions are over. Returns the error for whoever found it; the others get the same.
    fn fail(&mut self, error: io::Error) -> io::Error {
        let error = self.failed.get_or_insert_with(|| Arc::new(error));
        let error = again(error);
        self.out.clear();
        if let Some(tcp) = self.tcp.take() {
            tcp.reset();
        }
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
        error
    }

    fn abort(&mut self) {
        self.fail(io::ErrorKind::ConnectionAborted.into());
    }
}

/// The same error once more.
fn again(error: &Arc<io::Error>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), Repeated(Arc::clone(error))),
    }
}

/// An error that several are told.
#[derive(Debug)]
pub(crate) struct Repeated(pub(crate) Arc<io::Error>);

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Repeated {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
