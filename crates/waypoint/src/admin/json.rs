//! JSON as Envoy's admin interface writes it.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};
use waymark_proto::json::{JsonStyle, any_to_value};

/// Indented by one blank.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    // A `Value` serializes, and a `Vec` takes it all.
    let _ = value.serialize(&mut serializer);
    out.push(b'\n');
    out
}

/// `2026-08-01T10:00:00.123Z`
pub(super) fn timestamp(at: SystemTime) -> Value {
    let at = time::OffsetDateTime::from(at);
    Value::from(format!(
        "{}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    ))
}

/// An encoded message as an Any.
pub(super) fn any(type_url: &str, bytes: &[u8]) -> Value {
    let any = prost_types::Any {
        type_url: type_url.to_owned(),
        value: bytes.to_vec(),
    };
    any_to_value(&any, JsonStyle::Snake)
}

/// Bytes.
pub(super) fn base64(bytes: &[u8]) -> Value {
    Value::from(STANDARD.encode(bytes))
}

/// An object without the fields that have their default value: `null`, `""`, `0`, `false`, empty lists.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let mut out = Map::new();
    for (name, value) in fields {
        let default = match &value {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::String(s) => s.is_empty(),
            Value::Number(n) => n.as_f64() == Some(0.0),
            Value::Array(a) => a.is_empty(),
            Value::Object(_) => false,
        };
        if !default {
            out.insert(name.to_owned(), value);
        }
    }
    Value::Object(out)
}
