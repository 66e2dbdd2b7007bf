//! The certificate authority's Secrets, and its roots in every namespace.

use std::sync::Arc;

use kube::api::{Api, DeleteParams, DynamicObject};
use serde_json::json;
use tokio::sync::watch;
use waymark_identity::TrustDomain;
use waymark_identity::ca::CaPem;
use waymark_kubernetes::ca_secret::{CaOrigin, CaSecretError, CaSecrets};
use waymark_kubernetes::root_config_map;
use waymark_rt::{ManualClock, SystemClock};
use waymark_testkit::kubernetes::ApiServer;

use super::{client, until};

async fn secrets(api: &ApiServer, namespace: &str) -> CaSecrets {
    let client = client(&api.kubeconfig()).await;
    CaSecrets::new(
        client,
        namespace,
        &TrustDomain::default(),
        Arc::new(SystemClock),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_have_one_authority() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let secrets = secrets(api, &namespace).await;
        replicas.spawn(async move { secrets.load_or_create().await.unwrap() });
    }
    let all = replicas.join_all().await;
    let (first, origin) = &all[0];
    assert_eq!(*origin, CaOrigin::SelfSigned);
    assert!(
        all.iter()
            .all(|(ca, _)| ca.roots_pem() == first.roots_pem())
    );
    let secret = api.get("secret", &namespace, "istio-ca-secret");
    assert_eq!(secret["type"], "istio.io/ca-root");
    assert_eq!(secret["data"]["root-cert.pem"], "");
    assert_ne!(secret["data"]["ca-key.pem"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_authority_comes_first_and_must_be_whole() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let secrets = secrets(api, &namespace).await;
    secrets.load_or_create().await.unwrap();
    let pem = CaPem::self_signed(&TrustDomain::default(), &SystemClock).unwrap();
    let cacerts = |chain: &str| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "cacerts", "namespace": namespace},
            "stringData": {"ca-cert.pem": pem.signer, "ca-key.pem": pem.key, "root-cert.pem": pem.roots, "cert-chain.pem": chain},
        })
        .to_string()
    };
    api.apply(&cacerts(""));
    let error = secrets.load_or_create().await.unwrap_err();
    assert!(
        matches!(
            error,
            CaSecretError::Incomplete {
                key: "cert-chain.pem",
                ..
            }
        ),
        "{error}"
    );
    api.apply(&cacerts(&pem.chain));
    let (ca, origin) = secrets.load_or_create().await.unwrap();
    assert_eq!(origin, CaOrigin::Plugged);
    assert_eq!(ca.roots_pem(), pem.roots);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_root_is_renewed_once_and_stays_trusted() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let namespace = api.namespace();
    let (old, _) = secrets(api, &namespace)
        .await
        .load_or_create()
        .await
        .unwrap();
    let nine_years = std::time::Duration::from_secs(9 * 365 * 24 * 3600);
    let later = Arc::new(ManualClock::new(std::time::SystemTime::now() + nine_years));
    let client = client(&api.kubeconfig()).await;
    let secrets = CaSecrets::new(client, &namespace, &TrustDomain::default(), later);
    assert!(secrets.renew_if_due().await.unwrap());
    assert!(!secrets.renew_if_due().await.unwrap());
    let (new, _) = secrets.load().await.unwrap().unwrap();
    assert_eq!(new.roots().certificates().len(), 2);
    assert!(new.roots_pem().contains(old.roots_pem()));
    waymark_kubernetes::ca_secret::may_replace(&old, &new).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_in_every_namespace_and_put_right() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let first = api.namespace();
    let client = client(&api.kubeconfig()).await;
    let (roots, wanted) = watch::channel("one".to_owned());
    let _keeper = waymark_rt::spawn("roots", root_config_map::keep(client.clone(), wanted));
    let has = |namespace: &str, text: &'static str| {
        let namespace = namespace.to_owned();
        async move {
            until(&format!("root in {namespace}"), || {
                let map = api.get("configmap", &namespace, root_config_map::NAME);
                (map["data"]["root-cert.pem"] == text).then_some(map)
            })
            .await
        }
    };
    let map = has(&first, "one").await;
    assert_eq!(map["metadata"]["labels"]["istio.io/config"], "true");
    has("kube-system", "one").await;
    let second = api.namespace();
    has(&second, "one").await;
    assert!(
        api.get("configmap", "kube-public", root_config_map::NAME)
            .is_null()
    );

    let maps: Api<DynamicObject> = Api::namespaced_with(
        client.clone(),
        &first,
        &kube::api::ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&()),
    );
    maps.delete(root_config_map::NAME, &DeleteParams::default())
        .await
        .unwrap();
    has(&first, "one").await;
    api.run(&[
        "patch",
        "configmap",
        root_config_map::NAME,
        "--namespace",
        &first,
        "--type=merge",
        "--patch",
        r#"{"metadata":{"labels":{"istio.io/config":null}},"data":{"root-cert.pem":"forged"}}"#,
    ]);
    let put_right = has(&first, "one").await;
    assert_eq!(put_right["metadata"]["labels"]["istio.io/config"], "true");

    let untouched = api.get("configmap", &second, root_config_map::NAME);
    roots.send_replace("two".to_owned());
    has(&first, "two").await;
    let changed = has(&second, "two").await;
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        untouched["metadata"]["resourceVersion"]
    );
    // Nothing is written that is as it should be.
    let third = api.namespace();
    has(&third, "two").await;
    let now = api.get("configmap", &second, root_config_map::NAME);
    assert_eq!(
        now["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
}
