//! `google.protobuf.Struct`, of which there are two Rust types, to JSON and back.

use serde_json::{Map, Value};

use super::well_known::{struct_from_json, struct_to_json};
use super::write::double;
use crate::envoy::google::protobuf as envoy;

/// Either Rust type of `google.protobuf.Struct`.
pub trait StructMessage {
    /// As a JSON object.
    fn to_json(&self) -> Value;
    /// From the members of a JSON object.
    fn from_json(members: &Map<String, Value>) -> Self;
}

impl StructMessage for prost_types::Struct {
    fn to_json(&self) -> Value {
        struct_to_json(self)
    }

    fn from_json(members: &Map<String, Value>) -> Self {
        struct_from_json(members)
    }
}

impl StructMessage for envoy::Struct {
    /// Sorted by name.
    fn to_json(&self) -> Value {
        let mut fields: Vec<(&String, &envoy::Value)> = self.fields.iter().collect();
        fields.sort_by_key(|(name, _)| *name);
        fields
            .into_iter()
            .map(|(name, value)| (name.clone(), to_json(value)))
            .collect::<Map<_, _>>()
            .into()
    }

    fn from_json(members: &Map<String, Value>) -> Self {
        let fields = members
            .iter()
            .map(|(name, value)| (name.clone(), from_json(value)))
            .collect();
        Self { fields }
    }
}

fn to_json(value: &envoy::Value) -> Value {
    use envoy::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(value)) => double(*value),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::StructValue(value)) => value.to_json(),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
    }
}

fn from_json(json: &Value) -> envoy::Value {
    use envoy::value::Kind;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(envoy::ListValue {
            values: values.iter().map(from_json).collect(),
        }),
        Value::Object(members) => Kind::StructValue(envoy::Struct::from_json(members)),
    };
    envoy::Value { kind: Some(kind) }
}
