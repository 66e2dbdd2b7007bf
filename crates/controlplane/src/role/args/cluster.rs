//! The settings that only a cluster has.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use waymark_api::waypoint::WaypointClass;
use waymark_identity::TrustDomain;
use waymark_kubernetes::Access;
use waymark_kubernetes::leader::LeaseOptions;
use waymark_kubernetes::waypoint::{ContainerImages, PodSettings, Template};

use super::{Args, SettingsError, SourceSettings};

/// What holds where the mesh is a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSettings {
    /// How its API server is found.
    pub access: Access,
    /// The control plane's own namespace.
    pub system_namespace: String,
    /// This replica among the others.
    pub pod_name: String,
    /// The classes whose Gateways are taken.
    pub classes: Vec<WaypointClass>,
    /// What waypoints are made of; `None` where they are not deployed.
    pub template: Option<Template>,
    /// Where workloads find the control plane, as `host:port`.
    pub discovery_address: String,
    /// How long a leader that has gone silent is waited for.
    pub lease: Duration,
}

/// `--waypoint-template`: what waypoints have in common, beside their image.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct WaypointTemplate {
    istio_image: Option<String>,
    image_pull_policy: Option<String>,
    image_pull_secrets: Vec<String>,
    network: Option<String>,
    mesh_id: Option<String>,
    proxy_metadata: BTreeMap<String, String>,
    pod: PodSettings,
}

impl ClusterSettings {
    /// The names, beside upstream's own, by which workloads verify the control plane.
    pub(crate) fn serving_names(&self, revision: &str) -> Vec<String> {
        let host = self
            .discovery_address
            .rsplit_once(':')
            .map_or(self.discovery_address.as_str(), |(host, _)| host);
        vec![service(&self.system_namespace, revision), host.to_owned()]
    }

    /// The Lease that replicas of a revision elect their writer by.
    pub(crate) fn lease(&self, revision: &str) -> LeaseOptions {
        let name = format!("waymark-leader-{revision}");
        LeaseOptions {
            duration: self.lease,
            renew_deadline: self.lease / 2,
            retry_period: self.lease / 4,
            ..LeaseOptions::new(&self.system_namespace, &name, &self.pod_name)
        }
    }
}

impl Args {
    /// Where the mesh is described; the settings that belong to it.
    pub(super) fn source(
        &self,
        revision: &str,
        trust_domain: &TrustDomain,
    ) -> Result<SourceSettings, SettingsError> {
        let access = match (&self.mesh_dir, &self.kubeconfig) {
            (Some(_), Some(_)) => return Err(SettingsError::TwoSources),
            (Some(directory), None) => return Ok(SourceSettings::Directory(directory.clone())),
            (None, Some(file)) => Access::Kubeconfig {
                file: file.clone(),
                context: self.context.clone(),
            },
            (None, None) if self.is_in_cluster() => Access::InCluster,
            (None, None) => return Err(SettingsError::NoSource),
        };
        let namespace = self
            .system_namespace
            .clone()
            .unwrap_or_else(|| waymark_api::names::SYSTEM_NAMESPACE.to_owned());
        let discovery_address = self
            .discovery_address
            .clone()
            .unwrap_or_else(|| format!("{}:15012", service(&namespace, revision)));
        if !is_host_and_port(&discovery_address) {
            return Err(SettingsError::DiscoveryAddress(discovery_address));
        }
        let template = if self.no_deploy.unwrap_or(false) {
            None
        } else {
            Some(self.template(revision, trust_domain, &discovery_address)?)
        };
        Ok(SourceSettings::Kubernetes(Box::new(ClusterSettings {
            access,
            pod_name: self.pod_name.clone().unwrap_or_else(name_of_this_process),
            classes: classes(self.waypoint_classes.as_deref())?,
            template,
            discovery_address,
            system_namespace: namespace,
            lease: Duration::from_secs(self.lease_seconds.unwrap_or(30).max(1)),
        })))
    }

    /// Whether this is a pod, and no other source was named.
    pub(super) fn is_in_cluster(&self) -> bool {
        let host = self.kubernetes_service_host.as_deref();
        host.is_some_and(|host| !host.is_empty())
            && self.mesh_dir.is_none()
            && self.kubeconfig.is_none()
    }

    fn template(
        &self,
        revision: &str,
        trust_domain: &TrustDomain,
        discovery_address: &str,
    ) -> Result<Template, SettingsError> {
        let image = self
            .waypoint_image
            .clone()
            .ok_or(SettingsError::NoWaypointImage)?;
        let more: WaypointTemplate = match &self.waypoint_template {
            Some(text) => serde_json::from_str(text).map_err(SettingsError::WaypointTemplate)?,
            None => WaypointTemplate::default(),
        };
        Ok(Template {
            images: ContainerImages {
                istio: more.istio_image.unwrap_or_else(|| image.clone()),
                waymark: image,
                pull_policy: more.image_pull_policy,
                pull_secrets: more.image_pull_secrets,
            },
            revision: revision.to_owned(),
            cluster_domain: CLUSTER_DOMAIN.to_owned(),
            cluster_id: self
                .cluster_id
                .clone()
                .unwrap_or_else(|| super::CLUSTER_ID.to_owned()),
            network: more.network,
            trust_domain: trust_domain.as_str().to_owned(),
            mesh_id: more.mesh_id,
            discovery_address: discovery_address.to_owned(),
            proxy_metadata: more.proxy_metadata,
            pod: more.pod,
        })
    }
}

/// The control plane's Service, as upstream calls it.
fn service(namespace: &str, revision: &str) -> String {
    match revision {
        "default" => format!("istiod.{namespace}.svc"),
        revision => format!("istiod-{revision}.{namespace}.svc"),
    }
}

fn is_host_and_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn classes(names: Option<&[String]>) -> Result<Vec<WaypointClass>, SettingsError> {
    let Some(names) = names else {
        return Ok(WaypointClass::ALL.to_vec());
    };
    let class = |name: &String| {
        WaypointClass::of_name(name).ok_or_else(|| SettingsError::WaypointClass(name.clone()))
    };
    names.iter().map(class).collect()
}

/// Unlike any other that is alive.
fn name_of_this_process() -> String {
    let host = fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// The DNS domain of clusters, which the mesh's host names are in.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
