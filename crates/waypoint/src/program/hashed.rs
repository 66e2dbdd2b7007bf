//! Values that are hashed once, where they are made, because each request asks for their hash.

use std::fmt;
use std::hash::{Hash, Hasher as _};
use std::ops::Deref;

use xxhash_rust::xxh3::Xxh3;

/// A value that does not change, with its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed<T> {
    value: T,
    hash: u64,
}

impl<T> Hashed<T> {
    /// 64 bits of xxh3 over all of the value; never 0, which is left for values that are missing.
    pub fn hash(this: &Self) -> u64 {
        this.hash
    }
}

impl<T: Hash> From<T> for Hashed<T> {
    fn from(value: T) -> Self {
        let mut hasher = Xxh3::new();
        value.hash(&mut hasher);
        let hash = hasher.finish().max(1);
        Self { value, hash }
    }
}

impl<T> Deref for Hashed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Hashed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}
