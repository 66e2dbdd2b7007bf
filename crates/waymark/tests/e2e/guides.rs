//! The commands of the guides, run as they are written: what needs no node, against a real API server.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, Programs, UpstreamCrds};
use waymark_testkit::netns::isolated;

use crate::waymark;

/// The blocks marked `sh`, in order.
fn blocks(guide: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/guide")
        .join(guide);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            blocks.push(block.join("\n"));
        }
    }
    assert!(!blocks.is_empty(), "{guide}");
    blocks
}

/// Runs a guide's blocks in a directory; what each printed.
fn follow(api: &ApiServer, directory: &Path, guide: &str) -> Vec<String> {
    let kubectl = api.kubectl();
    let kubectl = Path::new(kubectl.get_program())
        .parent()
        .unwrap()
        .display()
        .to_string();
    let own = waymark().parent().unwrap().display().to_string();
    let others = std::env::var("PATH").unwrap();
    blocks(guide)
        .iter()
        .map(|block| {
            let output = Command::new("sh")
                .args(["-e", "-c", block])
                .current_dir(directory)
                .env("PATH", format!("{own}:{kubectl}:{others}"))
                .env("HOME", directory)
                .env("KUBECONFIG", api.kubeconfig())
                .env_remove("XDG_STATE_HOME")
                .env_remove("WAYMARK_STATE_DIR")
                .output()
                .unwrap();
            assert!(output.status.success(), "{guide}: {block}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
        .collect()
}

fn label(api: &ApiServer) -> Value {
    api.get("service", "shop", "reviews")["metadata"]["labels"]["istio.io/use-waypoint"].clone()
}

#[test]
fn guides_can_be_followed() {
    if Programs::find().is_none() || UpstreamCrds::find().is_err() {
        return;
    }
    isolated(|| {
        let options = Options {
            crds: Crds::UpstreamStandard,
            ..Options::default()
        };
        let api = ApiServer::start(options).expect("found before");
        let home = tempfile::tempdir().unwrap();
        api.apply(
            "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: { name: reviews, namespace: shop }\nspec: { ports: [{ name: http, port: 9080 }] }\n---\n\
             apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: { name: waypoint, namespace: shop }\n\
             spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }\n",
        );
        let said = follow(&api, home.path(), "beside-istiod.md");
        assert!(
            said[0].contains("[WM0202] (Gateway waypoint.shop) stays with"),
            "{said:?}"
        );
        assert!(said[1].contains("trial        waymark"), "{said:?}");
        assert!(label(&api).is_null() && api.get("gateway", "shop", "trial").is_null());

        let said = follow(&api, home.path(), "instead-of-istiod.md");
        assert!(
            said[0].contains("[WM0201] (Gateway waypoint.shop) is taken"),
            "{said:?}"
        );
        assert!(home.path().join("waypoints-before.yaml").is_file());

        // From a trial that was not taken back.
        api.run(&[
            "label",
            "service",
            "reviews",
            "--namespace",
            "shop",
            "istio.io/use-waypoint=trial",
        ]);
        api.run(&["delete", "gateway", "waypoint", "--namespace", "shop"]);
        follow(&api, home.path(), "back-again.md");
        assert_eq!(label(&api), "waypoint");
        assert!(!api.get("gateway", "shop", "waypoint").is_null());
    });
}
