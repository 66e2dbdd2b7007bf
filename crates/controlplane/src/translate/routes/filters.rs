//! What a route says to the filters before it.

use waymark_api::istio::virtual_service::{Abort, CorsPolicy, Fault, HttpRule};

use super::super::wire::{any, bool_value, core, duration, envoy_type, ext, route};
use super::action::millionths;
use super::matches;

/// Faults and CORS.
pub(super) fn apply(route: &mut route::Route, rule: &HttpRule) {
    if let Some(fault) = &rule.fault {
        route.typed_per_filter_config.insert(
            "envoy.filters.http.fault".to_owned(),
            any(&fault_filter(fault)),
        );
    }
    if let Some(cors) = &rule.cors {
        route.typed_per_filter_config.insert(
            "envoy.filters.http.cors".to_owned(),
            any(&cors_policy(cors)),
        );
    }
}

fn fault_filter(fault: &Fault) -> ext::filters::http::fault::v3::HttpFault {
    use ext::filters::common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier};
    use ext::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
    HttpFault {
        delay: fault.delay.map(|(delay, share)| FaultDelay {
            percentage: Some(millionths(share)),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay))),
        }),
        abort: fault.abort.map(|(abort, share)| FaultAbort {
            percentage: Some(millionths(share)),
            error_type: Some(match abort {
                Abort::Http(status) => ErrorType::HttpStatus(u32::from(status)),
                Abort::Grpc(status) => ErrorType::GrpcStatus(u32::from(status)),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn cors_policy(cors: &CorsPolicy) -> ext::filters::http::cors::v3::CorsPolicy {
    ext::filters::http::cors::v3::CorsPolicy {
        allow_origin_string_match: cors
            .allow_origins
            .iter()
            .filter_map(matches::string_matcher)
            .collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.allow_credentials.map(bool_value),
        filter_enabled: Some(core::RuntimeFractionalPercent {
            default_value: Some(envoy_type::v3::FractionalPercent {
                numerator: 100,
                ..Default::default()
            }),
            ..Default::default()
        }),
        forward_not_matching_preflights: Some(bool_value(cors.forward_unmatched_preflights)),
        ..Default::default()
    }
}
