//! `spec` of DestinationRule.

use super::schema::{
    Schema, double, duration, flag, int32, integer, list, map, object, one_of, one_of_names, text,
    text_map, texts, uint32, uint64,
};
use crate::decode::{LOAD_BALANCERS, TLS_MODES};
use crate::istio::destination_rule::H2UpgradePolicy;

pub(super) fn spec() -> Schema {
    let subset = object([
        ("name", text()),
        (
            "labels",
            text_map().doc("Labels of its endpoints; none means all."),
        ),
        (
            "trafficPolicy",
            traffic_policy().doc("Each block replaces that of the rule."),
        ),
    ])
    .required(&["name"]);
    object([
        (
            "host",
            text().doc("The service; a short name is of the rule's namespace."),
        ),
        (
            "trafficPolicy",
            traffic_policy().doc("How its endpoints are reached."),
        ),
        (
            "subsets",
            list(subset).doc("Named groups of its endpoints."),
        ),
        (
            "exportTo",
            texts().doc("Namespaces that see it: `*` (all), `.` (its own) or names."),
        ),
        (
            "workloadSelector",
            object([("matchLabels", match_labels())]).doc("The clients that it holds for."),
        ),
    ])
    .required(&["host"])
}

fn match_labels() -> Schema {
    map(text().length(0..=63).pattern("^[^*]*$"))
        .entries(4096)
        .rule(
            "self.all(key, key != '' && !key.contains('*'))",
            "keys are not empty and have no wildcard",
        )
}

fn traffic_policy() -> Schema {
    let port = object([
        ("port", object([("number", uint32())])),
        ("loadBalancer", load_balancer()),
        ("connectionPool", connection_pool()),
        ("outlierDetection", outlier_detection()),
        ("tls", tls()),
    ]);
    object([
        ("loadBalancer", load_balancer()),
        ("connectionPool", connection_pool()),
        ("outlierDetection", outlier_detection()),
        ("tls", tls()),
        ("portLevelSettings", list(port).items(0..=4096)),
        (
            "tunnel",
            object([
                ("protocol", text()),
                ("targetHost", text()),
                ("targetPort", uint32()),
            ])
            .required(&["targetHost", "targetPort"]),
        ),
        (
            "proxyProtocol",
            object([("version", one_of_names(["V1", "V2"]))]),
        ),
        (
            "retryBudget",
            object([
                ("percent", percent()),
                ("minRetryConcurrency", uint32()),
                ("budgetInterval", text()),
            ]),
        ),
    ])
}

fn load_balancer() -> Schema {
    object([
        ("simple", one_of(LOAD_BALANCERS)),
        ("consistentHash", consistent_hash()),
        (
            "localityLbSetting",
            object([
                (
                    "distribute",
                    list(object([("from", text()), ("to", map(uint32()))])),
                ),
                ("failover", failover()),
                ("failoverPriority", texts()),
                ("enabled", flag().nullable()),
            ]),
        ),
        (
            "zoneAwareLbSetting",
            object([
                ("failover", failover()),
                ("failoverPriority", texts()),
                ("enabled", flag().nullable()),
                ("minClusterSize", integer(1..=u32::MAX.into()).nullable()),
            ]),
        ),
        ("warmupDurationSecs", duration()),
        (
            "warmup",
            object([
                ("duration", duration()),
                ("minimumPercent", percent()),
                ("aggression", double().minimum(0).nullable()),
            ])
            .required(&["duration"]),
        ),
    ])
    .at_most_one(&["simple", "consistentHash"])
}

fn failover() -> Schema {
    list(object([("from", text()), ("to", text())]))
}

fn consistent_hash() -> Schema {
    let attribute = object([("name", text()), ("value", text())]).required(&["name"]);
    object([
        ("httpHeaderName", text()),
        (
            "httpCookie",
            object([
                ("name", text()),
                ("path", text()),
                ("ttl", text()),
                ("attributes", list(attribute)),
            ])
            .required(&["name"]),
        ),
        ("useSourceIp", flag()),
        ("httpQueryParameterName", text()),
        ("minimumRingSize", uint64()),
        ("ringHash", object([("minimumRingSize", uint64())])),
        ("maglev", object([("tableSize", uint64())])),
    ])
    .at_most_one(&[
        "httpHeaderName",
        "httpCookie",
        "useSourceIp",
        "httpQueryParameterName",
    ])
    .at_most_one(&["ringHash", "maglev"])
}

fn connection_pool() -> Schema {
    let tcp = object([
        ("maxConnections", int32()),
        ("connectTimeout", duration()),
        (
            "tcpKeepalive",
            object([
                ("probes", uint32()),
                ("time", duration()),
                ("interval", duration()),
            ]),
        ),
        ("maxConnectionDuration", duration()),
        ("idleTimeout", text()),
    ]);
    let http = object([
        ("http1MaxPendingRequests", int32()),
        ("http2MaxRequests", int32()),
        ("maxRequestsPerConnection", int32()),
        ("maxRetries", int32()),
        ("idleTimeout", duration()),
        ("h2UpgradePolicy", one_of(H2UpgradePolicy::ALLOWED)),
        ("useClientProtocol", flag()),
        ("maxConcurrentStreams", int32()),
        (
            "http2KeepAlive",
            object([("interval", duration()), ("timeout", duration())]),
        ),
    ]);
    object([("tcp", tcp), ("http", http)])
}

fn outlier_detection() -> Schema {
    object([
        ("splitExternalLocalOriginErrors", flag()),
        ("consecutiveLocalOriginFailures", uint32().nullable()),
        ("consecutiveGatewayErrors", uint32().nullable()),
        ("consecutive5xxErrors", uint32().nullable()),
        ("consecutiveErrors", int32()),
        ("interval", duration()),
        ("baseEjectionTime", duration()),
        ("maxEjectionPercent", int32()),
        ("minHealthPercent", int32()),
        ("outlierDetectionHttpErrorCodes", list(integer(100..=599))),
    ])
}

fn tls() -> Schema {
    object([
        ("mode", one_of(TLS_MODES)),
        ("clientCertificate", text()),
        ("privateKey", text()),
        ("caCertificates", text()),
        ("caCrl", text()),
        ("credentialName", text()),
        ("subjectAltNames", texts()),
        ("sni", text()),
        ("insecureSkipVerify", flag().nullable()),
    ])
}

fn percent() -> Schema {
    double().minimum(0).maximum(100).nullable()
}
