//! The manifests that come with Waymark are good ones.
use std::path::{Path, PathBuf};

use waymark_api::gateway::WaypointForm;
use waymark_api::{Kind, Resource, yaml};

fn manifests(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("examples") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(manifests(&path));
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    files
}

fn examples() -> Vec<Resource> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut resources = Vec::new();
    for file in manifests(&directory) {
        let text = std::fs::read_to_string(&file).expect("manifest");
        for document in yaml::parse_documents(&file.to_string_lossy(), &text) {
            resources.push(document.unwrap_or_else(|e| panic!("{e}")).resource);
        }
    }
    resources
}

#[test]
fn every_example_is_read_without_error() {
    let resources = examples();
    let count = |kind| resources.iter().filter(|r| r.kind() == kind).count();
    assert_eq!(count(Kind::Service), 4);
    assert_eq!(count(Kind::ServiceAccount), 4);
    assert_eq!(count(Kind::Pod), 6);
}

#[test]
fn bookinfo_has_the_waypoint_of_2023_and_a_canary() {
    let resources = examples();
    let gateway = resources.iter().find_map(|r| match r {
        Resource::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let gateway = gateway.expect("a waypoint");
    assert_eq!(
        gateway.form(),
        WaypointForm::ServiceAccount2023("bookinfo-reviews")
    );
    assert_eq!(gateway.deployment_name(), "bookinfo-reviews-istio-waypoint");
    let pods = resources.iter().filter_map(|r| match r {
        Resource::Pod(pod) => Some(pod),
        _ => None,
    });
    for pod in pods {
        assert_eq!(pod.tcp_ports(), [9080]);
        assert!(
            pod.probe_ports().is_empty(),
            "the port would not be covered by the waypoint"
        );
        let command = pod.local.command.as_ref().expect("a command");
        assert_eq!(command[..2], ["waymark", "sample"]);
    }
}
