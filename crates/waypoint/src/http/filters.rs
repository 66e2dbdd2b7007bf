//! The filters of a chain, on the way in and on the way out.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::sleep;

use super::exchange::Facts;
use super::local_reply::LocalReply;
use crate::program::HttpFilter;
use crate::random::Random;
use crate::route::{Cors, Fault, FaultAbort, Route};
use crate::telemetry::ResponseFlag;

/// What filters remember of a request for its response.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The origin that CORS allows.
    allowed_origin: Option<HeaderValue>,
    /// Headers of a preflight's answer.
    preflight: Option<HeaderMap>,
}

/// Runs the filters in order up to the router; an answer ends the request.
pub(super) async fn on_request(
    facts: &mut Facts,
    route: Option<&Route>,
    memory: &mut Memory,
    random: &Random,
) -> Result<(), LocalReply> {
    let chain = std::sync::Arc::clone(&facts.chain);
    for filter in &super::exchange::http_of(&chain).filters {
        match filter {
            HttpFilter::HeaderMutation { request, .. } => {
                if !request.is_empty() {
                    let mut headers = facts.head.headers.clone();
                    request.apply(&mut headers, &facts.context());
                    facts.head.headers = headers;
                }
            }
            HttpFilter::Fault => {
                if let Some(fault) = route.and_then(|r| r.fault.as_ref()) {
                    inject(fault, facts, random).await?;
                }
            }
            HttpFilter::Cors => {
                if let Some(cors) = route.and_then(|r| r.cors.as_ref()) {
                    check_origin(cors, facts, memory, random)?;
                }
            }
            HttpFilter::GrpcStats
            | HttpFilter::PeerMetadata
            | HttpFilter::IstioStats(_)
            | HttpFilter::Router => {}
        }
    }
    Ok(())
}

/// Runs the filters in reverse, on every response.
pub(super) fn on_response(
    facts: &Facts,
    route: Option<&Route>,
    memory: &Memory,
    headers: &mut HeaderMap,
) {
    for filter in facts.http().filters.iter().rev() {
        match filter {
            HttpFilter::HeaderMutation { response, .. } => {
                response.apply(headers, &facts.context())
            }
            HttpFilter::Cors => {
                if let Some(preflight) = &memory.preflight {
                    for (name, value) in preflight {
                        headers.insert(name, value.clone());
                    }
                } else if let (Some(origin), Some(cors)) =
                    (&memory.allowed_origin, route.and_then(|r| r.cors.as_ref()))
                {
                    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                    if cors.allow_credentials {
                        headers.insert(
                            ACCESS_CONTROL_ALLOW_CREDENTIALS,
                            HeaderValue::from_static("true"),
                        );
                    }
                    if let Some(exposed) = &cors.expose_headers {
                        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
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
async fn inject(fault: &Fault, facts: &mut Facts, random: &Random) -> Result<(), LocalReply> {
    if let Some(delay) = fault.delay.filter(|d| d.share.fires(random.next())) {
        facts.flags.add(ResponseFlag::DI);
        sleep(delay.fixed).await;
    }
    let reply = |status| {
        LocalReply::new(status, "fault_filter_abort")
            .body("fault filter abort")
            .flag(ResponseFlag::FI)
    };
    match fault.abort {
        Some(FaultAbort::Http { status, share }) if share.fires(random.next()) => {
            Err(reply(status))
        }
        Some(FaultAbort::Grpc { status, share }) if share.fires(random.next()) => {
            let mut reply = reply(StatusCode::OK);
            reply.grpc_status = Some(status);
            Err(reply)
        }
        Some(_) | None => Ok(()),
    }
}

/// Answers preflights, and remembers whether the origin of another request is allowed. Spec: l7-semantics.md 6.5.
fn check_origin(
    cors: &Cors,
    facts: &Facts,
    memory: &mut Memory,
    random: &Random,
) -> Result<(), LocalReply> {
    let headers = &facts.head.headers;
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    if !cors.enabled.fires(random.next()) {
        return Ok(());
    }
    let allowed = origin.to_str().is_ok_and(|origin| cors.allows(origin));
    let is_preflight =
        facts.head.method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        memory.allowed_origin = allowed.then(|| origin.clone());
        return Ok(());
    }
    if !allowed && cors.forward_not_matching_preflights {
        return Ok(());
    }
    memory.preflight = Some(preflight(cors, headers, allowed.then_some(origin)));
    Err(LocalReply::new(StatusCode::OK, "cors_response"))
}

fn preflight(cors: &Cors, request: &HeaderMap, origin: Option<&HeaderValue>) -> HeaderMap {
    let mut out = HeaderMap::new();
    if let Some(origin) = origin {
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if cors.allow_credentials {
            out.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
    }
    let mut allow = |name: HeaderName, configured: &Option<HeaderValue>, asked: HeaderName| {
        let value = match configured {
            Some(any) if any == "*" => request.get(asked).cloned(),
            other => other.clone(),
        };
        if let Some(value) = value {
            out.insert(name, value);
        }
    };
    allow(
        ACCESS_CONTROL_ALLOW_METHODS,
        &cors.allow_methods,
        ACCESS_CONTROL_REQUEST_METHOD,
    );
    allow(
        ACCESS_CONTROL_ALLOW_HEADERS,
        &cors.allow_headers,
        ACCESS_CONTROL_REQUEST_HEADERS,
    );
    if let Some(max_age) = &cors.max_age {
        out.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
    }
    out
}
