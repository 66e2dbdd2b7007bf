//! What a route does to a request before it goes on: header operations, then path and host.

use std::time::Duration;

use waymark_engine::Field;

use super::exchange::Facts;
use super::grpc_timeout;
use super::headers::{
    ATTEMPT_TIMEOUT_MS, DIGITS, GRPC_TIMEOUT, ORIGINAL_HOST, ORIGINAL_PATH, decimal,
};
use super::timers::Timers;
use crate::route::{Clusters, Destination, Forward, HeaderEdits, HeaderOps, Route};

/// The edits of a route, for requests and for responses, its own ones included.
pub(super) fn header_edits<'a>(
    destination: Option<&'a Destination>,
    forward: &'a Forward,
) -> Option<&'a HeaderEdits> {
    match (destination, &forward.clusters) {
        (Some(destination), _) => Some(&destination.headers),
        (None, Clusters::Header(_, edits)) => Some(edits),
        (None, Clusters::One(_) | Clusters::Weighted(_)) => None,
    }
}

/// How long each timer of a forwarded request runs.
pub(super) fn timers(forward: &Forward, facts: &Facts) -> Timers {
    let of_route = &forward.timeouts;
    let of_chain = &facts.http().timeouts;
    let asked = || {
        let asked = facts.head.get_str(GRPC_TIMEOUT);
        asked.and_then(grpc_timeout::parse).filter(|t| !t.is_zero())
    };
    let asked = facts.grpc.then(asked).flatten();
    let up_to = |max: Option<Duration>| match (asked, max) {
        (Some(asked), Some(max)) => Some(asked.min(max)),
        (asked, max) => asked.or(max),
    };
    let route = match of_route.grpc_max {
        Some(max) if facts.grpc => up_to(max),
        Some(_) | None => of_route.route,
    };
    let max_stream = match of_route.grpc_max_stream {
        Some(max) if asked.is_some() => up_to(max),
        Some(_) | None => of_route.max_stream.unwrap_or(of_chain.max_stream),
    };
    Timers {
        route: route.filter(|t| !t.is_zero()),
        max_stream,
        idle: of_route.idle.unwrap_or(of_chain.stream_idle),
        request: of_chain.request,
    }
}

/// Applies header operations to a request.
pub(super) fn apply_to_request(ops: &HeaderOps, facts: &mut Facts) {
    for level in ops.levels() {
        level.remove_from(&mut facts.head);
        level.prepare(&facts.context()).apply(&mut facts.head);
    }
}

/// Applies header operations to a response.
pub(super) fn apply_to_response(ops: &HeaderOps, facts: &mut Facts) {
    for level in ops.levels() {
        level.remove_from(&mut facts.response);
        level.prepare(&facts.context()).apply(&mut facts.response);
    }
}

/// Edits a request; it is the same for all attempts.
pub(super) fn edit_request(
    facts: &mut Facts,
    route: &Route,
    forward: &Forward,
    destination: Option<&Destination>,
    timers: &Timers,
) {
    let suppress = facts.http().suppress_envoy_headers;
    if let Some(edits) = header_edits(destination, forward)
        && !edits.request.is_empty()
    {
        apply_to_request(&edits.request, facts);
    }
    let per_try = forward.retry.as_ref().and_then(|r| r.per_try_timeout);
    if let Some(expected) = per_try.or(timers.route) {
        tell_timeout(facts, expected, suppress);
    }
    if forward.timeouts.grpc_max_stream.is_some()
        && facts.grpc
        && facts.head.contains(GRPC_TIMEOUT)
        && let Some(max) = timers.max_stream
    {
        let timeout = grpc_timeout::format(max);
        let field = Field::new(GRPC_TIMEOUT, timeout.as_bytes());
        facts.head.insert(field);
    }
    if let Some(rewrite) = &forward.path_rewrite {
        let old = facts.as_request().path.to_owned();
        let path = rewrite.apply(&route.matches.path, &old);
        facts.head.set_path(path.as_bytes());
        if !suppress {
            let field = Field::new(ORIGINAL_PATH, old.as_bytes());
            facts.head.insert(field);
        }
        facts.original_path = Some(old);
    }
    let of_destination = destination.and_then(|d| d.host_rewrite.as_ref());
    for host in [of_destination, forward.host_rewrite.as_ref()]
        .into_iter()
        .flatten()
    {
        let old = facts.head.authority().unwrap_or_default().to_vec();
        facts.head.set_authority(host.as_bytes());
        if !suppress {
            facts.head.insert(Field::new(ORIGINAL_HOST, &old));
        }
    }
}

/// Tells the upstream how long it may take.
fn tell_timeout(facts: &mut Facts, expected: Duration, suppress: bool) {
    if !suppress {
        let mut digits = [0; DIGITS];
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        let millis = decimal(millis, &mut digits);
        facts.head.insert(Field::new(ATTEMPT_TIMEOUT_MS, millis));
    }
    if facts.grpc {
        let timeout = grpc_timeout::format(expected);
        facts
            .head
            .insert(Field::new(GRPC_TIMEOUT, timeout.as_bytes()));
    }
}
