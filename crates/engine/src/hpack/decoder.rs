//! Header blocks into heads.

use crate::head::{Class, Head};

use super::table::Table;
use super::{DEFAULT_TABLE_BYTES, HpackError, huffman, integer, static_table};

/// The receiving side's state.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest table the peer may choose.
    limit: usize,
}

impl Decoder {
    /// The state before the first block.
    pub(crate) fn new() -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE_BYTES),
            limit: DEFAULT_TABLE_BYTES,
        }
    }

    /// Sets what we told the peer: SETTINGS_HEADER_TABLE_SIZE, once it knows.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Reads a whole block into `head`, to its end even if the head outgrows its limits: the table has to follow.
    pub(crate) fn decode(&mut self, mut block: &[u8], head: &mut Head) -> Result<(), HpackError> {
        while let Some(&first) = block.first()
            && first & 0xe0 == 0x20
        {
            let size = integer::take(&mut block, 5)?;
            if size > self.limit {
                return Err(HpackError::TableSize);
            }
            self.table.set_max(size);
        }
        if self.table.max() > self.limit {
            return Err(HpackError::TableSize);
        }
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer::take(&mut block, 7)?;
                let (name, value, class) = self.entry(index)?;
                head.receive(name, value, class);
            } else if first & 0x40 != 0 {
                self.literal(&mut block, 6, Indexing::Incremental, head)?;
            } else if first & 0x20 != 0 {
                return Err(HpackError::TableSize);
            } else if first & 0x10 != 0 {
                self.literal(&mut block, 4, Indexing::Never, head)?;
            } else {
                self.literal(&mut block, 4, Indexing::Without, head)?;
            }
        }
        Ok(())
    }

    /// The memory it holds.
    pub(crate) fn memory(&self) -> usize {
        self.table.memory()
    }

    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix_bits: u32,
        indexing: Indexing,
        head: &mut Head,
    ) -> Result<(), HpackError> {
        let index = integer::take(block, prefix_bits)?;
        // Name and value are put together at the end of the head's bytes, whether they stay there or not.
        let at = head.bytes.len();
        let known = if index == 0 {
            take_string(block, &mut head.bytes)?;
            None
        } else {
            let (name, _, class) = self.entry(index)?;
            head.bytes.extend_from_slice(name);
            Some(class)
        };
        let name_end = head.bytes.len();
        take_string(block, &mut head.bytes)?;
        let (name, value) = head.bytes[at..].split_at(name_end - at);
        let class = match known {
            // An entry of which only the value was invalid still has a good name, so that class can't be reused.
            Some(class) if class != Class::InvalidValue => class,
            Some(_) | None => Class::of_name(name),
        }
        .with_value(value);
        if indexing == Indexing::Incremental {
            self.table.insert(name, value, class);
        }
        head.commit(at, name_end - at, class, indexing == Indexing::Never);
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<(&[u8], &[u8], Class), HpackError> {
        if index <= static_table::LEN {
            static_table::entry(index)
        } else {
            self.table.get(index - static_table::LEN - 1)
        }
        .ok_or(HpackError::Index)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexing {
    Incremental,
    Without,
    Never,
}

fn take_string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    let is_huffman = block.first().ok_or(HpackError::Truncated)? & 0x80 != 0;
    let len = integer::take(block, 7)?;
    let (string, rest) = block.split_at_checked(len).ok_or(HpackError::Truncated)?;
    *block = rest;
    if is_huffman {
        huffman::decode(string, out)
    } else {
        out.extend_from_slice(string);
        Ok(())
    }
}
