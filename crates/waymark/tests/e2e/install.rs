//! `waymark install`, `verify-install`, `uninstall` on an API server.

use std::process::{Command, Output};

use waymark_testkit::kubernetes::{ApiServer, Options, UpstreamCrds};

use crate::waymark;

#[test]
fn what_is_installed_is_verified_and_taken_away_again() {
    let Some(api) = ApiServer::start(Options::default()) else {
        return;
    };
    let dry = said(&run(&api, &["install", "--dry-run"]));
    assert!(
        dry.contains("deployment.apps/istiod created (server dry run)"),
        "{dry}"
    );
    assert!(api.get("namespace", "", "istio-system").is_null());
    let crds = || api.run(&["get", "crd", "-o", "name"]);
    assert_eq!(crds(), "");

    let args = ["install", "--readiness-timeout=0", "--set=image.tag=test"];
    let first = said(&run(&api, &args));
    assert!(first.contains("service/istiod created\n"), "{first}");
    assert!(crds().contains("virtualservices.networking.istio.io"));
    let again = said(&run(&api, &args));
    assert!(again.contains("service/istiod configured\n"), "{again}");
    let deployment = api.get("deployment", "istio-system", "istiod");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "waymark.dev/waymark:test");

    // Neither the Gateway API's definitions nor a replica are there.
    let missing = failure(&run(&api, &["verify-install"]));
    assert!(
        missing.contains("gateways.gateway.networking.k8s.io"),
        "{missing}"
    );
    api.install_crds(&UpstreamCrds::find().unwrap().gateway_standard);
    let unready = failure(&run(&api, &["verify-install"]));
    assert!(
        unready.contains("deployment.apps/istiod is not ready"),
        "{unready}"
    );
    let status = r#"{"status":{"observedGeneration":9,"replicas":2,"readyReplicas":2,"updatedReplicas":2,"availableReplicas":2}}"#;
    api.run(&[
        "patch",
        "deployment",
        "istiod",
        "-n",
        "istio-system",
        "--subresource=status",
        "--type=merge",
        "-p",
        status,
    ]);
    let verified = said(&run(&api, &["verify-install"]));
    assert!(verified.ends_with("✔ Installed and ready\n"), "{verified}");

    // What somebody else has taken over stays, and so do definitions and the namespace.
    api.run(&[
        "label",
        "service",
        "istiod",
        "-n",
        "istio-system",
        "--overwrite",
        "app.kubernetes.io/managed-by=somebody",
    ]);
    said(&run(&api, &["uninstall"]));
    assert!(!api.get("deployment", "istio-system", "istiod").is_null());
    let gone = said(&run(&api, &["uninstall", "-y"]));
    assert!(gone.contains("deployment.apps/istiod deleted\n"), "{gone}");
    assert!(gone.contains("service/istiod left as it is\n"), "{gone}");
    assert!(!api.get("service", "istio-system", "istiod").is_null());
    assert!(
        api.get("clusterrole", "", "waymark-controlplane-istio-system")
            .is_null()
    );
    assert!(!api.get("namespace", "", "istio-system").is_null());
    assert!(crds().contains("virtualservices.networking.istio.io"));
}

#[test]
fn an_object_of_somebody_else_s_stops_an_installation_before_it_begins() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    api.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: istiod-taken, namespace: {namespace} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n"
    ));
    let args = ["install", "--revision=taken", "--namespace", &namespace];
    let why = failure(&run(api, &args));
    assert!(why.contains("service/istiod-taken is there"), "{why}");
    let account = api.get("serviceaccount", &namespace, "waymark-controlplane-taken");
    assert!(account.is_null());
    let wrong = run(api, &["install", "--set=controlPlane.env=a"]);
    assert_eq!(wrong.status.code(), Some(64));
}

fn run(api: &ApiServer, args: &[&str]) -> Output {
    let mut command = Command::new(waymark());
    command.args(args).arg("--kubeconfig").arg(api.kubeconfig());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{why}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn failure(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
