//! What a route does with a request.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::program::ClusterRef;
use crate::route::{
    HeaderOps, PathMatch, PathRewrite, RegexRewrite, RequestHead, RetryPolicy, Weighted,
    split_query,
};

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Sends it to a cluster.
    Forward(Box<Forward>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers it.
    Direct(DirectResponse),
}

/// A route's destination and how to get there.
#[derive(Debug, Clone, PartialEq)]
pub struct Forward {
    /// Which cluster.
    pub clusters: Clusters,
    /// Answer when the cluster does not exist: 503, or 500 for Gateway API routes.
    pub cluster_not_found: StatusCode,
    /// Path rewrite; `x-envoy-original-path` then has the old path.
    pub path_rewrite: Option<PathRewrite>,
    /// New authority of the route; `x-envoy-original-host` then has the old one.
    pub host_rewrite: Option<HeaderValue>,
    /// Timers.
    pub timeouts: ForwardTimeouts,
    /// Retries; `None`: none.
    pub retry: Option<RetryPolicy>,
    /// Upgrades that this route allows or forbids, besides those of the chain.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// Bytes of a request that are kept for retries, if limited for this route.
    pub retry_buffer_bytes: Option<u32>,
    /// The request counts as high priority for circuit breakers.
    pub high_priority: bool,
}

/// Timers of a forwarded request; `None` is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForwardTimeouts {
    /// From the end of the request to the end of the response, all attempts together.
    pub route: Option<Duration>,
    /// Without a byte in either direction; `None` inside: off; `None` outside: the chain's.
    pub idle: Option<Option<Duration>>,
    /// The life of the stream; as `idle`.
    pub max_stream: Option<Option<Duration>>,
    /// `grpc-timeout` of the request counts instead of `route`, up to this (`Some(None)`: without bound).
    pub grpc_max: Option<Option<Duration>>,
    /// `grpc-timeout` of the request counts instead of `max_stream`, up to this; as `grpc_max`.
    pub grpc_max_stream: Option<Option<Duration>>,
}

/// A cluster, or how to choose one.
#[derive(Debug, Clone, PartialEq)]
pub enum Clusters {
    /// One.
    One(Destination),
    /// One of several, by weight.
    Weighted(Weighted<Destination>),
    /// The one that a request header names.
    Header(HeaderName, HeaderEdits),
}

/// A cluster with what is done to requests that go there.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// The cluster.
    pub cluster: ClusterRef,
    /// Header operations: of the weighted cluster, the route, the virtual host and the route configuration, in that order.
    pub headers: HeaderEdits,
    /// New authority, if this destination has one of its own.
    pub host_rewrite: Option<HeaderValue>,
}

/// Header operations on the way there and on the way back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    /// On requests.
    pub request: HeaderOps,
    /// On responses.
    pub response: HeaderOps,
}

impl Forward {
    /// The destination of one request; `None` where a request header decides ([`Clusters::Header`]).
    #[must_use]
    pub fn pick(&self, random: u64) -> Option<&Destination> {
        match &self.clusters {
            Clusters::One(one) => Some(one),
            Clusters::Weighted(several) => Some(several.pick(random)),
            Clusters::Header(..) => None,
        }
    }

    /// Whether `upgrade` (lower case) is passed on, given that the chain allows it.
    #[must_use]
    pub fn allows_upgrade(&self, upgrade: &str, of_chain: bool) -> bool {
        let own = self.upgrades.iter().find(|(name, _)| **name == *upgrade);
        own.map_or(of_chain, |(_, enabled)| *enabled)
    }
}

/// An answer of the route's own.
#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    /// Status.
    pub status: StatusCode,
    /// Body; empty is none.
    pub body: Bytes,
    /// Operations on the response headers: of the route, the virtual host and the route configuration.
    pub response_headers: HeaderOps,
}

/// A redirect.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// New scheme.
    pub scheme: Option<Box<str>>,
    /// New host.
    pub host: Option<Box<str>>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: RedirectPath,
    /// The query is dropped.
    pub strip_query: bool,
    /// Operations on the response headers: of the route, the virtual host and the route configuration.
    pub response_headers: HeaderOps,
}

/// The path of a redirect.
#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    /// As it was.
    Same,
    /// This one. With a `?` of its own it replaces the query too.
    Full(Box<str>),
    /// What the route matched is replaced.
    Prefix(Box<str>),
    /// Every match is substituted.
    Regex(RegexRewrite),
}

impl Redirect {
    /// The `location` header for a request that matched by `matched`.
    #[must_use]
    pub fn location(&self, matched: &PathMatch, head: &RequestHead<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let (old_host, old_port) = split_port(head.authority);
        let host = self.host.as_deref().unwrap_or(old_host);
        let mut out = format!("{scheme}://{host}");
        match (self.port, old_port) {
            (Some(port), _) => out.push_str(&format!(":{port}")),
            (None, Some(port)) if self.host.is_none() && !self.port_goes(port) => {
                out.push_str(&format!(":{port}"))
            }
            (None, _) => {}
        }
        let (path, query) = split_query(head.path);
        let new_path = match &self.path {
            RedirectPath::Same => Cow::Borrowed(path),
            RedirectPath::Full(to) => Cow::Borrowed(&**to),
            RedirectPath::Prefix(to) => {
                Cow::Owned(format!("{to}{}", &path[matched.matched_len(path)..]))
            }
            RedirectPath::Regex(rewrite) => rewrite.apply(path),
        };
        out.push_str(&new_path);
        if let Some(query) = query.filter(|_| !self.strip_query && !new_path.contains('?')) {
            out.push('?');
            out.push_str(query);
        }
        out
    }

    /// Whether the request's port is left out because the scheme changes away from the one it is the default of.
    fn port_goes(&self, port: &str) -> bool {
        match self.scheme.as_deref() {
            Some("https") => port == "80",
            Some("http") => port == "443",
            _ => false,
        }
    }
}

/// `host:port`, IPv6 in brackets.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.is_empty() => {
            if host.contains(':') && !host.ends_with(']') {
                (authority, None)
            } else {
                (host, Some(port))
            }
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use waymark_engine::Head;

    use super::*;

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: None,
            host: None,
            port: None,
            path: RedirectPath::Same,
            strip_query: false,
            response_headers: HeaderOps::default(),
        }
    }

    #[test]
    fn location_as_measured() {
        let headers = Head::new();
        let head = |authority: &'static str| RequestHead {
            method: "GET",
            path: "/old/x?q",
            authority,
            scheme: "http",
            headers: &headers,
        };
        let prefix = PathMatch::Prefix {
            prefix: "/old".into(),
            ignore_case: false,
        };
        let full = |p: &str| RedirectPath::Full(p.into());
        for (redirect, authority, want) in [
            (
                Redirect {
                    path: full("/new"),
                    ..redirect()
                },
                "h:81",
                "http://h:81/new?q",
            ),
            (
                Redirect {
                    path: full("/new?z"),
                    ..redirect()
                },
                "h",
                "http://h/new?z",
            ),
            (
                Redirect {
                    host: Some("other".into()),
                    ..redirect()
                },
                "h:81",
                "http://other/old/x?q",
            ),
            (
                Redirect {
                    scheme: Some("https".into()),
                    ..redirect()
                },
                "h:80",
                "https://h/old/x?q",
            ),
            (
                Redirect {
                    scheme: Some("https".into()),
                    port: Some(80),
                    ..redirect()
                },
                "h",
                "https://h:80/old/x?q",
            ),
            (
                Redirect {
                    path: RedirectPath::Prefix("/n".into()),
                    ..redirect()
                },
                "[::1]:8",
                "http://[::1]:8/n/x?q",
            ),
            (
                Redirect {
                    strip_query: true,
                    ..redirect()
                },
                "[::1]",
                "http://[::1]/old/x",
            ),
        ] {
            assert_eq!(redirect.location(&prefix, &head(authority)), want);
        }
    }
}
