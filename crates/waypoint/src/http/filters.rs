//! The filters of a chain, on the way in and on the way out.

use std::time::Duration;

use http::{HeaderValue, StatusCode};
use waymark_engine::{Field, Head};

use super::edit::{apply_to_request, apply_to_response};
use super::exchange::Facts;
use super::local_reply::LocalReply;
use crate::program::{HttpChain, HttpFilter};
use crate::random::Random;
use crate::route::{Cors, Fault, FaultAbort, Route};
use crate::telemetry::ResponseFlag;

/// What filters remember of a request for its response.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The origin that CORS allows.
    allowed_origin: Option<Box<[u8]>>,
    /// Headers of a preflight's answer.
    preflight: Option<Head>,
}

/// What a filter makes of a request.
pub(super) enum Verdict {
    /// It goes on.
    Go,
    /// It goes on after a while, at the filter behind this place.
    Wait(Duration, usize),
    /// It is answered.
    Answer(LocalReply),
}

/// Runs the filters in order, from the one at `from`, up to the router.
pub(super) fn on_request(
    from: usize,
    chain: &HttpChain,
    facts: &mut Facts,
    route: Option<&Route>,
    memory: &mut Memory,
    random: &Random,
) -> Verdict {
    for (at, filter) in chain.filters.iter().enumerate().skip(from) {
        match filter {
            HttpFilter::HeaderMutation { request, .. } => {
                if !request.is_empty() {
                    apply_to_request(request, facts);
                }
            }
            HttpFilter::Fault => {
                if let Some(fault) = route.and_then(|r| r.fault.as_ref())
                    && let Some(verdict) = inject(fault, at, facts, random)
                {
                    return verdict;
                }
            }
            HttpFilter::Cors => {
                if let Some(cors) = route.and_then(|r| r.cors.as_ref())
                    && let Err(reply) = check_origin(cors, facts, memory, random)
                {
                    return Verdict::Answer(reply);
                }
            }
            HttpFilter::GrpcStats
            | HttpFilter::PeerMetadata
            | HttpFilter::IstioStats(_)
            | HttpFilter::Router => {}
        }
    }
    Verdict::Go
}

/// Runs the filters in reverse, on every response.
pub(super) fn on_response(
    chain: &HttpChain,
    facts: &mut Facts,
    route: Option<&Route>,
    memory: &Memory,
) {
    for filter in chain.filters.iter().rev() {
        match filter {
            HttpFilter::HeaderMutation { response, .. } => {
                if !response.is_empty() {
                    apply_to_response(response, facts);
                }
            }
            HttpFilter::Cors => {
                if let Some(preflight) = &memory.preflight {
                    for field in preflight.fields() {
                        facts.response.insert(field);
                    }
                } else if let (Some(origin), Some(cors)) =
                    (&memory.allowed_origin, route.and_then(|r| r.cors.as_ref()))
                {
                    allow(cors, origin, &mut facts.response);
                    if let Some(exposed) = &cors.expose_headers {
                        facts.response.insert(Field::new(
                            b"access-control-expose-headers",
                            exposed.as_bytes(),
                        ));
                    }
                }
            }
            HttpFilter::GrpcStats
            | HttpFilter::Fault
            | HttpFilter::PeerMetadata
            | HttpFilter::IstioStats(_)
            | HttpFilter::Router => {}
        }
    }
}

/// Delays, then aborts, each by a draw of its own. Spec: l7-semantics.md 6.6.
fn inject(fault: &Fault, at: usize, facts: &mut Facts, random: &Random) -> Option<Verdict> {
    if !facts.flags.contains(ResponseFlag::DI)
        && let Some(delay) = fault.delay.filter(|d| d.share.fires(random.next()))
    {
        facts.flags.add(ResponseFlag::DI);
        return Some(Verdict::Wait(delay.fixed, at)); // and then comes back here for the abort
    }
    let reply = |status| {
        LocalReply::new(status, "fault_filter_abort")
            .body("fault filter abort")
            .flag(ResponseFlag::FI)
    };
    match fault.abort {
        Some(FaultAbort::Http { status, share }) if share.fires(random.next()) => {
            Some(Verdict::Answer(reply(status)))
        }
        Some(FaultAbort::Grpc { status, share }) if share.fires(random.next()) => {
            let mut reply = reply(StatusCode::OK);
            reply.grpc_status = Some(status);
            Some(Verdict::Answer(reply))
        }
        Some(_) | None => None,
    }
}

/// Answers preflights, and remembers whether the origin of another request is allowed. Spec: l7-semantics.md 6.5.
fn check_origin(
    cors: &Cors,
    facts: &Facts,
    memory: &mut Memory,
    random: &Random,
) -> Result<(), LocalReply> {
    let head = &facts.head;
    let Some(origin) = head.get(b"origin") else {
        return Ok(());
    };
    if !cors.enabled.fires(random.next()) {
        return Ok(());
    }
    let allowed = std::str::from_utf8(origin).is_ok_and(|origin| cors.allows(origin));
    let is_preflight =
        head.method() == Some(b"OPTIONS") && head.contains(b"access-control-request-method");
    if !is_preflight {
        memory.allowed_origin = allowed.then(|| origin.into());
        return Ok(());
    }
    if !allowed && cors.forward_not_matching_preflights {
        return Ok(());
    }
    memory.preflight = Some(preflight(cors, head, allowed.then_some(origin)));
    Err(LocalReply::new(StatusCode::OK, "cors_response"))
}

fn allow(cors: &Cors, origin: &[u8], head: &mut Head) {
    head.insert(Field::new(b"access-control-allow-origin", origin));
    if cors.allow_credentials {
        head.insert(Field::new(b"access-control-allow-credentials", b"true"));
    }
}

fn preflight(cors: &Cors, request: &Head, origin: Option<&[u8]>) -> Head {
    let mut out = Head::new();
    if let Some(origin) = origin {
        allow(cors, origin, &mut out);
    }
    let mut allow = |name: &[u8], configured: &Option<HeaderValue>, asked: &[u8]| {
        let value = match configured {
            Some(any) if any == "*" => request.get(asked),
            other => other.as_ref().map(HeaderValue::as_bytes),
        };
        if let Some(value) = value {
            out.insert(Field::new(name, value));
        }
    };
    allow(
        b"access-control-allow-methods",
        &cors.allow_methods,
        b"access-control-request-method",
    );
    allow(
        b"access-control-allow-headers",
        &cors.allow_headers,
        b"access-control-request-headers",
    );
    if let Some(max_age) = &cors.max_age {
        out.insert(Field::new(b"access-control-max-age", max_age.as_bytes()));
    }
    out
}
