//! Why streams and connections are over.

use std::io;

use waymark_engine::h2::{ConnectionError, ErrorCode, ResetBy};

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionEnd {
    /// The transport's other end closed it.
    #[error("connection closed by the peer")]
    Eof,
    /// The transport broke.
    #[error("connection broken: {0}")]
    Broken(io::ErrorKind),
    /// The peer broke the protocol or a limit of ours.
    #[error("HTTP/2 protocol error: {0}")]
    Protocol(ConnectionError),
    /// A PING was not answered in time.
    #[error("the peer answered no PING")]
    Dead,
    /// One of the sides had left, and the last stream is over.
    #[error("connection finished")]
    Finished,
    /// We closed it, whatever was open.
    #[error("connection closed")]
    Closed,
}

/// Why a stream is over before both of its directions have ended; inside the [`io::Error`] of a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// RST_STREAM, of the peer or of ours for what the peer did; a stream that the peer's GOAWAY left out, too.
    #[error("stream reset: {code}")]
    Reset {
        /// Why.
        code: ErrorCode,
        /// Who reset it.
        by: ResetBy,
    },
    /// We gave it up.
    #[error("stream given up")]
    GivenUp,
    /// The connection ended.
    #[error(transparent)]
    Connection(#[from] ConnectionEnd),
}

impl StreamEnd {
    /// The error of the reader or writer of a stream, with this as its source.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        let kind = match self {
            Self::Reset {
                by: ResetBy::Peer, ..
            } => io::ErrorKind::ConnectionReset,
            Self::Reset {
                by: ResetBy::Us, ..
            }
            | Self::GivenUp => io::ErrorKind::ConnectionAborted,
            Self::Connection(_) => io::ErrorKind::UnexpectedEof,
        };
        io::Error::new(kind, self)
    }

    /// What ended the stream whose reader or writer got this error, if a stream did.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}
