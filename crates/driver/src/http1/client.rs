//! The client's side.

use std::io;
use std::task::{Context, Poll, ready};

use waymark_engine::Head;
use waymark_engine::http1::{
    BodyLength, Client, ClientEvent, Limits, ResponseError, ResponseInfo, WriteError,
};

use super::Piece;
use super::outbox::Outbox;
use crate::Io;

/// A head that came from the server; see [`ClientConnection::response_head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Of an informational response: the response is still to come.
    Informational,
    /// Of the response. 101 switches protocols.
    Response,
}

/// Why there is no response, or no end of one.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// What came is no response, or not a whole one.
    #[error(transparent)]
    Response(ResponseError),
    /// The stream under it broke.
    #[error("receive the response")]
    Io(#[from] io::Error),
}

/// A connection to a server: one request at a time.
#[derive(Debug)]
pub struct ClientConnection<I> {
    io: I,
    core: Client,
    outbox: Outbox,
    /// Bytes at the front of what `io` holds that are body and not consumed.
    body: usize,
}

impl<I: Io> ClientConnection<I> {
    /// A connection that has just been made.
    pub fn new(io: I, limits: Limits) -> Self {
        Self {
            io,
            core: Client::new(limits),
            outbox: Outbox::default(),
            body: 0,
        }
    }

    /// Begins a request; see [`Client::send`].
    ///
    /// # Errors
    /// When the connection isn't reusable, or the head can't be written.
    pub fn send(&mut self, head: &Head, body: BodyLength) -> Result<(), WriteError> {
        self.outbox.begin();
        self.core.send(head, body, self.outbox.bytes())
    }

    /// Whether nothing of the request was handed to the stream: then the server can't have seen any of it.
    #[must_use]
    pub fn nothing_sent(&self) -> bool {
        !self.outbox.has_put()
    }

    /// Sends some of the request's body. Returns how many bytes there was room for; the rest of them has to come next.
    ///
    /// # Errors
    /// When the stream has ended, or there are more bytes than the request was said to have.
    pub fn poll_write(&mut self, data: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self {
            io, core, outbox, ..
        } = self;
        outbox.poll_body(io, cx, data, core)
    }

    /// Ends the request; what is left of it is sent by [`poll_drain`](Self::poll_drain).
    ///
    /// # Errors
    /// See [`Client::finish`].
    pub fn finish(&mut self, trailers: Option<&Head>) -> Result<(), WriteError> {
        self.core.finish(trailers, self.outbox.bytes())
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

    /// Waits for a head.
    ///
    /// # Errors
    /// When none comes.
    pub fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, ReceiveError>> {
        loop {
            let input = ready!(self.io.poll_fill(cx))?;
            let event = if input.is_empty() {
                self.core.eof()
            } else {
                let received = self.core.recv(input);
                self.io.consume(received.consumed);
                received.event
            };
            match event {
                ClientEvent::Informational => return Poll::Ready(Ok(Received::Informational)),
                ClientEvent::Head => return Poll::Ready(Ok(Received::Response)),
                ClientEvent::Failed(error) => {
                    return Poll::Ready(Err(ReceiveError::Response(error)));
                }
                ClientEvent::End => {
                    return Poll::Ready(Err(ReceiveError::Response(ResponseError::Truncated)));
                }
                ClientEvent::NeedMore
                | ClientEvent::Body(_)
                | ClientEvent::Trailers
                | ClientEvent::Raw(_) => {}
            }
        }
    }

    /// Waits for the next piece of the response's body.
    ///
    /// # Errors
    /// When the body breaks off.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece<'_>, ReceiveError>> {
        while self.body == 0 {
            if self.core.is_past() {
                return Poll::Ready(Ok(Piece::End));
            }
            let input = ready!(self.io.poll_fill(cx))?;
            let (consumed, event) = if input.is_empty() {
                (0, self.core.eof())
            } else {
                let received = self.core.recv(input);
                (received.consumed, received.event)
            };
            match event {
                ClientEvent::Body(range) => {
                    self.io.consume(range.start);
                    self.body = range.len();
                    continue;
                }
                ClientEvent::Trailers => {
                    self.io.consume(consumed);
                    return Poll::Ready(Ok(Piece::Trailers));
                }
                ClientEvent::Failed(error) => {
                    return Poll::Ready(Err(ReceiveError::Response(error)));
                }
                ClientEvent::End
                | ClientEvent::NeedMore
                | ClientEvent::Head
                | ClientEvent::Informational
                | ClientEvent::Raw(_) => {}
            }
            self.io.consume(consumed);
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

    /// While nothing is asked: waits until the connection is of no use any more, because the server has ended it or says
    /// something unasked.
    pub fn poll_spoilt(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_fill(cx).map(drop)
    }

    /// Whether another request may be sent.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.core.is_reusable() && self.outbox.is_empty() && self.body == 0
    }

    /// The stream, after a switch of protocols; what was written before is to be [drained](Self::poll_drain) first.
    pub fn into_io(self) -> I {
        self.io
    }

    /// The head that came last.
    #[must_use]
    pub fn response_head(&self) -> &Head {
        self.core.head()
    }

    /// The head that came last, to be exchanged with one that the caller keeps.
    pub fn response_head_mut(&mut self) -> &mut Head {
        self.core.head_mut()
    }

    /// What else is to know of the response.
    #[must_use]
    pub fn response(&self) -> &ResponseInfo {
        self.core.response()
    }

    /// The trailers of the response.
    #[must_use]
    pub fn trailers(&self) -> Option<&Head> {
        self.core.trailers()
    }

    /// Gives memory back, as far as nothing is in it.
    pub fn release(&mut self) {
        self.core.release();
        self.outbox.release();
    }
}
