//! The timers of a stream. Spec: l7-semantics.md 7.1.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::StatusCode;
use waymark_driver::{Sleep, now, sleep_until};

use super::local_reply::LocalReply;
use crate::telemetry::ResponseFlag;

/// gRPC's status.
const DEADLINE_EXCEEDED: u32 = 4;

/// A timer that ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The route's, over all attempts.
    Route,
    /// The life of a stream.
    MaxStream,
    /// A stream without a byte.
    Idle,
    /// The request did not get complete.
    Request,
    /// The attempt's.
    PerTry,
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

/// The timers of a stream that runs.
///
/// All of them share one timer of the executor's, which is moved only when something is due earlier: what comes later is looked
/// at when it fires. With all of them off, as they usually are, nothing is done.
#[derive(Debug)]
pub(super) struct Running {
    limits: Timers,
    began: Instant,
    /// When a byte came or went last.
    touched: Instant,
    /// When the request was complete.
    complete: Option<Instant>,
    /// When the attempt began, and how long it may take from then on or from the end of the request.
    attempt: Option<(Instant, Duration)>,
    sleep: Option<Sleep>,
    any: bool,
}

impl Running {
    /// Starts the timers.
    pub(super) fn start(limits: Timers) -> Self {
        let began = now();
        Self {
            limits,
            began,
            touched: began,
            complete: None,
            attempt: None,
            sleep: None,
            any: limits != Timers::default(),
        }
    }

    /// A byte came or went.
    pub(super) fn touch(&mut self) {
        if self.any {
            self.touched = now();
        }
    }

    /// The request is complete.
    pub(super) fn complete(&mut self) {
        self.complete.get_or_insert_with(now);
    }

    /// When the request was complete, if it is.
    pub(super) fn completed(&self) -> Option<Instant> {
        self.complete
    }

    /// An attempt begins, or, with `None`, no limit of one holds any more.
    pub(super) fn attempt(&mut self, limit: Option<Duration>) {
        self.attempt = limit.map(|limit| (now(), limit));
        self.any = limit.is_some() || self.limits != Timers::default();
    }

    /// Waits until one runs out.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Timer> {
        if !self.any {
            return Poll::Pending;
        }
        let Some((due, timer)) = self.next() else {
            return Poll::Pending;
        };
        if due <= now() {
            return Poll::Ready(timer);
        }
        let sleep = self.sleep.get_or_insert_with(|| sleep_until(due));
        if sleep.deadline() > due || sleep.deadline() <= now() {
            sleep.reset(due);
        }
        // It is not due: what it was set for that is past was just set anew.
        Pin::new(sleep).poll(cx).map(|()| timer)
    }

    fn next(&self) -> Option<(Instant, Timer)> {
        let Timers {
            route,
            max_stream,
            idle,
            request,
        } = self.limits;
        let route = self
            .complete
            .and_then(|at| Some((at + route?, Timer::Route)));
        let attempt = self
            .complete
            .and_then(|at| self.attempt.map(|(began, limit)| (at.max(began), limit)))
            .map(|(from, limit)| (from + limit, Timer::PerTry));
        let max_stream = max_stream.map(|limit| (self.began + limit, Timer::MaxStream));
        let idle = idle.map(|limit| (self.touched + limit, Timer::Idle));
        let request = request
            .filter(|_| self.complete.is_none())
            .map(|limit| (self.began + limit, Timer::Request));
        [route, max_stream, request, idle, attempt]
            .into_iter()
            .flatten()
            .min_by_key(|(due, _)| *due)
    }
}

impl Timer {
    /// What the access log says.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Route => "response_timeout",
            Self::MaxStream => "max_duration_timeout",
            Self::Idle => "stream_idle_timeout",
            Self::Request => "request_overall_timeout",
            Self::PerTry => "upstream_per_try_timeout",
        }
    }

    /// The answer when no response headers were sent yet.
    pub(super) fn reply(self, request_complete: bool) -> LocalReply {
        let reply = |status, body| LocalReply::new(status, self.details()).body(body);
        match self {
            Self::Route | Self::PerTry => {
                reply(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")
                    .flag(ResponseFlag::UT)
            }
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
            Self::Route | Self::PerTry => Some(ResponseFlag::UT),
            Self::Idle => Some(ResponseFlag::SI),
            Self::MaxStream | Self::Request => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_earliest_timer_is_next() {
        let mut running = Running::start(Timers {
            route: Some(SECOND),
            max_stream: Some(10 * SECOND),
            idle: Some(5 * SECOND),
            request: Some(2 * SECOND),
        });
        let began = running.began;
        assert_eq!(running.next(), Some((began + 2 * SECOND, Timer::Request)));
        running.complete = Some(began + SECOND);
        assert_eq!(running.next(), Some((began + 2 * SECOND, Timer::Route)));
        running.attempt = Some((began, SECOND / 2));
        let due = began + SECOND + SECOND / 2;
        assert_eq!(running.next(), Some((due, Timer::PerTry)));
        running.limits = Timers {
            idle: Some(5 * SECOND),
            ..Timers::default()
        };
        running.attempt = None;
        running.touched = began + SECOND;
        assert_eq!(running.next(), Some((began + 6 * SECOND, Timer::Idle)));
    }

    #[test]
    fn none_runs_where_all_are_off() {
        let mut running = Running::start(Timers::default());
        running.complete();
        assert_eq!(running.next(), None);
        assert!(!running.any);
    }
}
