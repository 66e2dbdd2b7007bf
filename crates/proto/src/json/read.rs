//! JSON to protobuf.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor,
    Value,
};
use serde_json::{Map, Value as Json};

use super::well_known::{self, WellKnown, kind_of};
use super::{JsonError, MAX_DEPTH, Unknown, pool};
use crate::any::type_name;

/// A message, which may say its own type, as members of a list of resources do.
pub(super) fn message(
    descriptor: &MessageDescriptor,
    json: &Json,
    unknown: Unknown,
) -> Result<Vec<u8>, JsonError> {
    let says_its_type = WellKnown::of(descriptor).is_none()
        && json
            .get("@type")
            .and_then(Json::as_str)
            .is_some_and(|type_url| type_name(type_url) == descriptor.full_name());
    if says_its_type {
        return any(json, unknown).map(|(_, bytes)| bytes);
    }
    let mut reader = Reader {
        unknown,
        path: Vec::new(),
        depth: 0,
    };
    Ok(reader.message(descriptor, json)?.encode_to_vec())
}

/// Type URL and encoded message.
pub(super) fn any(json: &Json, unknown: Unknown) -> Result<(String, Vec<u8>), JsonError> {
    Reader {
        unknown,
        path: Vec::new(),
        depth: 0,
    }
    .any(json)
}

struct Reader<'a> {
    unknown: Unknown,
    path: Vec<Step<'a>>,
    depth: usize,
}

enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Reader<'a> {
    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        json: &'a Json,
    ) -> Result<DynamicMessage, JsonError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error("nested too deep"));
        }
        self.depth += 1;
        let message = match WellKnown::of(descriptor) {
            None => {
                let members = self.object(json)?;
                self.fields(descriptor, members, &[])
            }
            Some(WellKnown::Any) => self.any(json).map(|(type_url, value)| {
                let mut message = DynamicMessage::new(descriptor.clone());
                message.set_field_by_number(1, Value::String(type_url));
                message.set_field_by_number(2, Value::Bytes(value.into()));
                message
            }),
            Some(WellKnown::Wrapper) => match descriptor.get_field(1) {
                Some(field) => {
                    let value = self.single(&field.kind(), json)?;
                    Ok(well_known::wrapper(
                        descriptor,
                        value.unwrap_or_else(|| Value::default_value_for_field(&field)),
                    ))
                }
                None => Err(self.error("not a wrapper")),
            },
            Some(WellKnown::Empty) => {
                self.object(json)?;
                Ok(DynamicMessage::new(descriptor.clone()))
            }
            Some(kind) => {
                if json_depth(json) > MAX_DEPTH {
                    return Err(self.error("nested too deep"));
                }
                well_known::from_json(kind, descriptor, json).map_err(|reason| self.error(reason))
            }
        };
        self.depth -= 1;
        message
    }

    fn any(&mut self, json: &'a Json) -> Result<(String, Vec<u8>), JsonError> {
        let members = self.object(json)?;
        let Some(type_url) = members.get("@type") else {
            return if members.is_empty() {
                Ok((String::new(), Vec::new()))
            } else {
                Err(self.error("@type is missing"))
            };
        };
        let type_url = type_url
            .as_str()
            .ok_or_else(|| self.error("@type must be text"))?;
        let bytes = self.any_contents(type_url, members)?;
        Ok((type_url.to_owned(), bytes))
    }

    fn any_contents(
        &mut self,
        type_url: &str,
        members: &'a Map<String, Json>,
    ) -> Result<Vec<u8>, JsonError> {
        let value = members.get("value");
        let Some(descriptor) = pool::find(type_name(type_url)) else {
            return match (raw(members), self.unknown) {
                (Some(bytes), _) => Ok(bytes),
                (None, Unknown::Ignore) => Ok(Vec::new()),
                (None, Unknown::Refuse) => {
                    Err(self.error(format!("unknown message type {}", type_name(type_url))))
                }
            };
        };
        match (WellKnown::of(&descriptor), value) {
            (None, Some(_)) if descriptor.get_field_by_name("value").is_none() => {
                match raw(members) {
                    Some(bytes) => Ok(bytes),
                    None => Ok(self
                        .fields(&descriptor, members, &["@type"])?
                        .encode_to_vec()),
                }
            }
            (None, _) => Ok(self
                .fields(&descriptor, members, &["@type"])?
                .encode_to_vec()),
            (Some(_), Some(value)) => {
                self.path.push(Step::Field("value"));
                let message = self.message(&descriptor, value)?;
                self.path.pop();
                Ok(message.encode_to_vec())
            }
            (Some(WellKnown::Empty), None) => Ok(Vec::new()),
            (Some(_), None) => Err(self.error("value is missing")),
        }
    }

    fn fields(
        &mut self,
        descriptor: &MessageDescriptor,
        members: &'a Map<String, Json>,
        skip: &[&str],
    ) -> Result<DynamicMessage, JsonError> {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, json) in members
            .iter()
            .filter(|(name, _)| !skip.contains(&name.as_str()))
        {
            let field = descriptor
                .get_field_by_json_name(name)
                .or_else(|| descriptor.get_field_by_name(name));
            self.path.push(Step::Field(name));
            match (field, self.unknown) {
                (Some(field), _) => self.field(&mut message, &field, json)?,
                (None, Unknown::Ignore) => {}
                (None, Unknown::Refuse) => {
                    return Err(self.error(format!("no such field in {}", descriptor.full_name())));
                }
            }
            self.path.pop();
        }
        Ok(message)
    }

    fn field(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        json: &'a Json,
    ) -> Result<(), JsonError> {
        if json.is_null() && !takes_null(&field.kind()) {
            return Ok(());
        }
        let taken = field
            .containing_oneof()
            .and_then(|oneof| oneof.fields().find(|other| message.has_field(other)));
        if let Some(other) = taken {
            return Err(self.error(format!("cannot be set beside {}", other.name())));
        }
        if message.has_field(field) {
            return Err(self.error("set twice"));
        }
        let value = if field.is_map() {
            Some(self.map(field, json)?)
        } else if field.cardinality() == Cardinality::Repeated {
            Some(self.list(field, json)?)
        } else {
            self.single(&field.kind(), json)?
        };
        if let Some(value) = value {
            message.set_field(field, value);
        }
        Ok(())
    }

    fn list(&mut self, field: &FieldDescriptor, json: &'a Json) -> Result<Value, JsonError> {
        let items = json
            .as_array()
            .ok_or_else(|| self.expected("a list", json))?;
        let kind = field.kind();
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            if item.is_null() && !takes_null(&kind) {
                return Err(self.expected("an item", item));
            }
            values.extend(self.single(&kind, item)?);
            self.path.pop();
        }
        Ok(Value::List(values))
    }

    fn map(&mut self, field: &FieldDescriptor, json: &'a Json) -> Result<Value, JsonError> {
        let Kind::Message(entry) = field.kind() else {
            return Err(self.error("not a map"));
        };
        let (key_kind, value_kind) = (
            entry.map_entry_key_field().kind(),
            entry.map_entry_value_field().kind(),
        );
        let mut entries = HashMap::new();
        for (name, item) in self.object(json)? {
            self.path.push(Step::Key(name));
            let key = self.map_key(&key_kind, name)?;
            if item.is_null() && !takes_null(&value_kind) {
                return Err(self.expected("a value", item));
            }
            if let Some(value) = self.single(&value_kind, item)? {
                entries.insert(key, value);
            }
            self.path.pop();
        }
        Ok(Value::Map(entries))
    }

    fn map_key(&self, kind: &Kind, name: &str) -> Result<MapKey, JsonError> {
        let key = match kind {
            Kind::String => Some(MapKey::String(name.to_owned())),
            Kind::Bool => name.parse().ok().map(MapKey::Bool),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => name.parse().ok().map(MapKey::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => name.parse().ok().map(MapKey::I64),
            Kind::Uint32 | Kind::Fixed32 => name.parse().ok().map(MapKey::U32),
            Kind::Uint64 | Kind::Fixed64 => name.parse().ok().map(MapKey::U64),
            Kind::Double | Kind::Float | Kind::Bytes | Kind::Message(_) | Kind::Enum(_) => None,
        };
        key.ok_or_else(|| self.error("not a key of this map"))
    }

    /// A value that is neither list nor map. `None`: an enum name that is unknown, and to be ignored.
    fn single(&mut self, kind: &Kind, json: &'a Json) -> Result<Option<Value>, JsonError> {
        let value = match kind {
            Kind::Bool => json
                .as_bool()
                .map(Value::Bool)
                .ok_or_else(|| self.expected("a boolean", json)),
            Kind::String => json
                .as_str()
                .map(|text| Value::String(text.to_owned()))
                .ok_or_else(|| self.expected("text", json)),
            Kind::Bytes => json
                .as_str()
                .and_then(base64)
                .map(|bytes| Value::Bytes(bytes.into()))
                .ok_or_else(|| self.expected("base64", json)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => self.integer(json).map(Value::I32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => self.integer(json).map(Value::I64),
            Kind::Uint32 | Kind::Fixed32 => self.integer(json).map(Value::U32),
            Kind::Uint64 | Kind::Fixed64 => self.integer(json).map(Value::U64),
            Kind::Double => self.double(json).map(Value::F64),
            Kind::Float => self.float(json).map(Value::F32),
            Kind::Enum(descriptor) => {
                return Ok(self.enum_number(descriptor, json)?.map(Value::EnumNumber));
            }
            Kind::Message(descriptor) => self.message(descriptor, json).map(Value::Message),
        };
        value.map(Some)
    }

    fn integer<T: TryFrom<i128>>(&self, json: &Json) -> Result<T, JsonError> {
        let whole = match json {
            Json::Number(number) => number
                .as_i64()
                .map(i128::from)
                .or_else(|| number.as_u64().map(i128::from))
                .or_else(|| number.as_f64().and_then(whole)),
            Json::String(text) => text
                .parse::<i128>()
                .ok()
                .or_else(|| text.parse::<f64>().ok().and_then(whole)),
            Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
        };
        let whole = whole.ok_or_else(|| self.expected("a whole number", json))?;
        T::try_from(whole).map_err(|_| self.error(format!("{whole} is out of range")))
    }

    fn double(&self, json: &Json) -> Result<f64, JsonError> {
        let number = match json {
            Json::Number(number) => number.as_f64(),
            Json::String(text) => match text.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                text => text.parse().ok().filter(|number: &f64| number.is_finite()),
            },
            Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
        };
        number.ok_or_else(|| self.expected("a number", json))
    }

    fn float(&self, json: &Json) -> Result<f32, JsonError> {
        let double = self.double(json)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the field has this precision; the range is checked"
        )]
        let float = double as f32;
        if double.is_finite() && !float.is_finite() {
            return Err(self.error(format!("{double} is out of range")));
        }
        Ok(float)
    }

    fn enum_number(
        &self,
        descriptor: &EnumDescriptor,
        json: &Json,
    ) -> Result<Option<i32>, JsonError> {
        match json {
            Json::Null if descriptor.full_name() == NULL_VALUE => Ok(Some(0)),
            Json::String(name) => match (descriptor.get_value_by_name(name), self.unknown) {
                (Some(value), _) => Ok(Some(value.number())),
                (None, Unknown::Ignore) => Ok(None),
                (None, Unknown::Refuse) => {
                    let names: Vec<String> = descriptor
                        .values()
                        .map(|value| value.name().to_owned())
                        .collect();
                    Err(self.error(format!("{name} is none of {}", names.join(", "))))
                }
            },
            number => self.integer(number).map(Some),
        }
    }

    fn object(&self, json: &'a Json) -> Result<&'a Map<String, Json>, JsonError> {
        json.as_object()
            .ok_or_else(|| self.expected("an object", json))
    }

    fn expected(&self, what: &str, json: &Json) -> JsonError {
        self.error(format!("{what} expected, not {}", kind_of(json)))
    }

    fn error(&self, reason: impl Into<String>) -> JsonError {
        let mut path = String::new();
        for step in &self.path {
            // Writing to a String does not fail.
            let _ = match step {
                Step::Field(name) if path.is_empty() => write!(path, "{name}"),
                Step::Field(name) => write!(path, ".{name}"),
                Step::Index(index) => write!(path, "[{index}]"),
                Step::Key(key) => write!(path, "[{key:?}]"),
            };
        }
        JsonError::Value {
            path,
            reason: reason.into(),
        }
    }
}

/// The bytes of the form that an `Any` of unknown type has.
fn raw(members: &Map<String, Json>) -> Option<Vec<u8>> {
    match (members.len(), members.get("value")) {
        (1, None) => Some(Vec::new()),
        (2, Some(Json::String(text))) => base64(text),
        _ => None,
    }
}

/// Either alphabet, with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, CONFIG);
    STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .ok()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "whole, and the range is checked by the caller"
)]
fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < 1e19).then_some(number as i128)
}

fn takes_null(kind: &Kind) -> bool {
    match kind {
        Kind::Message(descriptor) => WellKnown::of(descriptor) == Some(WellKnown::Value),
        Kind::Enum(descriptor) => descriptor.full_name() == NULL_VALUE,
        _ => false,
    }
}

fn json_depth(json: &Json) -> usize {
    match json {
        Json::Array(items) => 1 + items.iter().map(json_depth).max().unwrap_or(0),
        Json::Object(members) => 1 + members.values().map(json_depth).max().unwrap_or(0),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => 0,
    }
}

const NULL_VALUE: &str = "google.protobuf.NullValue";
