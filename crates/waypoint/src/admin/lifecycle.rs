//! Where the process is in its life, and what an operator wishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::telemetry::ServerStats;

/// The phases of a server's life, as Envoy names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Starting.
    PreInitializing,
    /// Waiting for configuration and certificate.
    Initializing,
    /// Serving.
    Live,
    /// Ending.
    Draining,
}

impl Phase {
    /// As printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::PreInitializing => "PRE_INITIALIZING",
            Phase::Initializing => "INITIALIZING",
            Phase::Live => "LIVE",
            Phase::Draining => "DRAINING",
        }
    }

    /// The value of `server.state`.
    fn number(self) -> i64 {
        match self {
            Phase::Live => 0,
            Phase::Draining => 1,
            Phase::PreInitializing => 2,
            Phase::Initializing => 3,
        }
    }
}

/// What an operator asks of the process through admin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Go on.
    Run,
    /// Stop accepting, let what is there finish; stay.
    Drain,
    /// End.
    Quit,
}

/// Where the process is in its life.
#[derive(Debug)]
pub struct Lifecycle {
    phase: watch::Sender<Phase>,
    wish: watch::Sender<Wish>,
    unhealthy: AtomicBool,
    stats: Arc<ServerStats>,
}

impl Lifecycle {
    /// A process that is starting.
    #[must_use]
    pub fn new(stats: Arc<ServerStats>) -> Self {
        stats.state.set(Phase::PreInitializing.number());
        Self {
            phase: watch::Sender::new(Phase::PreInitializing),
            wish: watch::Sender::new(Wish::Run),
            unhealthy: AtomicBool::new(false),
            stats,
        }
    }

    /// Says where the process is now. A process that drains does not live again.
    pub fn set(&self, phase: Phase) {
        self.phase.send_if_modified(|known| {
            let changed = *known != phase && *known != Phase::Draining;
            if changed {
                *known = phase;
                self.stats.state.set(phase.number());
                if phase == Phase::Live {
                    self.stats.workers_started.set(1);
                }
            }
            changed
        });
    }

    /// Where the process is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Follows where the process is.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Follows what an operator wishes; it only ever grows.
    #[must_use]
    pub fn wishes(&self) -> watch::Receiver<Wish> {
        self.wish.subscribe()
    }

    /// Whether traffic is welcome.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shown() == Phase::Live
    }

    /// As shown: one that was told to fail health checks says that it drains.
    pub(super) fn shown(&self) -> Phase {
        match self.phase() {
            Phase::Live if self.unhealthy.load(Ordering::Relaxed) => Phase::Draining,
            phase => phase,
        }
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.unhealthy.store(!healthy, Ordering::Relaxed);
    }

    pub(super) fn wish(&self, wish: Wish) {
        self.wish.send_if_modified(|known| {
            let more = wish > *known;
            if more {
                *known = wish;
            }
            more
        });
    }
}
