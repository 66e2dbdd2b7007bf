//! Files of the downward API: labels and annotations, a line each, values quoted as Go does.

use std::collections::BTreeMap;

/// The pairs of a file. The error is the number of the line, counted from 1.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut pairs = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .and_then(|(key, quoted)| Some((key, unquote(quoted)?)))
            .ok_or(index + 1)?;
        pairs.insert(key.to_owned(), value);
    }
    Ok(pairs)
}

/// The text that Go's `strconv.Quote` has quoted.
fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find(['\\', '"']) {
        let (plain, escape) = rest.split_at(at);
        bytes.extend_from_slice(plain.as_bytes());
        let mut chars = escape.strip_prefix('\\')?.chars();
        let kind = chars.next()?;
        let simple = match kind {
            'a' => Some(7),
            'b' => Some(8),
            'f' => Some(12),
            'n' => Some(b'\n'),
            'r' => Some(b'\r'),
            't' => Some(b'\t'),
            'v' => Some(11),
            '\\' | '"' | '\'' => u8::try_from(kind).ok(),
            _ => None,
        };
        rest = chars.as_str();
        if let Some(byte) = simple {
            bytes.push(byte);
            continue;
        }
        let digits = match kind {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return None,
        };
        let number = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
        rest = rest.get(digits..)?;
        if kind == 'x' {
            // A byte that is not UTF-8 by itself.
            bytes.push(u8::try_from(number).ok()?);
        } else {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut buffer).as_bytes());
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_quoted_values() {
        let text = "app=\"reviews\"\n\nempty=\"\"\njson=\"{\\\"a\\\": 1}\\n\\tb\"\nodd=\"\\u00e9\\U0001F600\\xc3\\xa9=\\\\\"\nistio.io/x=\"a=b\"\n";
        let pairs = parse(text).unwrap();
        let want = [
            ("app", "reviews"),
            ("empty", ""),
            ("json", "{\"a\": 1}\n\tb"),
            ("odd", "é😀é=\\"),
            ("istio.io/x", "a=b"),
        ];
        assert_eq!(pairs.len(), want.len());
        for (key, value) in want {
            assert_eq!(pairs[key], value, "{key}");
        }
        assert_eq!(parse("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn names_the_line_that_is_not_one() {
        for bad in [
            "a",
            "a=b",
            "=\"b\"",
            "a=\"b",
            "a=\"b\"c\"",
            "a=\"\\q\"",
            "a=\"\\x4\"",
            "a=\"\\uD800\"",
            "a=\"\\\"",
            "a=\"",
        ] {
            assert_eq!(parse(&format!("ok=\"1\"\n{bad}\n")), Err(2), "{bad}");
        }
    }
}
