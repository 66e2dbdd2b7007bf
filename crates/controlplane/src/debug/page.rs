//! What an endpoint answers with, and the query that it was asked with.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use waymark_rt::usage;

/// One answer.
pub(super) struct Page {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Page {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    pub(super) fn metrics(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body,
        }
    }

    pub(super) fn html(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/html; charset=utf-8",
            body,
        }
    }

    pub(super) fn json(value: &Value, pretty: bool) -> Self {
        let mut body = if pretty {
            format!("{value:#}")
        } else {
            value.to_string()
        };
        body.push('\n');
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body,
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(self.content_type),
        );
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    }
}

/// The query of a URL, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|part| !part.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name).into_owned(), decode(value).into_owned())
                })
                .collect(),
        )
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// `%XX` and `+`; what is no escape stays as it is.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        match (first, escaped) {
            (_, Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
                continue;
            }
            (b'+', None) => bytes.push(b' '),
            (other, None) => bytes.push(*other),
        }
        rest = after;
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

pub(super) fn index_html(endpoints: &[(&str, &str)]) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>waymark control plane</title></head>\n\
         <body><h1>waymark control plane</h1>\n<table>\n",
    );
    for (path, what) in endpoints {
        // Writing to a String does not fail, here and below.
        let _ = writeln!(
            page,
            "<tr><td><a href=\"{path}\">{path}</a></td><td>{}</td></tr>",
            escape(what)
        );
    }
    page.push_str("</table></body></html>\n");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

pub(super) fn index_text(endpoints: &[(&str, &str)]) -> String {
    let width = endpoints
        .iter()
        .map(|(path, _)| path.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (path, what) in endpoints {
        let _ = writeln!(text, "{path:width$}  {what}");
    }
    text
}

/// What dashboards expect of every process.
pub(super) fn write_process_metrics(out: &mut String) {
    let usage = usage::of_this_process();
    let started = usage
        .started
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    let metrics: [(&str, &str, &str, f64); 5] = [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system CPU time.",
            usage.cpu.as_secs_f64(),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory.",
            usage.resident_bytes as f64,
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Address space.",
            usage.virtual_bytes as f64,
        ),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors.",
            usage.open_fds as f64,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start, in seconds since 1970.",
            started.as_secs_f64(),
        ),
    ];
    for (name, kind, help, value) in metrics {
        let _ = write!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("proxyID=a%2Eb.ns&pretty&types=a%2Cb+c&&bad=%zz%4");
        assert_eq!(query.get("proxyID"), Some("a.b.ns"));
        assert_eq!(query.get("types"), Some("a,b c"));
        assert_eq!(query.get("bad"), Some("%zz%4"));
        assert!(query.has("pretty") && !query.has("other"));
    }

    proptest! {
        #[test]
        fn no_query_panics(text in any::<String>()) {
            let _ = Query::parse(&text);
        }
    }
}
