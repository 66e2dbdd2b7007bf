//! Time: sleeping, and giving up.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::executor::{Core, now};

mod wheel;

pub(crate) use wheel::Wheel;

/// Waits for `duration` from now (the beginning of this turn).
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `at`, to the next millisecond. Costs nothing until it is waited for, and no system call then.
pub fn sleep_until(at: Instant) -> Sleep {
    Sleep { at, timer: None }
}

/// Waits for `future`, but no longer than `patience`. A future that is ready when first polled costs no timer.
///
/// # Errors
/// When it took longer; the future is dropped.
pub async fn timeout<F: Future>(patience: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(patience);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}

/// Something took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Is ready at a time. See [`sleep_until`].
#[derive(Debug)]
#[must_use = "waits when polled"]
pub struct Sleep {
    at: Instant,
    timer: Option<Timer>,
}

impl Sleep {
    /// When it is ready.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.at
    }

    /// Makes it ready at another time.
    pub fn reset(&mut self, at: Instant) {
        self.at = at;
        self.timer = None;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if now() >= self.at {
            self.timer = None;
            return Poll::Ready(());
        }
        match &self.timer {
            Some(timer) => timer.core.timers.borrow_mut().wait(timer.key, cx.waker()),
            None => {
                let core = Core::current();
                let key = core.timers.borrow_mut().insert(self.at, cx.waker().clone());
                self.timer = Some(Timer { core, key });
            }
        }
        Poll::Pending
    }
}

/// An entry of the executor's wheel.
#[derive(Debug)]
struct Timer {
    core: Rc<Core>,
    key: usize,
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.core.timers.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{Executor, spawn};

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn sleeps_are_over_in_order_and_not_too_early() {
        Executor::new().unwrap().block_on(async {
            let start = Instant::now();
            let (sender, mut order) = crate::mailbox(3);
            let tasks = crate::Tasks::new();
            for factor in [3, 1, 2] {
                let sender = sender.clone();
                tasks.spawn("sleeper", async move {
                    sleep(SHORT * factor).await;
                    sender.send((factor, start.elapsed())).await.unwrap();
                });
            }
            for expected in 1..=3 {
                let (factor, after) = order.recv().await.unwrap();
                assert_eq!(factor, expected);
                assert!(after >= SHORT * factor, "{after:?}");
            }
        });
    }

    #[test]
    fn gives_up_on_what_takes_too_long_and_not_on_what_is_ready() {
        let mut executor = Executor::new().unwrap();
        let late = executor.block_on(timeout(SHORT, std::future::pending::<()>()));
        assert_eq!(late, Err(Elapsed));
        assert_eq!(executor.block_on(timeout(LONG, async { 1 })), Ok(1));
    }

    #[test]
    fn a_sleep_that_is_dropped_or_moved_leaves_nothing_behind() {
        Executor::new().unwrap().block_on(async {
            let mut far = sleep(LONG);
            poll_fn(|cx| Poll::Ready(Pin::new(&mut far).poll(cx)))
                .await
                .is_pending()
                .then_some(())
                .unwrap();
            far.reset(now() + SHORT);
            far.await;
            let sleeper = spawn("sleeper", sleep(LONG));
            crate::yield_now().await;
            drop(sleeper);
            crate::yield_now().await;
            assert!(Core::current().timers.borrow().next_due().is_none());
        });
    }
}
