//! Path rewrites.

use std::borrow::Cow;

use crate::program::Pattern;
use crate::route::{PathMatch, split_query};

/// How the path changes on the way.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRewrite {
    /// What the route matched is replaced: the prefix, or the whole path of an exact or regex match.
    Prefix(Box<str>),
    /// Every match in the path is substituted.
    Regex(RegexRewrite),
}

impl PathRewrite {
    /// The new path with the old query.
    #[must_use]
    pub fn apply(&self, matched: &PathMatch, path: &str) -> String {
        let (path_only, query) = split_query(path);
        let mut out = match self {
            PathRewrite::Prefix(to) => {
                format!("{to}{}", &path_only[matched.matched_len(path_only)..])
            }
            PathRewrite::Regex(rewrite) => rewrite.apply(path_only).into_owned(),
        };
        if let Some(query) = query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

/// A regular expression and what replaces each of its matches.
#[derive(Debug, Clone, PartialEq)]
pub struct RegexRewrite {
    pattern: Pattern,
    /// In the `regex` crate's notation.
    replacement: Box<str>,
}

impl RegexRewrite {
    /// `substitution` is RE2's: `\0` to `\9` are groups, `\\` is a backslash.
    ///
    /// # Errors
    /// When it has another escape, or names a group that the expression has not.
    pub fn new(pattern: Pattern, substitution: &str) -> Result<Self, String> {
        let groups = pattern.anywhere().captures_len();
        let mut replacement = String::with_capacity(substitution.len());
        let mut chars = substitution.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some('\\') => replacement.push('\\'),
                    Some(digit @ '0'..='9') => {
                        let group = usize::from(digit as u8 - b'0');
                        if group >= groups {
                            return Err(format!(
                                "substitution {substitution:?} names group {group} of {}",
                                groups - 1
                            ));
                        }
                        replacement.push_str(&format!("${{{group}}}"));
                    }
                    _ => {
                        return Err(format!(
                            "substitution {substitution:?} has an invalid escape"
                        ));
                    }
                },
                '$' => replacement.push_str("$$"),
                c => replacement.push(c),
            }
        }
        Ok(Self {
            pattern,
            replacement: replacement.into(),
        })
    }

    /// `text` with every match replaced.
    #[must_use]
    pub fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.pattern
            .anywhere()
            .replace_all(text, &*self.replacement)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn rewrites_as_measured() {
        let prefix = |p: &str| PathMatch::Prefix {
            prefix: p.into(),
            ignore_case: false,
        };
        let to = |t: &str| PathRewrite::Prefix(t.into());
        assert_eq!(to("/new").apply(&prefix("/old"), "/old/x?q"), "/new/x?q");
        assert_eq!(to("/").apply(&prefix("/old"), "/old/x?q"), "//x?q");
        let exact = PathMatch::Exact {
            path: "/old".into(),
            ignore_case: false,
        };
        assert_eq!(to("/n").apply(&exact, "/old?q=/a"), "/n?q=/a");
        let separated = PathMatch::SeparatedPrefix {
            prefix: "/foo".into(),
            ignore_case: false,
        };
        assert_eq!(to("/xyz").apply(&separated, "/foo/bar"), "/xyz/bar");
        assert_eq!(to("/xyz").apply(&separated, "/foo"), "/xyz");
        let regex = PathMatch::Regex(Pattern::new("/o.*").unwrap());
        assert_eq!(to("/n").apply(&regex, "/old/x?q"), "/n?q");
        let strip = RegexRewrite::new(Pattern::new("^/foo(/?)(.*)").unwrap(), r"/\2").unwrap();
        for (path, want) in [
            ("/foo/bar", "/bar"),
            ("/foo/", "/"),
            ("/foo", "/"),
            ("/foo?a$1", "/?a$1"),
        ] {
            assert_eq!(
                PathRewrite::Regex(strip.clone()).apply(&separated, path),
                want
            );
        }
    }

    #[test]
    fn refuses_bad_substitutions() {
        let p = || Pattern::new("a(b)").unwrap();
        assert!(RegexRewrite::new(p(), r"\2").is_err());
        assert!(RegexRewrite::new(p(), r"\x").is_err());
        assert_eq!(
            RegexRewrite::new(p(), r"$\1\\").unwrap().apply("ab-ab"),
            r"$b\-$b\"
        );
    }
}
