//! What the peer sends.

mod control;
mod heads;

use std::time::Instant;

use crate::WriteBuf;
use crate::head::Malformed;

use super::abuse::{Flood, Refusal};
use super::connection::{Event, Leaving, ResetBy};
use super::frame::{
    self, DEFAULT_WINDOW, FrameHeader, HEADER_LEN, MAX_31_BITS, MIN_MAX_FRAME, PREFACE, flag, kind,
};
use super::settings::{self, Role};
use super::stream::{Blocked, Half, StreamRef};
use super::{Connection, ConnectionError, ErrorCode};

pub(super) use heads::Block;

/// Where in the peer's bytes we are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// In the client's preface.
    Preface { matched: usize },
    /// At or in a frame's header.
    Header,
    /// In the payload of a frame that is handled whole.
    Payload(FrameHeader),
    /// At the length of a DATA frame's padding.
    PadLength(FrameHeader),
    /// In a DATA frame, which is handed on as it comes.
    Data(DataFrame),
    /// In padding, or in a frame of an unknown kind.
    Skip(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct DataFrame {
    /// `None` when it is discarded.
    stream: Option<StreamRef>,
    left: u32,
    padding: u32,
    end: bool,
}

impl Reading {
    /// How much of a DATA frame that is accounted for is still to come, and for which stream.
    pub(super) fn arriving(&self) -> (i64, Option<StreamRef>) {
        match self {
            Self::Data(frame) => (i64::from(frame.left), frame.stream),
            Self::Preface { .. }
            | Self::Header
            | Self::Payload(_)
            | Self::PadLength(_)
            | Self::Skip(_) => (0, None),
        }
    }
}

/// What a frame leads to.
type Outcome<'b> = Result<Option<Event<'b>>, ConnectionError>;

/// A frame buffer larger than this isn't kept.
const KEPT_PAYLOAD: usize = 4096;

impl Connection {
    /// Reads from the front of `input` up to the next event; `None` when all of `input` is read and nothing else is to be told.
    ///
    /// Call it until it says `None`, after every read and also after output was sent: then it may have
    /// [`Event::Writable`]. `now` is for the budgets of [`Limits`](super::Limits); it may be as old as the wake-up.
    ///
    /// # Errors
    /// When the connection can't go on. Its streams are still there for [`streams`](Self::streams), and the output has the
    /// GOAWAY. The error is repeated from then on.
    pub fn recv<'b>(
        &mut self,
        input: &mut &'b [u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Result<Option<Event<'b>>, ConnectionError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(event) = self.next_pending(out) {
            return Ok(Some(event));
        }
        match &mut self.clock {
            Some((_, latest)) => *latest = now,
            None => self.clock = Some((now, now)),
        }
        self.read(input, out, now).inspect_err(|&error| {
            frame::put_go_away(out, self.last_peer_id, error.code());
            self.failed = Some(error);
        })
    }

    /// Goes on with what waited for something other than input: to be called until it says `None` after output was sent, if
    /// [`recv`](Self::recv) isn't.
    pub fn resume(&mut self, out: &mut WriteBuf) -> Option<Event<'static>> {
        if self.failed.is_some() {
            return None;
        }
        self.next_pending(out)
    }

    fn read<'b>(&mut self, input: &mut &'b [u8], out: &mut WriteBuf, now: Instant) -> Outcome<'b> {
        loop {
            let event = match self.reading {
                Reading::Header => {
                    let Some(header) = self.take_header(input) else {
                        return Ok(None);
                    };
                    self.check_header(header)?;
                    if header.kind == kind::DATA {
                        if header.has(flag::PADDED) {
                            self.reading = Reading::PadLength(header);
                            None
                        } else {
                            self.begin_data(header, 0, out, now)?
                        }
                    } else if header.kind > kind::CONTINUATION {
                        self.spend(Flood::IdleFrames, now)?;
                        self.reading = Reading::Skip(header.len);
                        None
                    } else if let Some((payload, rest)) =
                        input.split_at_checked(header.len as usize)
                    {
                        *input = rest;
                        self.on_frame(header, payload, out, now)?
                    } else {
                        self.reading = Reading::Payload(header);
                        None
                    }
                }
                _ if input.is_empty() && !self.can_go_on_without_input() => return Ok(None),
                Reading::Data(frame) => self.on_data(frame, input, out, now)?,
                Reading::Payload(header) => {
                    let missing = header.len as usize - self.payload.len();
                    self.payload.extend_from_slice(take(input, missing));
                    if self.payload.len() == header.len as usize {
                        self.reading = Reading::Header;
                        let mut payload = std::mem::take(&mut self.payload);
                        let outcome = self.on_frame(header, &payload, out, now);
                        if payload.capacity() <= KEPT_PAYLOAD {
                            payload.clear();
                            self.payload = payload;
                        }
                        outcome?
                    } else {
                        None
                    }
                }
                Reading::PadLength(header) => {
                    let pad = take(input, 1)[0];
                    let overhead = u32::from(pad) + 1;
                    if overhead > header.len {
                        return Err(ConnectionError::Padding);
                    }
                    self.begin_data(header, overhead, out, now)?
                }
                Reading::Skip(left) => {
                    let left = left - take(input, left as usize).len() as u32;
                    self.reading = if left > 0 {
                        Reading::Skip(left)
                    } else {
                        Reading::Header
                    };
                    None
                }
                Reading::Preface { matched } => {
                    let expected = &PREFACE[matched..];
                    let got = take(input, expected.len());
                    if !expected.starts_with(got) {
                        return Err(ConnectionError::Preface);
                    }
                    self.reading = if got.len() == expected.len() {
                        Reading::Header
                    } else {
                        Reading::Preface {
                            matched: matched + got.len(),
                        }
                    };
                    None
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Whether the rest of a frame is of no bytes.
    fn can_go_on_without_input(&self) -> bool {
        match self.reading {
            Reading::Data(frame) => frame.left == 0,
            Reading::Skip(left) => left == 0,
            Reading::Preface { .. }
            | Reading::Header
            | Reading::Payload(_)
            | Reading::PadLength(_) => false,
        }
    }

    /// The next frame's header, once it is complete.
    #[inline]
    fn take_header(&mut self, input: &mut &[u8]) -> Option<FrameHeader> {
        if self.partial_len == 0
            && let Some((header, rest)) = input.split_first_chunk::<HEADER_LEN>()
        {
            *input = rest;
            return Some(FrameHeader::parse(header));
        }
        let part = take(input, HEADER_LEN - self.partial_len);
        self.partial_header[self.partial_len..][..part.len()].copy_from_slice(part);
        self.partial_len += part.len();
        if self.partial_len < HEADER_LEN {
            return None;
        }
        self.partial_len = 0;
        Some(FrameHeader::parse(&self.partial_header))
    }

    #[inline]
    fn check_header(&mut self, header: FrameHeader) -> Result<(), ConnectionError> {
        if !self.got_settings && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(ConnectionError::Preface);
        }
        if header.kind == kind::PUSH_PROMISE {
            return Err(ConnectionError::Push);
        }
        if header.len > self.max_len(header.kind) {
            return Err(ConnectionError::FrameSize { kind: header.kind });
        }
        let continues = self.block.as_ref().map(|block| block.header.stream);
        if (header.kind == kind::CONTINUATION || continues.is_some())
            && (header.kind != kind::CONTINUATION || continues != Some(header.stream))
        {
            return Err(ConnectionError::Continuation);
        }
        Ok(())
    }

    /// The largest frame of this kind that we take. Only DATA and frames that are skipped, which need no buffer, may be as
    /// large as the settings say.
    #[inline]
    fn max_len(&self, kind: u8) -> u32 {
        let allowed = settings::max_frame_bytes(&self.config);
        match kind {
            kind::HEADERS | kind::CONTINUATION => {
                allowed.min(self.config.limits.header_block_bytes.max(MIN_MAX_FRAME))
            }
            kind::SETTINGS | kind::GOAWAY => MIN_MAX_FRAME,
            kind::PRIORITY | kind::RST_STREAM | kind::PING | kind::WINDOW_UPDATE => 8,
            _ => allowed,
        }
    }

    fn on_frame<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        match header.kind {
            kind::HEADERS => self.on_headers(header, payload, out, now),
            kind::CONTINUATION => self.on_continuation(header, payload, out, now),
            kind::WINDOW_UPDATE => self.on_window_update(header, payload, out, now),
            kind::RST_STREAM => self.on_reset(header, payload, out, now),
            kind::SETTINGS => self.on_settings(header, payload, out, now),
            kind::PING => self.on_ping(header, payload, out, now),
            kind::GOAWAY => self.on_go_away(header, payload, now),
            kind::PRIORITY => self.on_priority(header, payload, out, now),
            // DATA, push and unknown kinds are dealt with by their header.
            _ => Ok(None),
        }
    }

    /// Accounts for a DATA frame, of which `overhead` is padding, before its data comes.
    #[inline]
    fn begin_data<'b>(
        &mut self,
        header: FrameHeader,
        overhead: u32,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        if header.stream == 0 {
            return Err(ConnectionError::WrongStream { kind: kind::DATA });
        }
        if i64::from(header.len) > i64::from(self.recv_window) {
            self.refusals.add(Refusal::WindowExceeded);
            return Err(ConnectionError::WindowExceeded);
        }
        self.recv_window -= header.len as i32;
        let mut frame = DataFrame {
            stream: self.streams.find(header.stream),
            left: header.len - overhead,
            padding: overhead.saturating_sub(1),
            end: header.has(flag::END_STREAM),
        };
        if frame.left > 0 {
            self.work = self.work.wrapping_add(1);
        } else if !frame.end {
            self.spend(Flood::EmptyFrames, now)?;
        }
        let verdict = match frame.stream {
            None => self.without_stream(header),
            Some(stream) => self.admit_data(stream, header.len),
        };
        let event = match verdict {
            Verdict::Take => {
                if let Some(stream) = frame.stream.filter(|_| overhead > 0) {
                    if let Some(state) = self.streams.get_mut(stream) {
                        state.unconsumed += overhead;
                    }
                    self.consume(stream, overhead as usize, out);
                }
                None
            }
            Verdict::Ignore => {
                frame.stream = None;
                self.credit_connection(overhead, out);
                None
            }
            Verdict::EndStream(code) => {
                frame.stream = None;
                self.credit_connection(overhead, out);
                self.stream_error(header.stream, code, out, now)?
            }
            Verdict::EndConnection(error) => return Err(error),
        };
        self.reading = Reading::Data(frame);
        Ok(event)
    }

    #[inline]
    fn admit_data(&mut self, stream: StreamRef, len: u32) -> Verdict {
        let Some(state) = self.streams.get_mut(stream) else {
            return Verdict::Ignore;
        };
        match state.recv {
            Half::Body => {}
            Half::Head => return Verdict::EndStream(ErrorCode::PROTOCOL_ERROR),
            Half::Ended => return Verdict::EndStream(ErrorCode::STREAM_CLOSED),
        }
        // A window that our settings made negative still lets an empty frame end the stream.
        if i64::from(len) > i64::from(state.recv_window.max(0)) {
            self.refusals.add(Refusal::WindowExceeded);
            return Verdict::EndStream(ErrorCode::FLOW_CONTROL_ERROR);
        }
        state.recv_window -= len as i32;
        Verdict::Take
    }

    /// Hands on what of a DATA frame is in the input.
    #[inline]
    fn on_data<'b>(
        &mut self,
        mut frame: DataFrame,
        input: &mut &'b [u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let data = take(input, frame.left as usize);
        let taken = data.len() as u32;
        frame.left -= taken;
        let complete = frame.left == 0;
        self.reading = if !complete {
            Reading::Data(frame)
        } else if frame.padding > 0 {
            Reading::Skip(frame.padding)
        } else {
            Reading::Header
        };
        let end = complete && frame.end;
        let state = frame
            .stream
            .and_then(|stream| Some((stream, self.streams.get_mut(stream)?)));
        let Some((stream, state)) = state else {
            self.credit_connection(taken, out);
            return Ok(None);
        };
        if taken == 0 && !end {
            return Ok(None);
        }
        if let Some(left) = state.body_left {
            match left.checked_sub(u64::from(taken)) {
                Some(left) if left == 0 || !end => state.body_left = Some(left),
                Some(_) | None => {
                    self.credit_connection(taken, out);
                    return self.malformed(stream.id(), Malformed::BodyLength, out, now);
                }
            }
        }
        state.unconsumed += taken;
        if end {
            self.end_receiving(stream);
        }
        Ok(Some(Event::Data { stream, data, end }))
    }

    /// What waited for something other than input.
    #[inline]
    fn next_pending<'b>(&mut self, out: &mut WriteBuf) -> Option<Event<'b>> {
        if self.refused.is_empty() && self.waiting.is_empty() {
            return None;
        }
        while let Some(stream) = self.refused.pop_front() {
            if self.streams.get(stream).is_some() {
                self.forget(stream, out);
                return Some(Event::Reset {
                    stream,
                    code: ErrorCode::REFUSED_STREAM,
                    by: ResetBy::Peer,
                });
            }
        }
        while self.send_window > 0 && out.len() <= self.config.output_bytes / 2 {
            let stream = self.waiting.pop_front()?;
            let Some(state) = self.streams.get_mut(stream) else {
                continue;
            };
            if state.blocked == Blocked::OnConnection {
                if state.send_window > 0 {
                    state.blocked = Blocked::No;
                    return Some(Event::Writable { stream });
                }
                state.blocked = Blocked::OnStream;
            }
        }
        None
    }

    /// Ends a stream for an error of the peer.
    fn stream_error<'b>(
        &mut self,
        id: u32,
        code: ErrorCode,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        if self.role == Role::Server {
            self.spend(Flood::Resets, now)?;
        }
        self.answer(out)?;
        frame::put_reset(out, id, code);
        self.remember_reset(id);
        let Some(stream) = self.streams.find(id) else {
            return Ok(None);
        };
        self.forget(stream, out);
        Ok(Some(Event::Reset {
            stream,
            code,
            by: ResetBy::Us,
        }))
    }

    fn malformed<'b>(
        &mut self,
        id: u32,
        _problem: Malformed,
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        self.refusals.add(Refusal::Malformed);
        self.stream_error(id, ErrorCode::PROTOCOL_ERROR, out, now)
    }

    /// Makes sure that an answer doesn't pile up on others that the peer doesn't read.
    fn answer(&mut self, out: &WriteBuf) -> Result<(), ConnectionError> {
        if out.len() > self.config.output_bytes + self.config.limits.backlog_bytes {
            return Err(self.abuse(Refusal::Backlog));
        }
        Ok(())
    }

    /// What becomes of data for a stream that isn't there.
    fn without_stream(&self, header: FrameHeader) -> Verdict {
        if self.is_idle(header.stream) {
            Verdict::EndConnection(ConnectionError::IdleStream { kind: header.kind })
        } else if self.ignores(header.stream) {
            Verdict::Ignore
        } else {
            Verdict::EndStream(ErrorCode::STREAM_CLOSED)
        }
    }

    fn check_not_idle(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        let kind = header.kind;
        if header.stream == 0 {
            Err(ConnectionError::WrongStream { kind })
        } else if self.is_idle(header.stream) {
            Err(ConnectionError::IdleStream { kind })
        } else {
            Ok(())
        }
    }

    /// Whether the stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        id.is_multiple_of(2)
            || match self.role {
                Role::Server => id > self.last_peer_id,
                Role::Client => id >= self.next_id,
            }
    }

    /// Whether what comes for the stream, which isn't there, isn't looked at.
    fn ignores(&self, id: u32) -> bool {
        let refused = match (self.role, self.leaving) {
            (Role::Server, Leaving::After(last)) => id > last,
            (Role::Server | Role::Client, _) => false,
        };
        refused || self.recently_reset.contains(&id)
    }

    /// Notes that the peer opened this stream and with it all before.
    fn note_stream(&mut self, id: u32) {
        if self.role == Role::Server {
            self.last_peer_id = self.last_peer_id.max(id);
        }
    }

    /// What the peer may send on a new stream, as far as it may know.
    pub(super) fn initial_recv_window(&self) -> i32 {
        let window = self.config.stream_window_bytes.min(MAX_31_BITS);
        let window = if self.settings_acked {
            window
        } else {
            window.max(DEFAULT_WINDOW)
        };
        window as i32
    }
}

/// What is done about a DATA frame.
enum Verdict {
    Take,
    Ignore,
    EndStream(ErrorCode),
    EndConnection(ConnectionError),
}

/// Takes up to `count` bytes off the front of `input`.
#[inline]
fn take<'b>(input: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}
