//! Answers of our own: status, body, flag and details as Envoy gives them. Spec: l7-semantics.md 10.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::headers::{GRPC_MESSAGE, GRPC_STATUS, OVERLOADED};
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
    pub(super) location: Option<HeaderValue>,
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

    /// The response; trailers-only where the client speaks gRPC. `body` is sent instead of the reply's own text.
    pub(super) fn response(&self, grpc: bool, body: Option<Bytes>) -> (Response<()>, Bytes) {
        let mut response = Response::new(());
        let body = body.unwrap_or_else(|| match &self.body {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::copy_from_slice(text.as_bytes()),
        });
        if grpc && self.location.is_none() {
            self.write_grpc(response.headers_mut());
            return (response, Bytes::new());
        }
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.overloaded {
            headers.insert(OVERLOADED.clone(), HeaderValue::from_static("true"));
        }
        if let Some(location) = &self.location {
            headers.insert(LOCATION, location.clone());
        }
        if !body.is_empty() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        (response, body)
    }

    fn write_grpc(&self, headers: &mut HeaderMap) {
        if self.overloaded {
            headers.insert(OVERLOADED.clone(), HeaderValue::from_static("true"));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let status = self
            .grpc_status
            .unwrap_or_else(|| grpc_status_of(self.status));
        headers.insert(GRPC_STATUS.clone(), HeaderValue::from(status));
        if !self.body.is_empty()
            && let Ok(message) = HeaderValue::from_str(&percent_encode(&self.body))
        {
            headers.insert(GRPC_MESSAGE.clone(), message);
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

    #[test]
    fn a_grpc_client_gets_a_grpc_answer() {
        let (response, body) = LocalReply::no_healthy_upstream().response(true, None);
        assert_eq!(response.status(), StatusCode::OK);
        assert!(body.is_empty());
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
        let (response, _) = LocalReply::no_route().response(true, None);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert!(!response.headers().contains_key("grpc-message"));
    }

    #[test]
    fn an_http_client_gets_text() {
        let (response, body) = LocalReply::no_healthy_upstream().response(false, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "no healthy upstream");
        assert_eq!(response.headers()["content-type"], "text/plain");
        let (response, body) = LocalReply::no_route().response(false, None);
        assert!(body.is_empty() && response.headers().is_empty());
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encode("a 100% é\n"), "a 100%25 %C3%A9%0A");
    }
}
