//! What a program that is not built with everything says of what it lacks.

use std::process::ExitCode;

use crate::fail;

/// The features, as cargo names them.
const BUILT_WITH: &[&str] = &[
    #[cfg(feature = "agent")]
    "agent",
    #[cfg(feature = "cli")]
    "cli",
    #[cfg(feature = "controlplane")]
    "controlplane",
    #[cfg(feature = "local")]
    "local",
    #[cfg(feature = "node")]
    "node",
    #[cfg(feature = "waypoint")]
    "waypoint",
];

#[cfg(not(any(
    feature = "agent",
    feature = "cli",
    feature = "controlplane",
    feature = "node",
    feature = "waypoint"
)))]
compile_error!(
    "a program of nothing: choose features, of agent, cli, controlplane, local, node, waypoint"
);

/// There is no such `kind` (command, role) here, or none at all.
#[derive(Debug, thiserror::Error)]
#[error("this build has no {kind} {name:?} (built with features {})", BUILT_WITH.join(", "))]
struct Absent<'a> {
    kind: &'static str,
    name: &'a str,
}

/// Refuses what was asked for: its name and its arguments.
pub(crate) fn absent(kind: &'static str, words: &[String]) -> ExitCode {
    let name = words.first().map_or("", String::as_str);
    fail(&Absent { kind, name }, None, 64)
}
