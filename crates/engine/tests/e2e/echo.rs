//! What the test servers do with requests: an echo and a greeting.

use std::collections::HashMap;
use std::time::Instant;

use waymark_engine::h2::{Connection, ConnectionError, End, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

/// What every path but `/echo` says.
pub(crate) const GREETING: &[u8] = b"hello from the engine\n";

/// The answers that are under way.
#[derive(Default)]
pub(crate) struct Echo {
    answers: HashMap<StreamRef, Answer>,
}

/// What of an answer is still to be sent.
#[derive(Default)]
struct Answer {
    body: Vec<u8>,
    /// Whether nothing is added to it any more.
    complete: bool,
    trailers: Option<Head>,
    /// Whether the body is what the peer sent, which is to be consumed.
    echoes: bool,
}

impl Echo {
    /// Handles what came and sends what can be sent.
    pub(crate) fn turn(
        &mut self,
        conn: &mut Connection,
        mut input: &[u8],
        out: &mut WriteBuf,
    ) -> Result<(), ConnectionError> {
        while let Some(event) = conn.recv(&mut input, out, Instant::now())? {
            if let Some(stream) = self.on_event(conn, event, out) {
                self.flush(conn, stream, out);
            }
        }
        Ok(())
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.answers.is_empty()
    }

    /// Returns the stream that may be able to go on.
    fn on_event(
        &mut self,
        conn: &mut Connection,
        event: Event<'_>,
        out: &mut WriteBuf,
    ) -> Option<StreamRef> {
        match event {
            Event::Head { stream, end } => {
                let answer = self.answers.entry(stream).or_default();
                answer.echoes = conn.head().path() == Some(b"/echo");
                let mut head = Head::response(200);
                for field in conn.head().fields().filter(|f| f.name.starts_with(b"x-")) {
                    head.push(field);
                }
                head.push(Field::new(b"server", b"waymark"));
                if answer.echoes || end {
                    let _ = conn.send_response(stream, head.wire_fields(), End::No, out);
                }
                answer.end(end);
                Some(stream)
            }
            Event::Data { stream, data, end } => {
                let answer = self.answers.get_mut(&stream)?;
                if answer.echoes {
                    answer.body.extend_from_slice(data);
                } else {
                    conn.consume(stream, data.len(), out);
                    if end {
                        let head = Head::response(200);
                        let _ = conn.send_response(stream, head.wire_fields(), End::No, out);
                    }
                }
                answer.end(end);
                Some(stream)
            }
            Event::Trailers { stream } => {
                let answer = self.answers.get_mut(&stream)?;
                if answer.echoes {
                    let mut trailers = Head::new();
                    conn.swap_head(&mut trailers);
                    answer.trailers = Some(trailers);
                } else {
                    let head = Head::response(200);
                    let _ = conn.send_response(stream, head.wire_fields(), End::No, out);
                }
                answer.end(true);
                Some(stream)
            }
            Event::Reset { stream, .. } => {
                self.answers.remove(&stream);
                None
            }
            Event::Writable { stream } => Some(stream),
            Event::Informational { .. }
            | Event::Settings
            | Event::Pong { .. }
            | Event::GoAway { .. } => None,
        }
    }

    fn flush(&mut self, conn: &mut Connection, stream: StreamRef, out: &mut WriteBuf) {
        let Some(answer) = self.answers.get_mut(&stream) else {
            return;
        };
        let end = End::from(answer.complete && answer.trailers.is_none());
        if !answer.body.is_empty() || end == End::Yes {
            let sent = conn
                .send_data(stream, &answer.body, end, out)
                .unwrap_or(answer.body.len());
            if answer.echoes {
                conn.consume(stream, sent, out);
            }
            answer.body.drain(..sent);
        }
        if answer.complete && answer.body.is_empty() {
            if let Some(trailers) = &answer.trailers {
                let _ = conn.send_trailers(stream, trailers.wire_fields(), out);
            }
            self.answers.remove(&stream);
        }
    }
}

impl Answer {
    fn end(&mut self, end: bool) {
        if end {
            self.complete = true;
            if !self.echoes {
                self.body = GREETING.to_vec();
            }
        }
    }
}
