//! Access logs: files, standard output and standard error. What else there is is observability that does not exist here.

use std::sync::Arc;

use http::StatusCode;
use waymark_proto::any::type_name;
use waymark_proto::envoy::envoy::config::accesslog::v3 as pb;
use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use waymark_proto::envoy::envoy::extensions::access_loggers::file::v3 as file;
use waymark_proto::envoy::envoy::extensions::access_loggers::stream::v3 as stream;
use waymark_proto::envoy::google::protobuf as wkt;
use waymark_proto::type_url;

use super::DecodeError;
use super::at::{At, Notes};
use super::values::unpack;
use crate::program::{AccessLog, AccessLogFilter, LogTarget};
use crate::route::{JsonField, LogFormat, Template};

/// Envoy's own default line; istiod always sends one.
const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// The logs that exist here; the others are noted.
pub(super) fn access_logs(
    notes: &mut Notes,
    at: At<'_>,
    logs: Vec<pb::AccessLog>,
) -> Result<Vec<AccessLog>, DecodeError> {
    let mut out = Vec::new();
    for (i, log) in logs.into_iter().enumerate() {
        let at = at.index("access_log", i);
        match access_log(at, log) {
            Ok(log) => out.push(log),
            Err(Refused::Malformed(error)) => return Err(error),
            Err(Refused::NotHere(why)) => notes.add(at, format!("nothing is logged there: {why}")),
        }
    }
    Ok(out)
}

enum Refused {
    Malformed(DecodeError),
    NotHere(String),
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Self {
        Refused::Malformed(error)
    }
}

fn access_log(at: At<'_>, log: pb::AccessLog) -> Result<AccessLog, Refused> {
    let pb::AccessLog {
        name: _,
        filter,
        config_type,
    } = log;
    let config_at = at.field("typed_config");
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = config_type else {
        return Err(config_at.missing().into());
    };
    let (format, to) = match any.type_url.as_str() {
        type_url::FILE_ACCESS_LOG => {
            use file::file_access_log::AccessLogFormat as F;
            let config: file::FileAccessLog = unpack(config_at, &any)?;
            let to = match config.path.as_str() {
                "" => return Err(config_at.field("path").missing().into()),
                "/dev/stdout" => LogTarget::Stdout,
                "/dev/stderr" => LogTarget::Stderr,
                path => LogTarget::File(path.into()),
            };
            let format = match config.access_log_format {
                None => text(ENVOY_DEFAULT)?,
                Some(F::Format(format)) => text(&format)?,
                Some(F::JsonFormat(format) | F::TypedJsonFormat(format)) => {
                    LogFormat::Json(json(&format)?)
                }
                Some(F::LogFormat(format)) => substitution(config_at.field("log_format"), format)?,
            };
            (format, to)
        }
        type_url::STDOUT_ACCESS_LOG => {
            let config: stream::StdoutAccessLog = unpack(config_at, &any)?;
            let format = match config.access_log_format {
                None => text(ENVOY_DEFAULT)?,
                Some(stream::stdout_access_log::AccessLogFormat::LogFormat(format)) => {
                    substitution(config_at.field("log_format"), format)?
                }
            };
            (format, LogTarget::Stdout)
        }
        type_url::STDERR_ACCESS_LOG => {
            let config: stream::StderrAccessLog = unpack(config_at, &any)?;
            let format = match config.access_log_format {
                None => text(ENVOY_DEFAULT)?,
                Some(stream::stderr_access_log::AccessLogFormat::LogFormat(format)) => {
                    substitution(config_at.field("log_format"), format)?
                }
            };
            (format, LogTarget::Stderr)
        }
        other => {
            return Err(Refused::NotHere(format!(
                "{} is not supported",
                type_name(other)
            )));
        }
    };
    logged(at, filter, format, to)
}

fn logged(
    at: At<'_>,
    filter: Option<pb::AccessLogFilter>,
    format: LogFormat,
    to: LogTarget,
) -> Result<AccessLog, Refused> {
    let only = filter.map(|f| only(at.field("filter"), f)).transpose()?;
    Ok(AccessLog {
        format: Arc::new(format),
        to,
        only,
    })
}

fn text(format: &str) -> Result<LogFormat, Refused> {
    Template::parse(format)
        .map(LogFormat::Text)
        .map_err(|e| Refused::NotHere(e.to_string()))
}

fn substitution(at: At<'_>, format: core::SubstitutionFormatString) -> Result<LogFormat, Refused> {
    use core::substitution_format_string::Format as F;
    let core::SubstitutionFormatString {
        omit_empty_values,
        content_type: _, // of responses
        formatters: _,   // operators say what is needed; one that is not known is noticed
        json_format_options: _,
        format,
    } = format;
    if omit_empty_values {
        return Err(Refused::NotHere(
            "omit_empty_values is not supported".to_owned(),
        ));
    }
    match format {
        Some(F::TextFormat(format)) => text(&format),
        Some(F::JsonFormat(format)) => Ok(LogFormat::Json(json(&format)?)),
        Some(F::TextFormatSource(source)) => {
            let bytes = super::values::inline_bytes(at.field("text_format_source"), source)?;
            let format = String::from_utf8(bytes)
                .map_err(|_| at.field("text_format_source").error("is not UTF-8"))?;
            text(&format)
        }
        None => Err(at.error("has no format").into()),
    }
}

/// The members in alphabetical order, since the message's map has none.
fn json(format: &wkt::Struct) -> Result<Vec<(Box<str>, JsonField)>, Refused> {
    use wkt::value::Kind;
    let mut keys: Vec<_> = format.fields.iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    let mut out = Vec::with_capacity(keys.len());
    for (key, value) in keys {
        let field = match &value.kind {
            Some(Kind::StringValue(text)) => JsonField::Value(
                Template::parse(text).map_err(|e| Refused::NotHere(e.to_string()))?,
            ),
            Some(Kind::StructValue(inner)) => JsonField::Object(json(inner)?),
            _ => {
                return Err(Refused::NotHere(format!(
                    "{key:?} of the JSON format is neither text nor object"
                )));
            }
        };
        out.push((key.as_str().into(), field));
    }
    Ok(out)
}

fn only(at: At<'_>, filter: pb::AccessLogFilter) -> Result<AccessLogFilter, Refused> {
    use pb::access_log_filter::FilterSpecifier as F;
    let not_here = |what: &str| Err(Refused::NotHere(format!("filter {what} is not supported")));
    match filter
        .filter_specifier
        .ok_or_else(|| at.error("has no filter"))?
    {
        F::StatusCodeFilter(filter) => {
            use pb::comparison_filter::Op;
            let at = at.field("status_code_filter");
            let at = at.field("comparison");
            let comparison = filter.comparison.ok_or_else(|| at.missing())?;
            let value = comparison
                .value
                .ok_or_else(|| at.field("value").missing())?
                .default_value;
            let code = u16::try_from(value)
                .ok()
                .and_then(|v| StatusCode::from_u16(v).ok());
            let code = code.ok_or_else(|| {
                at.field("value")
                    .error(format!("{value} is not a status code"))
            })?;
            match Op::try_from(comparison.op) {
                Ok(Op::Ge) => Ok(AccessLogFilter::StatusAtLeast(code)),
                Ok(Op::Le) => Ok(AccessLogFilter::StatusAtMost(code)),
                Ok(Op::Eq) => Ok(AccessLogFilter::StatusIs(code)),
                Ok(Op::Ne) | Err(_) => not_here("comparison"),
            }
        }
        F::ResponseFlagFilter(filter) => Ok(AccessLogFilter::Flags(
            filter.flags.into_iter().map(Into::into).collect(),
        )),
        F::AndFilter(filter) => {
            let all = filter
                .filters
                .into_iter()
                .map(|f| only(at.field("and_filter"), f));
            Ok(AccessLogFilter::All(all.collect::<Result<_, _>>()?))
        }
        F::OrFilter(filter) => {
            let any = filter
                .filters
                .into_iter()
                .map(|f| only(at.field("or_filter"), f));
            Ok(AccessLogFilter::Any(any.collect::<Result<_, _>>()?))
        }
        F::HeaderFilter(filter) => {
            let header = filter
                .header
                .ok_or_else(|| at.field("header_filter").missing())?;
            match (
                header.header_match_specifier,
                header.invert_match,
                header.name.parse(),
            ) {
                (None | Some(HeaderMatchSpecifier::PresentMatch(true)), false, Ok(name)) => {
                    Ok(AccessLogFilter::HeaderPresent(name))
                }
                _ => not_here("header_filter"),
            }
        }
        F::DurationFilter(_) => not_here("duration_filter"),
        F::NotHealthCheckFilter(_) => not_here("not_health_check_filter"),
        F::TraceableFilter(_) => not_here("traceable_filter"),
        F::RuntimeFilter(_) => not_here("runtime_filter"),
        F::GrpcStatusFilter(_) => not_here("grpc_status_filter"),
        F::ExtensionFilter(filter) => not_here(&filter.name),
        F::MetadataFilter(_) => not_here("metadata_filter"),
        F::LogTypeFilter(_) => not_here("log_type_filter"),
    }
}
