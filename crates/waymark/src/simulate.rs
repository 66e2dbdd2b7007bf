//! `analyze distribution --simulate`: the operator's command asks, the control plane's own index counts.

use serde_json::Value;
use waymark_cli::Size;

pub(crate) fn run(size: Size) -> Result<Value, String> {
    let report = waymark_controlplane::distribution::simulate(
        size.namespaces,
        size.deployments,
        size.pods,
        size.waypoint_replicas,
    );
    serde_json::to_value(report).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_published_examples() {
        let counts = |namespaces, deployments, pods, waypoint_replicas| {
            let report = run(Size {
                namespaces,
                deployments,
                pods,
                waypoint_replicas,
            })
            .expect("report");
            let of = |name: &str| -> u64 {
                let rows = report["rows"].as_array().expect("rows");
                let row = rows.iter().find(|r| r["name"] == name).expect(name);
                row["configurations"].as_u64().expect("a count")
            };
            [
                of("sidecarsOwnNamespace"),
                of("sidecarsWholeMesh"),
                of("waypoints"),
            ]
        };
        assert_eq!(counts(2, 25, 10, 2), [12500, 25000, 100]);
        assert_eq!(counts(2, 2, 1, 1), [8, 16, 4]);
    }
}
