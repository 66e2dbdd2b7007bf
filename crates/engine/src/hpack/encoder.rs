//! Fields into header blocks.

use crate::head::{Class, Field};

use super::table::{Table, hash};
use super::{DEFAULT_TABLE_BYTES, huffman, integer, static_table};

/// The sending side's state.
///
/// A field that was sent before costs a hash, a comparison and a byte or two. What is found by hash is a cache of table
/// positions: a position that was overwritten or whose entry is gone is a miss, never a wrong field.
#[derive(Debug)]
pub(crate) struct Encoder {
    table: Table,
    /// The largest table we want.
    cap: usize,
    /// By hash of name and value, or of the name alone: the number of an entry.
    slots: Box<[u32]>,
    /// Sizes to be told at the beginning of the next block: the smallest since the last one, and the current.
    resized: Option<usize>,
}

/// How many slots a hash may be in.
const WAYS: usize = 4;
/// Entries are seldom smaller than this, and take one or two slots.
const BYTES_PER_SLOT: usize = 8;
/// Separates the hash of a name alone from that of name and value.
const NAME_ONLY: u32 = 0x5bd1_e995;

impl Encoder {
    /// The state before the first block. The table stays below `cap`.
    pub(crate) fn new(cap: usize) -> Self {
        let mut encoder = Self {
            table: Table::new(DEFAULT_TABLE_BYTES),
            cap,
            slots: Box::default(),
            resized: None,
        };
        encoder.set_limit(DEFAULT_TABLE_BYTES);
        encoder
    }

    /// Follows the peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        let max = limit.min(self.cap);
        if max != self.table.max() {
            self.table.set_max(max);
            self.resized = Some(self.resized.map_or(max, |smallest| smallest.min(max)));
        }
    }

    /// Begins a block.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.resized.take() {
            if smallest < self.table.max() {
                integer::put(out, 0x20, 5, smallest);
            }
            integer::put(out, 0x20, 5, self.table.max());
        }
    }

    /// Appends a field to the block.
    pub(crate) fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let Field { name, value, .. } = field;
        let name_hash = hash(name, 0);
        let static_name = static_table::find(name, name_hash);
        let indexing = Indexing::of(&field, static_name);
        if indexing != Indexing::Never
            && let Some(index) =
                static_name.and_then(|first| static_table::find_value(first, value))
        {
            integer::put(out, 0x80, 7, index);
            return;
        }
        match indexing {
            Indexing::Incremental => self.incremental(name, value, name_hash, static_name, out),
            Indexing::Without => {
                let index = self.name_index(name, name_hash, static_name);
                put_literal(out, 0x00, 4, index, name, value);
            }
            Indexing::Never => {
                let index = self.name_index(name, name_hash, static_name);
                put_literal(out, 0x10, 4, index, name, value);
            }
        }
    }

    /// The memory it holds.
    pub(crate) fn memory(&self) -> usize {
        self.table.memory() + self.slots.len() * size_of::<u32>()
    }

    fn incremental(
        &mut self,
        name: &[u8],
        value: &[u8],
        name_hash: u32,
        static_name: Option<usize>,
        out: &mut Vec<u8>,
    ) {
        let full_hash = hash(value, name_hash);
        if let Some(age) = self.find(full_hash, |n, v| n == name && v == value) {
            integer::put(out, 0x80, 7, static_table::LEN + 1 + age);
            return;
        }
        let index = self.name_index(name, name_hash, static_name);
        // A field that would take most of the table isn't worth what it evicts.
        if name.len() + value.len() > self.table.max() / 2 {
            put_literal(out, 0x00, 4, index, name, value);
            return;
        }
        put_indexed_literal(out, index, name, value);
        self.table.insert(name, value, Class::Regular);
        self.remember(full_hash);
        if static_name.is_none() {
            self.remember(name_hash ^ NAME_ONLY);
        }
    }

    /// The index of an entry with this name, 0 for none.
    fn name_index(&self, name: &[u8], name_hash: u32, static_name: Option<usize>) -> usize {
        static_name.unwrap_or_else(|| {
            self.find(name_hash ^ NAME_ONLY, |n, _| n == name)
                .map_or(0, |age| static_table::LEN + 1 + age)
        })
    }

    fn find(&self, hash: u32, matches: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
        self.ways(hash).find_map(|slot| {
            let age = self.table.age_of(self.slots[slot])?;
            let (name, value, _) = self.table.get(age)?;
            matches(name, value).then_some(age)
        })
    }

    /// Notes where the newest entry is found, in place of the oldest.
    fn remember(&mut self, hash: u32) {
        if self.slots.is_empty() {
            let slots = (self.cap / BYTES_PER_SLOT).next_power_of_two().max(WAYS);
            self.slots = vec![0; slots].into_boxed_slice();
        }
        let oldest = self
            .ways(hash)
            .max_by_key(|&slot| self.table.age_of(self.slots[slot]).unwrap_or(usize::MAX));
        if let Some(slot) = oldest {
            self.slots[slot] = self.table.inserted();
        }
    }

    fn ways(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let count = self.slots.len();
        (0..WAYS.min(count)).map(move |way| (hash as usize + way) & (count - 1))
    }
}

/// What becomes of a field that isn't in a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexing {
    /// It is added to it.
    Incremental,
    /// It isn't: its value will hardly come again.
    Without,
    /// It isn't, nor may an intermediary add it.
    Never,
}

/// By entry of the static table.
const STATIC_NAMES: [Indexing; static_table::LEN + 1] = {
    let mut indexing = [Indexing::Incremental; static_table::LEN + 1];
    let mut index = 1;
    while index <= static_table::LEN {
        indexing[index] = Indexing::of_name(static_table::name(index));
        index += 1;
    }
    indexing
};

impl Indexing {
    fn of(field: &Field<'_>, static_name: Option<usize>) -> Self {
        if field.sensitive {
            return Self::Never;
        }
        match static_name {
            // Guessing a short secret through the table takes as many tries as it has values (RFC 7541 7.1.3).
            Some(static_table::COOKIE) if field.value.len() < 20 => Self::Never,
            Some(index) => STATIC_NAMES[index],
            None => Self::of_name(field.name),
        }
    }

    const fn of_name(name: &[u8]) -> Self {
        match name {
            b"authorization" | b"proxy-authorization" | b"set-cookie" => Self::Never,
            b":path"
            | b"age"
            | b"content-length"
            | b"content-range"
            | b"etag"
            | b"expires"
            | b"if-match"
            | b"if-modified-since"
            | b"if-none-match"
            | b"if-range"
            | b"if-unmodified-since"
            | b"last-modified"
            | b"location"
            | b"range"
            | b"traceparent"
            | b"x-request-id"
            | b"x-b3-traceid"
            | b"x-b3-spanid"
            | b"x-b3-parentspanid"
            | b"x-envoy-upstream-service-time"
            | b"grpc-timeout" => Self::Without,
            _ => Self::Incremental,
        }
    }
}

/// A literal that enters the table. It is sent once, so the shorter form is worth its time.
fn put_indexed_literal(out: &mut Vec<u8>, name_index: usize, name: &[u8], value: &[u8]) {
    integer::put(out, 0x40, 6, name_index);
    if name_index == 0 {
        put_string(out, name);
    }
    put_string(out, value);
}

/// A literal that is sent each time. Huffman code would save a fifth of its bytes and cost both sides many times the copy.
fn put_literal(
    out: &mut Vec<u8>,
    flags: u8,
    prefix_bits: u32,
    name_index: usize,
    name: &[u8],
    value: &[u8],
) {
    integer::put(out, flags, prefix_bits, name_index);
    if name_index == 0 {
        put_plain(out, name);
    }
    put_plain(out, value);
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    let len = huffman::encoded_len(string);
    if len < string.len() {
        integer::put(out, 0x80, 7, len);
        huffman::encode(string, out);
    } else {
        put_plain(out, string);
    }
}

fn put_plain(out: &mut Vec<u8>, string: &[u8]) {
    integer::put(out, 0, 7, string.len());
    out.extend_from_slice(string);
}
