//! `envoy.type.matcher.v3.StringMatcher`, compiled.

use std::fmt;

use regex::{Regex, RegexBuilder};

/// Compiled size limit of one regular expression, in bytes.
///
/// Envoy limits RE2's program to 100 (default) or 32768 instructions (istio's bootstrap); this is the same order.
const REGEX_SIZE_LIMIT_BYTES: usize = 1 << 21;

/// One test of a string.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// Equal.
    Exact {
        /// What to be equal to.
        value: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// Begins with.
    Prefix {
        /// The beginning.
        value: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// Ends with.
    Suffix {
        /// The end.
        value: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// Contains.
    Contains {
        /// The part.
        value: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// The whole string matches.
    Regex(Pattern),
}

impl StringMatch {
    /// Whether `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact {
                value,
                ignore_case: false,
            } => text == &**value,
            Self::Exact {
                value,
                ignore_case: true,
            } => text.eq_ignore_ascii_case(value),
            Self::Prefix { value, ignore_case } => {
                starts_with(text.as_bytes(), value.as_bytes(), *ignore_case)
            }
            Self::Suffix { value, ignore_case } => {
                text.len().checked_sub(value.len()).is_some_and(|at| {
                    starts_with(&text.as_bytes()[at..], value.as_bytes(), *ignore_case)
                })
            }
            Self::Contains {
                value,
                ignore_case: false,
            } => text.contains(&**value),
            Self::Contains {
                value,
                ignore_case: true,
            } => {
                value.is_empty()
                    || text
                        .as_bytes()
                        .windows(value.len())
                        .any(|w| w.eq_ignore_ascii_case(value.as_bytes()))
            }
            Self::Regex(pattern) => pattern.matches(text),
        }
    }
}

/// Whether `text` begins with `prefix`.
pub(crate) fn starts_with(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    match text.get(..prefix.len()) {
        None => false,
        Some(head) if ignore_case => head.eq_ignore_ascii_case(prefix),
        Some(head) => head == prefix,
    }
}

/// A regular expression that has to match the whole of a string, as Envoy's `safe_regex` does.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    whole: Regex,
    /// The same without anchors, for substitution.
    part: Regex,
}

/// Why a regular expression is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("regular expression {source_text:?}: {reason}")]
pub struct PatternError {
    source_text: Box<str>,
    reason: Box<str>,
}

impl Pattern {
    /// Compiles a regular expression of RE2's syntax.
    ///
    /// # Errors
    /// When it is not one, or too large.
    pub fn new(source: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(REGEX_SIZE_LIMIT_BYTES)
                .build()
                .map_err(|e| PatternError {
                    source_text: source.into(),
                    reason: one_line(&e).into(),
                })
        };
        // Compiled alone first, so that `a)|(b` cannot escape from the group below.
        let part = compile(source)?;
        let whole = compile(&format!(r"\A(?:{source})\z"))?;
        Ok(Self {
            source: source.into(),
            whole,
            part,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.whole.is_match(text)
    }

    /// The unanchored form, for substitution.
    #[must_use]
    pub(crate) fn anywhere(&self) -> &Regex {
        &self.part
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

/// The regex crate's errors draw a picture over several lines; a NACK has one.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines()
        .last()
        .unwrap_or_default()
        .trim()
        .trim_start_matches("error: ")
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn string_matches() {
        let exact = |v: &str, ignore_case| StringMatch::Exact {
            value: v.into(),
            ignore_case,
        };
        let suffix = |v: &str, ignore_case| StringMatch::Suffix {
            value: v.into(),
            ignore_case,
        };
        let contains = |v: &str, ignore_case| StringMatch::Contains {
            value: v.into(),
            ignore_case,
        };
        let regex = |v: &str| StringMatch::Regex(Pattern::new(v).unwrap());
        for (matcher, text, want) in [
            (exact("a", false), "a", true),
            (exact("a", false), "A", false),
            (exact("a", true), "A", true),
            (suffix(".com", false), "x.com", true),
            (suffix(".com", false), "com", false),
            (suffix(".COM", true), "x.com", true),
            (contains("b", false), "abc", true),
            (contains("", true), "abc", true),
            (contains("B", true), "abc", true),
            (contains("abcd", true), "abc", false),
            (regex("a|b"), "b", true),
            (regex("a|b"), "ab", false),
            (regex("/v[0-9]+"), "/v12", true),
            (regex("/v[0-9]+"), "/v12/", false),
        ] {
            assert_eq!(matcher.matches(text), want, "{matcher:?} on {text:?}");
        }
    }

    #[test]
    fn a_pattern_cannot_escape_its_anchors() {
        assert!(Pattern::new("a)|(b").is_err());
        assert!(Pattern::new("(").is_err());
        assert!(!Pattern::new("a").unwrap().matches("a\n"));
    }
}
