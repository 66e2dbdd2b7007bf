//! A task, its owner's end of it, and where the executor keeps it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use super::Level;
use super::ready::{Entry, Header, Remote};

/// One task and its result; dropping it ends the task, at the latest before the thread waits for events again.
#[must_use = "dropping a task ends it"]
pub struct Task<T> {
    header: Arc<Header>,
    name: &'static str,
    outcome: Rc<RefCell<Outcome<T>>>,
    owned: bool,
}

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked; the log says more.
    #[error("task {name} panicked")]
    Panicked {
        /// The task's name.
        name: &'static str,
    },
    /// The executor ended before it did.
    #[error("task {name} was ended")]
    Ended {
        /// The task's name.
        name: &'static str,
    },
}

impl<T> Task<T> {
    /// The name that it was started with.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !matches!(*self.outcome.borrow(), Outcome::Open { .. })
    }

    /// Lets the task go on without an owner, until it or the executor ends. What it waits for must have an end.
    pub fn detach(mut self) {
        self.owned = false;
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut outcome = this.outcome.borrow_mut();
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Open { .. } => {
                *outcome = Outcome::Open {
                    waiting: Some(cx.waker().clone()),
                };
                Poll::Pending
            }
            Outcome::Done(result) => {
                this.owned = false;
                Poll::Ready(result)
            }
            Outcome::Taken => panic!("polled after it was ready"),
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.owned && !self.is_finished() {
            self.header.cancel();
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("name", &self.name)
            .field("finished", &self.is_finished())
            .finish()
    }
}

enum Outcome<T> {
    Open { waiting: Option<Waker> },
    Done(Result<T, TaskError>),
    Taken,
}

/// Tells the owner how a task ended, whichever way it does.
struct Report<T> {
    outcome: Rc<RefCell<Outcome<T>>>,
    name: &'static str,
}

impl<T> Report<T> {
    fn set(&self, result: Result<T, TaskError>) {
        let before = std::mem::replace(&mut *self.outcome.borrow_mut(), Outcome::Done(result));
        if let Outcome::Open {
            waiting: Some(waiting),
        } = before
        {
            waiting.wake();
        }
    }
}

impl<T> Drop for Report<T> {
    fn drop(&mut self) {
        let open = matches!(*self.outcome.borrow(), Outcome::Open { .. });
        if open {
            let name = self.name;
            self.set(Err(if std::thread::panicking() {
                TaskError::Panicked { name }
            } else {
                TaskError::Ended { name }
            }));
        }
    }
}

/// The tasks of an executor.
#[derive(Debug, Default)]
pub(super) struct TaskTable {
    slots: Slab<Option<Body>>,
}

/// A task while it is not polled.
pub(super) struct Body {
    future: Pin<Box<dyn Future<Output = ()>>>,
    header: Arc<Header>,
    waker: Waker,
    name: &'static str,
}

impl TaskTable {
    pub(super) fn insert<F>(
        &mut self,
        level: Level,
        name: &'static str,
        remote: &Arc<Remote>,
        future: F,
    ) -> (Task<F::Output>, Entry)
    where
        F: Future + 'static,
    {
        let outcome = Rc::new(RefCell::new(Outcome::Open { waiting: None }));
        let report = Report {
            outcome: Rc::clone(&outcome),
            name,
        };
        let slot = self.slots.vacant_entry();
        let header = Arc::new(Header::new(slot.key(), level, remote));
        slot.insert(Some(Body {
            future: Box::pin(async move {
                let result = future.await;
                report.set(Ok(result));
            }),
            header: Arc::clone(&header),
            waker: Waker::from(Arc::clone(&header)),
            name,
        }));
        let entry = header.entry();
        let task = Task {
            header,
            name,
            outcome,
            owned: true,
        };
        (task, entry)
    }

    /// Takes a task out to be polled. `None` when it has ended.
    pub(super) fn start(&mut self, key: usize) -> Option<Body> {
        self.slots.get_mut(key)?.take()
    }

    /// Puts a task back that was polled, or returns it when it has ended.
    pub(super) fn stop(&mut self, key: usize, body: Body, stays: bool) -> Option<Body> {
        if stays {
            self.slots[key] = Some(body);
            return None;
        }
        self.slots.remove(key);
        Some(body)
    }

    /// Takes any task out for good.
    pub(super) fn pop(&mut self) -> Option<Body> {
        let key = self.slots.iter().next()?.0;
        self.slots.remove(key)
    }
}

impl Body {
    /// Polls the task, or not if it is to end. Returns whether it goes on.
    pub(super) fn poll(&mut self, panicked: &Cell<u64>) -> bool {
        self.header.starts();
        if self.header.is_cancelled() {
            return false;
        }
        let mut cx = Context::from_waker(&self.waker);
        let future = &mut self.future;
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => true,
            Ok(Poll::Ready(())) => false,
            Err(panic) => {
                panicked.set(panicked.get() + 1);
                log_panic(self.name, panic.as_ref());
                false
            }
        }
    }

    /// Drops the task.
    pub(super) fn end(self) {
        let Self {
            future,
            header,
            name,
            ..
        } = self;
        header.ended();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(future))) {
            log_panic(name, panic.as_ref());
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn log_panic(task: &'static str, panic: &(dyn Any + Send)) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    tracing::error!(task, panic = message, "a task panicked");
}
