//! Tasks with a name, an owner and an end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug_span};

/// Starts one named task, owned by the value that is returned: dropping it ends the task at its next `.await`.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn<F>(name: &'static str, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Task {
        handle: spawn_on_runtime(name, future),
        name,
        owned: true,
    }
}

/// The owner of a group of tasks: ends them all when dropped, or in good order with [`Tasks::finish`].
#[derive(Debug)]
pub struct Tasks {
    spawner: Spawner,
    _cancel_on_drop: DropGuard,
}

impl Tasks {
    /// An owner without tasks.
    #[expect(
        clippy::new_without_default,
        reason = "an owner is made on purpose, never by default"
    )]
    pub fn new() -> Self {
        let spawner = Spawner {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        };
        Self {
            _cancel_on_drop: spawner.cancel.clone().drop_guard(),
            spawner,
        }
    }

    /// What starts tasks of this owner; can be cloned and handed on.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Starts a task of this owner. See [`Spawner::spawn`].
    pub fn spawn<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawner.spawn(name, future)
    }

    /// How many tasks have not ended.
    pub fn len(&self) -> usize {
        self.spawner.tracker.len()
    }

    /// Whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.spawner.tracker.is_empty()
    }

    /// Waits until every task has ended by itself.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait(&self) {
        self.spawner.tracker.close();
        self.spawner.tracker.wait().await;
    }

    /// Ends every task at its next `.await` and waits until they are gone.
    pub async fn finish(self) {
        self.spawner.cancel.cancel();
        self.wait().await;
    }
}

/// Starts tasks that belong to a [`Tasks`].
#[derive(Debug, Clone)]
pub struct Spawner {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Spawner {
    /// Starts a named task. It ends by itself, by its abort handle, or when its [`Tasks`] is dropped or finished; a task
    /// that is started after that ends at its first `.await`.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let cancel = self.cancel.clone();
        let future = self.tracker.track_future(async move {
            cancel.run_until_cancelled_owned(future).await;
        });
        spawn_on_runtime(name, future).abort_handle()
    }

    /// As [`Spawner::spawn`], for a future that stays on this thread.
    ///
    /// # Panics
    /// Outside a `LocalSet` or a local runtime.
    pub fn spawn_local<F>(&self, name: &'static str, future: F) -> AbortHandle
    where
        F: Future + 'static,
    {
        let cancel = self.cancel.clone();
        let future = self.tracker.track_future(async move {
            cancel.run_until_cancelled_owned(future).await;
        });
        tokio::task::spawn_local(future.instrument(debug_span!("task", name))).abort_handle()
    }

    /// Whether the owner is gone or ending.
    pub fn is_ending(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// One task and its result; dropping it ends the task.
#[derive(Debug)]
#[must_use = "dropping a task ends it"]
pub struct Task<T> {
    handle: JoinHandle<T>,
    name: &'static str,
    owned: bool,
}

impl<T> Task<T> {
    /// The name that it was started with.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Ends the task at its next `.await`.
    pub fn abort(&self) {
        self.handle.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle).poll(cx).map(|result| {
            self.owned = false;
            result.map_err(|e| {
                if e.is_panic() {
                    TaskError::Panicked { name }
                } else {
                    TaskError::Ended { name }
                }
            })
        })
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if self.owned {
            self.handle.abort();
        }
    }
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TaskError {
    /// The message and the place are in the log (see [`crate::log::init`]).
    #[error("task {name} panicked")]
    Panicked {
        /// The task.
        name: &'static str,
    },
    /// Aborted, or the runtime is shutting down.
    #[error("task {name} was ended before it was done")]
    Ended {
        /// The task.
        name: &'static str,
    },
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that tasks are started at, for their owners"
)]
fn spawn_on_runtime<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // Debug level: a span that is on at the usual level would cost every poll of every connection.
    tokio::spawn(future.instrument(debug_span!("task", name)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_task_gives_its_result() {
        assert_eq!(spawn("answer", async { 42 }).await, Ok(42));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_names_the_task() {
        let task = spawn("bad", async { panic!("on purpose") });
        assert_eq!(
            task.await,
            Err::<(), _>(TaskError::Panicked { name: "bad" })
        );
    }

    #[tokio::test]
    async fn dropping_a_task_ends_it() {
        let (alive, gone) = oneshot::channel::<()>();
        let task = spawn("sleeper", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(task);
        gone.await.unwrap_err();
    }

    #[tokio::test]
    async fn dropping_the_owner_ends_all_its_tasks() {
        let tasks = Tasks::new();
        let spawner = tasks.spawner();
        let (alive, gone) = oneshot::channel::<()>();
        spawner.spawn("sleeper", async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        assert_eq!(tasks.len(), 1);
        drop(tasks);
        gone.await.unwrap_err();
        assert!(spawner.is_ending());
    }

    #[tokio::test]
    async fn finish_waits_until_the_tasks_are_gone() {
        let tasks = Tasks::new();
        let spawner = tasks.spawner();
        for _ in 0..100 {
            tasks.spawn("sleeper", std::future::pending::<()>());
        }
        tasks.finish().await;
        assert!(spawner.tracker.is_empty());
    }

    #[tokio::test]
    async fn wait_lets_work_finish() {
        let tasks = Tasks::new();
        let (go, started) = oneshot::channel::<()>();
        let (done, mut seen) = oneshot::channel();
        tasks.spawn("work", async move {
            started.await.unwrap();
            done.send(7).unwrap();
        });
        go.send(()).unwrap();
        tasks.wait().await;
        assert_eq!(seen.try_recv(), Ok(7));
        assert!(tasks.is_empty());
    }
}
