//! What a connection has to send.

/// Bytes on their way out: appended at the back, taken from the front.
///
/// One contiguous buffer, so that the owner can hand it to a socket or encrypt from it. It holds memory only while it holds
/// bytes, if its owner calls [`release`](Self::release) when it becomes idle.
#[derive(Debug, Default)]
pub struct WriteBuf {
    bytes: Vec<u8>,
    sent: usize,
    /// The DATA frame that ends the buffer, if one does and none of it was sent: small writes are joined to it.
    open_frame: Option<OpenFrame>,
}

#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    at: usize,
    stream: u32,
}

impl WriteBuf {
    /// An empty buffer, without memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            sent: 0,
            open_frame: None,
        }
    }

    /// Appends `bytes`.
    pub fn put(&mut self, bytes: &[u8]) {
        self.back(bytes.len()).extend_from_slice(bytes);
    }

    /// Says that the first `count` unsent bytes are sent.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "more bytes sent than there were");
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.sent = 0;
            self.open_frame = None;
        } else if self.open_frame.is_some_and(|frame| frame.at < self.sent) {
            self.open_frame = None;
        }
    }

    /// Gives the memory back if nothing is left to send. Returns whether it did.
    pub fn release(&mut self) -> bool {
        self.take_memory().is_some()
    }

    /// Takes the memory, to be used elsewhere, if nothing is left to send.
    pub fn take_memory(&mut self) -> Option<Vec<u8>> {
        self.is_empty().then(|| std::mem::take(self).bytes)
    }

    /// Gives a buffer that has no memory this vector's.
    pub fn give_memory(&mut self, mut memory: Vec<u8>) {
        if self.bytes.capacity() == 0 {
            memory.clear();
            self.bytes = memory;
        }
    }

    /// What is still to be sent.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// How many bytes are still to be sent.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing is to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The memory it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The vector to append to, `additional` bytes probably; what is in it must stay.
    pub(crate) fn back(&mut self, additional: usize) -> &mut Vec<u8> {
        self.open_frame = None;
        self.make_room(additional);
        &mut self.bytes
    }

    /// Appends a DATA frame of `stream` that later writes of the same stream may join.
    pub(crate) fn put_data_frame(&mut self, header: [u8; 9], payload: &[u8], stream: u32) {
        self.make_room(9 + payload.len());
        self.open_frame = Some(OpenFrame {
            at: self.bytes.len(),
            stream,
        });
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(payload);
    }

    /// Joins `payload` and `flags` to the DATA frame that ends the buffer, if that one is `stream`'s and has room. Returns
    /// whether it was.
    pub(crate) fn join_data_frame(
        &mut self,
        stream: u32,
        payload: &[u8],
        flags: u8,
        max_frame: usize,
    ) -> bool {
        let Some(frame) = self.open_frame.filter(|frame| frame.stream == stream) else {
            return false;
        };
        let length = self.bytes.len() - frame.at - 9 + payload.len();
        if length > max_frame {
            return false;
        }
        self.bytes.extend_from_slice(payload);
        let [_, high, middle, low] = (length as u32).to_be_bytes();
        self.bytes[frame.at..frame.at + 3].copy_from_slice(&[high, middle, low]);
        self.bytes[frame.at + 4] |= flags;
        true
    }

    /// Moves the unsent bytes to the front where that avoids growing and is paid for by as many bytes sent.
    fn make_room(&mut self, additional: usize) {
        let full = self.bytes.capacity() - self.bytes.len() < additional;
        if full && self.sent > 0 && self.sent >= self.len() {
            self.bytes.drain(..self.sent);
            if let Some(frame) = &mut self.open_frame {
                frame.at -= self.sent;
            }
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_unsent_until_advanced_over() {
        let mut buf = WriteBuf::new();
        buf.put(b"abc");
        buf.put(b"def");
        buf.advance(4);
        assert_eq!(buf.unsent(), b"ef");
        assert!(!buf.release());
        buf.advance(2);
        assert!(buf.is_empty());
        assert!(buf.release());
        assert_eq!(buf.capacity(), 0);
    }

    #[test]
    fn sent_bytes_are_dropped_before_the_buffer_grows() {
        let mut buf = WriteBuf::new();
        buf.put(&[1; 64]);
        let capacity = buf.capacity();
        for _ in 0..100 {
            buf.advance(60);
            buf.put(&[1; 60]);
        }
        assert!(buf.capacity() <= 2 * capacity, "{}", buf.capacity());
    }

    #[test]
    fn small_writes_of_one_stream_share_a_frame() {
        let mut buf = WriteBuf::new();
        buf.put_data_frame([0, 0, 1, 0, 0, 0, 0, 0, 3], b"a", 3);
        assert!(!buf.join_data_frame(5, b"b", 0, 100), "another stream");
        assert!(buf.join_data_frame(3, b"bc", 1, 100));
        assert_eq!(buf.unsent(), b"\0\0\x03\0\x01\0\0\0\x03abc");
        assert!(!buf.join_data_frame(3, b"d", 0, 3), "no room");
    }

    #[test]
    fn a_frame_that_is_partly_sent_is_not_changed() {
        let mut buf = WriteBuf::new();
        buf.put_data_frame([0, 0, 1, 0, 0, 0, 0, 0, 3], b"a", 3);
        buf.advance(1);
        assert!(!buf.join_data_frame(3, b"b", 0, 100));
        buf.put_data_frame([0, 0, 1, 0, 0, 0, 0, 0, 3], b"a", 3);
        buf.put(b"x");
        assert!(!buf.join_data_frame(3, b"b", 0, 100), "no longer the last");
    }
}
