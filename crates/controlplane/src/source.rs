//! Where objects come from: a directory of YAML manifests, watched for changes.

pub mod catalog;
pub mod directory;
