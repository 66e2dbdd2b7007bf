//! Header blocks: requests, responses, trailers.

use std::time::Instant;

use crate::WriteBuf;
use crate::head::{HeadKind, Malformed, Outgrown};

use super::super::abuse::Refusal;
use super::super::connection::Event;
use super::super::frame::{FrameHeader, MAX_31_BITS, flag, kind};
use super::super::settings::Role;
use super::super::stream::{Asked, Half, StreamRef};
use super::super::{Connection, ConnectionError, ErrorCode};
use super::Outcome;

/// A header block of several frames.
#[derive(Debug)]
pub(in super::super) struct Block {
    pub(super) header: BlockHeader,
    bytes: Vec<u8>,
    continuations: u32,
}

/// What the frame that began a header block says about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockHeader {
    pub(super) stream: u32,
    end: bool,
    depends_on_itself: bool,
}

impl Block {
    pub(in super::super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}
impl Connection {
    pub(super) fn on_headers<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let size_error = ConnectionError::FrameSize {
            kind: kind::HEADERS,
        };
        // Only clients open streams, and theirs are odd.
        if header.stream.is_multiple_of(2) {
            return Err(ConnectionError::WrongStream {
                kind: kind::HEADERS,
            });
        }
        let mut fragment = payload;
        let mut padding = 0;
        if header.has(flag::PADDED) {
            let (&pad, rest) = fragment.split_first().ok_or(size_error)?;
            padding = usize::from(pad);
            fragment = rest;
        }
        let mut block = BlockHeader {
            stream: header.stream,
            end: header.has(flag::END_STREAM),
            depends_on_itself: false,
        };
        if header.has(flag::PRIORITY) {
            let ([a, b, c, d, _weight], rest) =
                fragment.split_first_chunk::<5>().ok_or(size_error)?;
            let on = u32::from_be_bytes([*a, *b, *c, *d]) & MAX_31_BITS;
            block.depends_on_itself = on == header.stream;
            fragment = rest;
        }
        let len = fragment
            .len()
            .checked_sub(padding)
            .ok_or(ConnectionError::Padding)?;
        let fragment = &fragment[..len];
        if header.has(flag::END_HEADERS) {
            return self.on_block(block, fragment, out, now);
        }
        self.block = Some(Block {
            header: block,
            bytes: fragment.to_vec(),
            continuations: 0,
        });
        Ok(None)
    }

    pub(super) fn on_continuation<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let mut block = self.block.take().ok_or(ConnectionError::Continuation)?;
        block.continuations += 1;
        let limits = &self.config.limits;
        if block.continuations > limits.continuations
            || block.bytes.len() + payload.len() > limits.header_block_bytes as usize
        {
            return Err(self.abuse(Refusal::Continuation));
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            return self.on_block(block.header, &block.bytes, out, now);
        }
        self.block = Some(block);
        Ok(None)
    }

    /// Handles a complete header block.
    fn on_block<'b>(
        &mut self,
        block: BlockHeader,
        bytes: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let limits = &self.config.limits;
        self.head.begin(
            limits.header_list_bytes as usize,
            limits.header_fields as usize,
        );
        self.decoder.decode(bytes, &mut self.head)?;
        if block.depends_on_itself {
            self.note_stream(block.stream);
            return self.stream_error(block.stream, ErrorCode::PROTOCOL_ERROR, out, now);
        }
        if let Some(stream) = self.streams.find(block.stream) {
            return self.on_later_head(stream, block, out, now);
        }
        match self.role {
            Role::Server if block.stream > self.last_peer_id => self.on_request(block, out, now),
            Role::Client if block.stream >= self.next_id => Err(ConnectionError::IdleStream {
                kind: kind::HEADERS,
            }),
            Role::Server | Role::Client if self.ignores(block.stream) => Ok(None),
            Role::Server | Role::Client => Err(ConnectionError::ClosedStream),
        }
    }

    fn on_request<'b>(
        &mut self,
        block: BlockHeader,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        self.note_stream(block.stream);
        if self.ignores(block.stream) {
            return Ok(None);
        }
        let limit = self.config.max_concurrent_streams;
        // Streams that have ended but are unread don't count for the peer, but take memory all the same.
        let refusal = if self.streams.active() >= limit || self.streams.len() >= 2 * limit as usize
        {
            Some(Refusal::Streams)
        } else if self.memory() + out.capacity() > self.config.limits.memory_bytes {
            Some(Refusal::Memory)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refusals.add(refusal);
            return self.stream_error(block.stream, ErrorCode::REFUSED_STREAM, out, now);
        }
        if let Some(outgrown) = self.head.outgrown() {
            return self.outgrown(block.stream, outgrown, out, now);
        }
        let extended_connect = self.config.extended_connect;
        let is_tunnel = self.head.method() == Some(b"CONNECT");
        let body_left = self.head.content_length().filter(|_| !is_tunnel);
        let mut checked = self.head.check(HeadKind::Request { extended_connect });
        if block.end && body_left.is_some_and(|length| length > 0) {
            checked = checked.and(Err(Malformed::BodyLength));
        }
        if let Err(problem) = checked {
            return self.malformed(block.stream, problem, out, now);
        }
        let recv = if block.end { Half::Ended } else { Half::Body };
        let stream = self.open(block.stream, Half::Head, recv);
        if let Some(state) = self.streams.get_mut(stream) {
            state.body_left = body_left;
        }
        let end = block.end;
        Ok(Some(Event::Head { stream, end }))
    }

    /// Handles trailers, and what a client gets as an answer.
    fn on_later_head<'b>(
        &mut self,
        stream: StreamRef,
        block: BlockHeader,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let Some(state) = self.streams.get_mut(stream) else {
            return Ok(None);
        };
        if let Some(outgrown) = self.head.outgrown() {
            return self.outgrown(block.stream, outgrown, out, now);
        }
        match state.recv {
            Half::Ended => self.stream_error(block.stream, ErrorCode::STREAM_CLOSED, out, now),
            Half::Body => {
                let mut checked = self.head.check(HeadKind::Trailers);
                if !block.end {
                    checked = Err(Malformed::UnendedTrailers);
                } else if state.body_left.is_some_and(|left| left > 0) {
                    checked = checked.and(Err(Malformed::BodyLength));
                }
                if let Err(problem) = checked {
                    return self.malformed(block.stream, problem, out, now);
                }
                self.end_receiving(stream);
                Ok(Some(Event::Trailers { stream }))
            }
            Half::Head => self.on_response(stream, block, out, now),
        }
    }

    fn on_response<'b>(
        &mut self,
        stream: StreamRef,
        block: BlockHeader,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let Some(state) = self.streams.get_mut(stream) else {
            return Ok(None);
        };
        if let Err(problem) = self.head.check(HeadKind::Response) {
            return self.malformed(block.stream, problem, out, now);
        }
        let status = self.head.status().unwrap_or_default();
        if status < 200 {
            if block.end || status == 101 {
                return self.malformed(block.stream, Malformed::Informational, out, now);
            }
            return Ok(Some(Event::Informational { stream }));
        }
        let is_bodiless = state.asked == Asked::Head || status == 204 || status == 304;
        let is_tunnel = state.asked == Asked::Connect && status < 300;
        state.body_left = match self.head.content_length() {
            _ if is_tunnel => None,
            _ if is_bodiless => Some(0),
            length => length,
        };
        if block.end && state.body_left.is_some_and(|left| left > 0) {
            return self.malformed(block.stream, Malformed::BodyLength, out, now);
        }
        if block.end {
            self.end_receiving(stream);
        } else {
            state.recv = Half::Body;
        }
        let end = block.end;
        Ok(Some(Event::Head { stream, end }))
    }

    /// Ends a stream for a head that is too large, as Envoy does.
    fn outgrown<'b>(
        &mut self,
        id: u32,
        outgrown: Outgrown,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        self.refusals.add(match outgrown {
            Outgrown::Bytes => Refusal::HeaderListBytes,
            Outgrown::Fields => Refusal::HeaderFields,
        });
        self.stream_error(id, ErrorCode::INTERNAL_ERROR, out, now)
    }
}
