//! Fields and objects of a tree, and how they are read.

use crate::decode::{Notes, Problem, UnknownFields};
use crate::error::ErrorClass;
use crate::support;
use crate::tree::{Entry, Node, Position, Value, quoted};

/// A value, where it is in its object, and where problems with it are noted.
#[derive(Debug, Clone)]
pub(crate) struct Field<'a> {
    node: &'a Node,
    path: String,
    notes: &'a Notes,
}

impl<'a> Field<'a> {
    pub(super) fn root(node: &'a Node, notes: &'a Notes) -> Self {
        Self {
            node,
            path: String::new(),
            notes,
        }
    }

    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    /// Notes that the value is invalid, and what is allowed.
    pub(super) fn invalid(&self, message: impl Into<String>, allowed: impl Into<Option<String>>) {
        self.note(ErrorClass::Invalid, message.into(), allowed.into());
    }

    /// Notes that the value is of the wrong type.
    pub(super) fn mistyped(&self, wanted: &str) {
        self.invalid(
            format!("must be {wanted}, got {}", self.node.describe()),
            None,
        );
    }

    /// Notes that the value is not supported yet.
    pub(super) fn unsupported(&self, reason: &str) {
        self.note(
            ErrorClass::Unsupported,
            "is not supported yet".into(),
            Some(reason.into()),
        );
    }

    fn note(&self, class: ErrorClass, message: String, allowed: Option<String>) {
        let field = (!self.path.is_empty()).then(|| self.path.clone());
        self.notes.add(Problem {
            at: self.node.at,
            field,
            class,
            message,
            allowed,
        });
    }

    /// The value as an object.
    pub(super) fn object(&self) -> Option<Object<'a>> {
        match &self.node.value {
            Value::Map(entries) => Some(Object::new(entries, self.clone())),
            // `spec:` with nothing below it
            Value::Null => Some(Object::new(&[], self.clone())),
            _ => {
                self.mistyped("a mapping");
                None
            }
        }
    }

    /// A field below this one, when both are mappings; nothing is noted.
    pub(super) fn object_silently(&self, name: &str) -> Option<Self> {
        let entry = self.node.entry(name)?;
        let field = Self {
            node: &entry.node,
            path: format!("{}.{name}", self.path),
            notes: self.notes,
        };
        matches!(entry.node.value, Value::Map(_)).then_some(field)
    }

    /// The items of a list; none when it is no list.
    pub(super) fn items(&self) -> Vec<Self> {
        let Value::Seq(items) = &self.node.value else {
            self.mistyped("a list");
            return Vec::new();
        };
        let item = |(i, node)| Self {
            node,
            path: format!("{}[{i}]", self.path),
            notes: self.notes,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// The entries of a mapping whose keys are data; none when it is no mapping.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        let Value::Map(entries) = &self.node.value else {
            self.mistyped("a mapping");
            return Vec::new();
        };
        let entry = |e: &'a Entry| {
            let node = &e.node;
            (
                e.key.as_str(),
                Self {
                    node,
                    path: format!("{}[{}]", self.path, e.key),
                    notes: self.notes,
                },
            )
        };
        entries.iter().map(entry).collect()
    }
}

/// A mapping whose keys are known. A key that nobody asked for is noted when this is dropped.
#[derive(Debug)]
pub(super) struct Object<'a> {
    entries: &'a [Entry],
    field: Field<'a>,
    /// What was asked for.
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    fn new(entries: &'a [Entry], field: Field<'a>) -> Self {
        let object = Self {
            entries,
            field,
            known: Vec::new(),
        };
        object.refuse_what_is_not_supported();
        object
    }

    /// The field of this name; `None` when it is absent or null.
    pub(super) fn opt(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let entry = self.entries.iter().find(|e| e.key == name)?;
        (entry.node.value != Value::Null).then(|| self.child(entry))
    }

    /// The field of this name; its absence is noted.
    pub(super) fn required(&mut self, name: &'static str) -> Option<Field<'a>> {
        let field = self.opt(name);
        if field.is_none() {
            self.missing(name);
        }
        field
    }

    /// Notes that something is missing here.
    pub(super) fn missing(&self, name: &str) {
        self.field.notes.add(Problem {
            at: self.field.node.at,
            field: Some(self.path_of(name)),
            class: ErrorClass::Invalid,
            message: "is required".into(),
            allowed: None,
        });
    }

    /// Knows a field without reading it.
    pub(super) fn skip(&mut self, name: &'static str) {
        self.known.push(name);
    }

    /// Takes all fields as known.
    pub(super) fn skip_all(&mut self) {
        self.entries = &[];
    }

    /// The items of a list; none when it is absent.
    pub(super) fn list(&mut self, name: &'static str) -> Vec<Field<'a>> {
        self.opt(name).map_or_else(Vec::new, |f| f.items())
    }

    /// The items of a list; that there are none is noted.
    pub(super) fn required_list(&mut self, name: &'static str) -> Vec<Field<'a>> {
        let field = self.opt(name);
        if field
            .as_ref()
            .is_none_or(|f| matches!(&f.node.value, Value::Seq(items) if items.is_empty()))
        {
            self.missing(name);
        }
        field.map_or_else(Vec::new, |f| f.items())
    }

    /// Whether a field is given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|e| e.key == name && e.node.value != Value::Null)
    }

    /// The object itself, to note problems on.
    pub(super) fn field(&self) -> &Field<'a> {
        &self.field
    }

    fn child(&self, entry: &'a Entry) -> Field<'a> {
        Field {
            node: &entry.node,
            path: self.path_of(&entry.key),
            notes: self.field.notes,
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.field.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.field.path)
        }
    }

    fn refuse_what_is_not_supported(&self) {
        for entry in self.entries.iter().filter(|e| !e.node.is_blank()) {
            let path = self.path_of(&entry.key);
            let value = match &entry.node.value {
                Value::String(text) => Some(text.as_str()),
                Value::Bool(true) => Some("true"),
                _ => None,
            };
            if let Some(refused) = support::refused_field(self.field.notes.kind, &path, value) {
                let what = value
                    .filter(|_| refused.value.is_some())
                    .map(|v| format!("{v} "));
                self.field.notes.add(Problem {
                    at: entry.at,
                    field: Some(path),
                    class: ErrorClass::Unsupported,
                    message: format!("{}is not supported yet", what.unwrap_or_default()),
                    allowed: Some(refused.reason.to_owned()),
                });
            }
        }
    }

    fn note_unknown(&self, name: &str, at: Position) {
        let path = self.path_of(name);
        // A field without a decoder may still have a row in the table of refused fields, which has been told already.
        if support::refused_field(self.field.notes.kind, &path, None).is_some() {
            return;
        }
        let allowed = match closest(name, &self.known) {
            Some(known) => format!("did you mean {}?", quoted(known)),
            None if self.known.len() <= 16 => format!("allowed: {}", self.known.join(", ")),
            None => format!("allowed: {}, ...", self.known[..15].join(", ")),
        };
        self.field.notes.add(Problem {
            at,
            field: Some(path),
            class: ErrorClass::Invalid,
            message: "unknown field".into(),
            allowed: Some(allowed),
        });
    }
}

impl Drop for Object<'_> {
    fn drop(&mut self) {
        if self.field.notes.unknown_fields == UnknownFields::Ignore {
            return;
        }
        for entry in self
            .entries
            .iter()
            .filter(|e| !self.known.contains(&e.key.as_str()))
        {
            self.note_unknown(&entry.key, entry.at);
        }
    }
}

/// The known name that a wrong one was meant to be, if one is near enough.
pub(super) fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let name = name.to_lowercase();
    let (far, best) = known
        .iter()
        .map(|k| (distance(&name, &k.to_lowercase()), *k))
        .min()?;
    (far <= 1 + best.len() / 5).then_some(best)
}

/// How many letters have to be put in, left out, changed or swapped with the next one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_near() {
        let known = [
            "hosts",
            "http",
            "gateways",
            "exportTo",
            "consecutive5xxErrors",
        ];
        let cases = [
            ("host", Some("hosts")),
            ("htpt", Some("http")),
            ("Gateways", Some("gateways")),
            ("exportTO", Some("exportTo")),
            ("consecutive5xxErorr", Some("consecutive5xxErrors")),
            ("retries", None),
            ("", None),
        ];
        for (given, wanted) in cases {
            assert_eq!(closest(given, &known), wanted, "{given}");
        }
    }
}
