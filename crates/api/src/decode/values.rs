//! Readers of single values.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use crate::decode::object::{Field, Object, closest};
use crate::duration;
use crate::host::{Host, is_label, is_subdomain};
use crate::matcher::{Fraction, HeaderName, HeaderOperations, RegexText, StringMatch};
use crate::meta::Map;
use crate::support;
use crate::tree::{Value, quoted};

impl<'a> Field<'a> {
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node().value {
            Value::String(text) => Some(text),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                self.invalid(
                    format!("must be a string, got {}", self.node().describe()),
                    "put it in quotes".to_owned(),
                );
                None
            }
            Value::Null | Value::Seq(_) | Value::Map(_) => {
                self.mistyped("a string");
                None
            }
        }
    }

    /// A string with something in it.
    pub(super) fn name(&self) -> Option<String> {
        let text = self.text()?;
        if text.is_empty() {
            self.invalid("must not be empty", None);
            return None;
        }
        Some(text.to_owned())
    }

    /// A DNS label.
    pub(super) fn label(&self) -> Option<String> {
        let text = self.text()?;
        if !is_label(text) {
            self.invalid(
                format!("{} is not a valid name", quoted(text)),
                LABEL.to_owned(),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// A DNS name in lower case.
    pub(super) fn subdomain(&self) -> Option<String> {
        let text = self.text()?;
        if !is_subdomain(text) {
            self.invalid(
                format!("{} is not a valid name", quoted(text)),
                SUBDOMAIN.to_owned(),
            );
            return None;
        }
        Some(text.to_owned())
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match &self.node().value {
            Value::Bool(value) => Some(*value),
            _ => {
                self.mistyped("true or false");
                None
            }
        }
    }

    pub(super) fn int(&self, min: i64, max: i64) -> Option<i64> {
        match &self.node().value {
            Value::Int(value) if (min..=max).contains(value) => Some(*value),
            Value::Int(_) | Value::Float(_) => {
                let range = match max {
                    UNBOUNDED => format!("must be a whole number from {min} up"),
                    _ => format!("must be a whole number between {min} and {max}"),
                };
                self.invalid(format!("{range}, got {}", self.node().describe()), None);
                None
            }
            _ => {
                self.mistyped("a whole number");
                None
            }
        }
    }

    /// A whole number that fits Go's int32, from 0.
    pub(super) fn count(&self) -> Option<u32> {
        self.int(0, i64::from(i32::MAX))
            .and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn port(&self) -> Option<u16> {
        match &self.node().value {
            Value::Int(value) if (1..=65535).contains(value) => u16::try_from(*value).ok(),
            Value::Int(_) => {
                self.invalid(
                    format!(
                        "must be a port between 1 and 65535, got {}",
                        self.node().describe()
                    ),
                    None,
                );
                None
            }
            _ => {
                self.mistyped("a port number");
                None
            }
        }
    }

    pub(super) fn float(&self) -> Option<f64> {
        match &self.node().value {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => {
                self.mistyped("a number");
                None
            }
        }
    }

    /// `{value: PERCENT}`, or nothing below it, which upstream takes as 0.
    pub(super) fn percent(&self) -> Option<Fraction> {
        let mut object = self.object()?;
        let Some(value) = object.opt("value") else {
            return Fraction::from_percent(0.0);
        };
        let percent = value.float()?;
        let fraction = Fraction::from_percent(percent);
        if fraction.is_none() {
            value.invalid(format!("must be between 0 and 100, got {percent}"), None);
        }
        fraction
    }

    /// A Go duration.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.parsed("duration", duration::parse)
    }

    /// A Go duration of at least a millisecond.
    pub(super) fn positive_duration(&self) -> Option<Duration> {
        let duration = self.duration()?;
        if duration < Duration::from_millis(1) {
            self.invalid(
                format!("must be at least 1ms, got {}", duration::format(duration)),
                None,
            );
            return None;
        }
        Some(duration)
    }

    /// A duration of the Gateway API.
    pub(super) fn gateway_duration(&self) -> Option<Duration> {
        self.parsed("duration", duration::parse_gateway)
    }

    pub(super) fn host(&self) -> Option<Host> {
        self.parsed("host name", Host::parse)
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.parsed("IP address", |text| {
            IpAddr::from_str(text).map_err(|_| "an IPv4 or IPv6 address without port")
        })
    }

    /// A host that is not a wildcard.
    pub(super) fn exact_host(&self) -> Option<Host> {
        let host = self.host()?;
        if host.is_wildcard() {
            self.invalid(
                format!("{} is a wildcard", quoted(host.as_str())),
                "the name of one host".to_owned(),
            );
            return None;
        }
        Some(host)
    }

    pub(super) fn regex(&self) -> Option<RegexText> {
        let text = self.text()?;
        match RegexText::new(text) {
            Ok(regex) => Some(regex),
            Err(why) => {
                self.invalid(
                    format!("{} is not a valid regular expression: {why}", quoted(text)),
                    RE2.to_owned(),
                );
                None
            }
        }
    }

    /// What a Host header can be set to.
    pub(super) fn authority(&self) -> Option<String> {
        let text = self.text()?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]".contains(&b);
        if text.is_empty() || !text.bytes().all(fits) {
            self.invalid(
                format!("{} is not a host", quoted(text)),
                "a host name or address, optionally with :port".to_owned(),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// What a match of `pattern` is replaced with: `\0` to `\9` are its groups, `\\` is a backslash.
    pub(super) fn substitution(&self, pattern: &RegexText) -> Option<String> {
        let text = self.text()?;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '\\' {
                continue;
            }
            let group = match chars.next() {
                Some('\\') => continue,
                Some(digit) => digit.to_digit(10).and_then(|d| usize::try_from(d).ok()),
                None => None,
            };
            if group.is_none_or(|g| g > pattern.groups()) {
                self.invalid(
                    format!(
                        "{text} has a backslash before what is neither a group nor a backslash"
                    ),
                    format!("groups of the expression: {}", pattern.groups()),
                );
                return None;
            }
        }
        Some(text.to_owned())
    }

    pub(super) fn header_name(&self) -> Option<HeaderName> {
        self.parsed("header name", |text| HeaderName::new(text).ok_or(TOKEN))
    }

    /// One of a closed set of words.
    pub(super) fn one_of<T: Clone>(&self, allowed: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = allowed
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| value.clone());
        if found.is_none() {
            self.not_one_of(text, allowed.iter().map(|(word, _)| *word));
        }
        found
    }

    /// Notes that a word is none of those allowed.
    pub(super) fn not_one_of<'k>(&self, text: &str, allowed: impl Iterator<Item = &'k str>) {
        let words: Vec<&str> = allowed.collect();
        let hint = match closest(text, &words) {
            Some(word) if !text.is_empty() => {
                format!("allowed: {}; did you mean {word}?", words.join(", "))
            }
            _ => format!("allowed: {}", words.join(", ")),
        };
        self.invalid(format!("{} is not allowed", quoted(text)), hint);
    }

    pub(super) fn strings(&self) -> Vec<String> {
        self.items()
            .iter()
            .filter_map(|f| f.text())
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn string_map(&self) -> Map {
        let pair =
            |(key, value): (&str, Field<'_>)| Some((key.to_owned(), value.text()?.to_owned()));
        self.entries().into_iter().filter_map(pair).collect()
    }

    /// Labels, names and values checked.
    pub(super) fn labels(&self) -> Map {
        let mut labels = BTreeMap::new();
        for (key, value) in self.entries() {
            if !is_qualified_name(key) {
                value.invalid(
                    format!("{} is not a valid label name", quoted(key)),
                    LABEL_NAME.to_owned(),
                );
            }
            let Some(text) = value.text() else { continue };
            if !is_label_value(text) {
                value.invalid(
                    format!("{} is not a valid label value", quoted(text)),
                    LABEL_VALUE.to_owned(),
                );
            }
            labels.insert(key.to_owned(), text.to_owned());
        }
        labels
    }

    /// Istio's StringMatch.
    pub(super) fn string_match(&self) -> Option<StringMatch> {
        let mut object = self.object()?;
        let given: Vec<&str> = ["exact", "prefix", "regex"]
            .into_iter()
            .filter(|n| object.has(n))
            .collect();
        if given.len() > 1 {
            self.invalid(
                format!("{} exclude each other", given.join(" and ")),
                "give one of them".to_owned(),
            );
        }
        let exact = object.opt("exact").and_then(|f| f.text());
        let prefix = object.opt("prefix").and_then(|f| f.text());
        let regex = object.opt("regex");
        match (exact, prefix, regex) {
            (Some(text), ..) => Some(StringMatch::Exact(text.to_owned())),
            (None, Some(""), _) => Some(StringMatch::Present),
            (None, Some(text), _) => Some(StringMatch::Prefix(text.to_owned())),
            // not an expression, but upstream takes it as "is there"
            (None, None, Some(f)) if f.node().value == Value::String("*".into()) => {
                Some(StringMatch::Present)
            }
            (None, None, Some(f)) => f.regex().map(StringMatch::Regex),
            (None, None, None) => Some(StringMatch::Present),
        }
    }

    /// A value that Envoy formats: `%` begins an operator.
    pub(super) fn header_value(&self) -> Option<String> {
        let text = self.text()?;
        if text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            self.invalid("must not have control characters", None);
            return None;
        }
        if let Err(operator) = support::check_header_format(text) {
            self.invalid(
                format!("{} is not supported in a header value", quoted(&operator)),
                support::header_format_help(),
            );
            return None;
        }
        Some(text.to_owned())
    }

    fn parsed<T>(&self, what: &str, parse: impl Fn(&str) -> Result<T, &'static str>) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.invalid(
                    format!("{} is not a valid {what}", quoted(text)),
                    expected.to_owned(),
                );
                None
            }
        }
    }
}

impl Object<'_> {
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.opt(name).and_then(|f| f.text()).map(str::to_owned)
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        self.opt(name).and_then(|f| f.flag()).unwrap_or_default()
    }

    pub(super) fn port(&mut self, name: &'static str) -> Option<u16> {
        self.opt(name).and_then(|f| f.port())
    }

    pub(super) fn count(&mut self, name: &'static str) -> Option<u32> {
        self.opt(name).and_then(|f| f.count())
    }

    /// A number of which 0 means that none is given.
    pub(super) fn positive_count(&mut self, name: &'static str) -> Option<u32> {
        self.count(name).filter(|n| *n > 0)
    }

    pub(super) fn required_name(&mut self, name: &'static str) -> String {
        self.required(name)
            .and_then(|f| f.name())
            .unwrap_or_default()
    }

    pub(super) fn strings(&mut self, name: &'static str) -> Vec<String> {
        self.opt(name).map(|f| f.strings()).unwrap_or_default()
    }

    /// `set`, `add` and `remove` of Istio (mappings). `pseudo` names may be set (`host` and `:authority` of requests).
    pub(super) fn header_operations(&mut self, host: HostRewrite) -> HeaderOperations {
        let mut operations = HeaderOperations::default();
        for (name, value) in self.opt("set").map(|f| f.entries()).unwrap_or_default() {
            let is_host = name.eq_ignore_ascii_case("host") || name == ":authority";
            match (is_host, host) {
                (true, HostRewrite::Allowed) => operations.host = value.authority(),
                _ => operations.set.extend(header_pair(name, &value)),
            }
        }
        for (name, value) in self.opt("add").map(|f| f.entries()).unwrap_or_default() {
            operations.add.extend(header_pair(name, &value));
        }
        for item in self.list("remove") {
            let Some(name) = item.text() else { continue };
            operations.remove.extend(checked_header(name, &item));
        }
        operations.set.sort();
        operations.add.sort();
        operations.remove.sort();
        operations
    }
}

/// Whether a header operation may set the request's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostRewrite {
    /// On requests.
    Allowed,
    /// On responses.
    Refused,
}

fn header_pair(name: &str, value: &Field<'_>) -> Option<(HeaderName, String)> {
    Some((checked_header(name, value)?, value.header_value()?))
}

/// A header that may be changed.
pub(super) fn checked_header(name: &str, place: &Field<'_>) -> Option<HeaderName> {
    let header = HeaderName::new(name).filter(|n| n.as_str() != "host");
    if header.is_none() {
        let hint = if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
            "pseudo-headers and host cannot be changed; a request's host or :authority can be set"
        } else {
            TOKEN
        };
        place.invalid(
            format!("{} is not a header that can be changed", quoted(name)),
            hint.to_owned(),
        );
    }
    header
}

/// Decodes the items that can be, each with its place.
pub(super) fn decoded<'f, 'a, T>(
    fields: &'f [Field<'a>],
    decode: impl Fn(&Field<'a>) -> Option<T>,
) -> Vec<(&'f Field<'a>, T)> {
    fields
        .iter()
        .filter_map(|f| Some((f, decode(f)?)))
        .collect()
}

/// Notes everything that is there twice.
pub(super) fn refuse_duplicates<T>(
    items: &[(&Field<'_>, T)],
    what: &str,
    name: impl Fn(&T) -> Option<String>,
) {
    let mut seen: Vec<String> = Vec::new();
    for (field, item) in items {
        let Some(name) = name(item) else { continue };
        if seen.contains(&name) {
            field.invalid(format!("the {what} {} is given twice", quoted(&name)), None);
        }
        seen.push(name);
    }
}

/// The items without their places.
pub(super) fn plain<T>(items: Vec<(&Field<'_>, T)>) -> Vec<T> {
    items.into_iter().map(|(_, item)| item).collect()
}

fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(p, n)| (Some(p), n));
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

const UNBOUNDED: i64 = i32::MAX as i64;
const LABEL: &str = "at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const SUBDOMAIN: &str = "labels of a-z, 0-9 and '-' joined by '.', at most 253 characters";
const LABEL_NAME: &str =
    "at most 63 letters, digits, '-', '_' and '.', optionally after a DNS name and '/'";
const LABEL_VALUE: &str =
    "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit";
const TOKEN: &str = "letters, digits and !#$%&'*+-.^_`|~";
const RE2: &str = "RE2 syntax; it has to match the whole value";
