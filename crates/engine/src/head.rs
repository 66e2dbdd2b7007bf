//! Decoded heads: what a request, a response or trailers say before and after the body.

mod edit;

use std::fmt;
use std::ops::Range;

/// A name and a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Lower-case; pseudo-header fields begin with a colon.
    pub name: &'a [u8],
    /// The value, without surrounding white space.
    pub value: &'a [u8],
    /// Whether the sender asked that no table keeps it.
    pub sensitive: bool,
}

impl<'a> Field<'a> {
    /// A field that tables may keep.
    #[must_use]
    pub const fn new(name: &'a [u8], value: &'a [u8]) -> Self {
        Self {
            name,
            value,
            sensitive: false,
        }
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.sensitive { b"***" } else { self.value };
        write!(f, "{}: {}", self.name.escape_ascii(), value.escape_ascii())
    }
}

/// The fields of a message, in one buffer that is used again for the next one.
///
/// Pseudo-header fields have slots of their own; other fields keep their order.
#[derive(Default)]
pub struct Head {
    /// Names and values, each field's together; some of it may belong to no field any more.
    pub(crate) bytes: Vec<u8>,
    pub(crate) fields: Vec<Span>,
    pseudo: [Option<(u32, u32)>; PSEUDO_NAMES.len()],
    pub(crate) content_length: Option<u64>,
    host: Option<u32>,
    /// As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    list_bytes: usize,
    received: usize,
    limits: Limits,
    problem: Option<Malformed>,
    outgrown: Option<Outgrown>,
}

#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) at: u32,
    pub(crate) name_len: u32,
    pub(crate) value_len: u32,
    pub(crate) sensitive: bool,
}

/// What a received head may have.
#[derive(Clone, Copy, Default)]
struct Limits {
    list_bytes: usize,
    fields: usize,
}

/// The limit that a received head is above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgrown {
    Bytes,
    Fields,
}

/// What a head is checked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadKind {
    Request { extended_connect: bool },
    Response,
    Trailers,
}

/// Why a message is malformed (RFC 9113 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A name that is no lower-case token.
    #[error("a field's name is no lower-case token")]
    Name,
    /// A value with control characters or surrounding white space.
    #[error("a field's value has control characters or surrounding white space")]
    Value,
    /// A pseudo-header field that nobody defined, or not for this kind of message.
    #[error("a pseudo-header field is not of this kind of message")]
    UnexpectedPseudo,
    /// A pseudo-header field twice.
    #[error("a pseudo-header field is repeated")]
    RepeatedPseudo,
    /// A pseudo-header field after other fields.
    #[error("a pseudo-header field follows other fields")]
    LatePseudo,
    /// A pseudo-header field that this kind of message must have.
    #[error("a mandatory pseudo-header field is missing")]
    MissingPseudo,
    /// A pseudo-header field whose value isn't one.
    #[error("a pseudo-header field has an impossible value")]
    PseudoValue,
    /// A field that belongs to HTTP/1 connections.
    #[error("a field is specific to HTTP/1 connections")]
    ConnectionField,
    /// Content-Length that isn't a number, or two that differ.
    #[error("content-length is no number or not unambiguous")]
    ContentLength,
    /// Host and :authority name different things, or there are several hosts.
    #[error("host is ambiguous")]
    Host,
    /// More or fewer bytes than Content-Length says.
    #[error("the body is not as long as content-length says")]
    BodyLength,
    /// Trailers that don't end the stream.
    #[error("trailers do not end the stream")]
    UnendedTrailers,
    /// An informational response that ends the stream, or 101.
    #[error("an informational response that can't be one")]
    Informational,
}

const PSEUDO_NAMES: [&[u8]; 6] = [
    b":method",
    b":scheme",
    b":authority",
    b":path",
    b":protocol",
    b":status",
];
const METHOD: usize = 0;
const SCHEME: usize = 1;
const AUTHORITY: usize = 2;
const PATH: usize = 3;
const PROTOCOL: usize = 4;
const STATUS: usize = 5;

impl Head {
    /// An empty head.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request of this method; other parts are set.
    #[must_use]
    pub fn request(method: &[u8]) -> Self {
        let mut head = Self::new();
        head.set_pseudo(METHOD, method);
        head
    }

    /// A response of this status.
    #[must_use]
    pub fn response(status: u16) -> Self {
        let mut head = Self::new();
        head.set_status(status);
        head
    }

    /// Forgets everything, and gives back memory beyond what heads usually need.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
            self.fields = Vec::new();
        }
        self.pseudo = Default::default();
        self.content_length = None;
        self.host = None;
        self.list_bytes = 0;
        self.received = 0;
        self.problem = None;
        self.outgrown = None;
    }

    /// Sets `:method`.
    pub fn set_method(&mut self, value: &[u8]) {
        self.set_pseudo(METHOD, value);
    }

    /// Sets `:scheme`.
    pub fn set_scheme(&mut self, value: &[u8]) {
        self.set_pseudo(SCHEME, value);
    }

    /// Sets `:authority`.
    pub fn set_authority(&mut self, value: &[u8]) {
        self.set_pseudo(AUTHORITY, value);
    }

    /// Sets `:authority` to what is in the buffer already.
    pub(crate) fn set_authority_within(&mut self, value: Range<usize>) {
        self.pseudo[AUTHORITY] = Some((value.start as u32, value.len() as u32));
    }

    /// Sets `:protocol` to what is in the buffer already.
    pub(crate) fn set_protocol_within(&mut self, value: Range<usize>) {
        self.pseudo[PROTOCOL] = Some((value.start as u32, value.len() as u32));
    }

    /// Removes `:protocol`.
    pub(crate) fn remove_protocol(&mut self) {
        self.pseudo[PROTOCOL] = None;
    }

    /// Sets `:path`.
    pub fn set_path(&mut self, value: &[u8]) {
        self.set_pseudo(PATH, value);
    }

    /// Sets `:status`.
    pub fn set_status(&mut self, status: u16) {
        let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|d| b'0' + d as u8);
        self.set_pseudo(STATUS, &digits);
    }

    /// Adds a field after the others. The name is lower-case and no pseudo-header field's.
    pub fn push(&mut self, field: Field<'_>) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(field.name);
        self.bytes.extend_from_slice(field.value);
        self.fields.push(Span {
            at: at as u32,
            name_len: field.name.len() as u32,
            value_len: field.value.len() as u32,
            sensitive: field.sensitive,
        });
    }

    /// Removes all fields of this name. Returns whether there were any.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let before = self.fields.len();
        let bytes = &self.bytes;
        self.fields.retain(|span| &bytes[span.name()] != name);
        self.fields.len() < before
    }

    /// Puts one field in the place of all of its name.
    pub fn set(&mut self, field: Field<'_>) {
        self.remove(field.name);
        self.push(field);
    }

    /// Joins the crumbs of `cookie` with `; `, as whatever isn't HTTP/2 needs them (RFC 9113 8.2.3).
    pub fn join_cookies(&mut self) {
        let is_cookie = |bytes: &[u8], span: &Span| &bytes[span.name()] == b"cookie";
        let crumbs = self
            .fields
            .iter()
            .filter(|span| is_cookie(&self.bytes, span));
        if crumbs.count() < 2 {
            return;
        }
        let at = self.bytes.len();
        let mut sensitive = false;
        self.bytes.extend_from_slice(b"cookie");
        let value_at = self.bytes.len();
        for index in 0..self.fields.len() {
            let span = self.fields[index];
            if is_cookie(&self.bytes, &span) {
                if self.bytes.len() > value_at {
                    self.bytes.extend_from_slice(b"; ");
                }
                self.bytes.extend_from_within(span.value());
                sensitive |= span.sensitive;
            }
        }
        let joined = Span {
            at: at as u32,
            name_len: (value_at - at) as u32,
            value_len: (self.bytes.len() - value_at) as u32,
            sensitive,
        };
        let bytes = &self.bytes;
        self.fields.retain(|span| !is_cookie(bytes, span));
        self.fields.push(joined);
    }

    /// `:method`.
    #[must_use]
    pub fn method(&self) -> Option<&[u8]> {
        self.pseudo(METHOD)
    }

    /// `:scheme`.
    #[must_use]
    pub fn scheme(&self) -> Option<&[u8]> {
        self.pseudo(SCHEME)
    }

    /// `:authority`, or else `host`.
    #[must_use]
    pub fn authority(&self) -> Option<&[u8]> {
        self.pseudo(AUTHORITY).or_else(|| self.get(b"host"))
    }

    /// `:path`.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        self.pseudo(PATH)
    }

    /// `:protocol` (RFC 8441).
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.pseudo(PROTOCOL)
    }

    /// `:status`.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self.pseudo(STATUS)? {
            &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
            }
            _ => None,
        }
    }

    /// What a received head says about the length of the body.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let span = self
            .fields
            .iter()
            .find(|span| &self.bytes[span.name()] == name)?;
        Some(&self.bytes[span.value()])
    }

    /// The fields without pseudo-header fields.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        self.fields.iter().map(|span| Field {
            name: &self.bytes[span.name()],
            value: &self.bytes[span.value()],
            sensitive: span.sensitive,
        })
    }

    /// All fields in the order of the wire: pseudo-header fields first.
    pub fn wire_fields(&self) -> impl Iterator<Item = Field<'_>> + Clone {
        (0..PSEUDO_NAMES.len())
            .filter_map(|which| Some(Field::new(PSEUDO_NAMES[which], self.pseudo(which)?)))
            .chain(self.fields())
    }

    /// The memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity() + self.fields.capacity() * size_of::<Span>()
    }

    /// Makes ready to receive a head within these limits.
    pub(crate) fn begin(&mut self, list_bytes: usize, fields: usize) {
        self.clear();
        self.limits = Limits { list_bytes, fields };
    }

    /// Adds a received field that a table knows.
    #[inline]
    pub(crate) fn receive(&mut self, name: &[u8], value: &[u8], class: Class) {
        let at = self.bytes.len();
        if self.outgrown.is_none() {
            self.bytes.extend_from_slice(name);
            self.bytes.extend_from_slice(value);
            self.commit(at, name.len(), class, false);
        }
    }

    /// Adds the received field whose name and value are the bytes from `at`; takes them away if the head has outgrown its
    /// limits.
    pub(crate) fn commit(&mut self, at: usize, name_len: usize, class: Class, sensitive: bool) {
        let value_len = self.bytes.len() - at - name_len;
        self.list_bytes = self.list_bytes.saturating_add(name_len + value_len + 32);
        self.received += 1;
        if self.outgrown.is_none() {
            if self.list_bytes > self.limits.list_bytes {
                self.outgrown = Some(Outgrown::Bytes);
            } else if self.received > self.limits.fields {
                self.outgrown = Some(Outgrown::Fields);
            }
        }
        if self.outgrown.is_some() {
            self.bytes.truncate(at);
            return;
        }
        let span = Span {
            at: at as u32,
            name_len: name_len as u32,
            value_len: value_len as u32,
            sensitive,
        };
        let problem = match class {
            Class::Regular => None,
            Class::Pseudo(which) => {
                let slot = &mut self.pseudo[usize::from(which)];
                let problem = if slot.is_some() {
                    Some(Malformed::RepeatedPseudo)
                } else if self.fields.is_empty() {
                    None
                } else {
                    Some(Malformed::LatePseudo)
                };
                *slot = Some((span.at + span.name_len, span.value_len));
                self.problem = self.problem.or(problem);
                return;
            }
            Class::UnknownPseudo => Some(Malformed::UnexpectedPseudo),
            Class::ConnectionSpecific => Some(Malformed::ConnectionField),
            Class::Te if &self.bytes[span.value()] == b"trailers" => None,
            Class::Te => Some(Malformed::ConnectionField),
            Class::ContentLength => self.receive_content_length(span),
            Class::Host if self.host.is_some() => Some(Malformed::Host),
            Class::Host => {
                self.host = Some(self.fields.len() as u32);
                None
            }
            Class::InvalidName => Some(Malformed::Name),
            Class::InvalidValue => Some(Malformed::Value),
        };
        self.problem = self.problem.or(problem);
        self.fields.push(span);
    }

    /// What the received head is above, if it is.
    pub(crate) fn outgrown(&self) -> Option<Outgrown> {
        self.outgrown
    }

    /// Whether the received head may be what it came as.
    pub(crate) fn check(&self, kind: HeadKind) -> Result<(), Malformed> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        match kind {
            HeadKind::Request { extended_connect } => self.check_request(extended_connect),
            HeadKind::Response => {
                if self.pseudo[..STATUS].iter().any(Option::is_some) {
                    return Err(Malformed::UnexpectedPseudo);
                }
                self.pseudo(STATUS).ok_or(Malformed::MissingPseudo)?;
                self.status().ok_or(Malformed::PseudoValue).map(drop)
            }
            HeadKind::Trailers if self.pseudo.iter().any(Option::is_some) => {
                Err(Malformed::UnexpectedPseudo)
            }
            HeadKind::Trailers => Ok(()),
        }
    }

    fn check_request(&self, extended_connect: bool) -> Result<(), Malformed> {
        if self.pseudo[STATUS].is_some() {
            return Err(Malformed::UnexpectedPseudo);
        }
        let method = self.method().ok_or(Malformed::MissingPseudo)?;
        if method.is_empty() || !method.iter().all(|&b| is_token(b)) {
            return Err(Malformed::PseudoValue);
        }
        let authority = self.pseudo(AUTHORITY);
        let is_connect = method == b"CONNECT";
        if is_connect && self.pseudo[PROTOCOL].is_none() {
            if self.pseudo[SCHEME].is_some() || self.pseudo[PATH].is_some() {
                return Err(Malformed::UnexpectedPseudo);
            }
            authority.ok_or(Malformed::MissingPseudo)?;
        } else {
            let scheme = self.scheme().ok_or(Malformed::MissingPseudo)?;
            let path = self.path().ok_or(Malformed::MissingPseudo)?;
            let is_path = path.starts_with(b"/") || (path == b"*" && method == b"OPTIONS");
            if scheme.is_empty() || !is_path || path.contains(&b' ') {
                return Err(Malformed::PseudoValue);
            }
            if self.pseudo[PROTOCOL].is_some() {
                if !(is_connect && extended_connect) {
                    return Err(Malformed::UnexpectedPseudo);
                }
                authority.ok_or(Malformed::MissingPseudo)?;
            }
        }
        if let Some(authority) = authority {
            let impossible = |&b: &u8| matches!(b, b'@' | b' ' | b'/' | b'?' | b'#');
            if (authority.is_empty() && is_connect) || authority.iter().any(impossible) {
                return Err(Malformed::PseudoValue);
            }
            if let Some(host) = self.host {
                let host = self.fields[host as usize];
                if !self.bytes[host.value()].eq_ignore_ascii_case(authority) {
                    return Err(Malformed::Host);
                }
            }
        }
        Ok(())
    }

    fn receive_content_length(&mut self, span: Span) -> Option<Malformed> {
        let digits = &self.bytes[span.value()];
        let length = digits.iter().try_fold(0u64, |length, &digit| match digit {
            b'0'..=b'9' => length.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
            _ => None,
        });
        match (length, self.content_length) {
            (Some(_), _) if digits.is_empty() => Some(Malformed::ContentLength),
            (Some(new), Some(old)) if new != old => Some(Malformed::ContentLength),
            (Some(new), _) => {
                self.content_length = Some(new);
                None
            }
            (None, _) => Some(Malformed::ContentLength),
        }
    }

    fn set_pseudo(&mut self, which: usize, value: &[u8]) {
        self.pseudo[which] = Some((self.bytes.len() as u32, value.len() as u32));
        self.bytes.extend_from_slice(value);
    }

    fn pseudo(&self, which: usize) -> Option<&[u8]> {
        let (at, len) = self.pseudo[which]?;
        Some(&self.bytes[at as usize..(at + len) as usize])
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.wire_fields()).finish()
    }
}

impl Span {
    pub(crate) fn name(&self) -> Range<usize> {
        self.at as usize..(self.at + self.name_len) as usize
    }

    pub(crate) fn value(&self) -> Range<usize> {
        let at = (self.at + self.name_len) as usize;
        at..at + self.value_len as usize
    }
}

/// What a received field is to the rules; a table keeps it with the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Regular,
    /// Index in `PSEUDO_NAMES`.
    Pseudo(u8),
    UnknownPseudo,
    ConnectionSpecific,
    Te,
    ContentLength,
    Host,
    InvalidName,
    /// The name may be good.
    InvalidValue,
}

impl Class {
    /// The class of a field of this name, if its value is valid.
    pub(crate) const fn of_name(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Pseudo(METHOD as u8),
            b":scheme" => Self::Pseudo(SCHEME as u8),
            b":authority" => Self::Pseudo(AUTHORITY as u8),
            b":path" => Self::Pseudo(PATH as u8),
            b":protocol" => Self::Pseudo(PROTOCOL as u8),
            b":status" => Self::Pseudo(STATUS as u8),
            [b':', ..] => Self::UnknownPseudo,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => Self::ConnectionSpecific,
            b"te" => Self::Te,
            b"content-length" => Self::ContentLength,
            b"host" => Self::Host,
            b"" => Self::InvalidName,
            _ => {
                let mut place = 0;
                while place < name.len() {
                    if !is_token(name[place]) || name[place].is_ascii_uppercase() {
                        return Self::InvalidName;
                    }
                    place += 1;
                }
                Self::Regular
            }
        }
    }

    /// The class with this value.
    pub(crate) fn with_value(self, value: &[u8]) -> Self {
        let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
        // Without a way out of the loop it is done many bytes at once.
        let valid = value.iter().fold(true, |valid, &b| {
            valid & ((b >= b' ') & (b != 0x7f) | (b == b'\t'))
        });
        if self == Self::InvalidName
            || (valid && !is_blank(value.first()) && !is_blank(value.last()))
        {
            self
        } else {
            Self::InvalidValue
        }
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The bytes that a cleared head keeps.
const KEPT_BYTES: usize = 16 * 1024;
