//! The sample without a mesh: what the other tests stand on.

use std::net::SocketAddr;

use waymark_testkit::http::get;
use waymark_testkit::kubernetes::ApiServer;
use waymark_testkit::wait::until_or;

use crate::{IMAGE, LIMIT, cluster};

#[test]
fn pods_find_services_by_name_and_services_lead_to_pods() {
    let Some(cluster) = cluster() else { return };
    let namespace = cluster.api().namespace();
    // Without the variables that would tell pods the addresses.
    let manifests = manifests(&namespace).replace(
        "  serviceAccountName:",
        "  enableServiceLinks: false\n  serviceAccountName:",
    );
    cluster.api().apply(&manifests);
    cluster.wait(&namespace, &["pod", "--all"], "condition=Ready");

    let productpage = address(cluster.api(), &namespace, "productpage");
    // What it says of reviews it has from there; kube-proxy may be a moment behind.
    let mut last = String::new();
    let answered = until_or(LIMIT, || {
        let answer = get(None, productpage, "/api/v1/products/0/reviews");
        last = format!("{:?}", answer.as_ref().map(|answer| answer.json()));
        let by = answer.map(|answer| answer.json()["podname"].clone());
        by.is_ok_and(|by| by.as_str().is_some_and(|by| by.starts_with("reviews-v")))
    });
    assert!(answered, "{last}\n{}", cluster.state_of(&namespace));
}

/// The sample as it is in the repository, in a namespace and with the image of the program under test.
pub(crate) fn manifests(namespace: &str) -> String {
    include_str!("../../../../examples/bookinfo/bookinfo.yaml")
        .replace("namespace: default", &format!("namespace: {namespace}"))
        .replace("  name: default\n", &format!("  name: {namespace}\n"))
        .replace(
            "image: waymark\n",
            &format!("image: {IMAGE}\n    {NAMED}\n"),
        )
}

/// A service's address and first port.
pub(crate) fn address(api: &ApiServer, namespace: &str, service: &str) -> SocketAddr {
    let service = api.get("service", namespace, service);
    let ip = service["spec"]["clusterIP"].as_str().unwrap();
    let port = &service["spec"]["ports"][0]["port"];
    format!("{ip}:{port}").parse().unwrap()
}

/// Lets a pod say its name.
const NAMED: &str =
    "env: [{ name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }]";
