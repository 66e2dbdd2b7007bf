//! ConfigMaps of parameters: what a class or a Gateway changes about what is made. Spec: control-plane.md 8.5.

use std::collections::BTreeMap;

use serde_json::Value;

use super::OwnedKind;
use super::merge::{MergeError, merge};

/// A ConfigMap of parameters, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlay {
    /// What it is called in errors: namespace and name.
    source: String,
    patches: BTreeMap<OwnedKind, Value>,
}

/// Why an overlay cannot be laid over.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OverlayError {
    /// A key that means nothing.
    #[error("ConfigMap {source_name}: key {key:?} is not one of {}", keys())]
    UnknownKey {
        /// The ConfigMap.
        source_name: String,
        /// The key.
        key: String,
    },
    /// A value that is no YAML mapping.
    #[error("ConfigMap {source_name}, key {key}: {why}")]
    Syntax {
        /// The ConfigMap.
        source_name: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and where.
        why: String,
    },
    /// A patch that does not fit.
    #[error("ConfigMap {source_name}, key {key}")]
    Merge {
        /// The ConfigMap.
        source_name: String,
        /// The key.
        key: &'static str,
        /// Where and why.
        source: MergeError,
    },
    /// A field that patches must leave alone.
    #[error("ConfigMap {source_name}, key {key}: {field} cannot be changed")]
    Fixed {
        /// The ConfigMap.
        source_name: String,
        /// The key.
        key: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl Overlay {
    /// Reads a ConfigMap's `data`. `source` names it in errors.
    ///
    /// # Errors
    /// See [`OverlayError`].
    pub fn read(source: &str, data: &BTreeMap<String, String>) -> Result<Self, OverlayError> {
        let mut patches = BTreeMap::new();
        for (key, text) in data {
            let kind = OwnedKind::ALL
                .into_iter()
                .find(|kind| kind.overlay_key() == key)
                .ok_or_else(|| OverlayError::UnknownKey {
                    source_name: source.to_owned(),
                    key: key.clone(),
                })?;
            let bad = |why: String| OverlayError::Syntax {
                source_name: source.to_owned(),
                key: kind.overlay_key(),
                why,
            };
            let patch = waymark_api::yaml::parse_value(text).map_err(bad)?;
            let patch = match patch {
                Value::Null => Value::Object(serde_json::Map::new()),
                Value::Object(_) => patch,
                _ => return Err(bad("a mapping is wanted".to_owned())),
            };
            patches.insert(kind, patch);
        }
        Ok(Self {
            source: source.to_owned(),
            patches,
        })
    }

    /// The patch for a kind.
    pub fn patch(&self, kind: OwnedKind) -> Option<&Value> {
        self.patches.get(&kind)
    }

    /// Lays the patch for a kind over an object.
    ///
    /// # Errors
    /// When it does not fit, or changes what the object is known by.
    pub fn lay_over(&self, kind: OwnedKind, object: Value) -> Result<Value, OverlayError> {
        let Some(patch) = self.patches.get(&kind) else {
            return Ok(object);
        };
        let before = object.clone();
        let merged = merge(object, patch).map_err(|source| OverlayError::Merge {
            source_name: self.source.clone(),
            key: kind.overlay_key(),
            source,
        })?;
        let changed = |field: &&'static str| {
            let pointer = format!("/{}", field.replace('.', "/"));
            before.pointer(&pointer) != merged.pointer(&pointer)
        };
        match FIXED.iter().find(|field| changed(field)) {
            Some(field) => Err(OverlayError::Fixed {
                source_name: self.source.clone(),
                key: kind.overlay_key(),
                field,
            }),
            None => Ok(merged),
        }
    }
}

fn keys() -> String {
    OwnedKind::ALL.map(OwnedKind::overlay_key).join(", ")
}

/// What an object is known by, what the API server writes, and what says whose it is.
const FIXED: [&str; 15] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "metadata.generateName",
    "metadata.namespace",
    "metadata.uid",
    "metadata.resourceVersion",
    "metadata.generation",
    "metadata.creationTimestamp",
    "metadata.deletionTimestamp",
    "metadata.deletionGracePeriodSeconds",
    "metadata.ownerReferences",
    "metadata.finalizers",
    "metadata.managedFields",
    "status",
];
