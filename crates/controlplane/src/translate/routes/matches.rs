//! Which requests a route takes.

use waymark_api::istio::virtual_service::HttpMatch;
use waymark_api::matcher::StringMatch;

use super::super::input::Semantics;
use super::super::wire::{bool_value, envoy_type, route};
use envoy_type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use route::route_match::PathSpecifier;

/// All of them.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// Those of a condition of a virtual service, or all.
pub(super) fn of(condition: Option<&HttpMatch>, semantics: Semantics) -> route::RouteMatch {
    let Some(condition) = condition else {
        return everything();
    };
    route::RouteMatch {
        path_specifier: Some(path(condition.uri.as_ref(), semantics)),
        case_sensitive: Some(bool_value(!condition.ignore_uri_case)),
        headers: headers(condition),
        query_parameters: condition
            .query_params
            .iter()
            .map(|(name, value)| query_parameter(name, value))
            .collect(),
        ..Default::default()
    }
}

/// Whether a match takes everything, so that nothing behind it is ever reached.
pub(super) fn is_catch_all(matches: &route::RouteMatch) -> bool {
    let any_path = match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
        _ => false,
    };
    any_path && matches.headers.is_empty() && matches.query_parameters.is_empty()
}

/// The path as a span's name shows it.
pub(super) fn path_text(matches: &route::RouteMatch) -> String {
    match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex.clone(),
        _ => "/*".to_owned(),
    }
}

fn path(uri: Option<&StringMatch>, semantics: Semantics) -> PathSpecifier {
    match (uri, semantics) {
        (None | Some(StringMatch::Present), _) => PathSpecifier::Prefix("/".to_owned()),
        (Some(StringMatch::Exact(path)), _) => PathSpecifier::Path(path.clone()),
        (Some(StringMatch::Prefix(prefix)), Semantics::GatewayApi) if prefix != "/" => {
            PathSpecifier::PathSeparatedPrefix(
                prefix.strip_suffix('/').unwrap_or(prefix).to_owned(),
            )
        }
        (Some(StringMatch::Prefix(prefix)), _) => PathSpecifier::Prefix(prefix.clone()),
        (Some(StringMatch::Regex(regex)), _) => {
            PathSpecifier::SafeRegex(safe_regex(regex.as_str()))
        }
    }
}

/// Named headers by name, then what HTTP/2 has as headers.
fn headers(condition: &HttpMatch) -> Vec<route::HeaderMatcher> {
    let wanted = condition
        .headers
        .iter()
        .map(|(name, value)| header(name.as_str(), value));
    let unwanted = condition.without_headers.iter().map(|(name, value)| {
        let present = *value == StringMatch::Present;
        route::HeaderMatcher {
            invert_match: true,
            treat_missing_header_as_empty: !present,
            ..header(name.as_str(), value)
        }
    });
    let mut named: Vec<_> = wanted.chain(unwanted).collect();
    named.sort_by(|left, right| left.name.cmp(&right.name));
    let pseudo = [
        (":method", &condition.method),
        (":authority", &condition.authority),
        (":scheme", &condition.scheme),
    ];
    named.extend(
        pseudo
            .into_iter()
            .filter_map(|(name, value)| Some(header(name, value.as_ref()?))),
    );
    named
}

fn header(name: &str, value: &StringMatch) -> route::HeaderMatcher {
    use route::header_matcher::HeaderMatchSpecifier;
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match string_matcher(value) {
            Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..Default::default()
    }
}

fn query_parameter(name: &str, value: &StringMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    route::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(match string_matcher(value) {
            Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
            None => QueryParameterMatchSpecifier::PresentMatch(true),
        }),
    }
}

/// `None` for a value that only has to be there.
pub(super) fn string_matcher(value: &StringMatch) -> Option<StringMatcher> {
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(regex) => MatchPattern::SafeRegex(safe_regex(regex.as_str())),
        StringMatch::Present => return None,
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    })
}

/// RE2, the whole text.
pub(super) fn safe_regex(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        ..Default::default()
    }
}
