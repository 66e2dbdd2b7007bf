//! Memory that passes from whoever is done with it to whoever needs some next, on one thread.
//!
//! A connection or a stream that waits holds no buffer, and one that works finds one that is warm.

use std::cell::RefCell;

use waymark_engine::Head;

/// What a new buffer has room for.
const FRESH_BYTES: usize = 4 * 1024;
/// Larger buffers aren't kept.
const LARGEST_KEPT_BYTES: usize = 64 * 1024;
/// Buffers of a thread that nobody uses; more are given to the allocator.
const KEPT: usize = 32;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    #[expect(clippy::vec_box, reason = "what is kept is the box")]
    static HEADS: RefCell<Vec<Box<Head>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with memory.
#[must_use]
pub fn take() -> Vec<u8> {
    let kept = BUFFERS.try_with(|buffers| buffers.borrow_mut().pop());
    kept.ok()
        .flatten()
        .unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
}

/// Gives a buffer's memory to whoever needs some next.
pub fn give(mut buffer: Vec<u8>) {
    if !(FRESH_BYTES..=LARGEST_KEPT_BYTES).contains(&buffer.capacity()) {
        return;
    }
    buffer.clear();
    // A thread that ends keeps nothing.
    let _ = BUFFERS.try_with(|buffers| {
        let mut buffers = buffers.borrow_mut();
        if buffers.len() < KEPT {
            buffers.push(buffer);
        }
    });
}

/// An empty head.
#[must_use]
pub fn take_head() -> Box<Head> {
    let kept = HEADS.try_with(|heads| heads.borrow_mut().pop());
    kept.ok().flatten().unwrap_or_default()
}

/// Gives a head's memory to the next.
pub fn give_head(mut head: Box<Head>) {
    let _ = HEADS.try_with(|heads| {
        let mut heads = heads.borrow_mut();
        if heads.len() < KEPT {
            head.clear();
            heads.push(head);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_is_taken_next() {
        let mut buffer = take();
        buffer.extend_from_slice(b"old");
        let memory = buffer.as_ptr();
        give(buffer);
        let again = take();
        assert_eq!(again.as_ptr(), memory);
        assert!(again.is_empty());
        give(Vec::with_capacity(LARGEST_KEPT_BYTES + 1));
        give(Vec::new());
        assert_eq!(
            take().capacity(),
            FRESH_BYTES,
            "what is too large or too small is not kept"
        );
    }
}
