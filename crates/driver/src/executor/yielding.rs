//! Letting the others have a turn.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::Core;

/// Lets every other task that is ready run, sockets be written and looked at, and goes on in the next turn. What does a lot
/// of work for one connection calls it now and then.
///
/// # Panics
/// Outside an executor.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        wake_next_turn(cx);
        Poll::Pending
    })
    .await;
}

/// Has the task that is polled be polled again in the next turn: what [`yield_now`] is for futures written by hand.
///
/// # Panics
/// Outside an executor.
pub fn wake_next_turn(cx: &Context<'_>) {
    let core = Core::current();
    core.ready.borrow_mut().defer(cx.waker().clone());
}
