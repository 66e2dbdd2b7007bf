//! Istio's kinds.

pub mod authorization_policy;
pub mod destination_rule;
pub mod service_entry;
pub mod virtual_service;
pub mod workload_entry;

pub use authorization_policy::AuthorizationPolicy;
pub use destination_rule::DestinationRule;
pub use service_entry::ServiceEntry;
pub use virtual_service::VirtualService;
pub use workload_entry::WorkloadEntry;

/// `exportTo`: which namespaces see an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportTo {
    /// Not given, or `*`: all of them.
    All,
    /// `.`: its own. With names: these (its own only when named).
    Namespaces(Vec<ExportNamespace>),
    /// `~`: none.
    None,
}

/// One entry of [`ExportTo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportNamespace {
    /// `.`.
    Own,
    /// By name.
    Named(String),
}

impl ExportTo {
    /// Whether an object of namespace `own` is seen by namespace `from`.
    pub fn visible(&self, own: &str, from: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Namespaces(list) => list.iter().any(|n| match n {
                ExportNamespace::Own => own == from,
                ExportNamespace::Named(name) => name == from,
            }),
        }
    }
}
