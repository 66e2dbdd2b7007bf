//! `HttpProtocolOptions` of chains and clusters.

use std::time::Duration;

use waymark_proto::envoy::envoy::config::core::v3 as core;
use waymark_proto::envoy::envoy::extensions::upstreams::http::v3 as upstream;

use super::DecodeError;
use super::at::{At, Notes, unsupported};
use super::values::{flag, positive, timer, u32_value};
use crate::program::{
    Http1Options, Http2Options, KeepAlive, Underscores, UpstreamHttp, UpstreamHttp2,
    UpstreamProtocol,
};

/// Envoy's default for an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// `common_http_protocol_options`.
pub(super) struct Common {
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_headers: Option<u32>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) underscores: Underscores,
}

pub(super) fn common(
    notes: &mut Notes,
    at: At<'_>,
    value: Option<core::HttpProtocolOptions>,
) -> Result<Common, DecodeError> {
    use core::http_protocol_options::HeadersWithUnderscoresAction as U;
    let core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = value.unwrap_or_default();
    notes.add_if(
        &max_connection_duration_jitter,
        at.field("max_connection_duration_jitter"),
        "no jitter",
    );
    unsupported!(at; max_response_headers_kb);
    Ok(Common {
        idle_timeout: timer(
            at.field("idle_timeout"),
            idle_timeout.as_ref(),
            Some(IDLE_TIMEOUT),
        )?,
        max_connection_duration: timer(
            at.field("max_connection_duration"),
            max_connection_duration.as_ref(),
            None,
        )?,
        max_stream_duration: timer(
            at.field("max_stream_duration"),
            max_stream_duration.as_ref(),
            None,
        )?,
        max_headers: u32_value(max_headers_count),
        max_requests_per_connection: u32_value(max_requests_per_connection).filter(|n| *n > 0),
        underscores: match U::try_from(headers_with_underscores_action) {
            Ok(U::Allow) => Underscores::Allow,
            Ok(U::RejectRequest) => Underscores::Reject,
            Ok(U::DropHeader) => Underscores::Drop,
            Err(_) => return Err(at.field("headers_with_underscores_action").unsupported()),
        },
    })
}

pub(super) fn http1(
    at: At<'_>,
    value: Option<core::Http1ProtocolOptions>,
) -> Result<Http1Options, DecodeError> {
    let core::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser: _, // a choice of parser, with the same results
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = value.unwrap_or_default();
    if !flag(allow_absolute_url, true) {
        return Err(at.field("allow_absolute_url").unsupported());
    }
    unsupported!(
        at; default_host_for_http_10, header_key_format, enable_trailers, allow_chunked_length,
        override_stream_error_on_invalid_http_message, send_fully_qualified_url, allow_custom_methods,
        ignore_http_11_upgrade,
    );
    Ok(Http1Options {
        accept_http10: accept_http_10,
    })
}

/// HTTP/2 settings, as far as they are given.
#[derive(Default)]
pub(super) struct Http2 {
    pub(super) max_concurrent_streams: Option<u32>,
    pub(super) initial_stream_window_bytes: Option<u32>,
    pub(super) initial_connection_window_bytes: Option<u32>,
    pub(super) allow_connect: bool,
    pub(super) keep_alive: Option<KeepAlive>,
}

pub(super) fn http2(
    notes: &mut Notes,
    at: At<'_>,
    value: Option<core::Http2ProtocolOptions>,
) -> Result<Http2, DecodeError> {
    let core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec: _, // a choice of codec, with the same results
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = value.unwrap_or_default();
    unsupported!(at; allow_metadata, custom_settings_parameters, max_metadata_size, max_header_field_size_kb);
    unsupported!(at; disallow_obs_text);
    let flood = "flood limits are fixed";
    notes.add_if(
        &hpack_table_size,
        at.field("hpack_table_size"),
        "the table has its default size",
    );
    notes.add_if(&max_outbound_frames, at.field("max_outbound_frames"), flood);
    notes.add_if(
        &max_outbound_control_frames,
        at.field("max_outbound_control_frames"),
        flood,
    );
    notes.add_if(
        &max_consecutive_inbound_frames_with_empty_payload,
        at.field("max_consecutive_inbound_frames_with_empty_payload"),
        flood,
    );
    notes.add_if(
        &max_inbound_priority_frames_per_stream,
        at.field("max_inbound_priority_frames_per_stream"),
        flood,
    );
    notes.add_if(
        &max_inbound_window_update_frames_per_data_frame_sent,
        at.field("max_inbound_window_update_frames_per_data_frame_sent"),
        flood,
    );
    notes.add_if(&stream_reset_burst, at.field("stream_reset_burst"), flood);
    notes.add_if(&stream_reset_rate, at.field("stream_reset_rate"), flood);
    notes.add_if(
        &enable_huffman_encoding,
        at.field("enable_huffman_encoding"),
        "the encoder decides",
    );
    // A malformed stream ends the stream, never more, whichever of these is set.
    let _ = (
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
    );
    let keep_alive = connection_keepalive
        .map(|k| keep_alive(notes, at.field("connection_keepalive"), k))
        .transpose()?;
    Ok(Http2 {
        max_concurrent_streams: u32_value(max_concurrent_streams),
        initial_stream_window_bytes: window(
            at.field("initial_stream_window_size"),
            initial_stream_window_size,
        )?,
        initial_connection_window_bytes: window(
            at.field("initial_connection_window_size"),
            initial_connection_window_size,
        )?,
        allow_connect,
        keep_alive,
    })
}

fn window(
    at: At<'_>,
    value: Option<waymark_proto::envoy::google::protobuf::UInt32Value>,
) -> Result<Option<u32>, DecodeError> {
    match u32_value(value) {
        Some(n) if !(65_535..=2_147_483_647).contains(&n) => {
            Err(at.error("is not from 65535 to 2147483647"))
        }
        n => Ok(n),
    }
}

fn keep_alive(
    notes: &mut Notes,
    at: At<'_>,
    value: core::KeepaliveSettings,
) -> Result<KeepAlive, DecodeError> {
    let core::KeepaliveSettings {
        interval,
        timeout,
        interval_jitter,
        connection_idle_interval,
    } = value;
    notes.add_if(&interval_jitter, at.field("interval_jitter"), "no jitter");
    unsupported!(at; connection_idle_interval);
    Ok(KeepAlive {
        interval: interval
            .map(|d| positive(at.field("interval"), &d))
            .transpose()?,
        timeout: positive(
            at.field("timeout"),
            &timeout.ok_or_else(|| at.field("timeout").missing())?,
        )?,
    })
}

impl Http2 {
    /// With Envoy's defaults, for a chain.
    pub(super) fn of_chain(&self) -> Http2Options {
        let defaults = Http2Options::default();
        Http2Options {
            max_concurrent_streams: self
                .max_concurrent_streams
                .unwrap_or(defaults.max_concurrent_streams),
            initial_stream_window_bytes: self
                .initial_stream_window_bytes
                .unwrap_or(defaults.initial_stream_window_bytes),
            initial_connection_window_bytes: self
                .initial_connection_window_bytes
                .unwrap_or(defaults.initial_connection_window_bytes),
            keep_alive: self.keep_alive,
        }
    }

    /// With Envoy's defaults, for a cluster.
    fn of_cluster(&self) -> UpstreamHttp2 {
        let defaults = Http2Options::default();
        UpstreamHttp2 {
            max_concurrent_streams: self
                .max_concurrent_streams
                .unwrap_or(defaults.max_concurrent_streams),
            initial_stream_window_bytes: self
                .initial_stream_window_bytes
                .unwrap_or(defaults.initial_stream_window_bytes),
            initial_connection_window_bytes: self
                .initial_connection_window_bytes
                .unwrap_or(defaults.initial_connection_window_bytes),
            keep_alive: self.keep_alive,
        }
    }
}

/// What a cluster's `HttpProtocolOptions` say.
pub(super) struct Upstream {
    pub(super) protocol: UpstreamProtocol,
    pub(super) http: UpstreamHttp,
    /// As given, for tunnels.
    pub(super) http2: Http2,
}

impl Upstream {
    /// Of a cluster without any.
    pub(super) fn unset() -> Self {
        let http2 = Http2::default();
        Self {
            protocol: UpstreamProtocol::Http1,
            http: UpstreamHttp {
                idle_timeout: Some(IDLE_TIMEOUT),
                max_connection_duration: None,
                max_requests_per_connection: None,
                http2: http2.of_cluster(),
            },
            http2,
        }
    }
}

pub(super) fn upstream(
    notes: &mut Notes,
    at: At<'_>,
    value: upstream::HttpProtocolOptions,
) -> Result<Upstream, DecodeError> {
    use upstream::http_protocol_options::UpstreamProtocolOptions as P;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig as E;
    let upstream::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        http_filters,
        header_validation_config,
        outlier_detection,
        request_mirror_policies,
        hash_policy,
        retry_policy,
        upstream_protocol_options,
    } = value;
    unsupported!(
        at; upstream_http_protocol_options, http_filters, header_validation_config, outlier_detection,
        request_mirror_policies, hash_policy, retry_policy,
    );
    let common = common(
        notes,
        at.field("common_http_protocol_options"),
        common_http_protocol_options,
    )?;
    if common.max_stream_duration.is_some() {
        return Err(at
            .field("common_http_protocol_options")
            .field("max_stream_duration")
            .unsupported());
    }
    let (protocol, http2) = match upstream_protocol_options {
        None => return Err(at.error("says no protocol")),
        Some(P::ExplicitHttpConfig(explicit)) => {
            let at = at.field("explicit_http_config");
            match explicit.protocol_config {
                Some(E::HttpProtocolOptions(options)) => {
                    http1(at.field("http_protocol_options"), Some(options))?;
                    (UpstreamProtocol::Http1, Http2::default())
                }
                Some(E::Http2ProtocolOptions(options)) => (
                    UpstreamProtocol::Http2,
                    http2(notes, at.field("http2_protocol_options"), Some(options))?,
                ),
                Some(E::Http3ProtocolOptions(_)) => {
                    return Err(at.field("http3_protocol_options").unsupported());
                }
                None => return Err(at.error("says no protocol")),
            }
        }
        Some(P::UseDownstreamProtocolConfig(downstream)) => {
            let at = at.field("use_downstream_protocol_config");
            let upstream::http_protocol_options::UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            } = downstream;
            unsupported!(at; http3_protocol_options);
            http1(at.field("http_protocol_options"), http_protocol_options)?;
            let http2 = http2(
                notes,
                at.field("http2_protocol_options"),
                http2_protocol_options,
            )?;
            (UpstreamProtocol::Downstream, http2)
        }
        Some(P::AutoConfig(_)) => return Err(at.field("auto_config").unsupported()),
    };
    let http = UpstreamHttp {
        idle_timeout: common.idle_timeout,
        max_connection_duration: common.max_connection_duration,
        max_requests_per_connection: common.max_requests_per_connection,
        http2: http2.of_cluster(),
    };
    Ok(Upstream {
        protocol,
        http,
        http2,
    })
}
