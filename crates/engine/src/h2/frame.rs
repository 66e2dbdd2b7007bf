//! Frames as bytes (RFC 9113 4.1, 6).

use crate::WriteBuf;

use super::ErrorCode;

pub(super) const HEADER_LEN: usize = 9;
/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The smallest limit a peer may set for frames.
pub(super) const MIN_MAX_FRAME: u32 = 16_384;
/// The largest.
pub(super) const MAX_MAX_FRAME: u32 = 16_777_215;
/// The largest window, and the largest stream.
pub(super) const MAX_31_BITS: u32 = 0x7fff_ffff;
/// Windows before anything else was agreed on.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// Types of frames.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0x0;
    pub(in super::super) const HEADERS: u8 = 0x1;
    pub(in super::super) const PRIORITY: u8 = 0x2;
    pub(in super::super) const RST_STREAM: u8 = 0x3;
    pub(in super::super) const SETTINGS: u8 = 0x4;
    pub(in super::super) const PUSH_PROMISE: u8 = 0x5;
    pub(in super::super) const PING: u8 = 0x6;
    pub(in super::super) const GOAWAY: u8 = 0x7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 0x8;
    pub(in super::super) const CONTINUATION: u8 = 0x9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// What precedes every frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl FrameHeader {
    #[inline]
    pub(super) fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *bytes;
        Self {
            len: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & MAX_31_BITS,
        }
    }

    #[inline]
    pub(super) fn bytes(self) -> [u8; HEADER_LEN] {
        let [_, l0, l1, l2] = self.len.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind, self.flags, s0, s1, s2, s3]
    }

    #[inline]
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame.
pub(super) fn put(out: &mut WriteBuf, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let header = FrameHeader {
        len: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    let back = out.back(HEADER_LEN + payload.len());
    back.extend_from_slice(&header.bytes());
    back.extend_from_slice(payload);
}

/// Appends the end of a stream.
pub(super) fn put_reset(out: &mut WriteBuf, stream: u32, code: ErrorCode) {
    put(out, kind::RST_STREAM, 0, stream, &code.0.to_be_bytes());
}

/// Appends the enlargement of a window, the connection's if `stream` is 0.
pub(super) fn put_window_update(out: &mut WriteBuf, stream: u32, increment: u32) {
    put(
        out,
        kind::WINDOW_UPDATE,
        0,
        stream,
        &increment.to_be_bytes(),
    );
}

/// Appends the announcement that streams after `last_stream` won't be looked at.
pub(super) fn put_go_away(out: &mut WriteBuf, last_stream: u32, code: ErrorCode) {
    let mut payload = [0; 8];
    payload[..4].copy_from_slice(&last_stream.to_be_bytes());
    payload[4..].copy_from_slice(&code.0.to_be_bytes());
    put(out, kind::GOAWAY, 0, 0, &payload);
}

/// Makes one HEADERS frame of more than `max_frame` bytes of payload, which is all there is in `bytes` from `at`, into a
/// HEADERS and CONTINUATION frames.
pub(super) fn split_headers(bytes: &mut Vec<u8>, at: usize, header: FrameHeader, max_frame: usize) {
    let block = bytes.split_off(at + HEADER_LEN);
    bytes.truncate(at);
    let pieces = block.len().div_ceil(max_frame);
    for (number, piece) in block.chunks(max_frame).enumerate() {
        let last = number + 1 == pieces;
        let piece_header = FrameHeader {
            len: piece.len() as u32,
            kind: if number == 0 {
                kind::HEADERS
            } else {
                kind::CONTINUATION
            },
            flags: if number == 0 {
                header.flags & !flag::END_HEADERS
            } else {
                0
            } | if last { flag::END_HEADERS } else { 0 },
            stream: header.stream,
        };
        bytes.extend_from_slice(&piece_header.bytes());
        bytes.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_headers_survive_the_way() {
        let header = FrameHeader {
            len: 0x01_02_03,
            kind: 9,
            flags: 0xa5,
            stream: MAX_31_BITS,
        };
        assert_eq!(FrameHeader::parse(&header.bytes()), header);
    }

    #[test]
    fn the_reserved_bit_is_ignored() {
        let header = FrameHeader::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 5]);
        assert_eq!(header.stream, 5);
    }
}
