//! Field lines into a [`Head`], and what its fields say about the connection and the body.

use std::ops::Range;

use super::chars::{self, TOKEN_LOWER, ValueBytes};
use super::config::{Limits, Underscores};
use super::lines::without_cr;
use crate::head::{Field, Head, Span};

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none, and nothing says so.
    None,
    /// So many bytes.
    Length(u64),
    /// It ends itself.
    Chunked,
}

/// What is wrong with a field line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadField {
    Syntax,
    Characters,
    Underscore,
    TooLarge,
    TooMany,
}

/// What is wrong with the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadFraming {
    ContentLength,
    Ambiguous,
    TransferEncoding,
}

/// What kind of fields are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Head,
    Trailers,
}

/// Reads field lines.
#[derive(Debug)]
pub(super) struct FieldReader {
    section: Section,
    underscores: Underscores,
    /// What is left of the limits.
    bytes_left: usize,
    fields_left: usize,
    /// What a continuation would continue.
    last: Last,
    notes: Notes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Kept,
    Dropped,
}

/// Where the fields are that mean something to the connection; indices among the head's fields.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    content_length: Sight,
    transfer_encoding: Sight,
    host: Sight,
    connection: Sight,
    upgrade: bool,
    te: bool,
    /// `keep-alive`, `proxy-connection` or `http2-settings`.
    hop_by_hop: bool,
    expect: bool,
    /// A carriage return amid a field that frames or routes.
    split: bool,
}

/// Whether there are fields of a name, and where the first is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sight {
    #[default]
    None,
    One(u32),
    Several(u32),
}

impl Sight {
    fn add(&mut self, index: usize) {
        *self = match *self {
            Self::None => Self::One(index as u32),
            Self::One(first) | Self::Several(first) => Self::Several(first),
        };
    }

    fn is_some(self) -> bool {
        self != Self::None
    }
}

impl FieldReader {
    pub(super) fn new(section: Section, limits: &Limits, underscores: Underscores) -> Self {
        Self {
            section,
            underscores,
            bytes_left: limits.head_bytes,
            fields_left: limits.fields,
            last: Last::Nothing,
            notes: Notes::default(),
        }
    }

    /// What a line may have that is not too large: what is left, `: ` and a carriage return.
    pub(super) fn budget(&self) -> usize {
        self.bytes_left + 3
    }

    /// Takes so many bytes from the limit.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), BadField> {
        self.bytes_left = self
            .bytes_left
            .checked_sub(bytes)
            .ok_or(BadField::TooLarge)?;
        Ok(())
    }

    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Reads a line without its line feed. Returns whether it was the empty one at the end.
    #[inline]
    pub(super) fn line(&mut self, line: &[u8], head: &mut Head) -> Result<bool, BadField> {
        let (line, cr) = without_cr(line);
        if !cr && self.section == Section::Trailers {
            return Err(BadField::Syntax);
        }
        match line.first() {
            None => return Ok(true),
            Some(b' ' | b'\t') => return self.continuation(line, head).map(|()| false),
            Some(_) => {}
        }
        let name_len = chars::token_len(line);
        let (name, rest) = line.split_at(name_len);
        let value = match rest {
            [b':', value @ ..] if name_len > 0 => chars::trim(value),
            _ => return Err(bad_name(rest)),
        };
        self.spend(name_len + value.len())?;
        self.fields_left = self.fields_left.checked_sub(1).ok_or(BadField::TooMany)?;
        let dirty = match chars::value_bytes(value) {
            ValueBytes::Good => false,
            ValueBytes::CarriageReturn => true,
            ValueBytes::Control => return Err(BadField::Characters),
        };
        if self.underscores != Underscores::Allow && name.contains(&b'_') {
            if self.underscores == Underscores::Reject {
                return Err(BadField::Underscore);
            }
            self.last = Last::Dropped;
            self.fields_left += 1;
            return Ok(false);
        }
        let index = head.fields.len();
        head.push_lower_case(name, value, dirty);
        let means_something = self.notes.note(head.field(index).name, index);
        if means_something == Meaning::Framing && dirty {
            self.notes.split = true;
        }
        self.last = Last::Kept;
        if self.section == Section::Trailers && means_something != Meaning::Nothing {
            // Nothing that frames, routes or belongs to the connection may come that late.
            head.fields.truncate(index);
            self.last = Last::Dropped;
        }
        Ok(false)
    }

    /// Reads as many fields as are there in the form in which nearly all come: a name, a colon, at most one space, a value that
    /// needs no change, CR LF. Returns how many bytes they had. Whatever is otherwise is left to [`line`](Self::line).
    #[inline]
    pub(super) fn plain_lines(&mut self, input: &[u8], head: &mut Head) -> usize {
        let mut done = 0;
        if self.underscores != Underscores::Allow {
            return done;
        }
        while let Some(line) = self.plain_line(&input[done..], head) {
            done += line;
        }
        done
    }

    #[inline]
    fn plain_line(&mut self, input: &[u8], head: &mut Head) -> Option<usize> {
        let at = head.bytes.len();
        let parts = chars::push_name(input, &mut head.bytes)
            .filter(|name_len| *name_len > 0)
            .and_then(|name_len| Some((name_len, plain_value(input, name_len + 1)?)));
        let bytes_left = parts.as_ref().and_then(|(name_len, value)| {
            let left = self.bytes_left.checked_sub(name_len + value.len());
            left.filter(|_| self.fields_left > 0)
        });
        let (Some((name_len, value)), Some(bytes_left)) = (parts, bytes_left) else {
            head.bytes.truncate(at);
            return None;
        };
        self.bytes_left = bytes_left;
        self.fields_left -= 1;
        let index = head.fields.len();
        self.notes.note(&head.bytes[at..], index);
        head.bytes.extend_from_slice(&input[value.clone()]);
        head.fields.push(Span {
            at: at as u32,
            name_len: name_len as u32,
            value_len: value.len() as u32,
            sensitive: false,
        });
        self.last = Last::Kept;
        Some(value.end + 2)
    }

    /// A line that goes on with the field before (obs-fold): both become one line, with a space between.
    #[cold]
    fn continuation(&mut self, line: &[u8], head: &mut Head) -> Result<(), BadField> {
        let piece = chars::trim(line);
        self.spend(piece.len() + 1)?;
        let dirty = match chars::value_bytes(piece) {
            ValueBytes::Good => false,
            ValueBytes::CarriageReturn => true,
            ValueBytes::Control => return Err(BadField::Characters),
        };
        match self.last {
            Last::Nothing => return Err(BadField::Syntax),
            Last::Dropped => return Ok(()),
            Last::Kept => {}
        }
        let index = head.fields.len() - 1;
        if dirty && Notes::default().note(head.field(index).name, index) == Meaning::Framing {
            self.notes.split = true;
        }
        head.extend_last(piece);
        Ok(())
    }
}

/// The value that begins at `at` or after one space there, if it needs no change and CR LF follows.
#[inline]
fn plain_value(input: &[u8], at: usize) -> Option<Range<usize>> {
    let start = at + usize::from(input.get(at) == Some(&b' '));
    let rest = input.get(start..)?;
    let len = chars::first_control(rest);
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let (value, end) = rest.split_at(len);
    let plain = end.starts_with(b"\r\n") && !is_blank(value.first()) && !is_blank(value.last());
    plain.then_some(start..start + len)
}

/// What follows a name that is none or has no colon.
#[cold]
fn bad_name(rest: &[u8]) -> BadField {
    match rest.first() {
        Some(0..=8 | 10..=12 | 14..=31 | 127) => BadField::Characters,
        _ => BadField::Syntax,
    }
}

/// What a field is to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    /// It frames or routes: what it says must be beyond doubt.
    Framing,
    Connection,
}

impl Notes {
    #[inline]
    fn note(&mut self, name: &[u8], index: usize) -> Meaning {
        match name {
            b"content-length" => self.content_length.add(index),
            b"transfer-encoding" => self.transfer_encoding.add(index),
            b"host" => self.host.add(index),
            b"connection" => {
                self.connection.add(index);
                return Meaning::Connection;
            }
            b"upgrade" => {
                self.upgrade = true;
                return Meaning::Connection;
            }
            b"te" => {
                self.te = true;
                return Meaning::Connection;
            }
            b"expect" => {
                self.expect = true;
                return Meaning::Connection;
            }
            b"keep-alive" | b"proxy-connection" | b"http2-settings" => {
                self.hop_by_hop = true;
                return Meaning::Connection;
            }
            _ => return Meaning::Nothing,
        }
        Meaning::Framing
    }

    /// Whether there is an Expect that says `100-continue`.
    pub(super) fn expects_continue(&self, head: &Head) -> bool {
        self.expect
            && head
                .get(b"expect")
                .is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"))
    }

    /// Whether there is something that belongs to the connection.
    pub(super) fn has_hop_by_hop(&self) -> bool {
        self.connection.is_some()
            || self.upgrade
            || self.te
            || self.hop_by_hop
            || self.transfer_encoding.is_some()
    }

    /// Whether there is an Upgrade field.
    pub(super) fn has_upgrade(&self) -> bool {
        self.upgrade
    }

    /// The one Host, or how many there are instead.
    pub(super) fn host(&self) -> Result<Option<usize>, RepeatedHost> {
        match self.host {
            Sight::None => Ok(None),
            Sight::One(index) => Ok(Some(index as usize)),
            Sight::Several(_) => Err(RepeatedHost),
        }
    }

    /// Whether a field that frames or routes had a carriage return in it.
    pub(super) fn is_split(&self) -> bool {
        self.split
    }

    /// What the head says about the length of the body, `None` if nothing. Content-Length is made canonical.
    pub(super) fn body_length(&self, head: &mut Head) -> Result<Option<BodyLength>, BadFraming> {
        let index = match (self.content_length, self.transfer_encoding) {
            (Sight::None, Sight::None) => return Ok(None),
            (Sight::None, Sight::One(at)) => {
                let coding = head.field(at as usize).value;
                return if coding.eq_ignore_ascii_case(b"chunked") {
                    Ok(Some(BodyLength::Chunked))
                } else {
                    Err(BadFraming::TransferEncoding)
                };
            }
            (Sight::None, Sight::Several(_)) => return Err(BadFraming::TransferEncoding),
            (_, Sight::One(_) | Sight::Several(_)) => return Err(BadFraming::Ambiguous),
            (Sight::Several(_), Sight::None) => return Err(BadFraming::ContentLength),
            (Sight::One(at), Sight::None) => at as usize,
        };
        let digits = head.field(index).value;
        let length = parse_length(digits).ok_or(BadFraming::ContentLength)?;
        let zeros = digits.iter().take_while(|b| **b == b'0').count();
        let zeros = zeros.min(digits.len() - 1);
        if zeros > 0 {
            head.drop_front_of_value(index, zeros);
        }
        head.content_length = Some(length);
        Ok(Some(BodyLength::Length(length)))
    }
}

/// Host is there more than once.
#[derive(Clone, Copy, Debug)]
pub(super) struct RepeatedHost;

/// Digits only, and no more than fit.
pub(super) fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |length, digit| match digit {
        b'0'..=b'9' => length.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

impl Head {
    /// How many fields there are, pseudo-header fields not counted.
    #[must_use]
    pub fn field_count(&self) -> usize {
        self.fields.len()
    }

    /// The values of all fields of this name.
    pub fn get_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |f| f.name == name)
            .map(|f| f.value)
    }

    /// Removes the fields that `keep` doesn't want.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let bytes = &self.bytes;
        self.fields.retain(|span| {
            keep(Field {
                name: &bytes[span.name()],
                value: &bytes[span.value()],
                sensitive: span.sensitive,
            })
        });
    }

    /// The field at this place.
    #[inline]
    pub(super) fn field(&self, index: usize) -> Field<'_> {
        let span = &self.fields[index];
        Field {
            name: &self.bytes[span.name()],
            value: &self.bytes[span.value()],
            sensitive: span.sensitive,
        }
    }

    /// Adds a field whose name is a token in any case; without the value's carriage returns, if it is `dirty`.
    #[inline]
    fn push_lower_case(&mut self, name: &[u8], value: &[u8], dirty: bool) {
        let at = self.bytes.len();
        let lower = name.iter().map(|b| TOKEN_LOWER[usize::from(*b)]);
        self.bytes.extend(lower);
        let value_at = self.bytes.len();
        if dirty {
            self.push_without_cr(value);
        } else {
            self.bytes.extend_from_slice(value);
        }
        self.fields.push(Span {
            at: at as u32,
            name_len: name.len() as u32,
            value_len: (self.bytes.len() - value_at) as u32,
            sensitive: false,
        });
    }

    /// Appends to the buffer what is left without carriage returns, and without white space around it.
    #[cold]
    fn push_without_cr(&mut self, value: &[u8]) {
        let at = self.bytes.len();
        let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
        let rest = value
            .iter()
            .filter(|b| **b != b'\r')
            .skip_while(|b| is_blank(b));
        self.bytes.extend(rest);
        while self.bytes.len() > at && self.bytes.last().is_some_and(is_blank) {
            self.bytes.pop();
        }
    }

    /// Goes on with the value of the last field, which is the last that was written.
    fn extend_last(&mut self, piece: &[u8]) {
        let before = self.bytes.len();
        if self.fields.last().is_some_and(|span| span.value_len > 0) {
            self.bytes.push(b' ');
        }
        let at = self.bytes.len();
        self.push_without_cr(piece);
        if self.bytes.len() == at {
            self.bytes.truncate(before);
        }
        if let Some(span) = self.fields.last_mut() {
            span.value_len += (self.bytes.len() - before) as u32;
        }
    }

    /// The value of this field without its first `count` bytes.
    #[cold]
    fn drop_front_of_value(&mut self, index: usize, count: usize) {
        let span = self.fields[index];
        let at = self.bytes.len();
        self.bytes.extend_from_within(span.name());
        self.bytes
            .extend_from_within(span.value().start + count..span.value().end);
        self.fields[index] = Span {
            at: at as u32,
            value_len: span.value_len - count as u32,
            ..span
        };
    }

    /// Makes the value of the field at this place `:authority`, and the field none.
    pub(super) fn move_to_authority(&mut self, index: usize) {
        let value = self.fields.remove(index).value();
        self.set_authority_within(value);
    }
}
