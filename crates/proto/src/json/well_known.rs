//! Google's types that have a JSON form of their own.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};

use super::write::double;

/// Which of them a type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WellKnown {
    Any,
    Duration,
    Empty,
    FieldMask,
    ListValue,
    Struct,
    Timestamp,
    Value,
    /// `UInt32Value` and its like.
    Wrapper,
}

impl WellKnown {
    pub(super) fn of(descriptor: &MessageDescriptor) -> Option<Self> {
        Some(
            match descriptor.full_name().strip_prefix("google.protobuf.")? {
                "Any" => Self::Any,
                "Duration" => Self::Duration,
                "Empty" => Self::Empty,
                "FieldMask" => Self::FieldMask,
                "ListValue" => Self::ListValue,
                "Struct" => Self::Struct,
                "Timestamp" => Self::Timestamp,
                "Value" => Self::Value,
                "BoolValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value"
                | "Int64Value" | "StringValue" | "UInt32Value" | "UInt64Value" => Self::Wrapper,
                _ => return None,
            },
        )
    }
}

/// The parts of a `google.protobuf.Any`.
pub(super) fn any_parts(message: &DynamicMessage) -> prost_types::Any {
    message.transcode_to().unwrap_or_default()
}

/// The JSON form of those that hold no message of another type.
pub(super) fn to_json(kind: WellKnown, message: &DynamicMessage) -> Json {
    match kind {
        WellKnown::Duration => duration(message.transcode_to().unwrap_or_default()),
        WellKnown::Timestamp => timestamp(message.transcode_to().unwrap_or_default()),
        WellKnown::FieldMask => field_mask(&message.transcode_to().unwrap_or_default()),
        WellKnown::Struct => struct_to_json(&message.transcode_to().unwrap_or_default()),
        WellKnown::Value => value_to_json(&message.transcode_to().unwrap_or_default()),
        WellKnown::ListValue => list_to_json(&message.transcode_to().unwrap_or_default()),
        WellKnown::Any | WellKnown::Empty | WellKnown::Wrapper => Json::Object(Map::new()),
    }
}

/// A message from the JSON form of those that hold no message of another type.
pub(super) fn from_json(
    kind: WellKnown,
    descriptor: &MessageDescriptor,
    json: &Json,
) -> Result<DynamicMessage, String> {
    let mut message = DynamicMessage::new(descriptor.clone());
    let text = |want: &str| {
        json.as_str()
            .ok_or_else(|| format!("{want} expected, not {}", kind_of(json)))
    };
    let copied = match kind {
        WellKnown::Duration => {
            let duration: prost_types::Duration = text("a duration")?
                .parse()
                .map_err(|_| "a duration like \"1.5s\" expected".to_owned())?;
            if !duration_in_range(&duration) {
                return Err("duration out of range".to_owned());
            }
            message.transcode_from(&duration)
        }
        WellKnown::Timestamp => {
            let timestamp: prost_types::Timestamp = text("a time")?
                .parse()
                .map_err(|_| "a time like \"2006-01-02T15:04:05Z\" expected".to_owned())?;
            if !timestamp_in_range(&timestamp) {
                return Err("time out of range".to_owned());
            }
            message.transcode_from(&timestamp)
        }
        WellKnown::FieldMask => {
            let paths = text("field paths")?;
            let paths = paths
                .split(',')
                .filter(|path| !path.is_empty())
                .map(to_snake)
                .collect();
            message.transcode_from(&prost_types::FieldMask { paths })
        }
        WellKnown::Struct => {
            let fields = json
                .as_object()
                .ok_or_else(|| format!("an object expected, not {}", kind_of(json)))?;
            message.transcode_from(&struct_from_json(fields))
        }
        WellKnown::ListValue => {
            let values = json
                .as_array()
                .ok_or_else(|| format!("a list expected, not {}", kind_of(json)))?;
            message.transcode_from(&list_from_json(values))
        }
        WellKnown::Value => message.transcode_from(&value_from_json(json)),
        WellKnown::Any | WellKnown::Empty | WellKnown::Wrapper => Ok(()),
    };
    copied.map_err(|error| error.to_string())?;
    Ok(message)
}

/// A wrapper message around `value`.
pub(super) fn wrapper(descriptor: &MessageDescriptor, value: Value) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_number(1, value);
    message
}

/// What a JSON value is, for messages.
pub(super) fn kind_of(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "text",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

pub(super) fn struct_to_json(value: &prost_types::Struct) -> Json {
    value
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), value_to_json(value)))
        .collect::<Map<_, _>>()
        .into()
}

pub(super) fn struct_from_json(fields: &Map<String, Json>) -> prost_types::Struct {
    let fields = fields
        .iter()
        .map(|(name, value)| (name.clone(), value_from_json(value)))
        .collect();
    prost_types::Struct { fields }
}

fn value_to_json(value: &prost_types::Value) -> Json {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::NumberValue(value)) => double(*value),
        Some(Kind::StringValue(value)) => value.as_str().into(),
        Some(Kind::BoolValue(value)) => (*value).into(),
        Some(Kind::StructValue(value)) => struct_to_json(value),
        Some(Kind::ListValue(value)) => list_to_json(value),
    }
}

fn value_from_json(json: &Json) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(value) => Kind::StringValue(value.clone()),
        Json::Array(values) => Kind::ListValue(list_from_json(values)),
        Json::Object(fields) => Kind::StructValue(struct_from_json(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

fn list_to_json(list: &prost_types::ListValue) -> Json {
    list.values.iter().map(value_to_json).collect()
}

fn list_from_json(values: &[Json]) -> prost_types::ListValue {
    prost_types::ListValue {
        values: values.iter().map(value_from_json).collect(),
    }
}

/// Out of the range that has a JSON form, the parts are shown.
fn duration(duration: prost_types::Duration) -> Json {
    if duration_in_range(&duration) {
        duration.to_string().into()
    } else {
        parts(duration.seconds, duration.nanos)
    }
}

fn timestamp(timestamp: prost_types::Timestamp) -> Json {
    if timestamp_in_range(&timestamp) {
        timestamp.to_string().into()
    } else {
        parts(timestamp.seconds, timestamp.nanos)
    }
}

fn parts(seconds: i64, nanos: i32) -> Json {
    serde_json::json!({ "seconds": seconds.to_string(), "nanos": nanos })
}

fn duration_in_range(duration: &prost_types::Duration) -> bool {
    const MAX: i64 = 315_576_000_000;
    (-MAX..=MAX).contains(&duration.seconds)
        && (-999_999_999..=999_999_999).contains(&duration.nanos)
}

fn timestamp_in_range(timestamp: &prost_types::Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&timestamp.seconds)
        && (0..=999_999_999).contains(&timestamp.nanos)
}

fn field_mask(mask: &prost_types::FieldMask) -> Json {
    mask.paths
        .iter()
        .map(|path| to_camel(path))
        .collect::<Vec<_>>()
        .join(",")
        .into()
}

fn to_camel(path: &str) -> String {
    let mut camel = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if std::mem::take(&mut upper) => camel.push(c.to_ascii_uppercase()),
            c => camel.push(c),
        }
    }
    camel
}

fn to_snake(path: &str) -> String {
    let mut snake = String::with_capacity(path.len());
    for c in path.trim().chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
