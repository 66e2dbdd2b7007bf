//! A connection's core, its streams, and who waits for what.

use std::collections::VecDeque;
use std::time::Instant;

use slab::Slab;
use waymark_engine::h2::{Connection, ErrorCode, Event, StreamRef};
use waymark_engine::{Head, WriteBuf};

use crate::buffers;

use super::end::{ConnectionEnd, StreamEnd};
use super::waiter::Waiter;

/// What the handles, the streams and the tasks of a connection share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) conn: Connection,
    pub(super) out: WriteBuf,
    pub(super) phase: Phase,
    /// The streams that somebody holds, and those that wait to be accepted.
    pub(super) entries: Slab<Entry>,
    /// Places in `entries` by the slot of the stream.
    by_slot: Vec<u32>,
    /// Streams that wait to be accepted.
    pub(super) incoming: VecDeque<usize>,
    /// Handles of a client: it goes with the last one and the last stream.
    pub(super) handles: usize,
    pub(super) is_client: bool,
    /// Whether the peer's settings came: it speaks HTTP/2.
    pub(super) is_ready: bool,
    /// A PING was answered.
    pub(super) ponged: bool,
    /// All that the connection had to say is handed on, after its end.
    pub(super) flushed: bool,
    /// Whoever owns the connection.
    pub(super) owner: Waiter,
    pub(super) reader: Waiter,
    pub(super) writer: Waiter,
}

/// How far a connection is.
///
/// ```text
/// Open --end--> Closing --all said, peer gone or too slow--> Over
/// ```
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    Open,
    /// Its streams have failed; what it has to say is being sent.
    Closing(ConnectionEnd),
    /// Its tasks end.
    Over(ConnectionEnd),
}

/// A stream that somebody holds.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) stream: StreamRef,
    /// What has come and the holder hasn't fetched.
    pub(super) inbound: Vec<u8>,
    /// Heads that came before the body: a request, or informational responses and a final one.
    #[expect(clippy::vec_box, reason = "heads are passed on in their boxes")]
    pub(super) heads: Vec<Box<Head>>,
    pub(super) trailers: Option<Box<Head>>,
    /// Whether the peer has ended its direction.
    pub(super) ended: bool,
    /// Whether the peer said so with its head.
    pub(super) bodiless: bool,
    pub(super) failed: Option<StreamEnd>,
    pub(super) read: Waiter,
    pub(super) write: Waiter,
}

/// Informational responses that wait for a reader; the stream that has more is given up.
const MOST_HEADS: usize = 16;

impl State {
    pub(super) fn new(conn: Connection, out: WriteBuf, is_client: bool) -> Self {
        Self {
            conn,
            out,
            phase: Phase::Open,
            entries: Slab::new(),
            by_slot: Vec::new(),
            incoming: VecDeque::new(),
            handles: 0,
            is_client,
            is_ready: false,
            ponged: false,
            flushed: false,
            owner: Waiter::default(),
            reader: Waiter::default(),
            writer: Waiter::default(),
        }
    }

    /// Handles what came from the transport.
    pub(super) fn receive(&mut self, mut input: &[u8], now: Instant) {
        loop {
            match self.conn.recv(&mut input, &mut self.out, now) {
                Ok(Some(event)) => self.on_event(event),
                Ok(None) => break,
                Err(error) => {
                    self.close(ConnectionEnd::Protocol(error));
                    break;
                }
            }
        }
        self.settle();
    }

    /// Lets those go on that waited for room in the output.
    pub(super) fn resume(&mut self) {
        while let Some(event) = self.conn.resume(&mut self.out) {
            self.on_event(event);
        }
    }

    /// Has the writer run if there is something for it.
    #[inline]
    pub(super) fn settle(&mut self) {
        if !self.out.is_empty() || self.is_finished() {
            self.writer.wake();
        }
    }

    /// The output, with memory.
    #[inline]
    pub(super) fn prepare_output(&mut self) {
        if self.out.capacity() == 0 {
            self.out.give_memory(buffers::take());
        }
    }

    /// Whether an open connection has nothing left to do.
    pub(super) fn is_finished(&self) -> bool {
        let unused = self.is_client && self.handles == 0 && self.entries.is_empty();
        matches!(self.phase, Phase::Open) && (unused || self.conn.is_drained())
    }

    /// Ends the connection: its streams fail, what it has to say is sent.
    pub(super) fn close(&mut self, end: ConnectionEnd) {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Closing(end);
            self.fail_streams(end);
        }
    }

    /// Ends the connection at once.
    pub(super) fn abort(&mut self, end: ConnectionEnd) {
        self.close(end);
        if let Phase::Closing(end) = self.phase {
            self.phase = Phase::Over(end);
            self.reader.wake();
            self.writer.wake();
        }
    }

    /// Why the connection is over, if it is.
    pub(super) fn end(&self) -> Option<ConnectionEnd> {
        match self.phase {
            Phase::Open => None,
            Phase::Closing(end) | Phase::Over(end) => Some(end),
        }
    }

    /// Takes up a stream; returns its place.
    pub(super) fn enter(&mut self, stream: StreamRef) -> usize {
        let key = self.entries.insert(Entry {
            stream,
            inbound: Vec::new(),
            heads: Vec::new(),
            trailers: None,
            ended: false,
            bodiless: false,
            failed: None,
            read: Waiter::default(),
            write: Waiter::default(),
        });
        if self.by_slot.len() <= stream.slot() {
            self.by_slot.resize(stream.slot() + 1, u32::MAX);
        }
        self.by_slot[stream.slot()] = key as u32;
        key
    }

    /// Lets go of a stream: what of it hasn't ended is reset.
    pub(super) fn leave(&mut self, key: usize, code: ErrorCode) {
        let entry = self.entries.remove(key);
        if entry.inbound.capacity() > 0 {
            buffers::give(entry.inbound);
        }
        if matches!(self.phase, Phase::Open) {
            self.conn.reset(entry.stream, code, &mut self.out);
            self.settle();
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Data { stream, data, end } => self.on_data(stream, data, end),
            Event::Head { stream, end } => self.on_head(stream, end),
            Event::Informational { stream } => self.on_informational(stream),
            Event::Trailers { stream } => {
                let Some(key) = self.find(stream) else { return };
                let mut head = buffers::take_head();
                self.conn.swap_head(&mut head);
                let entry = &mut self.entries[key];
                entry.trailers = Some(head);
                entry.ended = true;
                entry.read.wake();
            }
            Event::Reset { stream, code, by } => {
                let Some(key) = self.find(stream) else { return };
                if let Some(place) = self.incoming.iter().position(|&waits| waits == key) {
                    self.incoming.remove(place);
                    self.entries.remove(key);
                    return;
                }
                self.entries[key].fail(StreamEnd::Reset { code, by });
            }
            Event::Writable { stream } => {
                if let Some(key) = self.find(stream) {
                    self.entries[key].write.wake();
                }
            }
            Event::Settings => {
                self.is_ready = true;
                self.owner.wake();
            }
            Event::Pong { .. } => self.ponged = true,
            Event::GoAway { .. } => self.owner.wake(),
        }
    }

    fn on_data(&mut self, stream: StreamRef, data: &[u8], end: bool) {
        let Some(key) = self.find(stream) else {
            self.conn.consume(stream, data.len(), &mut self.out);
            return;
        };
        let entry = &mut self.entries[key];
        if !data.is_empty() {
            if entry.inbound.capacity() == 0 {
                entry.inbound = buffers::take();
            }
            entry.inbound.extend_from_slice(data);
        }
        entry.ended |= end;
        entry.read.wake();
    }

    fn on_head(&mut self, stream: StreamRef, end: bool) {
        let mut head = buffers::take_head();
        self.conn.swap_head(&mut head);
        let key = if self.is_client {
            let Some(key) = self.find(stream) else { return };
            key
        } else {
            let key = self.enter(stream);
            self.incoming.push_back(key);
            self.owner.wake();
            key
        };
        let entry = &mut self.entries[key];
        entry.heads.push(head);
        entry.ended = end;
        entry.bodiless = end;
        entry.read.wake();
    }

    fn on_informational(&mut self, stream: StreamRef) {
        let Some(key) = self.find(stream) else { return };
        let entry = &mut self.entries[key];
        if entry.heads.len() >= MOST_HEADS {
            entry.fail(StreamEnd::GivenUp);
            self.conn
                .reset(stream, ErrorCode::ENHANCE_YOUR_CALM, &mut self.out);
            return;
        }
        let mut head = buffers::take_head();
        self.conn.swap_head(&mut head);
        entry.heads.push(head);
        entry.read.wake();
    }

    /// The place of a stream that somebody holds.
    fn find(&self, stream: StreamRef) -> Option<usize> {
        let key = *self.by_slot.get(stream.slot())? as usize;
        let entry = self.entries.get(key)?;
        (entry.stream == stream).then_some(key)
    }

    fn fail_streams(&mut self, end: ConnectionEnd) {
        for key in self.incoming.drain(..) {
            self.entries.remove(key);
        }
        for (_, entry) in &mut self.entries {
            entry.fail(end.into());
        }
        self.owner.wake();
        self.reader.wake();
        self.writer.wake();
    }
}

impl Entry {
    /// Ends the stream for its holder, who still gets what came before.
    pub(super) fn fail(&mut self, end: StreamEnd) {
        self.failed.get_or_insert(end);
        self.read.wake();
        self.write.wake();
    }
}
