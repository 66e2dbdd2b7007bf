//! VirtualService.

use base64::Engine as _;

use crate::decode::meta::{NameRule, Scope, meta};
use crate::decode::object::{Field, Object};
use crate::decode::policy::export_to;
use crate::decode::values::{HostRewrite, decoded, plain, refuse_duplicates};
use crate::host::{is_label, is_subdomain};
use crate::istio::VirtualService;
use crate::istio::virtual_service::{
    Abort, CorsPolicy, Destination, DirectResponse, Fault, Headers, HttpAction, HttpDestination,
    HttpMatch, HttpRule, Mirror, Redirect, RedirectPort, Retries, RetryCondition, Rewrite,
    RewritePath,
};
use crate::matcher::{Fraction, HeaderName, Scheme, StringMatch};
use crate::names::MESH_GATEWAY;
use crate::tree::quoted;

pub(super) fn virtual_service(root: &Field<'_>) -> Option<VirtualService> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let mut spec = object.required("spec")?.object()?;
    let gateways = gateways(&spec.list("gateways"));
    let gateways = if gateways.is_empty() {
        vec![MESH_GATEWAY.to_owned()]
    } else {
        gateways
    };
    let host_fields = spec.required_list("hosts");
    let hosts = decoded(&host_fields, Field::host);
    refuse_duplicates(&hosts, "host", |h| Some(h.to_string()));
    for (field, host) in &hosts {
        if host.as_str() == "*" && gateways.iter().any(|g| g == MESH_GATEWAY) {
            field.invalid(
                "* is not allowed in the mesh",
                "name the services, or use a wildcard like *.shop.svc.cluster.local".to_owned(),
            );
        }
    }
    let refused_rules = spec.has("tcp") || spec.has("tls");
    spec.skip("tcp");
    spec.skip("tls");
    let http = if refused_rules {
        spec.list("http")
    } else {
        spec.required_list("http")
    };
    Some(VirtualService {
        meta,
        hosts: plain(hosts),
        gateways,
        http: http.iter().filter_map(http_rule).collect(),
        export_to: export_to(&mut spec),
    })
}

fn gateways(fields: &[Field<'_>]) -> Vec<String> {
    let gateway = |field: &Field<'_>| {
        let text = field.text()?;
        let (namespace, name) = text.split_once('/').unwrap_or((".", text));
        if !is_subdomain(name) || !(namespace == "." || is_label(namespace)) {
            field.invalid(
                format!("{} is not a gateway", quoted(text)),
                "allowed: mesh, the name of a gateway, or namespace/name".to_owned(),
            );
        }
        Some(text.to_owned())
    };
    fields.iter().filter_map(gateway).collect()
}

fn http_rule(field: &Field<'_>) -> Option<HttpRule> {
    let mut rule = field.object()?;
    let name = rule.text("name").filter(|n| !n.is_empty());
    let matches = rule.list("match").iter().filter_map(http_match).collect();
    let rewrite = rule.opt("rewrite").and_then(|f| rewrite(&f));
    let timeout = rule.opt("timeout").and_then(|f| f.duration());
    let retries = rule.opt("retries").and_then(|f| retries(&f));
    let headers = rule.opt("headers").map(|f| headers(&f)).unwrap_or_default();
    let fault = rule.opt("fault").and_then(|f| fault(&f));
    let cors = rule.opt("corsPolicy").and_then(|f| cors_policy(&f));
    let mirrors = mirrors(&mut rule);
    let action = action(&mut rule);
    if let (Some(HttpAction::Redirect(_) | HttpAction::DirectResponse(_)), true) =
        (&action, rule.has("rewrite"))
    {
        field.invalid("rewrite has a meaning only with route", None);
    }
    Some(HttpRule {
        name,
        matches,
        action: action?,
        rewrite,
        timeout,
        retries,
        headers,
        fault,
        cors,
        mirrors,
    })
}

fn action(rule: &mut Object<'_>) -> Option<HttpAction> {
    let delegate = rule.has("delegate");
    rule.skip("delegate");
    let (route, redirect_field, direct) = (
        rule.opt("route"),
        rule.opt("redirect"),
        rule.opt("directResponse"),
    );
    let given = [
        ("route", route.is_some()),
        ("redirect", redirect_field.is_some()),
        ("directResponse", direct.is_some()),
    ];
    let given: Vec<&str> = given
        .into_iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| name)
        .collect();
    if given.len() > 1 {
        rule.field().invalid(
            format!("{} exclude each other", given.join(" and ")),
            "give one of them".to_owned(),
        );
    }
    if let Some(field) = redirect_field {
        return redirect(&field).map(HttpAction::Redirect);
    }
    if let Some(field) = direct {
        return direct_response(&field).map(HttpAction::DirectResponse);
    }
    if let Some(field) = route {
        return Some(HttpAction::Route(destinations(&field)));
    }
    if !delegate {
        rule.field().invalid(
            "says nothing of what is done",
            "it needs one of route, redirect, directResponse".to_owned(),
        );
    }
    None
}

fn http_match(field: &Field<'_>) -> Option<HttpMatch> {
    let mut object = field.object()?;
    let mut string_match = |name| object.opt(name).and_then(|f| f.string_match());
    let (scheme, method, authority) = (
        string_match("scheme"),
        string_match("method"),
        string_match("authority"),
    );
    let uri = string_match("uri").filter(|m| *m != StringMatch::Present);
    object.skip("statPrefix");
    Some(HttpMatch {
        name: object.text("name").filter(|n| !n.is_empty()),
        uri,
        ignore_uri_case: object.flag("ignoreUriCase"),
        scheme: scheme.filter(|m| *m != StringMatch::Present),
        method: method.filter(|m| *m != StringMatch::Present),
        authority: authority.filter(|m| *m != StringMatch::Present),
        headers: header_matches(&mut object, "headers"),
        without_headers: header_matches(&mut object, "withoutHeaders"),
        query_params: query_matches(&mut object),
        port: object.port("port"),
        source_labels: object
            .opt("sourceLabels")
            .map(|f| f.labels())
            .unwrap_or_default(),
        source_namespace: object.opt("sourceNamespace").and_then(|f| f.label()),
        gateways: gateways(&object.list("gateways")),
    })
}

fn header_matches(object: &mut Object<'_>, name: &'static str) -> Vec<(HeaderName, StringMatch)> {
    let mut matches = Vec::new();
    for (header, field) in object.opt(name).map(|f| f.entries()).unwrap_or_default() {
        if header.starts_with("@request.auth.") {
            field.unsupported("claims of tokens are not read");
            continue;
        }
        if ["uri", "scheme", "method", "authority"].contains(&header) {
            field.invalid(
                format!("{} is not a header", quoted(header)),
                format!("match on the field {header} beside {name}"),
            );
            continue;
        }
        match HeaderName::new(header) {
            Some(header) => matches.extend(field.string_match().map(|m| (header, m))),
            None => field.invalid(format!("{} is not a header name", quoted(header)), None),
        }
    }
    matches.sort_by(|a: &(HeaderName, _), b| a.0.cmp(&b.0));
    matches
}

fn query_matches(object: &mut Object<'_>) -> Vec<(String, StringMatch)> {
    let entries = object
        .opt("queryParams")
        .map(|f| f.entries())
        .unwrap_or_default();
    let one = |(name, field): (&str, Field<'_>)| Some((name.to_owned(), field.string_match()?));
    let mut matches: Vec<(String, StringMatch)> = entries.into_iter().filter_map(one).collect();
    matches.sort_by(|a, b| a.0.cmp(&b.0));
    matches
}

fn destinations(field: &Field<'_>) -> Vec<HttpDestination> {
    let items = field.items();
    if items.is_empty() && field.node().is_blank() {
        field.invalid("has no destination", None);
    }
    let several = items.len() > 1;
    let destinations: Vec<HttpDestination> = items.iter().filter_map(http_destination).collect();
    let total: u64 = destinations.iter().map(|d| u64::from(d.weight)).sum();
    if several && total == 0 && destinations.len() == items.len() {
        field.invalid(
            "all weights are 0",
            "give at least one destination a weight".to_owned(),
        );
    }
    if total > u64::from(u32::MAX) {
        field.invalid(
            format!("the weights sum to {total}"),
            format!("at most {}", u32::MAX),
        );
    }
    destinations
}

fn http_destination(field: &Field<'_>) -> Option<HttpDestination> {
    let mut object = field.object()?;
    let weight = object.count("weight").unwrap_or_default();
    let headers = object
        .opt("headers")
        .map(|f| headers(&f))
        .unwrap_or_default();
    Some(HttpDestination {
        destination: destination(&object.required("destination")?)?,
        weight,
        headers,
    })
}

fn destination(field: &Field<'_>) -> Option<Destination> {
    let mut object = field.object()?;
    let subset = object.opt("subset").and_then(|f| f.name());
    let port = object
        .opt("port")
        .and_then(|f| f.object())
        .and_then(|mut o| o.required("number")?.port());
    Some(Destination {
        host: object.required("host")?.exact_host()?,
        subset,
        port,
    })
}

fn headers(field: &Field<'_>) -> Headers {
    let Some(mut object) = field.object() else {
        return Headers::default();
    };
    let mut operations = |name, host| {
        object
            .opt(name)
            .and_then(|f| f.object())
            .map(|mut o| o.header_operations(host))
            .unwrap_or_default()
    };
    Headers {
        request: operations("request", HostRewrite::Allowed),
        response: operations("response", HostRewrite::Refused),
    }
}

fn rewrite(field: &Field<'_>) -> Option<Rewrite> {
    let mut object = field.object()?;
    let authority = object.opt("authority").and_then(|f| f.authority());
    let uri = object
        .opt("uri")
        .and_then(|f| f.name())
        .map(RewritePath::Uri);
    let regex = object
        .opt("uriRegexRewrite")
        .and_then(|f| f.object())
        .and_then(|mut o| {
            let substitution = o.required("rewrite");
            let pattern = o.required("match")?.regex()?;
            let substitution = substitution?.substitution(&pattern)?;
            Some(RewritePath::Regex {
                pattern,
                substitution,
            })
        });
    if uri.is_some() && regex.is_some() {
        field.invalid(
            "uri and uriRegexRewrite exclude each other",
            "give one of them".to_owned(),
        );
    }
    if ["uri", "uriRegexRewrite", "authority"]
        .iter()
        .all(|name| !object.has(name))
    {
        field.invalid(
            "rewrites nothing",
            "it needs uri, uriRegexRewrite or authority".to_owned(),
        );
    }
    Some(Rewrite {
        path: uri.or(regex),
        authority,
    })
}

fn redirect(field: &Field<'_>) -> Option<Redirect> {
    let mut object = field.object()?;
    let number = object.port("port");
    let derived = object.opt("derivePort").and_then(|f| {
        f.one_of(&[
            ("FROM_PROTOCOL_DEFAULT", RedirectPort::FromProtocolDefault),
            ("FROM_REQUEST_PORT", RedirectPort::FromRequestPort),
        ])
    });
    if number.is_some() && derived.is_some() {
        field.invalid(
            "port and derivePort exclude each other",
            "give one of them".to_owned(),
        );
    }
    let redirect = Redirect {
        uri: object.text("uri").filter(|t| !t.is_empty()),
        authority: object.opt("authority").and_then(|f| f.authority()),
        port: number
            .map(RedirectPort::Number)
            .or(derived)
            .unwrap_or(RedirectPort::Unset),
        scheme: object.opt("scheme").and_then(|f| f.one_of(SCHEMES)),
        code: object
            .opt("redirectCode")
            .and_then(|f| redirect_code(&f))
            .unwrap_or(301),
    };
    if redirect.uri.is_none()
        && redirect.authority.is_none()
        && redirect.scheme.is_none()
        && redirect.port == RedirectPort::Unset
    {
        field.invalid(
            "redirects to nowhere else",
            "it needs uri, authority, scheme or port".to_owned(),
        );
    }
    Some(redirect)
}

/// A status code of redirects, as Envoy knows them.
pub(super) fn redirect_code(field: &Field<'_>) -> Option<u16> {
    let code = field.int(0, 999)?;
    let code = u16::try_from(code)
        .ok()
        .filter(|c| [301, 302, 303, 307, 308].contains(c));
    if code.is_none() {
        field.invalid(
            format!("{} is no redirect", field.node().describe()),
            "allowed: 301, 302, 303, 307, 308".to_owned(),
        );
    }
    code
}

fn direct_response(field: &Field<'_>) -> Option<DirectResponse> {
    let mut object = field.object()?;
    let body = object.opt("body").and_then(|f| direct_body(&f));
    let status = object.required("status")?.int(200, 599)?;
    Some(DirectResponse {
        status: u16::try_from(status).ok()?,
        body,
    })
}

fn direct_body(field: &Field<'_>) -> Option<Vec<u8>> {
    let mut object = field.object()?;
    let text = object
        .opt("string")
        .and_then(|f| f.text())
        .map(|t| t.as_bytes().to_vec());
    let bytes = object.opt("bytes").and_then(|f| {
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(f.text()?)
            .ok();
        if decoded.is_none() {
            f.invalid("is not base64", None);
        }
        decoded
    });
    if text.is_some() && bytes.is_some() {
        field.invalid(
            "string and bytes exclude each other",
            "give one of them".to_owned(),
        );
    }
    let body = text.or(bytes)?;
    if body.len() > MAX_BODY {
        field.invalid(
            format!("is {} bytes long", body.len()),
            format!("at most {MAX_BODY} bytes"),
        );
    }
    Some(body)
}

fn retries(field: &Field<'_>) -> Option<Retries> {
    let mut object = field.object()?;
    let attempts = object.count("attempts").unwrap_or_default();
    let per_try_timeout = object
        .opt("perTryTimeout")
        .and_then(|f| f.positive_duration());
    let retry_on = object.opt("retryOn");
    let (conditions, codes) = retry_on.as_ref().map(retry_on_list).unwrap_or_default();
    let retries = Retries {
        attempts,
        per_try_timeout,
        conditions,
        codes,
        retry_on: retry_on
            .and_then(|f| f.text())
            .map(str::to_owned)
            .filter(|t| !t.is_empty()),
        retry_remote_localities: object.flag("retryRemoteLocalities"),
        ignore_previous_hosts: object
            .opt("retryIgnorePreviousHosts")
            .and_then(|f| f.flag())
            .unwrap_or(true),
        backoff: object.opt("backoff").and_then(|f| f.positive_duration()),
    };
    if attempts == 0
        && (retries.per_try_timeout.is_some()
            || retries.retry_on.is_some()
            || retries.backoff.is_some())
    {
        field.invalid(
            "attempts is 0, which turns retries off; the rest has no effect",
            "give attempts".to_owned(),
        );
    }
    Some(retries)
}

fn retry_on_list(field: &Field<'_>) -> (Vec<RetryCondition>, Vec<u16>) {
    let (mut conditions, mut codes) = (Vec::new(), Vec::new());
    let text = field.text().unwrap_or_default();
    for word in text.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        let condition = RetryCondition::ALLOWED
            .iter()
            .find(|(name, _)| *name == word);
        let code = word.parse().ok().filter(|c: &u16| (100..=599).contains(c));
        match (condition, code) {
            (Some((_, RetryCondition::RetriableHeaders)), _) => {
                field.unsupported(
                    "retriable-headers needs a list of headers, which cannot be given",
                );
            }
            (Some((_, condition)), _) => conditions.push(*condition),
            (None, Some(code)) => codes.push(code),
            (None, None) => {
                let names = RetryCondition::ALLOWED.iter().map(|(name, _)| *name);
                field.not_one_of(word, names.chain(["a status code"]));
            }
        }
    }
    (conditions, codes)
}

fn fault(field: &Field<'_>) -> Option<Fault> {
    let mut object = field.object()?;
    let delay = object
        .opt("delay")
        .and_then(|f| f.object())
        .and_then(|mut delay| {
            let share = percentage(&mut delay, "percentage", "percent")?;
            Some((delay.required("fixedDelay")?.positive_duration()?, share))
        });
    let abort = object
        .opt("abort")
        .and_then(|f| f.object())
        .and_then(|mut abort| {
            let share = percentage(&mut abort, "percentage", "percent")?;
            Some((abort_kind(&mut abort)?, share))
        });
    if !object.has("delay") && !object.has("abort") {
        field.invalid("injects nothing", "it needs delay or abort".to_owned());
    }
    Some(Fault { delay, abort })
}

fn abort_kind(abort: &mut Object<'_>) -> Option<Abort> {
    let http = abort.opt("httpStatus");
    let grpc = abort.opt("grpcStatus");
    match (http, grpc) {
        (Some(http), None) => Some(Abort::Http(u16::try_from(http.int(200, 599)?).ok()?)),
        (None, Some(grpc)) => {
            let names: Vec<(&'static str, u8)> = GRPC_STATUS.iter().copied().zip(0..).collect();
            grpc.one_of(&names).map(Abort::Grpc)
        }
        (Some(_), Some(_)) | (None, None) => {
            abort
                .field()
                .invalid("needs one of httpStatus, grpcStatus", None);
            None
        }
    }
}

/// A share in either of its two spellings; absent is nothing at all.
fn percentage(
    object: &mut Object<'_>,
    name: &'static str,
    old_name: &'static str,
) -> Option<Fraction> {
    let old = object
        .opt(old_name)
        .and_then(|f| f.int(0, 100))
        .and_then(|n| Fraction::from_percent(n as f64));
    match object.opt(name) {
        Some(field) => field.percent(),
        None => old.or(Fraction::from_percent(0.0)),
    }
}

fn cors_policy(field: &Field<'_>) -> Option<CorsPolicy> {
    let mut object = field.object()?;
    let forward = object
        .opt("unmatchedPreflights")
        .and_then(|f| f.one_of(&[("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)]));
    let mut allow_origins: Vec<StringMatch> = object
        .list("allowOrigins")
        .iter()
        .filter_map(|f| f.string_match())
        .collect();
    allow_origins.extend(
        object
            .strings("allowOrigin")
            .into_iter()
            .map(StringMatch::Exact),
    );
    Some(CorsPolicy {
        allow_origins,
        allow_methods: object.strings("allowMethods"),
        allow_headers: object.strings("allowHeaders"),
        expose_headers: object.strings("exposeHeaders"),
        max_age: object.opt("maxAge").and_then(|f| f.duration()),
        allow_credentials: object.opt("allowCredentials").and_then(|f| f.flag()),
        forward_unmatched_preflights: forward.unwrap_or(true),
    })
}

fn mirrors(rule: &mut Object<'_>) -> Vec<Mirror> {
    let share = |field: Option<Field<'_>>| field.map_or(Some(Fraction::ALL), |f| f.percent());
    let percent = rule.opt("mirrorPercent").or(rule.opt("mirror_percent"));
    let old_share = percent
        .and_then(|f| f.int(0, 100))
        .and_then(|n| Fraction::from_percent(n as f64));
    let one_share = rule
        .opt("mirrorPercentage")
        .and_then(|f| f.percent())
        .or(old_share)
        .unwrap_or(Fraction::ALL);
    let one = rule
        .opt("mirror")
        .and_then(|f| destination(&f))
        .map(|d| Mirror {
            destination: d,
            fraction: one_share,
        });
    let many = rule.list("mirrors");
    if one.is_some() && !many.is_empty() {
        rule.field().invalid(
            "mirror and mirrors exclude each other",
            "give one of them".to_owned(),
        );
    }
    let many = many.iter().filter_map(|f| {
        let mut object = f.object()?;
        let fraction = share(object.opt("percentage"))?;
        Some(Mirror {
            destination: destination(&object.required("destination")?)?,
            fraction,
        })
    });
    one.into_iter().chain(many).collect()
}

/// Schemes that a redirect may have.
pub(super) const SCHEMES: &[(&str, Scheme)] = &[("http", Scheme::Http), ("https", Scheme::Https)];
const MAX_BODY: usize = 1 << 20;
/// Names of gRPC's status codes, by number.
const GRPC_STATUS: &[&str] = &[
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
