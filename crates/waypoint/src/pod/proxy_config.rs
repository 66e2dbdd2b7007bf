//! `PROXY_CONFIG`: the mesh's settings of proxies, as JSON. What is not for this process goes to the control plane as it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{PodError, duration};

const NAME: &str = "PROXY_CONFIG";

/// The object, `None` when nothing is set.
#[derive(Clone, Debug, Default)]
pub(super) struct ProxyConfig(Option<Map<String, Value>>);

impl ProxyConfig {
    pub(super) fn of(variables: &BTreeMap<String, String>) -> Result<Self, PodError> {
        let Some(text) = variables.get(NAME).filter(|text| !text.trim().is_empty()) else {
            return Ok(Self::default());
        };
        match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Self(Some(object))),
            Ok(_) => Err(wrong("not a JSON object")),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// The object as it is.
    pub(super) fn object(&self) -> Option<&Map<String, Value>> {
        self.0.as_ref()
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.as_ref()?.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn discovery_address(&self) -> Option<&str> {
        self.get("discoveryAddress")?
            .as_str()
            .filter(|a| !a.is_empty())
    }

    /// Whether the control plane is spoken to without TLS.
    pub(super) fn is_plain_text(&self) -> bool {
        self.get("controlPlaneAuthPolicy")
            .is_some_and(|v| v == "NONE")
    }

    /// Worker threads.
    pub(super) fn concurrency(&self) -> Option<usize> {
        usize::try_from(self.get("concurrency")?.as_u64()?).ok()
    }

    /// How long the drain may take.
    pub(super) fn drain_seconds(&self) -> Result<Option<u64>, PodError> {
        let Some(value) = self.get("terminationDrainDuration") else {
            return Ok(None);
        };
        match value.as_str().and_then(duration::seconds) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(wrong(format!(
                "terminationDrainDuration: {value} is not a duration"
            ))),
        }
    }

    /// The variables, and those that `proxyMetadata` says; the template passes them on, so the pod's own come first.
    pub(super) fn with_variables(
        &self,
        variables: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let further = self.get("proxyMetadata").and_then(Value::as_object);
        let mut all: BTreeMap<String, String> = further
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
            .collect();
        all.extend(
            variables
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        all
    }
}

fn wrong(why: impl Into<String>) -> PodError {
    PodError::Variable {
        name: NAME.to_owned(),
        why: why.into(),
    }
}
