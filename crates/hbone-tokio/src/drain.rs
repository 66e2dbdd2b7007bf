//! The one shape of ending: say GOAWAY, let open streams finish, close what is left at the deadline.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use waymark_rt::Shutdown;

/// Tells connections to finish, and later to be gone. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    started: CancellationToken,
    killed: CancellationToken,
}

impl Drain {
    /// Makes a drain that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a drain that begins with this one or by itself, for a part that can end alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            started: self.started.child_token(),
            killed: self.killed.child_token(),
        }
    }

    /// Begins: no new work, what is open finishes.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Ends: what is still open is cut.
    pub fn kill(&self) {
        self.started.cancel();
        self.killed.cancel();
    }

    /// Whether it has begun.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Waits until it begins.
    pub fn cancelled(&self) -> impl Future<Output = ()> + '_ {
        self.started.cancelled()
    }

    /// The token of the beginning.
    #[must_use]
    pub fn started(&self) -> CancellationToken {
        self.started.clone()
    }

    /// The token of the deadline.
    #[must_use]
    pub fn killed(&self) -> CancellationToken {
        self.killed.clone()
    }
}

/// The whole program's drain.
impl From<&Shutdown> for Drain {
    fn from(shutdown: &Shutdown) -> Self {
        Self {
            started: shutdown.draining_token(),
            killed: shutdown.killed_token(),
        }
    }
}
