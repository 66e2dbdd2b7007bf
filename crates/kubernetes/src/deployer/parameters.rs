//! The parameters of a Gateway: those of its class, and its own. Spec: control-plane.md 8.5.

use std::collections::BTreeMap;

use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use super::report::{INVALID_PARAMETERS, Problem};
use crate::waypoint::{GatewayView, Overlay, OverlayError};

/// Finds parameters.
#[derive(Clone)]
pub(super) struct Parameters {
    client: Client,
    system_namespace: String,
    /// ConfigMaps of the system namespace that are the parameters of a class.
    class_defaults: Store<DynamicObject>,
}

/// Why a Gateway's parameters cannot be had.
pub(super) enum ParametersError {
    /// They are not what they should be.
    Invalid(OverlayError),
    /// There are none of that kind or name.
    Refused(Problem),
    /// The API server.
    Api(kube::Error),
}

impl Parameters {
    pub(super) fn new(
        client: Client,
        system_namespace: String,
        class_defaults: Store<DynamicObject>,
    ) -> Self {
        Self {
            client,
            system_namespace,
            class_defaults,
        }
    }

    /// The overlays of a Gateway, in the order in which they are laid over.
    pub(super) async fn overlays(
        &self,
        gateway: &GatewayView,
    ) -> Result<Vec<Overlay>, ParametersError> {
        let mut overlays = Vec::new();
        if let Some(defaults) = self.of_class(gateway.class.name()) {
            overlays.push(read(&self.system_namespace, &defaults)?);
        }
        let Some(parameters) = &gateway.parameters else {
            return Ok(overlays);
        };
        let refused = |message: String| {
            ParametersError::Refused(Problem {
                reason: INVALID_PARAMETERS,
                message,
            })
        };
        if (parameters.group.as_str(), parameters.kind.as_str()) != ("", "ConfigMap") {
            return Err(refused(format!(
                "spec.infrastructure.parametersRef: {} of group {:?} is not supported, only ConfigMap of group \"\"",
                parameters.kind, parameters.group
            )));
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &gateway.namespace, &config_maps());
        let found = api
            .get_opt(&parameters.name)
            .await
            .map_err(ParametersError::Api)?
            .ok_or_else(|| {
                refused(format!(
                    "spec.infrastructure.parametersRef: there is no ConfigMap {}/{}",
                    gateway.namespace, parameters.name
                ))
            })?;
        overlays.push(read(&gateway.namespace, &found)?);
        Ok(overlays)
    }

    /// The oldest of those that are for a class.
    fn of_class(&self, class: &str) -> Option<std::sync::Arc<DynamicObject>> {
        self.class_defaults
            .state()
            .into_iter()
            .filter(|map| {
                map.labels()
                    .get(DEFAULTS_FOR_CLASS)
                    .is_some_and(|of| of == class)
            })
            .min_by_key(|map| (map.creation_timestamp(), map.name_any()))
    }
}

fn read(namespace: &str, map: &DynamicObject) -> Result<Overlay, ParametersError> {
    let data: BTreeMap<String, String> = map
        .data
        .get("data")
        .and_then(serde_json::Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    Overlay::read(&format!("{namespace}/{}", map.name_any()), &data)
        .map_err(ParametersError::Invalid)
}

pub(super) fn config_maps() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ConfigMap"), "configmaps")
}

/// Label: the class that a ConfigMap has the parameters of.
pub(super) const DEFAULTS_FOR_CLASS: &str = "gateway.istio.io/defaults-for-class";
