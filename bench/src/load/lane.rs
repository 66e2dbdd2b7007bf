//! What one tunnel says and hears.

use std::sync::Arc;
use std::time::Instant;

use waymark_engine::h2::{self, End as Last, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

use super::Inner;
use crate::hub::End;

const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nhost: backend.bench.svc.cluster.local\r\nuser-agent: waymark-bench\r\naccept: */*\r\n\r\n";
const GRPC_MESSAGE: &[u8; 64] = &[0; 64];

/// A tunnel as the generator knows it.
pub(super) struct Tunnel {
    pub(super) stream: StreamRef,
    /// Whether CONNECT was answered.
    pub(super) open: bool,
    /// Whether we ended it.
    pub(super) ended: bool,
    spoken: Spoken,
    /// What the tunnel has no room for yet.
    pending: WriteBuf,
}

enum Spoken {
    H1(Answer),
    H2 {
        conn: Box<h2::Connection>,
        /// By slot, the lane that waits for an answer.
        lanes: Vec<Option<(StreamRef, usize)>>,
    },
}

/// An HTTP/1.1 answer as far as it came.
#[derive(Default)]
struct Answer {
    lane: Option<usize>,
    head: Vec<u8>,
    body_left: Option<usize>,
}

/// What an answer came to: its lane, and why it failed if it did.
pub(super) type Done = (usize, Result<(), String>);

impl Tunnel {
    /// Asks for a tunnel.
    pub(super) fn connect(
        end: &mut End,
        authority: &str,
        inner: Inner,
        config: &Arc<h2::Config>,
    ) -> Result<Self, h2::SendError> {
        let mut head = Head::request(b"CONNECT");
        head.set_authority(authority.as_bytes());
        let stream = end
            .h2
            .send_request(head.wire_fields(), Last::No, &mut end.out)?;
        let mut pending = WriteBuf::new();
        let spoken = match inner {
            Inner::H1 => Spoken::H1(Answer::default()),
            Inner::H2 => Spoken::H2 {
                conn: Box::new(h2::Connection::client(Arc::clone(config), &mut pending)),
                lanes: Vec::new(),
            },
        };
        Ok(Self {
            stream,
            open: false,
            ended: false,
            spoken,
            pending,
        })
    }

    /// Sends a request of `lane`.
    pub(super) fn ask(&mut self, lane: usize, end: &mut End) -> Result<(), String> {
        match &mut self.spoken {
            Spoken::H1(answer) => {
                if answer.lane.replace(lane).is_some() {
                    return Err("asked before the answer".into());
                }
                self.pending.put(REQUEST);
            }
            Spoken::H2 { conn, lanes } => {
                let mut head = Head::request(b"POST");
                head.set_scheme(b"http");
                head.set_authority(b"backend.bench.svc.cluster.local");
                head.set_path(b"/echo.Echo/Call");
                head.push(Field::new(b"content-type", b"application/grpc"));
                head.push(Field::new(b"te", b"trailers"));
                let out = &mut self.pending;
                let sent = conn.send_request(head.wire_fields(), Last::No, out);
                let stream = sent.map_err(|e| e.to_string())?;
                conn.send_data(stream, GRPC_MESSAGE, Last::Yes, out)
                    .map_err(|e| e.to_string())?;
                if lanes.len() <= stream.slot() {
                    lanes.resize(stream.slot() + 1, None);
                }
                lanes[stream.slot()] = Some((stream, lane));
            }
        }
        self.send(end);
        Ok(())
    }

    /// Sends what waits, if the tunnel is open.
    pub(super) fn send(&mut self, end: &mut End) {
        if !self.open || self.ended || self.pending.is_empty() {
            return;
        }
        let unsent = self.pending.unsent();
        if let Ok(count) = end
            .h2
            .send_data(self.stream, unsent, Last::No, &mut end.out)
        {
            self.pending.advance(count);
        }
    }

    /// Ends our direction.
    pub(super) fn end(&mut self, end: &mut End) {
        self.ended = true;
        let _ = end.h2.send_data(self.stream, b"", Last::Yes, &mut end.out);
    }

    /// Takes what came in the tunnel; answers that are whole go to `done`.
    pub(super) fn take_in(&mut self, mut data: &[u8], now: Instant, done: &mut Vec<Done>) {
        match &mut self.spoken {
            Spoken::H1(answer) => answer.take_in(data, done),
            Spoken::H2 { conn, lanes } => loop {
                match conn.recv(&mut data, &mut self.pending, now) {
                    Ok(Some(event)) => inner_event(conn, lanes, &mut self.pending, event, done),
                    Ok(None) => return,
                    Err(error) => {
                        let waiting = lanes.drain(..).flatten();
                        done.extend(waiting.map(|(_, lane)| (lane, Err(error.to_string()))));
                        return;
                    }
                }
            },
        }
    }

    /// The lanes that will get no answer any more.
    pub(super) fn waiting(&self) -> Vec<usize> {
        match &self.spoken {
            Spoken::H1(answer) => answer.lane.into_iter().collect(),
            Spoken::H2 { lanes, .. } => lanes.iter().flatten().map(|&(_, lane)| lane).collect(),
        }
    }
}

impl Answer {
    fn take_in(&mut self, mut data: &[u8], done: &mut Vec<Done>) {
        while !data.is_empty() {
            let Some(left) = &mut self.body_left else {
                let already = self.head.len();
                self.head.extend_from_slice(data);
                match parse_head(&self.head) {
                    Ok(None) => return,
                    Ok(Some((head, length))) => {
                        data = &data[head - already..];
                        self.body_left = Some(length);
                        self.finish_if_whole(done);
                    }
                    Err(error) => {
                        *self = Self {
                            lane: self.lane,
                            ..Self::default()
                        };
                        done.extend(self.lane.take().map(|lane| (lane, Err(error))));
                        return;
                    }
                }
                continue;
            };
            let count = data.len().min(*left);
            *left -= count;
            data = &data[count..];
            self.finish_if_whole(done);
        }
    }

    fn finish_if_whole(&mut self, done: &mut Vec<Done>) {
        if self.body_left == Some(0) {
            self.body_left = None;
            self.head.clear();
            done.extend(self.lane.take().map(|lane| (lane, Ok(()))));
        }
    }
}

fn inner_event(
    conn: &mut h2::Connection,
    lanes: &mut [Option<(StreamRef, usize)>],
    out: &mut WriteBuf,
    event: Event<'_>,
    done: &mut Vec<Done>,
) {
    let (stream, went) = match event {
        Event::Head { stream, end } => match conn.head().status() {
            Some(200) if !end => return,
            Some(200) => (stream, Ok(())),
            status => (stream, Err(format!("answered with {status:?}"))),
        },
        Event::Data { stream, data, end } => {
            conn.consume(stream, data.len(), out);
            if !end {
                return;
            }
            (stream, Ok(()))
        }
        Event::Trailers { stream } => (stream, Ok(())),
        Event::Reset { stream, code, .. } => (stream, Err(format!("reset with {code:?}"))),
        _ => return,
    };
    let waiting = lanes.get_mut(stream.slot());
    if let Some(waiting) = waiting
        && let Some((of, lane)) = *waiting
        && of == stream
    {
        *waiting = None;
        done.push((lane, went));
    }
}

/// Length of head and body, once the head is whole.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(head).into_owned());
    }
    let length = head
        .split(|&b| b == b'\n')
        .find(|line| {
            line.get(..LENGTH.len())
                .is_some_and(|name| name.eq_ignore_ascii_case(LENGTH))
        })
        .and_then(|line| {
            std::str::from_utf8(&line[LENGTH.len()..])
                .ok()?
                .trim()
                .parse()
                .ok()
        })
        .ok_or_else(|| String::from("an answer without content-length"))?;
    Ok(Some((end + 4, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_whole() {
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\ncontent-"), Ok(None));
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(parse_head(whole), Ok(Some((38, 5))));
        assert!(parse_head(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }

    #[test]
    fn answers_are_whole_in_any_pieces() {
        let text = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        for size in 1..=text.len() {
            let mut answer = Answer {
                lane: Some(7),
                ..Answer::default()
            };
            let mut done = Vec::new();
            for piece in text.chunks(size) {
                assert_eq!(done, []);
                answer.take_in(piece, &mut done);
            }
            assert_eq!(done, [(7, Ok(()))], "in pieces of {size}");
        }
    }
}
