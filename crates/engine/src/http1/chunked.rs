//! The chunked transfer coding, coming in (RFC 9112 7.1).
//!
//! Stricter than heads are: lines end with CR LF and nothing else, since every parser that took a bare LF here, or skipped an
//! extension without looking, has been used to smuggle.

use std::ops::Range;

/// Reads the sizes; the bytes between are the body's.
///
/// ```text
/// Size -> AfterSize -> Extension -> SizeLf -> Data -> DataCr -> DataLf -> Size ...
///                                          `-> (size 0) trailers
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    /// Of the chunk, what is still to come.
    left: u64,
    /// What sizes and extensions of this message may have beyond the digits that a size needs.
    spare: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FirstDigit,
    Digits,
    AfterSize,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Body.
    Data(Range<usize>),
    /// The last chunk is past, trailers begin. So many bytes are consumed.
    Last(usize),
    /// All the input is consumed.
    More,
}

/// It isn't the chunked coding, or its extensions are above the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadChunk;

impl Chunked {
    /// A body whose extensions may have `spare` bytes in all.
    pub(super) const fn new(spare: u32) -> Self {
        Self {
            state: State::FirstDigit,
            left: 0,
            spare,
        }
    }

    /// Goes on with `input`, up to the next piece of body.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, BadChunk> {
        let mut at = 0;
        loop {
            if self.state == State::Data && at < input.len() {
                let there = (input.len() - at) as u64;
                let len = there.min(self.left);
                self.left -= len;
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data(at..at + len as usize));
            }
            let Some(&byte) = input.get(at) else {
                return Ok(Step::More);
            };
            at += 1;
            self.state = match (self.state, byte) {
                (State::FirstDigit | State::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    self.digit(byte)?;
                    State::Digits
                }
                (State::Digits | State::AfterSize | State::Extension, b'\r') => State::SizeLf,
                (State::Digits | State::AfterSize, b';') => self.spend(State::Extension)?,
                (State::Digits | State::AfterSize, b' ' | b'\t') => self.spend(State::AfterSize)?,
                (State::Extension, b'\t' | b' '..=b'~' | 0x80..) => self.spend(State::Extension)?,
                (State::SizeLf, b'\n') if self.left == 0 => {
                    self.state = State::FirstDigit;
                    return Ok(Step::Last(at));
                }
                (State::SizeLf, b'\n') => State::Data,
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::FirstDigit,
                _ => return Err(BadChunk),
            };
        }
    }

    fn digit(&mut self, byte: u8) -> Result<(), BadChunk> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        if self.left >> 60 != 0 {
            return Err(BadChunk);
        }
        if self.left == 0 && self.state == State::Digits {
            self.spend(State::Digits)?; // a zero in front
        }
        self.left = self.left << 4 | u64::from(digit);
        Ok(())
    }

    fn spend(&mut self, next: State) -> Result<State, BadChunk> {
        self.spare = self.spare.checked_sub(1).ok_or(BadChunk)?;
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body and how much was consumed, or `None` for a refusal; the input in pieces of `piece` bytes.
    fn read(input: &[u8], piece: usize) -> Option<(Vec<u8>, Option<usize>)> {
        let mut chunked = Chunked::new(16);
        let mut body = Vec::new();
        let mut at = 0;
        while at < input.len() {
            let now = &input[at..(at + piece).min(input.len())];
            match chunked.step(now).ok()? {
                Step::Data(range) => {
                    body.extend_from_slice(&now[range.clone()]);
                    at += range.end;
                }
                Step::Last(consumed) => return Some((body, Some(at + consumed))),
                Step::More => at += now.len(),
            }
        }
        Some((body, None))
    }

    #[test]
    fn reads_what_is_chunked_and_nothing_else() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"5\r\nhello\r\n0\r\n", Some(b"hello")),
            (b"5\r\nhello\r\n6\r\n world\r\n0\r\n", Some(b"hello world")),
            (b"A\r\n0123456789\r\n0\r\n", Some(b"0123456789")),
            (b"00005\r\nhello\r\n000\r\n", Some(b"hello")),
            (b"5;a=b\r\nhello\r\n0;c\r\n", Some(b"hello")),
            (b"5;a=\";\"\r\nhello\r\n0\r\n", Some(b"hello")),
            (b"5 ; a\r\nhello\r\n0\r\n", Some(b"hello")),
            (b"5 \t\r\nhello\r\n0\r\n", Some(b"hello")),
            (b"5;01234567890123456\r\nhello\r\n0\r\n", None), // above the limit
            (b"00000000000000000000\r\n", None),              // above the limit
            (b"10000000000000005\r\nhello\r\n0\r\n", None),
            (b" 5\r\nhello\r\n0\r\n", None),
            (b"0x5\r\nhello\r\n0\r\n", None),
            (b"-5\r\nhello\r\n0\r\n", None),
            (b"+5\r\nhello\r\n0\r\n", None),
            (b"5g\r\nhello\r\n0\r\n", None),
            (b"5 5\r\nhello\r\n0\r\n", None),
            (b"\r\nhello\r\n0\r\n", None),
            (b";a\r\nhello\r\n0\r\n", None),
            (b"5\nhello\r\n0\r\n", None),
            (b"5\rhello\r\n0\r\n", None),
            (b"5\r\rhello\r\n0\r\n", None),
            (b"5;a\nhello\r\n0\r\n", None),
            (b"5;a\rb\r\nhello\r\n0\r\n", None),
            (b"5;a\0b\r\nhello\r\n0\r\n", None),
            (b"5;a\x7f\r\nhello\r\n0\r\n", None),
            (b"5\r\nhello\n0\r\n", None),
            (b"5\r\nhello0\r\n", None),
            (b"5\r\nhelloX\r\n0\r\n", None),
            (b"5\r\nhello\r0\r\n", None),
            (b"5\r\nhello\r\n\r\n0\r\n", None),
        ];
        for (input, want) in cases {
            for piece in [1, 2, 3, 7, input.len()] {
                let got = read(input, piece);
                let want = want.map(|body| (body.to_vec(), Some(input.len())));
                assert_eq!(got, want, "{} by {piece}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn the_largest_size_is_read() {
        let mut chunked = Chunked::new(0);
        assert_eq!(
            chunked.step(b"ffffffffffffffff\r\nab"),
            Ok(Step::Data(18..20))
        );
        assert_eq!(chunked.left, u64::MAX - 2);
    }
}
