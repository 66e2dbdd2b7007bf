//! The resources of one type, by name: an immutable map that is cheap to copy, to change and to compare.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::resource::Encoded;

/// Resources by name.
///
/// A copy shares everything with the original; a change copies only the part that it is in; [`ResourceMap::changes_since`]
/// looks only at the parts that are not shared. So one changed workload among 100,000 costs what a few dozen do, for each
/// client, however far behind it is.
#[derive(Clone)]
pub struct ResourceMap {
    /// A power of two of them; a name's hash says in which one it is.
    shards: Arc<Vec<Shard>>,
    len: usize,
}

/// Sorted by name.
type Shard = Arc<Vec<Arc<Encoded>>>;

/// A difference between two maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// New, or of another version.
    Set(&'a Arc<Encoded>),
    /// No longer there; as it was.
    Removed(&'a Arc<Encoded>),
}

impl ResourceMap {
    /// No resources.
    pub fn new() -> Self {
        Self {
            shards: Arc::new(vec![Shard::default()]),
            len: 0,
        }
    }

    /// Adds a resource or replaces the one of its name.
    pub fn insert(&mut self, resource: impl Into<Arc<Encoded>>) {
        let resource = resource.into();
        if self.len >= self.shards.len() * SHARD_MAX {
            self.reshard(self.shards.len() * 4);
        }
        let shard = self.shard_mut(resource.name());
        match find(shard, resource.name()) {
            Ok(at) => shard[at] = resource,
            Err(at) => {
                shard.insert(at, resource);
                self.len += 1;
            }
        }
    }

    /// Removes a resource; `None` when there is none of that name.
    pub fn remove(&mut self, name: &str) -> Option<Arc<Encoded>> {
        self.get(name)?;
        let shard = self.shard_mut(name);
        let at = find(shard, name).ok()?;
        let removed = shard.remove(at);
        self.len -= 1;
        if self.shards.len() > 1 && self.len * SHARD_MIN < self.shards.len() {
            self.reshard(self.shards.len() / 4);
        }
        Some(removed)
    }

    /// The resource of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<Encoded>> {
        let shard = &self.shards[self.index(name)];
        find(shard, name).ok().map(|at| &shard[at])
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All resources, in an order that depends on nothing but their names (of few: sorted by name).
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Encoded>> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// Whether both are the same copy. If so they are equal; if not, they may be.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// What has to be done to `old` to get this map.
    pub fn changes_since<'a>(&'a self, old: &'a Self) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        if self.is_same(old) {
            return changes;
        }
        if self.shards.len() == old.shards.len() {
            for (new, old) in self
                .shards
                .iter()
                .zip(old.shards.iter())
                .filter(|(new, old)| !Arc::ptr_eq(new, old))
            {
                merge(old, new, &mut changes);
            }
            return changes;
        }
        let is_new = |resource: &&'a Arc<Encoded>| {
            old.get(resource.name())
                .is_none_or(|other| other.version() != resource.version())
        };
        changes.extend(self.iter().filter(is_new).map(Change::Set));
        changes.extend(
            old.iter()
                .filter(|resource| self.get(resource.name()).is_none())
                .map(Change::Removed),
        );
        changes
    }

    fn index(&self, name: &str) -> usize {
        index(name, self.shards.len())
    }

    fn shard_mut(&mut self, name: &str) -> &mut Vec<Arc<Encoded>> {
        let index = self.index(name);
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[index])
    }

    fn reshard(&mut self, count: usize) {
        let count = count.max(1);
        let mut shards: Vec<Vec<Arc<Encoded>>> = vec![Vec::new(); count];
        for resource in self.iter() {
            shards[index(resource.name(), count)].push(resource.clone());
        }
        for shard in &mut shards {
            shard.sort_by(|a, b| a.name().cmp(b.name()));
        }
        self.shards = Arc::new(shards.into_iter().map(Arc::new).collect());
    }
}

impl Default for ResourceMap {
    fn default() -> Self {
        Self::new()
    }
}

impl<R: Into<Arc<Encoded>>> FromIterator<R> for ResourceMap {
    fn from_iter<I: IntoIterator<Item = R>>(resources: I) -> Self {
        let mut map = Self::new();
        map.extend(resources);
        map
    }
}

impl<R: Into<Arc<Encoded>>> Extend<R> for ResourceMap {
    fn extend<I: IntoIterator<Item = R>>(&mut self, resources: I) {
        for resource in resources {
            self.insert(resource);
        }
    }
}

impl fmt::Debug for ResourceMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The differences of two sorted shards.
fn merge<'a>(old: &'a [Arc<Encoded>], new: &'a [Arc<Encoded>], changes: &mut Vec<Change<'a>>) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name().cmp(new.name()),
        };
        match order {
            Ordering::Less => changes.extend(old.next().map(Change::Removed)),
            Ordering::Greater => changes.extend(new.next().map(Change::Set)),
            Ordering::Equal => {
                let (before, after) = (old.next(), new.next());
                if before.map(|resource| resource.version())
                    != after.map(|resource| resource.version())
                {
                    changes.extend(after.map(Change::Set));
                }
            }
        }
    }
}

fn find(shard: &[Arc<Encoded>], name: &str) -> Result<usize, usize> {
    shard.binary_search_by(|resource| resource.name().cmp(name))
}

fn index(name: &str, count: usize) -> usize {
    if count == 1 {
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits count")]
    let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes()) as usize;
    hash & (count - 1)
}

/// Resources a shard, on average, beyond which there are more shards.
const SHARD_MAX: usize = 64;
/// One resource in this many shards is when there are fewer.
const SHARD_MIN: usize = 2;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn resource(name: u16, content: u8) -> Encoded {
        Encoded::new(format!("r{name}"), "t", vec![content])
    }

    fn contents(map: &ResourceMap) -> BTreeMap<String, String> {
        map.iter()
            .map(|r| (r.name().to_owned(), r.version().to_owned()))
            .collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_map(
            first in prop::collection::vec((0..400_u16, 0..3_u8, any::<bool>()), 0..600),
            second in prop::collection::vec((0..400_u16, 0..3_u8, any::<bool>()), 0..600),
        ) {
            let mut plain = BTreeMap::new();
            let mut map = ResourceMap::new();
            let mut apply = |map: &mut ResourceMap, steps: Vec<(u16, u8, bool)>| {
                for (name, content, present) in steps {
                    let resource = resource(name, content);
                    if present {
                        plain.insert(resource.name().to_owned(), resource.version().to_owned());
                        map.insert(resource);
                    } else {
                        assert_eq!(plain.remove(resource.name()).is_some(), map.remove(resource.name()).is_some());
                    }
                }
                plain.clone()
            };
            let before_plain = apply(&mut map, first);
            let before = map.clone();
            let after_plain = apply(&mut map, second);
            prop_assert_eq!(contents(&before), before_plain.clone());
            prop_assert_eq!(contents(&map), after_plain.clone());
            prop_assert_eq!(map.len(), after_plain.len());

            let mut replayed = before_plain;
            for change in map.changes_since(&before) {
                match change {
                    Change::Set(r) => {
                        let old = replayed.insert(r.name().to_owned(), r.version().to_owned());
                        prop_assert_ne!(old.as_deref(), Some(r.version()));
                    }
                    Change::Removed(r) => prop_assert!(replayed.remove(r.name()).is_some()),
                }
            }
            prop_assert_eq!(replayed, after_plain);
        }
    }

    #[test]
    fn a_change_leaves_the_rest_shared() {
        let mut map: ResourceMap = (0..20_000).map(|n| resource(n, 0)).collect();
        let before = map.clone();
        map.insert(resource(7, 1));
        let shared = map
            .shards
            .iter()
            .zip(before.shards.iter())
            .filter(|(new, old)| Arc::ptr_eq(new, old))
            .count();
        assert_eq!(shared, map.shards.len() - 1);
        assert_eq!(map.changes_since(&before).len(), 1);
    }
}
