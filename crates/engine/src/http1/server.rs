//! The server's side of a connection.

use std::ops::Range;
use std::sync::Arc;

use super::chunked::{Chunked, Step};
use super::config::{Http10, ServerConfig, Underscores};
use super::fields::{BadField, BadFraming, BodyLength, FieldReader, Section};
use super::hop;
use super::lines::{Line, Lines};
use super::refusal::{Refusal, ReplyKind};
use super::request_line::{self, TargetForm, Version};
use super::write::{self, BodyWriter, WriteError};
use super::{Received, release};
use crate::head::Head;

/// What came from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// A request: see [`Server::head`] and [`Server::request`].
    Head,
    /// A request, or what should have been one, that must be answered with what the refusal says. If it
    /// [`closes`](Refusal::closes), nothing more is read; else its body still comes.
    ///
    /// It may come amid a body. If the response is under way then, only closing is left.
    Refused(Refusal),
    /// Body: these bytes of the input.
    Body(Range<usize>),
    /// Trailers: see [`Server::trailers`].
    Trailers,
    /// The request is complete.
    End,
    /// After a switch of protocols: these bytes of the input, which are not HTTP's any more.
    Raw(Range<usize>),
    /// All the input is consumed.
    NeedMore,
    /// The request is complete and its response isn't: what the client sent ahead stays where it is.
    Busy,
    /// Nothing is read any more.
    Closed,
}

/// How a client's end of sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerEof {
    /// Between requests, or in raw bytes.
    Clean,
    /// While its request, complete, is being answered.
    HalfClosed,
    /// Amid a request.
    Truncated,
}

/// What becomes of the connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It reads the next request.
    KeepAlive,
    /// It is to be closed, when all is written.
    Close,
}

/// What is to know of a request besides its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    /// The version of its request line.
    pub version: Version,
    /// How long its body is.
    pub body: BodyLength,
    /// Whether the client wants the connection to last.
    pub keep_alive: bool,
    /// Whether it wants to change to the protocol in `upgrade`; the head keeps that and `connection`.
    pub upgrade: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the method is HEAD.
    pub is_head: bool,
}

/// The server's side of one connection.
///
/// Give it what came with [`recv`](Self::recv) until it says [`NeedMore`](ServerEvent::NeedMore), `Busy` or `Closed`; answer
/// each [`Head`](ServerEvent::Head) with [`respond`](Self::respond), any number of [`write`](Self::write) and one
/// [`finish`](Self::finish), after which what was kept back is given again.
///
/// ```text
/// Start -> Fields -> Body -> Trailers -> Ending -> Waiting -(finish)-> Start
///                  `-----------------------^          `-(101)-> Raw
/// ```
#[derive(Debug)]
pub struct Server {
    config: Arc<ServerConfig>,
    read: Read,
    lines: Lines,
    fields: FieldReader,
    head: Head,
    trailers: Option<Box<Head>>,
    form: TargetForm,
    request: RequestInfo,
    writer: BodyWriter,
    response: Response,
    close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Start,
    Fields,
    Length(u64),
    Chunked(Chunked),
    Trailers,
    /// The end is to be told.
    Ending,
    Waiting,
    Raw,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    /// Nothing to answer yet.
    None,
    Expected,
    Started,
    /// Finished before the request was.
    Switched,
}

impl Server {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>) -> Self {
        let fields = FieldReader::new(Section::Head, &config.limits, config.underscores);
        Self {
            config,
            read: Read::Start,
            lines: Lines::default(),
            fields,
            head: Head::new(),
            trailers: None,
            form: TargetForm::Origin,
            request: RequestInfo::NONE,
            writer: BodyWriter::default(),
            response: Response::None,
            close: false,
        }
    }

    /// Takes what came from the client. `input` begins with the first byte that wasn't consumed yet; ranges are within it.
    pub fn recv(&mut self, input: &[u8]) -> Received<ServerEvent> {
        let mut at = 0;
        match self.step(input, &mut at) {
            Ok(event) => Received {
                consumed: at,
                event,
            },
            Err(refusal) => Received {
                consumed: at,
                event: self.refuse(refusal),
            },
        }
    }

    /// Says that nothing more comes.
    pub fn eof(&mut self) -> ServerEof {
        match self.read {
            Read::Start if !self.lines.is_amid() => {
                self.read = Read::Closed;
                ServerEof::Clean
            }
            Read::Raw | Read::Closed => ServerEof::Clean,
            Read::Ending | Read::Waiting => {
                self.close = true;
                ServerEof::HalfClosed
            }
            Read::Start | Read::Fields | Read::Length(_) | Read::Chunked(_) | Read::Trailers => {
                self.read = Read::Closed;
                self.close = true;
                ServerEof::Truncated
            }
        }
    }

    /// Begins the response. `status` of the head is a final one; 101 switches protocols.
    ///
    /// What frames the message is written from `body`, never from the head: a `content-length` of the head only says where.
    ///
    /// # Errors
    /// When there is nothing to answer, or the head can't be written; nothing is written then.
    pub fn respond(
        &mut self,
        head: &Head,
        body: BodyLength,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        if self.response != Response::Expected {
            return Err(WriteError::OutOfTurn);
        }
        let status = head.status().ok_or(WriteError::Head)?;
        let switches = status == 101;
        if (status < 200 && !switches) || (switches && !self.request.upgrade) {
            return Err(WriteError::Head);
        }
        let reading = !matches!(self.read, Read::Ending | Read::Waiting);
        let refused_upgrade = self.request.upgrade && !switches;
        let is_http10 = self.request.version == Version::Http10;
        let endless = is_http10 && body == BodyLength::Chunked && !self.request.is_head;
        let close = self.close || !self.request.keep_alive || refused_upgrade || endless;
        let connection = if switches {
            write::Connection::Switch
        } else if close {
            write::Connection::Close
        } else if is_http10 {
            write::Connection::KeepAlive
        } else {
            write::Connection::Silent
        };
        self.writer = write::response(
            &write::ResponseLine {
                status,
                version: self.request.version,
                is_head: self.request.is_head,
            },
            head,
            body,
            connection,
            out,
        )?;
        self.close = close;
        self.response = if switches {
            if !reading {
                self.read = Read::Raw;
            }
            Response::Switched
        } else {
            Response::Started
        };
        Ok(())
    }

    /// Writes an informational response, other than 101, before the response. Clients of HTTP/1.0 don't get it.
    ///
    /// # Errors
    /// When the response has begun or is over, or the head can't be written; nothing is written then.
    pub fn inform(&mut self, head: &Head, out: &mut Vec<u8>) -> Result<(), WriteError> {
        if self.response != Response::Expected {
            return Err(WriteError::OutOfTurn);
        }
        let status = head.status().ok_or(WriteError::Head)?;
        if !(100..200).contains(&status) || status == 101 {
            return Err(WriteError::Head);
        }
        if self.request.version == Version::Http10 {
            return Ok(());
        }
        let line = write::ResponseLine {
            status,
            version: Version::Http11,
            is_head: false,
        };
        write::response(
            &line,
            head,
            BodyLength::None,
            write::Connection::Silent,
            out,
        )
        .map(drop)
    }

    /// Writes some of the response's body; after a switch, raw bytes.
    ///
    /// # Errors
    /// When there is no response under way, or more than it was said to have.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.writer.write(data, out)
    }

    /// Writes what comes in front of `len` bytes of body that the caller puts behind it; [`write_after`](Self::write_after)
    /// goes behind those.
    ///
    /// # Errors
    /// As [`write`](Self::write). With [`WriteError::NoBody`] the bytes are to be left out.
    pub fn write_before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.writer.before(len, out)
    }

    /// See [`write_before`](Self::write_before).
    pub fn write_after(&mut self, len: usize, out: &mut Vec<u8>) {
        self.writer.after(len, out);
    }

    /// Ends the response. `trailers` are written if it is in chunks. Of a request that was complete but for being told so, no
    /// [`End`](ServerEvent::End) comes any more; one that was not complete isn't read on.
    ///
    /// # Errors
    /// When no response is under way, or it had fewer bytes than it said: then the connection has to be closed.
    pub fn finish(
        &mut self,
        trailers: Option<&Head>,
        out: &mut Vec<u8>,
    ) -> Result<After, WriteError> {
        if self.response != Response::Started {
            return Err(WriteError::OutOfTurn);
        }
        if let Err(e) = self.writer.finish(trailers, out) {
            self.shut();
            return Err(e);
        }
        self.response = Response::None;
        // What is left of a request that nobody wants any more is not read: it could be endless.
        let complete = matches!(self.read, Read::Ending | Read::Waiting);
        if self.close || !complete {
            self.shut();
            return Ok(After::Close);
        }
        self.begin();
        Ok(After::KeepAlive)
    }

    /// Writes the whole answer that a refusal asks for, `date` and `server` being the values of those fields.
    ///
    /// # Errors
    /// When a response is under way already: the connection has to be closed.
    pub fn answer(
        &mut self,
        refusal: Refusal,
        date: &[u8],
        server: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<After, WriteError> {
        use crate::head::Field;
        self.close |= refusal.closes();
        let body = refusal.body().as_bytes();
        let mut head = Head::response(refusal.status());
        if refusal.kind() == ReplyKind::Codec {
            head.push(Field::new(b"content-length", b"")); // here; the number is written from the body
            head.push(Field::new(b"content-type", b"text/plain"));
        }
        head.push(Field::new(b"date", date));
        head.push(Field::new(b"server", server));
        self.respond(&head, BodyLength::Length(body.len() as u64), out)?;
        match self.write(body, out) {
            Ok(()) | Err(WriteError::NoBody) => {}
            Err(e) => return Err(e),
        }
        self.finish(None, out)
    }

    /// Gives up on a request whose head is not complete: it can be answered then, and nothing more is read.
    pub fn give_up(&mut self) {
        if matches!(self.read, Read::Start | Read::Fields) {
            self.head.clear();
            self.request = RequestInfo::NONE;
            self.read = Read::Closed;
            self.close = true;
            self.response = Response::Expected;
        }
    }

    /// Closes the connection after the response; if that has not begun, it says so.
    pub fn close_after_response(&mut self) {
        self.close = true;
    }

    /// The head of the request.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head of the request, to be exchanged with one that the caller keeps, or changed.
    pub fn head_mut(&mut self) -> &mut Head {
        &mut self.head
    }

    /// What else is to know of the request.
    #[must_use]
    pub fn request(&self) -> &RequestInfo {
        &self.request
    }

    /// The trailers of the request, empty until they are complete.
    #[must_use]
    pub fn trailers(&self) -> Option<&Head> {
        self.trailers.as_deref()
    }

    /// Whether all of the request has come: its [`End`](ServerEvent::End) is told, or is all that there is to tell.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self.read, Read::Ending | Read::Waiting)
    }

    /// Whether nothing is under way, so that the connection may be closed without harm.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.read == Read::Start && !self.lines.is_amid()
    }

    /// Gives memory back, as far as nothing is in it.
    pub fn release(&mut self) {
        self.lines.release();
        if self.is_idle() {
            self.trailers = None;
            release(&mut self.head);
        }
    }

    fn step(&mut self, input: &[u8], at: &mut usize) -> Result<ServerEvent, Refusal> {
        loop {
            match self.read {
                Read::Start => {
                    if !self.request_line(input, at)? {
                        return Ok(ServerEvent::NeedMore);
                    }
                }
                Read::Fields => return self.field_lines(input, at),
                Read::Length(left) => {
                    let rest = input.len() - *at;
                    if rest == 0 {
                        return Ok(ServerEvent::NeedMore);
                    }
                    let len = (rest as u64).min(left);
                    self.read = match left - len {
                        0 => Read::Ending,
                        left => Read::Length(left),
                    };
                    let range = *at..*at + len as usize;
                    *at = range.end;
                    return Ok(ServerEvent::Body(range));
                }
                Read::Chunked(ref mut chunked) => match chunked.step(&input[*at..]) {
                    Ok(Step::Data(range)) => {
                        let range = *at + range.start..*at + range.end;
                        *at = range.end;
                        return Ok(ServerEvent::Body(range));
                    }
                    Ok(Step::Last(consumed)) => {
                        *at += consumed;
                        self.begin_trailers();
                    }
                    Ok(Step::More) => {
                        *at = input.len();
                        return Ok(ServerEvent::NeedMore);
                    }
                    Err(_) => return Err(Refusal::Chunk),
                },
                Read::Trailers => return self.trailer_lines(input, at),
                Read::Ending => {
                    self.read = if self.response == Response::Switched {
                        Read::Raw
                    } else {
                        Read::Waiting
                    };
                    return Ok(ServerEvent::End);
                }
                Read::Waiting => return Ok(ServerEvent::Busy),
                Read::Raw => {
                    let range = *at..input.len();
                    *at = input.len();
                    return Ok(if range.is_empty() {
                        ServerEvent::NeedMore
                    } else {
                        ServerEvent::Raw(range)
                    });
                }
                Read::Closed => {
                    *at = input.len();
                    return Ok(ServerEvent::Closed);
                }
            }
        }
    }

    /// Reads the request line and the empty ones in front of it. Whether there was one.
    fn request_line(&mut self, input: &[u8], at: &mut usize) -> Result<bool, Refusal> {
        loop {
            let budget = self.fields.budget();
            let line = match self.lines.next(input, at, budget) {
                Line::Whole(line) => line,
                Line::Part(line) if request_line::may_begin(line) => return Ok(false),
                Line::TooLong(line) if request_line::may_begin(line) => {
                    return Err(Refusal::TooLarge);
                }
                Line::Part(_) | Line::TooLong(_) => return Err(Refusal::Method),
            };
            let (line, _) = super::lines::without_cr(line);
            if line.is_empty() {
                self.fields.spend(1)?;
                continue;
            }
            self.head.clear();
            self.request = RequestInfo::NONE;
            self.fields.spend(line.len())?;
            let (version, form) = request_line::read(line, &mut self.head)?;
            if version == Version::Http10 && self.config.http10 == Http10::Refuse {
                return Err(Refusal::LowVersion);
            }
            self.request.version = version;
            self.request.is_head = self.head.method() == Some(b"HEAD");
            self.form = form;
            self.read = Read::Fields;
            return Ok(true);
        }
    }

    fn field_lines(&mut self, input: &[u8], at: &mut usize) -> Result<ServerEvent, Refusal> {
        if self.lines.is_between() {
            *at += self.fields.plain_lines(&input[*at..], &mut self.head);
        }
        loop {
            match self.lines.next(input, at, self.fields.budget()) {
                Line::Whole(line) => {
                    if self.fields.line(line, &mut self.head)? {
                        break;
                    }
                }
                Line::Part(_) => return Ok(ServerEvent::NeedMore),
                Line::TooLong(_) => return Err(Refusal::TooLarge),
            }
        }
        match self.complete_head() {
            Ok(()) => Ok(ServerEvent::Head),
            Err(refusal) if refusal.closes() => Err(refusal),
            Err(refusal) => {
                self.config.refusals.count(refusal);
                Ok(ServerEvent::Refused(refusal))
            }
        }
    }

    /// Decides what a whole head says: first what is no request, then what is one that nobody may have.
    fn complete_head(&mut self) -> Result<(), Refusal> {
        let notes = *self.fields.notes();
        let host = notes.host().map_err(|_| Refusal::RepeatedHost)?;
        if let Some(host) = host
            && !super::chars::is_authority(self.head.field(host).value)
        {
            return Err(Refusal::Authority);
        }
        let length = notes.body_length(&mut self.head)?;
        if notes.is_split() {
            return Err(Refusal::Field);
        }
        let body = length.unwrap_or(BodyLength::None);
        let is_http10 = self.request.version == Version::Http10;
        if is_http10 && body == BodyLength::Chunked {
            return Err(Refusal::TransferEncoding);
        }
        let wishes = if notes.has_hop_by_hop() {
            hop::request_wishes(&self.head).map_err(|_| Refusal::Connection)?
        } else {
            hop::Wishes::default()
        };
        self.request.body = body;
        self.request.keep_alive = !wishes.close && (!is_http10 || wishes.keep_alive);
        self.request.expects_continue = !is_http10 && notes.expects_continue(&self.head);
        self.request.upgrade = !is_http10 && hop::wants_upgrade(&self.head, &notes, wishes);
        self.read = match body {
            BodyLength::None | BodyLength::Length(0) => Read::Ending,
            BodyLength::Length(length) => Read::Length(length),
            BodyLength::Chunked => {
                Read::Chunked(Chunked::new(self.config.limits.chunk_extension_bytes))
            }
        };
        self.response = Response::Expected;

        match (host, self.form) {
            (Some(host), TargetForm::Absolute | TargetForm::AbsoluteWithoutPath) => {
                self.head.fields.remove(host);
            }
            (Some(host), TargetForm::Authority) => {
                self.head.fields.remove(host);
            }
            (Some(host), TargetForm::Origin | TargetForm::Asterisk) => {
                self.head.move_to_authority(host);
            }
            (None, _) => {}
        }
        if wishes.nominates_host {
            return Err(Refusal::MissingHost);
        }
        if self.head.authority().is_none() {
            match &self.config.http10 {
                Http10::Accept {
                    default_host: Some(host),
                } if is_http10 => self.head.set_authority(host.as_bytes()),
                Http10::Accept { .. } | Http10::Refuse => return Err(Refusal::MissingHost),
            }
        }
        if notes.has_hop_by_hop() {
            hop::strip_request(&mut self.head, wishes, self.request.upgrade);
        }
        match self.form {
            TargetForm::Authority => Err(Refusal::Connect),
            TargetForm::Asterisk | TargetForm::AbsoluteWithoutPath => Err(Refusal::AbsolutePath),
            TargetForm::Origin | TargetForm::Absolute
                if self.head.method() == Some(b"QUERY")
                    && self.head.get(b"content-type").is_none() =>
            {
                Err(Refusal::QueryContentType)
            }
            TargetForm::Origin | TargetForm::Absolute => Ok(()),
        }
    }

    fn begin_trailers(&mut self) {
        let limits = &self.config.limits;
        self.fields = FieldReader::new(Section::Trailers, limits, Underscores::Allow);
        if let Some(trailers) = &mut self.trailers {
            trailers.clear();
        }
        self.read = Read::Trailers;
    }

    fn trailer_lines(&mut self, input: &[u8], at: &mut usize) -> Result<ServerEvent, Refusal> {
        loop {
            match self.lines.next(input, at, self.fields.budget()) {
                Line::Whole(b"\r") => break,
                Line::Whole(line) => {
                    let trailers = self.trailers.get_or_insert_default();
                    self.fields.line(line, trailers)?;
                }
                Line::Part(_) => return Ok(ServerEvent::NeedMore),
                Line::TooLong(_) => return Err(Refusal::TooLarge),
            }
        }
        self.read = Read::Ending;
        match &self.trailers {
            Some(trailers) if trailers.field_count() > 0 => Ok(ServerEvent::Trailers),
            Some(_) | None => self.step(input, at),
        }
    }

    /// A refusal after which nothing is read.
    #[cold]
    fn refuse(&mut self, refusal: Refusal) -> ServerEvent {
        self.config.refusals.count(refusal);
        if self.read == Read::Start {
            self.head.clear(); // it is the request's before
            self.request = RequestInfo::NONE;
        }
        self.read = Read::Closed;
        self.close = true;
        if self.response == Response::None {
            self.response = Response::Expected;
        }
        ServerEvent::Refused(refusal)
    }

    fn begin(&mut self) {
        self.read = Read::Start;
        if let Some(trailers) = &mut self.trailers {
            trailers.clear();
        }
        self.fields = FieldReader::new(Section::Head, &self.config.limits, self.config.underscores);
    }

    fn shut(&mut self) {
        self.read = Read::Closed;
        self.response = Response::None;
        self.close = true;
    }
}

impl RequestInfo {
    /// Of what never became a request.
    const NONE: Self = Self {
        version: Version::Http11,
        body: BodyLength::None,
        keep_alive: true,
        upgrade: false,
        expects_continue: false,
        is_head: false,
    };
}

impl From<BadField> for Refusal {
    fn from(bad: BadField) -> Self {
        match bad {
            BadField::Syntax => Self::Field,
            BadField::Characters => Self::Characters,
            BadField::Underscore => Self::Underscore,
            BadField::TooLarge => Self::TooLarge,
            BadField::TooMany => Self::TooManyFields,
        }
    }
}

impl From<BadFraming> for Refusal {
    fn from(bad: BadFraming) -> Self {
        match bad {
            BadFraming::ContentLength => Self::ContentLength,
            BadFraming::Ambiguous => Self::AmbiguousLength,
            BadFraming::TransferEncoding => Self::TransferEncoding,
        }
    }
}
