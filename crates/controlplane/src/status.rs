//! How objects are: what an API server would keep in their `status`, in one file.
//!
//! Conditions, reasons and messages are upstream's where it has them. Spec: control-plane.md 7.3, 9.1, 10.

pub mod cluster;
mod gateway;

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use waymark_api::{DocumentError, ErrorClass};

use crate::core::Inner;
use crate::index::binding::Binding;
use crate::index::key::WaypointKey;
use crate::index::service::Service;

/// Everything that is known of how objects are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Gateways, by namespace and name.
    pub gateways: Vec<GatewayStatus>,
    /// Services and hosts of ServiceEntries that ask for a waypoint.
    pub services: Vec<ServiceStatus>,
    /// What is wrong with documents, by file and line.
    pub errors: Vec<ErrorStatus>,
}

/// A Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
    /// `today` or `2023`.
    pub form: String,
    /// The account of the form of 2023 that it serves.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub for_service_account: Option<String>,
    /// What it is deployed as; empty when somebody else runs it.
    pub deployment: String,
    /// The account that it runs as; empty when somebody else runs it.
    pub service_account: String,
    /// The control plane's revision that it is for.
    pub revision: String,
    /// Which traffic it takes.
    pub traffic_type: String,
    /// `Accepted` and `Programmed`.
    pub conditions: Vec<Condition>,
    /// Where it is: from its first ready replica on, for as long as it exists.
    pub addresses: Vec<Address>,
    /// Its processes.
    pub replicas: Vec<ReplicaStatus>,
}

/// A condition of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
    /// When it last became so.
    pub last_transition_time: String,
}

/// An address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// `IPAddress` or `Hostname`.
    pub r#type: String,
    /// The address.
    pub value: String,
}

/// A process of a waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Its name, as a pod.
    pub name: String,
    /// What it listens on.
    pub address: String,
    /// Where its admin endpoints are.
    pub admin: String,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// `Pending`, `Starting`, `Ready`, `Backoff` or `Draining`.
    pub state: String,
    /// Why it is not running, or not as its Gateway asks for.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub message: String,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
}

/// A service that asks for a waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its namespace.
    pub namespace: String,
    /// The declaring object's name.
    pub name: String,
    /// `Service` or `ServiceEntry`.
    pub kind: String,
    /// Its host.
    pub host: String,
    /// The waypoint that it asks for, as `namespace/name`.
    pub waypoint: String,
    /// `istio.io/WaypointBound`.
    pub conditions: Vec<Condition>,
}

/// Something wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorStatus {
    /// The file, relative to the mesh directory.
    pub file: String,
    /// The line.
    pub line: usize,
    /// The object, as `Kind namespace/name`; empty when it could not be made out.
    pub object: String,
    /// The field; empty when it is none.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed; empty when nothing can be said.
    pub allowed: String,
    /// `Syntax`, `Invalid`, `Unsupported`, or `NotRead` for a kind that the mesh has no use for.
    pub class: String,
}

/// Gateways and how they are, without the times of their conditions.
pub fn gateways(inner: &Inner) -> Vec<GatewayStatus> {
    gateway::all(inner)
}

impl Status {
    /// How everything is now. `before` says since when what is unchanged is so.
    pub fn of(inner: &Inner, before: &Self, now: OffsetDateTime) -> Self {
        let now = now
            .replace_nanosecond(0)
            .unwrap_or(now)
            .format(&Rfc3339)
            .unwrap_or_default();
        let mut status = Self {
            gateways: gateway::all(inner),
            services: inner
                .index
                .services()
                .filter_map(|service| service_status(inner, service))
                .collect(),
            errors: inner.document_errors().iter().map(error_status).collect(),
        };
        for gateway in &mut status.gateways {
            let same = |other: &&GatewayStatus| {
                (&other.namespace, &other.name) == (&gateway.namespace, &gateway.name)
            };
            let old = before
                .gateways
                .iter()
                .find(same)
                .map_or(&[][..], |old| &old.conditions);
            date(&mut gateway.conditions, old, &now);
        }
        for service in &mut status.services {
            let same = |other: &&ServiceStatus| {
                (&other.namespace, &other.host) == (&service.namespace, &service.host)
            };
            let old = before
                .services
                .iter()
                .find(same)
                .map_or(&[][..], |old| &old.conditions);
            date(&mut service.conditions, old, &now);
        }
        status
    }
}

/// The file that the status is kept in.
#[derive(Debug)]
pub struct StatusFile {
    path: PathBuf,
    current: Status,
    written: bool,
}

impl StatusFile {
    /// Takes up a status file. What cannot be read counts as empty: all that is lost is since when things are so.
    pub fn open(path: &Path) -> Self {
        let current = fs::read(path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Self {
            path: path.to_owned(),
            current,
            written: false,
        }
    }

    /// Brings the file up to date; it is replaced only when something is different.
    ///
    /// # Errors
    /// When it cannot be written; the next call tries again.
    pub fn update(&mut self, inner: &Inner, now: OffsetDateTime) -> io::Result<()> {
        let status = Status::of(inner, &self.current, now);
        if self.written && status == self.current {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(&status).map_err(io::Error::other)?;
        text.push(b'\n');
        self.written = false;
        self.current = status;
        crate::file::replace(&self.path, &text)?;
        self.written = true;
        Ok(())
    }

    /// The replicas of waypoints that were ready: waypoint, name, address, process.
    pub fn ready_replicas(&self) -> impl Iterator<Item = (WaypointKey, &ReplicaStatus)> {
        self.current.gateways.iter().flat_map(|gateway| {
            let ready = gateway
                .replicas
                .iter()
                .filter(|replica| replica.state == READY);
            ready.map(|replica| {
                (
                    WaypointKey::new(gateway.namespace.as_str(), gateway.name.as_str()),
                    replica,
                )
            })
        })
    }

    /// The status as it was last written.
    pub fn current(&self) -> &Status {
        &self.current
    }
}

impl Condition {
    fn new(r#type: &str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            r#type: r#type.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: String::new(),
        }
    }
}

/// A condition that says the same as before has been so since then.
fn date(conditions: &mut [Condition], before: &[Condition], now: &str) {
    for condition in conditions {
        let same =
            |old: &&Condition| old.r#type == condition.r#type && old.status == condition.status;
        condition.last_transition_time = before
            .iter()
            .find(same)
            .map_or_else(|| now.to_owned(), |old| old.last_transition_time.clone());
    }
}

fn service_status(inner: &Inner, service: &Service) -> Option<ServiceStatus> {
    let (waypoint, condition) = match inner.index.service_binding(&service.key) {
        Binding::Unbound => return None,
        Binding::Bound(waypoint) if inner.index.is_programmed(waypoint) => {
            let ingress = match service.ingress_use_waypoint {
                Some(true) => ". Ingress traffic will traverse the waypoint",
                Some(false) => {
                    ". Ingress traffic is not using the waypoint, set the istio.io/ingress-use-waypoint label to true if desired."
                }
                None => "",
            };
            let message = format!("Successfully attached to waypoint {waypoint}{ingress}");
            (
                waypoint,
                Condition::new(WAYPOINT_BOUND, true, "WaypointAccepted", message),
            )
        }
        Binding::Bound(waypoint) => {
            let refusal = crate::index::binding::Refusal::NotReady;
            (
                waypoint,
                Condition::new(
                    WAYPOINT_BOUND,
                    false,
                    refusal.reason(),
                    refusal.message(waypoint),
                ),
            )
        }
        Binding::Refused(waypoint, refusal) => (
            waypoint,
            Condition::new(
                WAYPOINT_BOUND,
                false,
                refusal.reason(),
                refusal.message(waypoint),
            ),
        ),
    };
    Some(ServiceStatus {
        namespace: service.key.namespace.as_ref().to_owned(),
        name: service.name.as_ref().to_owned(),
        kind: if service.registry.is_service_entry() {
            "ServiceEntry"
        } else {
            "Service"
        }
        .to_owned(),
        host: service.key.host.as_ref().to_owned(),
        waypoint: waypoint.to_string(),
        conditions: vec![condition],
    })
}

fn error_status(error: &DocumentError) -> ErrorStatus {
    ErrorStatus {
        file: error.file.clone(),
        line: error.line,
        object: error
            .object
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        field: error.field.clone().unwrap_or_default(),
        message: error.message.clone(),
        allowed: error.allowed.clone().unwrap_or_default(),
        class: match error.class {
            ErrorClass::Syntax => "Syntax",
            ErrorClass::Invalid => "Invalid",
            ErrorClass::Unsupported => "Unsupported",
            ErrorClass::NotRead => "NotRead",
        }
        .to_owned(),
    }
}

/// State of a replica that takes traffic.
const READY: &str = "Ready";
const WAYPOINT_BOUND: &str = "istio.io/WaypointBound";
