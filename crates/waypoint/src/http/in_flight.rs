//! What is in use and counted while a request is with an upstream.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use waymark_driver::http1::Piece;
use waymark_engine::Head;
use waymark_engine::http1::BodyLength;

use super::failure::Failure;
use super::upgrade::Switched;
use crate::cluster::Acquired;
use crate::near::Near;
use crate::program::{Cluster, Endpoint, Thresholds};

/// A connection in use, counted, until the response's end.
pub(super) struct InFlight {
    counted: Option<Counted>,
    acquired: Option<Acquired>,
}

impl InFlight {
    pub(super) fn new(counted: Counted, acquired: Acquired) -> Self {
        Self {
            counted: Some(counted),
            acquired: Some(acquired),
        }
    }

    /// The connection.
    pub(super) fn acquired(&mut self) -> &mut Acquired {
        self.acquired.as_mut().expect(HELD)
    }

    /// The head of the response.
    pub(super) fn head(&self) -> &Head {
        self.acquired.as_ref().expect(HELD).head()
    }

    /// Exchanges the head of the response with `head`, and tells how its body is framed.
    pub(super) fn swap_head(&mut self, head: &mut Head) -> BodyLength {
        self.acquired().swap_head(head)
    }

    /// The response is complete: the connection may take the next request.
    pub(super) fn complete(mut self) {
        if let Some(acquired) = self.acquired.take() {
            acquired.give_back();
        }
    }

    /// The response is not passed on: what has come of it is thrown away. If that is not all, the connection ends.
    pub(super) fn unwanted(mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let acquired = self.acquired();
        loop {
            match acquired.poll_body(cx) {
                Poll::Ready(Ok(Piece::End)) => return self.complete(),
                Poll::Ready(Ok(Piece::Trailers)) => {}
                Poll::Ready(Ok(Piece::Data(data))) => {
                    let len = data.len();
                    acquired.consume(len);
                }
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
    }

    /// The stream itself, after a switch of protocols; what counts goes on counting.
    pub(super) fn switched(mut self) -> Option<Switched> {
        let acquired = self.acquired.take()?;
        let (upstream, open) = acquired.into_io()?;
        Some(Switched::new(upstream, open, self.counted.take()?))
    }
}

const HELD: &str = "it is given away by value only";

impl Drop for InFlight {
    fn drop(&mut self) {
        if let (Some(_), Some(counted)) = (&self.acquired, &self.counted) {
            counted.cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// Counts an attempt for as long as it is active.
pub(super) struct Counted {
    cluster: Near<Cluster>,
    endpoint: Near<Endpoint>,
}

impl Counted {
    pub(super) fn begin(cluster: &Near<Cluster>, endpoint: &Near<Endpoint>) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        endpoint.stats.rq_total.inc();
        endpoint.stats.rq_active.inc();
        Self {
            cluster: cluster.clone(),
            endpoint: endpoint.clone(),
        }
    }

    pub(super) fn note_status(&mut self, status: u16) {
        let stats = &self.cluster.stats;
        stats.upstream_rq_completed.inc();
        match status / 100 {
            1 => stats.upstream_rq_1xx.inc(),
            2 => stats.upstream_rq_2xx.inc(),
            3 => stats.upstream_rq_3xx.inc(),
            4 => stats.upstream_rq_4xx.inc(),
            _ => stats.upstream_rq_5xx.inc(),
        }
        if (500..600).contains(&status) {
            self.endpoint.stats.rq_error.inc();
        } else {
            self.endpoint.stats.rq_success.inc();
        }
    }

    pub(super) fn note_failure(&mut self, failure: &Failure) {
        let stats = &self.cluster.stats;
        self.endpoint.stats.rq_error.inc();
        match failure {
            Failure::Reset | Failure::Refused => stats.upstream_rq_rx_reset.inc(),
            Failure::Protocol => stats.upstream_cx_protocol_error.inc(),
            Failure::PerTryTimeout => stats.upstream_rq_tx_reset.inc(),
            Failure::Connect(_) | Failure::ConnectTimeout | Failure::Denied(_) => {
                stats.upstream_rq_pending_failure_eject.inc();
            }
            Failure::Overflow | Failure::Closed => {}
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.endpoint.stats.rq_active.dec();
    }
}

/// A request that is being retried, counted against the limit of those.
pub(super) struct Retrying(Arc<Cluster>);

impl Retrying {
    pub(super) fn begin(cluster: &Arc<Cluster>, limits: &Thresholds) -> Option<Self> {
        let stats = &cluster.stats;
        let most = match limits.retry_budget {
            None => i64::from(limits.max_retries),
            Some((percent, at_least)) => {
                let busy =
                    stats.upstream_rq_active.value() + stats.upstream_rq_pending_active.value();
                ((busy as f64 * percent / 100.0) as i64).max(i64::from(at_least))
            }
        };
        if stats.upstream_rq_retry_active.value() >= most {
            return None;
        }
        stats.upstream_rq_retry_active.inc();
        Some(Self(Arc::clone(cluster)))
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.stats.upstream_rq_retry_active.dec();
    }
}
