//! A CONNECT stream as a byte stream with half-close in both directions.

use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};

use waymark_driver::Io;
use waymark_driver::h2::{Stream, StreamEnd};
use waymark_engine::h2::ErrorCode;

use crate::pool::Lease;

/// An open tunnel: bytes both ways over one HTTP/2 stream.
///
/// What was received counts against the peer's window until it is consumed, so a slow reader stops its own peer and nobody
/// else. Dropping a tunnel before both directions ended resets the stream.
///
/// Ends as hbone-and-l4.md 3.5 says: a reset with `NO_ERROR` while reading is an end, `CANCEL` is
/// [`io::ErrorKind::ConnectionReset`]; a reset while writing is [`io::ErrorKind::BrokenPipe`].
pub struct Tunnel {
    stream: Stream,
    /// Reading has come to an end that is none of the stream's.
    read_ended: bool,
    lease: Option<Lease>,
}

impl Tunnel {
    pub(crate) fn new(stream: Stream, lease: Option<Lease>) -> Self {
        Self {
            stream,
            read_ended: false,
            lease,
        }
    }

    /// Resets the stream: the peer sees an error, not an end.
    pub fn reset(&mut self, code: ErrorCode) {
        self.stream.reset(code);
    }

    /// Whether the peer has ended its direction and everything was consumed.
    #[must_use]
    pub fn is_read_closed(&self) -> bool {
        self.read_ended || self.stream.is_read()
    }

    /// Why the stream is over, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<StreamEnd> {
        self.stream.failure()
    }

    /// Whether the pooled connection below carries on; a tunnel of a server has none.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

impl Io for Tunnel {
    fn poll_fill_more(&mut self, have: usize, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.read_ended {
            return Poll::Ready(Ok(&[]));
        }
        // The length first: what a failed read borrows would last as long as what a good one gives.
        match ready!(self.stream.poll_fill_more(have, cx).map_ok(<[u8]>::len)) {
            Ok(_) => Poll::Ready(Ok(self.stream.fetched())),
            Err(error) => match read_error(error) {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    self.read_ended = true;
                    Poll::Ready(Ok(&[]))
                }
            },
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.stream.consume(bytes);
    }

    fn poll_put(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.stream.poll_put(bytes, cx).map_err(write_error)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_finish(cx).map_err(write_error)
    }

    fn abort(&mut self) {
        self.stream.abort();
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("stream", &self.stream)
            .field("read_ended", &self.read_ended)
            .finish_non_exhaustive()
    }
}

/// `None` for an end.
fn read_error(error: io::Error) -> Option<io::Error> {
    let Some(StreamEnd::Reset { code, .. }) = StreamEnd::of(&error) else {
        return Some(error);
    };
    match code {
        ErrorCode::NO_ERROR => None,
        ErrorCode::CANCEL => Some(io::ErrorKind::ConnectionReset.into()),
        ErrorCode::STREAM_CLOSED => Some(io::ErrorKind::BrokenPipe.into()),
        _ => Some(failure(code)),
    }
}

fn write_error(error: io::Error) -> io::Error {
    match StreamEnd::of(&error) {
        Some(StreamEnd::Reset { code, .. }) => match code {
            ErrorCode::NO_ERROR | ErrorCode::CANCEL | ErrorCode::STREAM_CLOSED => {
                io::ErrorKind::BrokenPipe.into()
            }
            _ => failure(code),
        },
        Some(StreamEnd::GivenUp) => io::ErrorKind::BrokenPipe.into(),
        Some(StreamEnd::Connection(_)) | None => error,
    }
}

fn failure(code: ErrorCode) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, H2Failure(code))
}

/// The HTTP/2 error code that ended a tunnel; inside the [`io::Error`] of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tunnel ended with HTTP/2 error {0}")]
pub struct H2Failure(pub ErrorCode);
