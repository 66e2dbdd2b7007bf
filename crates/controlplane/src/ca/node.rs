//! For whom the node proxies of a cluster may have certificates: for the pods of their own node.
//!
//! Spec: control-plane.md 11.4.

use std::sync::Arc;

use waymark_api::Resource;
use waymark_api::k8s::{Pod, PodPhase};
use waymark_api::meta::{Kind, ObjectKey};
use waymark_identity::SpiffeId;

use super::{Caller, NodeAuthorizer};
use crate::core::Core;
use crate::store::Store;

/// Looks at the pods that are known of. A pod that was only just made may not be among them yet: its node proxy asks again.
#[derive(Debug)]
pub struct PodsOfTheNode(pub Arc<Core>);

impl NodeAuthorizer for PodsOfTheNode {
    fn may_impersonate(&self, caller: &Caller, identity: &SpiffeId) -> bool {
        self.0
            .read(|inner| may_impersonate(inner.facts.store(), caller, identity))
    }
}

fn may_impersonate(pods: &Store, caller: &Caller, identity: &SpiffeId) -> bool {
    node_of(pods, caller).is_some_and(|node| {
        pods.of_namespace(Kind::Pod, identity.namespace())
            .filter_map(|(_, object)| as_pod(object))
            .any(|pod| {
                pod.spec.service_account_name == identity.service_account()
                    && pod.spec.node_name.as_deref() == Some(node)
                    && pod.status.phase != Some(PodPhase::Failed)
            })
    })
}

/// The node of the caller's pod: the one that its token is bound to, and no namesake of it.
fn node_of<'a>(pods: &'a Store, caller: &Caller) -> Option<&'a str> {
    let bound = caller.pod.as_ref()?;
    let key = ObjectKey::namespaced(Kind::Pod, caller.identity.namespace(), bound.name.as_str());
    let pod = as_pod(pods.find(&key)?)?;
    let same = pod.meta.uid.as_deref() == Some(&bound.uid)
        && pod.spec.service_account_name == caller.identity.service_account();
    pod.spec.node_name.as_deref().filter(|_| same)
}

fn as_pod(object: &Resource) -> Option<&Pod> {
    match object {
        Resource::Pod(pod) => Some(pod),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use waymark_api::yaml::parse_documents;
    use waymark_kubernetes::token::BoundPod;

    use super::*;
    use crate::ca::Proof;

    const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: { name: ztunnel-1, namespace: istio-system, uid: z1 }
spec: { nodeName: n1, serviceAccountName: ztunnel, containers: [{ name: c }] }
---
apiVersion: v1
kind: Pod
metadata: { name: here, namespace: shop }
spec: { nodeName: n1, serviceAccountName: here, containers: [{ name: c }] }
---
apiVersion: v1
kind: Pod
metadata: { name: there, namespace: shop }
spec: { nodeName: n2, serviceAccountName: there, containers: [{ name: c }] }
---
apiVersion: v1
kind: Pod
metadata: { name: failed, namespace: shop }
spec: { nodeName: n1, serviceAccountName: failed, containers: [{ name: c }] }
status: { phase: Failed }
";

    fn id(namespace: &str, account: &str) -> SpiffeId {
        format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
            .parse()
            .unwrap()
    }

    fn caller(pod: Option<(&str, &str)>, account: &str) -> Caller {
        Caller {
            identity: id("istio-system", account),
            proof: Proof::Token,
            pod: pod.map(|(name, uid)| BoundPod {
                name: name.to_owned(),
                uid: uid.to_owned(),
            }),
        }
    }

    #[test]
    fn only_pods_of_the_callers_own_node_count() {
        let mut store = Store::default();
        for document in parse_documents("pods", PODS) {
            store.insert(document.unwrap().resource);
        }
        let ztunnel = caller(Some(("ztunnel-1", "z1")), "ztunnel");
        for (account, allowed) in [
            ("here", true),
            ("there", false),
            ("failed", false),
            ("nobody", false),
        ] {
            assert_eq!(
                may_impersonate(&store, &ztunnel, &id("shop", account)),
                allowed,
                "{account}"
            );
        }
        let here = id("shop", "here");
        for stranger in [
            caller(None, "ztunnel"),
            caller(Some(("ztunnel-1", "z0")), "ztunnel"),
            caller(Some(("ztunnel-2", "z1")), "ztunnel"),
            caller(Some(("ztunnel-1", "z1")), "other"),
        ] {
            assert!(!may_impersonate(&store, &stranger, &here), "{stranger:?}");
        }
    }
}
