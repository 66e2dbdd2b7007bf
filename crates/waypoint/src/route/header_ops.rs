//! Header operations: remove, set, append.

use std::borrow::Cow;

use http::HeaderName;
use smallvec::SmallVec;
use waymark_engine::{Field, Head};

use crate::route::{FormatContext, Template};

/// Header operations, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderOps {
    ops: Vec<HeaderOp>,
}

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
    /// Takes operations in order.
    #[must_use]
    pub fn new(ops: Vec<HeaderOp>) -> Self {
        Self { ops }
    }

    /// These and then those.
    #[must_use]
    pub fn then(&self, later: &HeaderOps) -> HeaderOps {
        HeaderOps {
            ops: self.ops.iter().chain(&later.ops).cloned().collect(),
        }
    }

    /// Whether nothing is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The operations.
    #[must_use]
    pub fn ops(&self) -> &[HeaderOp] {
        &self.ops
    }

    /// Formats the values from `context`, a missing one as an empty text; a value that is no header value (it came from the
    /// request) is left out.
    pub(crate) fn prepare(&self, context: &FormatContext<'_>) -> PreparedOps<'_> {
        let values = self.ops.iter().map(|op| match op {
            HeaderOp::Remove(_) => None,
            HeaderOp::Add {
                value, keep_empty, ..
            } => value
                .header_value(context)
                .filter(|v| *keep_empty || !v.is_empty()),
        });
        PreparedOps {
            ops: &self.ops,
            values: values.collect(),
        }
    }
}

/// Operations with the values that they had when they were formatted: what one of them does, no other one sees.
pub(crate) struct PreparedOps<'a> {
    ops: &'a [HeaderOp],
    /// One for each operation.
    values: SmallVec<[Option<Cow<'a, str>>; 4]>,
}

impl PreparedOps<'_> {
    /// Applies them to a head.
    pub(crate) fn apply(&self, head: &mut Head) {
        for (op, value) in self.ops.iter().zip(&self.values) {
            match (op, value) {
                (HeaderOp::Remove(name), _) => {
                    head.remove(name.as_str().as_bytes());
                }
                (HeaderOp::Add { name, action, .. }, Some(value)) => {
                    add(
                        head,
                        Field::new(name.as_str().as_bytes(), value.as_bytes()),
                        *action,
                    );
                }
                (HeaderOp::Add { .. }, None) => {}
            }
        }
    }
}

fn add(head: &mut Head, field: Field<'_>, action: AppendAction) {
    if field.name == b"host" && head.method().is_some() {
        // Whatever the action is: a request has one.
        head.set_authority(field.value);
        return;
    }
    match action {
        AppendAction::AppendOrAdd => head.push(field),
        AppendAction::OverwriteOrAdd => head.insert(field),
        AppendAction::AddIfAbsent => head.insert_if_absent(field),
        AppendAction::OverwriteIfExists => {
            if head.contains(field.name) {
                head.insert(field);
            }
        }
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
            ops.prepare(&FormatContext::default()).apply(&mut headers);
            let got: Vec<_> = headers.get_all(b"x").collect();
            let want: Vec<_> = want.iter().map(|v| v.as_bytes()).collect();
            assert_eq!(got, want, "{there:?} {action:?}");
        }
    }
}
