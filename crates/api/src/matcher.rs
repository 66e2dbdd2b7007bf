//! Small value types that routes and policies are made of.

use std::fmt;

/// How a string is compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// The whole string matches the expression (RE2 syntax, known to compile).
    Regex(RegexText),
    /// Any value: the thing is there. Written as `{}`, an empty prefix or the expression `*`.
    Present,
}

/// A regular expression in RE2 syntax that is known to compile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegexText {
    text: String,
    groups: usize,
}

impl RegexText {
    /// Checks an expression.
    ///
    /// # Errors
    /// The first line of what the compiler says, when it is not valid or too large.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        if text.len() > MAX_REGEX_LEN {
            return Err(format!(
                "a regular expression is at most {MAX_REGEX_LEN} characters long"
            ));
        }
        match regex::RegexBuilder::new(&text).size_limit(1 << 20).build() {
            Ok(regex) => Ok(Self {
                text,
                groups: regex.captures_len() - 1,
            }),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err("the regular expression is too large when compiled".into())
            }
            Err(e) => {
                let message = e.to_string();
                let last = message.lines().last().unwrap_or_default();
                Err(last.strip_prefix("error: ").unwrap_or(last).to_owned())
            }
        }
    }

    /// How many groups it captures.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for RegexText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A share of traffic in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fraction(u32);

impl Fraction {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    /// From a percentage. `None` outside 0 to 100.
    pub fn from_percent(percent: f64) -> Option<Self> {
        // Istio multiplies the percentage by 10000 and cuts; rounding keeps 0.1 from becoming 0.0999.
        (0.0..=100.0)
            .contains(&percent)
            .then(|| Self((percent * 10_000.0).round() as u32))
    }

    /// From a numerator and a denominator. `None` when above one or divided by zero.
    pub fn from_ratio(numerator: u32, denominator: u32) -> Option<Self> {
        if denominator == 0 || numerator > denominator {
            return None;
        }
        let millionths = u64::from(numerator) * 1_000_000 / u64::from(denominator);
        u32::try_from(millionths).ok().map(Self)
    }

    /// In millionths, 0 to 1000000.
    pub const fn millionths(self) -> u32 {
        self.0
    }
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

impl Scheme {
    /// The scheme in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Its port when none is written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// An HTTP header name: token characters, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(String);

impl HeaderName {
    /// Checks a name and puts it in lower case. `None` when it is empty or has other than token characters.
    pub fn new(name: &str) -> Option<Self> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        (!name.is_empty() && name.bytes().all(token)).then(|| Self(name.to_ascii_lowercase()))
    }

    /// The name, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Changes of headers at one level. Removes come first, then sets, then adds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderOperations {
    /// Overwrites or adds, in the order of the manifest (Istio: sorted by name).
    pub set: Vec<(HeaderName, String)>,
    /// Adds a further value.
    pub add: Vec<(HeaderName, String)>,
    /// Takes away.
    pub remove: Vec<HeaderName>,
    /// `set` of `host` or `:authority`: the request's host is rewritten to this (requests only).
    pub host: Option<String>,
}

impl HeaderOperations {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty() && self.host.is_none()
    }
}

const MAX_REGEX_LEN: usize = 1024;
