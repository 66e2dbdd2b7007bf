//! Protobuf to JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use serde_json::{Map, Number, Value as Json};

use super::well_known::{self, WellKnown};
use super::{JsonError, JsonStyle, MAX_DEPTH, pool};
use crate::any::type_name;

pub(super) fn message(
    descriptor: &MessageDescriptor,
    bytes: &[u8],
    style: JsonStyle,
) -> Result<Json, JsonError> {
    let message =
        DynamicMessage::decode(descriptor.clone(), bytes).map_err(|source| JsonError::Decode {
            type_name: descriptor.full_name().to_owned(),
            source,
        })?;
    Ok(Writer { style }.message(&message, 0))
}

pub(super) fn any(type_url: &str, bytes: &[u8], style: JsonStyle, depth: usize) -> Json {
    let decoded = (depth < MAX_DEPTH)
        .then(|| pool::find(type_name(type_url)))
        .flatten()
        .and_then(|descriptor| DynamicMessage::decode(descriptor, bytes).ok());
    let mut object = Map::new();
    if type_url.is_empty() && bytes.is_empty() {
        return Json::Object(object);
    }
    object.insert("@type".to_owned(), type_url.into());
    let writer = Writer { style };
    match decoded {
        None => {
            object.insert("value".to_owned(), BASE64.encode(bytes).into());
        }
        Some(message) if WellKnown::of(&message.descriptor()).is_some() => {
            object.insert("value".to_owned(), writer.message(&message, depth + 1));
        }
        Some(message) => writer.fields(&message, depth + 1, &mut object),
    }
    Json::Object(object)
}

struct Writer {
    style: JsonStyle,
}

impl Writer {
    fn message(&self, message: &DynamicMessage, depth: usize) -> Json {
        match WellKnown::of(&message.descriptor()) {
            Some(WellKnown::Any) => {
                let any = well_known::any_parts(message);
                self::any(&any.type_url, &any.value, self.style, depth + 1)
            }
            Some(WellKnown::Wrapper) => match message.descriptor().get_field(1) {
                Some(field) => self.single(&field.kind(), &message.get_field(&field), depth),
                None => Json::Null,
            },
            Some(kind) => well_known::to_json(kind, message),
            None => {
                let mut object = Map::new();
                self.fields(message, depth, &mut object);
                Json::Object(object)
            }
        }
    }

    fn fields(&self, message: &DynamicMessage, depth: usize, object: &mut Map<String, Json>) {
        let mut fields: Vec<(FieldDescriptor, &Value)> = message.fields().collect();
        if self.style == JsonStyle::Camel {
            fields.sort_by_key(|(field, _)| field.path().last().copied());
        }
        for (field, value) in fields {
            let name = match self.style {
                JsonStyle::Snake => field.name(),
                JsonStyle::Camel => field.json_name(),
            };
            object.insert(name.to_owned(), self.field(&field, value, depth));
        }
    }

    fn field(&self, field: &FieldDescriptor, value: &Value, depth: usize) -> Json {
        match value {
            Value::List(items) => items
                .iter()
                .map(|item| self.single(&field.kind(), item, depth))
                .collect(),
            Value::Map(entries) => {
                let Kind::Message(entry) = field.kind() else {
                    return Json::Null;
                };
                let kind = entry.map_entry_value_field().kind();
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                entries
                    .into_iter()
                    .map(|(key, value)| (map_key(key), self.single(&kind, value, depth)))
                    .collect::<Map<String, Json>>()
                    .into()
            }
            single => self.single(&field.kind(), single, depth),
        }
    }

    fn single(&self, kind: &Kind, value: &Value, depth: usize) -> Json {
        match value {
            Value::Bool(value) => (*value).into(),
            Value::I32(value) => (*value).into(),
            Value::U32(value) => (*value).into(),
            Value::I64(value) => value.to_string().into(),
            Value::U64(value) => value.to_string().into(),
            Value::F32(value) => float(f64::from(*value), value.to_string()),
            Value::F64(value) => double(*value),
            Value::String(value) => value.as_str().into(),
            Value::Bytes(value) => BASE64.encode(value).into(),
            Value::EnumNumber(number) => enum_value(kind, *number),
            Value::Message(message) => self.message(message, depth + 1),
            // Neither is a single value.
            Value::List(_) | Value::Map(_) => Json::Null,
        }
    }
}

/// A number as JSON: without a fraction where it has none, and as text where JSON has no number for it.
pub(super) fn double(value: f64) -> Json {
    float(value, value.to_string())
}

/// `text` is the shortest that gives the number back in its own precision.
fn float(value: f64, text: String) -> Json {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if value.fract() == 0.0
        && value.abs() < MAX_EXACT
        && !(value == 0.0 && value.is_sign_negative())
    {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
        return (value as i64).into();
    }
    text.parse()
        .ok()
        .and_then(Number::from_f64)
        .map_or(Json::Null, Json::Number)
}

fn enum_value(kind: &Kind, number: i32) -> Json {
    let Kind::Enum(descriptor) = kind else {
        return number.into();
    };
    if descriptor.full_name() == "google.protobuf.NullValue" {
        return Json::Null;
    }
    descriptor
        .get_value(number)
        .map_or_else(|| number.into(), |value| value.name().into())
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Whole numbers below this are exact in a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
