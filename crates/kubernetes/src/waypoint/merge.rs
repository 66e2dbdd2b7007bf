//! Strategic merge patches for the objects that waypoints are made of.
//!
//! Mappings are merged, `null` takes a field away, and a list is merged item by item where Kubernetes gives it a key, else
//! replaced. `$patch: replace | delete | merge` and `$deleteFromPrimitiveList/<field>` are honoured.
//! Spec: kubernetes: staging/src/k8s.io/apimachinery/pkg/util/strategicpatch; the keys are `patchMergeKey` of the types.

use serde_json::{Map, Value};

/// Why a patch cannot be laid over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A mapping and something else.
    #[error("{path}: a mapping is wanted")]
    NotAMapping {
        /// The field.
        path: String,
    },
    /// A list and something else.
    #[error("{path}: a list is wanted")]
    NotAList {
        /// The field.
        path: String,
    },
    /// An item without what it would be found by.
    #[error("{path}: every item needs {key}")]
    NoKey {
        /// The list.
        path: String,
        /// What items are found by.
        key: &'static str,
    },
    /// A directive that does not exist.
    #[error("{path}: $patch: {directive:?} is not replace, merge or delete")]
    Directive {
        /// The mapping.
        path: String,
        /// What it says.
        directive: String,
    },
}

/// Lays `patch` over `original`.
///
/// # Errors
/// See [`MergeError`].
pub(super) fn merge(original: Value, patch: &Value) -> Result<Value, MergeError> {
    merge_value("", original, patch).map(|merged| merged.unwrap_or(Value::Null))
}

/// `None` when nothing is left.
fn merge_value(path: &str, original: Value, patch: &Value) -> Result<Option<Value>, MergeError> {
    match (original, patch) {
        (_, Value::Null) => Ok(None),
        (Value::Object(original), Value::Object(patch)) => merge_mapping(path, original, patch),
        (Value::Null, Value::Object(patch)) => merge_mapping(path, Map::new(), patch),
        (Value::Array(original), Value::Array(patch)) => merge_list(path, original, patch),
        (Value::Null, Value::Array(patch)) => merge_list(path, Vec::new(), patch),
        (_, Value::Object(_)) => Err(MergeError::NotAList {
            path: path.to_owned(),
        }),
        (Value::Object(_), _) => Err(MergeError::NotAMapping {
            path: path.to_owned(),
        }),
        (Value::Array(_), _) => Err(MergeError::NotAList {
            path: path.to_owned(),
        }),
        (_, patch) => Ok(Some(patch.clone())),
    }
}

fn merge_mapping(
    path: &str,
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Option<Value>, MergeError> {
    match directive(path, patch)? {
        Some(Directive::Delete) => return Ok(None),
        Some(Directive::Replace) => original.clear(),
        Some(Directive::Merge) | None => {}
    }
    for (field, value) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            delete_primitives(&at(path, list), original.get_mut(list), value)?;
        } else if !field.starts_with('$') {
            let old = original.get(field).cloned().unwrap_or_default();
            match merge_value(&at(path, field), old, value)? {
                Some(merged) => original.insert(field.clone(), merged),
                None => original.shift_remove(field),
            };
        }
    }
    retain_keys(&mut original, patch);
    Ok(Some(Value::Object(original)))
}

fn merge_list(
    path: &str,
    original: Vec<Value>,
    patch: &[Value],
) -> Result<Option<Value>, MergeError> {
    let Some(key) = merge_key(path) else {
        return Ok(Some(patch.to_vec().into()));
    };
    let mut merged = original;
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(MergeError::NotAMapping {
                path: path.to_owned(),
            });
        };
        if let (Some(Directive::Replace), None) = (directive(path, fields)?, fields.get(key)) {
            // An item that says nothing else: the list begins anew.
            merged.clear();
            continue;
        }
        let Some(wanted) = fields.get(key) else {
            return Err(MergeError::NoKey {
                path: path.to_owned(),
                key,
            });
        };
        let found = merged.iter().position(|old| old.get(key) == Some(wanted));
        let old = found.map_or(Value::Null, |at| merged[at].clone());
        match (merge_value(path, old, item)?, found) {
            (Some(new), Some(at)) => merged[at] = new,
            (Some(new), None) => merged.push(new),
            (None, Some(at)) => drop(merged.remove(at)),
            (None, None) => {}
        }
    }
    Ok(Some(merged.into()))
}

#[derive(Clone, Copy)]
enum Directive {
    Replace,
    Merge,
    Delete,
}

fn directive(path: &str, patch: &Map<String, Value>) -> Result<Option<Directive>, MergeError> {
    match patch.get("$patch") {
        None => Ok(None),
        Some(Value::String(text)) if text == "replace" => Ok(Some(Directive::Replace)),
        Some(Value::String(text)) if text == "merge" => Ok(Some(Directive::Merge)),
        Some(Value::String(text)) if text == "delete" => Ok(Some(Directive::Delete)),
        Some(other) => Err(MergeError::Directive {
            path: path.to_owned(),
            directive: other
                .as_str()
                .map_or_else(|| other.to_string(), str::to_owned),
        }),
    }
}

fn delete_primitives(path: &str, list: Option<&mut Value>, gone: &Value) -> Result<(), MergeError> {
    let not_a_list = || MergeError::NotAList {
        path: path.to_owned(),
    };
    let gone = gone.as_array().ok_or_else(not_a_list)?;
    if let Some(list) = list {
        let list = list.as_array_mut().ok_or_else(not_a_list)?;
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// `$retainKeys`: of a union (a volume's source, a rollout's strategy), fields of the other members go.
fn retain_keys(merged: &mut Map<String, Value>, patch: &Map<String, Value>) {
    if let Some(Value::Array(keys)) = patch.get("$retainKeys") {
        merged.retain(|field, _| keys.iter().any(|key| key.as_str() == Some(field)));
    }
}

fn at(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

/// What the items of a list are found by; `None` for lists that are replaced.
fn merge_key(path: &str) -> Option<&'static str> {
    let mut fields = path.rsplit('.');
    let (list, of) = (fields.next()?, fields.next().unwrap_or_default());
    let of = match of {
        "initContainers" | "ephemeralContainers" => "containers",
        of => of,
    };
    MERGED_LISTS
        .iter()
        .find(|(parent, name, _)| (*parent, *name) == (of, list))
        .map(|(.., key)| *key)
}

/// The lists that are merged: the field that they are in, their own, and what their items are found by.
const MERGED_LISTS: &[(&str, &str, &str)] = &[
    ("spec", "containers", "name"),
    ("spec", "initContainers", "name"),
    ("spec", "ephemeralContainers", "name"),
    ("spec", "volumes", "name"),
    ("spec", "imagePullSecrets", "name"),
    ("spec", "hostAliases", "ip"),
    ("spec", "topologySpreadConstraints", "topologyKey"),
    ("spec", "resourceClaims", "name"),
    ("spec", "ports", "port"),
    ("containers", "env", "name"),
    ("containers", "ports", "containerPort"),
    ("containers", "volumeMounts", "mountPath"),
    ("containers", "volumeDevices", "devicePath"),
    ("metadata", "ownerReferences", "uid"),
    ("", "secrets", "name"),
];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_with_a_key_are_merged_and_others_replaced() {
        let pod = json!({"spec": {
            "containers": [{
                "name": "a",
                "args": ["x", "y"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 1, "name": "one"}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "old"}],
        }});
        let patch = json!({"spec": {
            "containers": [
                {
                    "name": "a",
                    "args": ["z"],
                    "env": [{"name": "B", "value": "3"}, {"name": "A", "$patch": "delete"}, {"name": "C", "value": "4"}],
                    "ports": [{"containerPort": 2}],
                },
                {"name": "b", "image": "i"},
            ],
            "volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}],
            "tolerations": [{"key": "new"}],
        }});
        assert_eq!(
            merge(pod, &patch).unwrap(),
            json!({"spec": {
                "containers": [
                    {
                        "name": "a",
                        "args": ["z"],
                        "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}],
                        "ports": [{"containerPort": 1, "name": "one"}, {"containerPort": 2}],
                    },
                    {"name": "b", "image": "i"},
                ],
                "volumes": [{"name": "v", "configMap": {"name": "c"}}],
                "tolerations": [{"key": "new"}],
            }})
        );
    }

    #[test]
    fn directives_take_away_and_replace() {
        let old = json!({"spec": {
            "strategy": {"type": "Recreate", "x": 1},
            "gone": 1,
            "finalizers": ["a", "b"],
            "ports": [{"port": 1}, {"port": 2}],
            "selector": {"a": "b"},
        }});
        let patch = json!({"spec": {
            "strategy": {"$patch": "replace", "type": "RollingUpdate"},
            "gone": null,
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "ports": [{"$patch": "replace"}, {"port": 3}],
            "selector": {"$patch": "delete"},
        }});
        assert_eq!(
            merge(old, &patch).unwrap(),
            json!({"spec": {
                "strategy": {"type": "RollingUpdate"},
                "finalizers": ["b"],
                "ports": [{"port": 3}],
            }})
        );
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let old = json!({"spec": {"ports": [{"port": 1}], "type": "ClusterIP", "selector": {}}});
        for (patch, error) in [
            (
                json!({"spec": {"ports": [{"name": "x"}]}}),
                "spec.ports: every item needs port",
            ),
            (
                json!({"spec": {"ports": {}}}),
                "spec.ports: a list is wanted",
            ),
            (
                json!({"spec": {"selector": "x"}}),
                "spec.selector: a mapping is wanted",
            ),
            (
                json!({"spec": {"$patch": "drop"}}),
                "spec: $patch: \"drop\" is not replace, merge or delete",
            ),
        ] {
            assert_eq!(merge(old.clone(), &patch).unwrap_err().to_string(), error);
        }
    }
}
