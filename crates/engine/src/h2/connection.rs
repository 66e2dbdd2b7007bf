//! The state of a connection, and what its owner may ask of it beside receiving and sending.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::WriteBuf;
use crate::head::Head;
use crate::hpack::{Decoder, Encoder};

use super::abuse::{Budgets, Flood, Refusal, Refusals};
use super::frame::{self, DEFAULT_WINDOW, HEADER_LEN, MAX_31_BITS, kind};
use super::receive::{Block, Reading};
use super::settings::{self, PeerSettings, Role};
use super::stream::{Blocked, Half, Stream, StreamRef, Streams};
use super::{Config, ConnectionError, ErrorCode};

/// One end of an HTTP/2 connection.
///
/// Always use it with the same [`WriteBuf`], and send what that has before closing the transport, after errors as well.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Arc<Config>,
    pub(super) role: Role,
    pub(super) reading: Reading,
    /// The beginning of a frame's header that came in pieces.
    pub(super) partial_header: [u8; HEADER_LEN],
    pub(super) partial_len: usize,
    /// The beginning of a frame's payload that came in pieces.
    pub(super) payload: Vec<u8>,
    /// The header block that CONTINUATION frames go on with.
    pub(super) block: Option<Block>,
    pub(super) head: Head,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    /// The next stream that we would open.
    pub(super) next_id: u32,
    /// The newest stream that the peer opened.
    pub(super) last_peer_id: u32,
    pub(super) send_window: i32,
    pub(super) recv_window: i32,
    /// What was consumed of the connection's window and the peer hasn't been told yet.
    pub(super) credit: u32,
    /// By how much the windows of all streams are larger than at first.
    pub(super) grown: u32,
    /// The first and the latest time that the owner told.
    pub(super) clock: Option<(Instant, Instant)>,
    pub(super) peer: PeerSettings,
    pub(super) got_settings: bool,
    pub(super) settings_acked: bool,
    pub(super) leaving: Leaving,
    /// The last of our streams that the peer will look at.
    pub(super) peer_last_id: Option<u32>,
    /// Streams that wait for the connection's window or for the output. Some may be gone.
    pub(super) waiting: VecDeque<StreamRef>,
    /// Streams that the peer's GOAWAY refused.
    pub(super) refused: VecDeque<StreamRef>,
    /// Streams that we reset, the newest last: the peer may have sent more before it knew.
    pub(super) recently_reset: VecDeque<u32>,
    pub(super) budgets: Budgets,
    pub(super) refusals: Refusals,
    /// Streams opened and frames with data.
    pub(super) work: u32,
    /// Streams that ended well.
    pub(super) completed: u32,
    pub(super) failed: Option<ConnectionError>,
}

/// What a connection has to say to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// A server's new request or a client's final response; see [`Connection::head`].
    Head {
        /// The request's stream, new to a server.
        stream: StreamRef,
        /// Whether there is no body.
        end: bool,
    },
    /// An informational response; see [`Connection::head`].
    Informational {
        /// The stream.
        stream: StreamRef,
    },
    /// Part of a body, in the input. To be [consumed](Connection::consume).
    Data {
        /// The stream.
        stream: StreamRef,
        /// The part; empty only at the end.
        data: &'b [u8],
        /// Whether the peer ends its direction after this.
        end: bool,
    },
    /// Trailers, which end the peer's direction; see [`Connection::head`].
    Trailers {
        /// The stream.
        stream: StreamRef,
    },
    /// The stream is gone, both directions and all that was unread. What of it is buffered should be dropped.
    Reset {
        /// The stream, which names nothing any more.
        stream: StreamRef,
        /// Why.
        code: ErrorCode,
        /// Who ended it.
        by: ResetBy,
    },
    /// There is room again for what [`Connection::send_data`] didn't take.
    Writable {
        /// The stream.
        stream: StreamRef,
    },
    /// The peer's settings have changed.
    Settings,
    /// The answer to [`Connection::ping`].
    Pong {
        /// What was sent.
        payload: [u8; 8],
    },
    /// The peer looks at no more streams. Those of ours that it refuses follow as [`Event::Reset`] with `REFUSED_STREAM`.
    GoAway {
        /// The last stream that it looks at.
        last_stream: u32,
        /// Why.
        code: ErrorCode,
    },
}

/// Who reset a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetBy {
    /// The peer.
    Peer,
    /// We, because the peer broke a rule or a limit.
    Us,
}

/// How far we are with leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// GOAWAY is sent and takes effect when the peer has answered the PING after it: what it opened before is served.
    Announced,
    /// Streams after this one aren't looked at.
    After(u32),
}

/// The PING that follows the announcement of leaving.
pub(super) const LEAVING_PING: [u8; 8] = *b"leaving\0";
/// A stream whose reader takes half of its window within this time may be limited by it: what a round trip takes at most.
const LIMITING_WITHIN_MS: u32 = 200;
/// How many of the streams that we reset are remembered.
const REMEMBERED_RESETS: usize = 256;

impl Connection {
    /// The server's end: says its settings.
    #[must_use]
    pub fn server(config: Arc<Config>, out: &mut WriteBuf) -> Self {
        Self::new(config, Role::Server, out)
    }

    /// The client's end: says the preface and its settings.
    #[must_use]
    pub fn client(config: Arc<Config>, out: &mut WriteBuf) -> Self {
        out.put(frame::PREFACE);
        Self::new(config, Role::Client, out)
    }

    fn new(config: Arc<Config>, role: Role, out: &mut WriteBuf) -> Self {
        settings::put(out, &config, role);
        let window = config
            .connection_window_bytes
            .clamp(DEFAULT_WINDOW, MAX_31_BITS);
        if window > DEFAULT_WINDOW {
            frame::put_window_update(out, 0, window - DEFAULT_WINDOW);
        }
        Self {
            role,
            reading: match role {
                Role::Server => Reading::Preface { matched: 0 },
                Role::Client => Reading::Header,
            },
            partial_header: [0; HEADER_LEN],
            partial_len: 0,
            payload: Vec::new(),
            block: None,
            head: Head::new(),
            decoder: Decoder::new(),
            encoder: Encoder::new(config.encoder_table_bytes as usize),
            streams: Streams::default(),
            next_id: 1,
            last_peer_id: 0,
            send_window: DEFAULT_WINDOW as i32,
            recv_window: window as i32,
            credit: 0,
            grown: 0,
            clock: None,
            peer: PeerSettings::assumed(&config),
            got_settings: false,
            settings_acked: false,
            leaving: Leaving::No,
            peer_last_id: None,
            waiting: VecDeque::new(),
            refused: VecDeque::new(),
            recently_reset: VecDeque::new(),
            budgets: Budgets::new(&config.limits),
            refusals: Refusals::default(),
            work: 0,
            completed: 0,
            failed: None,
            config,
        }
    }

    /// Says that `count` bytes of the stream's data are dealt with, so that the peer may send as many more.
    ///
    /// The windows are enlarged when half of them is consumed. For a stream that is gone it does nothing: its unread data was
    /// consumed with it.
    pub fn consume(&mut self, stream: StreamRef, count: usize, out: &mut WriteBuf) {
        let Some(state) = self.streams.get_mut(stream) else {
            return;
        };
        debug_assert!(
            count <= state.unconsumed as usize,
            "consumed what did not come"
        );
        let count = count.min(state.unconsumed as usize) as u32;
        state.unconsumed -= count;
        if state.recv == Half::Body {
            state.credit += count;
            let window = self.config.stream_window_bytes + state.grown;
            if state.credit >= (window / 2).max(1) {
                self.credit_stream(stream, out);
            }
        } else if state.unconsumed == 0 && state.is_closed() {
            self.finish(stream);
        }
        self.credit_connection(count, out);
    }

    /// Tells the peer at once what was consumed of a stream, for a reader that needs more before it can consume the rest.
    pub fn credit_now(&mut self, stream: StreamRef, out: &mut WriteBuf) {
        let owes = |state: &Stream| state.recv == Half::Body && state.credit > 0;
        if self.streams.get(stream).is_some_and(owes) {
            self.credit_stream(stream, out);
        }
    }

    /// Ends the stream in both directions, at once. What of it is unread counts as consumed.
    pub fn reset(&mut self, stream: StreamRef, code: ErrorCode, out: &mut WriteBuf) {
        let Some(state) = self.streams.get(stream) else {
            return;
        };
        if !state.is_closed() {
            frame::put_reset(out, stream.id(), code);
            self.remember_reset(stream.id());
        }
        self.forget(stream, out);
    }

    /// Asks for an answer, which comes as [`Event::Pong`]. `LEAVING_PING` is taken.
    pub fn ping(&mut self, payload: [u8; 8], out: &mut WriteBuf) {
        frame::put(out, kind::PING, 0, 0, &payload);
    }

    /// Begins to leave gracefully: no new streams after what is on its way, living ones go on. The connection can be closed
    /// once [`is_drained`](Self::is_drained).
    ///
    /// It takes the peer's answer to settle which stream is the last one; a peer that doesn't answer in time needs
    /// [`go_away`](Self::go_away).
    pub fn shut_down(&mut self, out: &mut WriteBuf) {
        if self.leaving == Leaving::No {
            frame::put_go_away(out, MAX_31_BITS, ErrorCode::NO_ERROR);
            frame::put(out, kind::PING, 0, 0, &LEAVING_PING);
            self.leaving = Leaving::Announced;
        }
    }

    /// Leaves: streams that the peer opens from now on aren't looked at, living ones go on.
    pub fn go_away(&mut self, code: ErrorCode, out: &mut WriteBuf) {
        let last = match self.leaving {
            Leaving::After(last) => last,
            Leaving::No | Leaving::Announced => self.last_peer_id,
        };
        frame::put_go_away(out, last, code);
        self.leaving = Leaving::After(last);
    }

    /// Gives back memory that nothing needs now. Worth calling when the connection has nothing to do.
    pub fn release(&mut self) {
        if self.streams.is_empty() {
            self.streams = Streams::default();
            self.waiting.clear();
            self.refused.clear();
        }
        if self.payload.is_empty() {
            self.payload = Vec::new();
        }
        self.head = Head::new();
        self.waiting.shrink_to_fit();
        self.refused.shrink_to_fit();
    }

    /// The fields of the last [`Event::Head`], [`Event::Informational`] or [`Event::Trailers`], until the next
    /// [`recv`](Self::recv).
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Takes the fields of the last head and leaves another to be filled: how a head is kept without a copy.
    pub fn swap_head(&mut self, head: &mut Head) {
        std::mem::swap(&mut self.head, head);
    }

    /// What the peer wants of us.
    #[must_use]
    pub fn peer_settings(&self) -> &PeerSettings {
        &self.peer
    }

    /// How many streams a client may open now.
    #[must_use]
    pub fn available_streams(&self) -> u32 {
        if self.is_leaving() || self.next_id > MAX_31_BITS {
            return 0;
        }
        let ids = (MAX_31_BITS - self.next_id) / 2 + 1;
        self.most_streams()
            .saturating_sub(self.streams.active())
            .min(ids)
    }

    /// The most streams at once that a client may open.
    #[must_use]
    pub fn most_streams(&self) -> u32 {
        let ours = self.config.max_concurrent_streams;
        self.peer.max_concurrent_streams.min(ours)
    }

    /// What the stream may hold unread.
    #[must_use]
    pub fn stream_window(&self, stream: StreamRef) -> usize {
        let grown = self.streams.get(stream).map_or(0, |state| state.grown);
        (self.config.stream_window_bytes.min(MAX_31_BITS) + grown) as usize
    }

    /// Streams that haven't ended in both directions.
    #[must_use]
    pub fn active_streams(&self) -> u32 {
        self.streams.active()
    }

    /// The living streams, those with unread data included.
    pub fn streams(&self) -> impl Iterator<Item = StreamRef> {
        self.streams.iter()
    }

    /// Whether one of the sides said that it takes no new streams, or the connection failed.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No || self.peer_last_id.is_some() || self.failed.is_some()
    }

    /// Whether there is nothing left to do on a connection that takes no new streams.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let settled = matches!(self.leaving, Leaving::After(_)) || self.peer_last_id.is_some();
        self.failed.is_some() || (settled && self.streams.is_empty())
    }

    /// How often what was refused to the peer.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The memory that the connection holds, apart from its output.
    #[must_use]
    pub fn memory(&self) -> usize {
        let block = self.block.as_ref().map_or(0, Block::memory);
        let queued = self.waiting.capacity() + self.refused.capacity();
        size_of::<Self>()
            + self.payload.capacity()
            + block
            + self.head.capacity()
            + self.decoder.memory()
            + self.encoder.memory()
            + self.streams.memory()
            + queued * size_of::<StreamRef>()
            + self.recently_reset.capacity() * size_of::<u32>()
    }

    /// Tells the peer what was consumed of a stream, and how much more it may send if its window limits it.
    fn credit_stream(&mut self, stream: StreamRef, out: &mut WriteBuf) {
        let now = self.milliseconds();
        let room = self.room_to_grow();
        let Some(state) = self.streams.get_mut(stream) else {
            return;
        };
        let window = self.config.stream_window_bytes + state.grown;
        if now.wrapping_sub(state.credited_at) <= LIMITING_WITHIN_MS {
            let most = self.config.stream_window_max_bytes.min(MAX_31_BITS);
            let most = most.saturating_sub(window);
            let more = window.min(most).min(room);
            state.grown += more;
            state.credit += more;
            self.grown += more;
        }
        frame::put_window_update(out, stream.id(), state.credit);
        state.recv_window += state.credit as i32;
        state.credit = 0;
        state.credited_at = now;
    }

    /// By how much windows may still grow, so that the connection's window has room for all of as many streams as may be.
    fn room_to_grow(&self) -> u32 {
        let streams = u64::from(self.config.max_concurrent_streams);
        let first = streams * u64::from(self.config.stream_window_bytes);
        let taken = first + u64::from(self.grown);
        u64::from(self.config.connection_window_bytes.min(MAX_31_BITS)).saturating_sub(taken) as u32
    }

    /// The time since the connection's beginning.
    pub(super) fn milliseconds(&self) -> u32 {
        self.clock.map_or(0, |(first, now)| {
            now.duration_since(first).as_millis() as u32
        })
    }

    /// Takes a stream out of the table.
    fn remove(&mut self, stream: StreamRef) {
        if let Some(state) = self.streams.get(stream) {
            self.grown -= state.grown;
            self.streams.remove(stream);
        }
    }

    /// Gives the peer back `count` bytes of the connection's window.
    pub(super) fn credit_connection(&mut self, count: u32, out: &mut WriteBuf) {
        self.credit += count;
        let target = self
            .config
            .connection_window_bytes
            .clamp(DEFAULT_WINDOW, MAX_31_BITS);
        if self.credit >= target / 2 {
            frame::put_window_update(out, 0, self.credit);
            self.recv_window += self.credit as i32;
            self.credit = 0;
        }
    }

    /// Removes a stream that ended well.
    pub(super) fn finish(&mut self, stream: StreamRef) {
        self.completed = self.completed.wrapping_add(1);
        self.remove(stream);
    }

    /// Removes a stream, whatever of it is unread.
    pub(super) fn forget(&mut self, stream: StreamRef, out: &mut WriteBuf) {
        if let Some(state) = self.streams.get(stream) {
            let unconsumed = state.unconsumed;
            self.remove(stream);
            self.credit_connection(unconsumed, out);
        }
    }

    /// Ends our direction of the stream.
    pub(super) fn end_sending(&mut self, stream: StreamRef) {
        self.streams.end(stream, |state| &mut state.send);
        self.finish_if_closed(stream);
    }

    /// Ends the peer's direction of the stream.
    pub(super) fn end_receiving(&mut self, stream: StreamRef) {
        self.streams.end(stream, |state| &mut state.recv);
        self.finish_if_closed(stream);
    }

    fn finish_if_closed(&mut self, stream: StreamRef) {
        if let Some(state) = self.streams.get(stream)
            && state.is_closed()
            && state.unconsumed == 0
        {
            self.finish(stream);
        }
    }

    /// Remembers that the peer may send more for a stream that we reset.
    pub(super) fn remember_reset(&mut self, id: u32) {
        if self.recently_reset.len() == REMEMBERED_RESETS {
            self.recently_reset.pop_front();
        }
        self.recently_reset.push_back(id);
    }

    /// Lets the stream wait for the connection's window or the output.
    pub(super) fn wait(&mut self, stream: StreamRef) {
        // Streams that are gone leave the queue here, lest resets under a closed window make it grow.
        if self.waiting.len() >= 16 && self.waiting.len() >= 2 * self.streams.len() {
            let streams = &self.streams;
            self.waiting.retain(|&waiting| {
                streams
                    .get(waiting)
                    .is_some_and(|state| state.blocked == Blocked::OnConnection)
            });
        }
        self.waiting.push_back(stream);
    }

    /// Counts a refusal for which the connection ends.
    pub(super) fn abuse(&mut self, refusal: Refusal) -> ConnectionError {
        self.refusals.add(refusal);
        ConnectionError::Abuse(refusal)
    }

    /// Checks what always holds between frames: for fuzzing.
    ///
    /// # Panics
    /// When it doesn't.
    pub(crate) fn assert_consistent(&self) {
        let (arriving, owner) = self.reading.arriving();
        let mut unconsumed = arriving;
        for stream in self.streams.iter() {
            let state = self.streams.get(stream).expect("a living stream");
            unconsumed += i64::from(state.unconsumed);
            if state.recv == Half::Body {
                let on_its_way = if owner == Some(stream) { arriving } else { 0 };
                let held = i64::from(state.credit) + i64::from(state.unconsumed) + on_its_way;
                let window = i64::from(state.recv_window) + held;
                let grown = i64::from(state.grown);
                assert_eq!(
                    window,
                    i64::from(self.initial_recv_window()) + grown,
                    "{stream:?}"
                );
            }
            assert!(
                !state.is_closed() || state.unconsumed > 0,
                "a stream that should be gone"
            );
        }
        let grown = self.streams.iter().map(|stream| {
            let state = self.streams.get(stream).expect("a living stream");
            state.grown
        });
        assert_eq!(self.grown, grown.sum::<u32>());
        let held = i64::from(self.credit) + unconsumed;
        let target = self
            .config
            .connection_window_bytes
            .clamp(DEFAULT_WINDOW, MAX_31_BITS);
        assert_eq!(i64::from(self.recv_window) + held, i64::from(target));
        assert!(self.streams.active() as usize <= self.streams.len());
        assert!(
            self.waiting.len() <= 2 * self.streams.slots() + 16,
            "stale streams wait"
        );
    }

    /// Spends one of a budget.
    pub(super) fn spend(&mut self, flood: Flood, now: Instant) -> Result<(), ConnectionError> {
        let work = match flood {
            Flood::Resets => self.completed,
            Flood::Settings
            | Flood::Pings
            | Flood::EmptyFrames
            | Flood::IdleFrames
            | Flood::WindowUpdates => self.work,
        };
        if self.budgets.spend(flood, &self.config.limits, now, work) {
            Ok(())
        } else {
            Err(self.abuse(flood.refusal()))
        }
    }
}
