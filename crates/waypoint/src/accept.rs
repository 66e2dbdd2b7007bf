//! Accepting: on the thread of the process' own affairs, for the workers.

use std::time::Duration;

use tokio::time::sleep;
use waymark_rt::Listener;

use crate::worker::Shared;
use crate::workers::Workers;

/// How long it takes until everybody has heard that a waypoint drains.
const ACCEPT_WHILE_DRAINING: Duration = Duration::from_millis(300);

impl Workers {
    /// Accepts connections, each for the worker that has the fewest, until a moment after the drain has begun: who did not
    /// hear of it yet is served, and told to go away.
    ///
    /// A kernel that spreads them by hash gives one worker the busiest two of three clients as often as not, and a source
    /// pod has but one connection.
    pub async fn accept(&self, mut listener: Listener, shared: &Shared) {
        let drained = async {
            shared.drain.cancelled().await;
            sleep(ACCEPT_WHILE_DRAINING).await;
        };
        tokio::pin!(drained);
        loop {
            let (tcp, _) = tokio::select! {
                biased;
                () = &mut drained => return,
                accepted = listener.accept() => accepted,
            };
            let Ok(tcp) = tcp.into_std() else { continue };
            if !self.serve(tcp).await {
                tracing::error!("a worker is gone");
                return;
            }
        }
    }
}
