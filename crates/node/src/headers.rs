//! Headers of a CONNECT and of its answer: `baggage`, `forwarded`, `traceparent`, and ours for the source principal.
//!
//! Spec: hbone-and-l4.md 3.3. All of them are hints for telemetry, except `x-waymark-source-principal`, which a waypoint
//! believes from the mesh's node proxies alone.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt};
use waymark_engine::{Field, Head};
use waymark_identity::SpiffeId;

use crate::state::Workload;

/// Tells a waypoint whom a node proxy speaks for: `none`, or a SPIFFE ID that it verified.
pub const SOURCE_PRINCIPAL: HeaderName = HeaderName::from_static("x-waymark-source-principal");
/// Longer than any name that Kubernetes allows: nothing of the mesh says more, and it becomes a label.
const LONGEST_BAGGAGE_VALUE: usize = 253;
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a peer says of its workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the wire")]
pub struct Baggage {
    pub cluster: Option<Arc<str>>,
    pub namespace: Option<Arc<str>>,
    pub workload_name: Option<Arc<str>>,
    pub canonical_name: Option<Arc<str>>,
    pub canonical_revision: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}

impl Baggage {
    /// Reads every `baggage` header; unknown keys and empty values are passed over.
    pub fn parse(headers: &HeaderMap) -> Self {
        let mut baggage = Self::default();
        let members = headers
            .get_all(BAGGAGE)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        for member in members.flat_map(|value| value.split(',')) {
            let Some((key, value)) = member.trim().split_once('=') else {
                continue;
            };
            let value = value.split('=').next().unwrap_or_default();
            if value.is_empty() || value.len() > LONGEST_BAGGAGE_VALUE {
                continue;
            }
            let field = match key {
                "k8s.cluster.name" => &mut baggage.cluster,
                "k8s.namespace.name" => &mut baggage.namespace,
                "k8s.deployment.name" | "k8s.cronjob.name" | "k8s.pod.name" | "k8s.job.name" => {
                    &mut baggage.workload_name
                }
                "service.name" => &mut baggage.canonical_name,
                "service.version" => &mut baggage.canonical_revision,
                "cloud.region" => &mut baggage.region,
                "cloud.availability_zone" => &mut baggage.zone,
                _ => continue,
            };
            *field = Some(value.into());
        }
        baggage
    }
}

/// Headers of a CONNECT that a workload, or nobody of the mesh, is behind.
pub fn request(
    source: Option<&Workload>,
    from: SocketAddr,
    service_host: Option<&str>,
    rng: &mut impl Rng,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    if let Some(value) = source.and_then(baggage) {
        headers.insert(BAGGAGE, value);
    }
    if let Some(value) = forwarded(from, service_host) {
        headers.insert(FORWARDED, value);
    }
    headers.insert(TRACEPARENT, traceparent(rng));
    headers
}

/// Headers of the 200 that a workload's node proxy gives.
pub fn response(workload: &Workload) -> HeaderMap {
    baggage(workload)
        .map(|value| HeaderMap::from_iter([(BAGGAGE, value)]))
        .unwrap_or_default()
}

/// Headers as fields of HTTP/2.
pub fn fields(headers: &HeaderMap) -> Vec<Field<'_>> {
    headers
        .iter()
        .map(|(name, value)| Field::new(name.as_str().as_bytes(), value.as_bytes()))
        .collect()
}

/// The headers of a CONNECT that came; a field that no header can be is passed over.
pub fn of_head(head: &Head) -> HeaderMap {
    head.fields()
        .filter_map(|field| {
            let name = HeaderName::from_bytes(field.name).ok()?;
            Some((name, HeaderValue::from_bytes(field.value).ok()?))
        })
        .fold(HeaderMap::new(), |mut headers, (name, value)| {
            headers.append(name, value);
            headers
        })
}

/// Says whom the node proxy speaks for.
pub fn set_source_principal(headers: &mut HeaderMap, principal: Option<&SpiffeId>) {
    let none = HeaderValue::from_static("none");
    // A SPIFFE ID is visible ASCII, so the conversion never fails; if it did, `none` would be the safe thing to say.
    let value =
        principal.map(|id| HeaderValue::from_str(id.as_str()).unwrap_or_else(|_| none.clone()));
    headers.insert(SOURCE_PRINCIPAL, value.unwrap_or(none));
}

/// Passes on what the client said of its workload.
pub fn copy_baggage(from: &HeaderMap, to: &mut HeaderMap) {
    for value in from.get_all(BAGGAGE) {
        to.append(BAGGAGE, value.clone());
    }
}

/// `host=` of the `forwarded` header: the service that the client addressed.
pub fn forwarded_host(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(FORWARDED)?.to_str().ok()?;
    let host = value.split(';').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        key.eq_ignore_ascii_case("host").then_some(value)
    })?;
    Some(
        host.strip_prefix('"')
            .and_then(|host| host.strip_suffix('"'))
            .unwrap_or(host),
    )
}

fn baggage(workload: &Workload) -> Option<HeaderValue> {
    let kind = workload.workload_type.as_str();
    let owner = format!("k8s.{kind}.name");
    let members: [(&str, &str); 7] = [
        ("k8s.cluster.name", &workload.cluster_id),
        ("k8s.namespace.name", &workload.namespace),
        (&owner, &workload.workload_name),
        ("service.name", &workload.canonical_name),
        ("service.version", &workload.canonical_revision),
        ("cloud.region", &workload.locality.region),
        ("cloud.availability_zone", &workload.locality.zone),
    ];
    let mut text = String::with_capacity(160);
    for (key, value) in members.into_iter().filter(|(_, value)| !value.is_empty()) {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}{key}={value}");
    }
    if text.is_empty() {
        None
    } else {
        HeaderValue::try_from(text).ok()
    }
}

fn forwarded(from: SocketAddr, host: Option<&str>) -> Option<HeaderValue> {
    let text = match host {
        Some(host) => format!("for=\"{from}\";host={host}"),
        None => format!("for=\"{from}\""),
    };
    HeaderValue::try_from(text).ok()
}

fn traceparent(rng: &mut impl Rng) -> HeaderValue {
    let (trace, span): (u128, u64) = (rng.random(), rng.random());
    HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-00")).unwrap_or_else(|_| {
        HeaderValue::from_static("00-00000000000000000000000000000001-0000000000000001-00")
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn forwarded_host_is_read_quoted_or_not() {
        for (value, host) in [
            ("for=\"1.2.3.4:5\";host=a.b", Some("a.b")),
            ("for=\"1.2.3.4:5\";Host=\"a.b\"", Some("a.b")),
            ("host=a", Some("a")),
            ("for=1.2.3.4", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(FORWARDED, HeaderValue::from_static(value))]);
            assert_eq!(forwarded_host(&headers), host, "{value}");
        }
    }

    #[test]
    fn baggage_of_several_headers_is_read_as_one() {
        let mut headers = HeaderMap::new();
        headers.append(
            BAGGAGE,
            HeaderValue::from_static("k8s.cluster.name=c, k8s.deployment.name=reviews-v1,x=y"),
        );
        headers.append(
            BAGGAGE,
            HeaderValue::from_static("service.name=reviews,service.version=,cloud.region=r"),
        );
        let baggage = Baggage::parse(&headers);
        assert_eq!(baggage.cluster.as_deref(), Some("c"));
        assert_eq!(baggage.workload_name.as_deref(), Some("reviews-v1"));
        assert_eq!(baggage.canonical_name.as_deref(), Some("reviews"));
        assert_eq!(baggage.canonical_revision, None);
        assert_eq!(baggage.region.as_deref(), Some("r"));
    }

    #[test]
    fn request_headers_have_upstreams_form() {
        let headers = request(
            None,
            "127.0.0.1:4000".parse().unwrap(),
            Some("a.b"),
            &mut rand::rng(),
        );
        assert_eq!(headers[FORWARDED], "for=\"127.0.0.1:4000\";host=a.b");
        let trace = headers[TRACEPARENT].to_str().unwrap();
        assert_eq!(trace.len(), 55);
        assert!(
            trace.starts_with("00-") && trace.ends_with("-00"),
            "{trace}"
        );
    }
}
