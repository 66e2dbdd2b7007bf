//! A request's body on its way to the upstream, kept for another attempt up to a limit.

use std::task::{Context, Poll, ready};

use waymark_driver::http1::Piece;
use waymark_engine::Head;
use waymark_engine::http1::BodyLength;

use super::client::{Client, ClientBroke};
use super::timers::Running;
use crate::cluster::Acquired;

/// A request's body, as far as it came.
pub(super) struct Upload {
    /// How the body is framed.
    length: BodyLength,
    /// What was sent, while it can be sent again.
    kept: Option<Vec<u8>>,
    keep_limit: usize,
    /// How much of what is kept this attempt has.
    sent: usize,
    trailers: Option<Box<Head>>,
    /// All has come.
    complete: bool,
    attempt: Attempt,
    bytes: u64,
}

/// What the attempt has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// Not all.
    Sending,
    /// All, but the last of it may wait for room.
    Told,
    /// All.
    Finished,
    /// The upstream takes nothing any more; what it says counts.
    Deaf,
}

/// Why an upload goes no further.
pub(super) enum Stuck {
    /// The client's side broke.
    Client(ClientBroke),
    /// The connection to the upstream turned out to be closed before anything of the request was sent.
    NothingSent,
}

impl Upload {
    /// Keeps up to `keep_limit` bytes; 0 keeps nothing, and then there is one attempt if there is a body.
    pub(super) fn new(client: &Client<'_>, head: &Head, keep_limit: usize) -> Self {
        let complete = client.is_complete();
        Self {
            length: client.body_length(head),
            kept: (keep_limit > 0 || complete).then(Vec::new),
            keep_limit,
            sent: 0,
            trailers: None,
            complete,
            attempt: Attempt::Sending,
            bytes: 0,
        }
    }

    /// How the body is framed.
    pub(super) fn length(&self) -> BodyLength {
        self.length
    }

    /// Whether another attempt can have the whole body.
    pub(super) fn can_repeat(&self) -> bool {
        self.kept.is_some()
    }

    /// Bytes received so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether all has come.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the upstream has all.
    pub(super) fn is_finished(&self) -> bool {
        self.attempt == Attempt::Finished
    }

    /// Another attempt begins, and gets everything again. `told`: that there is no body was said with the head.
    pub(super) fn begin_attempt(&mut self, told: bool) {
        self.sent = 0;
        self.attempt = if told {
            Attempt::Finished
        } else {
            Attempt::Sending
        };
    }

    /// Passes on what has come and what there is room for. Ready when nothing is left to pass on.
    pub(super) fn poll(
        &mut self,
        client: &mut Client<'_>,
        upstream: &mut Acquired,
        running: &mut Running,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stuck>> {
        loop {
            let moved = match self.attempt {
                Attempt::Finished | Attempt::Deaf => return Poll::Ready(Ok(())),
                Attempt::Told => match ready!(upstream.poll_drain(cx)) {
                    Ok(()) => {
                        self.attempt = Attempt::Finished;
                        Ok(())
                    }
                    Err(e) => Err(e),
                },
                Attempt::Sending => match ready!(self.poll_step(client, upstream, running, cx)) {
                    Ok(result) => result,
                    Err(broke) => return Poll::Ready(Err(Stuck::Client(broke))),
                },
            };
            if moved.is_err() {
                if upstream.nothing_sent() {
                    return Poll::Ready(Err(Stuck::NothingSent));
                }
                // Its answer, if it gave one, is still to be read.
                self.attempt = Attempt::Deaf;
            }
        }
    }

    /// One piece, or the end.
    fn poll_step(
        &mut self,
        client: &mut Client<'_>,
        upstream: &mut Acquired,
        running: &mut Running,
        cx: &mut Context<'_>,
    ) -> Poll<Result<std::io::Result<()>, ClientBroke>> {
        if let Some(rest) = self.kept.as_ref().and_then(|kept| kept.get(self.sent..))
            && !rest.is_empty()
        {
            let put = ready!(upstream.poll_write(rest, cx));
            return Poll::Ready(Ok(put.map(|n| self.sent += n)));
        }
        if self.complete {
            self.attempt = Attempt::Told;
            return Poll::Ready(Ok(upstream.finish(self.trailers.as_deref())));
        }
        // What was written already does not wait for more.
        if let Poll::Ready(Err(e)) = upstream.poll_drain(cx) {
            return Poll::Ready(Ok(Err(e)));
        }
        match ready!(client.poll_body(cx))? {
            Piece::Data(data) => {
                let put = match ready!(upstream.poll_write(data, cx)) {
                    Ok(put) => put,
                    Err(e) => return Poll::Ready(Ok(Err(e))),
                };
                self.keep_limit = keep(&mut self.kept, self.keep_limit, &data[..put]);
                self.sent += put;
                self.bytes += put as u64;
                client.consume(put);
                running.touch();
            }
            Piece::Trailers => {
                let trailers = client.is_http2().then(|| client.trailers()).flatten();
                self.trailers = trailers.map(|trailers| {
                    let mut kept = Box::new(Head::new());
                    kept.copy_from(trailers);
                    kept
                });
            }
            Piece::End => {
                self.complete = true;
                running.complete();
                running.touch();
            }
        }
        Poll::Ready(Ok(Ok(())))
    }
}

/// Keeps some more, unless it is more than may be kept: then the body is streamed only. Gives how much more may be kept.
fn keep(kept: &mut Option<Vec<u8>>, limit: usize, data: &[u8]) -> usize {
    let Some(bytes) = kept else { return limit };
    if data.len() > limit {
        *kept = None;
        return 0;
    }
    bytes.extend_from_slice(data);
    limit - data.len()
}
