//! Header operations: remove, set, append.

use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};

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

    /// Applies them to `headers`. Values are formatted from `context`, a missing one as an empty text; a value that is no
    /// header value (it came from the request) is left out.
    pub fn apply(&self, headers: &mut HeaderMap, context: &FormatContext<'_>) {
        for op in &self.ops {
            match op {
                HeaderOp::Remove(name) => {
                    headers.remove(name);
                }
                HeaderOp::Add {
                    name,
                    value,
                    action,
                    keep_empty,
                } => {
                    let Some(value) = value
                        .header_value(context)
                        .filter(|v| *keep_empty || !v.is_empty())
                    else {
                        continue;
                    };
                    add(headers, name, value, *action);
                }
            }
        }
    }
}

fn add(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue, action: AppendAction) {
    match action {
        AppendAction::AppendOrAdd => {
            headers.append(name, value);
        }
        AppendAction::OverwriteOrAdd => {
            headers.insert(name, value);
        }
        AppendAction::AddIfAbsent => {
            if let Entry::Vacant(vacant) = headers.entry(name) {
                vacant.insert(value);
            }
        }
        AppendAction::OverwriteIfExists => {
            if let Entry::Occupied(mut there) = headers.entry(name) {
                there.insert(value);
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
            let mut headers = HeaderMap::new();
            for value in there {
                headers.append(&name, HeaderValue::from_static(value));
            }
            let value = Template::parse("2").unwrap();
            let op = HeaderOp::Add {
                name: name.clone(),
                value,
                action,
                keep_empty: false,
            };
            HeaderOps::new(vec![op]).apply(&mut headers, &FormatContext::default());
            assert_eq!(
                headers.get_all(&name).into_iter().collect::<Vec<_>>(),
                want,
                "{there:?} {action:?}"
            );
        }
    }
}
