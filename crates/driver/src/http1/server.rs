//! The server's side.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use waymark_engine::Head;
use waymark_engine::http1::{
    After, BodyLength, Refusal, RequestInfo, Server, ServerConfig, ServerEof, ServerEvent,
    WriteError,
};

use super::Piece;
use super::outbox::Outbox;
use crate::Io;

/// What comes next on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A request: see [`ServerConnection::head`].
    Request,
    /// What has to be answered with what the refusal says.
    Refused(Refusal),
    /// Nothing: the client has ended, or the connection is closed.
    End,
}

/// Why a request's body has no end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client ended amid it.
    #[error("the request is incomplete")]
    Truncated,
    /// It is not framed as it should be.
    #[error(transparent)]
    Refused(Refusal),
    /// The stream under it broke.
    #[error("receive the request")]
    Io(#[from] io::Error),
}

/// A connection of a client: requests in, each answered before the next is looked at.
#[derive(Debug)]
pub struct ServerConnection<I> {
    io: I,
    core: Server,
    outbox: Outbox,
    /// Bytes at the front of what `io` holds that are body and not consumed.
    body: usize,
    ended: bool,
}

/// How much a client may send ahead while its end is still noticed.
const WATCHED_BYTES: usize = 16 * 1024;

impl<I: Io> ServerConnection<I> {
    /// A connection that has just been accepted.
    pub fn new(io: I, config: Arc<ServerConfig>) -> Self {
        Self {
            io,
            core: Server::new(config),
            outbox: Outbox::default(),
            body: 0,
            ended: false,
        }
    }

    /// Waits for the next request, once the last one is answered. Meanwhile what is left of its response is sent.
    ///
    /// # Errors
    /// What ended the stream.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        loop {
            if !self.outbox.is_empty()
                && let Poll::Ready(Err(e)) = self.outbox.poll_drain(&mut self.io, cx)
            {
                return Poll::Ready(Err(e));
            }
            if self.ended {
                return Poll::Ready(Ok(Incoming::End));
            }
            let input = ready!(self.io.poll_fill(cx))?;
            if input.is_empty() {
                self.ended = true;
                self.core.eof();
                continue;
            }
            let received = self.core.recv(input);
            let event = match received.event {
                ServerEvent::Head => Some(Incoming::Request),
                ServerEvent::Refused(refusal) => Some(Incoming::Refused(refusal)),
                ServerEvent::Closed => Some(Incoming::End),
                ServerEvent::Body(_)
                | ServerEvent::Trailers
                | ServerEvent::End
                | ServerEvent::Raw(_)
                | ServerEvent::NeedMore
                | ServerEvent::Busy => None,
            };
            self.io.consume(received.consumed);
            if let Some(event) = event {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Waits for the next piece of the request's body.
    ///
    /// # Errors
    /// When the body breaks off.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece<'_>, BodyError>> {
        while self.body == 0 {
            if self.core.is_complete() {
                return Poll::Ready(Ok(Piece::End));
            }
            let input = ready!(self.io.poll_fill(cx))?;
            if input.is_empty() {
                self.ended = true;
                match self.core.eof() {
                    ServerEof::Clean | ServerEof::HalfClosed => {}
                    ServerEof::Truncated => return Poll::Ready(Err(BodyError::Truncated)),
                }
                return Poll::Ready(Ok(Piece::End));
            }
            let received = self.core.recv(input);
            match received.event {
                ServerEvent::Body(range) => {
                    self.io.consume(range.start);
                    self.body = range.len();
                }
                ServerEvent::Trailers => {
                    self.io.consume(received.consumed);
                    return Poll::Ready(Ok(Piece::Trailers));
                }
                ServerEvent::Refused(refusal) => {
                    self.io.consume(received.consumed);
                    return Poll::Ready(Err(BodyError::Refused(refusal)));
                }
                ServerEvent::Closed => return Poll::Ready(Err(BodyError::Truncated)),
                ServerEvent::Head
                | ServerEvent::End
                | ServerEvent::Raw(_)
                | ServerEvent::NeedMore
                | ServerEvent::Busy => self.io.consume(received.consumed),
            }
        }
        let held = ready!(self.io.poll_fill(cx))?;
        Poll::Ready(Ok(Piece::Data(&held[..self.body])))
    }

    /// Done with so many bytes of the piece.
    ///
    /// # Panics
    /// When the piece had fewer.
    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.body, "more consumed than the piece had");
        self.body -= bytes;
        self.io.consume(bytes);
    }

    /// Waits until the client has left while its request, which is complete, is being answered. Who sends much ahead is not
    /// watched.
    pub fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended {
            return Poll::Ready(());
        }
        let mut have = 0;
        loop {
            match ready!(self.io.poll_fill_more(have, cx)) {
                Ok(held) if held.len() > WATCHED_BYTES => return Poll::Pending,
                Ok(held) if held.len() > have => have = held.len(),
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Writes an informational response in front of the response; see [`Server::inform`].
    ///
    /// # Errors
    /// When it isn't the time for it, or the head can't be written.
    pub fn inform(&mut self, head: &Head) -> Result<(), WriteError> {
        self.core.inform(head, self.outbox.bytes())
    }

    /// Begins the response; see [`Server::respond`].
    ///
    /// # Errors
    /// When there is nothing to answer, or the head can't be written.
    pub fn respond(&mut self, head: &Head, body: BodyLength) -> Result<(), WriteError> {
        self.core.respond(head, body, self.outbox.bytes())
    }

    /// Sends some of the response's body. Returns how many bytes there was room for; the rest of them has to come next.
    ///
    /// # Errors
    /// When the stream has ended, or there are more bytes than the response was said to have.
    pub fn poll_write(&mut self, data: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            io, core, outbox, ..
        } = self;
        outbox.poll_body(io, cx, data, core)
    }

    /// Ends the response; what is left of it is sent by the next [`poll_request`](Self::poll_request) or
    /// [`poll_drain`](Self::poll_drain).
    ///
    /// # Errors
    /// See [`Server::finish`].
    pub fn finish(&mut self, trailers: Option<&Head>) -> Result<After, WriteError> {
        let after = self.core.finish(trailers, self.outbox.bytes())?;
        if self.body > 0 {
            // What was not wanted of the request: the connection is read no more.
            self.io.consume(std::mem::take(&mut self.body));
        }
        Ok(after)
    }

    /// Hands everything that was written on.
    ///
    /// # Errors
    /// What ended the stream.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.outbox.poll_drain(&mut self.io, cx)
    }

    /// Closes the connection in order: what was written gets there, what still comes is thrown away until the client has ended
    /// too.
    pub async fn close(mut self) {
        let drained = poll_fn(|cx| self.poll_drain(cx)).await;
        if drained.is_err() || poll_fn(|cx| self.io.poll_finish(cx)).await.is_err() {
            return;
        }
        while let Ok(held @ 1..) = crate::io::filled(&mut self.io).await {
            self.io.consume(held);
        }
    }

    /// The stream, after a switch of protocols; what was written before is to be [drained](Self::poll_drain) first.
    pub fn into_io(self) -> I {
        self.io
    }

    /// Ends the connection at once, so that the client can't take what it got for a whole response.
    pub fn abort(&mut self) {
        self.io.abort();
        self.ended = true;
    }

    /// Closes the connection after the response; if that has not begun, it says so.
    pub fn close_after_response(&mut self) {
        self.core.close_after_response();
    }

    /// Gives up on a request whose head does not get complete; see [`Server::give_up`].
    pub fn give_up(&mut self) {
        self.core.give_up();
    }

    /// The head of the request.
    #[must_use]
    pub fn head(&self) -> &Head {
        self.core.head()
    }

    /// The head of the request, to be exchanged with one that the caller keeps.
    pub fn head_mut(&mut self) -> &mut Head {
        self.core.head_mut()
    }

    /// What else is to know of the request.
    #[must_use]
    pub fn request(&self) -> &RequestInfo {
        self.core.request()
    }

    /// The trailers of the request.
    #[must_use]
    pub fn trailers(&self) -> Option<&Head> {
        self.core.trailers()
    }

    /// Whether all of the request has come; a connection without one counts too.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.body == 0 && self.core.is_complete()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.core.is_idle()
    }

    /// Gives memory back, as far as nothing is in it.
    pub fn release(&mut self) {
        self.core.release();
        self.outbox.release();
    }
}
