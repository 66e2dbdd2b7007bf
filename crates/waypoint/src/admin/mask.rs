//! Field masks on sections of the configuration dump.

use serde_json::{Map, Value};

/// A comma list of paths.
pub(super) struct Mask(Vec<Vec<String>>);

impl Mask {
    pub(super) fn parse(text: &str) -> Self {
        let paths = text.split(',').filter(|p| !p.is_empty());
        Self(
            paths
                .map(|path| path.split('.').map(str::to_owned).collect())
                .collect(),
        )
    }

    /// What of an object the mask leaves, `@type` always. `None` when it has none of the mask's first names among `known`.
    pub(super) fn apply(&self, value: &Value, known: &[&str]) -> Option<Value> {
        let mine: Vec<_> = self
            .0
            .iter()
            .filter(|path| known.contains(&path[0].as_str()))
            .collect();
        if mine.is_empty() {
            return None;
        }
        let mut out = Map::new();
        if let Some(kind) = value.get("@type") {
            out.insert("@type".to_owned(), kind.clone());
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let paths = mine.iter().filter(|path| path[0] == *name);
            let kept = paths.fold(None, |kept: Option<Value>, path| {
                merge(kept, cut(field, &path[1..]))
            });
            if let Some(kept) = kept {
                out.insert(name.clone(), kept);
            }
        }
        Some(Value::Object(out))
    }
}

/// What of a field a path leaves. A path does not go into a list.
fn cut(field: &Value, path: &[String]) -> Option<Value> {
    let Some((name, rest)) = path.split_first() else {
        return Some(field.clone());
    };
    let inner = cut(field.as_object()?.get(name)?, rest)?;
    Some(Value::Object(Map::from_iter([(name.clone(), inner)])))
}

fn merge(a: Option<Value>, b: Option<Value>) -> Option<Value> {
    match (a, b) {
        (Some(Value::Object(mut a)), Some(Value::Object(b))) => {
            for (key, value) in b {
                let merged = merge(a.shift_remove(&key), Some(value)).unwrap_or_default();
                a.insert(key, merged);
            }
            Some(Value::Object(a))
        }
        (a, b) => b.or(a),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keeps_what_is_named() {
        let section = json!({ "@type": "t", "bootstrap": { "node": { "id": 1, "cluster": 2 }, "admin": 3 }, "last": 4 });
        let known = ["bootstrap", "last"];
        let apply = |mask: &str| Mask::parse(mask).apply(&section, &known);
        assert_eq!(apply("last"), Some(json!({ "@type": "t", "last": 4 })));
        let both = apply("bootstrap.node.id,bootstrap.admin,other");
        assert_eq!(
            both,
            Some(json!({ "@type": "t", "bootstrap": { "node": { "id": 1 }, "admin": 3 } }))
        );
        assert_eq!(apply("other"), None);
    }
}
