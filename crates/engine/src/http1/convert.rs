//! Heads of HTTP/1.1 for HTTP/2 and the other way round, as Envoy makes them.
//!
//! Both versions share [`Head`], names are lower-case and `host` is `:authority` in both, and what belongs to an HTTP/1.1
//! connection is gone before a head comes out of [`Server`](super::Server) or [`Client`](super::Client). What remains is the
//! framing, crumbs of cookies, and upgrades. Trailers are not passed on towards HTTP/1.1 (l7-semantics.md 3.1): give none to
//! `finish`.

use super::fields::BodyLength;
use crate::head::{Field, Head};

/// Makes a request that came by HTTP/2 one of HTTP/1.1, and says how its body is framed. `ended` is whether the stream ended with
/// the head.
///
/// Crumbs of `cookie` are joined; an extended CONNECT becomes an upgrade.
pub fn request_to_http1(head: &mut Head, ended: bool) -> BodyLength {
    head.join_cookies();
    remove_connection_specific(head);
    let te = head.get(b"te").map(|coding| coding == b"trailers");
    if te == Some(false) {
        head.remove(b"te");
    }
    if let Some(protocol) = head.protocol() {
        let protocol = protocol.to_vec();
        head.remove_protocol();
        head.set_method(b"GET");
        head.remove(b"content-length");
        head.push(Field::new(b"connection", b"upgrade"));
        head.push(Field::new(b"upgrade", &protocol));
        return BodyLength::None; // what follows is the protocol's
    }
    framing(head, ended)
}

/// Makes a request that came by HTTP/1.1 one of HTTP/2: `:scheme` and `:authority` are there, `host` and what belongs to the
/// connection isn't. An upgrade has to be made a CONNECT first, see [`upgrade_to_connect`], else it is none any more.
pub fn request_to_http2(head: &mut Head, scheme: &[u8]) {
    if head.scheme().is_none() && head.method() != Some(b"CONNECT") {
        head.set_scheme(scheme);
    }
    let host = head
        .fields
        .iter()
        .position(|span| &head.bytes[span.name()] == b"host");
    if let Some(host) = host {
        let value = head.fields.remove(host).value();
        if head.wire_fields().all(|f| f.name != b":authority") {
            head.set_authority_within(value);
        }
        head.remove(b"host");
    }
    remove_connection_specific(head);
}

/// Makes a request for an upgrade an extended CONNECT (RFC 8441). Whether it was one.
pub fn upgrade_to_connect(head: &mut Head) -> bool {
    let upgrade = head
        .fields
        .iter()
        .position(|span| &head.bytes[span.name()] == b"upgrade");
    let Some(upgrade) = upgrade else {
        return false;
    };
    let value = head.fields[upgrade].value();
    head.set_protocol_within(value);
    head.set_method(b"CONNECT");
    if head.get(b"content-length") == Some(b"0") {
        head.remove(b"content-length");
    }
    remove_connection_specific(head);
    true
}

/// Makes a response that came by HTTP/2 one of HTTP/1.1, and says how its body is framed. `ended` is whether the stream ended
/// with the head.
pub fn response_to_http1(head: &mut Head, ended: bool) -> BodyLength {
    remove_connection_specific(head);
    framing(head, ended)
}

/// Makes a response that came by HTTP/1.1 one of HTTP/2.
pub fn response_to_http2(head: &mut Head) {
    remove_connection_specific(head);
}

/// The status of the answer to an upgrade, in the words of the other version: 101 and 200 are the same thing.
#[must_use]
pub fn upgrade_response(status: u16, to_http2: bool) -> u16 {
    match (status, to_http2) {
        (101, true) => 200,
        (200, false) => 101,
        (status, _) => status,
    }
}

fn framing(head: &Head, ended: bool) -> BodyLength {
    match head.content_length() {
        Some(length) => BodyLength::Length(length),
        None if ended => BodyLength::None,
        None => BodyLength::Chunked,
    }
}

fn remove_connection_specific(head: &mut Head) {
    head.retain(|field| {
        !matches!(
            field.name,
            b"connection"
                | b"keep-alive"
                | b"proxy-connection"
                | b"transfer-encoding"
                | b"upgrade"
                | b"http2-settings"
        )
    });
}
