//! Tasks that stay on their worker's thread.

use std::future::Future;

use hyper::rt::Executor;
use waymark_rt::Spawner;

/// Starts hyper's tasks on the worker's thread.
#[derive(Debug, Clone)]
pub(crate) struct LocalExecutor(pub(crate) Spawner);

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn_local("http2 stream", async move {
            future.await;
        });
    }
}
