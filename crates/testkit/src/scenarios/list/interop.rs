//! The gRPC interoperability cases that need no credentials, with gRPC's own client and server.

use std::process::Command;

use super::scenario;
use crate::scenarios::{Scenario, Site, Verdict};

/// The service in front of the interoperability server.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: HOST, namespace: scenarios}\nspec:\n  selector: {app: interop}\n  ports:\n  - {name: grpc, port: 90, targetPort: 10000}\n";

/// Runs the client's case; it says what went wrong on stderr.
fn case(site: &Site<'_>, name: &str, more: &[&str]) -> Verdict {
    let interop = site
        .ground
        .interop
        .as_ref()
        .ok_or("no gRPC interoperability programs")?;
    let output = Command::new(interop.client())
        .args(["-server_host", &site.vip.to_string(), "-server_port", "90"])
        .args(["-test_case", name])
        .args(more)
        .output()
        .map_err(|e| format!("run the client: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty());
    Err(format!("{}: {}", output.status, last.unwrap_or_default()))
}

/// What makes the client take a channel's load reports.
const ORCA: &str = r#"{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}"#;

macro_rules! interop {
    ($name:literal $(, $more:expr)*) => {
        scenario(concat!("grpc interop: ", $name), SERVICE, |site| {
            // Cases cancel calls, and the client leaves when it has seen enough.
            site.may_log("DR");
            site.may_log("DC");
            case(site, $name, &[$($more),*])
        })
    };
}

// Without `pick_first_unary`: gRPC's server in Go does not fill in the id that its client in Go asks for there.
pub(super) const LIST: &[Scenario] = &[
    interop!("empty_unary"),
    interop!("large_unary"),
    interop!("client_streaming"),
    interop!("server_streaming"),
    interop!("ping_pong"),
    interop!("empty_stream"),
    interop!("timeout_on_sleeping_server"),
    interop!("cancel_after_begin"),
    interop!("cancel_after_first_response"),
    interop!("status_code_and_message"),
    interop!("special_status_message"),
    interop!("custom_metadata"),
    interop!("unimplemented_method"),
    interop!("unimplemented_service"),
    interop!("orca_per_rpc", "-service_config_json", ORCA),
    interop!("orca_oob", "-service_config_json", ORCA),
    interop!(
        "rpc_soak",
        "-soak_iterations",
        "20",
        "-soak_overall_timeout_seconds",
        "60"
    ),
    interop!(
        "channel_soak",
        "-soak_iterations",
        "20",
        "-soak_overall_timeout_seconds",
        "60"
    ),
];

/// Whether a scenario needs gRPC's programs.
#[must_use]
pub fn needs_interop(scenario: &Scenario) -> bool {
    scenario.manifests == SERVICE
}
