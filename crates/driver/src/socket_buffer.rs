//! Memory for what is received and what is sent: a few blocks a thread that connections use in turn, so that an idle
//! connection has none and a busy thread works in the same warm ones.

use std::cell::RefCell;
use std::ops::Range;

/// The size of a block: four full TLS records with what the peer may add to them.
const BLOCK: usize = 4 * (16 * 1024 + 512);
/// How many blocks a thread keeps.
const KEPT: usize = 4;
/// What is left of a message is kept in memory of its own size while the rest is waited for, if it is no more than this.
const SMALL: usize = 4 * 1024;

thread_local! {
    static BLOCKS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A block of initialised memory.
fn take_block() -> Vec<u8> {
    let kept = BLOCKS.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| vec![0; BLOCK])
}

/// Gives a block back to the thread.
fn give_back(block: Vec<u8>) {
    // Larger ones were needed once, and smaller ones are leftovers.
    if block.len() == BLOCK {
        // A thread that is ending keeps nothing.
        let _ = BLOCKS.try_with(|blocks| {
            let mut blocks = blocks.borrow_mut();
            if blocks.len() < KEPT {
                blocks.push(block);
            }
        });
    }
}

/// What was received: in front what can be consumed (plain text), behind it what is to be decrypted (raw). Without TLS
/// nothing is raw for long.
#[derive(Debug, Default)]
pub(crate) struct ReceiveBuffer {
    memory: Vec<u8>,
    plain: Range<usize>,
    raw: Range<usize>,
}

impl ReceiveBuffer {
    pub(crate) fn plain(&self) -> &[u8] {
        &self.memory[self.plain.clone()]
    }

    pub(crate) fn raw(&mut self) -> &mut [u8] {
        &mut self.memory[self.raw.clone()]
    }

    /// Room to read into, at least `wanted` bytes behind what is there.
    pub(crate) fn room(&mut self, wanted: usize) -> &mut [u8] {
        let held = self.plain.len() + self.raw.len();
        if self.memory.len() < BLOCK {
            self.move_to(take_block());
        } else if held == 0 {
            (self.plain, self.raw) = (0..0, 0..0);
        }
        if self.memory.len() - self.raw.end < wanted {
            self.compact();
        }
        if self.memory.len() - self.raw.end < wanted {
            let needed = self.raw.end + wanted;
            self.memory.resize(needed.next_multiple_of(BLOCK), 0);
        }
        &mut self.memory[self.raw.end..]
    }

    /// Says that `bytes` were read into the room.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.raw.end += bytes;
    }

    /// Says that all that is raw is plain text.
    pub(crate) fn raw_is_plain(&mut self) {
        let raw = 0..self.raw.len();
        self.append_plain(raw.clone());
        self.discard_raw(raw.end);
    }

    /// Appends a part of what is raw to the plain text. What is plain is moved only if there was some.
    pub(crate) fn append_plain(&mut self, part: Range<usize>) {
        let (from, to) = (self.raw.start + part.start, self.raw.start + part.end);
        if self.plain.is_empty() {
            self.plain = from..to;
        } else if self.plain.end == from {
            self.plain.end = to;
        } else {
            self.memory.copy_within(from..to, self.plain.end);
            self.plain.end += part.len();
        }
    }

    /// Says that the first `bytes` of what is raw are done with.
    pub(crate) fn discard_raw(&mut self, bytes: usize) {
        self.raw.start += bytes;
    }

    /// Takes the first `bytes` of the plain text.
    ///
    /// # Panics
    /// When there are fewer.
    pub(crate) fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.plain.len(), "more consumed than given");
        self.plain.start += bytes;
    }

    /// Gives memory back that the wait for more does not need.
    pub(crate) fn rest(&mut self) {
        let held = self.plain.len() + self.raw.len();
        if held == 0 {
            give_back(std::mem::take(&mut self.memory));
            (self.plain, self.raw) = (0..0, 0..0);
        } else if held <= SMALL && self.memory.len() >= BLOCK {
            self.move_to(vec![0; held]);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_without_memory(&self) -> bool {
        self.memory.capacity() == 0
    }

    fn compact(&mut self) {
        let plain = self.plain.len();
        self.memory.copy_within(self.plain.clone(), 0);
        self.memory.copy_within(self.raw.clone(), plain);
        self.plain = 0..plain;
        self.raw = plain..plain + self.raw.len();
    }

    fn move_to(&mut self, mut memory: Vec<u8>) {
        let (plain, raw) = (self.plain.len(), self.raw.len());
        memory[..plain].copy_from_slice(&self.memory[self.plain.clone()]);
        memory[plain..plain + raw].copy_from_slice(&self.memory[self.raw.clone()]);
        (self.plain, self.raw) = (0..plain, plain..plain + raw);
        give_back(std::mem::replace(&mut self.memory, memory));
    }
}

impl Drop for ReceiveBuffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.memory));
    }
}

/// What is to be sent, appended at the back and taken from the front.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    bytes: Vec<u8>,
    sent: usize,
}

thread_local! {
    static EMPTIED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl SendBuffer {
    /// The vector to append to, probably `additional` bytes; what is in it stays.
    pub(crate) fn back(&mut self, additional: usize) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            let kept = EMPTIED.with_borrow_mut(Vec::pop);
            self.bytes = kept.unwrap_or_else(|| Vec::with_capacity(additional.max(SMALL)));
        }
        let full = self.bytes.capacity() - self.bytes.len() < additional;
        if full && self.sent > 0 && self.sent >= self.unsent().len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.reserve(additional);
        &mut self.bytes
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    #[cfg(test)]
    pub(crate) fn is_without_memory(&self) -> bool {
        self.bytes.capacity() == 0
    }

    /// Says that the first `count` bytes are sent; gives the memory back with the last.
    pub(crate) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Drops what is not sent.
    pub(crate) fn clear(&mut self) {
        let mut emptied = std::mem::take(self).bytes;
        emptied.clear();
        if (1..=2 * BLOCK).contains(&emptied.capacity()) {
            let _ = EMPTIED.try_with(|kept| {
                let mut kept = kept.borrow_mut();
                if kept.len() < KEPT {
                    kept.push(emptied);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Receive(usize),
        Plain { header: usize, payload: usize },
        Consume(usize),
        Rest,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1..100_000usize).prop_map(Op::Receive),
            (0..30usize, 0..20_000usize)
                .prop_map(|(header, payload)| Op::Plain { header, payload }),
            any::<usize>().prop_map(Op::Consume),
            Just(Op::Rest),
        ]
    }

    proptest! {
        /// Beside two plain vectors: nothing is lost, doubled or put out of order, whatever is moved.
        #[test]
        fn holds_what_two_vectors_hold(ops in proptest::collection::vec(op(), 0..60)) {
            let mut buffer = ReceiveBuffer::default();
            let (mut plain, mut raw) = (Vec::new(), Vec::new());
            let mut fill = (0..=255u8).cycle();
            for op in ops {
                match op {
                    Op::Receive(count) => {
                        let room = buffer.room(count);
                        prop_assert!(room.len() >= count);
                        for byte in &mut room[..count] {
                            *byte = fill.next().unwrap_or(0);
                        }
                        raw.extend_from_slice(&room[..count]);
                        buffer.received(count);
                    }
                    Op::Plain { header, payload } if header + payload + 16 <= raw.len() => {
                        buffer.append_plain(header..header + payload);
                        buffer.discard_raw(header + payload + 16);
                        plain.extend_from_slice(&raw[header..header + payload]);
                        raw.drain(..header + payload + 16);
                    }
                    Op::Plain { .. } => {}
                    Op::Consume(count) => {
                        let count = count % (plain.len() + 1);
                        buffer.consume(count);
                        plain.drain(..count);
                    }
                    Op::Rest => buffer.rest(),
                }
                prop_assert_eq!(buffer.plain(), &plain[..]);
                prop_assert_eq!(&*buffer.raw(), &raw[..]);
            }
            if plain.is_empty() && raw.is_empty() {
                buffer.rest();
                prop_assert_eq!(buffer.memory.capacity(), 0);
            }
        }
    }

    #[test]
    fn a_send_buffer_does_not_grow_while_what_is_appended_is_sent() {
        let mut buffer = SendBuffer::default();
        buffer.back(64).extend_from_slice(&[1; 64]);
        let capacity = buffer.bytes.capacity();
        for _ in 0..10_000 {
            buffer.advance(60);
            buffer.back(60).extend_from_slice(&[1; 60]);
        }
        assert!(buffer.bytes.capacity() <= 2 * capacity);
        assert_eq!(buffer.unsent().len(), 64);
    }
}
