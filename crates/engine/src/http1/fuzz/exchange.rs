//! A client and a server that do anything that is allowed, in any order, over a wire that delivers in any pieces.

use std::sync::Arc;

use crate::fuzz::Choices;
use crate::head::{Field, Head};
use crate::http1::{
    After, BodyLength, Client, ClientEvent, Limits, Server, ServerConfig, ServerEof, ServerEvent,
    WriteError,
};

/// Does what the input says, then lets everything end.
///
/// Whatever happens, neither end finds fault with the other, each body arrives once and in order, and a connection that
/// nobody wanted closed can be used again.
pub fn fuzz_exchange(input: &[u8]) {
    let mut choices = Choices(input);
    let mut world = World::new();
    while !choices.is_empty() && !world.over {
        world.step(&mut choices);
    }
    world.settle();
}

struct World {
    client: Client,
    server: Server,
    /// From the client, and from the server.
    up: Wire,
    down: Wire,
    request: Message,
    response: Message,
    /// The messages that are complete, as sender and receiver know: the server may end one after the client asked again.
    requests: [Vec<Progress>; 2],
    responses: [Vec<Progress>; 2],
    /// Whether the connection is one of raw bytes now, as each side knows.
    raw_at_client: bool,
    raw_at_server: bool,
    /// The server closes when all is delivered.
    closing: bool,
    over: bool,
}

/// Bytes on their way.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    arrived: usize,
    read: usize,
}

/// A message as its sender and its receiver know it.
#[derive(Default)]
struct Message {
    sender: Progress,
    receiver: Progress,
    /// What the head says, while `sender` is amid the body.
    left: Option<usize>,
    /// No body on the wire, whatever is said.
    suppressed: bool,
    /// Raw bytes are counted on from here.
    raw: [usize; 2],
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Progress {
    stage: Stage,
    bytes: usize,
    trailers: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Debug, PartialOrd)]
enum Stage {
    #[default]
    Nothing,
    Body,
    End,
}

impl World {
    fn new() -> Self {
        Self {
            client: Client::new(Limits::UPSTREAM),
            server: Server::new(Arc::new(ServerConfig::default())),
            up: Wire::default(),
            down: Wire::default(),
            request: Message::default(),
            response: Message::default(),
            requests: [Vec::new(), Vec::new()],
            responses: [Vec::new(), Vec::new()],
            raw_at_client: false,
            raw_at_server: false,
            closing: false,
            over: false,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.pick(12) {
            0 => self.send(choices),
            1 => self.write_request(choices.pick(256) * [1, 40][choices.pick(2)]),
            2 => self.finish_request(choices.flag()),
            3 => self.respond(choices),
            4 => self.write_response(choices.pick(256) * [1, 40][choices.pick(2)]),
            5 => self.finish_response(choices.flag()),
            6 => self.inform(),
            7 if choices.pick(8) == 0 => self.server.close_after_response(),
            8 if choices.flag() => self.client.release(),
            8 => self.server.release(),
            9 | 10 => self.deliver_to_server(1 + choices.pick(256)),
            _ => self.deliver_to_client(1 + choices.pick(256)),
        }
    }

    fn send(&mut self, choices: &mut Choices<'_>) {
        let method = [b"GET".as_slice(), b"HEAD", b"POST", b"DELETE"][choices.pick(4)];
        let upgrade = choices.pick(4) == 0;
        let body = if upgrade {
            BodyLength::None
        } else {
            length(choices)
        };
        let mut head = Head::request(method);
        head.set_authority(b"reviews:9080");
        head.set_path(b"/reviews");
        if upgrade {
            head.push(Field::new(b"connection", b"upgrade"));
            head.push(Field::new(b"upgrade", b"websocket"));
        }
        push_some(&mut head, choices);
        let before = self.up.bytes.len();
        match self.client.send(&head, body, &mut self.up.bytes) {
            Ok(()) => {
                self.request = Message {
                    receiver: self.request.receiver,
                    ..Message::begun(body, false)
                };
                self.response.receiver = Progress::default();
            }
            Err(error) => {
                assert_eq!(error, WriteError::OutOfTurn);
                assert!(!self.client.is_reusable());
                assert_eq!(self.up.bytes.len(), before);
            }
        }
    }

    fn respond(&mut self, choices: &mut Choices<'_>) {
        let status = match choices.pick(8) {
            0 => 204,
            1 => 304,
            2 | 3 if self.server.request().upgrade => 101,
            _ => 200,
        };
        let body = length(choices);
        let mut head = Head::response(status);
        if status == 101 {
            head.push(Field::new(b"connection", b"upgrade"));
            head.push(Field::new(b"upgrade", b"websocket"));
        }
        push_some(&mut head, choices);
        let is_due = self.request.receiver.stage > Stage::Nothing
            && self.response.sender.stage == Stage::Nothing
            && !self.closing
            && !self.raw_at_server;
        match self.server.respond(&head, body, &mut self.down.bytes) {
            Ok(()) => {
                assert!(is_due);
                let suppressed = self.server.request().is_head || status == 204 || status == 304;
                self.response = Message {
                    receiver: self.response.receiver,
                    ..Message::begun(body, suppressed)
                };
                self.raw_at_server = status == 101;
            }
            Err(error) => {
                assert_eq!(error, WriteError::OutOfTurn);
                assert!(!is_due);
            }
        }
    }

    fn inform(&mut self) {
        let before = self.down.bytes.len();
        let informed = self
            .server
            .inform(&Head::response(103), &mut self.down.bytes);
        if informed.is_err() {
            assert_eq!(self.down.bytes.len(), before);
        } else {
            assert_eq!(self.response.sender.stage, Stage::Nothing);
        }
    }

    fn write_request(&mut self, count: usize) {
        if self.raw_at_client && self.request.sender.stage == Stage::End {
            let data = self.request.raw_bytes(count);
            let written = self.client.write(&data, &mut self.up.bytes);
            assert_eq!(written, Ok(()));
            return;
        }
        let client = &mut self.client;
        self.request
            .write(count, |data| client.write(data, &mut self.up.bytes));
    }

    fn write_response(&mut self, count: usize) {
        if self.raw_at_server {
            let data = self.response.raw_bytes(count);
            let written = self.server.write(&data, &mut self.down.bytes);
            assert_eq!(written, Ok(()));
            return;
        }
        let server = &mut self.server;
        self.response
            .write(count, |data| server.write(data, &mut self.down.bytes));
    }

    fn finish_request(&mut self, with_trailers: bool) {
        let trailers = trailers(with_trailers);
        let finished = self
            .client
            .finish(trailers.as_ref(), &mut self.up.bytes)
            .map(drop);
        self.over |= self.request.finished(finished, with_trailers);
        if finished.is_ok() {
            self.requests[0].push(self.request.sender);
        }
    }

    fn finish_response(&mut self, with_trailers: bool) {
        let trailers = trailers(with_trailers);
        if self.raw_at_server {
            let finished = self.server.finish(trailers.as_ref(), &mut self.down.bytes);
            assert_eq!(finished, Err(WriteError::OutOfTurn));
            return;
        }
        let finished = self.server.finish(trailers.as_ref(), &mut self.down.bytes);
        self.closing |= finished == Ok(After::Close);
        if finished == Ok(After::KeepAlive) {
            if self.request.receiver.stage == Stage::Body {
                self.request.receiver.stage = Stage::End; // it was there, if untold
                self.requests[1].push(self.request.receiver);
            }
            self.request.receiver.stage = Stage::Nothing;
        }
        self.over |= self.response.finished(finished.map(drop), with_trailers);
        if finished.is_ok() {
            self.responses[0].push(self.response.sender);
            self.response.sender = Progress::default();
        }
    }

    fn deliver_to_server(&mut self, count: usize) {
        self.up.arrive(count);
        loop {
            let got = self.server.recv(self.up.unread());
            let bytes = self.up.take(got.consumed);
            let receiver = &mut self.request.receiver;
            match got.event {
                ServerEvent::Head => receiver.begin(),
                ServerEvent::Body(range) => receiver.body(&bytes[range]),
                ServerEvent::Trailers => receiver.trailers = true,
                ServerEvent::End => {
                    receiver.stage = Stage::End;
                    self.requests[1].push(*receiver);
                }
                ServerEvent::Raw(range) => self.request.got_raw(&bytes[range]),
                ServerEvent::Refused(refusal) => panic!("the server refuses: {refusal:?}"),
                ServerEvent::NeedMore | ServerEvent::Busy | ServerEvent::Closed => return,
            }
        }
    }

    fn deliver_to_client(&mut self, count: usize) {
        self.down.arrive(count);
        loop {
            let got = self.client.recv(self.down.unread());
            let bytes = self.down.take(got.consumed);
            let receiver = &mut self.response.receiver;
            match got.event {
                ClientEvent::Informational => {
                    assert_eq!(self.client.head().status(), Some(103));
                    assert_eq!(receiver.stage, Stage::Nothing);
                }
                ClientEvent::Head => {
                    receiver.begin();
                    self.raw_at_client = self.client.head().status() == Some(101);
                }
                ClientEvent::Body(range) => receiver.body(&bytes[range]),
                ClientEvent::Trailers => receiver.trailers = true,
                ClientEvent::End => {
                    receiver.stage = Stage::End;
                    self.responses[1].push(*receiver);
                }
                ClientEvent::Raw(range) => self.response.got_raw(&bytes[range]),
                // It had too many, not more.
                ClientEvent::Failed(crate::http1::ResponseError::TooManyInformational) => {
                    self.over = true;
                    return;
                }
                ClientEvent::Failed(error) => panic!("the client refuses: {error}"),
                ClientEvent::NeedMore => return,
            }
        }
    }

    /// Ends what is under way and lets it arrive: of the server, the last request but one and the last.
    fn settle(&mut self) {
        for _ in 0..2 {
            if !self.over {
                self.end();
            }
        }
        self.check();
    }

    fn end(&mut self) {
        if self.request.sender.stage == Stage::Body {
            self.write_request(self.request.left.unwrap_or(0));
            self.finish_request(true);
        }
        self.deliver_to_server(usize::MAX);
        if self.request.receiver.stage > Stage::Nothing
            && self.response.sender.stage == Stage::Nothing
            && !self.closing
            && !self.raw_at_server
        {
            self.respond(&mut Choices(&[]));
        }
        if self.response.sender.stage == Stage::Body && !self.raw_at_server {
            if !self.response.suppressed {
                self.write_response(self.response.left.unwrap_or(0));
            }
            self.finish_response(true);
        }
        self.deliver_to_server(usize::MAX);
        self.deliver_to_client(usize::MAX);
    }

    fn check(&mut self) {
        if self.over {
            return;
        }
        if self.raw_at_server {
            assert!(self.raw_at_client);
            assert_eq!(self.response.raw[0], self.response.raw[1]);
            assert_eq!(self.request.raw[0], self.request.raw[1]);
            assert_eq!(self.server.eof(), ServerEof::Clean);
            assert_eq!(self.client.eof(), ClientEvent::End);
            return;
        }
        let [sent, received] = &self.responses;
        assert_eq!(sent, received, "each response arrives");
        if self.closing {
            assert_eq!(self.server.recv(b"GET").event, ServerEvent::Closed);
        } else {
            let [sent, received] = &self.requests;
            assert_eq!(sent, received, "each request arrives");
            assert!(self.client.is_reusable(), "{:?}", self.client);
            assert!(self.server.is_idle(), "{:?}", self.server);
        }
    }
}

impl Message {
    fn begun(body: BodyLength, suppressed: bool) -> Self {
        Self {
            sender: Progress {
                stage: Stage::Body,
                bytes: 0,
                trailers: false,
            },
            left: match body {
                BodyLength::None => Some(0),
                BodyLength::Length(length) => usize::try_from(length).ok(),
                BodyLength::Chunked => None,
            },
            suppressed,
            ..Self::default()
        }
    }

    /// Writes `count` bytes with `write`, which has to judge them as this does.
    fn write(&mut self, count: usize, write: impl FnOnce(&[u8]) -> Result<(), WriteError>) {
        let from = self.sender.bytes;
        let data: Vec<u8> = (from..from + count).map(content).collect();
        let expected = match self.left {
            _ if self.sender.stage != Stage::Body => Err(WriteError::OutOfTurn),
            _ if self.suppressed => Err(WriteError::NoBody),
            Some(left) if count > left => Err(WriteError::TooLong),
            _ => Ok(()),
        };
        assert_eq!(write(&data), expected);
        if expected.is_ok() {
            self.sender.bytes += count;
            self.left = self.left.map(|left| left - count);
        }
    }

    /// Notes an end. Whether it broke the connection.
    fn finished(&mut self, finished: Result<(), WriteError>, trailers: bool) -> bool {
        let expected = match self.left {
            _ if self.sender.stage != Stage::Body => Err(WriteError::OutOfTurn),
            Some(left) if left > 0 && !self.suppressed => Err(WriteError::TooShort),
            _ => Ok(()),
        };
        assert_eq!(finished, expected);
        if finished.is_ok() {
            self.sender.stage = Stage::End;
            self.sender.trailers = trailers && self.left.is_none() && !self.suppressed;
        }
        expected == Err(WriteError::TooShort)
    }

    fn raw_bytes(&mut self, count: usize) -> Vec<u8> {
        let from = self.raw[0];
        self.raw[0] += count;
        (from..from + count).map(content).collect()
    }

    fn got_raw(&mut self, bytes: &[u8]) {
        let expected = (self.raw[1]..).map(content).take(bytes.len());
        assert!(bytes.iter().copied().eq(expected));
        self.raw[1] += bytes.len();
    }
}

impl Progress {
    fn begin(&mut self) {
        assert_ne!(self.stage, Stage::Body, "a head amid a body");
        *self = Self {
            stage: Stage::Body,
            bytes: 0,
            trailers: false,
        };
    }

    fn body(&mut self, bytes: &[u8]) {
        assert_eq!(self.stage, Stage::Body);
        assert!(!bytes.is_empty());
        let expected = (self.bytes..).map(content).take(bytes.len());
        assert!(bytes.iter().copied().eq(expected));
        self.bytes += bytes.len();
    }
}

impl Wire {
    fn arrive(&mut self, count: usize) {
        self.arrived = self.arrived.saturating_add(count).min(self.bytes.len());
    }

    fn unread(&self) -> &[u8] {
        &self.bytes[self.read..self.arrived]
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.unread()[..count].to_vec();
        self.read += count;
        bytes
    }
}

fn length(choices: &mut Choices<'_>) -> BodyLength {
    match choices.pick(3) {
        0 => BodyLength::None,
        1 => BodyLength::Length(choices.pick(256) as u64 * 8),
        _ => BodyLength::Chunked,
    }
}

fn trailers(wanted: bool) -> Option<Head> {
    wanted.then(|| {
        let mut trailers = Head::new();
        trailers.push(Field::new(b"grpc-status", b"0"));
        trailers
    })
}

/// Fields that say something about framing, or nothing.
fn push_some(head: &mut Head, choices: &mut Choices<'_>) {
    for _ in 0..choices.pick(3) {
        let (name, value) = [
            (b"content-length".as_slice(), b"77".as_slice()),
            (b"transfer-encoding", b"chunked"),
            (b"keep-alive", b"1"),
            (b"x-request-id", b"7"),
            (b"te", b"trailers"),
            (b"cookie", b"a=b"),
        ][choices.pick(6)];
        head.push(Field::new(name, value));
    }
}

/// What is at this place of a body.
fn content(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 2) as u8
}
