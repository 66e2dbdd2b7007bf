//! Which protocol a port speaks, and how that is found out.

use std::fmt;

/// The protocol of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (an HTTP/2 client is understood as well).
    Http,
    /// HTTP with an explicit proxy's requests.
    HttpProxy,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// TLS with HTTP inside, passed through.
    Https,
    /// TLS, passed through.
    Tls,
    /// Bytes.
    Tcp,
    /// MongoDB; bytes to us.
    Mongo,
    /// Redis; bytes to us.
    Redis,
    /// MySQL; bytes to us.
    Mysql,
    /// UDP, which the mesh does not carry.
    Udp,
    /// Not declared: the first bytes tell (upstream: "unsupported").
    Sniffed,
}

impl Protocol {
    /// The protocol of a Kubernetes service port.
    ///
    /// `appProtocol` when it is given, otherwise the port's name up to the first `-`, otherwise a few well-known port
    /// numbers. Spec: control-plane.md 5.8, waypoint-xds.md 5.5.
    pub fn select(
        transport: Transport,
        app_protocol: Option<&str>,
        port_name: Option<&str>,
        port: u16,
    ) -> Self {
        if transport == Transport::Udp {
            return Self::Udp;
        }
        let candidate = match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(other) => other,
            None => port_name.unwrap_or_default(),
        };
        match Self::from_prefix(candidate) {
            Some(protocol) => protocol,
            None if WELL_KNOWN_TCP.contains(&port) => Self::Tcp,
            None => Self::Sniffed,
        }
    }

    /// The protocol that a whole word declares, as on ServiceEntry ports (`HTTP`, `TLS`, ...).
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http_proxy" => Self::HttpProxy,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::Mysql,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    fn from_prefix(text: &str) -> Option<Self> {
        const GRPC_WEB: &str = "grpc-web";
        if text
            .get(..GRPC_WEB.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(GRPC_WEB))
        {
            return Some(Self::GrpcWeb);
        }
        Self::parse(text.split('-').next().unwrap_or_default())
    }

    /// Upstream's `IsHTTP`: requests are routed one by one.
    pub const fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::HttpProxy | Self::Http2 | Self::Grpc | Self::GrpcWeb
        )
    }

    /// Upstream's `IsHTTP2`: the endpoints are spoken to in HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Upstream's `IsTCP`: connections are passed through.
    pub const fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::Redis | Self::Mysql
        )
    }

    /// Upstream's `IsTLS`: the bytes passed through are TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether the first bytes decide.
    pub const fn is_sniffed(self) -> bool {
        matches!(self, Self::Sniffed)
    }

    /// The protocol as upstream prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "Mongo",
            Self::Redis => "Redis",
            Self::Mysql => "MySQL",
            Self::Udp => "UDP",
            Self::Sniffed => "UnsupportedProtocol",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// The transport as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Every value, as manifests spell them.
    pub const ALLOWED: &'static [(&'static str, Self)] =
        &[("TCP", Self::Tcp), ("UDP", Self::Udp), ("SCTP", Self::Sctp)];
}

/// Ports whose servers speak first (SMTP, DNS, MySQL, MongoDB), so that waiting for the client's bytes would hang.
const WELL_KNOWN_TCP: [u16; 4] = [25, 53, 3306, 27017];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_as_upstream_does() {
        use Protocol as P;
        let cases: &[(Option<&str>, Option<&str>, u16, P)] = &[
            (None, Some("http"), 80, P::Http),
            (None, Some("HTTP-web"), 80, P::Http),
            (None, Some("http2-x"), 80, P::Http2),
            (None, Some("http_proxy"), 80, P::HttpProxy),
            (None, Some("http-proxy"), 80, P::Http),
            (None, Some("grpc"), 80, P::Grpc),
            (None, Some("grpc-web"), 80, P::GrpcWeb),
            (None, Some("gRPC-Web-x"), 80, P::GrpcWeb),
            (None, Some("grpc-webby"), 80, P::GrpcWeb),
            (None, Some("https"), 443, P::Https),
            (None, Some("tls-x"), 443, P::Tls),
            (None, Some("tcp"), 1, P::Tcp),
            (None, Some("mongo"), 1, P::Mongo),
            (None, Some("redis"), 1, P::Redis),
            (None, Some("mysql"), 1, P::Mysql),
            (None, Some("udp"), 1, P::Udp),
            (None, Some("web"), 80, P::Sniffed),
            (None, Some("httpx"), 80, P::Sniffed),
            (None, None, 80, P::Sniffed),
            (None, None, 25, P::Tcp),
            (None, Some("x"), 53, P::Tcp),
            (None, None, 3306, P::Tcp),
            (None, None, 27017, P::Tcp),
            (Some("kubernetes.io/h2c"), Some("tcp"), 80, P::Http2),
            (Some("kubernetes.io/ws"), None, 80, P::Http),
            (Some("kubernetes.io/wss"), None, 80, P::Https),
            (Some("HTTP"), Some("tcp"), 80, P::Http),
            (Some("hbone"), Some("http"), 15008, P::Sniffed),
            (Some("hbone"), None, 25, P::Tcp),
            (Some("grpc"), Some("http"), 80, P::Grpc),
        ];
        for &(app, name, port, want) in cases {
            assert_eq!(
                P::select(Transport::Tcp, app, name, port),
                want,
                "{app:?} {name:?} {port}"
            );
        }
        assert_eq!(
            P::select(Transport::Udp, Some("http"), Some("http"), 80),
            P::Udp
        );
    }
}
