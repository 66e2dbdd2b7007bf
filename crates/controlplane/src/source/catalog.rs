//! Which file says what, and which of it is in force.
//!
//! A document that becomes invalid leaves its last good version in force; one that cannot be told from others (a syntax
//! error) leaves everything in force that its file said before. Of two documents for one object the first seen counts.
//! No I/O here.

use std::collections::{BTreeMap, BTreeSet};

use waymark_api::meta::ObjectKey;
use waymark_api::yaml::parse_documents;
use waymark_api::{DocumentError, ErrorClass, ObjectRef, Resource};

use crate::store::Change;

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A file with this text.
    Text(String),
    /// Nothing.
    Gone,
    /// A file that cannot be read, and why.
    Unreadable(String),
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, relative to the directory.
    pub file: String,
    /// The line that the document begins on, from 1.
    pub line: usize,
}

/// Everything that the files say.
#[derive(Debug, Default)]
pub struct Catalog {
    files: BTreeMap<String, File>,
    /// The files that have an object, in the order in which they came to have it: the first is in force.
    holders: BTreeMap<ObjectKey, Vec<String>>,
}

#[derive(Debug, Default)]
struct File {
    /// What the file says, or last said validly, by object.
    good: BTreeMap<ObjectKey, Good>,
    errors: Vec<DocumentError>,
}

#[derive(Clone, Debug, PartialEq)]
struct Good {
    resource: Resource,
    line: usize,
    /// Place in the file, which is the order of first sight.
    order: usize,
}

impl Catalog {
    /// Takes in what was found at some paths; returns the changes of what is in force: deletions, then the rest in the order
    /// of files and documents.
    pub fn update(&mut self, found: impl IntoIterator<Item = (String, Content)>) -> Vec<Change> {
        let found: BTreeMap<String, Content> = found.into_iter().collect();
        let mut before: BTreeMap<ObjectKey, Option<Resource>> = BTreeMap::new();
        for (path, content) in found {
            let old = self.files.remove(&path).unwrap_or_default();
            let new = match content {
                Content::Gone => None,
                Content::Unreadable(why) => Some(File {
                    good: old.good.clone(),
                    errors: vec![unreadable(&path, why)],
                }),
                Content::Text(text) => Some(read(&path, &text, &old)),
            };
            let keys: BTreeSet<ObjectKey> = old
                .good
                .keys()
                .chain(new.iter().flat_map(|file| file.good.keys()))
                .cloned()
                .collect();
            // Put back for a moment, so that "in force" still means what it did.
            self.files.insert(path.clone(), old);
            for key in &keys {
                let in_force = self.in_force(key).map(|good| good.resource.clone());
                before.entry(key.clone()).or_insert(in_force);
            }
            self.files.remove(&path);
            for key in keys {
                let has = new
                    .as_ref()
                    .is_some_and(|file| file.good.contains_key(&key));
                self.hold(key, &path, has);
            }
            if let Some(new) = new {
                self.files.insert(path, new);
            }
        }
        self.changes_since(before)
    }

    /// Every file that has been read and was there.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Whether some object is in force by what a file says.
    pub fn says_anything(&self, path: &str) -> bool {
        self.files
            .get(path)
            .is_some_and(|file| !file.good.is_empty())
    }

    /// Where the object in force is written.
    pub fn place(&self, key: &ObjectKey) -> Option<Place> {
        let file = self.holders.get(key)?.first()?;
        let line = self.files.get(file)?.good.get(key)?.line;
        Some(Place {
            file: file.clone(),
            line,
        })
    }

    /// Everything that is wrong, by file and line.
    pub fn errors(&self) -> Vec<DocumentError> {
        let mut errors: Vec<DocumentError> = self
            .files
            .values()
            .flat_map(|file| file.errors.clone())
            .collect();
        for (key, holders) in self.holders.iter().filter(|(_, holders)| holders.len() > 1) {
            let Some(first) = self.place(key) else {
                continue;
            };
            for other in &holders[1..] {
                if let Some(good) = self.files.get(other).and_then(|file| file.good.get(key)) {
                    errors.push(defined_twice(key, other, good.line, &first));
                }
            }
        }
        errors.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        errors
    }

    fn in_force(&self, key: &ObjectKey) -> Option<&Good> {
        self.files
            .get(self.holders.get(key)?.first()?)?
            .good
            .get(key)
    }

    fn hold(&mut self, key: ObjectKey, path: &str, has: bool) {
        let holders = self.holders.entry(key.clone()).or_default();
        let held = holders.iter().position(|holder| holder == path);
        match (held, has) {
            (None, true) => holders.push(path.to_owned()),
            (Some(at), false) => {
                holders.remove(at);
            }
            (Some(_), true) | (None, false) => {}
        }
        if holders.is_empty() {
            self.holders.remove(&key);
        }
    }

    fn changes_since(&self, before: BTreeMap<ObjectKey, Option<Resource>>) -> Vec<Change> {
        let mut deleted = Vec::new();
        let mut upserted: Vec<(String, usize, Resource)> = Vec::new();
        for (key, old) in before {
            match self.in_force(&key) {
                Some(new) if old.as_ref() != Some(&new.resource) => {
                    let file = self
                        .holders
                        .get(&key)
                        .and_then(|holders| holders.first())
                        .cloned();
                    upserted.push((file.unwrap_or_default(), new.order, new.resource.clone()));
                }
                None if old.is_some() => deleted.push(Change::Delete(key)),
                Some(_) | None => {}
            }
        }
        upserted.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        deleted.extend(
            upserted
                .into_iter()
                .map(|(_, _, resource)| Change::Upsert(resource)),
        );
        deleted
    }
}

/// Reads a file, keeping of its former self what can no longer be read.
fn read(path: &str, text: &str, old: &File) -> File {
    let mut file = File::default();
    let mut keep_all = false;
    let mut keep = BTreeSet::new();
    for (order, document) in parse_documents(path, text).into_iter().enumerate() {
        match document {
            Ok(document) => {
                let key = document.resource.key();
                if let Some(first) = file.good.get(&key) {
                    let first = Place {
                        file: path.to_owned(),
                        line: first.line,
                    };
                    file.errors
                        .push(defined_twice(&key, path, document.line, &first));
                } else {
                    file.good.insert(
                        key,
                        Good {
                            resource: document.resource,
                            line: document.line,
                            order,
                        },
                    );
                }
            }
            Err(error) => {
                match (error.key(), &error.object) {
                    (Some(key), _) => {
                        keep.insert(key);
                    }
                    // An object of a kind that is not read was never in force.
                    (None, Some(_)) => {}
                    (None, None) => keep_all = true,
                }
                file.errors.push(error);
            }
        }
    }
    for (key, good) in &old.good {
        if keep_all || keep.contains(key) {
            file.good.entry(key.clone()).or_insert_with(|| good.clone());
        }
    }
    file
}

fn defined_twice(key: &ObjectKey, file: &str, line: usize, first: &Place) -> DocumentError {
    DocumentError {
        file: file.to_owned(),
        line,
        column: 1,
        object: Some(object_ref(key)),
        field: Some("metadata.name".to_owned()),
        class: ErrorClass::Invalid,
        message: format!(
            "already defined at {}:{}, which stays in force",
            first.file, first.line
        ),
        allowed: Some("one document an object".to_owned()),
    }
}

/// An object as errors name it.
pub fn object_ref(key: &ObjectKey) -> ObjectRef {
    ObjectRef {
        group: key.kind.group().to_owned(),
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

fn unreadable(path: &str, why: String) -> DocumentError {
    DocumentError {
        file: path.to_owned(),
        line: 1,
        column: 1,
        object: None,
        field: None,
        class: ErrorClass::Syntax,
        message: format!("cannot be read, what it said before stays in force: {why}"),
        allowed: None,
    }
}

#[cfg(test)]
mod tests;
