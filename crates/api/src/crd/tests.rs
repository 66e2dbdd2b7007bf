//! The definitions against the parser: whatever one knows, the other does.

use std::collections::BTreeSet;

use super::*;
use crate::support::REFUSED_FIELDS;
use crate::yaml::parse_json;

/// A field: its path as the parser tells it, and an object that has nothing else.
struct Place {
    path: String,
    object: Value,
}

/// Every field below a schema, wrapped by `wrap` into an object.
fn places(schema: &Value, path: &str, wrap: &dyn Fn(Value) -> Value, found: &mut Vec<Place>) {
    found.push(Place {
        path: path.to_owned(),
        object: wrap(sample(schema)),
    });
    if let Some(fields) = schema["properties"].as_object() {
        for (name, field) in fields {
            let inner = |value: Value| wrap(json!({ name: value }));
            places(field, &format!("{path}.{name}"), &inner, found);
        }
    }
    if schema["items"].is_object() {
        let inner = |value: Value| wrap(json!([value]));
        places(&schema["items"], &format!("{path}[0]"), &inner, found);
    }
    if schema["additionalProperties"].is_object() {
        let inner = |value: Value| wrap(json!({ "a": value }));
        let values = &schema["additionalProperties"];
        places(values, &format!("{path}[a]"), &inner, found);
    }
}

fn sample(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => json!({}),
        Some("array") => json!([]),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        _ => schema["enum"].get(0).cloned().unwrap_or(json!("a")),
    }
}

fn fields_of(custom: &CustomKind) -> Vec<Place> {
    let spec = (custom.spec)().into_json();
    let wrap = |spec: Value| {
        json!({
            "apiVersion": format!("{}/v1", custom.kind.group()),
            "kind": custom.kind.as_str(),
            "metadata": {"name": "a", "namespace": "default"},
            "spec": spec,
        })
    };
    let mut found = Vec::new();
    places(&spec, "spec", &wrap, &mut found);
    found
}

#[test]
fn the_parser_knows_every_field_that_is_defined() {
    let mut unknown = Vec::new();
    for custom in &ALL {
        for Place { path, object } in fields_of(custom) {
            let errors = parse_json("test", &object).err().unwrap_or_default();
            unknown.extend(
                errors
                    .iter()
                    .filter(|e| e.message.contains("unknown field"))
                    .filter(|e| e.field.as_deref() == Some(&path))
                    .map(|_| format!("{} {path}", custom.kind)),
            );
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn every_field_that_the_parser_refuses_is_defined() {
    for custom in &ALL {
        let paths: BTreeSet<String> = fields_of(custom)
            .into_iter()
            .map(|place| place.path.replace("[0]", "[]"))
            .collect();
        for row in REFUSED_FIELDS
            .iter()
            .filter(|r| r.kind == custom.kind.as_str())
        {
            let defined = match row.path.strip_prefix('*') {
                Some(end) => paths.iter().any(|path| path.ends_with(end)),
                None => paths.contains(row.path),
            };
            assert!(defined, "{} {}", row.kind, row.path);
        }
    }
}

#[test]
fn a_kind_is_called_by_each_of_its_names() {
    let called = |name| {
        ALL.iter()
            .filter(|c| c.is_called(name))
            .map(|c| c.plural)
            .collect::<Vec<_>>()
    };
    for name in [
        "vs",
        "VirtualService",
        "virtualservices",
        "virtualservices.networking.istio.io",
    ] {
        assert_eq!(called(name), ["virtualservices"]);
    }
    assert_eq!(called("gateway"), [""; 0]);
}
