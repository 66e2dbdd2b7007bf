//! Structural OpenAPI v3 schemas, as custom resource definitions have them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// The schema of a value.
#[derive(Debug, Clone)]
pub(super) struct Schema(Map<String, Value>);

/// A mapping with these fields.
pub(super) fn object<const N: usize>(fields: [(&str, Schema); N]) -> Schema {
    let properties: Map<String, Value> = fields
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema.into_json()))
        .collect();
    Schema::of("object").with("properties", Value::Object(properties))
}

/// A mapping from names that are data.
pub(super) fn map(values: Schema) -> Schema {
    Schema::of("object").with("additionalProperties", values.into_json())
}

/// A list.
pub(super) fn list(items: Schema) -> Schema {
    Schema::of("array").with("items", items.into_json())
}

/// Any text.
pub(super) fn text() -> Schema {
    Schema::of("string")
}

/// Texts.
pub(super) fn texts() -> Schema {
    list(text())
}

/// From names to texts.
pub(super) fn text_map() -> Schema {
    map(text())
}

/// One of the values that a type has.
pub(super) fn one_of<T>(allowed: &[(&str, T)]) -> Schema {
    one_of_names(allowed.iter().map(|(name, _)| *name))
}

/// One of these texts.
pub(super) fn one_of_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Schema {
    let names: Vec<&str> = names.into_iter().collect();
    text().with("enum", json!(names))
}

/// A protobuf `Duration` of at least a millisecond, as text.
pub(super) fn duration() -> Schema {
    text().rule(
        "duration(self) >= duration('1ms')",
        "must be a duration of at least 1ms",
    )
}

/// A protobuf `uint32`.
pub(super) fn uint32() -> Schema {
    integer(0..=u32::MAX.into())
}

/// A port.
pub(super) fn port() -> Schema {
    integer(1..=u16::MAX.into())
}

/// A whole number of this range.
pub(super) fn integer(range: RangeInclusive<i64>) -> Schema {
    Schema::of("integer")
        .with("minimum", json!(range.start()))
        .with("maximum", json!(range.end()))
}

/// A protobuf `uint64`.
pub(super) fn uint64() -> Schema {
    Schema::of("integer").with("minimum", json!(0))
}

/// A protobuf `int32`.
pub(super) fn int32() -> Schema {
    Schema::of("integer").with("format", json!("int32"))
}

/// A protobuf `double`.
pub(super) fn double() -> Schema {
    Schema::of("number").with("format", json!("double"))
}

/// A number or its text.
pub(super) fn int_or_text() -> Schema {
    Schema(Map::new())
        .with("x-kubernetes-int-or-string", json!(true))
        .with("anyOf", json!([{"type": "integer"}, {"type": "string"}]))
}

/// `true` or `false`.
pub(super) fn flag() -> Schema {
    Schema::of("boolean")
}

impl Schema {
    fn of(kind: &str) -> Self {
        Self(Map::new()).with("type", json!(kind))
    }

    /// Says what it is for.
    pub(super) fn doc(self, description: &str) -> Self {
        self.with("description", json!(description))
    }

    /// Fields that must be given.
    pub(super) fn required(self, names: &[&str]) -> Self {
        self.with("required", json!(names))
    }

    /// Of these fields, one at most.
    pub(super) fn at_most_one(mut self, names: &[&str]) -> Self {
        let alternatives: Vec<Value> = names
            .iter()
            .map(|name| json!({"required": [name]}))
            .collect();
        let mut choices = vec![json!({"not": {"anyOf": alternatives}})];
        choices.extend(alternatives);
        let choice = json!({"oneOf": choices});
        let Some(all) = self
            .0
            .entry("allOf")
            .or_insert_with(|| json!([]))
            .as_array_mut()
        else {
            return self;
        };
        all.push(choice);
        self
    }

    /// A condition in CEL, and what is said when it does not hold.
    pub(super) fn rule(mut self, rule: &str, message: &str) -> Self {
        let rules = self
            .0
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        if let Some(rules) = rules.as_array_mut() {
            rules.push(json!({"rule": rule, "message": message}));
        }
        self
    }

    /// May be null.
    pub(super) fn nullable(self) -> Self {
        self.with("nullable", json!(true))
    }

    /// Characters of a text.
    pub(super) fn length(self, range: RangeInclusive<u32>) -> Self {
        self.bounds("minLength", "maxLength", range)
    }

    /// Items of a list.
    pub(super) fn items(self, range: RangeInclusive<u32>) -> Self {
        self.bounds("minItems", "maxItems", range)
    }

    /// Entries of a mapping.
    pub(super) fn entries(self, most: u32) -> Self {
        self.with("maxProperties", json!(most))
    }

    /// A format that the API server checks.
    pub(super) fn format(self, format: &str) -> Self {
        self.with("format", json!(format))
    }

    /// A regular expression that a text matches.
    pub(super) fn pattern(self, pattern: &str) -> Self {
        self.with("pattern", json!(pattern))
    }

    /// The least number.
    pub(super) fn minimum(self, least: i64) -> Self {
        self.with("minimum", json!(least))
    }

    /// The greatest number.
    pub(super) fn maximum(self, most: i64) -> Self {
        self.with("maximum", json!(most))
    }

    /// A list whose items are told apart by this field.
    pub(super) fn keyed_by(self, field: &str) -> Self {
        self.with("x-kubernetes-list-type", json!("map"))
            .with("x-kubernetes-list-map-keys", json!([field]))
    }

    /// Fields that are not described are kept.
    pub(super) fn open(self) -> Self {
        self.with("x-kubernetes-preserve-unknown-fields", json!(true))
    }

    /// As JSON.
    pub(super) fn into_json(self) -> Value {
        Value::Object(self.0)
    }

    fn bounds(self, least: &str, most: &str, range: RangeInclusive<u32>) -> Self {
        let schema = if *range.start() > 0 {
            self.with(least, json!(range.start()))
        } else {
            self
        };
        schema.with(most, json!(range.end()))
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}
