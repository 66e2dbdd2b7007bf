//! `spec` of VirtualService.

use super::schema::{
    Schema, double, duration, flag, int32, list, map, object, one_of_names, text, text_map, texts,
    uint32,
};

pub(super) fn spec() -> Schema {
    object([
        ("hosts", texts().doc("The hosts that are routed.")),
        (
            "gateways",
            texts().doc("The gateways it is for; `mesh` [default] is everything in the mesh."),
        ),
        (
            "http",
            list(http_rule()).doc("Rules for HTTP: the first that matches is taken."),
        ),
        ("tls", list(tls_rule()).doc("Rules for TLS by server name.")),
        ("tcp", list(tcp_rule()).doc("Rules for TCP.")),
        (
            "exportTo",
            texts().doc("Namespaces that see it: `*` (all), `.` (its own) or names."),
        ),
    ])
}

fn http_rule() -> Schema {
    object([
        ("name", text()),
        (
            "match",
            list(http_match()).doc("Any of these; none matches everything."),
        ),
        (
            "route",
            list(http_destination()).doc("One of these, by weight."),
        ),
        ("redirect", redirect()),
        ("directResponse", direct_response()),
        (
            "delegate",
            object([("name", text()), ("namespace", text())]),
        ),
        ("rewrite", rewrite()),
        ("timeout", duration()),
        ("retries", retries()),
        ("fault", fault()),
        ("mirror", destination()),
        (
            "mirrors",
            list(
                object([("destination", destination()), ("percentage", percentage())])
                    .required(&["destination"]),
            ),
        ),
        ("mirrorPercent", uint32().nullable()),
        ("mirror_percent", uint32().nullable()),
        ("mirrorPercentage", percentage()),
        ("corsPolicy", cors_policy()),
        ("headers", headers()),
    ])
}

fn http_match() -> Schema {
    object([
        ("name", text()),
        ("uri", string_match()),
        ("ignoreUriCase", flag()),
        ("scheme", string_match()),
        ("method", string_match()),
        ("authority", string_match()),
        ("headers", map(string_match())),
        ("withoutHeaders", map(string_match())),
        ("queryParams", map(string_match())),
        ("port", uint32()),
        ("sourceLabels", text_map()),
        ("sourceNamespace", text()),
        ("gateways", texts()),
        ("statPrefix", text()),
    ])
}

fn string_match() -> Schema {
    object([("exact", text()), ("prefix", text()), ("regex", text())])
        .at_most_one(&["exact", "prefix", "regex"])
}

fn destination() -> Schema {
    object([
        ("host", text()),
        ("subset", text()),
        ("port", object([("number", uint32())])),
    ])
    .required(&["host"])
}

fn http_destination() -> Schema {
    object([
        ("destination", destination()),
        ("weight", int32()),
        ("headers", headers()),
    ])
    .required(&["destination"])
}

fn headers() -> Schema {
    let operations = || {
        object([
            ("set", text_map()),
            ("add", text_map()),
            ("remove", texts()),
        ])
    };
    object([("request", operations()), ("response", operations())])
}

fn redirect() -> Schema {
    object([
        ("uri", text()),
        ("prefixRewrite", text()),
        ("authority", text()),
        ("scheme", text()),
        ("port", uint32()),
        (
            "derivePort",
            one_of_names(["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
        ),
        ("redirectCode", uint32()),
    ])
    .at_most_one(&["port", "derivePort"])
}

fn direct_response() -> Schema {
    let body = object([("string", text()), ("bytes", text().format("byte"))])
        .at_most_one(&["string", "bytes"]);
    object([("status", uint32()), ("body", body)]).required(&["status"])
}

fn rewrite() -> Schema {
    object([
        ("uri", text()),
        ("authority", text()),
        (
            "uriRegexRewrite",
            object([("match", text()), ("rewrite", text())]),
        ),
    ])
}

fn retries() -> Schema {
    object([
        ("attempts", int32()),
        ("perTryTimeout", duration()),
        ("retryOn", text()),
        ("retryRemoteLocalities", flag().nullable()),
        ("retryIgnorePreviousHosts", flag().nullable()),
        ("backoff", duration()),
    ])
}

fn fault() -> Schema {
    let delay = object([
        ("fixedDelay", duration()),
        ("exponentialDelay", duration()),
        ("percent", int32()),
        ("percentage", percentage()),
    ])
    .at_most_one(&["fixedDelay", "exponentialDelay"]);
    let abort = object([
        ("httpStatus", int32()),
        ("grpcStatus", text()),
        ("http2Error", text()),
        ("percentage", percentage()),
    ])
    .at_most_one(&["httpStatus", "grpcStatus", "http2Error"]);
    object([("delay", delay), ("abort", abort)])
}

fn percentage() -> Schema {
    object([("value", double())])
}

fn cors_policy() -> Schema {
    object([
        ("allowOrigins", list(string_match())),
        ("allowOrigin", texts()),
        ("allowMethods", texts()),
        ("allowHeaders", texts()),
        ("exposeHeaders", texts()),
        ("maxAge", duration()),
        ("allowCredentials", flag().nullable()),
        (
            "unmatchedPreflights",
            one_of_names(["UNSPECIFIED", "FORWARD", "IGNORE"]),
        ),
    ])
}

fn tls_rule() -> Schema {
    let matches = object([
        ("sniHosts", texts()),
        ("destinationSubnets", texts()),
        ("port", uint32()),
        ("sourceLabels", text_map()),
        ("sourceNamespace", text()),
        ("gateways", texts()),
    ])
    .required(&["sniHosts"]);
    object([("match", list(matches)), ("route", list(l4_destination()))]).required(&["match"])
}

fn tcp_rule() -> Schema {
    let matches = object([
        ("destinationSubnets", texts()),
        ("port", uint32()),
        ("sourceSubnet", text()),
        ("sourceLabels", text_map()),
        ("sourceNamespace", text()),
        ("gateways", texts()),
    ]);
    object([("match", list(matches)), ("route", list(l4_destination()))])
}

fn l4_destination() -> Schema {
    object([("destination", destination()), ("weight", int32())]).required(&["destination"])
}
