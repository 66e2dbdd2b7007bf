//! From a waypoint's Gateway to the objects that run it: a pure function, so that every replica of the control plane and
//! every start of it comes to the same objects.
//!
//! Spec: control-plane.md 8.

mod gateway;
mod merge;
mod overlay;
mod service;
mod template;

use serde_json::Value;

pub use self::gateway::{GatewayAddress, GatewayError, GatewayListener, GatewayView, Parameters};
pub use self::merge::MergeError;
pub use self::overlay::{Overlay, OverlayError};
pub use self::template::{ContainerImages, PodSettings, Template};

/// An object to be applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// What it is.
    pub kind: OwnedKind,
    /// The whole object, as applied.
    pub object: Value,
}

impl Rendered {
    /// Its name.
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

/// The kinds that are made for a Gateway, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OwnedKind {
    /// `v1` `ServiceAccount`.
    ServiceAccount,
    /// `apps/v1` `Deployment`.
    Deployment,
    /// `v1` `Service`.
    Service,
    /// `autoscaling/v2` `HorizontalPodAutoscaler`.
    HorizontalPodAutoscaler,
    /// `policy/v1` `PodDisruptionBudget`.
    PodDisruptionBudget,
}

impl OwnedKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Deployment,
        Self::Service,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
    ];

    /// The kind as manifests spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Deployment => "Deployment",
            Self::Service => "Service",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
        }
    }

    /// Group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::ServiceAccount | Self::Service => "v1",
            Self::Deployment => "apps/v1",
            Self::HorizontalPodAutoscaler => "autoscaling/v2",
            Self::PodDisruptionBudget => "policy/v1",
        }
    }

    /// The name of the kind's resource in paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceaccounts",
            Self::Deployment => "deployments",
            Self::Service => "services",
            Self::HorizontalPodAutoscaler => "horizontalpodautoscalers",
            Self::PodDisruptionBudget => "poddisruptionbudgets",
        }
    }

    /// The key that patches of the kind have in a ConfigMap of parameters.
    pub const fn overlay_key(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceAccount",
            Self::Deployment => "deployment",
            Self::Service => "service",
            Self::HorizontalPodAutoscaler => "horizontalPodAutoscaler",
            Self::PodDisruptionBudget => "podDisruptionBudget",
        }
    }
}

/// The objects of a Gateway's waypoint, in the order in which they are to be applied.
///
/// `overlays` are laid over in their order: those of the class first, then those of the Gateway. Autoscaler and budget are
/// only made when an overlay names them.
///
/// # Errors
/// When an overlay cannot be laid over. Then nothing of the Gateway is to be applied.
pub fn render(
    gateway: &GatewayView,
    template: &Template,
    overlays: &[Overlay],
) -> Result<Vec<Rendered>, OverlayError> {
    let mut rendered = Vec::new();
    for kind in OwnedKind::ALL {
        let asked = overlays.iter().any(|overlay| overlay.patch(kind).is_some());
        let object = match kind {
            OwnedKind::ServiceAccount => template.service_account(gateway),
            OwnedKind::Deployment => template.deployment(gateway),
            OwnedKind::Service => service::service(gateway, template),
            OwnedKind::HorizontalPodAutoscaler if asked => template.autoscaler(gateway),
            OwnedKind::PodDisruptionBudget if asked => template.disruption_budget(gateway),
            OwnedKind::HorizontalPodAutoscaler | OwnedKind::PodDisruptionBudget => continue,
        };
        let object = overlays
            .iter()
            .try_fold(object, |object, overlay| overlay.lay_over(kind, object))?;
        rendered.push(Rendered { kind, object });
    }
    Ok(rendered)
}

#[cfg(test)]
mod tests;
