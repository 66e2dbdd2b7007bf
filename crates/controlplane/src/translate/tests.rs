//! Golden tests: one snapshot a case, as JSON, sorted.

mod bookinfo;
mod fixture;
