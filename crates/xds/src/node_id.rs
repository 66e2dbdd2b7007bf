//! Who a client says it is: `<type>~<ip>~<pod>.<namespace>~<dns domain>`.

use std::fmt;
use std::str::FromStr;

/// A node id as the mesh's proxies send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeId {
    /// What kind of proxy.
    pub kind: NodeKind,
    /// Its address, as text: some send a name or nothing.
    pub ip: String,
    /// `<pod>.<namespace>`.
    pub proxy: String,
    /// `<namespace>.svc.<domain>`.
    pub dns_domain: String,
}

/// The kinds of proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// A sidecar; also what istioctl says that it is.
    Sidecar,
    /// A gateway.
    Router,
    /// A waypoint.
    Waypoint,
    /// A node proxy.
    Ztunnel,
    /// An agent gateway.
    AgentGateway,
}

/// Why text is no node id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// Not four parts.
    #[error("node id {id:?} has {parts} parts, want type~ip~name.namespace~domain")]
    Parts {
        /// What was sent.
        id: String,
        /// How many parts it has.
        parts: usize,
    },
    /// Not a kind of proxy.
    #[error("node id {id:?} has unknown type {kind:?}")]
    Kind {
        /// What was sent.
        id: String,
        /// Its first part.
        kind: String,
    },
}

impl NodeId {
    /// The pod's name: what precedes the last dot of [`NodeId::proxy`].
    pub fn pod(&self) -> &str {
        self.proxy
            .rsplit_once('.')
            .map_or(&self.proxy, |(pod, _)| pod)
    }

    /// The namespace of the DNS domain: its first label. Metadata `NAMESPACE` comes before it.
    pub fn namespace(&self) -> &str {
        self.dns_domain
            .split_once('.')
            .map_or(&self.dns_domain, |(namespace, _)| namespace)
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(id: &str) -> Result<Self, NodeIdError> {
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, ip, proxy, dns_domain] = parts.as_slice() else {
            return Err(NodeIdError::Parts {
                id: id.to_owned(),
                parts: parts.len(),
            });
        };
        let kind = NodeKind::ALL
            .into_iter()
            .find(|known| known.as_str() == *kind)
            .ok_or_else(|| NodeIdError::Kind {
                id: id.to_owned(),
                kind: (*kind).to_owned(),
            })?;
        Ok(Self {
            kind,
            ip: (*ip).to_owned(),
            proxy: (*proxy).to_owned(),
            dns_domain: (*dns_domain).to_owned(),
        })
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}~{}~{}~{}",
            self.kind.as_str(),
            self.ip,
            self.proxy,
            self.dns_domain
        )
    }
}

impl NodeKind {
    const ALL: [Self; 5] = [
        Self::Sidecar,
        Self::Router,
        Self::Waypoint,
        Self::Ztunnel,
        Self::AgentGateway,
    ];

    /// As it is written in a node id.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
            Self::Waypoint => "waypoint",
            Self::Ztunnel => "ztunnel",
            Self::AgentGateway => "agentgateway",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_mesh_sends() {
        let id =
            "waypoint~127.244.0.9~reviews-istio-waypoint-0.bookinfo~bookinfo.svc.cluster.local";
        let parsed: NodeId = id.parse().expect("a node id");
        assert_eq!(
            (parsed.kind, parsed.pod(), parsed.namespace()),
            (NodeKind::Waypoint, "reviews-istio-waypoint-0", "bookinfo")
        );
        assert_eq!(parsed.to_string(), id);
    }

    #[test]
    fn refuses_the_rest() {
        for (id, error) in [
            (
                "",
                "node id \"\" has 1 parts, want type~ip~name.namespace~domain",
            ),
            (
                "a~b~c~d~e",
                "node id \"a~b~c~d~e\" has 5 parts, want type~ip~name.namespace~domain",
            ),
            (
                "mixer~1.1.1.1~a.b~b.svc",
                "node id \"mixer~1.1.1.1~a.b~b.svc\" has unknown type \"mixer\"",
            ),
        ] {
            assert_eq!(
                id.parse::<NodeId>().expect_err("refused").to_string(),
                error
            );
        }
    }
}
