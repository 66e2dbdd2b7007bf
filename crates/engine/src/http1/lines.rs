//! Lines out of bytes that come in pieces.

/// Gives whole lines. Only what is not a whole line yet is copied.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// Whether `partial` was given as a line.
    given: bool,
}

/// What the bytes at hand hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A line without its line feed.
    Whole(&'a [u8]),
    /// No whole line; all the input is consumed. This much of a line is there.
    Part(&'a [u8]),
    /// More than `budget` bytes without a line's end; of them, at least [`SHOWN`](Lines::SHOWN).
    TooLong(&'a [u8]),
}

impl Lines {
    /// How much of a line that is too long can be seen at least.
    pub(super) const SHOWN: usize = 32;

    /// The next line of `input` from `at`, which moves on, if it has no more than `budget` bytes.
    #[inline]
    pub(super) fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        at: &mut usize,
        budget: usize,
    ) -> Line<'a> {
        if self.given {
            self.partial.clear();
            self.given = false;
        }
        let rest = input.get(*at..).unwrap_or_default();
        match memchr::memchr(b'\n', rest) {
            Some(end) if self.partial.is_empty() && end <= budget => {
                *at += end + 1;
                Line::Whole(&rest[..end])
            }
            found => self.continued(rest, found, at, budget),
        }
    }

    /// A line that began earlier, is not whole or is too long.
    #[cold]
    fn continued<'a>(
        &'a mut self,
        rest: &[u8],
        found: Option<usize>,
        at: &mut usize,
        budget: usize,
    ) -> Line<'a> {
        let piece = &rest[..found.unwrap_or(rest.len())];
        *at += piece.len() + usize::from(found.is_some());
        if self.partial.len() + piece.len() > budget {
            let missing = Self::SHOWN.saturating_sub(self.partial.len());
            let shown = piece.len().min(missing);
            self.partial.extend_from_slice(&piece[..shown]);
            return Line::TooLong(&self.partial);
        }
        self.partial.extend_from_slice(piece);
        if found.is_some() {
            self.given = true;
            Line::Whole(&self.partial)
        } else {
            Line::Part(&self.partial)
        }
    }

    /// Whether some of a line is kept.
    pub(super) fn is_amid(&self) -> bool {
        !self.given && !self.partial.is_empty()
    }

    /// Whether the input is at the beginning of a line.
    #[inline]
    pub(super) fn is_between(&self) -> bool {
        self.given || self.partial.is_empty()
    }

    /// Gives memory back; what is kept of a line stays.
    pub(super) fn release(&mut self) {
        if !self.is_amid() {
            *self = Self::default();
        }
    }
}

/// Without the carriage return at its end. Whether there was one.
#[inline]
pub(super) fn without_cr(line: &[u8]) -> (&[u8], bool) {
    match line {
        [line @ .., b'\r'] => (line, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_from_any_pieces() {
        let text = b"one\r\n\ntwo\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut got: Vec<Vec<u8>> = Vec::new();
            for piece in [&text[..cut], &text[cut..]] {
                let mut at = 0;
                while let Line::Whole(line) = lines.next(piece, &mut at, 9) {
                    got.push(line.to_vec());
                }
                assert_eq!(at, piece.len());
            }
            assert_eq!(got, [&b"one\r"[..], b"", b"two"]);
            assert!(!lines.is_amid());
        }
    }

    #[test]
    fn a_line_has_its_limit_in_pieces_and_whole() {
        let mut lines = Lines::default();
        assert_eq!(lines.next(b"abcd\n", &mut 0, 3), Line::TooLong(b"abcd"));
        let mut lines = Lines::default();
        assert_eq!(lines.next(b"ab", &mut 0, 3), Line::Part(b"ab"));
        assert_eq!(lines.next(b"cd", &mut 0, 3), Line::TooLong(b"abcd"));
        let mut lines = Lines::default();
        assert_eq!(lines.next(b"abc\n", &mut 0, 3), Line::Whole(b"abc"));
    }
}
