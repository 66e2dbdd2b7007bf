//! The table of the fields that were seen (RFC 7541 2.3.2, 4).

use std::collections::VecDeque;

use crate::head::Class;

/// What an entry costs beyond its name and value.
const OVERHEAD: usize = 32;

/// Fields, the newest first, of a bounded size; the oldest make room.
///
/// The bytes of all entries lie in one vector, oldest first, so that an insertion allocates nothing once the vector is as
/// large as the table.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    bytes: Vec<u8>,
    /// Where in `bytes` the oldest entry begins.
    front: usize,
    /// The position, counted over the life of the table, of the first of `bytes`.
    base: u32,
    size: usize,
    max: usize,
    inserted: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    name_len: u32,
    value_len: u32,
    class: Class,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: Vec::new(),
            front: 0,
            base: 0,
            size: 0,
            max,
            inserted: 0,
        }
    }

    /// Adds a field, evicting what doesn't fit beside it. One larger than the table empties it.
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], class: Class) {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict_to(self.max.saturating_sub(size));
        if size > self.max {
            return;
        }
        if self.front >= self.max.max(256) {
            self.bytes.drain(..self.front);
            self.base = self.base.wrapping_add(self.front as u32);
            self.front = 0;
        }
        self.entries.push_front(Entry {
            at: self.base.wrapping_add(self.bytes.len() as u32),
            name_len: name.len() as u32,
            value_len: value.len() as u32,
            class,
        });
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(value);
        self.size += size;
        self.inserted = self.inserted.wrapping_add(1);
    }

    /// Changes the bound, evicting what no longer fits.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
        self.evict_to(max);
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Name, value and class of the entry of this age, the newest's being 0.
    pub(super) fn get(&self, age: usize) -> Option<(&[u8], &[u8], Class)> {
        let entry = self.entries.get(age)?;
        let at = entry.at.wrapping_sub(self.base) as usize;
        let (name, rest) = self.bytes[at..].split_at(entry.name_len as usize);
        Some((name, &rest[..entry.value_len as usize], entry.class))
    }

    /// How many entries were ever inserted, modulo 2^32; names the newest entry for [`age_of`](Self::age_of).
    pub(super) fn inserted(&self) -> u32 {
        self.inserted
    }

    /// The age of the entry that was the `number`th inserted, if it is still there.
    pub(super) fn age_of(&self, number: u32) -> Option<usize> {
        let age = self.inserted.wrapping_sub(number) as usize;
        (age < self.entries.len()).then_some(age)
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn evict_to(&mut self, size: usize) {
        while self.size > size
            && let Some(entry) = self.entries.pop_back()
        {
            let len = (entry.name_len + entry.value_len) as usize;
            self.front += len;
            self.size -= len + OVERHEAD;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
            self.front = 0;
        }
    }
}

/// A quick hash of `bytes`. Its users compare what they find, so collisions cost time only, and no more than a few probes.
pub(super) const fn hash(bytes: &[u8], seed: u32) -> u32 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (seed as u64) << 32 ^ bytes.len() as u64;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        state = (state ^ u64::from_le_bytes(*word)).wrapping_mul(MULTIPLIER);
        state ^= state >> 32;
        rest = after;
    }
    let mut tail = 0u64;
    if let (Some(first), Some(last)) = (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        tail = (u32::from_le_bytes(*first) as u64) << 32 | u32::from_le_bytes(*last) as u64;
    } else {
        while let Some((&byte, after)) = rest.split_first() {
            tail = tail << 8 | byte as u64;
            rest = after;
        }
    }
    state = (state ^ tail).wrapping_mul(MULTIPLIER);
    (state >> 32) as u32
}
