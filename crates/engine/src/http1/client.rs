//! The client's side of a connection.

use std::ops::Range;

use super::chunked::{Chunked, Step};
use super::config::{Limits, Underscores};
use super::fields::{BadField, BadFraming, BodyLength, FieldReader, Section};
use super::hop;
use super::lines::{Line, Lines, without_cr};
use super::refusal::ResponseError;
use super::request_line::Version;
use super::write::{self, BodyWriter, WriteError};
use super::{Received, release};
use crate::head::Head;

/// What came from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// An informational response, other than 101: see [`Client::head`]. The response is still to come.
    Informational,
    /// The response: see [`Client::head`] and [`Client::response`]. 101 switches protocols.
    Head,
    /// Body: these bytes of the input.
    Body(Range<usize>),
    /// Trailers: see [`Client::trailers`].
    Trailers,
    /// The response is complete; see [`Client::is_reusable`].
    End,
    /// After a switch of protocols: these bytes of the input, which are not HTTP's any more.
    Raw(Range<usize>),
    /// All the input is consumed.
    NeedMore,
    /// The response can't be used, nor can the connection.
    Failed(ResponseError),
}

/// What is to know of a response besides its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseInfo {
    /// How long its body is on the wire: [`None`](BodyLength::None) if there is none. A body that ends with the connection is
    /// [`Chunked`](BodyLength::Chunked), as it is passed on.
    pub body: BodyLength,
    /// Whether the server wants the connection to last.
    pub keep_alive: bool,
}

/// The client's side of one connection: one request at a time.
///
/// [`send`](Self::send) a head, any number of [`write`](Self::write), one [`finish`](Self::finish), and meanwhile give it what
/// came with [`recv`](Self::recv). Bytes that are left when a response has ended, and those that come while nothing is asked,
/// are to be given too: they make the connection unusable, for nobody knows whose answer they are.
///
/// ```text
/// Idle -(send)-> Start -> Fields -> Body -> Trailers -> Ending -> Idle
///                  ^---------'(1xx)`-(101)-> Raw
/// ```
#[derive(Debug)]
pub struct Client {
    limits: Limits,
    read: Read,
    lines: Lines,
    fields: FieldReader,
    head: Head,
    trailers: Option<Box<Head>>,
    asked: Asked,
    asked_upgrade: bool,
    version: Version,
    response: ResponseInfo,
    informational: u8,
    writer: BodyWriter,
    /// Whether the request is not complete yet.
    writing: bool,
    close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Idle,
    Start,
    Fields,
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Trailers,
    /// The end is to be told.
    Ending,
    Raw,
    Failed(ResponseError),
}

/// What the request was, as far as its response depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Head,
    Connect,
    Other,
}

impl Client {
    /// A connection that has just been made.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            read: Read::Idle,
            lines: Lines::default(),
            fields: FieldReader::new(Section::Head, &limits, Underscores::Allow),
            head: Head::new(),
            trailers: None,
            asked: Asked::Other,
            asked_upgrade: false,
            version: Version::Http11,
            response: ResponseInfo::NONE,
            informational: 0,
            writer: BodyWriter::default(),
            writing: false,
            close: false,
        }
    }

    /// Begins a request. It asks for an upgrade if the head has `upgrade`, and `connection` that says so.
    ///
    /// What frames the message is written from `body`, never from the head: a `content-length` of the head only says where.
    ///
    /// # Errors
    /// When the connection isn't [reusable](Self::is_reusable), or the head can't be written; nothing is written then.
    pub fn send(
        &mut self,
        head: &Head,
        body: BodyLength,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        if !self.is_reusable() {
            return Err(WriteError::OutOfTurn);
        }
        let wants_upgrade = head.get(b"upgrade").is_some_and(|to| !to.is_empty())
            && hop::response_wishes(head).upgrade;
        let connection = if wants_upgrade {
            write::Connection::Switch
        } else {
            write::Connection::Silent
        };
        self.writer = write::request(head, body, connection, out)?;
        self.asked = match head.method() {
            Some(b"HEAD") => Asked::Head,
            Some(b"CONNECT") => Asked::Connect,
            _ => Asked::Other,
        };
        self.asked_upgrade = wants_upgrade && self.asked != Asked::Connect;
        self.writing = self.asked != Asked::Connect;
        self.informational = 0;
        self.begin();
        Ok(())
    }

    /// Writes some of the request's body; after a switch, raw bytes.
    ///
    /// # Errors
    /// When there is no request under way, or more than it was said to have.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.writer.write(data, out)
    }

    /// Writes what comes in front of `len` bytes of body that the caller puts behind it; [`write_after`](Self::write_after)
    /// goes behind those.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.writer.before(len, out)
    }

    /// See [`write_before`](Self::write_before).
    pub fn write_after(&mut self, len: usize, out: &mut Vec<u8>) {
        self.writer.after(len, out);
    }

    /// Ends the request. `trailers` are written if it is in chunks.
    ///
    /// # Errors
    /// When no request is under way, or it had fewer bytes than it said: then the connection has to be closed.
    pub fn finish(&mut self, trailers: Option<&Head>, out: &mut Vec<u8>) -> Result<(), WriteError> {
        if !self.writing {
            return Err(WriteError::OutOfTurn);
        }
        if let Err(e) = self.writer.finish(trailers, out) {
            self.close = true;
            return Err(e);
        }
        self.writing = false;
        if self.read == Read::Raw {
            self.writer = BodyWriter::Raw;
        }
        Ok(())
    }

    /// Takes what came from the server. `input` begins with the first byte that wasn't consumed yet; ranges are within it.
    pub fn recv(&mut self, input: &[u8]) -> Received<ClientEvent> {
        let mut at = 0;
        let event = match self.step(input, &mut at) {
            Ok(event) => event,
            Err(error) => self.fail(error),
        };
        Received {
            consumed: at,
            event,
        }
    }

    /// Says that nothing more comes: [`End`](ClientEvent::End) of a body or of raw bytes that end so, else a failure.
    pub fn eof(&mut self) -> ClientEvent {
        self.close = true;
        match self.read {
            Read::UntilClose | Read::Ending | Read::Raw => {
                self.read = Read::Idle;
                ClientEvent::End
            }
            Read::Idle => self.fail(ResponseError::Closed),
            Read::Start if self.informational == 0 && !self.lines.is_amid() => {
                self.fail(ResponseError::Closed)
            }
            Read::Start | Read::Fields | Read::Length(_) | Read::Chunked(_) | Read::Trailers => {
                self.fail(ResponseError::Truncated)
            }
            Read::Failed(error) => ClientEvent::Failed(error),
        }
    }

    /// Whether another request may be sent: all of the last one and of its response is past, both sides want the connection to
    /// last, and nothing came unasked.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.read == Read::Idle && !self.writing && !self.close
    }

    /// Whether all of the response has come; its [`End`](ClientEvent::End), if that was not told yet, is told by this.
    pub fn is_past(&mut self) -> bool {
        if self.read == Read::Ending {
            self.read = Read::Idle;
        }
        self.read == Read::Idle
    }

    /// The head of the response.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head of the response, to be exchanged with one that the caller keeps, or changed.
    pub fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// What else is to know of the response.
    #[must_use]
    pub fn response(&self) -> &ResponseInfo {
        &self.response
    }

    /// The trailers of the response, empty until they are complete.
    #[must_use]
    pub fn trailers(&self) -> Option<&Head> {
        self.trailers.as_deref()
    }

    /// Gives memory back, as far as nothing is in it.
    pub fn release(&mut self) {
        self.lines.release();
        if self.read == Read::Idle {
            self.trailers = None;
            release(&mut self.head);
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<ClientEvent, ResponseError> {
        loop {
            match self.read {
                Read::Idle if input.len() > *at => return Err(ResponseError::Unasked),
                Read::Idle => return Ok(ClientEvent::NeedMore),
                Read::Start => match self.lines.next(input, at, self.fields.budget()) {
                    Line::Whole(line) => {
                        let (line, _) = without_cr(line);
                        self.head.clear();
                        self.fields.spend(line.len())?;
                        let (version, status) = read_status_line(line)?;
                        self.version = version;
                        self.head.set_status(status);
                        self.read = Read::Fields;
                    }
                    Line::Part(line) if may_begin(line) => return Ok(ClientEvent::NeedMore),
                    Line::Part(_) | Line::TooLong(_) => return Err(ResponseError::StatusLine),
                },
                Read::Fields => return self.field_lines(input, at),
                Read::Length(left) => {
                    let rest = input.len() - *at;
                    if rest == 0 {
                        return Ok(ClientEvent::NeedMore);
                    }
                    let len = (rest as u64).min(left);
                    self.read = match left - len {
                        0 => Read::Ending,
                        left => Read::Length(left),
                    };
                    let range = *at..*at + len as usize;
                    *at = range.end;
                    return Ok(ClientEvent::Body(range));
                }
                Read::Chunked(ref mut chunked) => match chunked.step(&input[*at..]) {
                    Ok(Step::Data(range)) => {
                        let range = *at + range.start..*at + range.end;
                        *at = range.end;
                        return Ok(ClientEvent::Body(range));
                    }
                    Ok(Step::Last(consumed)) => {
                        *at += consumed;
                        self.begin_trailers();
                    }
                    Ok(Step::More) => {
                        *at = input.len();
                        return Ok(ClientEvent::NeedMore);
                    }
                    Err(_) => return Err(ResponseError::Chunk),
                },
                Read::Trailers => return self.trailer_lines(input, at),
                Read::Ending => {
                    self.read = Read::Idle;
                    return Ok(ClientEvent::End);
                }
                Read::UntilClose | Read::Raw => {
                    let range = *at..input.len();
                    *at = input.len();
                    return Ok(match self.read {
                        _ if range.is_empty() => ClientEvent::NeedMore,
                        Read::Raw => ClientEvent::Raw(range),
                        _ => ClientEvent::Body(range),
                    });
                }
                Read::Failed(error) => {
                    *at = input.len();
                    return Ok(ClientEvent::Failed(error));
                }
            }
        }
    }

    fn field_lines(&mut self, input: &[u8], at: &mut usize) -> Result<ClientEvent, ResponseError> {
        if self.lines.is_between() {
            *at += self.fields.plain_lines(&input[*at..], &mut self.head);
        }
        loop {
            match self.lines.next(input, at, self.fields.budget()) {
                Line::Whole(line) => {
                    if self.fields.line(line, &mut self.head)? {
                        return self.complete_head();
                    }
                }
                Line::Part(_) => return Ok(ClientEvent::NeedMore),
                Line::TooLong(_) => return Err(ResponseError::TooLarge),
            }
        }
    }

    /// Decides what a whole head says.
    fn complete_head(&mut self) -> Result<ClientEvent, ResponseError> {
        let notes = *self.fields.notes();
        let status = self.head.status().ok_or(ResponseError::Status)?;
        let length = notes.body_length(&mut self.head)?;
        if notes.is_split() {
            return Err(ResponseError::Field);
        }
        let is_http10 = self.version == Version::Http10;
        if is_http10 && length == Some(BodyLength::Chunked) {
            return Err(ResponseError::TransferEncoding);
        }
        let wishes = if notes.has_hop_by_hop() {
            hop::response_wishes(&self.head)
        } else {
            hop::Wishes::default()
        };
        if status < 200 || status == 204 {
            match length {
                None => {}
                Some(BodyLength::None | BodyLength::Length(0)) => {
                    self.head.remove(b"content-length");
                    self.head.content_length = None;
                }
                Some(BodyLength::Length(_) | BodyLength::Chunked) => {
                    return Err(ResponseError::BodyNotAllowed);
                }
            }
        }
        let switches = status == 101;
        if switches && !(self.asked_upgrade && notes.has_upgrade()) {
            return Err(ResponseError::Switch);
        }
        if notes.has_hop_by_hop() {
            hop::strip_response(&mut self.head, switches);
        }
        if status < 200 && !switches {
            self.informational += 1;
            if self.informational > self.limits.informational {
                return Err(ResponseError::TooManyInformational);
            }
            self.begin();
            return Ok(ClientEvent::Informational);
        }
        self.response.keep_alive = !wishes.close && (!is_http10 || wishes.keep_alive);
        self.close |= !self.response.keep_alive;
        self.take_body(status, length);
        Ok(ClientEvent::Head)
    }

    /// How the body comes, if one does.
    fn take_body(&mut self, status: u16, length: Option<BodyLength>) {
        let tunnel = self.asked == Asked::Connect && (200..300).contains(&status);
        let bodiless = self.asked == Asked::Head || status == 204 || status == 304;
        (self.response.body, self.read) = match length {
            _ if tunnel || status == 101 => {
                self.close = true;
                if !self.writing {
                    self.writer = BodyWriter::Raw;
                }
                (BodyLength::None, Read::Raw)
            }
            _ if bodiless => (BodyLength::None, Read::Ending),
            Some(BodyLength::None | BodyLength::Length(0)) => (BodyLength::Length(0), Read::Ending),
            Some(BodyLength::Length(length)) => (BodyLength::Length(length), Read::Length(length)),
            Some(BodyLength::Chunked) => {
                let chunked = Chunked::new(self.limits.chunk_extension_bytes);
                (BodyLength::Chunked, Read::Chunked(chunked))
            }
            None => {
                self.close = true;
                (BodyLength::Chunked, Read::UntilClose)
            }
        };
    }

    fn begin_trailers(&mut self) {
        self.fields = FieldReader::new(Section::Trailers, &self.limits, Underscores::Allow);
        self.read = Read::Trailers;
    }

    fn trailer_lines(
        &mut self,
        input: &[u8],
        at: &mut usize,
    ) -> Result<ClientEvent, ResponseError> {
        loop {
            match self.lines.next(input, at, self.fields.budget()) {
                Line::Whole(b"\r") => break,
                Line::Whole(line) => {
                    let trailers = self.trailers.get_or_insert_default();
                    self.fields.line(line, trailers)?;
                }
                Line::Part(_) => return Ok(ClientEvent::NeedMore),
                Line::TooLong(_) => return Err(ResponseError::TooLarge),
            }
        }
        self.read = Read::Ending;
        match &self.trailers {
            Some(trailers) if trailers.field_count() > 0 => Ok(ClientEvent::Trailers),
            Some(_) | None => self.step(input, at),
        }
    }

    #[cold]
    fn fail(&mut self, error: ResponseError) -> ClientEvent {
        self.read = Read::Failed(error);
        self.close = true;
        ClientEvent::Failed(error)
    }

    /// Begins to read a head.
    fn begin(&mut self) {
        self.read = Read::Start;
        self.fields = FieldReader::new(Section::Head, &self.limits, Underscores::Allow);
        if let Some(trailers) = &mut self.trailers {
            trailers.clear();
        }
    }
}

impl ResponseInfo {
    const NONE: Self = Self {
        body: BodyLength::None,
        keep_alive: true,
    };
}

/// Whether a line that has begun like that can be a status line.
fn may_begin(line: &[u8]) -> bool {
    const VERSION: &[u8] = b"HTTP/1.";
    let shown = line.len().min(VERSION.len());
    line[..shown] == VERSION[..shown]
}

/// Reads a status line without its end. The reason phrase is checked and forgotten.
fn read_status_line(line: &[u8]) -> Result<(Version, u16), ResponseError> {
    let (version, rest) = line.split_at_checked(9).ok_or(ResponseError::StatusLine)?;
    let version = match version {
        b"HTTP/1.0 " => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9', b' '] => Version::Http11,
        _ => return Err(ResponseError::StatusLine),
    };
    let (&[a, b, c], phrase) = rest
        .split_first_chunk::<3>()
        .ok_or(ResponseError::StatusLine)?;
    if ![a, b, c].iter().all(u8::is_ascii_digit) || !matches!(phrase.first(), None | Some(b' ')) {
        return Err(ResponseError::StatusLine);
    }
    if !super::chars::is_clean(phrase) {
        return Err(ResponseError::StatusLine);
    }
    let status = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match status {
        100..=104 | 200.. => Ok((version, status)),
        _ => Err(ResponseError::Status),
    }
}

impl From<BadField> for ResponseError {
    fn from(bad: BadField) -> Self {
        match bad {
            BadField::Syntax | BadField::Underscore => Self::Field,
            BadField::Characters => Self::Characters,
            BadField::TooLarge => Self::TooLarge,
            BadField::TooMany => Self::TooManyFields,
        }
    }
}

impl From<BadFraming> for ResponseError {
    fn from(bad: BadFraming) -> Self {
        match bad {
            BadFraming::ContentLength => Self::ContentLength,
            BadFraming::Ambiguous => Self::AmbiguousLength,
            BadFraming::TransferEncoding => Self::TransferEncoding,
        }
    }
}
