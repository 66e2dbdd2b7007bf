//! HTTPRoute.

use crate::decode::meta::{NameRule, Scope, meta};
use crate::decode::object::{Field, Object};
use crate::decode::values::{HostRewrite, checked_header, decoded, plain, refuse_duplicates};
use crate::decode::virtual_service::{SCHEMES, redirect_code};
use crate::gateway::{
    BackendKind, BackendRef, HttpBackendRef, HttpRoute, HttpRouteFilters, HttpRouteMatch,
    HttpRouteMirror, HttpRouteRedirect, HttpRouteRetry, HttpRouteRule, ParentKind, ParentRef,
    PathMatch, PathModifier, UrlRewrite, ValueMatch,
};
use crate::matcher::{Fraction, HeaderName, HeaderOperations};
use crate::tree::quoted;

pub(super) fn http_route(root: &Field<'_>) -> Option<HttpRoute> {
    let mut object = root.object()?;
    let meta = meta(&mut object, NameRule::Subdomain, Scope::Namespaced);
    let mut spec = object.required("spec")?.object()?;
    let parents = spec.required_list("parentRefs");
    let rule_fields = spec.list("rules");
    let rules = decoded(&rule_fields, rule);
    refuse_duplicates(&rules, "rule name", |r| r.name.clone());
    let mut rules = plain(rules);
    if rule_fields.is_empty() {
        rules.push(HttpRouteRule {
            name: None,
            matches: Vec::new(),
            filters: HttpRouteFilters::default(),
            backend_refs: Vec::new(),
            request_timeout: None,
            backend_request_timeout: None,
            retry: None,
        });
    }
    Some(HttpRoute {
        meta,
        parent_refs: parents.iter().filter_map(parent_ref).collect(),
        hostnames: spec
            .list("hostnames")
            .iter()
            .filter_map(|f| f.host())
            .collect(),
        rules,
    })
}

fn parent_ref(field: &Field<'_>) -> Option<ParentRef> {
    let mut object = field.object()?;
    let group = object
        .text("group")
        .unwrap_or_else(|| GATEWAY_GROUP.to_owned());
    let kind = object.text("kind").unwrap_or_else(|| "Gateway".to_owned());
    let kind = match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => Some(ParentKind::Service),
        (ISTIO_GROUP, "ServiceEntry") => Some(ParentKind::ServiceEntry),
        (GATEWAY_GROUP, "Gateway") => {
            field.unsupported("routes of Gateways are for ingress; attach the route to a Service: group: \"\", kind: Service");
            Some(ParentKind::Gateway)
        }
        (GATEWAY_GROUP, "Service") => {
            field.invalid(
                format!("there is no Service in group {GATEWAY_GROUP}"),
                "write group: \"\"".to_owned(),
            );
            None
        }
        _ => {
            field.invalid(
                format!("{} of group {} cannot have routes", quoted(&kind), quoted(&group)),
                "allowed: kind Service of group \"\", kind ServiceEntry of group networking.istio.io".to_owned(),
            );
            None
        }
    };
    if let Some(section) = object.opt("sectionName") {
        section.unsupported("select a port of the Service with port");
    }
    let namespace = object.opt("namespace").and_then(|f| f.label());
    let port = object.port("port");
    let name = object.required("name").and_then(|f| f.subdomain());
    Some(ParentRef {
        kind: kind?,
        namespace,
        name: name?,
        port,
    })
}

fn rule(field: &Field<'_>) -> Option<HttpRouteRule> {
    let mut object = field.object()?;
    object.skip("sessionPersistence");
    let match_fields = object.list("matches");
    let matches: Vec<HttpRouteMatch> = match_fields.iter().filter_map(route_match).collect();
    let filters = filters(&object.list("filters"));
    if prefix_is_replaced(&filters) && !matches_one_prefix(&matches) {
        field.invalid(
            "ReplacePrefixMatch needs the prefix that it replaces",
            "exactly one match, of path type PathPrefix".to_owned(),
        );
    }
    let backends = object.list("backendRefs");
    if filters.redirect.is_some() && !backends.is_empty() {
        field.invalid("RequestRedirect and backendRefs exclude each other", None);
    }
    let mut timeouts = object.opt("timeouts").and_then(|f| f.object());
    let mut timeout = |name| timeouts.as_mut()?.opt(name)?.gateway_duration();
    let (request_timeout, backend_request_timeout) =
        (timeout("request"), timeout("backendRequest"));
    if let (Some(request), Some(backend)) = (request_timeout, backend_request_timeout)
        && !request.is_zero()
        && (backend > request || backend.is_zero())
        && let Some(timeouts) = &timeouts
    {
        timeouts
            .field()
            .invalid("backendRequest must not be longer than request", None);
    }
    Some(HttpRouteRule {
        name: object.opt("name").and_then(|f| f.subdomain()),
        matches,
        filters,
        backend_refs: backends.iter().filter_map(backend).collect(),
        request_timeout,
        backend_request_timeout,
        retry: object.opt("retry").and_then(|f| retry(&f)),
    })
}

fn prefix_is_replaced(filters: &HttpRouteFilters) -> bool {
    let redirect = filters.redirect.as_ref().and_then(|r| r.path.as_ref());
    let rewrite = filters.rewrite.as_ref().and_then(|r| r.path.as_ref());
    [redirect, rewrite]
        .into_iter()
        .flatten()
        .any(|p| matches!(p, PathModifier::Prefix(_)))
}

fn matches_one_prefix(matches: &[HttpRouteMatch]) -> bool {
    match matches {
        [] => true,
        [only] => matches!(only.path, PathMatch::Prefix(_)),
        _ => false,
    }
}

fn route_match(field: &Field<'_>) -> Option<HttpRouteMatch> {
    let mut object = field.object()?;
    let path = object
        .opt("path")
        .map_or_else(|| Some(PathMatch::Prefix("/".into())), |f| path_match(&f));
    let header_fields = object.list("headers");
    let headers = decoded(&header_fields, header_match);
    refuse_duplicates(&headers, "header", |(n, _)| Some(n.to_string()));
    let query_fields = object.list("queryParams");
    let query_params = decoded(&query_fields, query_match);
    refuse_duplicates(&query_params, "query parameter", |(n, _)| Some(n.clone()));
    let methods: Vec<(&'static str, &'static str)> = METHODS.iter().map(|m| (*m, *m)).collect();
    let method = object
        .opt("method")
        .and_then(|f| f.one_of(&methods))
        .map(str::to_owned);
    Some(HttpRouteMatch {
        path: path?,
        headers: plain(headers),
        query_params: plain(query_params),
        method,
    })
}

fn path_match(field: &Field<'_>) -> Option<PathMatch> {
    let mut object = field.object()?;
    let kind = object
        .opt("type")
        .map_or(Some("PathPrefix"), |f| f.one_of(PATH_TYPES));
    let value = object.opt("value");
    let Some(value) = value else {
        return Some(PathMatch::Prefix("/".into()));
    };
    match kind? {
        "Exact" => plain_path(&value).map(PathMatch::Exact),
        "PathPrefix" => plain_path(&value).map(PathMatch::Prefix),
        _ => value.regex().map(PathMatch::Regex),
    }
}

/// A path that a normalised path can be equal to.
fn plain_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    let lower = path.to_ascii_lowercase();
    let never = ["//", "/./", "/../", "%2f", "#"];
    let bad = never
        .into_iter()
        .find(|n| lower.contains(n))
        .or(["/.", "/.."].into_iter().find(|n| lower.ends_with(n)));
    if !path.starts_with('/') {
        field.invalid(
            format!("{} is not a path", quoted(path)),
            "a path begins with '/'".to_owned(),
        );
        return None;
    }
    if let Some(bad) = bad {
        field.invalid(
            format!(
                "{} has {bad} in it, which no request path has",
                quoted(path)
            ),
            None,
        );
        return None;
    }
    Some(path.to_owned())
}

fn header_match(field: &Field<'_>) -> Option<(HeaderName, ValueMatch)> {
    let mut object = field.object()?;
    let value = value_match(&mut object);
    Some((object.required("name")?.header_name()?, value?))
}

fn query_match(field: &Field<'_>) -> Option<(String, ValueMatch)> {
    let mut object = field.object()?;
    let value = value_match(&mut object);
    Some((object.required("name")?.name()?, value?))
}

fn value_match(object: &mut Object<'_>) -> Option<ValueMatch> {
    let regex = object.opt("type").map_or(Some(false), |f| {
        f.one_of(&[("Exact", false), ("RegularExpression", true)])
    });
    let value = object.required("value")?;
    if regex? {
        value.regex().map(ValueMatch::Regex)
    } else {
        Some(ValueMatch::Exact(value.text()?.to_owned()))
    }
}

fn filters(fields: &[Field<'_>]) -> HttpRouteFilters {
    let mut filters = HttpRouteFilters::default();
    let mut seen: Vec<&str> = Vec::new();
    for field in fields {
        let Some(mut object) = field.object() else {
            continue;
        };
        let kind = object.required("type").and_then(|f| f.one_of(FILTER_TYPES));
        for (name, known) in FILTER_BODIES {
            if object.has(name) && kind != Some(known) {
                field.invalid(format!("{name} does not belong to this type"), None);
            }
            object.skip(name);
        }
        let Some(kind) = kind else { continue };
        if kind != MIRROR && seen.contains(&kind) {
            field.invalid(format!("{kind} is given twice"), None);
        }
        seen.push(kind);
        one_filter(kind, &mut object, &mut filters);
    }
    if filters.redirect.is_some()
        && filters.rewrite.is_some()
        && let Some(first) = fields.first()
    {
        first.invalid("RequestRedirect and URLRewrite exclude each other", None);
    }
    filters
}

fn one_filter(kind: &str, object: &mut Object<'_>, filters: &mut HttpRouteFilters) {
    match kind {
        "RequestHeaderModifier" => {
            let body = object.required("requestHeaderModifier");
            filters.request_headers = body
                .and_then(|f| header_modifier(&f, HostRewrite::Allowed))
                .unwrap_or_default();
        }
        "ResponseHeaderModifier" => {
            let body = object.required("responseHeaderModifier");
            filters.response_headers = body
                .and_then(|f| header_modifier(&f, HostRewrite::Refused))
                .unwrap_or_default();
        }
        "RequestRedirect" => {
            filters.redirect = object
                .required("requestRedirect")
                .and_then(|f| redirect(&f))
        }
        "URLRewrite" => filters.rewrite = object.required("urlRewrite").and_then(|f| rewrite(&f)),
        MIRROR => filters
            .mirrors
            .extend(object.required("requestMirror").and_then(|f| mirror(&f))),
        _ => {} // refused by the table
    }
}

fn header_modifier(field: &Field<'_>, host: HostRewrite) -> Option<HeaderOperations> {
    let mut object = field.object()?;
    let mut operations = HeaderOperations::default();
    for change in object
        .list("set")
        .iter()
        .filter_map(|f| header_change(f, host))
    {
        match change {
            HeaderChange::Host(host) => operations.host = Some(host),
            HeaderChange::Header(name, value) => operations.set.push((name, value)),
        }
    }
    for change in object
        .list("add")
        .iter()
        .filter_map(|f| header_change(f, HostRewrite::Refused))
    {
        match change {
            HeaderChange::Host(_) => {} // refused
            HeaderChange::Header(name, value) => operations.add.push((name, value)),
        }
    }
    for item in object.list("remove") {
        operations
            .remove
            .extend(item.text().and_then(|name| checked_header(name, &item)));
    }
    operations.set.sort();
    operations.add.sort();
    operations.remove.sort();
    Some(operations)
}

enum HeaderChange {
    Host(String),
    Header(HeaderName, String),
}

fn header_change(field: &Field<'_>, host: HostRewrite) -> Option<HeaderChange> {
    let mut object = field.object()?;
    let name_field = object.required("name");
    let value = object.required("value")?;
    let name_field = name_field?;
    let name = name_field.name()?;
    if host == HostRewrite::Allowed && name.eq_ignore_ascii_case("host") {
        return value.authority().map(HeaderChange::Host);
    }
    let header = checked_header(&name, &name_field);
    let value = value.header_value();
    Some(HeaderChange::Header(header?, value?))
}

fn redirect(field: &Field<'_>) -> Option<HttpRouteRedirect> {
    let mut object = field.object()?;
    Some(HttpRouteRedirect {
        scheme: object.opt("scheme").and_then(|f| f.one_of(SCHEMES)),
        hostname: object.opt("hostname").and_then(|f| f.exact_host()),
        path: object.opt("path").and_then(|f| path_modifier(&f)),
        port: object.port("port"),
        status: object
            .opt("statusCode")
            .and_then(|f| redirect_code(&f))
            .unwrap_or(302),
    })
}

fn rewrite(field: &Field<'_>) -> Option<UrlRewrite> {
    let mut object = field.object()?;
    let hostname = object.opt("hostname").and_then(|f| f.exact_host());
    let path = object.opt("path").and_then(|f| path_modifier(&f));
    if !object.has("hostname") && !object.has("path") {
        field.invalid("rewrites nothing", "it needs hostname or path".to_owned());
    }
    Some(UrlRewrite { hostname, path })
}

fn path_modifier(field: &Field<'_>) -> Option<PathModifier> {
    let mut object = field.object()?;
    let kind = object
        .required("type")?
        .one_of(&[("ReplaceFullPath", false), ("ReplacePrefixMatch", true)])?;
    let (wanted, other) = if kind {
        ("replacePrefixMatch", "replaceFullPath")
    } else {
        ("replaceFullPath", "replacePrefixMatch")
    };
    if object.has(other) {
        field.invalid(format!("{other} does not belong to this type"), None);
    }
    object.skip(other);
    let text = object.required(wanted)?.text()?.to_owned();
    Some(if kind {
        PathModifier::Prefix(text)
    } else {
        PathModifier::Full(text)
    })
}

fn mirror(field: &Field<'_>) -> Option<HttpRouteMirror> {
    let mut object = field.object()?;
    let percent = object
        .opt("percent")
        .and_then(|f| f.int(0, 100))
        .and_then(|n| Fraction::from_percent(n as f64));
    let fraction = object
        .opt("fraction")
        .and_then(|f| f.object())
        .and_then(|mut o| {
            let denominator = o.count("denominator").unwrap_or(100);
            Fraction::from_ratio(o.count("numerator")?, denominator)
        });
    let mut backend = object.required("backendRef")?.object()?;
    Some(HttpRouteMirror {
        backend: backend_ref(&mut backend)?,
        fraction: percent.or(fraction).unwrap_or(Fraction::ALL),
    })
}

fn backend(field: &Field<'_>) -> Option<HttpBackendRef> {
    let mut object = field.object()?;
    let weight = object
        .opt("weight")
        .map_or(Some(1), |f| f.int(0, 1_000_000));
    let filters = filters(&object.list("filters"));
    let backend = backend_ref(&mut object);
    Some(HttpBackendRef {
        backend: backend?,
        weight: u32::try_from(weight?).ok()?,
        filters,
    })
}

fn backend_ref(object: &mut Object<'_>) -> Option<BackendRef> {
    let group = object.text("group").unwrap_or_default();
    let kind = object.text("kind").unwrap_or_else(|| "Service".to_owned());
    let kind = match (group.as_str(), kind.as_str()) {
        ("" | "core", "Service") => Some(BackendKind::Service),
        (ISTIO_GROUP, "Hostname") => Some(BackendKind::Hostname),
        _ => {
            object.field().invalid(
                format!(
                    "{} of group {} cannot be a backend",
                    quoted(&kind),
                    quoted(&group)
                ),
                "allowed: kind Service of group \"\", kind Hostname of group networking.istio.io"
                    .to_owned(),
            );
            None
        }
    };
    let namespace = object.opt("namespace").and_then(|f| f.label());
    let port = object.required("port").and_then(|f| f.port());
    let name = object.required("name").and_then(|f| f.subdomain());
    Some(BackendRef {
        kind: kind?,
        namespace,
        name: name?,
        port: port?,
    })
}

fn retry(field: &Field<'_>) -> Option<HttpRouteRetry> {
    let mut object = field.object()?;
    let code = |f: &Field<'_>| f.int(400, 599).and_then(|n| u16::try_from(n).ok());
    Some(HttpRouteRetry {
        codes: object.list("codes").iter().filter_map(code).collect(),
        attempts: object
            .opt("attempts")
            .and_then(|f| f.int(1, 1000))
            .and_then(|n| u32::try_from(n).ok()),
        backoff: object.opt("backoff").and_then(|f| f.gateway_duration()),
    })
}

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const ISTIO_GROUP: &str = "networking.istio.io";
const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];
const PATH_TYPES: &[(&str, &str)] = &[
    ("Exact", "Exact"),
    ("PathPrefix", "PathPrefix"),
    ("RegularExpression", "RegularExpression"),
];
const MIRROR: &str = "RequestMirror";
/// The types of filters; the table refuses some.
const FILTER_TYPES: &[(&str, &str)] = &[
    ("RequestHeaderModifier", "RequestHeaderModifier"),
    ("ResponseHeaderModifier", "ResponseHeaderModifier"),
    ("RequestRedirect", "RequestRedirect"),
    ("URLRewrite", "URLRewrite"),
    (MIRROR, MIRROR),
    ("CORS", "CORS"),
    ("ExtensionRef", "ExtensionRef"),
    ("ExternalAuth", "ExternalAuth"),
];
/// The field of each type.
const FILTER_BODIES: [(&str, &str); 8] = [
    ("requestHeaderModifier", "RequestHeaderModifier"),
    ("responseHeaderModifier", "ResponseHeaderModifier"),
    ("requestRedirect", "RequestRedirect"),
    ("urlRewrite", "URLRewrite"),
    ("requestMirror", MIRROR),
    ("cors", "CORS"),
    ("extensionRef", "ExtensionRef"),
    ("externalAuth", "ExternalAuth"),
];
