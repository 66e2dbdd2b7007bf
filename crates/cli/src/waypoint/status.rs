//! The control plane's status file.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use waymark_api::names;
use waymark_api::waypoint::WaypointClass;
use waymark_kubernetes::waypoint::GatewayView;

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
}

impl GatewayStatus {
    /// A Gateway as an API server has it; `None` when it is no waypoint, or not made as a Gateway.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let view = GatewayView::read(object).ok()?;
        let status = &object["status"];
        // The form of 2023 has no label for it, and takes everything.
        let default = match view.annotation(names::FOR_SERVICE_ACCOUNT) {
            Some(_) => "all",
            None => "service",
        };
        let traffic = view.label(names::WAYPOINT_FOR).unwrap_or(default);
        let deployment = view.is_managed().then(|| view.deployment_name());
        Some(Self {
            class: view.class.name().to_owned(),
            deployment: deployment.unwrap_or_default(),
            revision: Some(view.label(names::REVISION).unwrap_or("default").to_owned()),
            traffic_type: Some(traffic.to_owned()),
            for_service_account: view
                .annotation(names::FOR_SERVICE_ACCOUNT)
                .map(str::to_owned),
            conditions: Vec::deserialize(&status["conditions"]).unwrap_or_default(),
            addresses: Vec::deserialize(&status["addresses"]).unwrap_or_default(),
            namespace: view.namespace,
            name: view.name,
        })
    }

    pub(crate) fn is_waypoint(&self) -> bool {
        WaypointClass::of_name(&self.class).is_some()
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
