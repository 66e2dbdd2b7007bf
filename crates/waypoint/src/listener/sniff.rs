//! What a connection speaks, from its first bytes. Spec: l7-semantics.md 2.2.

use crate::program::SniffedProtocol;

/// What every HTTP/2 connection with prior knowledge begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A request line that is longer than that is none.
const MAX_REQUEST_LINE: usize = 64 * 1024;

/// The protocol, or `None` when more bytes are needed to tell.
pub(super) fn protocol(bytes: &[u8]) -> Option<SniffedProtocol> {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return None;
    }
    if bytes.starts_with(PREFACE) {
        return Some(SniffedProtocol::Http2);
    }
    // Empty lines in front of a request are skipped.
    let bytes = match bytes.iter().position(|b| !matches!(b, b'\r' | b'\n')) {
        None => {
            return if bytes.len() > MAX_REQUEST_LINE {
                Some(SniffedProtocol::Other)
            } else {
                None
            };
        }
        Some(start) => &bytes[start..],
    };
    let line = match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => &bytes[..end],
        None if bytes.len() <= MAX_REQUEST_LINE && may_become_request_line(bytes) => return None,
        None => return Some(SniffedProtocol::Other),
    };
    Some(request_line(line.strip_suffix(b"\r").unwrap_or(line)))
}

fn request_line(line: &[u8]) -> SniffedProtocol {
    let mut words = line.split(|b| *b == b' ');
    let (method, target, version, rest) = (words.next(), words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version), None) = (method, target, version, rest) else {
        return SniffedProtocol::Other;
    };
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || target.is_empty() {
        return SniffedProtocol::Other;
    }
    match version {
        b"HTTP/1.1" => SniffedProtocol::Http11,
        b"HTTP/1.0" => SniffedProtocol::Http10,
        _ => SniffedProtocol::Other,
    }
}

/// Whether a line without its end may still be a request line: a token, then perhaps a target of visible characters.
fn may_become_request_line(bytes: &[u8]) -> bool {
    let mut words = bytes.splitn(2, |b| *b == b' ');
    let method = words.next().unwrap_or_default();
    let rest = words.next().unwrap_or_default();
    method.iter().all(|b| is_token(*b)) && rest.iter().all(|b| *b >= b' ' || *b == b'\r')
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_as_measured() {
        use SniffedProtocol::{Http2, Http10, Http11, Other};
        for (bytes, want) in [
            (&b""[..], None),
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
        ] {
            assert_eq!(
                protocol(bytes),
                want,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        let long = [b"GET /".to_vec(), vec![b'a'; MAX_REQUEST_LINE]].concat();
        assert_eq!(protocol(&long), Some(Other));
    }

    proptest::proptest! {
        /// However the bytes arrive, once decided it stays decided.
        #[test]
        fn a_decision_holds(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), cut in 0usize..60) {
            let cut = cut.min(bytes.len());
            if let Some(early) = protocol(&bytes[..cut]) {
                proptest::prop_assert_eq!(Some(early), protocol(&bytes));
            }
        }
    }
}
