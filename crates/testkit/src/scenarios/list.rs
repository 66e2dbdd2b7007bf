//! The scenarios, by what they are about.

mod bodies;
mod connections;
mod failures;
mod routing;

use super::{Known, Scenario, Site, Verdict};

/// All of them, in the order of the table.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        routing::LIST,
        bodies::LIST,
        failures::LIST,
        connections::LIST,
    ]
    .concat()
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
    }
}

/// One that an implementation is known not to pass.
const fn differs(known: Known, scenario: Scenario) -> Scenario {
    Scenario {
        known: Some(known),
        ..scenario
    }
}
