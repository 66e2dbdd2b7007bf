//! JSON forms, both ways.

use serde_json::json;

use super::*;
use crate::any::pack;
use crate::envoy::envoy::config::cluster::v3::Cluster;
use crate::envoy::envoy::config::core::v3::TypedExtensionConfig;
use crate::envoy::google::protobuf as google;

fn round_trip(full_name: &str, style: JsonStyle, value: &Value) {
    let bytes = value_to_message(full_name, value).expect("read");
    let back = message_to_value(full_name, &bytes, style).expect("write");
    assert_eq!(&back, value);
    assert_eq!(
        value_to_message(full_name, &back).expect("read again"),
        bytes
    );
}

#[test]
fn every_root_of_the_contract_has_a_descriptor() {
    for url in [
        crate::type_url::CLUSTER,
        crate::type_url::LISTENER,
        crate::type_url::ROUTE,
        crate::type_url::ENDPOINT,
        crate::type_url::SECRET,
        crate::type_url::EXTENSION_CONFIG,
        crate::type_url::BOOTSTRAP,
        crate::type_url::ADDRESS,
        crate::type_url::AUTHORIZATION,
        crate::type_url::WORKLOAD_EXTENSION,
        crate::type_url::ISTIO_STATS,
        crate::type_url::PEER_METADATA,
        crate::type_url::IP_MATCHER,
        crate::type_url::UDPA_TYPED_STRUCT,
        crate::type_url::INTERNAL_LISTENER_BOOTSTRAP,
        crate::type_url::SECRETS_CONFIG_DUMP,
        "type.googleapis.com/envoy.admin.v3.ConfigDump",
        "type.googleapis.com/envoy.admin.v3.ServerInfo",
        "type.googleapis.com/envoy.admin.v3.Certificates",
        "type.googleapis.com/envoy.admin.v3.Clusters",
        "type.googleapis.com/envoy.service.discovery.v3.DeltaDiscoveryRequest",
        "type.googleapis.com/envoy.service.status.v3.ClientStatusResponse",
    ] {
        assert!(pool::find(type_name(url)).is_some(), "{url}");
    }
}

#[test]
fn snake_style_is_envoys_admin_form() {
    round_trip(
        "envoy.config.cluster.v3.Cluster",
        JsonStyle::Snake,
        &json!({
            "name": "inbound-vip|9080|http|reviews.default.svc.cluster.local",
            "connect_timeout": "0.250s",
            "per_connection_buffer_limit_bytes": 32768,
            "metadata": { "filter_metadata": { "istio": { "services": [{ "host": "a", "n": 1, "f": 1.5, "x": null }] } } },
            "type": "EDS",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": crate::type_url::HTTP_PROTOCOL_OPTIONS,
                    "common_http_protocol_options": { "idle_timeout": "3600s" },
                },
            },
        }),
    );
}

#[test]
fn camel_style_is_istioctls_form() {
    let workload = crate::workload::Workload {
        uid: "Kubernetes//Pod/default/a".to_owned(),
        name: "a".to_owned(),
        addresses: vec![vec![127, 244, 0, 7]],
        tunnel_protocol: crate::workload::TunnelProtocol::Hbone.into(),
        capacity: Some(2),
        services: [("default/b".to_owned(), crate::workload::PortList::default())].into(),
        ..Default::default()
    };
    let value = to_value(&workload, JsonStyle::Camel).expect("write");
    let text = serde_json::to_string(&value).expect("text");
    // In the order of declaration.
    assert_eq!(
        text,
        r#"{"uid":"Kubernetes//Pod/default/a","name":"a","addresses":["f/QABw=="],"tunnelProtocol":"HBONE","services":{"default/b":{}},"capacity":2}"#
    );
    assert_eq!(
        from_value::<crate::workload::Workload>(&value, Unknown::Refuse).expect("read"),
        workload
    );
}

#[test]
fn sixty_four_bits_are_text_and_numbers_are_short() {
    round_trip(
        "google.protobuf.UInt64Value",
        JsonStyle::Snake,
        &json!("18446744073709551615"),
    );
    round_trip("google.protobuf.Int64Value", JsonStyle::Snake, &json!("-5"));
    round_trip("google.protobuf.FloatValue", JsonStyle::Snake, &json!(0.1));
    round_trip("google.protobuf.DoubleValue", JsonStyle::Snake, &json!(100));
    round_trip(
        "google.protobuf.DoubleValue",
        JsonStyle::Snake,
        &json!("NaN"),
    );
    round_trip(
        "google.protobuf.BytesValue",
        JsonStyle::Snake,
        &json!("AQI="),
    );
}

#[test]
fn an_any_of_unknown_type_is_kept_at_any_depth() {
    let value = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "outer",
        "typed_config": { "@type": "type.googleapis.com/no.such.Type", "value": "AQID" },
    });
    let any: prost_types::Any = value_to_any(&value).expect("read");
    assert_eq!(any_to_value(&any, JsonStyle::Snake), value);
    let config: TypedExtensionConfig = crate::any::unpack(&any).expect("unpack");
    assert_eq!(
        config.typed_config.map(|any| any.value),
        Some(vec![1, 2, 3])
    );
}

#[test]
fn an_any_with_malformed_contents_is_kept() {
    let any = prost_types::Any {
        type_url: crate::type_url::CLUSTER.to_owned(),
        value: vec![0x0a, 0xff],
    };
    let value = any_to_value(&any, JsonStyle::Snake);
    assert_eq!(
        value,
        json!({ "@type": crate::type_url::CLUSTER, "value": "Cv8=" })
    );
    assert_eq!(value_to_any::<prost_types::Any>(&value).expect("read"), any);
}

#[test]
fn well_known_types_within_an_any_have_a_value() {
    let any: prost_types::Any = pack(&google::StringValue {
        value: "10.0.0.1".to_owned(),
    });
    let value = any_to_value(&any, JsonStyle::Snake);
    assert_eq!(
        value,
        json!({ "@type": crate::type_url::STRING_VALUE, "value": "10.0.0.1" })
    );
    assert_eq!(value_to_any::<prost_types::Any>(&value).expect("read"), any);
}

#[test]
fn a_typed_struct_is_shown_inline() {
    let value = json!({
        "@type": crate::type_url::UDPA_TYPED_STRUCT,
        "type_url": "type.googleapis.com/io.istio.http.peer_metadata.Config",
        "value": { "downstream_discovery": [{ "workload_discovery": {} }], "shared_with_upstream": true },
    });
    let any: prost_types::Any = value_to_any(&value).expect("read");
    assert_eq!(any_to_value(&any, JsonStyle::Snake), value);
    let config = from_value::<crate::peer_metadata::Config>(&value["value"], Unknown::Refuse)
        .expect("config");
    assert!(config.shared_with_upstream);
}

#[test]
fn nesting_is_bounded() {
    let mut any = prost_types::Any {
        type_url: "type.googleapis.com/google.protobuf.Any".to_owned(),
        value: Vec::new(),
    };
    for _ in 0..5000 {
        any = pack(&any);
    }
    // Neither overflows the stack nor fails.
    assert!(any_to_value(&any, JsonStyle::Snake).is_object());

    let mut value = json!({});
    for _ in 0..500 {
        value = json!({ "or_match": { "rules": [value] } });
    }
    let error = value_to_message("envoy.config.common.matcher.v3.MatchPredicate", &value)
        .expect_err("too deep");
    assert!(error.to_string().ends_with("nested too deep"), "{error}");
}

#[test]
fn errors_name_the_field() {
    let read = |value: Value| {
        value_to_message("envoy.config.cluster.v3.Cluster", &value)
            .expect_err("refused")
            .to_string()
    };
    for (value, error) in [
        (
            json!({ "nam": "a" }),
            "nam: no such field in envoy.config.cluster.v3.Cluster",
        ),
        (json!({ "name": 1 }), "name: text expected, not a number"),
        (
            json!({ "lbPolicy": "NOPE" }),
            "lbPolicy: NOPE is none of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG",
        ),
        (
            json!({ "connect_timeout": "ten" }),
            "connect_timeout: a duration like \"1.5s\" expected",
        ),
        (
            json!({ "type": "EDS", "cluster_type": {} }),
            "cluster_type: cannot be set beside type",
        ),
        (
            json!({ "filters": [{}, { "name": [] }] }),
            "filters[1].name: text expected, not a list",
        ),
        (
            json!({ "typed_extension_protocol_options": { "a.b": { "@type": "x/no.such.Type", "b": 1 } } }),
            "typed_extension_protocol_options[\"a.b\"]: unknown message type no.such.Type",
        ),
        (
            json!({ "per_connection_buffer_limit_bytes": -1 }),
            "per_connection_buffer_limit_bytes: -1 is out of range",
        ),
    ] {
        assert_eq!(read(value), error);
    }
}

#[test]
fn what_is_unknown_may_be_ignored() {
    let value = json!({
        "name": "a", "future": { "b": [1] }, "lb_policy": "FUTURE",
        "typedExtensionProtocolOptions": { "x": { "@type": "x/no.such.Type", "b": 1 } },
    });
    let cluster: Cluster = from_value(&value, Unknown::Ignore).expect("read");
    assert_eq!(cluster.name, "a");
    assert_eq!(
        cluster.typed_extension_protocol_options["x"].type_url,
        "x/no.such.Type"
    );
}

#[test]
fn both_rust_types_of_struct_are_alike() {
    let value = json!({ "a": [1, "b", null, true, { "c": 0.5 }] });
    let members = value.as_object().expect("object");
    assert_eq!(
        <prost_types::Struct as StructMessage>::from_json(members).to_json(),
        value
    );
    assert_eq!(
        <google::Struct as StructMessage>::from_json(members).to_json(),
        value
    );
}

#[test]
fn times_out_of_range_do_not_panic() {
    for (name, seconds) in [
        ("google.protobuf.Duration", i64::MIN),
        ("google.protobuf.Timestamp", i64::MAX),
    ] {
        let mut bytes = vec![0x08];
        prost::encoding::encode_varint(seconds as u64, &mut bytes);
        let value = message_to_value(name, &bytes, JsonStyle::Snake).expect("write");
        assert_eq!(value, json!({ "seconds": seconds.to_string(), "nanos": 0 }));
    }
    let now = json!("2026-08-01T10:00:00.123Z");
    round_trip("google.protobuf.Timestamp", JsonStyle::Snake, &now);
}
