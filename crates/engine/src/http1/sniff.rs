//! What a connection speaks, from its first bytes. Spec: l7-semantics.md 2.2.

use super::chars;

/// What every HTTP/2 connection with prior knowledge begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection say that it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// The preface of HTTP/2.
    Http2,
    /// A request line of HTTP/1.1, of whatever method.
    Http11,
    /// A request line of HTTP/1.0.
    Http10,
    /// Anything else, TLS for example.
    Other,
}

/// A request line that is longer than that is none.
const MAX_REQUEST_LINE: usize = 64 * 1024;

/// What a connection that begins like that speaks, or `None` when it takes more bytes to tell. What is decided stays decided,
/// however many bytes are looked at.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Sniffed> {
    if bytes.starts_with(PREFACE) {
        return Some(Sniffed::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let start = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'));
    let Some(start) = start else {
        return (bytes.len() > MAX_REQUEST_LINE).then_some(Sniffed::Other);
    };
    let bytes = &bytes[start..];
    match memchr::memchr(b'\n', bytes) {
        Some(end) if end <= MAX_REQUEST_LINE => {
            Some(request_line(super::lines::without_cr(&bytes[..end]).0))
        }
        None if bytes.len() <= MAX_REQUEST_LINE && may_become_request_line(bytes) => None,
        Some(_) | None => Some(Sniffed::Other),
    }
}

/// Whether the connection speaks HTTP/2, where only HTTP is spoken (a declared HTTP port). `None` when it takes more bytes to
/// tell.
#[must_use]
pub fn is_http2(bytes: &[u8]) -> Option<bool> {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return None;
    }
    Some(bytes.starts_with(PREFACE))
}

fn request_line(line: &[u8]) -> Sniffed {
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Sniffed::Other;
    };
    let is_method = !method.is_empty() && chars::token_len(method) == method.len();
    let is_target = !target.is_empty() && target.iter().all(|b| *b > b' ');
    match version {
        _ if !is_method || !is_target => Sniffed::Other,
        b"HTTP/1.1" => Sniffed::Http11,
        b"HTTP/1.0" => Sniffed::Http10,
        _ => Sniffed::Other,
    }
}

/// Whether a line without its end may still be a request line: a token, then perhaps a target of visible characters.
fn may_become_request_line(bytes: &[u8]) -> bool {
    let (method, rest) = bytes.split_at(chars::token_len(bytes));
    match rest {
        [] => true,
        [b' ', rest @ ..] => !method.is_empty() && rest.iter().all(|b| matches!(b, b' '.. | b'\r')),
        [_, ..] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decides_as_measured() {
        use Sniffed::{Http2, Http10, Http11, Other};
        let cases: &[(&[u8], Option<Sniffed>)] = &[
            (b"", None),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (PREFACE, Some(Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(Other)),
            (b"GET /", None),
            (b"GET / HTTP/1.1\r\n", Some(Http11)),
            (b"GET / HTTP/1.1\nHost: x", Some(Http11)),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Some(Http11)),
            (b"FOO / HTTP/1.1\r\n", Some(Http11)),
            (b"GET / HTTP/1.0\r\n", Some(Http10)),
            (b"GET / HTTP/3.0\r\n", Some(Other)),
            (b"GET  / HTTP/1.1\r\n", Some(Other)),
            (b"hello\n", Some(Other)),
            (b"hello", None),
            (b"\x16\x03\x01", Some(Other)),
            (b"EHLO \x00", Some(Other)),
            (b"GET /\x01", Some(Other)),
            (b"GET\r", Some(Other)),
        ];
        for (bytes, want) in cases {
            assert_eq!(sniff(bytes), *want, "{}", bytes.escape_ascii());
        }
        let long = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST_LINE]].concat();
        assert_eq!(sniff(&long), Some(Other));
        assert_eq!(is_http2(b"PRI"), None);
        assert_eq!(is_http2(b"PRX"), Some(false));
        assert_eq!(is_http2(PREFACE), Some(true));
    }

    proptest! {
        #[test]
        fn a_decision_holds(bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..60),
            "[\r\n]{0,3}[A-Z]{1,4} {0,2}/[a-z\r\x01]{0,3} ?HTTP/1.[019]\r?\n?".prop_map(String::into_bytes),
        ], cut in 0usize..60) {
            let cut = cut.min(bytes.len());
            if let Some(early) = sniff(&bytes[..cut]) {
                prop_assert_eq!(Some(early), sniff(&bytes));
            }
        }
    }
}
