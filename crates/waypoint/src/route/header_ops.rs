//! Header operations: remove, set, append.

use std::borrow::Cow;

use http::HeaderName;
use smallvec::SmallVec;
use waymark_engine::{Field, Head};

use crate::route::{FormatContext, Template};

/// Header operations, level by level (a destination's, a route's, ...); a level sees what those before it did.
///
/// Spec: Envoy 1.40, Router::HeaderParser::evaluateHeaders.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderOps {
    levels: Vec<Level>,
}

/// The operations of one level: all that is removed goes first, then all values are formatted, then those that overwrite are
/// set, then the others are added.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Level(Vec<HeaderOp>);

/// One header operation.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderOp {
    /// All values go.
    Remove(HeaderName),
    /// A value comes.
    Add {
        /// Name.
        name: HeaderName,
        /// Value.
        value: Template,
        /// What becomes of values that are there.
        action: AppendAction,
        /// An empty value is added too; otherwise it is not.
        keep_empty: bool,
    },
}

/// `HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// One more value.
    AppendOrAdd,
    /// Only if there is none.
    AddIfAbsent,
    /// Instead of those there.
    OverwriteOrAdd,
    /// Instead of those there, only if there are some.
    OverwriteIfExists,
}

impl HeaderOps {
    /// The operations of one level.
    #[must_use]
    pub fn new(ops: Vec<HeaderOp>) -> Self {
        let levels = if ops.is_empty() {
            Vec::new()
        } else {
            vec![Level(ops)]
        };
        Self { levels }
    }

    /// Each operation a level of its own: one after the other.
    #[must_use]
    pub fn in_order(ops: Vec<HeaderOp>) -> Self {
        Self {
            levels: ops.into_iter().map(|op| Level(vec![op])).collect(),
        }
    }

    /// These and then those.
    #[must_use]
    pub fn then(&self, later: &HeaderOps) -> HeaderOps {
        HeaderOps {
            levels: self.levels.iter().chain(&later.levels).cloned().collect(),
        }
    }

    /// Whether nothing is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The operations, level by level.
    pub fn ops(&self) -> impl Iterator<Item = &HeaderOp> {
        self.levels.iter().flat_map(|level| &level.0)
    }

    /// The levels, to be applied one after the other.
    pub(crate) fn levels(&self) -> &[Level] {
        &self.levels
    }
}

impl Level {
    /// Removes what goes; comes before [`Level::prepare`].
    pub(crate) fn remove_from(&self, head: &mut Head) {
        for op in &self.0 {
            if let HeaderOp::Remove(name) = op {
                head.remove(name.as_str().as_bytes());
            }
        }
    }

    /// Formats the values from `context`, a missing one as an empty text; a value that is no header value (it came from the
    /// request) is left out.
    pub(crate) fn prepare(&self, context: &FormatContext<'_>) -> Prepared<'_> {
        let values = self.0.iter().map(|op| match op {
            HeaderOp::Remove(_) => None,
            HeaderOp::Add {
                value, keep_empty, ..
            } => value
                .header_value(context)
                .filter(|v| *keep_empty || !v.is_empty()),
        });
        Prepared {
            ops: &self.0,
            values: values.collect(),
        }
    }
}

/// The operations of a level with the values that they had when they were formatted: what one does, no other one sees.
pub(crate) struct Prepared<'a> {
    ops: &'a [HeaderOp],
    /// One for each operation.
    values: SmallVec<[Option<Cow<'a, str>>; 4]>,
}

impl Prepared<'_> {
    /// Applies what is set and added.
    pub(crate) fn apply(&self, head: &mut Head) {
        let fields = self.ops.iter().zip(&self.values).filter_map(|(op, value)| {
            let HeaderOp::Add { name, action, .. } = op else {
                return None;
            };
            let field = Field::new(name.as_str().as_bytes(), value.as_ref()?.as_bytes());
            // By what was there before any of them.
            let takes_place = action.takes_place(head.contains(field.name));
            takes_place.then_some((field, action.overwrites()))
        });
        let fields: SmallVec<[(Field<'_>, bool); 4]> = fields.collect();
        for overwrites in [true, false] {
            for (field, _) in fields.iter().filter(|(_, of)| *of == overwrites) {
                put(head, *field, overwrites);
            }
        }
    }
}

impl AppendAction {
    fn takes_place(self, is_there: bool) -> bool {
        match self {
            Self::AppendOrAdd | Self::OverwriteOrAdd => true,
            Self::AddIfAbsent => !is_there,
            Self::OverwriteIfExists => is_there,
        }
    }

    fn overwrites(self) -> bool {
        match self {
            Self::OverwriteOrAdd | Self::OverwriteIfExists => true,
            Self::AppendOrAdd | Self::AddIfAbsent => false,
        }
    }
}

fn put(head: &mut Head, field: Field<'_>, overwrite: bool) {
    if field.name == b"host" && head.method().is_some() {
        // Whatever the action is: a request has one.
        head.set_authority(field.value);
    } else if overwrite {
        head.insert(field);
    } else {
        head.push(field);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn append_actions() {
        use AppendAction::*;
        for (there, action, want) in [
            (&["1"][..], AppendOrAdd, &["1", "2"][..]),
            (&[], AppendOrAdd, &["2"]),
            (&["1"], AddIfAbsent, &["1"]),
            (&[], AddIfAbsent, &["2"]),
            (&["1", "1"], OverwriteOrAdd, &["2"]),
            (&[], OverwriteOrAdd, &["2"]),
            (&["1"], OverwriteIfExists, &["2"]),
            (&[], OverwriteIfExists, &[]),
        ] {
            let name = HeaderName::from_static("x");
            let mut headers = Head::new();
            for value in there {
                headers.push(Field::new(b"x", value.as_bytes()));
            }
            let value = Template::parse("2").unwrap();
            let op = HeaderOp::Add {
                name: name.clone(),
                value,
                action,
                keep_empty: false,
            };
            let ops = HeaderOps::new(vec![op]);
            for level in ops.levels() {
                level.prepare(&FormatContext::default()).apply(&mut headers);
            }
            let got: Vec<_> = headers.get_all(b"x").collect();
            let want: Vec<_> = want.iter().map(|v| v.as_bytes()).collect();
            assert_eq!(got, want, "{there:?} {action:?}");
        }
    }

    #[test]
    fn a_level_removes_then_overwrites_then_adds() {
        let name = HeaderName::from_static;
        let put = |header, value: &str, action| HeaderOp::Add {
            name: name(header),
            value: Template::parse(value).unwrap(),
            action,
            keep_empty: false,
        };
        let ops = HeaderOps::new(vec![
            put("b", "added", AppendAction::AppendOrAdd),
            put("b", "set", AppendAction::OverwriteOrAdd),
            put("c", "back", AppendAction::AddIfAbsent),
            HeaderOp::Remove(name("c")),
        ]);
        let mut head = Head::new();
        for field in [b"a", b"b", b"c"] {
            head.push(Field::new(field, b"old"));
        }
        for level in ops.levels() {
            level.remove_from(&mut head);
            level.prepare(&FormatContext::default()).apply(&mut head);
        }
        let all = |name: &[u8]| head.get_all(name).collect::<Vec<_>>().join(&b","[..]);
        assert_eq!(all(b"a"), b"old");
        assert_eq!(all(b"b"), b"set,added");
        assert_eq!(all(b"c"), b"back");
        assert_eq!(ops.then(&ops).levels().len(), 2);
    }
}
