//! The `:authority` of a CONNECT: an address and port, or a host name and port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Where a CONNECT wants to go.
///
/// Spec: hbone-and-l4.md 3.2. An IPv4-mapped IPv6 address is turned into IPv4, as everywhere in the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Authority {
    /// `ip:port` or `[v6]:port`.
    Address(SocketAddr),
    /// `hostname:port`; the name is kept in lower case.
    Host {
        /// The host name, without a trailing dot.
        name: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// Why an `:authority` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no port, or it is not a number from 1 to 65535.
    #[error("authority has no usable port")]
    Port,
    /// There is no host, or it holds bytes that no host name has.
    #[error("authority has no usable host")]
    Host,
}

impl Authority {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Host { port, .. } => *port,
        }
    }

    /// The address, when it is one.
    #[must_use]
    pub fn as_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Address(address) => Some(*address),
            Self::Host { .. } => None,
        }
    }
}

impl FromStr for Authority {
    type Err = AuthorityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::Port)?;
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(AuthorityError::Port);
        }
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(AuthorityError::Port)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(ip) = bracketed.unwrap_or(host).parse::<IpAddr>() {
            if ip.is_ipv6() != bracketed.is_some() {
                return Err(AuthorityError::Host);
            }
            return Ok(Self::from(SocketAddr::new(ip, port)));
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'*');
        if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
            return Err(AuthorityError::Host);
        }
        Ok(Self::Host {
            name: name.to_ascii_lowercase().into(),
            port,
        })
    }
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_addresses_and_host_names() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            (
                "Reviews.Default.svc.cluster.local:9080",
                "reviews.default.svc.cluster.local:9080",
            ),
            ("a.:1", "a:1"),
        ] {
            assert_eq!(
                text.parse::<Authority>().unwrap().to_string(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_neither() {
        use AuthorityError::{Host, Port};
        for (text, why) in [
            ("", Port),
            ("10.0.0.1", Port),
            ("10.0.0.1:", Port),
            ("10.0.0.1:0", Port),
            ("10.0.0.1:65536", Port),
            ("10.0.0.1:+80", Port),
            (":80", Host),
            (".:80", Host),
            ("::1:80", Host),
            ("[10.0.0.1]:80", Host),
            ("user@host:80", Host),
            ("a b:80", Host),
        ] {
            assert_eq!(text.parse::<Authority>(), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn shown_form_reads_back(bytes in any::<[u8; 16]>(), v4 in any::<bool>(), port in 1u16..) {
            let ip = if v4 { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { IpAddr::from(bytes) };
            let authority = Authority::from(SocketAddr::new(ip, port));
            prop_assert_eq!(authority.to_string().parse::<Authority>().unwrap(), authority);
        }

        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = text.parse::<Authority>();
        }
    }
}
