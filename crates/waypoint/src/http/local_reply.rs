//! Answers of our own: status, body, flag and details as Envoy gives them. Spec: l7-semantics.md 10.

use std::borrow::Cow;

use http::StatusCode;
use waymark_engine::http1::{Refusal, ReplyKind};
use waymark_engine::{Field, Head};

use super::headers::{DIGITS, GRPC_MESSAGE, GRPC_STATUS, OVERLOADED, decimal};
use crate::telemetry::ResponseFlag;

/// An answer that no upstream gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LocalReply {
    /// The status, before it is told in gRPC's way.
    pub(super) status: StatusCode,
    /// The body, if any.
    pub(super) body: Cow<'static, str>,
    /// What the access log says.
    pub(super) flag: Option<ResponseFlag>,
    /// In one word.
    pub(super) details: Cow<'static, str>,
    /// The gRPC status, where it is not the one that goes with the HTTP status.
    pub(super) grpc_status: Option<u32>,
    /// The `location` header.
    pub(super) location: Option<String>,
    /// A circuit breaker said it.
    pub(super) overloaded: bool,
    /// The connection ends with it.
    pub(super) close: bool,
}

impl LocalReply {
    /// A reply without body or flag.
    pub(super) fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Cow::Borrowed(""),
            flag: None,
            details: details.into(),
            grpc_status: None,
            location: None,
            overloaded: false,
            close: false,
        }
    }

    /// With a body.
    pub(super) fn body(mut self, body: impl Into<Cow<'static, str>>) -> Self {
        self.body = body.into();
        self
    }

    /// With a flag.
    pub(super) fn flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Ends the connection.
    pub(super) fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// What a codec refused. Spec: l7-semantics.md 3.1.
    pub(super) fn refused(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        let mut reply = Self::new(status, refusal.details()).body(refusal.body());
        reply.close = refusal.closes();
        reply.flag = match (refusal, refusal.kind()) {
            (Refusal::Connect, _) => Some(ResponseFlag::NR),
            (_, ReplyKind::Codec) => Some(ResponseFlag::DPE),
            (_, ReplyKind::Manager) => None,
        };
        reply
    }

    /// 404 without a route.
    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "route_not_found").flag(ResponseFlag::NR)
    }

    /// The route's cluster does not exist.
    pub(super) fn no_cluster(status: StatusCode) -> Self {
        Self::new(status, "cluster_not_found").flag(ResponseFlag::NC)
    }

    /// The cluster has no healthy endpoint.
    pub(super) fn no_healthy_upstream() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_healthy_upstream")
            .body("no healthy upstream")
            .flag(ResponseFlag::UH)
    }

    /// An attempt took too long.
    pub(super) fn timeout(details: &'static str) -> Self {
        let flag = if details == "stream_idle_timeout" {
            ResponseFlag::SI
        } else {
            ResponseFlag::UT
        };
        Self::new(StatusCode::GATEWAY_TIMEOUT, details)
            .body("upstream request timeout")
            .flag(flag)
    }

    /// The status that the client sees.
    pub(super) fn status_for(&self, grpc: bool) -> u16 {
        match grpc && self.location.is_none() {
            true => 200,
            false => self.status.as_u16(),
        }
    }

    /// Writes status and headers into `head`, which may have headers already: those stay. Gives whether a body goes with it; a
    /// client that speaks gRPC gets trailers only.
    pub(super) fn write(&self, grpc: bool, body_len: usize, head: &mut Head) -> bool {
        if grpc && self.location.is_none() {
            self.write_grpc(head);
            return false;
        }
        head.set_status(self.status.as_u16());
        if self.overloaded {
            head.insert_if_absent(Field::new(OVERLOADED, b"true"));
        }
        if let Some(location) = &self.location {
            head.insert_if_absent(Field::new(b"location", location.as_bytes()));
        }
        if body_len > 0 {
            let mut digits = [0; DIGITS];
            let length = decimal(body_len as u64, &mut digits);
            head.insert_if_absent(Field::new(b"content-length", length));
            head.insert_if_absent(Field::new(b"content-type", b"text/plain"));
        }
        true
    }

    fn write_grpc(&self, head: &mut Head) {
        head.set_status(200);
        if self.overloaded {
            head.insert_if_absent(Field::new(OVERLOADED, b"true"));
        }
        head.insert_if_absent(Field::new(b"content-type", b"application/grpc"));
        let status = self
            .grpc_status
            .unwrap_or_else(|| grpc_status_of(self.status));
        let mut digits = [0; DIGITS];
        let status = decimal(u64::from(status), &mut digits);
        head.insert_if_absent(Field::new(GRPC_STATUS, status));
        if !self.body.is_empty() {
            let message = percent_encode(&self.body);
            head.insert_if_absent(Field::new(GRPC_MESSAGE, message.as_bytes()));
        }
    }
}

/// gRPC's status for an HTTP status.
pub(super) fn grpc_status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// As gRPC encodes a message: everything but printable ASCII, and `%`.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if (0x20..0x7f).contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &LocalReply, grpc: bool) -> (Head, bool) {
        let mut head = Head::new();
        let has_body = reply.write(grpc, reply.body.len(), &mut head);
        (head, has_body)
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_answer() {
        let (head, has_body) = written(&LocalReply::no_healthy_upstream(), true);
        assert_eq!(head.status(), Some(200));
        assert!(!has_body);
        assert_eq!(head.get_str(b"grpc-status"), Some("14"));
        assert_eq!(head.get_str(b"grpc-message"), Some("no healthy upstream"));
        let (head, _) = written(&LocalReply::no_route(), true);
        assert_eq!(head.get_str(b"grpc-status"), Some("12"));
        assert!(!head.contains(b"grpc-message"));
    }

    #[test]
    fn an_http_client_gets_text() {
        let (head, has_body) = written(&LocalReply::no_healthy_upstream(), false);
        assert_eq!((head.status(), has_body), (Some(503), true));
        assert_eq!(head.get_str(b"content-length"), Some("19"));
        assert_eq!(head.get_str(b"content-type"), Some("text/plain"));
        let (head, _) = written(&LocalReply::no_route(), false);
        assert_eq!(head.field_count(), 0);
    }

    #[test]
    fn what_the_route_says_about_a_header_counts() {
        let mut head = Head::new();
        head.push(Field::new(b"content-type", b"text/html"));
        LocalReply::no_healthy_upstream().write(false, 19, &mut head);
        assert_eq!(head.get_str(b"content-type"), Some("text/html"));
    }

    #[test]
    fn a_codecs_refusal_is_told_as_envoy_tells_it() {
        let reply = LocalReply::refused(Refusal::TooLarge);
        assert_eq!(reply.status.as_u16(), 431);
        assert_eq!(reply.body, "Request Header Fields Too Large");
        assert_eq!(reply.flag, Some(ResponseFlag::DPE));
        assert!(reply.close);
        let reply = LocalReply::refused(Refusal::AbsolutePath);
        assert_eq!((reply.status.as_u16(), reply.close), (404, false));
        assert_eq!((reply.flag, &*reply.body), (None, ""));
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("a 100% é\n"), "a 100%25 %C3%A9%0A");
    }
}
