//! The control plane: sources, store, index, translation, delivery.
#![forbid(unsafe_code)]

pub mod translate;
