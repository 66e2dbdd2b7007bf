//! What threads share, as one of them holds it.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// A thread's hold on a shared value.
///
/// Cloning an [`Arc`] writes to memory that every worker writes to, for each request a few times; cloning this does not. A worker
/// makes one when it first sees the value and clones it from then on.
#[expect(
    clippy::redundant_allocation,
    reason = "the outer one is the thread's own"
)]
#[derive(Debug)]
pub(crate) struct Near<T>(Rc<Arc<T>>);

impl<T> Near<T> {
    /// Takes hold of a value.
    pub(crate) fn new(shared: &Arc<T>) -> Self {
        Self(Rc::new(Arc::clone(shared)))
    }
}

impl<T> Clone for Near<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for Near<T> {
    type Target = Arc<T>;

    fn deref(&self) -> &Arc<T> {
        &self.0
    }
}
