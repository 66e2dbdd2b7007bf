//! Our custom resource definitions beside upstream's: an object that one API server takes, the other takes too.

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::{Client, ResourceExt};
use waymark_api::crd;
use waymark_api::yaml::{parse_value, to_yaml};
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, UpstreamCrds};

use crate::client;

/// An object of the table, and whether it is accepted.
struct Case {
    what: &'static str,
    object: DynamicObject,
    accepted: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_objects_are_accepted_and_refused_as_with_upstream_s_definitions() {
    let Some([upstream, ours]) = servers() else {
        return;
    };
    let (upstream_client, our_client) = (
        client(&upstream.kubeconfig()).await,
        client(&ours.kubeconfig()).await,
    );
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let (theirs, own) = (
            dry_run(&upstream_client, &case.object).await,
            dry_run(&our_client, &case.object).await,
        );
        if theirs.is_ok() != case.accepted || own.is_ok() != case.accepted {
            wrong.push(format!(
                "{} (accepted: {}):\n  upstream's: {theirs:?}\n  ours: {own:?}",
                case.what, case.accepted
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn objects_are_listed_and_have_a_status_as_with_upstream_s_definitions() {
    let Some(servers) = servers() else { return };
    let manifests: String = CASES
        .split("\n---\n")
        .filter(|case| case.starts_with("# accepted"))
        .filter(|case| case.contains("name: listed"))
        .flat_map(|case| [case, "\n---\n"])
        .collect();
    let listed = servers.each_ref().map(|server| {
        server.apply(&manifests);
        ["dr", "se", "vs", "we"].map(|short| {
            let table = server.run(&["get", short, "--namespace=default"]);
            let ages = |line: &str| line.replace(char::is_numeric, "");
            table.lines().map(ages).collect::<Vec<_>>()
        })
    });
    assert_eq!(listed[0], listed[1]);
    for server in &servers {
        for (patch, accepted) in [
            (
                r#"{"status":{"addresses":[{"value":"240.240.0.1"}]}}"#,
                true,
            ),
            (
                r#"{"status":{"conditions":[{"observedGeneration":"1"}]}}"#,
                true,
            ),
            (
                r#"{"status":{"conditions":[{"lastProbeTime":"now"}]}}"#,
                false,
            ),
        ] {
            let done = server
                .kubectl()
                .args(["patch", "se", "listed", "--subresource=status"])
                .args(["--type=merge", "-p", patch])
                .output()
                .unwrap();
            assert_eq!(done.status.success(), accepted, "{patch}: {done:?}");
        }
        let entry = server.get("se", "default", "listed");
        assert_eq!(entry["status"]["addresses"][0]["value"], "240.240.0.1");
    }
    assert!(listed[0].iter().all(|table| table.len() == 2), "{listed:?}");
}

/// One with upstream's definitions, one with ours alone.
fn servers() -> Option<[ApiServer; 2]> {
    let upstream = ApiServer::start(Options::default())?;
    let definitions = UpstreamCrds::find().unwrap();
    upstream.install_crds(&[definitions.istio]);
    let ours = ApiServer::start(Options {
        crds: Crds::None,
        ..Options::default()
    })?;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("crds.yaml");
    let documents: Vec<String> = crd::ALL
        .iter()
        .map(|custom| to_yaml(&custom.definition()))
        .collect();
    std::fs::write(&file, documents.join("---\n")).unwrap();
    ours.install_crds(&[file]);
    Some([upstream, ours])
}

/// What the API server says to an object, whose unknown fields are errors.
async fn dry_run(client: &Client, object: &DynamicObject) -> Result<(), String> {
    let types = object.types.as_ref().unwrap();
    let kind = GroupVersionKind::try_from(types).unwrap();
    let custom = crd::ALL.iter().find(|c| c.kind.as_str() == kind.kind);
    let resource = ApiResource::from_gvk_with_plural(&kind, custom.unwrap().plural);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
    let mut params = PatchParams::apply("test");
    params.dry_run = true;
    params.field_validation = Some(ValidationDirective::Strict);
    api.patch(&object.name_any(), &params, &Patch::Apply(object))
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

fn cases() -> Vec<Case> {
    CASES
        .split("\n---\n")
        .map(|text| {
            let (first, yaml) = text.trim_start().split_once('\n').unwrap();
            let what = first.strip_prefix("# ").unwrap();
            let object = parse_value(yaml).unwrap_or_else(|why| panic!("{what}: {why}"));
            Case {
                what,
                object: serde_json::from_value(object).unwrap(),
                accepted: match what.split_once(": ").unwrap().0 {
                    "accepted" => true,
                    "refused" => false,
                    other => panic!("{other}"),
                },
            }
        })
        .collect()
}

const CASES: &str = include_str!("crds.yaml");
