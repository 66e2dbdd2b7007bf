//! Header changes of routes and of weighted destinations.

use waymark_api::istio::virtual_service::Headers;
use waymark_api::matcher::{HeaderName, HeaderOperations};

use super::super::wire::{core, route};
use core::header_value_option::HeaderAppendAction;
use route::weighted_cluster::ClusterWeight;

/// Adds the changes to those of the route.
pub(super) fn apply_to_route(route: &mut route::Route, headers: &Headers) {
    route
        .request_headers_to_add
        .extend(to_add(&headers.request));
    route
        .request_headers_to_remove
        .extend(to_remove(&headers.request));
    route
        .response_headers_to_add
        .extend(to_add(&headers.response));
    route
        .response_headers_to_remove
        .extend(to_remove(&headers.response));
}

/// Sets the changes of one weighted destination.
pub(super) fn apply_to_destination(weight: &mut ClusterWeight, headers: &Headers) {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    weight.request_headers_to_add = to_add(&headers.request);
    weight.request_headers_to_remove = to_remove(&headers.request);
    weight.response_headers_to_add = to_add(&headers.response);
    weight.response_headers_to_remove = to_remove(&headers.response);
    weight.host_rewrite_specifier = headers
        .request
        .host
        .clone()
        .map(HostRewriteSpecifier::HostRewriteLiteral);
}

/// What is set, by name, then what is added, by name.
fn to_add(operations: &HeaderOperations) -> Vec<core::HeaderValueOption> {
    let all = [
        (&operations.set, HeaderAppendAction::OverwriteIfExistsOrAdd),
        (&operations.add, HeaderAppendAction::AppendIfExistsOrAdd),
    ];
    all.into_iter()
        .flat_map(|(list, append)| {
            sorted(list)
                .into_iter()
                .map(move |(name, value)| option(name, value, append))
        })
        .collect()
}

fn sorted(list: &[(HeaderName, String)]) -> Vec<(&str, &str)> {
    let mut list: Vec<_> = list
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    list.sort_by_key(|(name, _)| *name);
    list
}

fn option(name: &str, value: &str, append: HeaderAppendAction) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: append as i32,
        ..Default::default()
    }
}

fn to_remove(operations: &HeaderOperations) -> Vec<String> {
    operations
        .remove
        .iter()
        .map(|name| name.as_str().to_owned())
        .collect()
}
