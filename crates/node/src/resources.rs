//! Resources of the control plane, applied to the state: what is understood takes effect, what is not is refused by name,
//! and its last good version stays in force.

use tracing::{debug, warn};

use crate::policy::{self, PolicyKey};
use crate::state::decode::{self, DecodeError};
use crate::state::{Change, StateHandle, Touched};
use crate::telemetry::chain;

/// The two types that a node proxy subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `istio.workload.Address`.
    Address,
    /// `istio.security.Authorization`.
    Authorization,
}

impl ResourceType {
    /// Both, in the order of subscription.
    pub const ALL: [Self; 2] = [Self::Address, Self::Authorization];

    /// The type URL.
    pub fn url(self) -> &'static str {
        match self {
            Self::Address => "type.googleapis.com/istio.workload.Address",
            Self::Authorization => "type.googleapis.com/istio.security.Authorization",
        }
    }
}

/// A resource that was refused.
#[derive(Debug)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: DecodeError,
}

/// Applies the resources of one response as a whole; `bodies` are serialized messages of type `of`.
pub fn apply<'a>(
    state: &StateHandle,
    of: ResourceType,
    bodies: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    removed: impl IntoIterator<Item = &'a str>,
) -> (Touched, Vec<Refused>) {
    let mut refused = Vec::new();
    let mut changes = Vec::new();
    for (name, body) in bodies {
        match change(of, body) {
            Ok(change) => changes.push(change),
            Err(reason) => {
                warn!(resource = name, r#type = of.url(), error = %chain(&reason), "resource refused");
                refused.push(Refused {
                    name: name.to_owned(),
                    reason,
                });
            }
        }
    }
    for name in removed {
        changes.push(match of {
            ResourceType::Address => Change::RemoveAddress(name.into()),
            ResourceType::Authorization => Change::RemovePolicy(PolicyKey::new(name)),
        });
    }
    debug!(
        r#type = of.url(),
        changes = changes.len(),
        refused = refused.len(),
        "response applied"
    );
    (state.apply(changes), refused)
}

fn change(of: ResourceType, body: &[u8]) -> Result<Change, DecodeError> {
    match of {
        ResourceType::Address => Ok(match decode::address(body)? {
            decode::Address::Workload(workload) => Change::Workload(workload),
            decode::Address::Service(service) => Change::Service(service),
        }),
        ResourceType::Authorization => Ok(Change::Policy(policy::decode::policy(body)?)),
    }
}
