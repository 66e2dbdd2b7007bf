//! The owner of a group of tasks.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use slab::Slab;

use super::{Level, Task, spawn_at};

/// Owns tasks whose results nobody asks for; dropping it ends them. Clones own the same tasks, and the last one ends them.
#[derive(Clone, Default)]
pub struct Tasks {
    group: Rc<RefCell<Group>>,
}

#[derive(Default)]
struct Group {
    tasks: Slab<Option<Task<()>>>,
    waiting: Vec<Waker>,
}

impl Tasks {
    /// An owner without tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task of this owner at [`Level::Work`].
    ///
    /// # Panics
    /// Outside an executor.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.spawn_at(Level::Work, name, future);
    }

    /// Starts a task of this owner.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn spawn_at(
        &self,
        level: Level,
        name: &'static str,
        future: impl Future<Output = ()> + 'static,
    ) {
        let key = self.group.borrow_mut().tasks.insert(None);
        let member = Member {
            group: Rc::downgrade(&self.group),
            key,
        };
        let task = spawn_at(level, name, async move {
            let _member = member;
            future.await;
        });
        self.group.borrow_mut().tasks[key] = Some(task);
    }

    /// What adds tasks without owning them.
    #[must_use]
    pub fn downgrade(&self) -> WeakTasks {
        WeakTasks {
            group: Rc::downgrade(&self.group),
        }
    }

    /// How many tasks have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.group.borrow().tasks.len()
    }

    /// Whether every task has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.group.borrow().tasks.is_empty()
    }

    /// Waits until every task has ended by itself.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn finished(&self) {
        poll_fn(|cx| {
            let mut group = self.group.borrow_mut();
            if group.tasks.is_empty() {
                return Poll::Ready(());
            }
            group.waiting.retain(|waker| !waker.will_wake(cx.waker()));
            group.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Adds tasks to a group without owning it.
#[derive(Clone, Default)]
pub struct WeakTasks {
    group: Weak<RefCell<Group>>,
}

impl WeakTasks {
    /// Starts a task of the owner at [`Level::Work`]; drops it when there is no owner any more.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        if let Some(group) = self.group.upgrade() {
            Tasks { group }.spawn(name, future);
        }
    }
}

impl fmt::Debug for WeakTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTasks").finish_non_exhaustive()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("open", &self.len()).finish()
    }
}

/// Takes a task off the list when it ends.
struct Member {
    group: Weak<RefCell<Group>>,
    key: usize,
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(group) = self.group.upgrade() else {
            return;
        };
        let (task, waiting) = {
            let mut group = group.borrow_mut();
            let task = group.tasks.try_remove(self.key).flatten();
            let waiting = if group.tasks.is_empty() {
                std::mem::take(&mut group.waiting)
            } else {
                Vec::new()
            };
            (task, waiting)
        };
        // It is ending already.
        if let Some(task) = task {
            task.detach();
        }
        waiting.into_iter().for_each(Waker::wake);
    }
}
