//! Custom resource definitions of the Istio kinds that are read, for clusters that do not have upstream's.
//!
//! What they accept and refuse is what upstream's do (istio.io/api v1.31): an object that one cluster takes, the other takes too.
//! Enumerations come from the types that the parser fills; a test holds every field against the parser. A kind that is not read
//! has no definition here, so that a policy that nobody would enforce cannot be applied in the first place.

mod destination_rule;
mod schema;
mod service_entry;
mod status;
mod virtual_service;

use serde_json::{Value, json};

use self::schema::{Schema, object};
use crate::meta::Kind;

/// A kind that has a definition.
#[derive(Debug, Clone, Copy)]
pub struct CustomKind {
    /// The kind.
    pub kind: Kind,
    /// `spec.names.plural`.
    pub plural: &'static str,
    /// `spec.names.singular`.
    pub singular: &'static str,
    /// `spec.names.shortNames`: one.
    pub short: &'static str,
    /// What kubectl explains it with.
    description: &'static str,
    /// Whether an object without `spec` is refused.
    spec_required: bool,
    /// Columns of `kubectl get`: name, path, type.
    columns: &'static [[&'static str; 3]],
    spec: fn() -> Schema,
}

/// Every kind that has a definition, in the order in which they are printed.
pub const ALL: [CustomKind; 4] = [
    CustomKind {
        kind: Kind::DestinationRule,
        plural: "destinationrules",
        singular: "destinationrule",
        short: "dr",
        description: "How the endpoints of a service are reached, and its subsets.",
        spec_required: false,
        columns: &[["Host", ".spec.host", "string"], AGE],
        spec: destination_rule::spec,
    },
    CustomKind {
        kind: Kind::ServiceEntry,
        plural: "serviceentries",
        singular: "serviceentry",
        short: "se",
        description: "A service that is not a Kubernetes Service.",
        spec_required: true,
        columns: &[
            ["Hosts", ".spec.hosts", "string"],
            ["Location", ".spec.location", "string"],
            ["Resolution", ".spec.resolution", "string"],
            AGE,
        ],
        spec: service_entry::spec,
    },
    CustomKind {
        kind: Kind::VirtualService,
        plural: "virtualservices",
        singular: "virtualservice",
        short: "vs",
        description: "How requests to a host are routed.",
        spec_required: false,
        columns: &[
            ["Gateways", ".spec.gateways", "string"],
            ["Hosts", ".spec.hosts", "string"],
            AGE,
        ],
        spec: virtual_service::spec,
    },
    CustomKind {
        kind: Kind::WorkloadEntry,
        plural: "workloadentries",
        singular: "workloadentry",
        short: "we",
        description: "A workload that is not a Pod.",
        spec_required: true,
        columns: &[AGE, ["Address", ".spec.address", "string"]],
        spec: service_entry::workload,
    },
];

impl CustomKind {
    /// The name of the definition.
    pub fn name(&self) -> String {
        format!("{}.{}", self.plural, self.kind.group())
    }

    /// Whether a user may mean this kind: by kind, plural, singular, short name or the definition's name, in any case.
    pub fn is_called(&self, name: &str) -> bool {
        [self.kind.as_str(), self.plural, self.singular, self.short]
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
            || self.name().eq_ignore_ascii_case(name)
    }

    /// The definition, as the API server takes it: every version that is read is served, the preferred one is stored, and all
    /// have one schema, so that nothing has to be converted.
    pub fn definition(&self) -> Value {
        let schema = self.schema();
        let columns: Vec<Value> = self
            .columns
            .iter()
            .map(|[name, path, kind]| json!({"name": name, "jsonPath": path, "type": kind}))
            .collect();
        let versions: Vec<Value> = self
            .kind
            .versions()
            .iter()
            .map(|version| {
                json!({
                    "name": version,
                    "served": true,
                    "storage": *version == self.kind.versions()[0],
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                })
            })
            .collect();
        let kind = self.kind.as_str();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": self.name(),
                "labels": {"app.kubernetes.io/part-of": "waymark"},
                // Objects outlive the program that reads them.
                "annotations": {"helm.sh/resource-policy": "keep"},
            },
            "spec": {
                "group": self.kind.group(),
                "names": {
                    "kind": kind,
                    "listKind": format!("{kind}List"),
                    "plural": self.plural,
                    "singular": self.singular,
                    "shortNames": [self.short],
                    "categories": ["istio-io", "networking-istio-io"],
                },
                "scope": "Namespaced",
                "versions": versions,
            },
        })
    }

    fn schema(&self) -> Value {
        let schema =
            object([("spec", (self.spec)()), ("status", status::status())]).doc(self.description);
        if self.spec_required {
            schema.required(&["spec"])
        } else {
            schema
        }
        .into_json()
    }
}

const AGE: [&str; 3] = ["Age", ".metadata.creationTimestamp", "date"];

#[cfg(test)]
mod tests;
