//! PINGs that notice a dead peer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// Sends a PING `interval` after the start and after each answer, and gives up when an answer takes `timeout`.
///
/// One timer a connection, which the answer moves: nothing is armed per request.
pub(crate) struct Keepalive {
    ping_pong: PingPong,
    timer: Pin<Box<Sleep>>,
    interval: Duration,
    timeout: Duration,
    waiting: bool,
}

/// The peer did not answer a PING in time, or the connection is over.
#[derive(Debug)]
pub(crate) struct Dead;

impl Keepalive {
    pub(crate) fn new(ping_pong: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self {
            ping_pong,
            timer: Box::pin(sleep(interval)),
            interval,
            timeout,
            waiting: false,
        }
    }

    /// Never ready but with the end; has to be polled by the task that drives the connection.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Dead> {
        loop {
            if self.waiting {
                match self.ping_pong.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.timer.as_mut().reset(Instant::now() + self.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Dead),
                    Poll::Pending => {
                        return self.timer.as_mut().poll(cx).map(|()| Dead);
                    }
                }
            } else {
                if self.timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.ping_pong.send_ping(Ping::opaque()).is_err() {
                    return Poll::Ready(Dead);
                }
                self.waiting = true;
                self.timer.as_mut().reset(Instant::now() + self.timeout);
            }
        }
    }
}
