//! Fuzz targets: plain functions on bytes that panic when something is wrong.
//!
//! `corpus/` has inputs for each, which the tests replay; `fuzz/run` looks for more.

mod hpack;
mod pair;
mod peer;

pub use hpack::fuzz_hpack;
pub use pair::fuzz_pair;
pub use peer::{fuzz_client, fuzz_server};

/// Bytes to decide by; zeros when they are used up.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// One of `count`.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
