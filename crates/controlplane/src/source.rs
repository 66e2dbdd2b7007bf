//! Where objects come from: a directory of YAML manifests, or the API server of a cluster, either watched for changes.

use std::collections::BTreeMap;

use waymark_api::DocumentError;
use waymark_api::meta::ObjectKey;

use self::catalog::Place;
use crate::store::Change;

pub mod catalog;
pub mod directory;
pub mod kubernetes;

/// What a look at the source brought.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Changes of what is in force.
    pub changes: Vec<Change>,
    /// Everything that is wrong now.
    pub errors: Vec<DocumentError>,
    /// Where the changed objects are written, where that is in a file.
    pub places: BTreeMap<ObjectKey, Place>,
}
