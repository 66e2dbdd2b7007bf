//! The Gateway object of a waypoint.

use serde_json::{Value, json};
use waymark_api::waypoint::WaypointClass;
use waymark_api::yaml::to_yaml;

use crate::error::CliError;

const TRAFFIC_TYPES: &[&str] = &["all", "none", "service", "workload"];

/// Today's form, or that of 2023.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Form {
    Today,
    /// `gateway.networking.k8s.io/v1beta1`; for a service account or a whole namespace.
    Seed {
        service_account: Option<String>,
    },
}

/// A Gateway to be written.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    name: String,
    namespace: Option<String>,
    /// Of the Gateway API.
    version: &'static str,
    value: Value,
}

impl Spec {
    pub(crate) fn new(
        name: &str,
        namespace: Option<&str>,
        form: Form,
        class: WaypointClass,
        traffic: &str,
        revision: &str,
    ) -> Result<Self, CliError> {
        if name == "none" {
            return Err(CliError::Usage(
                "failed to create gateway: invalid name provided for waypoint, 'none' is a reserved value".into(),
            ));
        }
        if !traffic.is_empty() && !TRAFFIC_TYPES.contains(&traffic) {
            return Err(CliError::Usage(format!(
                "failed to create gateway: invalid traffic type: {traffic}. Valid options are: [{}]",
                TRAFFIC_TYPES.join(" ")
            )));
        }
        let mut metadata = json!({});
        let version = match form {
            Form::Today => "v1",
            Form::Seed { service_account } => {
                if let Some(account) = service_account {
                    metadata["annotations"] = json!({"istio.io/for-service-account": account});
                }
                "v1beta1"
            }
        };
        let labels: serde_json::Map<String, Value> = [
            ("istio.io/rev", revision),
            ("istio.io/waypoint-for", traffic),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), json!(value)))
        .collect();
        if !labels.is_empty() {
            metadata["labels"] = labels.into();
        }
        metadata["name"] = json!(name);
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        let value = json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"),
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {
                "gatewayClassName": class.name(),
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]
            }
        });
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.map(str::to_owned),
            version,
            value,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    pub(crate) fn version(&self) -> &'static str {
        self.version
    }

    pub(crate) fn object(&self) -> &Value {
        &self.value
    }

    pub(crate) fn yaml(&self) -> String {
        to_yaml(&self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn todays_form_with_everything() {
        let spec = Spec::new(
            "waypoint",
            Some("default"),
            Form::Today,
            WaypointClass::Istio,
            "service",
            "v1",
        )
        .expect("good");
        assert_eq!(
            spec.yaml(),
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata:\n  labels:\n    istio.io/rev: v1\n    istio.io/waypoint-for: service\n  name: waypoint\n  namespace: default\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n"
        );
    }

    #[test]
    fn the_form_of_2023_is_the_one_published() {
        let spec = Spec::new(
            "namespace",
            None,
            Form::Seed {
                service_account: None,
            },
            WaypointClass::Istio,
            "",
            "",
        )
        .expect("good");
        assert_eq!(
            spec.yaml(),
            "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: Gateway\nmetadata:\n  name: namespace\nspec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  - name: mesh\n    port: 15008\n    protocol: HBONE\n"
        );
    }

    #[test]
    fn refuses_reserved_names_and_unknown_types() {
        let error = |name, traffic| {
            Spec::new(name, None, Form::Today, WaypointClass::Istio, traffic, "")
                .expect_err("bad")
                .to_string()
        };
        assert!(error("none", "").contains("'none' is a reserved value"));
        assert!(error("w", "pods").contains(
            "invalid traffic type: pods. Valid options are: [all none service workload]"
        ));
    }
}
