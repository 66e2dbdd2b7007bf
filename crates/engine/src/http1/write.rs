//! Messages into bytes.
//!
//! What frames a message is written from its [`BodyLength`] alone, and what belongs to the connection from the state of the
//! connection: fields of the head that say such things are left out. So nothing that a peer or a filter put into a head can
//! make one message look like two.

use super::chars;
use super::fields::BodyLength;
use super::reason::reason;
use super::request_line::Version;
use crate::head::{Field, Head};

/// Why something isn't written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It isn't the time for it.
    #[error("no such message is due")]
    OutOfTurn,
    /// The head has no method, target or status that HTTP/1.1 could carry, or control characters.
    #[error("the head has parts that HTTP/1.1 can't carry")]
    Head,
    /// More body than was said.
    #[error("the body is longer than was said")]
    TooLong,
    /// Less body than was said.
    #[error("the body is shorter than was said")]
    TooShort,
    /// The message has no body on the wire (HEAD, 204, 304): the bytes are to be left out.
    #[error("the message has no body")]
    NoBody,
}

/// Writes a body as its head said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyWriter {
    /// No message.
    #[default]
    Idle,
    /// The message has none on the wire, whatever its length is said to be.
    Suppressed,
    Length(u64),
    Chunked,
    UntilClose,
    Raw,
}

/// What is said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Silent,
    Close,
    KeepAlive,
    /// `connection` and `upgrade` of the head are written.
    Switch,
}

/// What a status line is made of, and whether a body follows.
pub(super) struct ResponseLine {
    pub(super) status: u16,
    pub(super) version: Version,
    pub(super) is_head: bool,
}

impl BodyWriter {
    #[inline]
    pub(super) fn write(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.before(data.len(), out)?;
        out.extend_from_slice(data);
        self.after(data.len(), out);
        Ok(())
    }

    #[inline]
    pub(super) fn before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        match self {
            Self::Idle => return Err(WriteError::OutOfTurn),
            Self::Suppressed => return Err(WriteError::NoBody),
            Self::Length(left) => {
                *left = left.checked_sub(len as u64).ok_or(WriteError::TooLong)?;
            }
            Self::Chunked => {
                if len > 0 {
                    put_hex(out, len);
                    out.extend_from_slice(b"\r\n");
                }
            }
            Self::UntilClose | Self::Raw => {}
        }
        Ok(())
    }

    #[inline]
    pub(super) fn after(&self, len: usize, out: &mut Vec<u8>) {
        if *self == Self::Chunked && len > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn finish(
        &mut self,
        trailers: Option<&Head>,
        out: &mut Vec<u8>,
    ) -> Result<(), WriteError> {
        match *self {
            Self::Idle | Self::Raw => return Err(WriteError::OutOfTurn),
            Self::Length(left) if left > 0 => return Err(WriteError::TooShort),
            Self::Suppressed | Self::Length(_) | Self::UntilClose => {}
            Self::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for field in trailers.into_iter().flat_map(Head::fields) {
                    if is_trailer(field.name) && chars::is_clean(field.value) {
                        put_field(field, out);
                    }
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        *self = Self::Idle;
        Ok(())
    }
}

/// Writes the head of a response.
pub(super) fn response(
    line: &ResponseLine,
    head: &Head,
    body: BodyLength,
    connection: Connection,
    out: &mut Vec<u8>,
) -> Result<BodyWriter, WriteError> {
    let ResponseLine {
        status,
        version,
        is_head,
    } = *line;
    let bodiless = status < 200 || status == 204;
    let (said, writer) = match (body, status) {
        (_, 101) => (Said::Nothing, BodyWriter::Raw),
        _ if bodiless => (Said::Nothing, BodyWriter::Suppressed),
        (BodyLength::Length(length), 304) => (Said::LengthIfGiven(length), BodyWriter::Suppressed),
        (_, 304) => (Said::AsGiven, BodyWriter::Suppressed),
        (BodyLength::Length(length), _) if is_head => {
            (Said::Length(length), BodyWriter::Suppressed)
        }
        // What GET would have is told, as Envoy does; an HTTP/1.0 client couldn't read it.
        (_, _) if is_head => match version {
            Version::Http11 => (Said::AsGivenOrChunked, BodyWriter::Suppressed),
            Version::Http10 => (Said::AsGiven, BodyWriter::Suppressed),
        },
        (BodyLength::None, _) => (Said::Length(0), BodyWriter::Length(0)),
        (BodyLength::Length(length), _) => (Said::Length(length), BodyWriter::Length(length)),
        (BodyLength::Chunked, _) => match version {
            Version::Http11 => (Said::Chunked, BodyWriter::Chunked),
            Version::Http10 => (Said::Nothing, BodyWriter::UntilClose),
        },
    };
    let start = out.len();
    out.reserve(head.bytes.len() + 4 * head.fields.len() + 128);
    out.extend_from_slice(match version {
        Version::Http11 => b"HTTP/1.1 ",
        Version::Http10 => b"HTTP/1.0 ",
    });
    let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|d| b'0' + d as u8);
    out.extend_from_slice(&digits);
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    if !fields(head, said, connection, out) {
        out.truncate(start);
        return Err(WriteError::Head);
    }
    Ok(writer)
}

/// Writes the head of a request. `body` [`None`](BodyLength::None) is told to be empty where the method makes one expect a body.
pub(super) fn request(
    head: &Head,
    body: BodyLength,
    connection: Connection,
    out: &mut Vec<u8>,
) -> Result<BodyWriter, WriteError> {
    let method = head.method().ok_or(WriteError::Head)?;
    let is_connect = method == b"CONNECT";
    let authority = head.authority().unwrap_or_default();
    let target = match head.path() {
        _ if is_connect => authority,
        Some(path) => path,
        None => return Err(WriteError::Head),
    };
    let (said, writer) = match body {
        _ if is_connect => (Said::Nothing, BodyWriter::Raw),
        BodyLength::None if is_bodiless(method) => (Said::Nothing, BodyWriter::Length(0)),
        BodyLength::None if connection == Connection::Switch => {
            (Said::Nothing, BodyWriter::Length(0))
        }
        BodyLength::None => (Said::Length(0), BodyWriter::Length(0)),
        BodyLength::Length(length) => (Said::Length(length), BodyWriter::Length(length)),
        BodyLength::Chunked => (Said::Chunked, BodyWriter::Chunked),
    };
    let is_target = target.first().is_some_and(|b| *b == b'/' || *b == b'*') || is_connect;
    if !is_token(method) || !is_target || !is_visible(target) || !chars::is_clean(authority) {
        return Err(WriteError::Head);
    }
    let start = out.len();
    out.reserve(head.bytes.len() + 4 * head.fields.len() + 128);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(authority);
    out.extend_from_slice(b"\r\n");
    if !fields(head, said, connection, out) {
        out.truncate(start);
        return Err(WriteError::Head);
    }
    Ok(writer)
}

/// What is said about the body, where the head has its `content-length`, else at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Length(u64),
    /// Only if the head has it.
    LengthIfGiven(u64),
    /// What the head says, if that is a number.
    AsGiven,
    AsGivenOrChunked,
    Chunked,
}

/// Writes all fields and the line that ends them. Whether they could be written.
fn fields(head: &Head, said: Said, connection: Connection, out: &mut Vec<u8>) -> bool {
    let mut said = Some(said);
    for span in &head.fields {
        let (name, value) = (span.name(), span.value());
        // One check for both, which are next to each other.
        if name.is_empty() || !chars::is_clean(&head.bytes[name.start..value.end]) {
            return false;
        }
        let field = Field::new(&head.bytes[name], &head.bytes[value]);
        match field.name {
            b"content-length" => put_length_in_place(field, &mut said, out),
            b"connection" | b"upgrade" if connection == Connection::Switch => put_field(field, out),
            b"connection" | b"upgrade" | b"keep-alive" | b"proxy-connection"
            | b"transfer-encoding" | b"host" => {}
            _ => put_field(field, out),
        }
    }
    match connection {
        Connection::Silent | Connection::Switch => {}
        Connection::Close => out.extend_from_slice(b"connection: close\r\n"),
        Connection::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
    }
    match said {
        Some(Said::Length(length)) => put_length(out, length),
        Some(Said::Chunked | Said::AsGivenOrChunked) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        Some(Said::Nothing | Said::LengthIfGiven(_) | Said::AsGiven) | None => {}
    }
    out.extend_from_slice(b"\r\n");
    true
}

/// Writes the length where the head has it, once.
fn put_length_in_place(field: Field<'_>, said: &mut Option<Said>, out: &mut Vec<u8>) {
    match *said {
        Some(Said::Length(length) | Said::LengthIfGiven(length)) => put_length(out, length),
        Some(Said::AsGiven | Said::AsGivenOrChunked) => {
            match super::fields::parse_length(field.value) {
                Some(length) => put_length(out, length),
                None => return,
            }
        }
        Some(Said::Nothing | Said::Chunked) | None => return,
    }
    *said = None;
}

#[inline]
fn put_field(field: Field<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(field.name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value);
    out.extend_from_slice(b"\r\n");
}

fn put_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut left = length;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn put_hex(out: &mut Vec<u8>, number: usize) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[number >> (4 * place) & 15]);
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && chars::token_len(bytes) == bytes.len()
}

fn is_visible(target: &[u8]) -> bool {
    chars::is_visible(target)
}

/// Whether nobody expects a body of such a request, so that its absence needs no telling. As measured.
fn is_bodiless(method: &[u8]) -> bool {
    matches!(method, b"GET" | b"HEAD" | b"DELETE" | b"TRACE" | b"CONNECT")
}

/// Whether a field may come after the body.
pub(super) fn is_trailer(name: &[u8]) -> bool {
    is_token(name)
        && !matches!(
            name,
            b"content-length"
                | b"transfer-encoding"
                | b"host"
                | b"connection"
                | b"upgrade"
                | b"te"
                | b"expect"
                | b"keep-alive"
                | b"proxy-connection"
                | b"http2-settings"
                | b"trailer"
        )
}
