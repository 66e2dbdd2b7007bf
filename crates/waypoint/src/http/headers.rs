//! Headers that are not a hop's business any more, and those that a proxy adds. Spec: l7-semantics.md 3.4, 4.
//!
//! What belongs to a connection is gone before a head gets here: the codecs see to it.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime};

use waymark_engine::{Field, Head};

use crate::program::{HttpChain, ServerHeader};
use crate::random::Random;

pub(super) const ATTEMPT_TIMEOUT_MS: &[u8] = b"x-envoy-expected-rq-timeout-ms";
pub(super) const DECORATOR: &[u8] = b"x-envoy-decorator-operation";
pub(super) const ORIGINAL_HOST: &[u8] = b"x-envoy-original-host";
pub(super) const ORIGINAL_PATH: &[u8] = b"x-envoy-original-path";
pub(super) const OVERLOADED: &[u8] = b"x-envoy-overloaded";
pub(super) const RATE_LIMITED: &[u8] = b"x-envoy-ratelimited";
pub(super) const REQUEST_ID: &[u8] = b"x-request-id";
pub(super) const SERVICE_TIME: &[u8] = b"x-envoy-upstream-service-time";
pub(super) const FORWARDED_PROTO: &[u8] = b"x-forwarded-proto";
pub(super) const FORWARDED_PORT: &[u8] = b"x-forwarded-port";
pub(super) const FORWARDED_CLIENT_CERT: &[u8] = b"x-forwarded-client-cert";
pub(super) const GRPC_STATUS: &[u8] = b"grpc-status";
pub(super) const GRPC_MESSAGE: &[u8] = b"grpc-message";
pub(super) const GRPC_TIMEOUT: &[u8] = b"grpc-timeout";

/// Headers by which a trusted peer could steer Envoy, behind `x-envoy-`. Nobody is trusted in a mesh: they are removed, never
/// obeyed.
const STEERING: [&[u8]; 13] = [
    b"expected-rq-timeout-ms",
    b"internal",
    b"force-trace",
    b"retry-on",
    b"retry-grpc-on",
    b"max-retries",
    b"upstream-rq-timeout-ms",
    b"upstream-rq-per-try-timeout-ms",
    b"hedge-on-per-try-timeout",
    b"retriable-status-codes",
    b"retriable-header-names",
    b"ip-tags",
    b"upstream-alt-stat-name",
];

/// Removes what no client may say.
pub(super) fn remove_from_request(head: &mut Head, chain: &HttpChain) {
    head.retain(|field| match field.name {
        FORWARDED_CLIENT_CERT => chain.forward_client_cert,
        // The client is told to go on as soon as its body is read.
        b"expect" => chain.relay_100_continue,
        [b'x', b'-', b'e', b'n', b'v', b'o', b'y', b'-', rest @ ..] => !STEERING.contains(&rest),
        _ => true,
    });
}

/// What is added to every request before the filters see it.
pub(super) fn prepare_request(
    head: &mut Head,
    chain: &HttpChain,
    local_port: u16,
    random: &Random,
) {
    head.insert_if_absent(Field::new(FORWARDED_PROTO, b"http"));
    if chain.append_x_forwarded_port {
        let mut digits = [0; DIGITS];
        let port = decimal(u64::from(local_port), &mut digits);
        head.insert_if_absent(Field::new(FORWARDED_PORT, port));
    }
    if chain.request_id.generate && !head.contains(REQUEST_ID) {
        head.push(Field::new(REQUEST_ID, &random.uuid()));
    }
}

/// The last touch on every response, our own ones too.
pub(super) fn finish_response(head: &mut Head, chain: &HttpChain) {
    if !head.contains(b"date") {
        with_date(|date| head.push(Field::new(b"date", date)));
    }
    let server = Field::new(b"server", chain.server_name.as_bytes());
    match chain.server_header {
        ServerHeader::Overwrite => head.insert(server),
        ServerHeader::AppendIfAbsent => head.insert_if_absent(server),
        ServerHeader::PassThrough => {}
    }
}

/// Room for the digits of any number.
pub(super) const DIGITS: usize = 20;

/// A number in decimal.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; DIGITS]) -> &[u8] {
    let mut at = DIGITS;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

/// The time in HTTP's form, written once a second and thread.
fn with_date<R>(use_it: impl FnOnce(&[u8]) -> R) -> R {
    thread_local! {
        static LAST: RefCell<(Option<Instant>, String)> = const { RefCell::new((None, String::new())) };
    }
    LAST.with_borrow_mut(|(until, text)| {
        let now = waymark_driver::now();
        if until.is_none_or(|until| now >= until) {
            let since = SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            *text = http_date(since.as_secs());
            let rest = 1_000_000_000 - since.subsec_nanos();
            *until = Some(now + Duration::from_nanos(u64::from(rest)));
        }
        use_it(text.as_bytes())
    })
}

fn http_date(seconds: u64) -> String {
    use time::format_description::BorrowedFormatItem;
    use time::macros::format_description;
    const FORMAT: &[BorrowedFormatItem<'static>] = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    time.and_then(|t| t.format(FORMAT).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_wants_it() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        let now = with_date(<[u8]>::to_vec);
        assert_eq!(now.len(), 29);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 12_345, u64::MAX] {
            let mut digits = [0; DIGITS];
            assert_eq!(decimal(number, &mut digits), number.to_string().as_bytes());
        }
    }

    #[test]
    fn nobody_steers() {
        let mut head = Head::request(b"GET");
        for name in STEERING {
            let name = [b"x-envoy-", name].concat();
            head.push(Field::new(&name, b"1"));
        }
        head.push(Field::new(b"x-envoy-attempt-count", b"7"));
        head.push(Field::new(FORWARDED_CLIENT_CERT, b"By=me"));
        head.push(Field::new(b"a", b"1"));
        remove_from_request(&mut head, &crate::http::fixture::chain());
        let left: Vec<_> = head.fields().map(|f| f.name.to_vec()).collect();
        assert_eq!(left, [&b"x-envoy-attempt-count"[..], b"a"]);
    }
}
