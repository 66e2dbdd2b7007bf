//! Why an attempt gave no response, and what is made of it.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use http::StatusCode;

use super::local_reply::LocalReply;
use crate::cluster::AcquireError;
use crate::originate::DialError;
use crate::route::RetryOn;
use crate::telemetry::ResponseFlag;

/// Why an attempt gave no response headers.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// No connection: refused, TLS failed, the tunnel's far end said no.
    Connect(Arc<str>),
    /// No connection in time.
    ConnectTimeout,
    /// The destination denies the waypoint; no other attempt would fare better.
    Denied(StatusCode),
    /// A circuit breaker is open.
    Overflow,
    /// The upstream closed the connection.
    Closed,
    /// HTTP/2 RST_STREAM.
    Reset,
    /// HTTP/2 REFUSED_STREAM, or a GOAWAY before the stream was looked at.
    Refused,
    /// What came is no HTTP.
    Protocol,
    /// `per_try_timeout`.
    PerTryTimeout,
    /// The client's request broke off.
    Downstream,
}

impl Failure {
    /// What hyper says about a request that was sent.
    pub(super) fn of_sent(e: &hyper::Error, request_broken: bool) -> Self {
        if request_broken {
            return Self::Downstream;
        }
        if let Some(h2) = e.source().and_then(|s| s.downcast_ref::<h2::Error>()) {
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
                Some(h2::Reason::NO_ERROR) if h2.is_go_away() => Self::Refused,
                Some(h2::Reason::PROTOCOL_ERROR) => Self::Protocol,
                Some(_) if h2.is_reset() => Self::Reset,
                Some(_) | None => Self::Closed,
            };
        }
        if e.is_parse() || e.is_parse_status() {
            return Self::Protocol;
        }
        Self::Closed
    }

    /// What hyper says about a response that broke off.
    pub(super) fn of_body(e: &hyper::Error) -> Self {
        let io = e.source().and_then(|s| s.downcast_ref::<io::Error>());
        if io.is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof) {
            // It ended in order, but before its length or its last chunk said so.
            return Self::Protocol;
        }
        Self::of_sent(e, false)
    }

    /// The retry conditions that it fulfils.
    pub(super) fn conditions(&self) -> RetryOn {
        let any_reset = RetryOn::RESET
            .union(RetryOn::SERVER_ERROR)
            .union(RetryOn::GATEWAY_ERROR);
        match self {
            Self::Connect(_) | Self::ConnectTimeout => any_reset
                .union(RetryOn::CONNECT_FAILURE)
                .union(RetryOn::RESET_BEFORE_REQUEST),
            Self::Refused => any_reset.union(RetryOn::REFUSED_STREAM),
            Self::Closed | Self::Reset | Self::Protocol | Self::PerTryTimeout => any_reset,
            Self::Denied(_) | Self::Overflow | Self::Downstream => RetryOn::default(),
        }
    }

    /// The operator's text, where a connection did not come up.
    pub(super) fn transport_reason(&self) -> Option<Arc<str>> {
        match self {
            Self::Connect(why) => Some(Arc::clone(why)),
            Self::Denied(status) => Some(format!("CONNECT answered {status}").into()),
            Self::ConnectTimeout
            | Self::Overflow
            | Self::Closed
            | Self::Reset
            | Self::Refused
            | Self::Protocol
            | Self::PerTryTimeout
            | Self::Downstream => None,
        }
    }

    /// The flag.
    pub(super) fn flag(&self) -> ResponseFlag {
        match self {
            Self::Connect(_) | Self::ConnectTimeout | Self::Denied(_) => ResponseFlag::UF,
            Self::Overflow => ResponseFlag::UO,
            Self::Closed => ResponseFlag::UC,
            Self::Reset | Self::Refused => ResponseFlag::UR,
            Self::Protocol => ResponseFlag::UPE,
            Self::PerTryTimeout => ResponseFlag::UT,
            Self::Downstream => ResponseFlag::DC,
        }
    }

    /// What reset the stream, in words and in one; `None`: a timer.
    pub(super) fn reason(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Connect(_) | Self::Denied(_) => {
                ("remote connection failure", "remote_connection_failure")
            }
            Self::ConnectTimeout => ("connection timeout", "connection_timeout"),
            Self::Overflow => ("overflow", "overflow"),
            Self::Closed | Self::Downstream => ("connection termination", "connection_termination"),
            Self::Reset => ("remote reset", "remote_reset"),
            Self::Refused => ("remote refused stream reset", "remote_refused_stream_reset"),
            Self::Protocol => ("protocol error", "protocol_error"),
            Self::PerTryTimeout => return None,
        })
    }

    /// The answer, after `retries` retries.
    pub(super) fn reply(&self, retries: u32) -> LocalReply {
        let Some((reason, short)) = self.reason() else {
            return LocalReply::timeout("upstream_per_try_timeout");
        };
        let status = match self {
            Self::Protocol => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let before = "upstream connect error or disconnect/reset before headers.";
        let body = match retries {
            0 => format!("{before} reset reason: {reason}"),
            _ => format!("{before} retried and the latest reset reason: {reason}"),
        };
        let details = match self.transport_reason() {
            None => format!("upstream_reset_before_response_started{{{short}}}"),
            Some(why) => {
                let why = why.replace(' ', "_");
                format!("upstream_reset_before_response_started{{{short}|{why}}}")
            }
        };
        let mut reply = LocalReply::new(status, details)
            .body(body)
            .flag(self.flag());
        reply.overloaded = matches!(self, Self::Overflow);
        reply
    }
}

impl From<AcquireError> for Failure {
    fn from(e: AcquireError) -> Self {
        match e {
            AcquireError::Overflow => Self::Overflow,
            AcquireError::Dial(DialError::Timeout) => Self::ConnectTimeout,
            AcquireError::Dial(DialError::Failed(why)) => Self::Connect(why),
            AcquireError::Dial(DialError::Denied(status)) => Self::Denied(status),
        }
    }
}

/// The retry conditions that a response fulfils.
pub(super) fn response_conditions(
    status: StatusCode,
    headers: &http::HeaderMap,
    retriable: &[StatusCode],
) -> RetryOn {
    use super::headers::{GRPC_STATUS, RATE_LIMITED};
    if headers.contains_key(&RATE_LIMITED) {
        return RetryOn::RATE_LIMITED;
    }
    let mut on = RetryOn::default();
    if status.is_server_error() {
        on = on.union(RetryOn::SERVER_ERROR);
    }
    if matches!(status.as_u16(), 502..=504) {
        on = on.union(RetryOn::GATEWAY_ERROR);
    }
    if status == StatusCode::CONFLICT {
        on = on.union(RetryOn::RETRIABLE_4XX);
    }
    if retriable.contains(&status) {
        on = on.union(RetryOn::RETRIABLE_STATUS_CODES);
    }
    let grpc = headers.get(&GRPC_STATUS).and_then(|v| v.to_str().ok());
    if let Some(status) = grpc.and_then(|s| s.parse().ok()) {
        on = on.union(RetryOn::of_grpc_status(status));
    }
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_retries_what_upstream_retries() {
        let default = RetryOn::parse(
            "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        );
        let default = default.unwrap_or_default();
        for (failure, want) in [
            (Failure::Connect("refused".into()), true),
            (Failure::ConnectTimeout, true),
            (Failure::Refused, true),
            (Failure::Closed, false),
            (Failure::Reset, false),
            (Failure::Protocol, false),
            (Failure::PerTryTimeout, false),
            (Failure::Overflow, false),
            (Failure::Denied(StatusCode::FORBIDDEN), false),
            (Failure::Downstream, false),
        ] {
            assert_eq!(
                failure.conditions().intersects(default),
                want,
                "{failure:?}"
            );
        }
    }

    #[test]
    fn replies_as_measured() {
        let reply = Failure::Connect("delayed connect error: Connection refused".into()).reply(0);
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        let reply = Failure::Closed.reply(2);
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. \
             retried and the latest reset reason: connection termination"
        );
        assert_eq!(reply.flag, Some(ResponseFlag::UC));
        assert_eq!(Failure::Protocol.reply(0).status, StatusCode::BAD_GATEWAY);
        assert!(Failure::Overflow.reply(0).overloaded);
        assert_eq!(
            Failure::PerTryTimeout.reply(1).details,
            "upstream_per_try_timeout"
        );
    }

    #[test]
    fn responses_fulfil_their_conditions() {
        let mut headers = http::HeaderMap::new();
        let on = response_conditions(StatusCode::SERVICE_UNAVAILABLE, &headers, &[]);
        assert!(on.intersects(RetryOn::GATEWAY_ERROR) && on.intersects(RetryOn::SERVER_ERROR));
        assert!(!on.intersects(RetryOn::RETRIABLE_STATUS_CODES));
        let on = response_conditions(StatusCode::NOT_FOUND, &headers, &[StatusCode::NOT_FOUND]);
        assert!(on.intersects(RetryOn::RETRIABLE_STATUS_CODES));
        headers.insert("grpc-status", http::HeaderValue::from_static("14"));
        let on = response_conditions(StatusCode::OK, &headers, &[]);
        assert!(on.intersects(RetryOn::UNAVAILABLE));
    }
}
