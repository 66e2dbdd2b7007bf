//! Header compression for HTTP/2.
//!
//! Spec: RFC 7541.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod static_table;
mod table;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;

pub(crate) use decoder::Decoder;
pub(crate) use encoder::Encoder;

/// SETTINGS_HEADER_TABLE_SIZE before anything else was agreed on.
pub(crate) const DEFAULT_TABLE_BYTES: usize = 4096;

/// A header block that can't be read. The connection ends, because the state of the table is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends inside a field.
    #[error("header block ends inside a field")]
    Truncated,
    /// A number of more bits than any table or string could have.
    #[error("integer in a header block is too large")]
    IntegerOverflow,
    /// A field refers to an entry that isn't there.
    #[error("header field has an index without an entry")]
    Index,
    /// A string whose Huffman code isn't one.
    #[error("header string is not Huffman code")]
    Huffman,
    /// A change of the table's size inside a block, above what we allowed, or missing after we lowered it.
    #[error("size of the header table changed against the rules")]
    TableSize,
}
