//! A future that hardly ever moves, beside one that moves all the time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future that is polled once and then only when it has itself been woken, whatever else wakes its task.
///
/// For the rare arms of a `select!` in which bytes are copied: what waits for the end of a drain or for a change of policies is
/// not asked again for each packet.
#[derive(Debug)]
pub struct Aside<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Puts a future aside.
pub fn aside<F: Future>(future: F) -> Aside<F> {
    let bell = Arc::new(Bell {
        rung: AtomicBool::new(true),
        task: Mutex::new(Waker::noop().clone()),
    });
    Aside {
        future: Box::pin(future),
        waker: Waker::from(Arc::clone(&bell)),
        bell,
    }
}

/// What the future wakes.
#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    /// The task that the future is of.
    task: Mutex<Waker>,
}

impl<F: Future> Future for Aside<F> {
    type Output = F::Output;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // The lock is free unless somebody rings just now.
        self.bell.answered_by(cx.waker());
        if !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.bell.rung.store(false, Ordering::Release);
        let this = &mut *self;
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

impl Bell {
    fn answered_by(&self, waker: &Waker) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.will_wake(waker) {
            task.clone_from(waker);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.wake_by_ref();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::rc::Rc;

    use super::*;
    use crate::{Executor, spawn, yield_now};

    #[test]
    fn it_is_polled_only_when_it_was_woken() {
        Executor::new().unwrap().block_on(async {
            let polls = Rc::new(Cell::new(0));
            let inner = Rc::new(Cell::new(None::<Waker>));
            let done = Rc::new(Cell::new(false));
            let outer = Rc::new(Cell::new(None::<Waker>));
            let task = spawn("waits", {
                let (polls, inner, done, outer) =
                    (polls.clone(), inner.clone(), done.clone(), outer.clone());
                async move {
                    let mut rare = aside(poll_fn(|cx| {
                        polls.set(polls.get() + 1);
                        inner.set(Some(cx.waker().clone()));
                        if done.get() {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    }));
                    poll_fn(|cx| {
                        outer.set(Some(cx.waker().clone()));
                        Pin::new(&mut rare).poll(cx)
                    })
                    .await;
                }
            });
            yield_now().await;
            for _ in 0..3 {
                outer.take().unwrap().wake();
                yield_now().await;
            }
            assert_eq!(polls.get(), 1);
            inner.take().unwrap().wake();
            yield_now().await;
            assert_eq!(polls.get(), 2);
            done.set(true);
            // From another thread, as a control plane's change comes.
            let waker = inner.take().unwrap();
            std::thread::spawn(move || waker.wake()).join().unwrap();
            task.await.unwrap();
            assert_eq!(polls.get(), 3);
        });
    }

    #[test]
    fn it_wakes_the_task_that_polled_it_last() {
        Executor::new().unwrap().block_on(async {
            let inner = Rc::new(Cell::new(None::<Waker>));
            let done = Rc::new(Cell::new(false));
            let mut rare = aside({
                let (inner, done) = (inner.clone(), done.clone());
                poll_fn(move |cx| {
                    inner.set(Some(cx.waker().clone()));
                    if done.get() {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
            });
            let nobody = &mut Context::from_waker(Waker::noop());
            assert!(Pin::new(&mut rare).poll(nobody).is_pending());
            let task = spawn("waits", rare);
            yield_now().await;
            done.set(true);
            inner.take().unwrap().wake();
            task.await.unwrap();
        });
    }
}
