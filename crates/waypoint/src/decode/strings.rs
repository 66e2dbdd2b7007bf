//! String matchers and regular expressions.

use waymark_proto::envoy::envoy::r#type::matcher::v3 as pb;

use super::DecodeError;
use super::at::At;
use super::values::RegexMatcher;
use crate::program::{Pattern, StringMatch};
use crate::route::RegexRewrite;

pub(super) fn string_match(
    at: At<'_>,
    value: pb::StringMatcher,
) -> Result<StringMatch, DecodeError> {
    use pb::string_matcher::MatchPattern as P;
    let pb::StringMatcher {
        ignore_case,
        match_pattern,
    } = value;
    Ok(
        match match_pattern.ok_or_else(|| at.error("has no pattern"))? {
            P::Exact(value) => StringMatch::Exact {
                value: value.into(),
                ignore_case,
            },
            P::Prefix(value) => StringMatch::Prefix {
                value: value.into(),
                ignore_case,
            },
            P::Suffix(value) => StringMatch::Suffix {
                value: value.into(),
                ignore_case,
            },
            P::Contains(value) => StringMatch::Contains {
                value: value.into(),
                ignore_case,
            },
            P::SafeRegex(value) => StringMatch::Regex(pattern(at.field("safe_regex"), value)?),
            P::Custom(_) => return Err(at.field("custom").unsupported()),
        },
    )
}

pub(super) fn pattern(at: At<'_>, value: RegexMatcher) -> Result<Pattern, DecodeError> {
    // RE2 is the only engine there ever was; its program size limit is ours to set.
    let RegexMatcher {
        regex,
        engine_type: _,
    } = value;
    Pattern::new(&regex).map_err(|e| at.field("regex").error(e.to_string()))
}

pub(super) fn regex_rewrite(
    at: At<'_>,
    value: pb::RegexMatchAndSubstitute,
) -> Result<RegexRewrite, DecodeError> {
    let pb::RegexMatchAndSubstitute {
        pattern: regex,
        substitution,
    } = value;
    let regex = pattern(
        at.field("pattern"),
        regex.ok_or_else(|| at.field("pattern").missing())?,
    )?;
    RegexRewrite::new(regex, &substitution).map_err(|e| at.field("substitution").error(e))
}
