//! Header operations.

use http::HeaderName;
use waymark_proto::envoy::envoy::config::common::mutation_rules::v3 as rules;
use waymark_proto::envoy::envoy::config::core::v3 as core;

use super::DecodeError;
use super::at::At;
use crate::route::{AppendAction, HeaderOp, HeaderOps, Template};

/// The header lists that a level of a route configuration has.
#[derive(Default)]
pub(super) struct Lists {
    pub(super) request_add: Vec<core::HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<core::HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
}

impl Lists {
    /// Operations on requests, on responses.
    pub(super) fn decode(self, at: At<'_>) -> Result<(HeaderOps, HeaderOps), DecodeError> {
        let request = ops(
            at,
            "request_headers_to_remove",
            self.request_remove,
            "request_headers_to_add",
            self.request_add,
        )?;
        let response = ops(
            at,
            "response_headers_to_remove",
            self.response_remove,
            "response_headers_to_add",
            self.response_add,
        )?;
        Ok((request, response))
    }
}

/// Removals come before additions.
fn ops(
    at: At<'_>,
    remove_name: &str,
    remove: Vec<String>,
    add_name: &str,
    add: Vec<core::HeaderValueOption>,
) -> Result<HeaderOps, DecodeError> {
    let mut ops = Vec::with_capacity(remove.len() + add.len());
    for (i, name) in remove.iter().enumerate() {
        ops.push(HeaderOp::Remove(header_name(
            at.index(remove_name, i),
            name,
        )?));
    }
    for (i, option) in add.into_iter().enumerate() {
        ops.push(addition(at.index(add_name, i), option)?);
    }
    Ok(HeaderOps::new(ops))
}

fn addition(at: At<'_>, option: core::HeaderValueOption) -> Result<HeaderOp, DecodeError> {
    use core::header_value_option::HeaderAppendAction as A;
    let core::HeaderValueOption {
        header,
        append,
        append_action,
        keep_empty_value,
    } = option;
    let action = match (append, A::try_from(append_action)) {
        (Some(append), Ok(A::AppendIfExistsOrAdd)) if !append.value => AppendAction::OverwriteOrAdd,
        (_, Ok(A::AppendIfExistsOrAdd)) => AppendAction::AppendOrAdd,
        (_, Ok(A::AddIfAbsent)) => AppendAction::AddIfAbsent,
        (_, Ok(A::OverwriteIfExistsOrAdd)) => AppendAction::OverwriteOrAdd,
        (_, Ok(A::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
        (_, Err(_)) => return Err(at.field("append_action").unsupported()),
    };
    let at = at.field("header");
    let core::HeaderValue {
        key,
        value,
        raw_value,
    } = header.ok_or_else(|| at.missing())?;
    let name = header_name(at.field("key"), &key)?;
    let text = match (value.is_empty(), raw_value.is_empty()) {
        (_, true) => value,
        (true, false) => {
            String::from_utf8(raw_value).map_err(|_| at.field("raw_value").error("is not UTF-8"))?
        }
        (false, false) => return Err(at.error("has both value and raw_value")),
    };
    let value = Template::parse(&text).map_err(|e| at.field("value").error(e.to_string()))?;
    if value
        .as_text()
        .is_some_and(|t| http::HeaderValue::from_str(t).is_err())
    {
        return Err(at.field("value").error("is not a header value"));
    }
    Ok(HeaderOp::Add {
        name,
        value,
        action,
        keep_empty: keep_empty_value,
    })
}

fn header_name(at: At<'_>, name: &str) -> Result<HeaderName, DecodeError> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(at.error(format!("{name:?} cannot be changed by header operations")));
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| at.error(format!("{name:?} is not a header name")))
}

/// Mutations of the header mutation filter.
pub(super) fn mutations(
    at: At<'_>,
    name: &str,
    list: Vec<rules::HeaderMutation>,
) -> Result<HeaderOps, DecodeError> {
    use rules::header_mutation::Action as A;
    let mut ops = Vec::with_capacity(list.len());
    for (i, one) in list.into_iter().enumerate() {
        let at = at.index(name, i);
        ops.push(match one.action {
            Some(A::Remove(name)) => HeaderOp::Remove(header_name(at.field("remove"), &name)?),
            Some(A::Append(option)) => addition(at.field("append"), option)?,
            Some(A::RemoveOnMatch(_)) => return Err(at.field("remove_on_match").unsupported()),
            None => return Err(at.error("has no action")),
        });
    }
    Ok(HeaderOps::in_order(ops))
}
