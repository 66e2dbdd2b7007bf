//! The control plane's status file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// `status.json`; what is not needed here is not read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Statuses {
    #[serde(default)]
    pub(crate) gateways: Vec<GatewayStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayStatus {
    pub(crate) namespace: String,
    pub(crate) name: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    deployment: String,
    #[serde(default)]
    revision: Option<String>,
    #[serde(default)]
    traffic_type: Option<String>,
    #[serde(default)]
    pub(crate) for_service_account: Option<String>,
    #[serde(default)]
    pub(crate) conditions: Vec<Condition>,
    #[serde(default)]
    addresses: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) message: String,
}

impl Statuses {
    /// No file yet means no Gateway has a status yet.
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => {
                return Err(CliError::File {
                    action: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        serde_json::from_slice(&bytes)
            .map_err(|e| CliError::Data(format!("{}: {e}", path.display())))
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<&GatewayStatus> {
        self.gateways
            .iter()
            .find(|g| g.namespace == namespace && g.name == name)
    }
}

impl GatewayStatus {
    pub(crate) fn is_waypoint(&self) -> bool {
        matches!(self.class.as_str(), "istio-waypoint" | "waymark-waypoint")
    }

    /// The last condition of that type.
    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().rev().find(|c| c.kind == kind)
    }

    pub(crate) fn is_programmed(&self) -> bool {
        self.condition("Programmed")
            .is_some_and(|c| c.status == "True")
    }

    pub(crate) fn revision(&self) -> &str {
        self.revision
            .as_deref()
            .filter(|r| !r.is_empty())
            .unwrap_or("default")
    }

    /// What it takes in effect.
    pub(crate) fn traffic_type(&self) -> &str {
        self.traffic_type
            .as_deref()
            .filter(|t| !t.is_empty())
            .unwrap_or("service")
    }
}
