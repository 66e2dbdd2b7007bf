//! One end of a connection, and its peer made of bytes.

mod abuse;
mod flow;
mod leaving;
mod messages;
mod properties;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hpack::Encoder;
use crate::{Field, Head, WriteBuf};

use super::frame::{FrameHeader, HEADER_LEN, PREFACE, flag, kind};
use super::{Config, Connection, ConnectionError, Event, StreamRef};

/// An end, and what a peer would say to it and hear from it.
struct Bench {
    conn: Connection,
    out: WriteBuf,
    now: Instant,
    encoder: Encoder,
}

/// An event without what it borrows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Event(Event<'static>),
    Data(StreamRef, Vec<u8>, bool),
}

impl Bench {
    /// A server whose client has said its preface and settings.
    fn server(config: Config) -> Self {
        let mut out = WriteBuf::new();
        let conn = Connection::server(Arc::new(config), &mut out);
        let mut bench = Self::new(conn, out);
        bench.start(PREFACE);
        bench
    }

    /// A client whose server has said its settings.
    fn client(config: Config) -> Self {
        let mut out = WriteBuf::new();
        let conn = Connection::client(Arc::new(config), &mut out);
        let mut bench = Self::new(conn, out);
        bench.start(b"");
        bench
    }

    fn new(conn: Connection, out: WriteBuf) -> Self {
        Self {
            conn,
            out,
            now: Instant::now(),
            encoder: Encoder::new(0),
        }
    }

    fn start(&mut self, preface: &[u8]) {
        let mut bytes = preface.to_vec();
        bytes.extend(frame(kind::SETTINGS, 0, 0, &[]));
        bytes.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
        self.feed(&bytes).unwrap();
        self.out.advance(self.out.len());
    }

    /// What comes of these bytes.
    fn feed(&mut self, mut input: &[u8]) -> Result<Vec<Seen>, ConnectionError> {
        let mut seen = Vec::new();
        while let Some(event) = self.conn.recv(&mut input, &mut self.out, self.now)? {
            seen.push(match event {
                Event::Data { stream, data, end } => Seen::Data(stream, data.to_vec(), end),
                Event::Head { stream, end } => Seen::Event(Event::Head { stream, end }),
                Event::Informational { stream } => Seen::Event(Event::Informational { stream }),
                Event::Trailers { stream } => Seen::Event(Event::Trailers { stream }),
                Event::Reset { stream, code, by } => Seen::Event(Event::Reset { stream, code, by }),
                Event::Writable { stream } => Seen::Event(Event::Writable { stream }),
                Event::Settings => Seen::Event(Event::Settings),
                Event::Pong { payload } => Seen::Event(Event::Pong { payload }),
                Event::GoAway { last_stream, code } => {
                    Seen::Event(Event::GoAway { last_stream, code })
                }
            });
            self.conn.assert_consistent();
        }
        Ok(seen)
    }

    /// The same frame again and again, until it is refused or `count` times.
    fn repeat(&mut self, count: usize, frame: &[u8]) -> Result<(), ConnectionError> {
        for _ in 0..count {
            self.feed(frame)?;
            self.out.advance(self.out.len());
        }
        Ok(())
    }

    /// The frames that were sent since the last look.
    fn sent(&mut self) -> Vec<(FrameHeader, Vec<u8>)> {
        let mut bytes = self.out.unsent();
        let mut frames = Vec::new();
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() {
            let header = FrameHeader::parse(header);
            let (payload, rest) = rest.split_at(header.len as usize);
            frames.push((header, payload.to_vec()));
            bytes = rest;
        }
        self.out.advance(self.out.len());
        frames
    }

    /// The kinds of the frames that were sent since the last look.
    fn sent_kinds(&mut self) -> Vec<u8> {
        self.sent().iter().map(|(header, _)| header.kind).collect()
    }

    /// A HEADERS frame.
    fn headers(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
        let mut block = Vec::new();
        self.encoder.begin(&mut block);
        for (name, value) in fields {
            self.encoder
                .field(Field::new(name.as_bytes(), value.as_bytes()), &mut block);
        }
        frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block)
    }

    /// A server's stream that a tunnel's client opened.
    fn accept_tunnel(&mut self, id: u32) -> StreamRef {
        let request = self.headers(id, CONNECT, 0);
        let seen = self.feed(&request).unwrap();
        let [Seen::Event(Event::Head { stream, .. })] = seen[..] else {
            panic!("{seen:?}");
        };
        let ok = Head::response(200);
        self.conn
            .send_response(stream, ok.wire_fields(), super::End::No, &mut self.out)
            .unwrap();
        self.out.advance(self.out.len());
        stream
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
    }
}

const GET: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "reviews"),
    (":path", "/"),
];
const CONNECT: &[(&str, &str)] = &[(":method", "CONNECT"), (":authority", "127.96.0.3:9080")];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        len: payload.len() as u32,
        kind,
        flags,
        stream,
    };
    let mut bytes = header.bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}
