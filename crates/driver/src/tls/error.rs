//! What can go wrong with TLS.

use std::io;

use crate::socket::Repeated;

/// Why there is no TLS session, or no more.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The handshake took too long.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// The transport failed.
    #[error("the connection failed during the TLS handshake")]
    Io(#[source] io::Error),
    /// The peer closed the connection during the handshake.
    #[error("the peer closed the connection during the TLS handshake")]
    Closed,
    /// The peer was refused, refused us, or broke a rule, as rustls says.
    #[error("TLS")]
    Rustls(#[source] rustls::Error),
    /// The configuration allows a version or a cipher suite that is not spoken here.
    #[error("TLS parameters were agreed on that are not supported")]
    Unsupported,
    /// A record of the peer's that breaks a rule of RFC 8446.
    #[error("the peer's TLS record {0}")]
    Record(RecordError),
    /// The peer ended the session for a reason.
    #[error("the peer ended the TLS session with alert {0}")]
    Alert(u8),
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than 2^14 bytes and what encryption adds.
    #[error("is too long")]
    TooLong,
    /// Not authentic.
    #[error("cannot be decrypted")]
    BadMac,
    /// Of a type, or with a message, that has no place in a session.
    #[error("is out of place")]
    Unexpected,
    /// With a message that cannot be read.
    #[error("cannot be read")]
    Malformed,
    /// One of many without data.
    #[error("is one of too many without data")]
    Flood,
}

impl TlsError {
    /// What was wrong with TLS, if that is why a [`Socket`](crate::Socket) failed.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        let cause = error.get_ref()?;
        cause
            .downcast_ref::<Repeated>()
            .map_or(Some(cause), |repeated| repeated.0.get_ref())?
            .downcast_ref()
    }
}

impl RecordError {
    /// The alert that tells the peer. Spec: RFC 8446, section 6.
    pub(super) fn alert(self) -> u8 {
        match self {
            Self::TooLong => 22,
            Self::BadMac => 20,
            Self::Unexpected | Self::Flood => 10,
            Self::Malformed => 50,
        }
    }
}

impl From<TlsError> for io::Error {
    /// Keeps the kind that tells what became of the stream.
    fn from(error: TlsError) -> Self {
        let kind = match &error {
            TlsError::Timeout => io::ErrorKind::TimedOut,
            TlsError::Io(source) => source.kind(),
            TlsError::Closed => io::ErrorKind::UnexpectedEof,
            TlsError::Alert(_) => io::ErrorKind::ConnectionReset,
            TlsError::Rustls(_) | TlsError::Unsupported | TlsError::Record(_) => {
                io::ErrorKind::InvalidData
            }
        };
        Self::new(kind, error)
    }
}

impl From<RecordError> for TlsError {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error)
    }
}
