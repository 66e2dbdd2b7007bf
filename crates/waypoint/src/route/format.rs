//! Envoy's format strings: `%REQ(:AUTHORITY)%`, for header values and access logs.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use waymark_engine::Head;

use crate::route::RequestHead;
use crate::telemetry::ResponseFlags;

/// A format string, compiled.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(Box<str>),
    Operator {
        operator: Operator,
        max_len: Option<usize>,
    },
}

/// Why a format string is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// `%` without its other half.
    #[error("format {0:?} has a % that nothing closes (%% is a percent sign)")]
    Unclosed(String),
    /// An operator that does not exist here.
    #[error("format operator {0:?} is not supported")]
    Unknown(String),
    /// An operator with arguments it does not take.
    #[error("format operator {0:?} has invalid arguments")]
    Arguments(String),
}

/// What an access log line looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// Text.
    Text(Template),
    /// A JSON object a line.
    Json(Vec<(Box<str>, JsonField)>),
}

/// One member of a JSON access log line.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonField {
    /// A formatted value. A single numeric operator gives a number, a missing value `null`.
    Value(Template),
    /// Nested.
    Object(Vec<(Box<str>, JsonField)>),
}

/// What can be formatted. Everything may be missing.
#[derive(Debug, Clone, Copy, Default)]
pub struct FormatContext<'a> {
    /// The request.
    pub request: Option<RequestHead<'a>>,
    /// The path before it was rewritten, if it was.
    pub original_path: Option<&'a str>,
    /// The response's headers.
    pub response_headers: Option<&'a Head>,
    /// The response's trailers.
    pub response_trailers: Option<&'a Head>,
    /// When it began.
    pub start: Option<SystemTime>,
    /// How long it took.
    pub duration: Option<Duration>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: Option<&'a str>,
    /// Response code; 0 when there was none.
    pub response_code: u16,
    /// Response flags.
    pub flags: ResponseFlags,
    /// `via_upstream`, `route_not_found` ...
    pub response_code_details: Option<&'a str>,
    /// Why the connection ended.
    pub connection_termination_details: Option<&'a str>,
    /// Why the upstream could not be reached.
    pub upstream_transport_failure_reason: Option<&'a str>,
    /// Request body bytes (TCP: bytes from downstream).
    pub bytes_received: u64,
    /// Response body bytes (TCP: bytes to downstream).
    pub bytes_sent: u64,
    /// The endpoint, as Envoy prints it.
    pub upstream_host: Option<&'a str>,
    /// The cluster.
    pub upstream_cluster: Option<&'a str>,
    /// Own address of the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// The address that the client connected to: the CONNECT's authority.
    pub downstream_local: Option<SocketAddr>,
    /// The client's address.
    pub downstream_remote: Option<SocketAddr>,
    /// SNI.
    pub requested_server_name: Option<&'a str>,
    /// The route.
    pub route_name: Option<&'a str>,
    /// The client's identity.
    pub peer_principal: Option<&'a str>,
    /// The waypoint's identity.
    pub local_principal: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operator {
    Request {
        name: ReqName,
        or: Option<ReqName>,
        without_query: bool,
    },
    Response {
        name: HeaderName,
        or: Option<HeaderName>,
    },
    Trailer {
        name: HeaderName,
        or: Option<HeaderName>,
    },
    StartTime,
    Duration,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    UpstreamHost,
    UpstreamCluster,
    UpstreamLocalAddress,
    Downstream {
        end: End,
        part: AddressPart,
    },
    RequestedServerName,
    RouteName,
    PeerPrincipal,
    LocalPrincipal,
    /// Filter state that never exists here.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Local,
    Remote,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum AddressPart {
    Both,
    Ip,
    Port,
}

#[derive(Debug, Clone, PartialEq)]
enum ReqName {
    Method,
    Path,
    OriginalPath,
    Authority,
    Scheme,
    Header(HeaderName),
}

impl Template {
    /// Compiles a format string.
    ///
    /// # Errors
    /// When an operator is not known or not closed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = operator_end(rest).ok_or_else(|| FormatError::Unclosed(text.to_owned()))?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(parse_operator(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self { parts })
    }

    /// The text, where it has no operator.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the formatted text; a missing value is `missing`.
    pub fn render(&self, context: &FormatContext<'_>, missing: &str, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Operator { operator, max_len } => {
                    let at = out.len();
                    if !operator.render(context, out) {
                        out.push_str(missing);
                    } else if let Some(max) = max_len {
                        let mut end = (at + max).min(out.len());
                        while !out.is_char_boundary(end) {
                            end -= 1;
                        }
                        out.truncate(end);
                    }
                }
            }
        }
    }

    /// As a header value; `None` when the text is none. A missing value is empty.
    #[must_use]
    pub fn header_value(&self, context: &FormatContext<'_>) -> Option<Cow<'_, str>> {
        let text = match self.as_text() {
            Some(text) => Cow::Borrowed(text),
            None => {
                let mut text = String::new();
                self.render(context, "", &mut text);
                Cow::Owned(text)
            }
        };
        let allowed = |b: u8| (b >= b' ' && b != 0x7f) || b == b'\t';
        text.bytes().all(allowed).then_some(text)
    }
}

/// Where the operator that `text` begins with ends (at its closing `%`); a `%` in parentheses does not close.
fn operator_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '%' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// `NAME`, `NAME(arguments)`, `NAME(arguments):max`.
fn parse_operator(text: &str) -> Result<Part, FormatError> {
    let bad = || FormatError::Arguments(text.to_owned());
    let (name, arguments, tail) = match text.split_once('(') {
        None => match text.split_once(':') {
            None => (text, None, ""),
            Some((name, _)) => (name, None, &text[name.len()..]),
        },
        Some((name, rest)) => {
            let (arguments, tail) = rest.rsplit_once(')').ok_or_else(bad)?;
            (name, Some(arguments), tail)
        }
    };
    let max_len = match tail.strip_prefix(':') {
        None if tail.is_empty() => None,
        None => return Err(bad()),
        Some(max) => Some(max.parse().map_err(|_| bad())?),
    };
    let plain = |operator| {
        if arguments.is_some() {
            Err(bad())
        } else {
            Ok(operator)
        }
    };
    let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad());
    let two = |arguments: Option<&str>| -> Result<(String, Option<String>), FormatError> {
        let arguments = arguments.ok_or_else(bad)?;
        Ok(match arguments.split_once('?') {
            None => (arguments.to_owned(), None),
            Some((a, b)) => (a.to_owned(), Some(b.to_owned())),
        })
    };
    let headers = |arguments| -> Result<(HeaderName, Option<HeaderName>), FormatError> {
        let (name, or) = two(arguments)?;
        Ok((header(&name)?, or.as_deref().map(header).transpose()?))
    };
    let downstream = |end, part| plain(Operator::Downstream { end, part });
    let operator = match name {
        "REQ" | "REQ_WITHOUT_QUERY" => {
            let (name_, or) = two(arguments)?;
            let or = or
                .as_deref()
                .map(req_name)
                .transpose()
                .map_err(|()| bad())?;
            Operator::Request {
                name: req_name(&name_).map_err(|()| bad())?,
                or,
                without_query: name == "REQ_WITHOUT_QUERY",
            }
        }
        "RESP" => headers(arguments).map(|(name, or)| Operator::Response { name, or })?,
        "TRAILER" => headers(arguments).map(|(name, or)| Operator::Trailer { name, or })?,
        "START_TIME" => plain(Operator::StartTime)?,
        "DURATION" => plain(Operator::Duration)?,
        "PROTOCOL" => plain(Operator::Protocol)?,
        "RESPONSE_CODE" => plain(Operator::ResponseCode)?,
        "RESPONSE_FLAGS" => plain(Operator::ResponseFlags)?,
        "RESPONSE_CODE_DETAILS" => plain(Operator::ResponseCodeDetails)?,
        "CONNECTION_TERMINATION_DETAILS" => plain(Operator::ConnectionTerminationDetails)?,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => plain(Operator::UpstreamTransportFailureReason)?,
        "BYTES_RECEIVED" => plain(Operator::BytesReceived)?,
        "BYTES_SENT" => plain(Operator::BytesSent)?,
        "UPSTREAM_HOST" => plain(Operator::UpstreamHost)?,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => plain(Operator::UpstreamCluster)?,
        "UPSTREAM_LOCAL_ADDRESS" => plain(Operator::UpstreamLocalAddress)?,
        "DOWNSTREAM_LOCAL_ADDRESS" => downstream(End::Local, AddressPart::Both)?,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => downstream(End::Local, AddressPart::Ip)?,
        "DOWNSTREAM_LOCAL_PORT" => downstream(End::Local, AddressPart::Port)?,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => {
            downstream(End::Remote, AddressPart::Both)?
        }
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT"
        | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            downstream(End::Remote, AddressPart::Ip)?
        }
        "DOWNSTREAM_REMOTE_PORT" => downstream(End::Remote, AddressPart::Port)?,
        "DOWNSTREAM_PEER_URI_SAN" => plain(Operator::PeerPrincipal)?,
        "DOWNSTREAM_LOCAL_URI_SAN" => plain(Operator::LocalPrincipal)?,
        "REQUESTED_SERVER_NAME" => plain(Operator::RequestedServerName)?,
        "ROUTE_NAME" => plain(Operator::RouteName)?,
        "FILTER_STATE" => match arguments
            .ok_or_else(bad)?
            .split(':')
            .next()
            .unwrap_or_default()
        {
            "io.istio.peer_principal" => Operator::PeerPrincipal,
            "io.istio.local_principal" => Operator::LocalPrincipal,
            _ => Operator::Nothing,
        },
        _ => return Err(FormatError::Unknown(text.to_owned())),
    };
    Ok(Part::Operator { operator, max_len })
}

fn req_name(name: &str) -> Result<ReqName, ()> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => ReqName::Method,
        ":path" => ReqName::Path,
        "x-envoy-original-path" => ReqName::OriginalPath,
        ":authority" | "host" => ReqName::Authority,
        ":scheme" => ReqName::Scheme,
        lower => ReqName::Header(HeaderName::from_bytes(lower.as_bytes()).map_err(|_| ())?),
    })
}

impl Operator {
    /// Appends the value; `false` when there is none.
    fn render(&self, c: &FormatContext<'_>, out: &mut String) -> bool {
        match self {
            Operator::Request {
                name,
                or,
                without_query,
            } => {
                let at = out.len();
                let found =
                    request(c, name, out) || or.as_ref().is_some_and(|or| request(c, or, out));
                if *without_query && let Some(q) = out[at..].find('?') {
                    out.truncate(at + q);
                }
                found
            }
            Operator::Response { name, or } => headers(c.response_headers, name, or.as_ref(), out),
            Operator::Trailer { name, or } => headers(c.response_trailers, name, or.as_ref(), out),
            Operator::StartTime => c.start.is_some_and(|t| start_time(t, out)),
            Operator::Duration => c
                .duration
                .is_some_and(|d| write!(out, "{}", d.as_millis()).is_ok()),
            Operator::Protocol => text(c.protocol, out),
            Operator::ResponseCode => write!(out, "{}", c.response_code).is_ok(),
            Operator::ResponseFlags => !c.flags.is_empty() && write!(out, "{}", c.flags).is_ok(),
            Operator::ResponseCodeDetails => text(c.response_code_details, out),
            Operator::ConnectionTerminationDetails => text(c.connection_termination_details, out),
            Operator::UpstreamTransportFailureReason => {
                text(c.upstream_transport_failure_reason, out)
            }
            Operator::BytesReceived => write!(out, "{}", c.bytes_received).is_ok(),
            Operator::BytesSent => write!(out, "{}", c.bytes_sent).is_ok(),
            Operator::UpstreamHost => text(c.upstream_host, out),
            Operator::UpstreamCluster => text(c.upstream_cluster, out),
            Operator::UpstreamLocalAddress => {
                c.upstream_local.is_some_and(|a| write!(out, "{a}").is_ok())
            }
            Operator::Downstream { end, part } => {
                let address = match end {
                    End::Local => c.downstream_local,
                    End::Remote => c.downstream_remote,
                };
                address.is_some_and(|a| {
                    match part {
                        AddressPart::Both => write!(out, "{a}"),
                        AddressPart::Ip => write!(out, "{}", a.ip()),
                        AddressPart::Port => write!(out, "{}", a.port()),
                    }
                    .is_ok()
                })
            }
            Operator::RequestedServerName => text(c.requested_server_name, out),
            Operator::RouteName => text(c.route_name, out),
            Operator::PeerPrincipal => text(c.peer_principal, out),
            Operator::LocalPrincipal => text(c.local_principal, out),
            Operator::Nothing => false,
        }
    }

    fn is_number(&self) -> bool {
        matches!(
            self,
            Operator::ResponseCode
                | Operator::BytesReceived
                | Operator::BytesSent
                | Operator::Duration
        )
    }
}

fn text(value: Option<&str>, out: &mut String) -> bool {
    match value {
        Some(value) if !value.is_empty() => {
            out.push_str(value);
            true
        }
        _ => false,
    }
}

fn headers(
    from: Option<&Head>,
    name: &HeaderName,
    or: Option<&HeaderName>,
    out: &mut String,
) -> bool {
    let Some(from) = from else { return false };
    let get = |name: &HeaderName| from.get(name.as_str().as_bytes());
    match get(name).or_else(|| get(or?)) {
        None => false,
        Some(value) => {
            out.push_str(&String::from_utf8_lossy(value));
            true
        }
    }
}

fn request(c: &FormatContext<'_>, name: &ReqName, out: &mut String) -> bool {
    let Some(request) = &c.request else {
        return false;
    };
    match name {
        ReqName::Method => text(Some(request.method), out),
        ReqName::Path => text(Some(request.path), out),
        ReqName::OriginalPath => text(c.original_path, out),
        ReqName::Authority => text(Some(request.authority), out),
        ReqName::Scheme => text(Some(request.scheme), out),
        ReqName::Header(name) => headers(Some(request.headers), name, None, out),
    }
}

fn start_time(at: SystemTime, out: &mut String) -> bool {
    let at = time::OffsetDateTime::from(at);
    let (h, m, s, ms) = (at.hour(), at.minute(), at.second(), at.millisecond());
    write!(
        out,
        "{}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day()
    )
    .is_ok()
}

impl LogFormat {
    /// Envoy's default line, as istio writes it.
    ///
    /// # Panics
    /// Never: the text is a constant that a test parses.
    #[must_use]
    pub fn default_text() -> Self {
        const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
            %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
            \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
            %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
            \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
            %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
            %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";
        LogFormat::Text(Template::parse(TEXT).expect("the constant is well-formed"))
    }

    /// Appends one line, newline included.
    pub fn render(&self, context: &FormatContext<'_>, out: &mut String) {
        match self {
            LogFormat::Text(template) => template.render(context, "-", out),
            LogFormat::Json(fields) => {
                json_object(fields, context, out);
                out.push('\n');
            }
        }
    }
}

fn json_object(fields: &[(Box<str>, JsonField)], context: &FormatContext<'_>, out: &mut String) {
    out.push('{');
    for (i, (key, field)) in fields.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        json_text(key, out);
        out.push(':');
        match field {
            JsonField::Object(fields) => json_object(fields, context, out),
            JsonField::Value(template) => json_value(template, context, out),
        }
    }
    out.push('}');
}

fn json_value(template: &Template, context: &FormatContext<'_>, out: &mut String) {
    let mut value = String::new();
    match template.parts.as_slice() {
        [Part::Operator { operator, .. }] if !operator.render(context, &mut value) => {
            out.push_str("null")
        }
        [Part::Operator { operator, .. }] if operator.is_number() => out.push_str(&value),
        _ => {
            value.clear();
            template.render(context, "-", &mut value);
            json_text(&value, out);
        }
    }
}

fn json_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_engine::Field;

    use super::*;

    #[test]
    fn default_line() {
        let mut headers = Head::new();
        headers.push(Field::new(b"user-agent", b"curl/8"));
        let mut response = Head::new();
        response.push(Field::new(b"x-envoy-upstream-service-time", b"3"));
        let context = FormatContext {
            request: Some(RequestHead {
                method: "GET",
                path: "/new?q",
                authority: "reviews:9080",
                scheme: "http",
                headers: &headers,
            }),
            original_path: Some("/old?q"),
            response_headers: Some(&response),
            start: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000_000_123)),
            duration: Some(Duration::from_micros(4999)),
            protocol: Some("HTTP/1.1"),
            response_code: 200,
            response_code_details: Some("via_upstream"),
            bytes_sent: 7,
            upstream_host: Some("envoy://connect_originate/10.0.0.1:9080"),
            upstream_cluster: Some("inbound-vip|9080|http|reviews"),
            downstream_local: Some("10.9.0.1:9080".parse().unwrap()),
            downstream_remote: Some("10.0.0.9:4444".parse().unwrap()),
            ..FormatContext::default()
        };
        let mut line = String::new();
        LogFormat::default_text().render(&context, &mut line);
        assert_eq!(
            line,
            "[2001-09-09T01:46:40.123Z] \"GET /old?q HTTP/1.1\" 200 - via_upstream - \"-\" 0 7 4 3 \"-\" \"curl/8\" \
             \"-\" \"reviews:9080\" \"envoy://connect_originate/10.0.0.1:9080\" inbound-vip|9080|http|reviews - \
             10.9.0.1:9080 10.0.0.9:4444 - -\n"
        );
        let json = LogFormat::Json(vec![
            (
                "code".into(),
                JsonField::Value(Template::parse("%RESPONSE_CODE%").unwrap()),
            ),
            (
                "ua".into(),
                JsonField::Value(Template::parse("%REQ(USER-AGENT):4%").unwrap()),
            ),
            (
                "none".into(),
                JsonField::Value(Template::parse("%ROUTE_NAME%").unwrap()),
            ),
        ]);
        line.clear();
        json.render(&context, &mut line);
        assert_eq!(line, "{\"code\":200,\"ua\":\"curl\",\"none\":null}\n");
    }

    #[test]
    fn percent_signs_and_errors() {
        assert_eq!(Template::parse("100%%").unwrap().as_text(), Some("100%"));
        assert!(matches!(
            Template::parse("%REQ(x)"),
            Err(FormatError::Unclosed(_))
        ));
        assert_eq!(
            Template::parse("%NOPE%"),
            Err(FormatError::Unknown("NOPE".into()))
        );
        assert_eq!(
            Template::parse("%REQ%"),
            Err(FormatError::Arguments("REQ".into()))
        );
        assert_eq!(
            Template::parse("%PROTOCOL(x)%"),
            Err(FormatError::Arguments("PROTOCOL(x)".into()))
        );
    }
}
