//! Who a tunnel is from and where it wants to go.

use std::net::SocketAddr;
use std::str::FromStr;

use waymark_engine::Head;
use waymark_hbone::{ConnectionInfo, Incoming};
use waymark_identity::SpiffeId;

use crate::program::Hashed;

/// Says whom a node proxy speaks for when it cannot present the identity itself. Spec: ARCHITECTURE.md, Identities.
pub(crate) const SOURCE_PRINCIPAL: &[u8] = b"x-waymark-source-principal";

/// The client side of one tunnel. Never shared between tunnels, so nothing of one client reaches another.
#[derive(Debug, Clone)]
pub struct Downstream {
    /// The address that the client connected to: the authority of the CONNECT.
    pub local: SocketAddr,
    /// The client's address, which its node proxy keeps.
    pub remote: SocketAddr,
    /// Who the client is, `None` when nobody can say: no rule that names a principal matches it.
    pub principal: Option<Hashed<SpiffeId>>,
    /// Whose certificate the tunnel came with.
    pub peer: Option<SpiffeId>,
}

impl Downstream {
    /// `node` is the account whose word about others is believed.
    pub(crate) fn new(incoming: &Incoming, local: SocketAddr, node: &NodeAccount) -> Self {
        let connection: &ConnectionInfo = &incoming.connection;
        Self {
            local,
            remote: connection.peer_addr,
            principal: node
                .principal(connection.peer.as_ref(), &incoming.head)
                .map(Hashed::from),
            peer: connection.peer.clone(),
        }
    }
}

/// The service account of the mesh's node proxies, `namespace/name`, in whatever trust domain is our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAccount {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

/// A text that is no `namespace/name`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not namespace/service-account")]
pub struct NodeAccountError(String);

impl NodeAccount {
    /// The account in `trust_domain`.
    ///
    /// # Errors
    /// When `account` is not `namespace/name`.
    pub fn new(trust_domain: &str, account: &str) -> Result<Self, NodeAccountError> {
        match account.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self {
                    trust_domain: trust_domain.to_owned(),
                    namespace: namespace.to_owned(),
                    service_account: name.to_owned(),
                })
            }
            _ => Err(NodeAccountError(account.to_owned())),
        }
    }

    fn is(&self, peer: &SpiffeId) -> bool {
        peer.trust_domain() == self.trust_domain
            && peer.namespace() == self.namespace
            && peer.service_account() == self.service_account
    }

    /// The principal of a tunnel. From a node proxy an unreadable or repeated header is nobody: never its own identity.
    fn principal(&self, peer: Option<&SpiffeId>, head: &Head) -> Option<SpiffeId> {
        let peer = peer?;
        if !self.is(peer) {
            return Some(peer.clone());
        }
        let mut said = head.get_all(SOURCE_PRINCIPAL);
        match (said.next(), said.next()) {
            (None, _) => Some(peer.clone()),
            (Some(one), None) => std::str::from_utf8(one)
                .ok()
                .and_then(|text| SpiffeId::from_str(text).ok()),
            (Some(_), Some(_)) => None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use waymark_engine::Field;

    use super::*;

    #[test]
    fn only_a_node_proxy_speaks_for_others() {
        const NODE: &str = "spiffe://cluster.local/ns/istio-system/sa/waymark-node";
        const APP: &str = "spiffe://cluster.local/ns/default/sa/app";
        const FOREIGN: &str = "spiffe://other/ns/istio-system/sa/waymark-node";
        let node = NodeAccount::new("cluster.local", "istio-system/waymark-node").unwrap();
        for (peer, said, want) in [
            (Some(APP), &[][..], Some(APP)),
            (Some(APP), &["none"], Some(APP)),
            (Some(APP), &[NODE], Some(APP)),
            (Some(FOREIGN), &[APP], Some(FOREIGN)),
            (Some(NODE), &[], Some(NODE)),
            (Some(NODE), &[APP], Some(APP)),
            (Some(NODE), &["none"], None),
            (Some(NODE), &["garbage"], None),
            (Some(NODE), &[APP, APP], None),
            (None, &[APP], None),
        ] {
            let peer = peer.map(|p| p.parse::<SpiffeId>().unwrap());
            let mut head = Head::request(b"CONNECT");
            for value in said {
                head.push(Field::new(SOURCE_PRINCIPAL, value.as_bytes()));
            }
            let got = node.principal(peer.as_ref(), &head);
            assert_eq!(
                got.map(|p| p.to_string()).as_deref(),
                want,
                "{peer:?} {said:?}"
            );
        }
    }
}
