//! A client's HTTP/1 connection: one request after the other, each served before the next is looked at.

use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use waymark_driver::http1::{Incoming, ServerConnection};
use waymark_driver::{Sleep, now, sleep_until, timeout};
use waymark_engine::http1::{Http10, Limits, RefusalCounts, ServerConfig, Underscores as Rule};
use waymark_hbone::Tunnel;

use super::client::{After, Client};
use super::exchange::{Exchange, http_of};
use super::request::{handle, header_timeout};
use super::{HttpConnection, Served};
use crate::program::{HttpChain, HttpTimeouts, Underscores};
use crate::signal::{Event, Listening};

/// How long an idle connection is left open when the drain has begun.
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a client may take to close its side after ours is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Serves requests until either side ends the connection.
pub(super) async fn serve(connection: &Rc<HttpConnection>, tunnel: Tunnel) {
    let chain = connection.chain.borrow().clone();
    let http = http_of(&chain);
    let mut server = ServerConnection::new(tunnel, Arc::new(config(http)));
    let mut due = Due::new(http.timeouts, &connection.worker.draining);
    let mut exchange = Exchange::new(connection, chain.clone());
    loop {
        let next = poll_fn(|cx| match server.poll_request(cx) {
            Poll::Ready(incoming) => Poll::Ready(Ok(incoming)),
            Poll::Pending => due.poll(&server, cx).map(Err),
        })
        .await;
        let mut client = Client::Http1(&mut server);
        let served = match next {
            Ok(Ok(Incoming::Request)) => {
                if due.is_old() {
                    connection.close_after_response();
                }
                handle(connection, &mut exchange, &mut client, None).await
            }
            Ok(Ok(Incoming::Refused(refusal))) => {
                handle(connection, &mut exchange, &mut client, Some(refusal)).await
            }
            Ok(Ok(Incoming::End)) | Err(Late::Connection) => Served::Answered(After::Close),
            Err(Late::Head) => header_timeout(connection, &mut exchange, &mut client).await,
            Ok(Err(_)) => Served::Answered(After::Abort),
        };
        match served {
            Served::Answered(After::Next) => due.idle_since = now(),
            Served::Answered(After::Close) => {
                // Who does not close its side in time is cut off.
                let _ = timeout(CLOSE_PATIENCE, server.close()).await;
                return;
            }
            Served::Answered(After::Abort) => return server.abort(),
            Served::Switched(switched) => {
                if poll_fn(|cx| server.poll_drain(cx)).await.is_ok() {
                    switched.relay(server.into_io(), &mut exchange).await;
                }
                return;
            }
        }
    }
}

fn config(chain: &HttpChain) -> ServerConfig {
    ServerConfig {
        limits: Limits {
            head_bytes: chain.max_request_headers_bytes as usize,
            fields: chain.max_headers as usize,
            ..Limits::DOWNSTREAM
        },
        underscores: match chain.underscores {
            Underscores::Allow => Rule::Allow,
            Underscores::Reject => Rule::Reject,
            Underscores::Drop => Rule::Drop,
        },
        http10: match chain.http1.accept_http10 {
            true => Http10::Accept { default_host: None },
            false => Http10::Refuse,
        },
        refusals: RefusalCounts::default(),
    }
}

/// When a connection that waits for a request ends although the client has not ended it.
///
/// One timer of the executor's for all reasons, which is moved only when something is due earlier.
struct Due {
    limits: HttpTimeouts,
    began: Instant,
    idle_since: Instant,
    /// When the drain began, as far as was seen, and when the head began to come.
    draining_since: Option<Instant>,
    drain: Listening,
    head_since: Option<Instant>,
    sleep: Option<Sleep>,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Late {
    /// The connection is due to end.
    Connection,
    /// The head of a request.
    Head,
}

impl Due {
    fn new(limits: HttpTimeouts, drain: &Event) -> Self {
        let began = now();
        Self {
            limits,
            began,
            idle_since: began,
            draining_since: None,
            drain: drain.listen(),
            head_since: None,
            sleep: None,
        }
    }

    /// Whether the connection has lived as long as it may.
    fn is_old(&self) -> bool {
        let limit = self.limits.max_connection;
        limit.is_some_and(|limit| now() - self.began >= limit)
    }

    fn poll(&mut self, server: &ServerConnection<Tunnel>, cx: &mut Context<'_>) -> Poll<Late> {
        if self.drain.poll(cx).is_ready() {
            self.draining_since.get_or_insert_with(now);
        }
        if server.is_idle() {
            self.head_since = None;
        } else {
            self.head_since.get_or_insert_with(now);
        }
        let Some((at, late)) = self.next() else {
            return Poll::Pending;
        };
        if at <= now() {
            return Poll::Ready(late);
        }
        let sleep = self.sleep.get_or_insert_with(|| sleep_until(at));
        if sleep.deadline() > at || sleep.deadline() <= now() {
            sleep.reset(at);
        }
        Pin::new(sleep).poll(cx).map(|()| late)
    }

    fn next(&self) -> Option<(Instant, Late)> {
        let HttpTimeouts {
            idle,
            max_connection,
            request_headers,
            ..
        } = self.limits;
        let idle = idle.map(|limit| self.idle_since + limit);
        let max = max_connection.map(|limit| self.began + limit);
        // The client learns it from its next response; one that sends none is not cut off right when it might be about to.
        let drained = self
            .draining_since
            .map(|since| since.max(self.idle_since) + DRAIN_PATIENCE);
        let head = self.head_since.zip(request_headers);
        [idle, max, drained]
            .into_iter()
            .flatten()
            .map(|at| (at, Late::Connection))
            .chain(head.map(|(since, limit)| (since + limit, Late::Head)))
            .min_by_key(|(at, _)| *at)
    }
}
