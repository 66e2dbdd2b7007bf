//! The Helm chart: what it renders is taken by an API server, what is made from it is fresh, and the control plane needs no right
//! that it does not give.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use waymark_api::yaml::parse_value;
use waymark_testkit::kubernetes::{ApiServer, helm};

use crate::waymark;

#[test]
fn every_rendering_is_taken_by_an_api_server() {
    let (Some(api), Some(_)) = (ApiServer::shared(), helm()) else {
        return;
    };
    let namespace = api.namespace();
    let linted = helm_on_chart(&["lint", CHART, "--strict"]);
    assert!(linted.status.success(), "{linted:?}");
    for values in RENDERINGS {
        let manifests = rendered(&namespace, values);
        let (accepted, said) = api.try_apply(&manifests, &["--dry-run=server"]);
        assert!(accepted, "{values:?}: {said}");
    }
}

#[test]
fn two_revisions_have_no_object_in_common() {
    if helm().is_none() {
        return;
    }
    let names = |values: &[&str]| -> BTreeSet<String> {
        documents(&rendered("istio-system", values))
            .iter()
            .map(|o| format!("{} {}", o["kind"], o["metadata"]["name"]))
            .collect()
    };
    let (one, two) = (names(&[]), names(&["revision=canary"]));
    assert!(one.is_disjoint(&two), "{one:?} {two:?}");
}

#[test]
fn values_that_cannot_be_are_refused() {
    if helm().is_none() {
        return;
    }
    for wrong in [
        "revision=Not_A_Name",
        "controlPlane.replicas=many",
        "controlPlane.replica=1",
        "image.pullPolicy=Sometimes",
        "waypoints.classes={istio}",
        "mesh.discoveryAddress=istiod",
    ] {
        let output = template("istio-system", &[wrong]);
        assert!(!output.status.success(), "{wrong}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("don't meet the specifications"), "{said}");
    }
}

#[test]
fn containers_have_no_more_than_they_need() {
    if helm().is_none() {
        return;
    }
    let objects = documents(&rendered("istio-system", &["node.enabled=true"]));
    let pods: Vec<&Value> = objects
        .iter()
        .filter_map(|o| o.pointer("/spec/template/spec"))
        .collect();
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let context = &pod["securityContext"];
        assert_eq!(context["runAsNonRoot"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(
                container["securityContext"],
                json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                })
            );
            assert!(!container["resources"]["requests"].is_null());
        }
    }
}

/// `docs/reference/rbac.md` and the chart say the same, and each row why.
#[test]
fn no_verb_is_unjustified() {
    if helm().is_none() {
        return;
    }
    let objects = documents(&rendered("istio-system", &[]));
    let mut granted = BTreeSet::new();
    for (kind, place) in [("ClusterRole", "all"), ("Role", "own")] {
        let role = objects.iter().find(|o| o["kind"] == kind).unwrap();
        for rule in role["rules"].as_array().unwrap() {
            granted.insert([
                place.to_owned(),
                texts(&rule["apiGroups"]),
                texts(&rule["resources"]),
                texts(&rule["resourceNames"]),
                texts(&rule["verbs"]),
            ]);
        }
    }
    let table = fs::read_to_string(root().join("docs/reference/rbac.md")).unwrap();
    let mut justified = BTreeSet::new();
    for row in table
        .lines()
        .filter(|l| l.starts_with("| all") || l.starts_with("| own"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [place, group, resources, names, verbs, why] = cells[..] else {
            panic!("{row}");
        };
        assert!(why.len() > 5, "{row}");
        justified.insert([place, group, resources, names, verbs].map(str::to_owned));
    }
    assert_eq!(granted, justified);
}

#[test]
fn what_is_made_from_other_files_is_fresh() {
    let Some(helm) = helm() else { return };
    let made = ["helm/waymark/crds/istio.yaml", "manifests/waymark.yaml"]
        .map(|file| root().join("deploy").join(file));
    let before = made.clone().map(|file| fs::read(file).unwrap());
    let copy = tempfile::tempdir().unwrap();
    let deploy = root().join("deploy");
    run(Command::new("cp").arg("-r").arg(&deploy).arg(copy.path()));
    let copied = copy.path().join("deploy");
    run(Command::new(copied.join("render")).arg(waymark()).arg(helm));
    for (file, before) in made.iter().zip(before) {
        let fresh = fs::read(copied.join(file.strip_prefix(&deploy).unwrap())).unwrap();
        assert!(
            fresh == before,
            "{} is stale: run deploy/render",
            file.display()
        );
    }
}

fn texts(list: &Value) -> String {
    let texts: Vec<&str> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|text| match text.as_str().unwrap() {
            "" => "core",
            text => text,
        })
        .collect();
    texts.join(", ")
}

/// What the chart renders as release `waymark`.
pub(crate) fn rendered(namespace: &str, values: &[&str]) -> String {
    let output = template(namespace, values);
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{values:?}: {why}");
    String::from_utf8(output.stdout).unwrap()
}

fn template(namespace: &str, values: &[&str]) -> Output {
    let mut args = vec!["template", "waymark", CHART, "--namespace", namespace];
    args.extend(["--kube-version", "1.36.0"]);
    for value in values {
        args.extend(["--set", value]);
    }
    helm_on_chart(&args)
}

fn helm_on_chart(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(helm().unwrap());
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, home.path());
    }
    command
        .current_dir(root().join("deploy/helm"))
        .args(args)
        .output()
        .unwrap()
}

pub(crate) fn documents(manifests: &str) -> Vec<Value> {
    let documents = manifests.split("\n---\n").map(|d| parse_value(d).unwrap());
    documents.filter(|d| !d.is_null()).collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {why}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// In `deploy/helm`.
const CHART: &str = "waymark";

/// Values that are set; all of a ServiceMonitor's are left out, whose kind is somebody else's.
const RENDERINGS: &[&[&str]] = &[
    &[],
    &[
        "revision=canary",
        "mesh.discoveryAddress=istiod.example:15012",
    ],
    &["controlPlane.replicas=1", "networkPolicy.enabled=false"],
    &["controlPlane.autoscaling.enabled=true", "node.enabled=true"],
    &[
        "image.pullSecrets[0].name=registry",
        "image.pullPolicy=Always",
        "waypoints.classes={waymark-waypoint}",
        "waypoints.template.network=west",
        "gatewayClasses.istioWaypoint=false",
    ],
    &[
        "controlPlane.env[0].name=A",
        "controlPlane.env[0].value=b",
        "controlPlane.priorityClassName=system-cluster-critical",
        "controlPlane.nodeSelector.a=b",
        "controlPlane.tolerations[0].operator=Exists",
        "controlPlane.podAnnotations.a=b",
        "node.enabled=true",
        "node.env[0].name=A",
        "node.env[0].value=b",
        "node.podAnnotations.a=b",
    ],
];
