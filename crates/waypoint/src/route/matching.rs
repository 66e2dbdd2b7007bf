//! What a route asks of a request.

use http::HeaderName;
use waymark_engine::Head;

use crate::program::{Pattern, StringMatch};
use crate::route::{Fraction, RequestHead};

/// All conditions of one route; all have to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    /// Of the path.
    pub path: PathMatch,
    /// Of headers.
    pub headers: Vec<HeaderMatch>,
    /// Of query parameters.
    pub query: Vec<QueryMatch>,
    /// Only for gRPC requests.
    pub grpc: bool,
    /// Only for a share of requests.
    pub share: Option<Fraction>,
}

impl RouteMatch {
    /// Matches every request.
    #[must_use]
    pub fn any() -> Self {
        let path = PathMatch::Prefix {
            prefix: "/".into(),
            ignore_case: false,
        };
        Self {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
            share: None,
        }
    }

    /// Whether a request matches. `path_only` is `head`'s path without query.
    pub(crate) fn matches(
        &self,
        head: &RequestHead<'_>,
        path_only: &str,
        random: &mut impl FnMut() -> u64,
    ) -> bool {
        self.path.matches(path_only) && self.matches_besides_path(head, random)
    }

    /// The conditions other than that of the path.
    pub(crate) fn matches_besides_path(
        &self,
        head: &RequestHead<'_>,
        random: &mut impl FnMut() -> u64,
    ) -> bool {
        self.headers.iter().all(|h| h.matches(head))
            && (self.query.is_empty()
                || self
                    .query
                    .iter()
                    .all(|q| q.matches(head.query().unwrap_or_default())))
            && (!self.grpc || is_grpc(head.headers))
            && self.share.is_none_or(|share| share.fires(random()))
    }
}

/// `application/grpc` or `application/grpc+...`.
pub(crate) fn is_grpc(headers: &Head) -> bool {
    headers
        .get(b"content-type")
        .and_then(|v| v.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

/// A condition of the path, query excluded.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// Equal.
    Exact {
        /// The path.
        path: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// Begins with, as a string: `/foo` matches `/foobar`.
    Prefix {
        /// The beginning.
        prefix: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// Begins with whole segments: `/foo` matches `/foo` and `/foo/x`, not `/foobar`.
    SeparatedPrefix {
        /// The beginning, without trailing `/`.
        prefix: Box<str>,
        /// ASCII case does not count.
        ignore_case: bool,
    },
    /// The whole path matches.
    Regex(Pattern),
}

impl PathMatch {
    /// Whether a path without query matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact {
                path: want,
                ignore_case: false,
            } => path == &**want,
            PathMatch::Exact {
                path: want,
                ignore_case: true,
            } => path.eq_ignore_ascii_case(want),
            PathMatch::Prefix {
                prefix,
                ignore_case,
            } => begins(path, prefix, *ignore_case),
            PathMatch::SeparatedPrefix {
                prefix,
                ignore_case,
            } => {
                begins(path, prefix, *ignore_case)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathMatch::Regex(pattern) => pattern.matches(path),
        }
    }

    /// How much of a matching path a prefix rewrite replaces.
    pub(crate) fn matched_len(&self, path: &str) -> usize {
        match self {
            PathMatch::Prefix { prefix, .. } | PathMatch::SeparatedPrefix { prefix, .. } => {
                prefix.len()
            }
            PathMatch::Exact { .. } | PathMatch::Regex(_) => path.len(),
        }
    }
}

fn begins(path: &str, prefix: &str, ignore_case: bool) -> bool {
    crate::program::starts_with(path.as_bytes(), prefix.as_bytes(), ignore_case)
}

/// A condition of one header, or of a pseudo-header.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    /// Of which.
    pub name: HeaderKey,
    /// What it has to be.
    pub test: HeaderTest,
    /// The condition holds when the test does not.
    pub invert: bool,
    /// A header that is missing is tested as an empty one.
    pub missing_is_empty: bool,
}

/// A header or a pseudo-header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderKey {
    /// `:method`
    Method,
    /// `:path`, with query
    Path,
    /// `:authority` or `host`
    Authority,
    /// `:scheme`
    Scheme,
    /// Any other.
    Name(HeaderName),
}

impl HeaderKey {
    /// Reads a header name of a matcher.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" | "Host" => Self::Authority,
            ":scheme" => Self::Scheme,
            name => {
                let parsed = HeaderName::from_bytes(name.as_bytes());
                Self::Name(parsed.map_err(|_| format!("{name:?} is not a header name"))?)
            }
        })
    }
}

/// What a header has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderTest {
    /// It is there.
    Present,
    /// It is not there.
    Absent,
    /// One of its values, or all of them joined by commas where there is only one.
    String(StringMatch),
    /// A whole number in `[start, end)`.
    Range {
        /// First.
        start: i64,
        /// One past the last.
        end: i64,
    },
}

impl HeaderMatch {
    /// Whether the condition holds.
    ///
    /// A header that is missing fulfils no test of its value, inverted or not, unless missing ones count as empty.
    #[must_use]
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        let pseudo = |value: &str| self.holds((!value.is_empty()).then_some(value).into_iter());
        match &self.name {
            HeaderKey::Method => pseudo(head.method),
            HeaderKey::Path => pseudo(head.path),
            HeaderKey::Authority => pseudo(head.authority),
            HeaderKey::Scheme => pseudo(head.scheme),
            HeaderKey::Name(name) => {
                // A value that is not UTF-8 is present, and equal to nothing that configuration can name.
                let values = head.headers.get_all(name.as_str().as_bytes());
                self.holds(values.map(|v| std::str::from_utf8(v).unwrap_or("\u{fffd}")))
            }
        }
    }

    fn holds<'v>(&self, values: impl Iterator<Item = &'v str>) -> bool {
        let mut values = values.peekable();
        let missing = values.peek().is_none();
        let result = match &self.test {
            HeaderTest::Present => !missing,
            HeaderTest::Absent => missing,
            HeaderTest::String(_) | HeaderTest::Range { .. }
                if missing && !self.missing_is_empty =>
            {
                return false;
            }
            HeaderTest::String(matcher) if missing => matcher.matches(""),
            HeaderTest::String(matcher) => values.any(|v| matcher.matches(v)),
            HeaderTest::Range { start, end } => {
                values.any(|v| v.parse::<i64>().is_ok_and(|n| *start <= n && n < *end))
            }
        };
        result != self.invert
    }
}

/// A condition of one query parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatch {
    /// Its name, compared without decoding.
    pub name: Box<str>,
    /// What its first value has to be; `None`: that it is there.
    pub value: Option<StringMatch>,
}

impl QueryMatch {
    /// Whether the condition holds for a query (without `?`).
    #[must_use]
    pub fn matches(&self, query: &str) -> bool {
        let first = query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == &*self.name).then_some(value)
        });
        match (first, &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(value), Some(matcher)) => matcher.matches(value),
        }
    }
}
