//! A cluster: what its API server says, as changes of what is in force.
//!
//! An object that becomes invalid leaves its last good version in force. A control plane that starts has seen none: to it
//! such an object is not there, until somebody mends it.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use waymark_api::{DocumentError, ObjectRef};
use waymark_kubernetes::Observed;

use super::Batch;
use crate::store::Change;

/// What is wrong with the objects of a cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    refused: BTreeMap<ObjectRef, Vec<DocumentError>>,
}

impl Cluster {
    /// Takes in what the API server says; deletions come first.
    pub fn update(&mut self, observed: Vec<Observed>) -> Batch {
        let mut changes = Vec::with_capacity(observed.len());
        let mut upserts = Vec::new();
        for observed in observed {
            let object = observed.object();
            match observed {
                Observed::Present(resource) => {
                    self.refused.remove(&object);
                    upserts.push(Change::Upsert(resource));
                }
                Observed::Refused(object, errors) => {
                    self.refused.insert(object, errors);
                }
                Observed::Gone(object) => {
                    self.refused.remove(&object);
                    changes.extend(object.key().map(Change::Delete));
                }
            }
        }
        changes.append(&mut upserts);
        Batch {
            changes,
            errors: self.refused.values().flatten().cloned().collect(),
            places: BTreeMap::new(),
        }
    }

    /// Passes on what is heard of the cluster until nobody tells, or nobody listens.
    pub async fn pass_on(
        mut self,
        mut heard: mpsc::Receiver<waymark_kubernetes::Batch>,
        batches: mpsc::Sender<Batch>,
    ) {
        while let Some(batch) = heard.recv().await {
            if batches.send(self.update(batch.observed)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use waymark_api::yaml::parse_json;
    use waymark_api::{Kind, ObjectKey};

    use super::*;

    fn seen(value: &serde_json::Value) -> Observed {
        let object = ObjectRef {
            group: "networking.istio.io".to_owned(),
            kind: "DestinationRule".to_owned(),
            namespace: Some("default".to_owned()),
            name: "a".to_owned(),
        };
        match parse_json("cluster", value) {
            Ok(resource) => Observed::Present(resource),
            Err(errors) => Observed::Refused(object, errors),
        }
    }

    fn rule(host: &serde_json::Value) -> Observed {
        seen(&serde_json::json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": { "namespace": "default", "name": "a" }, "spec": { "host": host },
        }))
    }

    #[test]
    fn an_invalid_object_changes_nothing_and_is_told_until_it_is_mended() {
        let mut cluster = Cluster::default();
        let good = cluster.update(vec![rule(&"a.example".into())]);
        assert!(matches!(good.changes.as_slice(), [Change::Upsert(_)]) && good.errors.is_empty());

        let bad = cluster.update(vec![rule(&7.into())]);
        assert_eq!(bad.changes, []);
        let [error] = bad.errors.as_slice() else {
            panic!("{:?}", bad.errors)
        };
        assert_eq!(
            error.to_string(),
            "cluster: DestinationRule default/a: spec.host: must be a string, got 7 (put it in quotes)"
        );

        let mended = cluster.update(vec![rule(&"b.example".into())]);
        assert!(mended.errors.is_empty());
        let key = ObjectKey::namespaced(Kind::DestinationRule, "default", "a");
        let object = rule(&7.into()).object();
        let gone = cluster.update(vec![Observed::Gone(object)]);
        assert_eq!(gone.changes, [Change::Delete(key)]);
    }
}
