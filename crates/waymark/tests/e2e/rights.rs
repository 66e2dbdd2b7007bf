//! The control plane under the chart's service account: it is refused nothing, and has no right without use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, helm};
use waymark_testkit::wait::until;

use crate::chart::{documents, rendered};
use crate::process::Process;
use crate::waymark;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn the_control_plane_needs_all_the_rights_it_has_and_no_more() {
    if helm().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    let Some(api) = ApiServer::start(audited(directory.path(), &log)) else {
        return;
    };
    let system = api.namespace();
    let manifests = rendered(&system, &["gatewayClasses.istioWaypoint=false"]);
    api.apply(&manifests);
    let account = format!("system:serviceaccount:{system}:waymark-controlplane");
    let kubeconfig = api.kubeconfig_of(&system, "waymark-controlplane");
    let state = directory.path().join("state");
    let _running = Process::start(
        Command::new(waymark())
            .args(["run", "controlplane", "--kubeconfig"])
            .arg(kubeconfig)
            .args(["--xds-address=127.0.0.1:0", "--debug-address=127.0.0.1:0"])
            .args([
                "--waypoint-image=example.org/waymark:1",
                "--lease-seconds=2",
            ])
            .arg("--state-dir")
            .arg(&state)
            .env("POD_NAMESPACE", &system)
            .env("POD_NAME", "istiod-0"),
    );
    work(&api);

    let used = used(&log, &account);
    assert!(used.refused.is_empty(), "{:#?}", used.refused);
    let unused: Vec<String> = granted(&manifests)
        .into_iter()
        .filter(|right| !used.is_used(right))
        .filter(|right| !SELDOM.iter().any(|(seldom, _)| right == seldom))
        .collect();
    assert_eq!(unused, Vec::<String>::new());
}

/// Everything that makes the control plane write.
fn work(api: &ApiServer) {
    api.apply(SHOP);
    let there = |kind: &str, name: &str| {
        until(&format!("{kind} {name}"), LIMIT, || {
            let object = api.get(kind, "shop", name);
            (!object.is_null()).then_some(())
        });
    };
    for kind in ["deployment", "service", "serviceaccount", "hpa", "pdb"] {
        there(kind, "waypoint");
    }
    there("configmap", "istio-ca-root-cert");
    until("a status of the Gateway", LIMIT, || {
        let gateway = api.get("gateway", "shop", "waypoint");
        gateway["status"]["conditions"].as_array().map(drop)
    });
    for (kind, name) in [("service", "reviews"), ("serviceentry", "outside")] {
        until(&format!("a status of {kind} {name}"), LIMIT, || {
            let object = api.get(kind, "shop", name);
            let conditions = object["status"]["conditions"].as_array()?;
            let bound = |c: &Value| c["type"] == "istio.io/WaypointBound";
            conditions.iter().any(bound).then_some(())
        });
    }
    until("a status of the HTTPRoute", LIMIT, || {
        let route = api.get("httproute", "shop", "reviews");
        route["status"]["parents"][0]["conditions"]
            .as_array()
            .map(drop)
    });
    until("an event about what is refused", LIMIT, || {
        let events = api.run(&["get", "events.events.k8s.io", "-n", "shop", "-o", "name"]);
        (!events.trim().is_empty()).then_some(())
    });
    // Parameters that ask for neither autoscaler nor budget any more: both are cleaned up.
    api.run(&[
        "patch",
        "configmap",
        "parameters",
        "-n",
        "shop",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/data/horizontalPodAutoscaler"},{"op":"remove","path":"/data/podDisruptionBudget"}]"#,
    ]);
    for kind in ["hpa", "pdb"] {
        until(&format!("{kind} is gone"), LIMIT, || {
            api.get(kind, "shop", "waypoint").is_null().then_some(())
        });
    }
    // A Gateway that is a waypoint no more leaves nothing behind.
    api.run(&[
        "patch",
        "gateway",
        "waypoint",
        "-n",
        "shop",
        "--type=merge",
        "-p",
        r#"{"spec":{"gatewayClassName":"somebody-else"}}"#,
    ]);
    for kind in ["deployment", "service", "serviceaccount"] {
        until(&format!("{kind} is gone"), LIMIT, || {
            api.get(kind, "shop", "waypoint").is_null().then_some(())
        });
    }
}

/// What an account has asked for.
struct Used {
    /// Verb and resource of what was refused.
    refused: BTreeSet<String>,
    /// By group and resource: verbs.
    verbs: BTreeMap<String, BTreeSet<String>>,
}

impl Used {
    /// Also a list where it was streamed, as a watch: an API server that does not stream is asked for it.
    fn is_used(&self, right: &str) -> bool {
        let (verb, resource) = right.split_once(' ').unwrap();
        let verb = if verb == "list" { "watch" } else { verb };
        match resource.split_once("/*") {
            Some((group, _)) => self.verbs.iter().any(|(of, verbs)| {
                of.split_once('/').is_some_and(|(g, _)| g == group) && verbs.contains(verb)
            }),
            None => self
                .verbs
                .get(resource)
                .is_some_and(|verbs| verbs.contains(verb)),
        }
    }
}

fn used(log: &Path, account: &str) -> Used {
    let mut used = Used {
        refused: BTreeSet::new(),
        verbs: BTreeMap::new(),
    };
    let text = fs::read_to_string(log).unwrap();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let Some(resource) = event["objectRef"]["resource"].as_str() else {
            continue;
        };
        if event["user"]["username"] != account {
            continue;
        }
        let text = |name: &str| event["objectRef"][name].as_str().unwrap_or_default();
        let verb = event["verb"].as_str().unwrap();
        let mut resource = format!("{}/{resource}", text("apiGroup"));
        if !text("subresource").is_empty() {
            resource = format!("{resource}/{}", text("subresource"));
        }
        let code = event["responseStatus"]["code"].as_u64();
        if code == Some(403) {
            used.refused
                .insert(format!("{verb} {resource} {}", text("name")));
        }
        let verbs = used.verbs.entry(resource).or_default();
        verbs.insert(verb.to_owned());
        if verb == "patch" && code == Some(201) {
            verbs.insert("create".to_owned());
        }
    }
    used
}

/// `verb group/resource` of every right in the rendered roles.
fn granted(manifests: &str) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for object in documents(manifests) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            let texts = |name: &str| -> Vec<String> {
                let list = rule[name].as_array().into_iter().flatten();
                list.map(|text| text.as_str().unwrap().to_owned()).collect()
            };
            for group in texts("apiGroups") {
                for resource in texts("resources") {
                    for verb in texts("verbs") {
                        granted.insert(format!("{verb} {group}/{resource}"));
                    }
                }
            }
        }
    }
    granted
}

fn audited(directory: &Path, log: &Path) -> Options {
    let policy = directory.join("audit.json");
    let rules = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    });
    fs::write(&policy, rules.to_string()).unwrap();
    Options {
        controllers: true,
        crds: Crds::UpstreamStandard,
        api_server_args: vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
        ],
        ..Options::default()
    }
}

/// Rights that this test makes no use of, and when they are used.
const SELDOM: &[(&str, &str)] = &[
    (
        "update /secrets",
        "the renewal of the authority, after years",
    ),
    ("patch events.k8s.io/events", "an event that comes again"),
    (
        "get networking.istio.io/virtualservices",
        "an event about one",
    ),
    (
        "get networking.istio.io/workloadentries",
        "an event about one",
    ),
    (
        "get networking.istio.io/serviceentries",
        "an event about one",
    ),
    (
        "get gateway.networking.k8s.io/gatewayclasses",
        "an event about one",
    ),
    (
        "get gateway.networking.k8s.io/gateways",
        "an event about one",
    ),
    (
        "get gateway.networking.k8s.io/httproutes",
        "an event about one",
    ),
    (
        "create authentication.k8s.io/tokenreviews",
        "a proxy that connects",
    ),
    (
        "list gateway.networking.x-k8s.io/*",
        "a kind of the experimental channel",
    ),
    (
        "watch gateway.networking.x-k8s.io/*",
        "a kind of the experimental channel",
    ),
    (
        "list inference.networking.k8s.io/*",
        "a kind of an extension",
    ),
    (
        "watch inference.networking.k8s.io/*",
        "a kind of an extension",
    ),
];

const SHOP: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint } }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: parameters, namespace: shop }
data:
  horizontalPodAutoscaler: |
    spec: { minReplicas: 1, maxReplicas: 3 }
  podDisruptionBudget: |
    spec: { minAvailable: 1 }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: shop }
spec:
  gatewayClassName: waymark-waypoint
  infrastructure: { parametersRef: { group: '', kind: ConfigMap, name: parameters } }
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
---
apiVersion: v1
kind: Service
metadata: { name: reviews, namespace: shop }
spec: { selector: { app: reviews }, ports: [{ name: http, port: 9080 }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: outside, namespace: shop }
spec:
  hosts: [outside.example]
  addresses: [240.0.0.1]
  ports: [{ name: http, number: 80, protocol: HTTP }]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints: [{ address: 10.0.0.9 }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: reviews, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: reviews, port: 9080 }]
  rules: [{ backendRefs: [{ name: reviews, port: 9080 }] }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: refused, namespace: shop }
spec:
  host: reviews
  trafficPolicy: { tunnel: { targetHost: a, targetPort: 80 } }
";
