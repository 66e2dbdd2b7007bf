//! Where in a resource the decoder is, and what it says about it.

use std::collections::HashMap;
use std::fmt;

/// Why a resource is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {}{why}", prefix(path))]
pub struct DecodeError {
    /// The resource's name; empty if even that could not be read.
    pub resource: String,
    /// The field, from the resource down: `filter_chains[3].filters[0].http_filters[1]`.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl DecodeError {
    pub(super) fn of(mut self, resource: &str) -> Self {
        resource.clone_into(&mut self.resource);
        self
    }
}

fn prefix(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!("{path}: ")
    }
}

/// A field that was accepted although it does nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ignored {
    /// The field.
    pub path: String,
    /// What it would do.
    pub what: String,
}

/// Collects [`Ignored`].
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Ignored>);

impl Notes {
    pub(super) fn add(&mut self, at: At<'_>, what: impl Into<String>) {
        self.0.push(Ignored {
            path: at.to_string(),
            what: what.into(),
        });
    }

    /// Notes a field if it is set.
    pub(super) fn add_if(&mut self, set: &impl IsSet, at: At<'_>, what: &str) {
        if set.is_set() {
            self.add(at, what);
        }
    }

    pub(super) fn into_inner(self) -> Vec<Ignored> {
        self.0
    }
}

/// A place in a message; a chain of steps on the stack, printed only when needed.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(&'a str, usize),
    Key(&'a str, &'a str),
}

impl<'a> At<'a> {
    pub(super) fn root() -> Self {
        At {
            parent: None,
            step: Step::Root,
        }
    }

    pub(super) fn field(&'a self, name: &'a str) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Field(name.trim_start_matches("r#")),
        }
    }

    pub(super) fn index(&'a self, name: &'a str, at: usize) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Index(name, at),
        }
    }

    pub(super) fn key(&'a self, name: &'a str, key: &'a str) -> At<'a> {
        At {
            parent: Some(self),
            step: Step::Key(name, key),
        }
    }

    pub(super) fn error(&self, why: impl Into<String>) -> DecodeError {
        DecodeError {
            resource: String::new(),
            path: self.to_string(),
            why: why.into(),
        }
    }

    pub(super) fn unsupported(&self) -> DecodeError {
        self.error("is not supported")
    }

    pub(super) fn missing(&self) -> DecodeError {
        self.error("is missing")
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !matches!(parent.step, Step::Root) {
                f.write_str(".")?;
            }
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => f.write_str(name),
            Step::Index(name, at) => write!(f, "{name}[{at}]"),
            Step::Key(name, key) => write!(f, "{name}[{key:?}]"),
        }
    }
}

/// Whether a field differs from its default.
pub(super) trait IsSet {
    fn is_set(&self) -> bool;
}

impl<T: IsSet> IsSet for &T {
    fn is_set(&self) -> bool {
        (*self).is_set()
    }
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

/// Refuses the first of these fields that is set.
macro_rules! unsupported {
    ($at:expr; $($field:ident),* $(,)?) => {
        $(
            if $crate::decode::at::IsSet::is_set(&$field) {
                return Err($at.field(stringify!($field)).unsupported());
            }
        )*
    };
}
pub(super) use unsupported;
