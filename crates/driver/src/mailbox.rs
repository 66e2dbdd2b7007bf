//! How other threads hand things to a worker.

/// What a worker receives from other threads; wait with [`recv`](tokio::sync::mpsc::Receiver::recv).
pub use tokio::sync::mpsc::Receiver as Mailbox;
/// Hands things to a worker, from any thread and any runtime.
pub use tokio::sync::mpsc::Sender;

/// A mailbox that holds at most `capacity` things; who sends more waits, or is told.
///
/// # Panics
/// When `capacity` is 0.
#[must_use]
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Mailbox<T>) {
    tokio::sync::mpsc::channel(capacity)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::Executor;

    #[test]
    fn a_worker_that_waits_is_woken_by_another_thread() {
        let (sender, mut mailbox) = mailbox(1);
        let other = std::thread::spawn(move || {
            for number in 0..1000 {
                sender.blocking_send(number).unwrap();
            }
        });
        let received = Executor::new().unwrap().block_on(async move {
            let mut received = Vec::new();
            while let Some(number) = mailbox.recv().await {
                received.push(number);
            }
            received
        });
        other.join().unwrap();
        assert_eq!(received, (0..1000).collect::<Vec<_>>());
    }
}
