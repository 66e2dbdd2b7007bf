//! Headers that are not a hop's business any more, and those that a proxy adds. Spec: l7-semantics.md 3.4, 4.

use std::cell::RefCell;
use std::time::SystemTime;

use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, SERVER, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use crate::program::{HttpChain, ServerHeader};
use crate::random::Random;

pub(super) static ATTEMPT_TIMEOUT_MS: HeaderName =
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(super) static DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
pub(super) static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
pub(super) static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(super) static OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
pub(super) static RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
pub(super) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) static SERVICE_TIME: HeaderName =
    HeaderName::from_static("x-envoy-upstream-service-time");
pub(super) static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) static FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) static FORWARDED_CLIENT_CERT: HeaderName =
    HeaderName::from_static("x-forwarded-client-cert");
pub(super) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub(super) static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Headers by which a trusted peer could steer Envoy. Nobody is trusted in a mesh: they are removed, never obeyed.
static STEERING: [HeaderName; 13] = [
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
];

/// Headers of one connection.
static HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// A request's wish to leave HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Upgrade {
    /// None, or to `h2c`, which is ignored.
    None,
    /// To this protocol, lower case.
    To(Box<str>),
}

/// What `Connection` and `Upgrade` ask for. Has to be read before [`remove_hop_by_hop`].
pub(super) fn upgrade(headers: &HeaderMap) -> Upgrade {
    let Some(value) = headers.get(UPGRADE).and_then(|v| v.to_str().ok()) else {
        return Upgrade::None;
    };
    let nominated = tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    if !nominated || value.trim().eq_ignore_ascii_case("h2c") {
        return Upgrade::None;
    }
    Upgrade::To(value.trim().to_ascii_lowercase().into())
}

/// Whether `Connection` nominates `Host` for removal, which no honest client does.
pub(super) fn nominates_host(headers: &HeaderMap) -> bool {
    tokens(headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case(HOST.as_str()))
}

/// Removes what concerns this connection only; `te` keeps `trailers`, nothing else.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    retain(headers, |_| true);
}

/// Removes what concerns the client's connection only, `Host` (which has a place of its own), and what no client may say.
pub(super) fn remove_from_request(headers: &mut HeaderMap, chain: &HttpChain) {
    retain(headers, |name| {
        let steers = name.as_str().starts_with("x-envoy-") && STEERING.contains(name);
        let spoofs = *name == FORWARDED_CLIENT_CERT && !chain.forward_client_cert;
        *name != HOST && !steers && !spoofs
    });
}

/// Keeps the headers that are not hop by hop and that `keep` keeps, in their order.
fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    let nominated: SmallVec<[HeaderName; 2]> = tokens(headers, &CONNECTION)
        .filter_map(|t| t.parse().ok())
        .filter(|name| *name != TE)
        .collect();
    let te = headers.contains_key(TE).then(|| {
        tokens(headers, &TE).any(|t| t.split(';').next().is_some_and(|t| t.trim() == "trailers"))
    });
    if te == Some(true) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let stays = |name: &HeaderName| {
        let of_hop = HOP_BY_HOP.contains(name)
            || nominated.contains(name)
            || (*name == TE && te == Some(false));
        !of_hop && keep(name)
    };
    if headers.keys().all(stays) {
        return;
    }
    // `HeaderMap::remove` moves the last header into the gap; what an application gets keeps its order.
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    let mut kept = None;
    for (name, value) in old {
        if let Some(name) = name {
            kept = stays(&name).then_some(name);
        }
        if let Some(name) = &kept {
            headers.append(name, value);
        }
    }
}

/// The rest of what is done to every request before the filters see it.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    chain: &HttpChain,
    local_port: u16,
    random: &Random,
) {
    if !chain.relay_100_continue {
        headers.remove(EXPECT); // the client is told to go on as soon as its body is read
    }
    if !headers.contains_key(&FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO.clone(), HeaderValue::from_static("http"));
    }
    if chain.append_x_forwarded_port && !headers.contains_key(&FORWARDED_PORT) {
        headers.insert(FORWARDED_PORT.clone(), HeaderValue::from(local_port));
    }
    if chain.request_id.generate && !headers.contains_key(&REQUEST_ID) {
        let uuid = random.uuid();
        if let Ok(value) = HeaderValue::from_bytes(&uuid) {
            headers.insert(REQUEST_ID.clone(), value);
        }
    }
}

/// The last touch on every response, our own ones too.
pub(super) fn finish_response(headers: &mut HeaderMap, chain: &HttpChain) {
    headers.entry(DATE).or_insert_with(date);
    match chain.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, chain.server_name.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers
                .entry(SERVER)
                .or_insert_with(|| chain.server_name.clone());
        }
        ServerHeader::PassThrough => {}
    }
}

/// Whether the headers say that no body follows although the method may have one.
pub(super) fn needs_zero_length(method: &http::Method, headers: &HeaderMap) -> bool {
    let may_have_body = matches!(
        *method,
        http::Method::POST | http::Method::PUT | http::Method::PATCH
    );
    may_have_body && !headers.contains_key(CONTENT_LENGTH)
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

/// The time in HTTP's form, written once a second and thread.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    LAST.with_borrow_mut(|(at, value)| {
        if *at != seconds {
            *at = seconds;
            *value = http_date(seconds);
        }
        value.clone()
    })
}

fn http_date(seconds: u64) -> HeaderValue {
    use time::format_description::BorrowedFormatItem;
    use time::macros::format_description;
    const FORMAT: &[BorrowedFormatItem<'static>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    let text = time.and_then(|t| t.format(FORMAT).ok()).unwrap_or_default();
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn connection_headers_go_with_what_they_nominate() {
        let mut headers = map(&[
            ("connection", "x-a, TE"),
            ("connection", "close, x-b"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("te", "gzip, trailers;q=0.5"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("trailer", "x-t"),
            ("proxy-authorization", "p"),
            ("via", "v"),
        ]);
        remove_hop_by_hop(&mut headers);
        let left: Vec<_> = headers
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        assert_eq!(left.len(), 5, "{left:?}");
        for kept in [
            "x-c: 3",
            "te: trailers",
            "trailer: x-t",
            "proxy-authorization: p",
            "via: v",
        ] {
            assert!(left.iter().any(|l| l == kept), "{kept} of {left:?}");
        }
    }

    #[test]
    fn what_stays_keeps_its_order() {
        let all = [
            ("a", "1"),
            ("connection", "x"),
            ("b", "2"),
            ("x", "-"),
            ("a", "3"),
            ("te", "trailers"),
            ("c", "4"),
        ];
        let mut headers = map(&all);
        remove_hop_by_hop(&mut headers);
        let left: Vec<_> = headers
            .iter()
            .map(|(n, v)| format!("{n}{}", v.to_str().unwrap()))
            .collect();
        assert_eq!(left, ["a1", "a3", "b2", "tetrailers", "c4"]);
    }

    #[test]
    fn upgrades_are_recognised_unless_h2c() {
        for (headers, want) in [
            (
                &[("connection", "Upgrade"), ("upgrade", "WebSocket")][..],
                Upgrade::To("websocket".into()),
            ),
            (
                &[("connection", "keep-alive, upgrade"), ("upgrade", "foo")],
                Upgrade::To("foo".into()),
            ),
            (
                &[
                    ("connection", "Upgrade, HTTP2-Settings"),
                    ("upgrade", "h2c"),
                ],
                Upgrade::None,
            ),
            (&[("upgrade", "websocket")], Upgrade::None),
            (&[("connection", "upgrade")], Upgrade::None),
        ] {
            assert_eq!(upgrade(&map(headers)), want, "{headers:?}");
        }
        assert!(nominates_host(&map(&[("connection", "close, Host")])));
    }

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(), date());
    }
}
