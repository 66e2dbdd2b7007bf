//! Ending in good order: stop accepting, let work finish until a deadline, then cancel.
//!
//! ```text
//! running --begin()/signal--> draining --all holds gone--> ended (clean)
//!                                |  grace passed, or a second signal
//!                                v
//!                              killed --all holds gone, or KILL_GRACE--> ended (work was cut)
//! ```

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

/// How long cancelled work has to notice.
const KILL_GRACE: Duration = Duration::from_secs(1);

/// Drives one program's end. Made once, in `main`; everybody else holds a [`Shutdown`].
#[derive(Debug)]
pub struct Drain {
    shutdown: Shutdown,
    grace: Duration,
}

impl Drain {
    /// A drain that gives open work `grace` to finish.
    pub fn new(grace: Duration) -> Self {
        let shutdown = Shutdown {
            draining: CancellationToken::new(),
            killed: CancellationToken::new(),
            holds: TaskTracker::new(),
        };
        Self { shutdown, grace }
    }

    /// The side that work listens to.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Waits until somebody calls [`Shutdown::begin`] or SIGTERM or SIGINT arrives, then drains. A second signal cuts
    /// the wait short.
    ///
    /// # Errors
    /// When signal handlers cannot be installed.
    pub async fn run_until_signal(self) -> io::Result<Drained> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tokio::select! {
            biased;
            () = self.shutdown.draining() => {}
            _ = term.recv() => info!(signal = "SIGTERM", "draining"),
            _ = int.recv() => info!(signal = "SIGINT", "draining"),
        }
        let shutdown = self.shutdown();
        let drained = self.finish();
        tokio::pin!(drained);
        Ok(tokio::select! {
            drained = &mut drained => drained,
            _ = async { tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} } } => {
                warn!("second signal: cutting what is left");
                shutdown.killed.cancel();
                drained.await
            }
        })
    }

    /// Drains now: tells everybody, waits for the holds until the grace period has passed, then cancels what is left.
    pub async fn finish(self) -> Drained {
        let Self { shutdown, grace } = self;
        shutdown.draining.cancel();
        shutdown.holds.close();
        tokio::select! {
            biased;
            () = shutdown.holds.wait() => return Drained::Clean,
            () = shutdown.killed.cancelled() => {}
            () = tokio::time::sleep(grace) => {}
        }
        let left = shutdown.holds.len();
        warn!(left, ?grace, "drain deadline passed");
        shutdown.killed.cancel();
        if timeout(KILL_GRACE, shutdown.holds.wait()).await.is_err() {
            warn!(
                left = shutdown.holds.len(),
                "work did not end when it was cancelled"
            );
        }
        Drained::Cut { left }
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// All work finished by itself.
    Clean,
    /// The deadline passed with this much work left, which was cancelled.
    Cut {
        /// Pieces of work that had not finished.
        left: usize,
    },
}

/// Tells work when to stop, and lets it be waited for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    draining: CancellationToken,
    killed: CancellationToken,
    holds: TaskTracker,
}

impl Shutdown {
    /// Asks the whole program to end in good order.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Resolves when no new work may be accepted.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether new work is refused.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when the deadline has passed and work must end at once.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn killed(&self) {
        self.killed.cancelled().await;
    }

    /// Whether the deadline has passed.
    pub fn is_killed(&self) -> bool {
        self.killed.is_cancelled()
    }

    /// The token behind [`Shutdown::draining`], for libraries that take one.
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// The token behind [`Shutdown::killed`], for libraries that take one.
    pub fn killed_token(&self) -> CancellationToken {
        self.killed.clone()
    }

    /// Marks a piece of work; the drain waits until it is dropped.
    pub fn hold(&self) -> Hold {
        Hold {
            _token: self.holds.token(),
        }
    }

    /// How many pieces of work are marked.
    pub fn holds(&self) -> usize {
        self.holds.len()
    }
}

/// A piece of work that a drain waits for.
#[derive(Debug)]
#[must_use = "the drain waits for it only while it is held"]
pub struct Hold {
    _token: TaskTrackerToken,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_work_and_ends_clean() {
        let drain = Drain::new(Duration::from_secs(30));
        let shutdown = drain.shutdown();
        let hold = shutdown.hold();
        let work = crate::spawn("work", async move {
            shutdown.draining().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(hold);
            shutdown.is_killed()
        });
        assert_eq!(drain.finish().await, Drained::Clean);
        assert_eq!(work.await, Ok(false));
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_what_does_not_finish() {
        let drain = Drain::new(Duration::from_secs(30));
        let shutdown = drain.shutdown();
        let hold = shutdown.hold();
        let work = crate::spawn("stubborn", async move {
            shutdown.killed().await;
            drop(hold);
        });
        assert_eq!(drain.finish().await, Drained::Cut { left: 1 });
        work.await.unwrap();
    }

    #[tokio::test]
    async fn begin_starts_the_drain_without_a_signal() {
        let drain = Drain::new(Duration::from_secs(30));
        drain.shutdown().begin();
        assert_eq!(drain.run_until_signal().await.unwrap(), Drained::Clean);
    }

    #[tokio::test]
    async fn a_second_signal_cuts_the_wait() {
        let drain = Drain::new(Duration::from_secs(300));
        let shutdown = drain.shutdown();
        let hold = shutdown.hold();
        let running = crate::spawn("drain", drain.run_until_signal());
        // `begin` stands for the first signal; the handlers are in place once draining is seen by the drain itself, so the
        // second is repeated until it is noticed.
        shutdown.begin();
        let me = rustix::process::getpid();
        let _handler = signal(SignalKind::interrupt()).unwrap();
        while !shutdown.is_killed() {
            rustix::process::kill_process(me, rustix::process::Signal::INT).unwrap();
            tokio::task::yield_now().await;
        }
        drop(hold);
        assert_eq!(running.await.unwrap().unwrap(), Drained::Cut { left: 1 });
    }
}
