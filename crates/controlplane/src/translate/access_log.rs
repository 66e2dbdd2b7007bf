//! Access logs to a file, as `accessLogFile`, `accessLogFormat` and `accessLogEncoding` of Istio's mesh configuration say.
//!
//! Requests and connections that a service's chain serves are logged where they end; of the tunnels only what failed: a
//! refused CONNECT, a tunnel that could not be opened, a connection that no chain serves.

use waymark_proto::envoy::envoy::config::accesslog::v3 as pb;

use super::input::{AccessLog, AccessLogFormat, MeshSettings};
use super::wire::{any, core, ext, list, protobuf, string, structure};

/// Which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// All of them.
    All,
    /// Of requests that were answered with 400 or more.
    Refused,
    /// Those with this response flag.
    Flag(&'static str),
}

/// The access logs of one place: none unless the mesh has one.
pub(super) fn access_logs(mesh: &MeshSettings, which: Which) -> Vec<pb::AccessLog> {
    mesh.access_log
        .iter()
        .map(|log| pb::AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            filter: filter(which),
            config_type: Some(pb::access_log::ConfigType::TypedConfig(any(&file(log)))),
        })
        .collect()
}

fn filter(which: Which) -> Option<pb::AccessLogFilter> {
    use pb::access_log_filter::FilterSpecifier;
    let specifier = match which {
        Which::All => return None,
        Which::Refused => FilterSpecifier::StatusCodeFilter(pb::StatusCodeFilter {
            comparison: Some(pb::ComparisonFilter {
                op: pb::comparison_filter::Op::Ge as i32,
                value: Some(core::RuntimeUInt32 {
                    default_value: 400,
                    // Envoy demands a key; nobody sets this one.
                    runtime_key: "istio.io/unset".to_owned(),
                }),
            }),
        }),
        Which::Flag(flag) => FilterSpecifier::ResponseFlagFilter(pb::ResponseFlagFilter {
            flags: vec![flag.to_owned()],
        }),
    };
    Some(pb::AccessLogFilter {
        filter_specifier: Some(specifier),
    })
}

fn file(log: &AccessLog) -> ext::access_loggers::file::v3::FileAccessLog {
    use ext::access_loggers::file::v3::file_access_log::AccessLogFormat as Format;
    let format = match &log.format {
        AccessLogFormat::Text(text) => {
            // A format without an end would put all requests on one line.
            let text = match text.as_deref().unwrap_or(TEXT) {
                whole if whole.ends_with('\n') => whole.to_owned(),
                open => format!("{open}\n"),
            };
            super::wire::format_string(&text)
        }
        AccessLogFormat::Json(fields) => core::SubstitutionFormatString {
            format: Some(core::substitution_format_string::Format::JsonFormat(
                match fields {
                    Some(fields) => json_object(fields),
                    None => structure(JSON.map(|(key, value)| (key, string(value)))),
                },
            )),
            ..Default::default()
        },
    };
    ext::access_loggers::file::v3::FileAccessLog {
        path: log.file.clone(),
        access_log_format: Some(Format::LogFormat(format)),
    }
}

fn json_object(fields: &serde_json::Map<String, serde_json::Value>) -> protobuf::Struct {
    structure(
        fields
            .iter()
            .map(|(key, value)| (key.as_str(), json(value))),
    )
}

fn json(value: &serde_json::Value) -> protobuf::Value {
    use protobuf::value::Kind;
    use serde_json::Value;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => return string(text.as_str()),
        Value::Array(values) => return list(values.iter().map(json).collect()),
        Value::Object(fields) => Kind::StructValue(json_object(fields)),
    };
    protobuf::Value { kind: Some(kind) }
}

/// The line that Istio writes by default.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% \
    %ROUTE_NAME%\n";

/// The same as an object.
const JSON: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
];
