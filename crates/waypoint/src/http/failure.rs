//! Why an attempt gave no response, and what is made of it.

use std::sync::Arc;

use http::StatusCode;
use waymark_engine::Head;

use super::local_reply::LocalReply;
use crate::cluster::{AcquireError, UpstreamBroke};
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
}

impl Failure {
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
            Self::Denied(_) | Self::Overflow => RetryOn::default(),
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
            | Self::PerTryTimeout => None,
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
            Self::Closed => ("connection termination", "connection_termination"),
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

impl Failure {
    /// What a response that broke off is.
    pub(super) fn of_body(broke: UpstreamBroke) -> Self {
        match broke {
            // It ended in order, but before its length or its last chunk said so.
            UpstreamBroke::Truncated => Self::Protocol,
            broke => broke.into(),
        }
    }
}

impl From<UpstreamBroke> for Failure {
    fn from(broke: UpstreamBroke) -> Self {
        match broke {
            UpstreamBroke::Closed | UpstreamBroke::Truncated => Self::Closed,
            UpstreamBroke::Protocol => Self::Protocol,
            UpstreamBroke::Reset => Self::Reset,
            UpstreamBroke::Refused => Self::Refused,
        }
    }
}

/// The retry conditions that a response fulfils.
pub(super) fn response_conditions(status: u16, head: &Head, retriable: &[StatusCode]) -> RetryOn {
    use super::headers::{GRPC_STATUS, RATE_LIMITED};
    if head.contains(RATE_LIMITED) {
        return RetryOn::RATE_LIMITED;
    }
    let mut on = RetryOn::default();
    if (500..600).contains(&status) {
        on = on.union(RetryOn::SERVER_ERROR);
    }
    if matches!(status, 502..=504) {
        on = on.union(RetryOn::GATEWAY_ERROR);
    }
    if status == 409 {
        on = on.union(RetryOn::RETRIABLE_4XX);
    }
    if retriable.iter().any(|s| *s == status) {
        on = on.union(RetryOn::RETRIABLE_STATUS_CODES);
    }
    if let Some(status) = head.get_str(GRPC_STATUS).and_then(|s| s.parse().ok()) {
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
        let mut head = Head::new();
        let on = response_conditions(503, &head, &[]);
        assert!(on.intersects(RetryOn::GATEWAY_ERROR) && on.intersects(RetryOn::SERVER_ERROR));
        assert!(!on.intersects(RetryOn::RETRIABLE_STATUS_CODES));
        let on = response_conditions(404, &head, &[StatusCode::NOT_FOUND]);
        assert!(on.intersects(RetryOn::RETRIABLE_STATUS_CODES));
        head.push(waymark_engine::Field::new(b"grpc-status", b"14"));
        let on = response_conditions(200, &head, &[]);
        assert!(on.intersects(RetryOn::UNAVAILABLE));
    }
}
