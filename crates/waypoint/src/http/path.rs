//! Path normalization, as Envoy does it before anything looks at a path. Spec: l7-semantics.md 3.3.
//!
//! Policies that deny a path rely on it: a path that they see is the path that the backend gets.

use std::borrow::Cow;

use crate::program::{EscapedSlashes, PathOptions};

/// What becomes of a request whose path was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normalized<'a> {
    /// It goes on with this path and query.
    Path(Cow<'a, str>),
    /// 400, `path_normalization_failed`.
    Reject,
    /// 307 to this path and query.
    Redirect(String),
}

/// Normalizes a path; the query is never touched.
pub(super) fn normalize<'a>(target: &'a str, options: &PathOptions) -> Normalized<'a> {
    if target.contains('#') {
        return Normalized::Reject;
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    let mut out = Cow::Borrowed(path);
    let mut redirect = false;
    if has_escaped_slash(&out) {
        match options.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return Normalized::Reject,
            EscapedSlashes::Forward => out = Cow::Owned(unescape_slashes(&out)),
            EscapedSlashes::Redirect => {
                out = Cow::Owned(unescape_slashes(&out));
                redirect = true;
            }
        }
    }
    if options.normalize {
        if contains_nul(&out) {
            return Normalized::Reject;
        }
        if needs_work(&out) {
            out = Cow::Owned(resolve(&decode_unreserved(&out)));
        }
    }
    if options.merge_slashes && out.contains("//") {
        out = Cow::Owned(merge(&out));
    }
    match out {
        Cow::Borrowed(_) => Normalized::Path(Cow::Borrowed(target)),
        Cow::Owned(path) if redirect => Normalized::Redirect(path + query),
        Cow::Owned(path) => Normalized::Path(Cow::Owned(path + query)),
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes()
        .windows(3)
        .any(|w| matches!(w, b"%2f" | b"%2F" | b"%5c" | b"%5C"))
}

fn unescape_slashes(path: &str) -> String {
    let mut out = path.to_owned();
    for (escape, slash) in [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")] {
        out = out.replace(escape, slash);
    }
    out
}

fn contains_nul(path: &str) -> bool {
    path.contains("%00") || path.contains('\0')
}

/// Whether there is a dot segment, a backslash or an escape at all: most paths have none.
fn needs_work(path: &str) -> bool {
    path.contains("/.") || path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';'))
}

/// Percent-encoded unreserved characters become themselves; other escapes stay as they are.
fn decode_unreserved(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let escaped = rest
            .get(1..3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(b));
                rest = &rest[3..];
            }
            Some(_) | None => {
                out.push('%');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Resolves `.` and `..`, clamped at the root; `\` is `/`. Segments are dot segments up to their `;`.
fn resolve(path: &str) -> String {
    let path = path.replace('\\', "/");
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(&path).split('/').collect();
    let mut out: Vec<&str> = Vec::with_capacity(segments.len());
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match segment.split(';').next().unwrap_or_default() {
            ".." => {
                out.pop();
                if last {
                    out.push("");
                }
            }
            "." => {
                if last {
                    out.push("");
                }
            }
            _ => out.push(segment),
        }
    }
    format!("/{}", out.join("/"))
}

fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PathOptions = PathOptions {
        normalize: true,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
    };

    fn check(options: PathOptions, cases: &[(&str, &str)]) {
        for (path, want) in cases {
            let got = normalize(path, &options);
            assert_eq!(got, Normalized::Path(Cow::Borrowed(want)), "{path}");
        }
    }

    #[test]
    fn base_as_measured() {
        check(
            BASE,
            &[
                ("/a/../b", "/b"),
                ("/a/./b", "/a/b"),
                ("/a/%2e%2e/b", "/b"),
                ("/a/%2E%2E/b%2f", "/b%2f"),
                ("/../x", "/x"),
                ("/a/../../x", "/x"),
                ("/%2e%2e/%2e%2e/x", "/x"),
                ("/..", "/"),
                ("/.", "/"),
                ("/a/..", "/"),
                ("/a/.", "/a/"),
                ("/a/./", "/a/"),
                ("/a\\b", "/a/b"),
                ("/%41", "/A"),
                ("/a%7Eb", "/a~b"),
                ("/a;x=1/../b", "/b"),
                ("/a/..;/b", "/b"),
                ("/a%2fb", "/a%2fb"),
                ("/a%5cb", "/a%5cb"),
                ("/a%23b", "/a%23b"),
                ("/a%3fb", "/a%3fb"),
                ("/a%0ab", "/a%0ab"),
                ("/%zz", "/%zz"),
                ("/%c3%a9", "/%c3%a9"),
                ("//", "//"),
                ("/a//b", "/a//b"),
                ("//a/..//b", "///b"),
                ("/a%2Fb%2e%2e", "/a%2Fb.."),
                ("/a?x=/../b", "/a?x=/../b"),
                ("/%2", "/%2"),
                ("/%", "/%"),
                ("/é/../b", "/b"),
            ],
        );
        for rejected in ["/a%00b", "/a#b", "/a?b#c"] {
            assert_eq!(normalize(rejected, &BASE), Normalized::Reject, "{rejected}");
        }
    }

    #[test]
    fn none_changes_nothing() {
        let none = PathOptions::default();
        check(none, &[("/a/../b//c%2f", "/a/../b//c%2f")]);
    }

    #[test]
    fn decode_and_merge_as_measured() {
        let options = PathOptions {
            normalize: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Forward,
        };
        check(
            options,
            &[
                ("/%2e%2e%2fx", "/x"),
                ("/a%5c..%5cb", "/b"),
                ("//a///b", "/a/b"),
                ("/a%252fb", "/a%252fb"),
            ],
        );
    }

    #[test]
    fn escaped_slashes_can_be_refused_or_redirected() {
        let with = |escaped_slashes| PathOptions {
            escaped_slashes,
            ..BASE
        };
        assert_eq!(
            normalize("/a%2Fb", &with(EscapedSlashes::Reject)),
            Normalized::Reject
        );
        assert_eq!(
            normalize("/a%2Fb?q", &with(EscapedSlashes::Redirect)),
            Normalized::Redirect("/a/b?q".to_owned())
        );
    }

    proptest::proptest! {
        #[test]
        fn normalizing_twice_changes_nothing_more(path in "/[a-c./\\\\%2eEfF5cC;~]{0,24}") {
            let once = match normalize(&path, &BASE) {
                Normalized::Path(p) => p.into_owned(),
                Normalized::Reject | Normalized::Redirect(_) => return Ok(()),
            };
            proptest::prop_assert!(once.starts_with('/'));
            proptest::prop_assert!(!once.split(['/', '?']).any(|s| s == ".." || s == "."), "{} from {}", once, path);
        }
    }
}
