//! Host names of services: short names, full names, wildcards.

use std::fmt;

use crate::names::CLUSTER_DOMAIN;

/// A host as a manifest gives it: a short name (`reviews`), a full one, a wildcard (`*.shop.svc.cluster.local`) or `*`.
/// In lower case, every label valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

impl Host {
    /// Reads a host.
    ///
    /// # Errors
    /// What a host has to look like, when it does not.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let host = text.to_ascii_lowercase();
        if host.len() > 253 {
            return Err("a host name has at most 253 characters");
        }
        let labels = match host.strip_prefix("*.") {
            Some(rest) => rest,
            None if host == "*" => return Ok(Self(host)),
            None => host.strip_suffix('.').unwrap_or(&host),
        };
        if labels.split('.').all(is_label) {
            Ok(Self(host.strip_suffix('.').unwrap_or(&host).to_owned()))
        } else {
            Err(
                "a host name is made of labels of letters, digits and '-' joined by '.', the first may be '*'",
            )
        }
    }

    /// The host as given, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for several hosts.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// The full name: a short name is one of a service in `namespace`, all else stays.
    pub fn resolve(&self, namespace: &str) -> String {
        if self.0.contains('.') || self.is_wildcard() {
            self.0.clone()
        } else {
            service_host(&self.0, namespace)
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host name of a Kubernetes Service: `<name>.<namespace>.svc.cluster.local`.
pub fn service_host(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

/// Whether `pattern` (a full name or a wildcard, as [`Host::resolve`] gives it) covers `host`, which may be a wildcard too.
pub fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => {
            host.strip_prefix('*').unwrap_or(host).ends_with(suffix) && host.len() >= pattern.len()
        }
        None => pattern == host,
    }
}

/// Whether `text` is one label of a DNS name (RFC 1123: at most 63 of a-z, 0-9 and '-', none of the ends a '-').
pub fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Whether `text` is a DNS name in lower case: labels joined by dots, at most 253 characters.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_services_of_the_namespace() {
        let cases = [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.other", "reviews.other"),
            (
                "reviews.other.svc.cluster.local",
                "reviews.other.svc.cluster.local",
            ),
            ("*.example.com", "*.example.com"),
            ("*", "*"),
            ("example.com.", "example.com"),
        ];
        for (given, full) in cases {
            assert_eq!(
                Host::parse(given).map(|h| h.resolve("shop")),
                Ok(full.to_owned()),
                "{given}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        for bad in [
            "", ".", "a..b", "-a", "a-", "a b", "*a.b", "a.*.b", "a_b", "http://a", "a:80",
        ] {
            assert!(Host::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn wildcards_cover_their_suffix() {
        assert!(host_matches("*", "a.b"));
        assert!(host_matches("*.b", "a.b"));
        assert!(host_matches("*.b", "*.a.b"));
        assert!(!host_matches("*.b", "b"));
        assert!(!host_matches("*.a.b", "*.b"));
        assert!(!host_matches("a.b", "c.b"));
        assert!(host_matches("a.b", "a.b"));
    }
}
