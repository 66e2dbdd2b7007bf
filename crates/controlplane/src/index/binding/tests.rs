//! Who gets which waypoint. Spec: ARCHITECTURE.md, "Waypoints of then and of now"; control-plane.md 7.

use super::*;
use crate::fixture::Fixture;

const WORKLOADS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {selector: {app: reviews}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews}}
spec: {serviceAccountName: reviews, containers: [{name: c}]}
";

fn namespace(name: &str, labels: &str) -> String {
    format!(
        "\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
    )
}

fn gateway(version: &str, namespace: &str, name: &str, more: &str, allowed: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/{version}\nkind: Gateway\n\
         metadata: {{name: {name}, namespace: {namespace}, {more}}}\n\
         spec:\n  gatewayClassName: istio-waypoint\n  listeners:\n  \
         - {{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {allowed}}}}}\n"
    )
}

fn today(name: &str) -> String {
    gateway("v1", "shop", name, "labels: {}", "{from: Same}")
}

fn of_2023(name: &str) -> String {
    gateway("v1beta1", "shop", name, "labels: {}", "{from: Same}")
}

fn of_account(name: &str) -> String {
    gateway(
        "v1",
        "shop",
        name,
        "annotations: {istio.io/for-service-account: reviews}",
        "{from: Same}",
    )
}

/// The bindings of the service and of its pod.
fn bindings(manifests: &[String]) -> (String, String) {
    let all: Vec<&str> = std::iter::once(WORKLOADS)
        .chain(manifests.iter().map(String::as_str))
        .collect();
    let fixture = Fixture::new(&all);
    let service = fixture
        .index
        .services_of_host("reviews.shop.svc.cluster.local")
        .next()
        .expect("the service");
    let pod = crate::index::key::Uid::pod("Kubernetes", "shop", "reviews-1");
    (
        show(fixture.index.service_binding(service)),
        show(fixture.index.workload_binding(&pod)),
    )
}

fn show(binding: &Binding) -> String {
    match binding {
        Binding::Unbound => "-".to_owned(),
        Binding::Bound(key) => key.to_string(),
        Binding::Refused(key, refusal) => format!("{key}: {}", refusal.reason()),
    }
}

fn check(what: &str, manifests: &[String], service: &str, pod: &str) {
    assert_eq!(
        bindings(manifests),
        (service.to_owned(), pod.to_owned()),
        "{what}"
    );
}

#[test]
fn labels_name_a_waypoint() {
    let label = |name: &str| namespace("shop", &format!("istio.io/use-waypoint: {name}"));
    check("nobody asks", &[today("w")], "-", "-");
    check(
        "the namespace asks",
        &[today("w"), label("w")],
        "shop/w",
        "-",
    );
    check(
        "the namespace declines",
        &[today("w"), label("none")],
        "-",
        "-",
    );
    check(
        "it is not there",
        &[label("w")],
        "shop/w: WaypointIsNotReady",
        "shop/w: WaypointIsNotReady",
    );
    let takes = |what: &str| {
        gateway(
            "v1",
            "shop",
            "w",
            &format!("labels: {{istio.io/waypoint-for: {what}}}"),
            "{from: Same}",
        )
    };
    check(
        "it takes all traffic",
        &[takes("all"), label("w")],
        "shop/w",
        "shop/w",
    );
    check(
        "it takes workloads'",
        &[takes("workload"), label("w")],
        "shop/w: UnsupportedTrafficType",
        "shop/w",
    );
    let on_pod = WORKLOADS.replace(
        "labels: {app: reviews}",
        "labels: {app: reviews, istio.io/use-waypoint: w}",
    );
    check(
        "a pod asks for what is not for pods",
        &[today("w"), on_pod],
        "-",
        "shop/w: UnsupportedTrafficType",
    );
    let on_service = WORKLOADS.replace(
        "namespace: shop}\nspec: {selector",
        "namespace: shop, labels: {istio.io/use-waypoint: none}}\nspec: {selector",
    );
    check(
        "the object comes before its namespace",
        &[takes("all"), label("w"), on_service],
        "-",
        "shop/w",
    );
}

#[test]
fn a_waypoint_of_another_namespace_has_to_admit() {
    let label = namespace(
        "shop",
        "team: red, istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: infra",
    );
    let of_infra = |allowed: &str| gateway("v1", "infra", "w", "labels: {}", allowed);
    let cases = [
        ("{from: Same}", "infra/w: AttachmentDenied"),
        ("{from: All}", "infra/w"),
        (
            "{from: Selector, selector: {matchLabels: {team: red}}}",
            "infra/w",
        ),
        (
            "{from: Selector, selector: {matchLabels: {team: blue}}}",
            "infra/w: AttachmentDenied",
        ),
        (
            "{from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: shop}}}",
            "infra/w",
        ),
    ];
    for (allowed, service) in cases {
        let pod = if service == "infra/w" { "-" } else { service };
        check(allowed, &[of_infra(allowed), label.clone()], service, pod);
    }
}

#[test]
fn waypoints_of_2023_bind_without_labels() {
    check("of a namespace", &[of_2023("w")], "shop/w", "shop/w");
    check("of an account", &[of_account("w")], "shop/w", "shop/w");
    check(
        "of an account before that of the namespace",
        &[of_2023("a"), of_account("w")],
        "shop/w",
        "shop/w",
    );
    let label = namespace("shop", "istio.io/use-waypoint: n");
    check(
        "a label comes before that of the namespace",
        &[of_2023("w"), today("n"), label.clone()],
        "shop/n",
        "-",
    );
    check(
        "of an account before the namespace's label",
        &[of_account("w"), today("n"), label],
        "shop/w",
        "shop/w",
    );
    let other = WORKLOADS
        .replace("reviews-1", "reviews-2")
        .replace("serviceAccountName: reviews", "serviceAccountName: other");
    check(
        "a service of two accounts",
        &[of_account("w"), other.clone()],
        "shop/w: MixedServiceAccounts",
        "shop/w",
    );
    check(
        "which the namespace's takes",
        &[of_account("w"), of_2023("n"), other],
        "shop/n",
        "shop/w",
    );
    let declines = namespace("shop", "istio.io/use-waypoint: none");
    check(
        "the namespace declines",
        &[of_2023("w"), declines],
        "-",
        "-",
    );
}

#[test]
fn of_two_waypoints_of_2023_the_older_one_binds() {
    let aged = |name: &str, created: &str| {
        let more = format!(
            "creationTimestamp: {created}, annotations: {{istio.io/for-service-account: reviews}}"
        );
        gateway("v1", "shop", name, &more, "{from: Same}")
    };
    let manifests = [
        aged("a", "\"2024-01-02T00:00:00Z\""),
        aged("b", "\"2024-01-01T00:00:00Z\""),
    ];
    check("the older one", &manifests, "shop/b", "shop/b");
}

#[test]
fn a_waypoint_is_never_bound_to_itself() {
    let fixture = Fixture::new(&[&of_2023("w")]);
    for service in fixture.index.services() {
        assert_eq!(
            fixture.index.service_binding(&service.key),
            &Binding::Unbound,
            "{}",
            service.key
        );
    }
    for workload in fixture.index.workloads() {
        assert_eq!(
            fixture.index.workload_binding(&workload.uid),
            &Binding::Unbound,
            "{}",
            workload.uid
        );
    }
}
