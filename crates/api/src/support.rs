//! What upstream has and Waymark does not enforce yet: one table, read by the parser.
//!
//! Such a field is refused, with the reason, never accepted and then ignored. To support one, implement it and take its row out:
//! the fields are decoded already wherever [`crate::istio`] and [`crate::gateway`] have a place for them.

/// A field that is refused until it is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedField {
    /// The kind that has it.
    pub kind: &'static str,
    /// Its path, without indices; a `*` at the beginning stands for anything.
    pub path: &'static str,
    /// Only this value of it.
    pub value: Option<&'static str>,
    /// Why, and what to do instead.
    pub reason: &'static str,
}

/// A kind that is refused as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedKind {
    /// Its API group.
    pub group: &'static str,
    /// Its name.
    pub kind: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// A label or annotation that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedLabel {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub reason: &'static str,
}

const fn row(kind: &'static str, path: &'static str, reason: &'static str) -> RefusedField {
    RefusedField {
        kind,
        path,
        value: None,
        reason,
    }
}

const fn value(
    kind: &'static str,
    path: &'static str,
    value: &'static str,
    reason: &'static str,
) -> RefusedField {
    RefusedField {
        kind,
        path,
        value: Some(value),
        reason,
    }
}

const VS: &str = "VirtualService";
const DR: &str = "DestinationRule";
const SE: &str = "ServiceEntry";
const GW: &str = "Gateway";
const HR: &str = "HTTPRoute";

/// Every field that is refused until it is enforced.
pub const REFUSED_FIELDS: &[RefusedField] = &[
    row(
        VS,
        "spec.tls",
        "TLS routes are not enforced; only http rules are",
    ),
    row(
        VS,
        "spec.tcp",
        "TCP routes are not enforced; only http rules are",
    ),
    row(
        VS,
        "spec.http[].delegate",
        "write the rules of the delegate here",
    ),
    row(VS, "spec.http[].fault", "no fault would be injected"),
    row(
        VS,
        "spec.http[].fault.delay.exponentialDelay",
        "upstream does nothing for it either; use fixedDelay",
    ),
    row(
        VS,
        "spec.http[].fault.abort.http2Error",
        "upstream does nothing for it either; use httpStatus",
    ),
    row(
        VS,
        "spec.http[].redirect.prefixRewrite",
        "only whole paths are redirected: use uri",
    ),
    row(VS, "spec.http[].corsPolicy", "no CORS header would be set"),
    row(VS, "spec.http[].mirror", "nothing would be mirrored"),
    row(VS, "spec.http[].mirrors", "nothing would be mirrored"),
    row(VS, "spec.http[].mirrorPercent", "nothing would be mirrored"),
    row(
        VS,
        "spec.http[].mirror_percent",
        "nothing would be mirrored",
    ),
    row(
        VS,
        "spec.http[].mirrorPercentage",
        "nothing would be mirrored",
    ),
    row(
        VS,
        "spec.http[].match[].statPrefix",
        "there would be no such statistics",
    ),
    value(
        VS,
        "spec.http[].retries.retryRemoteLocalities",
        "true",
        "endpoints are tried whatever their locality",
    ),
    row(
        DR,
        "spec.workloadSelector",
        "the rule would hold for every client",
    ),
    row(
        DR,
        "*trafficPolicy.loadBalancer.consistentHash",
        "allowed: simple: ROUND_ROBIN, LEAST_REQUEST, RANDOM",
    ),
    value(
        DR,
        "*trafficPolicy.loadBalancer.simple",
        "PASSTHROUGH",
        "allowed: ROUND_ROBIN, LEAST_REQUEST, RANDOM",
    ),
    row(
        DR,
        "*trafficPolicy.loadBalancer.localityLbSetting",
        "endpoints are used whatever their locality",
    ),
    row(
        DR,
        "*loadBalancer.zoneAwareLbSetting",
        "endpoints are used whatever their zone",
    ),
    row(
        DR,
        "*connectionPool.http.http2KeepAlive",
        "no PING would be sent",
    ),
    row(
        DR,
        "*outlierDetection.outlierDetectionHttpErrorCodes",
        "no endpoint would be ejected",
    ),
    row(
        DR,
        "*trafficPolicy.loadBalancer.warmup",
        "new endpoints get their full share at once",
    ),
    row(
        DR,
        "*trafficPolicy.loadBalancer.warmupDurationSecs",
        "new endpoints get their full share at once",
    ),
    row(
        DR,
        "*trafficPolicy.connectionPool.tcp.tcpKeepalive",
        "no keep-alive probe would be sent",
    ),
    row(
        DR,
        "*trafficPolicy.connectionPool.http.maxConcurrentStreams",
        "streams would not be limited",
    ),
    row(
        DR,
        "*trafficPolicy.outlierDetection",
        "no endpoint would be ejected",
    ),
    row(
        DR,
        "*trafficPolicy.portLevelSettings",
        "give the settings for all ports in trafficPolicy",
    ),
    row(
        DR,
        "*trafficPolicy.tunnel",
        "connections would not be tunnelled",
    ),
    row(
        DR,
        "*trafficPolicy.proxyProtocol",
        "no PROXY header would be sent",
    ),
    row(
        DR,
        "*trafficPolicy.retryBudget",
        "retries would not be limited; use connectionPool.http.maxRetries",
    ),
    value(DR, "*tls.mode", "SIMPLE", TLS),
    value(DR, "*tls.mode", "MUTUAL", TLS),
    row(DR, "*tls.clientCertificate", TLS),
    row(DR, "*tls.privateKey", TLS),
    row(DR, "*tls.caCertificates", TLS),
    row(DR, "*tls.credentialName", TLS),
    row(DR, "*tls.subjectAltNames", TLS),
    row(DR, "*tls.sni", TLS),
    row(DR, "*tls.insecureSkipVerify", TLS),
    row(DR, "*tls.caCrl", TLS),
    value(SE, "spec.resolution", "NONE", RESOLUTION),
    value(SE, "spec.resolution", "DNS", RESOLUTION),
    value(SE, "spec.resolution", "DNS_ROUND_ROBIN", RESOLUTION),
    value(SE, "spec.resolution", "DYNAMIC_DNS", RESOLUTION),
    row(
        SE,
        "spec.subjectAltNames",
        "endpoints are known by their service account",
    ),
    row(GW, "spec.addresses", "the address is allocated"),
    row(
        GW,
        "spec.infrastructure.parametersRef",
        "use spec.infrastructure.labels and annotations",
    ),
    row(GW, "spec.tls", "a waypoint's TLS is that of the mesh"),
    row(
        GW,
        "spec.backendTLS",
        "a waypoint's TLS is that of the mesh",
    ),
    row(GW, "spec.allowedListeners", "give all listeners here"),
    row(GW, "spec.defaultScope", "routes are attached to services"),
    row(
        GW,
        "spec.listeners[].tls",
        "a waypoint's TLS is that of the mesh",
    ),
    row(
        GW,
        "spec.listeners[].hostname",
        "a waypoint takes requests for every host",
    ),
    row(
        GW,
        "spec.listeners[].allowedRoutes.kinds",
        "every kind of route is allowed",
    ),
    row(
        "GatewayClass",
        "spec.parametersRef",
        "use spec.infrastructure of the Gateway",
    ),
    row(
        HR,
        "spec.useDefaultGateways",
        "attach the route to a Service",
    ),
    row(
        HR,
        "spec.rules[].sessionPersistence",
        "sessions would not persist",
    ),
    row(HR, "*filters[].requestMirror", "nothing would be mirrored"),
    row(HR, "*filters[].cors", "no CORS header would be set"),
    row(HR, "*filters[].extensionRef", "no extension is known"),
    row(HR, "*filters[].externalAuth", "nobody would be asked"),
    value(HR, "*filters[].type", "RequestMirror", FILTERS),
    value(HR, "*filters[].type", "CORS", FILTERS),
    value(HR, "*filters[].type", "ExtensionRef", FILTERS),
    value(HR, "*filters[].type", "ExternalAuth", FILTERS),
    row(
        HR,
        "spec.rules[].backendRefs[].filters[].urlRewrite",
        "put the filter on the rule",
    ),
    row(
        HR,
        "spec.rules[].backendRefs[].filters[].requestRedirect",
        "put the filter on the rule",
    ),
];

const TLS: &str = "no TLS is originated; between workloads of the mesh it is always there";
const RESOLUTION: &str = "allowed: STATIC, with endpoints or a workloadSelector";
const FILTERS: &str =
    "allowed: RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite";

/// Every kind that upstream reads and that is refused.
pub const REFUSED_KINDS: &[RefusedKind] = &[
    kind(
        "security.istio.io",
        "AuthorizationPolicy",
        "it is not enforced yet; refused so that nobody relies on it",
    ),
    kind(
        "security.istio.io",
        "RequestAuthentication",
        "it is not enforced yet; refused so that nobody relies on it",
    ),
    kind(
        "security.istio.io",
        "PeerAuthentication",
        "it is not enforced yet; refused so that nobody relies on it",
    ),
    kind("telemetry.istio.io", "Telemetry", "it would have no effect"),
    kind(
        "extensions.istio.io",
        "WasmPlugin",
        "no extension is loaded",
    ),
    kind(
        "extensions.istio.io",
        "TrafficExtension",
        "no extension is loaded",
    ),
    kind(
        "networking.istio.io",
        "EnvoyFilter",
        "there is no Envoy to patch",
    ),
    kind("networking.istio.io", "Sidecar", "there are no sidecars"),
    kind(
        "networking.istio.io",
        "ProxyConfig",
        "it would have no effect",
    ),
    kind(
        "networking.istio.io",
        "WorkloadGroup",
        "write a WorkloadEntry for each workload",
    ),
    kind(
        "networking.istio.io",
        "Gateway",
        "ingress gateways are not supported; a waypoint is a Gateway of gateway.networking.k8s.io",
    ),
    kind(
        "gateway.networking.k8s.io",
        "GRPCRoute",
        "write a HTTPRoute that matches the path /service/method",
    ),
    kind(
        "gateway.networking.k8s.io",
        "TCPRoute",
        "TCP ports are passed through without routes",
    ),
    kind(
        "gateway.networking.k8s.io",
        "TLSRoute",
        "TLS ports are passed through without routes",
    ),
    kind(
        "gateway.networking.k8s.io",
        "UDPRoute",
        "UDP is not carried",
    ),
    kind(
        "gateway.networking.k8s.io",
        "BackendTLSPolicy",
        "no TLS is originated",
    ),
    kind(
        "gateway.networking.k8s.io",
        "ListenerSet",
        "give all listeners in the Gateway",
    ),
    kind(
        "gateway.networking.k8s.io",
        "ReferenceGrant",
        "mesh routes need none",
    ),
    kind(
        "gateway.networking.x-k8s.io",
        "XBackendTrafficPolicy",
        "it would have no effect",
    ),
    kind(
        "gateway.networking.x-k8s.io",
        "XListenerSet",
        "give all listeners in the Gateway",
    ),
    kind(
        "inference.networking.k8s.io",
        "InferencePool",
        "it would have no effect",
    ),
];

const fn kind(group: &'static str, kind: &'static str, reason: &'static str) -> RefusedKind {
    RefusedKind {
        group,
        kind,
        reason,
    }
}

/// Labels and annotations that would change what the mesh does, and that it does not understand yet.
pub const REFUSED_LABELS: &[RefusedLabel] = &[
    RefusedLabel {
        name: crate::names::USE_WAYPOINT_CANARY,
        reason: CANARY,
    },
    RefusedLabel {
        name: "istio.io/use-waypoint-canary-namespace",
        reason: CANARY,
    },
    RefusedLabel {
        name: "istio.io/use-waypoint-canary-weight",
        reason: CANARY,
    },
    RefusedLabel {
        name: crate::names::WAYPOINT_INBOUND_BINDING,
        reason: "a waypoint takes HBONE itself",
    },
];

const CANARY: &str = "all traffic would go to the first waypoint";

/// The row of a field, when it is refused. `path` may have indices.
pub(crate) fn refused_field(
    kind: &str,
    path: &str,
    value: Option<&str>,
) -> Option<&'static RefusedField> {
    let of_kind = || REFUSED_FIELDS.iter().filter(|r| r.kind == kind);
    of_kind().next()?;
    let path = without_indices(path);
    of_kind().find(|row| {
        let path_fits = match row.path.strip_prefix('*') {
            Some(end) => path
                .strip_suffix(end)
                .is_some_and(|before| before.ends_with(['.', ']'])),
            None => row.path == path,
        };
        path_fits && row.value.is_none_or(|v| value == Some(v))
    })
}

/// The row of a kind, when it is refused.
pub(crate) fn refused_kind(group: &str, kind: &str) -> Option<&'static RefusedKind> {
    REFUSED_KINDS
        .iter()
        .find(|r| r.group == group && r.kind == kind)
}

/// Operators that a header value may have, written `%NAME%`, `%NAME(argument)%` or `%NAME(argument):LENGTH%`: those that both our
/// waypoint and Envoy know.
pub const HEADER_OPERATORS: &[&str] = &[
    "REQ",
    "RESP",
    "PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_FLAGS",
    "START_TIME",
    "ROUTE_NAME",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_HOST",
];

/// Finds an operator in a header value that is not supported; `%%` is a percent sign.
pub(crate) fn check_header_format(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some((operator, after)) = after.split_once('%') else {
            return Err(format!("%{after}"));
        };
        if !is_operator(operator) {
            return Err(format!("%{operator}%"));
        }
        rest = after;
    }
    Ok(())
}

/// `NAME`, `NAME(argument)` or `NAME(argument):LENGTH`; those about headers need the header's name.
fn is_operator(text: &str) -> bool {
    let (name, argument) = match text.split_once('(') {
        None => (text, None),
        Some((name, rest)) => {
            let Some((argument, length)) = rest.rsplit_once(')') else {
                return false;
            };
            let digits =
                |t: &str| !t.is_empty() && t.len() <= 5 && t.bytes().all(|b| b.is_ascii_digit());
            if !length.is_empty() && !length.strip_prefix(':').is_some_and(digits) {
                return false;
            }
            (name, Some(argument))
        }
    };
    let header = |h: &str| {
        h.strip_prefix(':')
            .unwrap_or(h)
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let argument_fits = match name {
        "REQ" | "RESP" => argument.is_some_and(|a| {
            let (first, second) = a.split_once('?').unwrap_or((a, ""));
            !first.is_empty() && header(first) && header(second)
        }),
        _ => argument.is_none(),
    };
    argument_fits && HEADER_OPERATORS.contains(&name)
}

pub(crate) fn header_format_help() -> String {
    format!(
        "allowed: %% for a percent sign, and %OPERATOR% of {}",
        HEADER_OPERATORS.join(", ")
    )
}

fn without_indices(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        if c == ']' {
            inside = false;
        }
        if !inside {
            plain.push(c);
        }
        if c == '[' {
            inside = true;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_path_and_value() {
        let found = |kind, path, value| refused_field(kind, path, value).map(|r| r.path);
        assert_eq!(
            found(VS, "spec.http[3].fault", None),
            Some("spec.http[].fault")
        );
        assert_eq!(found(VS, "spec.http[3].timeout", None), None);
        assert_eq!(
            found(DR, "spec.trafficPolicy.tunnel", None),
            Some("*trafficPolicy.tunnel")
        );
        assert_eq!(
            found(DR, "spec.subsets[0].trafficPolicy.tunnel", None),
            Some("*trafficPolicy.tunnel")
        );
        assert_eq!(
            found(DR, "spec.trafficPolicy.loadBalancer.simple", Some("RANDOM")),
            None
        );
        assert!(
            found(
                DR,
                "spec.trafficPolicy.loadBalancer.simple",
                Some("PASSTHROUGH")
            )
            .is_some()
        );
        assert!(
            found(
                HR,
                "spec.rules[0].backendRefs[1].filters[0].requestMirror",
                None
            )
            .is_some()
        );
        assert_eq!(found("Pod", "spec.tunnel", None), None);
    }

    #[test]
    fn header_values_have_known_operators_only() {
        for good in [
            "",
            "a",
            "100%%",
            "%REQ(x)%",
            "a %REQ(:path)% b %PROTOCOL%",
            "%DOWNSTREAM_REMOTE_ADDRESS%",
            "%REQ(a?b):10%",
        ] {
            assert_eq!(check_header_format(good), Ok(()), "{good}");
        }
        for bad in [
            "%",
            "50%",
            "%NOPE%",
            "%REQ(x%",
            "%req(x)%",
            "a%%%",
            "%REQ%",
            "%REQ()%",
            "%REQ(x):%",
            "%PROTOCOL(x)%",
        ] {
            assert!(check_header_format(bad).is_err(), "{bad}");
        }
    }
}
