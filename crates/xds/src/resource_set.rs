//! What one client is to have.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource_map::ResourceMap;

/// All resources of one client, by type: a snapshot that does not change.
///
/// A copy costs a few pointers; the maps of types that several clients have alike are shared.
#[derive(Debug, Clone)]
pub struct ResourceSet {
    version: Arc<str>,
    types: BTreeMap<Arc<str>, ResourceMap>,
}

impl ResourceSet {
    /// A set without resources. `version` is told to clients as `system_version_info`; nothing depends on it.
    pub fn new(version: impl Into<Arc<str>>) -> Self {
        Self {
            version: version.into(),
            types: BTreeMap::new(),
        }
    }

    /// The set with `resources` as all those of a type.
    #[must_use]
    pub fn with(mut self, type_url: &str, resources: ResourceMap) -> Self {
        self.set(type_url, resources);
        self
    }

    /// Replaces all resources of a type.
    pub fn set(&mut self, type_url: &str, resources: ResourceMap) {
        match self.types.get_mut(type_url) {
            Some(slot) => *slot = resources,
            None => {
                self.types.insert(type_url.into(), resources);
            }
        }
    }

    /// Renames the version.
    pub fn set_version(&mut self, version: impl Into<Arc<str>>) {
        self.version = version.into();
    }

    /// The resources of a type.
    pub fn get(&self, type_url: &str) -> Option<&ResourceMap> {
        self.types.get(type_url)
    }

    /// The types and their resources.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ResourceMap)> {
        self.types
            .iter()
            .map(|(type_url, resources)| (type_url.as_ref(), resources))
    }

    /// The version that clients are told.
    pub fn version(&self) -> &str {
        &self.version
    }
}
