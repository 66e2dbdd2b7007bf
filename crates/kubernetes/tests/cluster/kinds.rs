//! What is read, what is refused, what is left to others, and kinds that come and go.

use waymark_api::Resource;
use waymark_api::gateway::GatewayAddress;
use waymark_kubernetes::Options as WatchOptions;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, UpstreamCrds};

use crate::follower::Follower;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_read_as_they_are_and_followed() {
    let Some(api) = ApiServer::shared() else {
        return;
    };
    let ns = api.namespace();
    api.apply(&DESCRIBED.replace("NS", &ns));
    let mut follower = Follower::start(api.kubeconfig(), WatchOptions::default()).await;

    let Some(Resource::Service(service)) = follower.present(&format!("Service {ns}/reviews"))
    else {
        panic!("{:?}", follower.told);
    };
    assert_eq!(service.spec.cluster_ips.addresses().len(), 1);
    assert!(
        service.meta.annotations.is_empty(),
        "what kubectl notes is not kept"
    );
    assert!(service.meta.uid.is_some() && service.meta.creation_timestamp.is_some());
    let slice = follower.present(&format!("EndpointSlice {ns}/external"));
    assert!(matches!(slice, Some(Resource::EndpointSlice(slice)) if slice.endpoints.len() == 1));
    assert!(
        follower
            .present(&format!("VirtualService {ns}/reviews"))
            .is_some()
    );
    for foreign in [
        "VirtualService NS/canary",
        "Gateway NS/ingress",
        "HTTPRoute NS/ingress",
    ] {
        assert!(
            !follower.objects.contains_key(&foreign.replace("NS", &ns)),
            "{foreign}"
        );
    }

    // A status is read where it means something.
    let gateway = format!("Gateway {ns}/waypoint");
    let patch = r#"{"status":{"addresses":[{"type":"Hostname","value":"waypoint.example"}]}}"#;
    let ours = [
        "--namespace",
        &ns,
        "--type=merge",
        "--subresource=status",
        "--patch",
        patch,
    ];
    api.run(&[&["patch", "gateway", "waypoint"], ours.as_slice()].concat());
    follower
        .until("the waypoint's address", |follower| {
            let address = GatewayAddress::Hostname("waypoint.example".to_owned());
            matches!(follower.present(&gateway), Some(Resource::Gateway(gateway)) if gateway.status_addresses == [address])
        })
        .await;

    // What upstream takes and is not understood is told, with its field, and what comes after it is read.
    let rule = format!("DestinationRule {ns}/reviews");
    let host = |host: &str| DESTINATION_RULE.replace("NS", &ns).replace("HOST", host);
    api.apply(&host("reviews"));
    follower
        .until("a rule", |follower| follower.present(&rule).is_some())
        .await;
    api.apply(&host("re views"));
    follower
        .until("a bad rule", |follower| !follower.errors(&rule).is_empty())
        .await;
    let [error] = &follower.errors(&rule)[..] else {
        panic!("{:?}", follower.errors(&rule))
    };
    assert!(
        error.starts_with(&format!("cluster: {rule}: spec.host: ")),
        "{error}"
    );
    api.apply(&host("ratings"));
    follower
        .until("a mended rule", |follower| {
            follower.present(&rule).is_some()
        })
        .await;

    api.run(&["delete", "destinationrule", "reviews", "--namespace", &ns]);
    follower
        .until("no rule", |follower| !follower.objects.contains_key(&rule))
        .await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_is_picked_up_when_it_is_installed_and_dropped_when_it_is_removed() {
    let Some(api) = ApiServer::start(Options::default()) else {
        return;
    };
    let ns = api.namespace();
    let mut follower = Follower::start(api.kubeconfig(), WatchOptions::default()).await;
    assert!(follower.present("Namespace default").is_some());

    api.install_crds(&UpstreamCrds::find().unwrap().files(Crds::UpstreamStandard));
    let rule = format!("DestinationRule {ns}/reviews");
    api.apply(
        &DESTINATION_RULE
            .replace("NS", &ns)
            .replace("HOST", "reviews"),
    );
    api.apply(&GATEWAY.replace("NS", &ns));
    follower
        .until("a rule", |follower| follower.present(&rule).is_some())
        .await;
    let gateway = format!("Gateway {ns}/waypoint");
    follower
        .until("a Gateway", |follower| follower.present(&gateway).is_some())
        .await;

    let crd = "destinationrules.networking.istio.io";
    api.run(&["delete", "customresourcedefinition", crd]);
    follower
        .until("no rule", |follower| !follower.objects.contains_key(&rule))
        .await;
    assert!(follower.present(&gateway).is_some());

    let istio = UpstreamCrds::find().unwrap().istio;
    api.install_crds(&[istio]);
    api.apply(
        &DESTINATION_RULE
            .replace("NS", &ns)
            .replace("HOST", "reviews"),
    );
    follower
        .until("the rule again", |follower| {
            follower.present(&rule).is_some()
        })
        .await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_may_not_be_read_keeps_the_first_batch_back_until_it_may() {
    let Some(api) = ApiServer::start(Options::default()) else {
        return;
    };
    api.apply(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: reader, namespace: default }\n",
    );
    api.apply(&role("[services, pods, namespaces, serviceaccounts]"));
    let kubeconfig = api.kubeconfig_of("default", "reader");
    let mut follower = Follower::begin(kubeconfig, WatchOptions::default()).await;
    follower.settle().await;
    assert!(
        follower.told.is_empty(),
        "Nodes and EndpointSlices may not be read"
    );

    api.apply(&role("['*']"));
    follower
        .until("everything", |follower| {
            follower.present("Namespace default").is_some()
        })
        .await;
    follower.stop().await;
}

fn role(resources: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{ name: reader }}\n\
         rules: [{{ apiGroups: ['*'], resources: {resources}, verbs: [list, watch] }}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{ name: reader }}\n\
         roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader }}\n\
         subjects: [{{ kind: ServiceAccount, name: reader, namespace: default }}]\n"
    )
}

const DESTINATION_RULE: &str = r"
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: reviews, namespace: NS }
spec: { host: HOST }
";

const GATEWAY: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: NS }
spec:
  gatewayClassName: istio-waypoint
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
";

const DESCRIBED: &str = r"
apiVersion: v1
kind: Service
metadata:
  name: reviews
  namespace: NS
  annotations: { kubectl.kubernetes.io/last-applied-configuration: '{}' }
spec: { selector: { app: reviews }, ports: [{ name: http, port: 9080 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: external, namespace: NS, labels: { kubernetes.io/service-name: external } }
addressType: IPv4
ports: [{ name: http, port: 80 }]
endpoints: [{ addresses: [192.0.2.7] }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: reviews, namespace: NS }
spec:
  hosts: [reviews]
  http: [{ route: [{ destination: { host: reviews } }] }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: canary, namespace: NS, labels: { istio.io/rev: canary } }
spec:
  hosts: [reviews]
  http: [{ route: [{ destination: { host: reviews } }] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: NS }
spec:
  gatewayClassName: istio-waypoint
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: ingress, namespace: NS }
spec:
  gatewayClassName: nginx
  listeners: [{ name: http, port: 80, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: ingress, namespace: NS }
spec:
  parentRefs: [{ name: ingress }]
  rules: [{ backendRefs: [{ name: reviews, port: 9080 }] }]
";
