//! Both ends, doing anything that is allowed in any order, over a wire that delivers in any pieces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::h2::{Config, Connection, End, ErrorCode, Event, Refusal, SendError, StreamRef};
use crate::{Field, Head, WriteBuf};

use super::Choices;

/// Does what the input says with a client and a server, then lets everything arrive.
///
/// Whatever happens, neither end finds fault with the other, windows balance, and of every stream that wasn't reset each byte
/// arrives once, in order.
pub fn fuzz_pair(input: &[u8]) {
    let mut choices = Choices(input);
    let mut config = || {
        let mut config = Config {
            stream_window_bytes: [1, 50, 4000, 65_535, 200_000][choices.pick(5)],
            connection_window_bytes: [65_535, 100_000][choices.pick(2)],
            output_bytes: [100, 5000, 100_000][choices.pick(3)],
            send_frame_bytes: [7, 1000, 16_384][choices.pick(3)],
            header_table_bytes: [0, 100, 4096][choices.pick(3)],
            max_concurrent_streams: [1, 5, 100][choices.pick(3)],
            ..Config::default()
        };
        if config.header_table_bytes != 100 {
            config.stream_window_max_bytes = 0;
        }
        Arc::new(config)
    };
    let mut world = World::new(config(), config());
    while !choices.is_empty() {
        world.step(&mut choices);
        world.client.conn.assert_consistent();
        world.server.conn.assert_consistent();
    }
    world.settle();
    world.check();
}

struct World {
    client: Side,
    server: Side,
    now: Instant,
}

struct Side {
    name: &'static str,
    conn: Connection,
    out: WriteBuf,
    window: usize,
    /// The most that is sent at once: a byte at a time, a lot of it takes for ever and shows nothing new.
    most: usize,
    streams: BTreeMap<u32, Track>,
}

/// What one side knows of a stream.
struct Track {
    stream: StreamRef,
    sent: usize,
    /// What send_data didn't take yet, and whether it ends the direction.
    pending: Option<(usize, End)>,
    sends: Sends,
    received: usize,
    unread: usize,
    got_head: bool,
    got_end: bool,
    reset: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    Head,
    Body,
    Nothing,
}

impl World {
    fn new(client: Arc<Config>, server: Arc<Config>) -> Self {
        let side = |name, config: &Config, peer: &Config, conn, out| Side {
            most: peer.stream_window_bytes as usize * 200,
            name,
            conn,
            out,
            // Before the settings are known the default is.
            window: if config.stream_window_max_bytes > config.stream_window_bytes {
                config.connection_window_bytes
            } else {
                config.stream_window_bytes.max(65_535)
            } as usize,
            streams: BTreeMap::new(),
        };
        let mut client_out = WriteBuf::new();
        let client_conn = Connection::client(client.clone(), &mut client_out);
        let mut server_out = WriteBuf::new();
        let server_conn = Connection::server(server.clone(), &mut server_out);
        Self {
            client: side("client", &client, &server, client_conn, client_out),
            server: side("server", &server, &client, server_conn, server_out),
            now: Instant::now(),
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let operation = choices.byte();
        let to_client = operation & 1 == 0;
        let (side, other) = if to_client {
            (&mut self.client, &mut self.server)
        } else {
            (&mut self.server, &mut self.client)
        };
        match operation >> 1 & 0xf {
            0 | 1 => self.client.request(choices),
            2 | 3 => self.server.respond(choices),
            4..=7 => side.send(choices),
            8..=10 => {
                let count = choices.pick(256) * choices.pick(256);
                side.receive(other, count, self.now);
            }
            11 | 12 => side.consume(choices),
            13 => side.trailers(choices),
            14 => side.steer(choices),
            _ => side.reset(choices),
        }
    }

    /// Lets everything arrive and be read.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            let moved = self.client.receive(&mut self.server, usize::MAX, self.now)
                | self.server.receive(&mut self.client, usize::MAX, self.now);
            self.client.consume_all();
            self.server.consume_all();
            if !moved && self.client.out.is_empty() && self.server.out.is_empty() {
                return;
            }
        }
        panic!("the connection does not come to rest");
    }

    fn check(&self) {
        for (id, at_server) in &self.server.streams {
            let at_client = &self.client.streams[id];
            if at_client.reset || at_server.reset {
                continue;
            }
            for (from, to) in [(at_client, at_server), (at_server, at_client)] {
                assert_eq!(from.pending, None, "stream {id} is stuck");
                assert_eq!(from.sent, to.received, "stream {id}");
                assert_eq!(from.sends == Sends::Nothing, to.got_end, "stream {id}");
            }
        }
        for side in [&self.client, &self.server] {
            // A client opens more streams than the server wants before it knows its settings, and while some are unread.
            let unexpected = |&(refusal, _): &_| refusal != Refusal::Streams;
            assert_eq!(side.conn.refusals().iter().find(unexpected), None);
            let ended = |track: &Track| track.sends == Sends::Nothing && track.got_end;
            let living = side
                .streams
                .values()
                .filter(|track| !track.reset && !ended(track))
                .count();
            assert_eq!(side.conn.streams().count(), living, "{}", side.name);
        }
    }
}

impl Side {
    fn request(&mut self, choices: &mut Choices<'_>) {
        let end = End::from(choices.flag());
        let mut head = Head::request(if end == End::Yes { b"GET" } else { b"POST" });
        head.set_scheme(b"http");
        head.set_authority(b"reviews:9080");
        head.set_path(b"/reviews");
        for _ in 0..choices.pick(4) {
            let name = format!("x-{}", choices.pick(8));
            let value = vec![b'v'; choices.pick(256) * 4];
            head.push(Field::new(name.as_bytes(), &value));
        }
        match self
            .conn
            .send_request(head.wire_fields(), end, &mut self.out)
        {
            Ok(stream) => {
                let sends = if end == End::Yes {
                    Sends::Nothing
                } else {
                    Sends::Body
                };
                self.streams.insert(stream.id(), Track::new(stream, sends));
            }
            Err(SendError::TooManyStreams) => assert_eq!(self.conn.available_streams(), 0),
            Err(SendError::Leaving) => assert!(self.conn.is_leaving()),
            Err(error) => panic!("{error}"),
        }
    }

    fn respond(&mut self, choices: &mut Choices<'_>) {
        let informational = choices.pick(4) == 0;
        let end = End::from(choices.flag() && !informational);
        let Some(track) = pick(&mut self.streams, choices, |track| {
            track.sends == Sends::Head
        }) else {
            return;
        };
        let head = Head::response(if informational { 103 } else { 200 });
        self.conn
            .send_response(track.stream, head.wire_fields(), end, &mut self.out)
            .expect("the stream waits for a head");
        track.sends = match end {
            End::Yes => Sends::Nothing,
            End::No if informational => Sends::Head,
            End::No => Sends::Body,
        };
    }

    fn send(&mut self, choices: &mut Choices<'_>) {
        let count = (choices.pick(256) * [1, 10, 100][choices.pick(3)]).min(self.most);
        let end = End::from(choices.pick(4) == 0);
        let Some(track) = pick(&mut self.streams, choices, |track| {
            track.sends == Sends::Body && track.pending.is_none()
        }) else {
            return;
        };
        track.pending = Some((count, end));
        track.send_pending(&mut self.conn, &mut self.out);
    }

    fn trailers(&mut self, choices: &mut Choices<'_>) {
        let Some(track) = pick(&mut self.streams, choices, |track| {
            track.sends == Sends::Body && track.pending.is_none()
        }) else {
            return;
        };
        self.conn
            .send_trailers(
                track.stream,
                [Field::new(b"grpc-status", b"0")],
                &mut self.out,
            )
            .expect("the stream may end");
        track.sends = Sends::Nothing;
    }

    fn consume(&mut self, choices: &mut Choices<'_>) {
        let part = choices.pick(256) + 1;
        if let Some(track) = pick(&mut self.streams, choices, |track| track.unread > 0) {
            let count = (track.unread * part).div_ceil(256);
            track.unread -= count;
            self.conn.consume(track.stream, count, &mut self.out);
        }
    }

    fn consume_all(&mut self) {
        for track in self.streams.values_mut() {
            let count = std::mem::take(&mut track.unread);
            self.conn.consume(track.stream, count, &mut self.out);
        }
    }

    fn steer(&mut self, choices: &mut Choices<'_>) {
        match choices.pick(8) {
            0 => self.conn.shut_down(&mut self.out),
            1 => self.conn.release(),
            _ => self.conn.ping([7; 8], &mut self.out),
        }
    }

    fn reset(&mut self, choices: &mut Choices<'_>) {
        if let Some(track) = pick(&mut self.streams, choices, |track| !track.is_done()) {
            self.conn
                .reset(track.stream, ErrorCode::CANCEL, &mut self.out);
            track.drop_unread();
        }
    }

    /// Takes up to `count` bytes of what `from` has to send. Returns whether anything happened.
    fn receive(&mut self, from: &mut Side, count: usize, now: Instant) -> bool {
        let count = count.min(from.out.len());
        let bytes = from.out.unsent()[..count].to_vec();
        from.out.advance(count);
        // Its output has room now.
        let moved = from.take_in(&[], now);
        self.take_in(&bytes, now) || moved || count > 0
    }

    fn take_in(&mut self, mut input: &[u8], now: Instant) -> bool {
        let mut moved = false;
        loop {
            let event = self
                .conn
                .recv(&mut input, &mut self.out, now)
                .unwrap_or_else(|error| panic!("the {} refuses: {error}", self.name));
            let Some(event) = event else {
                return moved;
            };
            moved = true;
            self.on_event(event);
        }
    }

    fn on_event(&mut self, event: Event<'_>) {
        match event {
            Event::Head { stream, end } => {
                let track = self
                    .streams
                    .entry(stream.id())
                    .or_insert_with(|| Track::new(stream, Sends::Head));
                assert!(!track.got_head, "two heads");
                track.got_head = true;
                track.got_end = end;
            }
            Event::Informational { stream } => {
                assert_eq!(self.conn.head().status(), Some(103));
                assert!(!self.streams[&stream.id()].got_head);
            }
            Event::Data { stream, data, end } => {
                let window = self.window;
                let track = self.living(stream);
                let expected = (track.received..).map(|at| content(stream.id(), at));
                assert!(data.iter().copied().eq(expected.take(data.len())));
                track.received += data.len();
                track.unread += data.len();
                assert!(track.unread <= window, "more unread than the window");
                track.got_end = end;
            }
            Event::Trailers { stream } => self.living(stream).got_end = true,
            Event::Reset { stream, .. } => {
                if let Some(track) = self.streams.get_mut(&stream.id()) {
                    track.drop_unread();
                }
            }
            Event::Writable { stream } => {
                if let Some(track) = self.streams.get_mut(&stream.id()) {
                    track.send_pending(&mut self.conn, &mut self.out);
                }
            }
            Event::Settings | Event::Pong { .. } | Event::GoAway { .. } => {}
        }
    }

    fn living(&mut self, stream: StreamRef) -> &mut Track {
        let track = self.streams.get_mut(&stream.id()).expect("a known stream");
        assert!(!track.got_end && !track.reset, "something after the end");
        track
    }
}

impl Track {
    fn new(stream: StreamRef, sends: Sends) -> Self {
        Self {
            stream,
            sent: 0,
            pending: None,
            sends,
            received: 0,
            unread: 0,
            got_head: false,
            got_end: false,
            reset: false,
        }
    }

    fn send_pending(&mut self, conn: &mut Connection, out: &mut WriteBuf) {
        let Some((count, end)) = self.pending else {
            return;
        };
        // One byte more than it will take is as good as all.
        let offered = count.min(conn.send_capacity(self.stream, out) + 1);
        let data: Vec<u8> = (self.sent..self.sent + offered)
            .map(|at| content(self.stream.id(), at))
            .collect();
        let taken = conn
            .send_data(self.stream, &data, end, out)
            .expect("the stream takes data");
        self.sent += taken;
        self.pending = (taken < count).then_some((count - taken, end));
        if self.pending.is_none() && end == End::Yes {
            self.sends = Sends::Nothing;
        }
    }

    fn drop_unread(&mut self) {
        self.reset = true;
        self.unread = 0;
        self.pending = None;
        self.sends = Sends::Nothing;
    }

    fn is_done(&self) -> bool {
        self.reset || (self.sends == Sends::Nothing && self.got_end && self.unread == 0)
    }
}

/// One of the streams of which `which` is true.
fn pick<'t>(
    streams: &'t mut BTreeMap<u32, Track>,
    choices: &mut Choices<'_>,
    which: impl Fn(&Track) -> bool,
) -> Option<&'t mut Track> {
    let mut found: Vec<&mut Track> = streams.values_mut().filter(|track| which(track)).collect();
    if found.is_empty() {
        return None;
    }
    let index = choices.pick(found.len());
    Some(found.swap_remove(index))
}

/// What is at this place of a stream.
fn content(stream: u32, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(stream * 7) as u8
}
