//! Names of resources, chains and the objects they come from. They are a contract: operators' tools read them.

use std::fmt;

/// Which of the two families of a port a chain or a cluster is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    /// `tcp`
    Tcp,
    /// `http`
    Http,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        })
    }
}

/// `inbound-vip|<port>|<family>|<host>`: a chain, its routes and its cluster.
pub(super) fn inbound_vip(port: u16, family: Family, host: &str) -> String {
    format!("inbound-vip|{port}|{family}|{host}")
}

/// The same for a subset: `inbound-vip|<port>|<family>/<subset>|<host>`.
pub(super) fn inbound_vip_subset(
    port: u16,
    family: Family,
    subset: Option<&str>,
    host: &str,
) -> String {
    match subset {
        Some(subset) => format!("inbound-vip|{port}|{family}/{subset}|{host}"),
        None => inbound_vip(port, family, host),
    }
}

/// `outbound|<port>|<subset>|<host>`: a cluster of a host that this waypoint does not serve.
pub(super) fn outbound(port: u16, subset: Option<&str>, host: &str) -> String {
    format!("outbound|{port}|{}|{host}", subset.unwrap_or_default())
}

/// Where an object of Istio's networking group is found, as `metadata.istio.config` says it.
pub(super) fn config_path(resource: &str, namespace: &str, name: &str) -> String {
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{resource}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        let host = "reviews.default.svc.cluster.local";
        assert_eq!(
            inbound_vip(9080, Family::Http, host),
            "inbound-vip|9080|http|reviews.default.svc.cluster.local"
        );
        assert_eq!(
            inbound_vip_subset(9080, Family::Tcp, Some("v1"), host),
            "inbound-vip|9080|tcp/v1|reviews.default.svc.cluster.local"
        );
        assert_eq!(outbound(80, None, "a.example"), "outbound|80||a.example");
    }
}
