//! A response's body on its way to the client, while what is left of the request goes the other way.

use std::future::poll_fn;
use std::task::{Context, Poll};

use waymark_driver::http1::Piece;

use super::client::Client;
use super::exchange::Facts;
use super::timers::{Running, Timer};
use super::upload::Upload;
use crate::cluster::{Acquired, UpstreamBroke};

/// The two sides of an exchange whose response is under way.
pub(super) struct Relay<'a, 'c> {
    pub(super) client: &'a mut Client<'c>,
    pub(super) upstream: &'a mut Acquired,
    pub(super) upload: &'a mut Upload,
    pub(super) running: &'a mut Running,
    pub(super) facts: &'a mut Facts,
}

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relayed {
    /// All of the response is passed on, trailers excluded.
    Complete,
    /// The upstream broke off.
    Upstream(UpstreamBroke),
    /// A timer ran out.
    Timeout(Timer),
    /// The client is gone, or broke off its request.
    Downstream,
}

impl Relay<'_, '_> {
    /// Passes bytes on until the response has ended.
    pub(super) async fn run(mut self) -> Relayed {
        let relayed = poll_fn(|cx| match self.poll(cx) {
            Poll::Ready(relayed) => Poll::Ready(relayed),
            // After what has moved: some timers run from then on.
            Poll::Pending => self.running.poll(cx).map(Relayed::Timeout),
        })
        .await;
        self.facts.received = self.upload.bytes();
        relayed
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Relayed> {
        let Self {
            client,
            upstream,
            upload,
            running,
            facts,
        } = self;
        if !upload.is_finished()
            && let Poll::Ready(Err(_)) = upload.poll(client, upstream, running, cx)
        {
            return Poll::Ready(Relayed::Downstream);
        }
        loop {
            match upstream.poll_body(cx) {
                Poll::Ready(Ok(Piece::Data(data))) => match client.poll_write(data, cx) {
                    Poll::Ready(Ok(put)) => {
                        upstream.consume(put);
                        facts.sent += put as u64;
                        running.touch();
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Relayed::Downstream),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Ready(Ok(Piece::Trailers)) => running.touch(),
                Poll::Ready(Ok(Piece::End)) => return Poll::Ready(Relayed::Complete),
                Poll::Ready(Err(broken)) => return Poll::Ready(Relayed::Upstream(broken)),
                Poll::Pending => break,
            }
        }
        // What was written already does not wait for more.
        if let Poll::Ready(Err(_)) = client.poll_drain(cx) {
            return Poll::Ready(Relayed::Downstream);
        }
        if upload.is_complete() && client.poll_left(cx).is_ready() {
            return Poll::Ready(Relayed::Downstream);
        }
        Poll::Pending
    }
}
