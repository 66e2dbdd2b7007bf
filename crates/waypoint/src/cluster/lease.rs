//! A request's hold on an upstream connection, and what is said over it.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use waymark_driver::http1::{ClientConnection, Piece, ReceiveError, Received};
use waymark_driver::{Io as _, buffers, h2};
use waymark_engine::Head;
use waymark_engine::h2::{End, ErrorCode, ResetBy};
use waymark_engine::http1::{
    BodyLength, ResponseError, request_to_http1, request_to_http2, response_to_http1,
};

use super::host_pool::{HostPool, Http1, Http2, Open};
use crate::near::Near;
use crate::originate::Upstream;
use crate::program::Cluster;

/// A connection that a request has got.
pub(crate) enum Acquired {
    /// The whole connection.
    Http1(Http1Lease),
    /// A stream.
    Http2(Http2Lease),
}

/// An HTTP/1.1 connection in use.
pub(crate) struct Http1Lease {
    /// `Some` until it is given back or dropped.
    pub(super) connection: Option<Box<Http1>>,
    pub(super) pool: Rc<HostPool>,
    pub(super) cluster: Near<Cluster>,
}

/// A stream's place on an HTTP/2 connection, and the stream.
pub(crate) struct Http2Lease {
    connection: Rc<Http2>,
    pool: Rc<HostPool>,
    /// Opened by the request's head.
    stream: Option<h2::Stream>,
    /// The head that came last.
    head: Box<Head>,
    /// The response is complete.
    complete: bool,
    trailers: Option<Box<Head>>,
}

/// Why there is no response, or no end of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamBroke {
    /// The connection ended.
    Closed,
    /// It ended amid a head or a body.
    Truncated,
    /// What came is no HTTP.
    Protocol,
    /// HTTP/2 RST_STREAM.
    Reset,
    /// HTTP/2 REFUSED_STREAM, or a GOAWAY before the stream was looked at.
    Refused,
}

impl Acquired {
    /// Sends a request's head. `Ok(true)` when that said already that there is no body.
    ///
    /// # Errors
    /// When the head cannot be written in the connection's version, or the connection takes no more requests.
    pub(crate) fn send(
        &mut self,
        head: &mut Head,
        body: BodyLength,
        from_http2: bool,
    ) -> Result<bool, Unsent> {
        match self {
            Self::Http1(lease) => {
                if from_http2 {
                    request_to_http1(head, body == BodyLength::None);
                }
                match lease.wire().send(head, body) {
                    Ok(()) => Ok(false),
                    Err(_) => Err(Unsent::Unwritable),
                }
            }
            Self::Http2(lease) => {
                head.set_scheme(b"http");
                request_to_http2(head, b"http");
                let bodiless = matches!(body, BodyLength::None | BodyLength::Length(0));
                match lease
                    .connection
                    .wire
                    .open(head.wire_fields(), End::from(bodiless))
                {
                    Ok(stream) => lease.stream = Some(stream),
                    Err(_) => return Err(Unsent::Stale),
                }
                Ok(bodiless)
            }
        }
    }

    /// Sends some of the request's body; the rest of what there was no room for has to come next.
    pub(crate) fn poll_write(
        &mut self,
        data: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Http1(lease) => lease.wire().poll_write(data, cx),
            Self::Http2(lease) => lease.stream().poll_put(data, cx),
        }
    }

    /// Hands on what was written.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Http1(lease) => lease.wire().poll_drain(cx),
            Self::Http2(_) => Poll::Ready(Ok(())),
        }
    }

    /// Ends the request.
    pub(crate) fn finish(&mut self, trailers: Option<&Head>) -> io::Result<()> {
        match self {
            // Trailers are dropped towards HTTP/1.
            Self::Http1(lease) => lease.wire().finish(None).map_err(io::Error::other),
            Self::Http2(lease) => lease.finish(trailers),
        }
    }

    /// Whether nothing of the request has left: then it can be sent on another connection.
    pub(crate) fn nothing_sent(&self) -> bool {
        match self {
            Self::Http1(lease) => lease
                .connection
                .as_ref()
                .is_some_and(|c| c.wire.nothing_sent()),
            Self::Http2(lease) => lease.stream.is_none(),
        }
    }

    /// Waits for a head of the response.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Received, UpstreamBroke>> {
        match self {
            Self::Http1(lease) => lease.wire().poll_response(cx).map_err(UpstreamBroke::from),
            Self::Http2(lease) => lease.poll_response(cx),
        }
    }

    /// The head that came last.
    pub(crate) fn head(&self) -> &Head {
        match self {
            Self::Http1(lease) => lease.connection.as_ref().expect(HELD).wire.response_head(),
            Self::Http2(lease) => &lease.head,
        }
    }

    /// Exchanges the head that came last with `head`, and tells how the body is framed where it goes on by HTTP/1.
    pub(crate) fn swap_head(&mut self, head: &mut Head) -> BodyLength {
        match self {
            Self::Http1(lease) => {
                let wire = lease.wire();
                std::mem::swap(wire.response_head_mut(), head);
                match wire.response().body {
                    BodyLength::Length(0) => BodyLength::None, // which is the same, and known to be all
                    body => body,
                }
            }
            Self::Http2(lease) => {
                std::mem::swap(&mut *lease.head, head);
                response_to_http1(head, lease.complete)
            }
        }
    }

    /// The next piece of the response's body.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Piece<'_>, UpstreamBroke>> {
        match self {
            Self::Http1(lease) => lease.wire().poll_body(cx).map_err(UpstreamBroke::from),
            Self::Http2(lease) => lease.poll_body(cx),
        }
    }

    /// Done with so many bytes of the piece.
    pub(crate) fn consume(&mut self, bytes: usize) {
        match self {
            Self::Http1(lease) => lease.wire().consume(bytes),
            Self::Http2(lease) => lease.stream().consume(bytes),
        }
    }

    /// The response's trailers, where they are passed on.
    pub(crate) fn trailers(&self) -> Option<&Head> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(lease) => lease.trailers.as_deref(),
        }
    }

    /// The stream itself, after a switch of protocols; `None` where there is no such thing.
    pub(crate) fn into_io(self) -> Option<(Upstream, Open)> {
        match self {
            Self::Http1(mut lease) => Some(lease.connection.take()?.into_io()),
            Self::Http2(_) => None,
        }
    }

    /// Gives the connection back after a complete response. One on which something is still under way ends.
    pub(crate) fn give_back(self) {
        match self {
            Self::Http1(mut lease) => {
                if let Some(connection) = lease.connection.take() {
                    lease.pool.take_back(connection, &lease.cluster);
                }
            }
            Self::Http2(_) => {}
        }
    }
}

impl Http1Lease {
    fn wire(&mut self) -> &mut ClientConnection<Upstream> {
        &mut self.connection.as_mut().expect(HELD).wire
    }
}

impl Http2Lease {
    pub(super) fn new(connection: Rc<Http2>, pool: Rc<HostPool>) -> Self {
        Self {
            connection,
            pool,
            stream: None,
            head: buffers::take_head(),
            complete: false,
            trailers: None,
        }
    }

    fn stream(&mut self) -> &mut h2::Stream {
        self.stream.as_mut().expect("the request's head is sent")
    }

    fn finish(&mut self, trailers: Option<&Head>) -> io::Result<()> {
        let stream = self.stream();
        match trailers {
            Some(trailers) => stream
                .send_trailers(trailers.fields())
                .map_err(h2::StreamEnd::into_io),
            None => match stream.poll_finish(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(finished) => finished,
                Poll::Pending => Ok(()), // an end needs no room
            },
        }
    }

    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, UpstreamBroke>> {
        let response = ready!(self.stream().poll_response(cx))?;
        buffers::give_head(std::mem::replace(&mut self.head, response.head));
        self.complete = response.end;
        Poll::Ready(Ok(match self.head.status() {
            Some(100..200) => Received::Informational,
            _ => Received::Response,
        }))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece<'_>, UpstreamBroke>> {
        if self.complete {
            return Poll::Ready(Ok(Piece::End));
        }
        let stream = self.stream.as_mut().expect("the request's head is sent");
        let broke = |e: io::Error| match h2::StreamEnd::of(&e) {
            Some(end) => UpstreamBroke::from(end),
            None => UpstreamBroke::Closed,
        };
        if !ready!(stream.poll_fill(cx)).map_err(broke)?.is_empty() {
            // Asked for again, since what is held is borrowed from the stream on one of the ways out only.
            let held = ready!(stream.poll_fill(cx)).map_err(broke)?;
            return Poll::Ready(Ok(Piece::Data(held)));
        }
        if self.trailers.is_none() {
            self.trailers = stream.take_trailers();
            if self.trailers.is_some() {
                return Poll::Ready(Ok(Piece::Trailers));
            }
        }
        self.complete = true;
        Poll::Ready(Ok(Piece::End))
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        drop(self.stream.take());
        buffers::give_head(std::mem::take(&mut self.head));
        self.pool.leave_http2(&self.connection);
    }
}

/// Why a request is not sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unsent {
    /// The version of HTTP has no form for it.
    Unwritable,
    /// The connection takes no more requests.
    Stale,
}

impl From<ReceiveError> for UpstreamBroke {
    fn from(e: ReceiveError) -> Self {
        match e {
            ReceiveError::Response(ResponseError::Closed) | ReceiveError::Io(_) => Self::Closed,
            ReceiveError::Response(ResponseError::Truncated) => Self::Truncated,
            ReceiveError::Response(_) => Self::Protocol,
        }
    }
}

impl From<h2::StreamEnd> for UpstreamBroke {
    fn from(end: h2::StreamEnd) -> Self {
        match end {
            h2::StreamEnd::Reset { code, .. } if code == ErrorCode::REFUSED_STREAM => Self::Refused,
            h2::StreamEnd::Reset { code, .. } if code == ErrorCode::PROTOCOL_ERROR => {
                Self::Protocol
            }
            h2::StreamEnd::Reset {
                by: ResetBy::Peer, ..
            }
            | h2::StreamEnd::GivenUp => Self::Reset,
            h2::StreamEnd::Reset {
                by: ResetBy::Us, ..
            }
            | h2::StreamEnd::Connection(h2::ConnectionEnd::Protocol(_)) => Self::Protocol,
            h2::StreamEnd::Connection(_) => Self::Closed,
        }
    }
}

const HELD: &str = "it is given back only when the response is over";
