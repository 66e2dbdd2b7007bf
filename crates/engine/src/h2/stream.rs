//! The streams of a connection: a slab, and an index by stream identifier.

/// A stream of a connection. Outlives the stream: then it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamRef {
    slot: u32,
    id: u32,
}

impl StreamRef {
    /// The stream identifier of the wire.
    #[must_use]
    pub fn id(self) -> u32 {
        self.id
    }

    /// A small number that no other living stream of the connection has, for tables of the caller's.
    #[must_use]
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

/// One direction of a stream.
///
/// ```text
/// Head --final head--> Body --END_STREAM--> Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// The head is still to come: a server's answer, a client's view of it.
    Head,
    /// Data or trailers may come.
    Body,
    /// Nothing more comes.
    Ended,
}

/// What a sender of data waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Nothing.
    No,
    /// The stream's window.
    OnStream,
    /// The connection's window or the output; it has a place in the queue of those that wait.
    OnConnection,
}

/// What the request says about the body of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// HEAD: there is none, whatever its head says.
    Head,
    /// CONNECT: after success there is a tunnel.
    Connect,
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// 0 in a free slot.
    id: u32,
    pub(super) send: Half,
    pub(super) recv: Half,
    pub(super) blocked: Blocked,
    pub(super) asked: Asked,
    /// What we may send. Negative after the peer made its windows smaller.
    pub(super) send_window: i32,
    /// What the peer may send.
    pub(super) recv_window: i32,
    /// What was handed to the user, who hasn't consumed it yet.
    pub(super) unconsumed: u32,
    /// What was consumed, which the peer hasn't been told yet.
    pub(super) credit: u32,
    /// By how much the peer's window is larger than it was at first.
    pub(super) grown: u32,
    /// When the peer was last told of credit, or the stream opened: milliseconds since the connection's beginning.
    pub(super) credited_at: u32,
    /// How much body is missing of what content-length promised.
    pub(super) body_left: Option<u64>,
}

// Tens of thousands of idle streams are cheap only as long as this holds.
const _: () = assert!(size_of::<Stream>() <= 48);

impl Stream {
    /// Whether both directions have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.send == Half::Ended && self.recv == Half::Ended
    }
}

/// Slots are used again; a [`StreamRef`] of a stream that is gone finds nothing, because identifiers aren't.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slots: Vec<Stream>,
    free: Vec<u32>,
    index: Index,
    /// Streams that haven't ended in both directions.
    active: u32,
}

impl Streams {
    /// Opens a stream. Its identifier must be new.
    pub(super) fn insert(
        &mut self,
        id: u32,
        send: Half,
        recv: Half,
        send_window: i32,
        recv_window: i32,
    ) -> StreamRef {
        let stream = Stream {
            id,
            send,
            recv,
            blocked: Blocked::No,
            asked: Asked::Other,
            send_window,
            recv_window,
            unconsumed: 0,
            credit: 0,
            grown: 0,
            credited_at: 0,
            body_left: None,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = stream;
            slot
        } else {
            self.slots.push(stream);
            (self.slots.len() - 1) as u32
        };
        self.index.insert(id, slot);
        self.active += 1;
        StreamRef { slot, id }
    }

    /// Frees the stream's slot.
    pub(super) fn remove(&mut self, stream: StreamRef) {
        if let Some(gone) = self.slots.get_mut(stream.slot as usize)
            && gone.id == stream.id
        {
            if !gone.is_closed() {
                self.active -= 1;
            }
            gone.id = 0;
            self.free.push(stream.slot);
            self.index.remove(stream.id);
        }
    }

    /// Ends a direction of the stream, after which both may have ended.
    pub(super) fn end(&mut self, stream: StreamRef, half: impl FnOnce(&mut Stream) -> &mut Half) {
        if let Some(stream) = self.get_mut(stream) {
            let was_closed = stream.is_closed();
            *half(stream) = Half::Ended;
            if stream.is_closed() && !was_closed {
                self.active -= 1;
            }
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, stream: StreamRef) -> Option<&mut Stream> {
        self.slots
            .get_mut(stream.slot as usize)
            .filter(|found| found.id == stream.id)
    }

    #[inline]
    pub(super) fn get(&self, stream: StreamRef) -> Option<&Stream> {
        self.slots
            .get(stream.slot as usize)
            .filter(|found| found.id == stream.id)
    }

    /// The living stream of this identifier.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<StreamRef> {
        let slot = self.index.get(id)?;
        Some(StreamRef { slot, id })
    }

    /// The living streams.
    pub(super) fn iter(&self) -> impl Iterator<Item = StreamRef> {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, stream)| stream.id != 0)
            .map(|(slot, stream)| StreamRef {
                slot,
                id: stream.id,
            })
    }

    /// The living streams, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (StreamRef, &mut Stream)> {
        (0u32..)
            .zip(&mut self.slots)
            .filter(|(_, stream)| stream.id != 0)
            .map(|(slot, stream)| {
                (
                    StreamRef {
                        slot,
                        id: stream.id,
                    },
                    stream,
                )
            })
    }

    /// How many streams haven't ended in both directions.
    pub(super) fn active(&self) -> u32 {
        self.active
    }

    /// How many there are, with those that have ended but have unread data.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// How many there ever were at once.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>()
            + self.free.capacity() * size_of::<u32>()
            + self.index.entries.capacity() * size_of::<IndexEntry>()
    }
}

/// Slots by stream identifier: open addressing, at most half full.
///
/// The place of an identifier is its lower bits: identifiers grow one by one, so living ones hardly ever want the same.
#[derive(Debug, Default)]
struct Index {
    entries: Vec<IndexEntry>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct IndexEntry {
    /// 0 where there is none.
    id: u32,
    slot: u32,
}

impl Index {
    #[inline]
    fn get(&self, id: u32) -> Option<u32> {
        if self.entries.is_empty() {
            return None;
        }
        let mut place = self.home(id);
        loop {
            let entry = self.entries[place];
            if entry.id == id {
                return Some(entry.slot);
            }
            if entry.id == 0 {
                return None;
            }
            place = self.after(place);
        }
    }

    fn insert(&mut self, id: u32, slot: u32) {
        if self.len * 2 >= self.entries.len() {
            let larger = vec![IndexEntry::default(); (self.entries.len() * 2).max(8)];
            for entry in std::mem::replace(&mut self.entries, larger) {
                if entry.id != 0 {
                    self.place(entry);
                }
            }
        }
        self.place(IndexEntry { id, slot });
        self.len += 1;
    }

    fn remove(&mut self, id: u32) {
        let mut hole = self.home(id);
        while self.entries[hole].id != id {
            if self.entries[hole].id == 0 {
                return;
            }
            hole = self.after(hole);
        }
        self.len -= 1;
        // What was pushed past the hole moves back into it.
        let mut next = self.after(hole);
        while self.entries[next].id != 0 {
            let distance = next.wrapping_sub(self.home(self.entries[next].id)) & self.mask();
            if distance >= (next.wrapping_sub(hole) & self.mask()) {
                self.entries[hole] = self.entries[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.entries[hole] = IndexEntry::default();
    }

    fn place(&mut self, entry: IndexEntry) {
        let mut place = self.home(entry.id);
        while self.entries[place].id != 0 {
            place = self.after(place);
        }
        self.entries[place] = entry;
    }

    fn home(&self, id: u32) -> usize {
        (id >> 1) as usize & self.mask()
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & self.mask()
    }

    fn mask(&self) -> usize {
        self.entries.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_agrees_with_a_map(steps in prop::collection::vec((1u32..200, any::<bool>()), 0..300)) {
            let mut index = Index::default();
            let mut model = BTreeMap::new();
            for (number, (id, add)) in steps.into_iter().enumerate() {
                if add && !model.contains_key(&id) {
                    index.insert(id, number as u32);
                    model.insert(id, number as u32);
                } else if !add && model.remove(&id).is_some() {
                    index.remove(id);
                }
                for id in 1..200 {
                    prop_assert_eq!(index.get(id), model.get(&id).copied());
                }
            }
        }
    }

    #[test]
    fn a_reference_to_a_stream_that_is_gone_names_nothing() {
        let mut streams = Streams::default();
        let first = streams.insert(1, Half::Head, Half::Body, 0, 0);
        streams.remove(first);
        let second = streams.insert(3, Half::Head, Half::Body, 0, 0);
        assert_eq!(first.slot(), second.slot());
        assert!(streams.get(first).is_none());
        assert!(streams.get(second).is_some());
        assert_eq!(streams.active(), 1);
    }
}
