//! The deployment controller.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use waymark_api::waypoint::WaypointClass;
use waymark_kubernetes::deployer::{self, DeployerOptions, Report, Verdicts};
use waymark_kubernetes::waypoint::{ContainerImages, PodSettings, Template};
use waymark_rt::Task;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options};

use super::{client, until};

fn options(revision: &str, classes: &[WaypointClass]) -> DeployerOptions {
    DeployerOptions {
        classes: classes.to_vec(),
        revision: revision.to_owned(),
        system_namespace: "istio-system".to_owned(),
        template: Template {
            images: ContainerImages {
                waymark: "example.org/waymark:1".to_owned(),
                istio: "example.org/proxyv2:1".to_owned(),
                pull_policy: None,
                pull_secrets: Vec::new(),
            },
            revision: revision.to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            network: None,
            trust_domain: "cluster.local".to_owned(),
            mesh_id: None,
            discovery_address: "istiod.istio-system.svc:15012".to_owned(),
            proxy_metadata: BTreeMap::new(),
            pod: PodSettings::default(),
        },
    }
}

struct Controller {
    verdicts: watch::Receiver<Arc<Verdicts>>,
    _task: Task<()>,
}

async fn controller(api: &ApiServer, options: DeployerOptions) -> Controller {
    let client = client(&api.kubeconfig()).await;
    let (report, verdicts) = Report::new(client.clone(), "test");
    Controller {
        verdicts,
        _task: waymark_rt::spawn("deployer", deployer::run(client, options, report)),
    }
}

impl Controller {
    /// Whether there are Gateways, and nothing is wrong with any.
    fn fine(&self) -> bool {
        let verdicts = self.verdicts.borrow();
        !verdicts.is_empty() && verdicts.values().all(Option::is_none)
    }

    async fn problem(&self, namespace: &str, gateway: &str) -> String {
        let key = (namespace.to_owned(), gateway.to_owned());
        until("problem", || {
            let verdicts = self.verdicts.borrow();
            let problem = verdicts.get(&key)?.as_ref()?;
            Some(format!("{}: {}", problem.reason, problem.message))
        })
        .await
    }
}

fn gateway(namespace: &str, name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{ name: {name}, namespace: {namespace}, {metadata} }}\n\
         spec: {{ gatewayClassName: istio-waypoint, listeners: [{{ name: mesh, port: 15008, protocol: HBONE }}], {spec} }}\n---\n"
    )
}

/// A namespace whose Gateways are of a revision of its own, so that the controllers of other tests leave them alone.
fn own_namespace(api: &ApiServer) -> String {
    let namespace = api.namespace();
    let revision = format!("istio.io/rev={namespace}");
    api.run(&["label", "namespace", &namespace, &revision]);
    namespace
}

/// Who has written an object.
fn manager(api: &ApiServer, kind: &str, namespace: &str, name: &str) -> String {
    api.run(&[
        "get",
        kind,
        name,
        "--namespace",
        namespace,
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[0].manager} {.metadata.managedFields[0].operation}",
    ])
}

async fn appears(api: &ApiServer, kind: &str, namespace: &str, name: &str) -> Value {
    until(&format!("{kind} {namespace}/{name}"), || {
        let object = api.get(kind, namespace, name);
        (!object.is_null()).then_some(object)
    })
    .await
}

async fn goes(api: &ApiServer, kind: &str, namespace: &str, name: &str) {
    until(&format!("end of {kind} {namespace}/{name}"), || {
        api.get(kind, namespace, name).is_null().then_some(())
    })
    .await;
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_what_it_asks_for_and_nothing_is_written_twice() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = own_namespace(api);
    let _controller = controller(api, options(&namespace, &WaypointClass::ALL)).await;
    api.apply(&gateway(
        &namespace,
        "waypoint",
        "labels: { team: shop }",
        "",
    ));
    let account = appears(api, "serviceaccount", &namespace, "waypoint").await;
    let deployment = appears(api, "deployment", &namespace, "waypoint").await;
    let service = appears(api, "service", &namespace, "waypoint").await;
    let uid = api.get("gateway", &namespace, "waypoint")["metadata"]["uid"].clone();
    for (kind, object) in [
        ("serviceaccount", &account),
        ("deployment", &deployment),
        ("service", &service),
    ] {
        assert_eq!(
            manager(api, kind, &namespace, "waypoint"),
            "istio.io/gateway-controller Apply"
        );
        let metadata = &object["metadata"];
        assert_eq!(
            metadata["labels"]["gateway.networking.k8s.io/gateway-name"],
            "waypoint"
        );
        assert_eq!(
            metadata["labels"]["gateway.istio.io/managed"],
            "istio.io-mesh-controller"
        );
        assert_eq!(metadata["labels"]["team"], "shop");
        assert_eq!(metadata["ownerReferences"][0]["uid"], uid);
    }
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "example.org/proxyv2:1");
    assert_eq!(service["spec"]["ports"][1]["port"], 15008);
    assert_eq!(service["spec"]["ports"][1]["appProtocol"], "hbone");
    // Whoever keeps it is noted, so that an older controller leaves it alone.
    until("version", || {
        let gateway = api.get("gateway", &namespace, "waypoint");
        (gateway["metadata"]["annotations"]["gateway.istio.io/controller-version"] == "5")
            .then_some(())
    })
    .await;

    // An edit of what is ours is put right; what is not ours stays.
    api.run(&[
        "scale",
        "deployment",
        "waypoint",
        "--namespace",
        &namespace,
        "--replicas=3",
    ]);
    api.run(&[
        "label",
        "service",
        "waypoint",
        "--namespace",
        &namespace,
        "gateway.networking.k8s.io/gateway-class-name=x",
        "mine=1",
        "--overwrite",
    ]);
    let service = until("label put right", || {
        let service = api.get("service", &namespace, "waypoint");
        (service["metadata"]["labels"]["gateway.networking.k8s.io/gateway-class-name"]
            == "istio-waypoint")
            .then_some(service)
    })
    .await;
    assert_eq!(service["metadata"]["labels"]["mine"], "1");
    let deployment = api.get("deployment", &namespace, "waypoint");
    assert_eq!(deployment["spec"]["replicas"], 3);

    // A second controller of the same settings, as after a change of leader, finds nothing to write.
    let second = controller(api, options(&namespace, &WaypointClass::ALL)).await;
    api.apply(&gateway(&namespace, "second", "", ""));
    appears(api, "service", &namespace, "second").await;
    drop(second);
    for (kind, before) in [
        ("deployment", &deployment),
        ("service", &service),
        ("serviceaccount", &account),
    ] {
        let now = api.get(kind, &namespace, "waypoint");
        assert_eq!(version(&now), version(before), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_alone_and_reported() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = own_namespace(api);
    api.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: w, namespace: {namespace}, labels: {{ mine: 'yes' }} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n---\n\
         apiVersion: v1\nkind: ServiceAccount\nmetadata: {{ name: w, namespace: {namespace} }}\n"
    ));
    let before = api.get("service", &namespace, "w");
    let controller = controller(api, options(&namespace, &WaypointClass::ALL)).await;
    api.apply(&gateway(&namespace, "w", "", ""));
    let problem = controller.problem(&namespace, "w").await;
    assert!(
        problem.starts_with("ForeignObject: not made for this Gateway, and left alone: Service w;"),
        "{problem}"
    );
    appears(api, "deployment", &namespace, "w").await;
    assert_eq!(
        version(&api.get("service", &namespace, "w")),
        version(&before)
    );
    until("event", || {
        let events = api.run(&["get", "events", "--namespace", &namespace, "-o", "json"]);
        events.contains("ForeignObject").then_some(())
    })
    .await;
    // Once the name is free, the Gateway gets its Service without being touched.
    api.run(&["delete", "service", "w", "--namespace", &namespace]);
    let service = appears(api, "service", &namespace, "w").await;
    assert_eq!(
        service["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"],
        "w"
    );
    until("no problem", || controller.fine().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_that_want_one_name_do_not_write_by_turns() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = own_namespace(api);
    let controller = controller(api, options(&namespace, &WaypointClass::ALL)).await;
    let front = "annotations: { gateway.istio.io/name-override: front }";
    api.apply(&gateway(&namespace, "a", front, ""));
    let first = appears(api, "service", &namespace, "front").await;
    api.apply(&gateway(&namespace, "b", front, ""));
    let problem = controller.problem(&namespace, "b").await;
    assert!(
        problem.contains("Deployment front, Service front"),
        "{problem}"
    );
    assert_eq!(
        version(&api.get("service", &namespace, "front")),
        version(&first)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_laid_over_and_broken_ones_change_nothing() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = own_namespace(api);
    let controller = controller(api, options(&namespace, &WaypointClass::ALL)).await;
    let parameters = |patch: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: p, namespace: {namespace} }}\ndata:\n  deployment: '{patch}'\n  horizontalPodAutoscaler: 'spec: {{ minReplicas: 2, maxReplicas: 4 }}'\n  podDisruptionBudget: 'spec: {{ minAvailable: 1 }}'\n"
        )
    };
    let reference = "infrastructure: { parametersRef: { group: '', kind: ConfigMap, name: p } }";
    api.apply(&gateway(&namespace, "w", "", reference));
    let problem = controller.problem(&namespace, "w").await;
    assert_eq!(
        problem,
        format!(
            "InvalidParameters: spec.infrastructure.parametersRef: there is no ConfigMap {namespace}/p"
        )
    );
    assert!(api.get("deployment", &namespace, "w").is_null());

    api.apply(&parameters(
        "spec: { template: { spec: { priorityClassName: high } } }",
    ));
    let deployment = appears(api, "deployment", &namespace, "w").await;
    assert_eq!(
        deployment["spec"]["template"]["spec"]["priorityClassName"],
        "high"
    );
    let autoscaler = appears(api, "hpa", &namespace, "w").await;
    assert_eq!(autoscaler["spec"]["maxReplicas"], 4);
    appears(api, "pdb", &namespace, "w").await;
    until("no problem", || controller.fine().then_some(())).await;

    api.apply(&parameters("metadata: { name: other }"));
    let problem = controller.problem(&namespace, "w").await;
    assert!(
        problem.contains("key deployment: metadata.name cannot be changed"),
        "{problem}"
    );
    assert_eq!(
        version(&api.get("deployment", &namespace, "w")),
        version(&deployment)
    );

    // Without parameters, autoscaler and budget are not wanted any more.
    api.apply(&gateway(&namespace, "w", "", ""));
    goes(api, "hpa", &namespace, "w").await;
    goes(api, "pdb", &namespace, "w").await;
    assert!(!api.get("deployment", &namespace, "w").is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_of_other_revisions_classes_and_addresses_are_left_alone() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let (plain, ours) = (api.namespace(), api.namespace());
    api.run(&["label", "namespace", &ours, "istio.io/rev=blue-tag"]);
    let _controller = controller(api, options("blue", &[WaypointClass::Istio])).await;
    api.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: tag, namespace: {plain}, labels: {{ istio.io/tag: blue-tag, istio.io/rev: blue }} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
    ));
    let mine = gateway(&plain, "mine", "labels: { istio.io/rev: blue }", "");
    api.apply(&[
        gateway(&plain, "defaults", "", ""),
        gateway(&plain, "red", "labels: { istio.io/rev: red }", ""),
        gateway(&plain, "newer", "labels: { istio.io/rev: blue }, annotations: { gateway.istio.io/controller-version: '6' }", ""),
        gateway(&plain, "elsewhere", "labels: { istio.io/rev: blue }", "addresses: [{ type: Hostname, value: a.example.org }]"),
        gateway(&plain, "waymarks", "labels: { istio.io/rev: blue }", "").replace("istio-waypoint", "waymark-waypoint"),
        mine.clone(),
        gateway(&ours, "by-tag", "", ""),
    ].concat());
    appears(api, "service", &ours, "by-tag").await;
    appears(api, "service", &plain, "mine").await;
    // All were looked at before these were; an address that is somebody else's afterwards ends what was made.
    for name in ["defaults", "red", "newer", "elsewhere", "waymarks"] {
        assert!(api.get("deployment", &plain, name).is_null(), "{name}");
    }
    api.apply(&gateway(
        &plain,
        "mine",
        "labels: { istio.io/rev: blue }",
        "addresses: [{ type: Hostname, value: a.example.org }]",
    ));
    for kind in ["service", "deployment", "serviceaccount"] {
        goes(api, kind, &plain, "mine").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_goes_with_its_gateway() {
    let options_of_server = Options {
        controllers: true,
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(api) = ApiServer::start(options_of_server) else {
        return;
    };
    let namespace = api.namespace();
    let controller = controller(&api, options("default", &WaypointClass::ALL)).await;
    api.apply(&gateway(&namespace, "w", "", "").replace("istio-waypoint", "waymark-waypoint"));
    appears(&api, "deployment", &namespace, "w").await;
    assert_eq!(
        manager(&api, "deployment", &namespace, "w"),
        "waymark.dev/gateway-controller Apply"
    );
    appears(&api, "service", &namespace, "w").await;
    api.run(&["delete", "gateway", "w", "--namespace", &namespace]);
    for kind in ["service", "deployment", "serviceaccount"] {
        goes(&api, kind, &namespace, "w").await;
    }
    until("nothing is known of it", || {
        controller.verdicts.borrow().is_empty().then_some(())
    })
    .await;
}
