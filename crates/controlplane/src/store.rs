//! Every object that is in force, by kind and key.

use std::collections::BTreeMap;
use std::ops::Bound;

use waymark_api::meta::{Kind, ObjectKey};
use waymark_api::{NamespacedName, Resource};

/// A change of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is new or different.
    Upsert(Resource),
    /// It is gone.
    Delete(ObjectKey),
}

/// The objects.
#[derive(Debug, Default)]
pub struct Store {
    objects: BTreeMap<ObjectKey, Resource>,
}

impl Store {
    /// Puts an object in place of its former self, which is returned.
    pub fn insert(&mut self, object: Resource) -> Option<Resource> {
        self.objects.insert(object.key(), object)
    }

    /// Takes an object away.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Resource> {
        self.objects.remove(key)
    }

    /// An object.
    pub fn find(&self, key: &ObjectKey) -> Option<&Resource> {
        self.objects.get(key)
    }

    /// Every object, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Resource)> {
        self.objects.iter()
    }

    /// The objects of a kind.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Resource)> {
        self.range(kind, None)
            .take_while(move |(key, _)| key.kind == kind)
    }

    /// The objects of a kind in a namespace.
    pub fn of_namespace<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Resource)> {
        self.range(kind, Some(namespace))
            .take_while(move |(key, _)| {
                key.kind == kind && key.namespace.as_deref() == Some(namespace)
            })
    }

    fn range(
        &self,
        kind: Kind,
        namespace: Option<&str>,
    ) -> impl Iterator<Item = (&ObjectKey, &Resource)> {
        let from = ObjectKey {
            kind,
            namespace: namespace.map(str::to_owned),
            name: String::new(),
        };
        self.objects
            .range((Bound::Included(from), Bound::Unbounded))
    }
}

/// Namespace and name of a namespaced object.
pub fn namespaced_name(key: &ObjectKey) -> NamespacedName {
    NamespacedName::new(key.namespace.clone().unwrap_or_default(), key.name.clone())
}
