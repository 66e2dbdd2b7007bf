//! What goes wrong on connections and streams.

use std::fmt;

use crate::hpack::HpackError;

use super::Refusal;

/// Why a stream or a connection ended, as the wire has it (RFC 9113 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Nothing went wrong.
    pub const NO_ERROR: Self = Self(0x0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(0x1);
    /// The sender of the code failed.
    pub const INTERNAL_ERROR: Self = Self(0x2);
    /// The peer sent more than a window allows.
    pub const FLOW_CONTROL_ERROR: Self = Self(0x3);
    /// Settings were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Self = Self(0x4);
    /// A frame for a stream whose sender had ended it.
    pub const STREAM_CLOSED: Self = Self(0x5);
    /// A frame of an impossible size.
    pub const FRAME_SIZE_ERROR: Self = Self(0x6);
    /// Nothing was done with the stream: it may be tried again.
    pub const REFUSED_STREAM: Self = Self(0x7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(0x8);
    /// The state of header compression is lost.
    pub const COMPRESSION_ERROR: Self = Self(0x9);
    /// The connection that a CONNECT made failed.
    pub const CONNECT_ERROR: Self = Self(0xa);
    /// The peer asks too much.
    pub const ENHANCE_YOUR_CALM: Self = Self(0xb);
    /// TLS isn't good enough.
    pub const INADEQUATE_SECURITY: Self = Self(0xc);
    /// The request needs HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(0xd);
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 14] = [
            "NO_ERROR",
            "PROTOCOL_ERROR",
            "INTERNAL_ERROR",
            "FLOW_CONTROL_ERROR",
            "SETTINGS_TIMEOUT",
            "STREAM_CLOSED",
            "FRAME_SIZE_ERROR",
            "REFUSED_STREAM",
            "CANCEL",
            "COMPRESSION_ERROR",
            "CONNECT_ERROR",
            "ENHANCE_YOUR_CALM",
            "INADEQUATE_SECURITY",
            "HTTP_1_1_REQUIRED",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection can't go on. The GOAWAY that says so is in the output already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectionError {
    /// The peer doesn't begin as HTTP/2 does.
    #[error("the peer does not begin with the connection preface")]
    Preface,
    /// A frame that is too large, or not of the size its type has.
    #[error("frame of type {kind} has an impossible size")]
    FrameSize {
        /// The frame's type.
        kind: u8,
    },
    /// A frame of the connection on a stream, of a stream on none, or on one that only the other side could open.
    #[error("frame of type {kind} on a stream that can't have it")]
    WrongStream {
        /// The frame's type.
        kind: u8,
    },
    /// A frame for a stream that wasn't opened yet.
    #[error("frame of type {kind} on an idle stream")]
    IdleStream {
        /// The frame's type.
        kind: u8,
    },
    /// A header block for a stream that its sender had ended.
    #[error("headers on a closed stream")]
    ClosedStream,
    /// Something else inside a header block, or the continuation of none.
    #[error("header block is interrupted or has no beginning")]
    Continuation,
    /// More padding than frame.
    #[error("frame has more padding than room")]
    Padding,
    /// A setting with a value it can't have.
    #[error("setting {id:#x} has an impossible value")]
    Setting {
        /// Which setting.
        id: u16,
    },
    /// Server push, which we never allow.
    #[error("unexpected server push")]
    Push,
    /// A window enlarged by nothing.
    #[error("window enlarged by nothing")]
    WindowIncrement,
    /// A window enlarged beyond 2^31 - 1.
    #[error("window is too large")]
    WindowOverflow,
    /// More data than the connection's window allows.
    #[error("more data than the connection's window allows")]
    WindowExceeded,
    /// Header compression is broken.
    #[error("read a header block")]
    Compression(#[from] HpackError),
    /// A limit of ours.
    #[error("the peer asks too much: {0}")]
    Abuse(Refusal),
}

impl ConnectionError {
    /// What the peer is told.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Preface
            | Self::WrongStream { .. }
            | Self::IdleStream { .. }
            | Self::Continuation
            | Self::Padding
            | Self::Push
            | Self::WindowIncrement => ErrorCode::PROTOCOL_ERROR,
            Self::Setting { id } if *id == super::settings::INITIAL_WINDOW_SIZE => {
                ErrorCode::FLOW_CONTROL_ERROR
            }
            Self::Setting { .. } => ErrorCode::PROTOCOL_ERROR,
            Self::FrameSize { .. } => ErrorCode::FRAME_SIZE_ERROR,
            Self::ClosedStream => ErrorCode::STREAM_CLOSED,
            Self::WindowOverflow | Self::WindowExceeded => ErrorCode::FLOW_CONTROL_ERROR,
            Self::Compression(_) => ErrorCode::COMPRESSION_ERROR,
            Self::Abuse(_) => ErrorCode::ENHANCE_YOUR_CALM,
        }
    }
}
