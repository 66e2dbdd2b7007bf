//! JSON and YAML as istioctl prints them.

use serde_json::Value;
use waymark_proto::json::{JsonStyle, any_to_value, value_to_any};

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[value(alias = "short")]
    Table,
    /// JSON, indented by four blanks.
    Json,
    /// YAML, keys sorted.
    Yaml,
}

/// The text of a value; for a table the caller has its own.
pub(crate) fn structured(value: &Value, format: Format) -> String {
    match format {
        Format::Yaml => yaml(value),
        Format::Json | Format::Table => json(value),
    }
}

fn json(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a Value to memory can't fail: its keys are strings.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    text.push('\n');
    text
}

fn yaml(value: &Value) -> String {
    waymark_api::yaml::to_yaml(&sorted(value))
}

/// Keys in alphabetical order at every depth.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            keys.into_iter()
                .map(|key| (key.clone(), sorted(&map[key])))
                .collect::<serde_json::Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// A resource of a dump (an inline Any, `@type` and all) as the typed message in lowerCamelCase, without its own `@type`.
/// What can't be read as a message stays as it is.
pub(crate) fn typed(resource: &Value) -> Value {
    let camel =
        value_to_any::<prost_types::Any>(resource).map(|any| any_to_value(&any, JsonStyle::Camel));
    let mut value = camel.unwrap_or_else(|_| resource.clone());
    if let Value::Object(map) = &mut value {
        map.shift_remove("@type");
    }
    value
}
