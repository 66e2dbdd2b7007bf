//! The scenarios, by what they are about.

mod bodies;
mod changes;
mod connections;
mod failures;
mod gateway_api;
mod grpc;
mod http2;
mod interop;
mod protocols;
mod routing;

pub use interop::needs_interop;

use super::{Known, Load, Ports, Scenario, Site, Verdict};

/// All of them, in the order of the table.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        (Ports::Http, routing::LIST),
        (Ports::Http, gateway_api::LIST),
        (Ports::Http, bodies::LIST),
        (Ports::Http, failures::LIST),
        (Ports::Http2, http2::LIST),
        (Ports::Http2, protocols::LIST),
        (Ports::Grpc, grpc::LIST),
        (Ports::Grpc, interop::LIST),
        (Ports::Tcp, connections::LIST),
        (Ports::Http, changes::LIST),
    ]
    .into_iter()
    .flat_map(|(ports, list)| list.iter().map(move |s| Scenario { ports, ..*s }))
    .collect()
}

/// One that every implementation passes.
const fn scenario(
    name: &'static str,
    manifests: &'static str,
    run: fn(&Site<'_>) -> Verdict,
) -> Scenario {
    Scenario {
        name,
        manifests,
        run,
        known: None,
        ports: Ports::Http,
        load: Load::Light,
    }
}

/// One that needs the machine for itself.
const fn heavy(scenario: Scenario) -> Scenario {
    Scenario {
        load: Load::Heavy,
        ..scenario
    }
}

/// One that an implementation is known not to pass.
const fn differs(known: Known, scenario: Scenario) -> Scenario {
    Scenario {
        known: Some(known),
        ..scenario
    }
}
