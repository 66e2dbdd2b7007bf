//! What a client wants.

use std::collections::BTreeSet;

/// The resources that a client wants, by type. Said as a whole: the client works out what has to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscriptions {
    /// In the order in which types were first subscribed to, which is the order in which they are asked for.
    types: Vec<(String, Wanted)>,
}

/// Of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    Names(BTreeSet<String>),
}

impl Subscriptions {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants all resources of a type.
    pub fn all(&mut self, type_url: &str) {
        self.set(type_url, Wanted::All);
    }

    /// Wants these resources of a type, and no others.
    pub fn names<N: Into<String>>(&mut self, type_url: &str, names: impl IntoIterator<Item = N>) {
        self.set(
            type_url,
            Wanted::Names(names.into_iter().map(Into::into).collect()),
        );
    }

    /// Wants this resource too.
    pub fn add(&mut self, type_url: &str, name: impl Into<String>) {
        match self.wanted_mut(type_url) {
            Some(Wanted::All) => {}
            Some(Wanted::Names(names)) => {
                names.insert(name.into());
            }
            None => self.names(type_url, [name.into()]),
        }
    }

    /// No longer wants this resource.
    pub fn remove(&mut self, type_url: &str, name: &str) {
        if let Some(Wanted::Names(names)) = self.wanted_mut(type_url) {
            names.remove(name);
        }
    }

    /// The names that are wanted of a type; `None` when that is all of them, or the type is not wanted.
    pub fn wanted_names(&self, type_url: &str) -> Option<&BTreeSet<String>> {
        match self.get(type_url) {
            Some(Wanted::Names(names)) => Some(names),
            Some(Wanted::All) | None => None,
        }
    }

    /// Whether nothing at all is wanted.
    pub fn is_empty(&self) -> bool {
        self.types
            .iter()
            .all(|(_, wanted)| matches!(wanted, Wanted::Names(names) if names.is_empty()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Wanted)> {
        self.types
            .iter()
            .map(|(type_url, wanted)| (type_url.as_str(), wanted))
    }

    pub(super) fn get(&self, type_url: &str) -> Option<&Wanted> {
        self.types
            .iter()
            .find(|(known, _)| known == type_url)
            .map(|(_, wanted)| wanted)
    }

    fn wanted_mut(&mut self, type_url: &str) -> Option<&mut Wanted> {
        self.types
            .iter_mut()
            .find(|(known, _)| known == type_url)
            .map(|(_, wanted)| wanted)
    }

    fn set(&mut self, type_url: &str, wanted: Wanted) {
        match self.wanted_mut(type_url) {
            Some(slot) => *slot = wanted,
            None => self.types.push((type_url.to_owned(), wanted)),
        }
    }
}

impl Wanted {
    pub(super) fn names(&self) -> BTreeSet<&str> {
        match self {
            Self::All => BTreeSet::new(),
            Self::Names(names) => names.iter().map(String::as_str).collect(),
        }
    }
}
