//! The client's side of one request: an HTTP/1 connection, or a stream of an HTTP/2 one.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use waymark_driver::http1::{BodyError, Piece, ServerConnection};
use waymark_driver::{Io as _, buffers, h2};
use waymark_engine::Head;
use waymark_engine::h2::{End, ErrorCode, ResetBy};
use waymark_engine::http1::{After as AfterHttp1, BodyLength, Refusal, Version};
use waymark_hbone::Tunnel;

use super::exchange;

/// Where a request comes from and its response goes.
pub(super) enum Client<'c> {
    /// The connection's request of the moment.
    Http1(&'c mut ServerConnection<Tunnel>),
    /// A stream.
    Http2(Http2Stream),
}

/// A stream with what is known of its request.
pub(super) struct Http2Stream {
    stream: h2::Stream,
    /// The request's head, until it is taken.
    head: Box<Head>,
    is_head: bool,
    expects_continue: bool,
    /// All of the request was read.
    complete: bool,
    trailers: Option<Box<Head>>,
}

/// Why a request's body has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientBroke {
    /// The client left.
    Gone,
    /// What it sent is no HTTP.
    Refused(Refusal),
}

/// What becomes of the client's connection, or stream, after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may come.
    Next,
    /// It ends in order.
    Close,
    /// It ends at once, so that the client does not take what it got for all.
    Abort,
}

/// What is read of a request that is answered without having been wanted, so that its connection can go on.
const SKIPPED_BYTES: usize = 64 * 1024;

impl Client<'_> {
    /// Whether it speaks HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Http1(_) => false,
            Self::Http2(_) => true,
        }
    }

    /// The protocol as access logs name it.
    pub(super) fn protocol(&self) -> &'static str {
        match self {
            Self::Http1(connection) => match connection.request().version {
                Version::Http10 => "HTTP/1.0",
                Version::Http11 => "HTTP/1.1",
            },
            Self::Http2(_) => "HTTP/2",
        }
    }

    /// Whether the request asks to leave HTTP; its head has `connection` and `upgrade` then.
    pub(super) fn wants_upgrade(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.request().upgrade,
            Self::Http2(_) => false,
        }
    }

    /// Gives up on a head that does not get complete: it can be answered then, and nothing more is read.
    pub(super) fn give_up_head(&mut self) {
        match self {
            Self::Http1(connection) => connection.give_up(),
            Self::Http2(_) => {}
        }
    }

    /// Tells a client that waits for it to send its body.
    pub(super) fn go_ahead(&mut self) {
        match self {
            Self::Http1(connection) if connection.request().expects_continue => {
                self.inform(&Head::response(100));
            }
            Self::Http2(stream) if stream.expects_continue => self.inform(&Head::response(100)),
            Self::Http1(_) | Self::Http2(_) => {}
        }
    }

    /// Exchanges the request's head with `head`.
    pub(super) fn swap_head(&mut self, head: &mut Head) {
        match self {
            Self::Http1(connection) => std::mem::swap(connection.head_mut(), head),
            Self::Http2(stream) => std::mem::swap(&mut *stream.head, head),
        }
    }

    /// How the request's body is framed.
    pub(super) fn body_length(&self, head: &Head) -> BodyLength {
        match self {
            Self::Http1(connection) => connection.request().body,
            Self::Http2(stream) => match head.content_length() {
                Some(length) => BodyLength::Length(length),
                None if stream.complete => BodyLength::None,
                None => BodyLength::Chunked,
            },
        }
    }

    /// Whether all of the request has come.
    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.is_complete(),
            Self::Http2(stream) => stream.complete,
        }
    }

    /// The next piece of the request's body.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece<'_>, ClientBroke>> {
        match self {
            Self::Http1(connection) => connection.poll_body(cx).map_err(|e| match e {
                BodyError::Refused(refusal) => ClientBroke::Refused(refusal),
                BodyError::Truncated | BodyError::Io(_) => ClientBroke::Gone,
            }),
            Self::Http2(stream) => stream.poll_body(cx),
        }
    }

    /// Done with so many bytes of the piece.
    pub(super) fn consume(&mut self, bytes: usize) {
        match self {
            Self::Http1(connection) => connection.consume(bytes),
            Self::Http2(stream) => stream.stream.consume(bytes),
        }
    }

    /// The request's trailers, where they are passed on.
    pub(super) fn trailers(&self) -> Option<&Head> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(stream) => stream.trailers.as_deref(),
        }
    }

    /// Ready when the client has left although its request, which is complete, is not answered.
    pub(super) fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(connection) => connection.poll_left(cx),
            Self::Http2(stream) => stream.stream.poll_failure(cx).map(drop),
        }
    }

    /// How the exchange ended whose client has left.
    pub(super) fn left(&self) -> exchange::End<'static> {
        match self {
            Self::Http2(stream) if stream.is_reset() => exchange::End::Reset,
            Self::Http1(_) | Self::Http2(_) => exchange::End::Downstream,
        }
    }

    /// Passes an informational response on. One that does not fit here is left out: nothing depends on it.
    pub(super) fn inform(&mut self, head: &Head) {
        match self {
            Self::Http1(connection) => {
                let _ = connection.inform(head);
            }
            Self::Http2(stream) => {
                let _ = stream.stream.send_response(head.wire_fields(), End::No);
            }
        }
    }

    /// Begins the response; `false` when it cannot be written.
    #[must_use]
    pub(super) fn respond(&mut self, head: &Head, body: BodyLength) -> bool {
        match self {
            Self::Http1(connection) => connection.respond(head, body).is_ok(),
            Self::Http2(stream) => stream.respond(head, body),
        }
    }

    /// Sends some of the response's body; the rest of what there was no room for has to come next.
    pub(super) fn poll_write(
        &mut self,
        data: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(connection) => connection.poll_write(data, cx),
            Self::Http2(stream) => stream.stream.poll_put(data, cx),
        }
    }

    /// Hands on what was written.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(connection) => connection.poll_drain(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends the response.
    pub(super) fn finish(&mut self, trailers: Option<&Head>) -> After {
        match self {
            // Trailers are dropped towards HTTP/1.
            Self::Http1(connection) => match connection.finish(None) {
                Ok(AfterHttp1::KeepAlive) => After::Next,
                Ok(AfterHttp1::Close) => After::Close,
                Err(_) => After::Abort,
            },
            Self::Http2(stream) => stream.finish(trailers),
        }
    }

    /// Ends a stream at once. An HTTP/1 connection is its owner's to end.
    pub(super) fn abort(&mut self) {
        match self {
            Self::Http1(_) => {}
            Self::Http2(stream) => stream.stream.reset(ErrorCode::INTERNAL_ERROR),
        }
    }

    /// Says with the response that the connection ends after it, where such a thing is said.
    pub(super) fn close_after_response(&mut self) {
        match self {
            Self::Http1(connection) => connection.close_after_response(),
            Self::Http2(_) => {}
        }
    }

    /// Throws away what has come of a request that nobody wants, up to a limit. If that is not all, the connection ends with the
    /// response: what is left is not waited for.
    pub(super) async fn skip_request(&mut self) {
        if self.is_complete() {
            return;
        }
        let mut skipped = 0;
        let whole = poll_fn(|cx| Poll::Ready(self.skip(&mut skipped, cx).is_ready())).await;
        if !whole {
            self.close_after_response();
        }
    }

    /// Ready when all is skipped.
    fn skip(&mut self, skipped: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.poll_body(cx)) {
                Ok(Piece::End) => return Poll::Ready(()),
                Ok(Piece::Trailers) => {}
                Ok(Piece::Data(data)) if *skipped < SKIPPED_BYTES => {
                    let len = data.len();
                    *skipped += len;
                    self.consume(len);
                }
                Ok(Piece::Data(_)) | Err(_) => return Poll::Pending,
            }
        }
    }

    /// Sends a whole body and ends the response.
    pub(super) async fn send_body(&mut self, mut body: &[u8]) -> After {
        while !body.is_empty() {
            match poll_fn(|cx| self.poll_write(body, cx)).await {
                Ok(put) => body = &body[put..],
                Err(_) => return After::Abort,
            }
        }
        self.finish(None)
    }
}

impl Http2Stream {
    /// A stream that a client has opened.
    pub(super) fn new(request: h2::Request) -> Self {
        let h2::Request { head, end, stream } = request;
        Self {
            is_head: head.method() == Some(b"HEAD"),
            expects_continue: head
                .get(b"expect")
                .is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue")),
            complete: end,
            trailers: None,
            head,
            stream,
        }
    }

    /// Whether the client has reset the stream.
    fn is_reset(&self) -> bool {
        let by_peer = ResetBy::Peer;
        matches!(self.stream.failure(), Some(h2::StreamEnd::Reset { by, .. }) if by == by_peer)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece<'_>, ClientBroke>> {
        if self.complete {
            return Poll::Ready(Ok(Piece::End));
        }
        let held = ready!(self.stream.poll_fill(cx)).map_err(|_| ClientBroke::Gone)?;
        if !held.is_empty() {
            // Asked for again, since what is held is borrowed from the stream on one of the ways out only.
            let held = ready!(self.stream.poll_fill(cx)).map_err(|_| ClientBroke::Gone)?;
            return Poll::Ready(Ok(Piece::Data(held)));
        }
        if self.trailers.is_none() {
            self.trailers = self.stream.take_trailers();
            if self.trailers.is_some() {
                return Poll::Ready(Ok(Piece::Trailers));
            }
        }
        self.complete = true;
        Poll::Ready(Ok(Piece::End))
    }

    fn respond(&mut self, head: &Head, body: BodyLength) -> bool {
        let bodiless = self.is_head || matches!(head.status(), Some(204 | 304));
        let end = End::from(bodiless || body == BodyLength::None);
        self.stream.send_response(head.wire_fields(), end).is_ok()
    }

    fn finish(&mut self, trailers: Option<&Head>) -> After {
        if self.stream.is_finished() {
            return After::Next;
        }
        let sent = match trailers {
            Some(trailers) => self.stream.send_trailers(trailers.fields()).is_ok(),
            None => {
                let cx = &mut Context::from_waker(std::task::Waker::noop());
                // It is never pending: an end needs no room.
                matches!(self.stream.poll_finish(cx), Poll::Ready(Ok(())))
            }
        };
        if sent { After::Next } else { After::Abort }
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        buffers::give_head(std::mem::take(&mut self.head));
    }
}
