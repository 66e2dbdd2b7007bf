//! The timers of a stream, run as one future. Spec: l7-semantics.md 7.1.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt, LocalBoxFuture, select_all};
use http::StatusCode;
use tokio::time::{sleep, sleep_until};

use super::body::{Activity, Limit, RequestBody};
use super::local_reply::LocalReply;
use crate::telemetry::ResponseFlag;

/// gRPC's status.
const DEADLINE_EXCEEDED: u32 = 4;

/// A timer that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Timer {
    /// The route's, over all attempts.
    #[error("response_timeout")]
    Route,
    /// The life of a stream.
    #[error("max_duration_timeout")]
    MaxStream,
    /// A stream without a byte.
    #[error("stream_idle_timeout")]
    Idle,
    /// The request did not get complete.
    #[error("request_overall_timeout")]
    Request,
}

/// How long each timer of a stream runs; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Timers {
    /// From the end of the request.
    pub(super) route: Option<Duration>,
    /// From its begin.
    pub(super) max_stream: Option<Duration>,
    /// Since the last byte.
    pub(super) idle: Option<Duration>,
    /// From its begin to its end.
    pub(super) request: Option<Duration>,
}

impl Timers {
    /// Where a stream's activity has to be noted for the idle timer.
    pub(super) fn activity(&self) -> Option<Activity> {
        self.idle.map(|_| Rc::new(Cell::new(Instant::now())))
    }

    /// All of them at once; `None` when all are off, as they usually are.
    pub(super) fn start(&self, body: &RequestBody, activity: Option<&Activity>) -> Option<Limit> {
        let mut running: Vec<LocalBoxFuture<'static, Timer>> = Vec::new();
        if let Some(limit) = self.route {
            let ended = body.ended();
            running.push(
                async move {
                    let from = ended.await;
                    sleep_until((from + limit).into()).await;
                    Timer::Route
                }
                .boxed_local(),
            );
        }
        if let Some(limit) = self.max_stream {
            running.push(sleep(limit).map(|()| Timer::MaxStream).boxed_local());
        }
        if let Some(limit) = self.request.filter(|_| body.ended_at().is_none()) {
            let ended = body.ended();
            running.push(
                async move {
                    if tokio::time::timeout(limit, ended).await.is_ok() {
                        std::future::pending::<()>().await;
                    }
                    Timer::Request
                }
                .boxed_local(),
            );
        }
        if let (Some(limit), Some(activity)) = (self.idle, activity.cloned()) {
            running.push(
                async move {
                    loop {
                        let due = activity.get() + limit;
                        if due <= Instant::now() {
                            return Timer::Idle;
                        }
                        sleep_until(due.into()).await;
                    }
                }
                .boxed_local(),
            );
        }
        match running.len() {
            0 => None,
            1 => running.pop(),
            _ => Some(select_all(running).map(|(timer, _, _)| timer).boxed_local()),
        }
    }
}

impl Timer {
    /// The answer when no response headers were sent yet.
    pub(super) fn reply(self, request_complete: bool) -> LocalReply {
        let reply = |status, body| LocalReply::new(status, self.to_string()).body(body);
        match self {
            Self::Route => reply(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")
                .flag(ResponseFlag::UT),
            Self::MaxStream => {
                let mut reply = reply(StatusCode::GATEWAY_TIMEOUT, "downstream duration timeout");
                reply.grpc_status = Some(DEADLINE_EXCEEDED);
                reply
            }
            Self::Idle if request_complete => {
                reply(StatusCode::GATEWAY_TIMEOUT, "stream timeout").flag(ResponseFlag::SI)
            }
            Self::Idle => reply(StatusCode::REQUEST_TIMEOUT, "stream timeout")
                .flag(ResponseFlag::SI)
                .close(),
            Self::Request => reply(StatusCode::REQUEST_TIMEOUT, "request timeout"),
        }
    }

    /// The flag, when it cut a response off.
    pub(super) fn flag(self) -> Option<ResponseFlag> {
        match self {
            Self::Route => Some(ResponseFlag::UT),
            Self::Idle => Some(ResponseFlag::SI),
            Self::MaxStream | Self::Request => None,
        }
    }
}
