//! JSON values as YAML, in the style of Kubernetes' tools.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::yaml::load;

/// Writes a value as `kubectl -o yaml` does: two spaces a level, lists not indented below their key, keys in the order that
/// the value has them in, strings in quotes only where they would be read as something else.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0),
        Value::Object(_)
        | Value::Array(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_) => {
            scalar(&mut out, value, 0);
        }
    }
    out
}

/// Writes the entries; the cursor is at the indentation of the first.
fn mapping(out: &mut String, map: &Map<String, Value>, indent: usize) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 {
            pad(out, indent);
        }
        out.push_str(&key_text(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                pad(out, indent + 2);
                mapping(out, inner, indent + 2);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(out, indent);
                sequence(out, items, indent);
            }
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                out.push(' ');
                scalar(out, value, indent + 2);
            }
        }
    }
}

/// Writes the items; the cursor is at the indentation of the first.
fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => mapping(out, inner, indent + 2),
            Value::Array(inner) if !inner.is_empty() => sequence(out, inner, indent + 2),
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => {
                scalar(out, item, indent + 2);
            }
        }
    }
}

/// Writes what fits after a key, with the end of the line.
fn scalar(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        // Writing to a String cannot fail.
        Value::Number(number) => _ = write!(out, "{number}"),
        Value::String(text) if is_block(text) => return block(out, text, indent),
        Value::String(text) => out.push_str(&string(text)),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
    }
    out.push('\n');
}

/// Whether a text is written as a literal block: several lines that it can hold as they are.
fn is_block(text: &str) -> bool {
    let printable = text
        .chars()
        .all(|c| c == '\n' || c == '\t' || (!c.is_control() && !is_special(c)));
    let first = text.lines().find(|l| !l.is_empty()).unwrap_or_default();
    text.trim_end_matches('\n').contains('\n') && printable && !first.starts_with([' ', '\t'])
}

fn block(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    let ends = text.len() - body.len();
    out.push_str(match ends {
        0 => "|-\n",
        1 => "|\n",
        _ => "|+\n",
    });
    let kept = if ends > 1 {
        text.strip_suffix('\n').unwrap_or(text)
    } else {
        body
    };
    for line in kept.split('\n') {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

fn key_text(key: &str) -> String {
    string(key)
}

fn string(text: &str) -> String {
    if text.chars().any(|c| c.is_control() || is_special(c)) {
        return double_quoted(text);
    }
    if !is_plain(text) {
        return if resolves_to_other(text) && !text.contains(['"', '\\']) {
            format!("\"{text}\"")
        } else {
            format!("'{}'", text.replace('\'', "''"))
        };
    }
    text.to_owned()
}

fn is_special(c: char) -> bool {
    matches!(
        c,
        '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
    )
}

fn double_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x80 && c.is_control() => _ = write!(out, "\\x{:02X}", c as u32),
            c if c.is_control() || is_special(c) => _ = write!(out, "\\u{:04X}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a text may stand without quotes.
fn is_plain(text: &str) -> bool {
    if text.is_empty()
        || resolves_to_other(text)
        || text.starts_with([' ', '\t'])
        || text.ends_with([' ', '\t', ':'])
    {
        return false;
    }
    if text.contains(": ") || text.contains(":\t") || text.contains(" #") || text.contains("\t#") {
        return false;
    }
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some('-' | '?' | ':'), next) => {
            next.is_some_and(|c| !c.is_whitespace()) && !text.starts_with("---")
        }
        (Some(first), _) => {
            !"#,[]{}&*!|>'\"%@`".contains(first) && text != "..." && !text.starts_with("... ")
        }
        (None, _) => false,
    }
}

/// Whether a text without quotes would be read as null, a truth value, a number or a time, by YAML 1.1 or 1.2.
fn resolves_to_other(text: &str) -> bool {
    const WORDS: [&str; 16] = [
        "", "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "=", ".inf",
        "-.inf", ".nan",
    ];
    let lower = text.to_ascii_lowercase();
    let digits = lower.replace('_', "");
    WORDS.contains(&lower.as_str())
        || lower == "+.inf"
        || load::number(&digits).is_some()
        || is_old_number(&digits)
        || is_date(text)
}

/// Numbers of YAML 1.1: binary, octal with a leading 0, base 60.
fn is_old_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |t: &str, set: &str| !t.is_empty() && t.chars().all(|c| set.contains(c));
    if let Some(rest) = unsigned.strip_prefix("0b") {
        return all(rest, "01");
    }
    if let Some(rest) = unsigned.strip_prefix("0x") {
        return all(rest, "0123456789abcdef");
    }
    if let Some(rest) = unsigned.strip_prefix("0o") {
        return all(rest, "01234567");
    }
    let parts: Vec<&str> = unsigned.split(':').collect();
    parts.len() > 1
        && all(parts[0], "0123456789")
        && parts[1..].iter().enumerate().all(|(i, p)| {
            let whole = if i + 2 == parts.len() {
                p.split('.').next().unwrap_or_default()
            } else {
                p
            };
            (1..=2).contains(&whole.len())
                && all(whole, "0123456789")
                && whole.parse::<u8>().is_ok_and(|n| n < 60)
        })
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    (0..4).all(digit) && bytes.get(4) == Some(&b'-') && digit(5) && text.is_char_boundary(7) && {
        let rest = text.get(5..).unwrap_or_default();
        let mut parts = rest.splitn(2, '-');
        let month = parts.next().unwrap_or_default();
        let day = parts.next().unwrap_or_default();
        (1..=2).contains(&month.len())
            && month.bytes().all(|b| b.is_ascii_digit())
            && day.bytes().next().is_some_and(|b| b.is_ascii_digit())
    }
}

fn pad(out: &mut String, indent: usize) {
    for _ in 0..indent {
        out.push(' ');
    }
}
