//! What can be wrong with a document.

use std::fmt;

use crate::meta::{Kind, ObjectKey};

/// Something wrong with one document. Displayed in one line:
/// `bookinfo.yaml:42: VirtualService default/reviews: spec.http[0].timeout: not a duration: "x" (...)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DocumentError {
    /// The file, as it was named to the parser.
    pub file: String,
    /// The line, from 1; 0 when it was in no file.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// The object, as far as it could be made out.
    pub object: Option<ObjectRef>,
    /// Where in the object, like `spec.http[0].route[1].weight`.
    pub field: Option<String>,
    /// What sort of error it is.
    pub class: ErrorClass,
    /// What is wrong.
    pub message: String,
    /// What is allowed, or what to do about it.
    pub allowed: Option<String>,
}

impl DocumentError {
    /// The key of the object, when it is of a kind that is read.
    pub fn key(&self) -> Option<ObjectKey> {
        self.object.as_ref().and_then(ObjectRef::key)
    }
}

impl std::error::Error for DocumentError {}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: ", self.file)?,
            line => write!(f, "{}:{line}: ", self.file)?,
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.allowed {
            Some(allowed) => write!(f, " ({allowed})"),
            None => Ok(()),
        }
    }
}

/// What sort of error a [`DocumentError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorClass {
    /// The text is not YAML.
    Syntax,
    /// A value is not what it has to be.
    Invalid,
    /// Valid upstream, but not enforced by Waymark yet, and so refused.
    Unsupported,
    /// An object of a kind that the mesh has no use for (a Deployment, say).
    NotRead,
}

/// An object by kind and name, also of kinds that are not read. Displayed as `VirtualService default/reviews`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its API group, empty for the Kubernetes core.
    pub group: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name; empty when it gives none.
    pub name: String,
}

impl ObjectRef {
    /// Its key, when it is of a kind that is read.
    pub fn key(&self) -> Option<ObjectKey> {
        let kind = Kind::ALL
            .into_iter()
            .find(|k| k.as_str() == self.kind && k.group() == self.group)?;
        Some(ObjectKey {
            kind,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        })
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            _ if self.name.is_empty() => f.write_str(&self.kind),
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
