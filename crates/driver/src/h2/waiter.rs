//! Who waits for something.

use std::task::{Context, Waker};

/// Wakes a task once for each time that it waits. Waiting again costs a comparison.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    waker: Option<Waker>,
    waits: bool,
}

impl Waiter {
    /// Lets the task that is polled wait.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.waits = true;
        match &self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            Some(_) | None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task if it waits.
    #[inline]
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }
}
