//! Tasks of one thread that wait for each other.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Wakes whoever waits when it is raised; who begins to wait afterwards waits for the next time.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    raised: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Wakes everybody who waits.
    pub(crate) fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Waits until it is raised, from the call on.
    pub(crate) fn raised(&self) -> impl Future<Output = ()> {
        let before = self.raised.get();
        poll_fn(move |cx| self.poll(before, cx))
    }

    fn poll(&self, before: u64, cx: &Context<'_>) -> Poll<()> {
        if self.raised.get() != before {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Something that happens once, for tasks that look for it again and again while they do other things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Event(Rc<EventState>);

#[derive(Debug, Default)]
struct EventState {
    happened: Cell<bool>,
    waiting: RefCell<Slab<Waker>>,
}

/// A task's place among those that wait for an [`Event`].
#[derive(Debug)]
pub(crate) struct Listening {
    event: Event,
    place: Option<usize>,
}

impl Event {
    /// It happens.
    pub(crate) fn happen(&self) {
        self.0.happened.set(true);
        for waker in self.0.waiting.borrow().iter() {
            waker.1.wake_by_ref();
        }
    }

    /// Whether it has happened.
    pub(crate) fn has_happened(&self) -> bool {
        self.0.happened.get()
    }

    /// A place for one task.
    pub(crate) fn listen(&self) -> Listening {
        Listening {
            event: self.clone(),
            place: None,
        }
    }
}

impl Listening {
    /// Ready once it has happened.
    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.event.has_happened() {
            return Poll::Ready(());
        }
        let mut waiting = self.event.0.waiting.borrow_mut();
        match self.place {
            Some(place) => waiting[place].clone_from(cx.waker()),
            None => self.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.event.0.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use waymark_driver::{Executor, spawn, yield_now};

    use super::*;

    #[test]
    fn everybody_who_waits_is_woken_and_nobody_later() {
        Executor::new().unwrap().block_on(async {
            let signal = Rc::new(Signal::default());
            let woken = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let (signal, woken) = (Rc::clone(&signal), Rc::clone(&woken));
                    spawn("waits", async move {
                        signal.raised().await;
                        woken.set(woken.get() + 1);
                    })
                })
                .collect();
            yield_now().await;
            signal.raise();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!(woken.get(), 3);
            let later = poll_fn(|cx| Poll::Ready(std::pin::pin!(signal.raised()).poll(cx))).await;
            assert!(later.is_pending());
        });
    }

    #[test]
    fn an_event_wakes_those_who_still_listen() {
        Executor::new().unwrap().block_on(async {
            let event = Event::default();
            let mut gone = event.listen();
            poll_fn(|cx| Poll::Ready(gone.poll(cx)))
                .await
                .is_pending()
                .then_some(())
                .unwrap();
            drop(gone);
            let waiting = event.clone();
            let task = spawn("listens", async move {
                let mut listening = waiting.listen();
                poll_fn(|cx| listening.poll(cx)).await;
            });
            yield_now().await;
            assert!(!event.has_happened());
            event.happen();
            task.await.unwrap();
            let mut late = event.listen();
            poll_fn(|cx| late.poll(cx)).await;
        });
    }
}
