//! What the control plane writes into a cluster, and whom it gives certificates there.

use waymark_identity::client::{BearerToken, CaClient, CaClientOptions};

use waymark_identity::{CertSource, Csr, FetchError, SpiffeId};
use waymark_testkit::kubernetes::{ApiServer, Crds, Options, run_pod};

use super::cluster::{args, started};
use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Asks the API server until it says what is wanted.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(found) = tokio::task::block_in_place(&mut look) {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(super) fn reason(object: &Value, condition: &str) -> Option<String> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|c| c["type"] == condition)?;
    Some(found["reason"].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_deployed_told_about_and_cleaned_up_after() {
    let options = Options {
        controllers: true,
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(api) = ApiServer::start(options) else {
        return;
    };
    let (system, shop) = (api.namespace(), api.namespace());
    api.apply(&SHOP.replace("NS", &shop));
    let place = Place::new();
    let args = Args {
        waypoint_image: Some("example.org/waymark:1".to_owned()),
        lease_seconds: Some(2),
        ..args(&place, &api, &system)
    };
    let running = started(&place, args).await;

    let deployment = until("a Deployment", || {
        let deployment = api.get("deployment", &shop, "waypoint");
        (!deployment.is_null()).then_some(deployment)
    })
    .await;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "example.org/waymark:1");
    assert_eq!(container["args"][1], "waypoint");
    let discovery = format!("istiod.{system}.svc:15012");
    let env = container["env"].as_array().unwrap();
    assert!(env.contains(&serde_json::json!({"name": "CA_ADDR", "value": discovery})));
    let gateway = || api.get("gateway", &shop, "waypoint");
    until("nothing is ready yet", || {
        let reasons = (
            reason(&gateway(), "Accepted"),
            reason(&gateway(), "Programmed"),
        );
        (reasons
            == (
                Some("Accepted".to_owned()),
                Some("AddressNotAssigned".to_owned()),
            ))
            .then_some(())
    })
    .await;
    let lease = api.get("lease", &system, "waymark-leader-default");
    assert!(lease["spec"]["holderIdentity"].as_str().is_some());
    let class = api.get("gatewayclass", "", "waymark-waypoint");
    assert_eq!(
        class["spec"]["controllerName"],
        "waymark.dev/mesh-controller"
    );

    let pod = run_pod(&api, &deployment, "waypoint-1", "10.244.0.6");
    until("the waypoint is programmed", || {
        (reason(&gateway(), "Programmed")? == "Programmed").then_some(())
    })
    .await;
    let host = format!("waypoint.{shop}.svc.cluster.local");
    assert_eq!(gateway()["status"]["addresses"][1]["value"], host);
    until("the service is bound", || {
        let service = api.get("service", &shop, "reviews");
        (reason(&service, "istio.io/WaypointBound")? == "WaypointAccepted").then_some(())
    })
    .await;

    others_are_told_about(&api, &shop).await;

    // The waypoint's pod is given a certificate for what its token says, by the roots that are in its namespace.
    let roots = until("roots", || {
        let map = api.get("configmap", &shop, "istio-ca-root-cert");
        map["data"]["root-cert.pem"].as_str().map(str::to_owned)
    })
    .await;
    fs::write(place.state("root-cert.pem"), roots).unwrap();
    let bound = |pod: &Value| {
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        let pod = format!("--bound-object-name={}", name.as_str().unwrap());
        let namespace = namespace.as_str().unwrap();
        let create = ["create", "token", account, "--namespace", namespace];
        let how = ["--audience=istio-ca", "--bound-object-kind=Pod", &pod];
        api.run(&[&create[..], &how].concat()).trim().to_owned()
    };
    let own = format!("spiffe://cluster.local/ns/{shop}/sa/waypoint");
    let client = ca_client(&place, running.xds, &discovery, &bound(&pod), &own);
    let id: SpiffeId = own.parse().unwrap();
    signed(&client, &id).await.unwrap();

    // A node proxy, for pods of its own node only.
    api.apply(&NODE.replace("SYSTEM", &system).replace("NS", &shop));
    let node = api.get("pod", &system, "node-1");
    let own = format!("spiffe://cluster.local/ns/{system}/sa/waymark-node");
    let client = ca_client(&place, running.xds, &discovery, &bound(&node), &own);
    let of = |account: &str| -> SpiffeId {
        format!("spiffe://cluster.local/ns/{shop}/sa/{account}")
            .parse()
            .unwrap()
    };
    let deadline = tokio::time::Instant::now() + LIMIT;
    while let Err(error) = signed(&client, &of("here")).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    signed(&client, &of("there")).await.unwrap_err();

    api.run(&["delete", "gateway", "waypoint", "--namespace", &shop]);
    for kind in ["deployment", "service", "serviceaccount"] {
        until(kind, || {
            api.get(kind, &shop, "waypoint").is_null().then_some(())
        })
        .await;
    }
    until("the service is not bound any more", || {
        let service = api.get("service", &shop, "reviews");
        (reason(&service, "istio.io/WaypointBound")? == "WaypointIsNotReady").then_some(())
    })
    .await;
    running.stop().await;
    let lease = api.get("lease", &system, "waymark-leader-default");
    assert_eq!(lease["spec"]["holderIdentity"], "", "given back at the end");
}

/// An entry that is given addresses.
async fn others_are_told_about(api: &ApiServer, shop: &str) {
    api.apply(&OTHERS.replace("SHOP", shop));
    let given = until("addresses", || {
        let entry = api.get("serviceentry", shop, "external");
        entry["status"]["addresses"].as_array().cloned()
    })
    .await;
    let values: Vec<&str> = given
        .iter()
        .map(|given| given["value"].as_str().unwrap())
        .collect();
    assert!(
        values[0].starts_with("240.240.") && values[1].starts_with("2001:2::"),
        "{given:?}"
    );
    assert!(
        given
            .iter()
            .all(|given| given["host"] == "external.example")
    );
}

fn ca_client(place: &Place, xds: SocketAddr, discovery: &str, token: &str, own: &str) -> CaClient {
    let roots = RootSource::file(place.state("root-cert.pem"));
    // As workloads do: by the name that they know the control plane by.
    let name = discovery.split(':').next().unwrap().to_owned();
    let tls = TargetTls {
        config: https_client_config(roots, None),
        name: Some(name.try_into().unwrap()),
    };
    let channel = channel(&Target {
        address: xds.to_string(),
        tls: Some(tls),
    });
    let options = CaClientOptions {
        token: Some(BearerToken::Literal(token.to_owned())),
        own: Some(own.parse().unwrap()),
        ..CaClientOptions::default()
    };
    CaClient::new(channel.unwrap(), options)
}

async fn signed(client: &CaClient, identity: &SpiffeId) -> Result<Vec<String>, FetchError> {
    let csr = Csr::new(identity).unwrap();
    client.sign(identity, csr.pem()).await
}

/// The Node is one that the endpoint controller wants to know of its pods.
const SHOP: &str = "
apiVersion: v1
kind: Node
metadata: { name: node-1 }
---
apiVersion: v1
kind: Service
metadata: { name: reviews, namespace: NS, labels: { istio.io/use-waypoint: waypoint } }
spec: { selector: { app: reviews }, ports: [{ name: http, port: 9080 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: NS }
spec:
  gatewayClassName: waymark-waypoint
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
";

const OTHERS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: external, namespace: SHOP }
spec: { hosts: [external.example], ports: [{ number: 80, name: http, protocol: HTTP }], resolution: DNS }
";

const NODE: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: waymark-node, namespace: SYSTEM }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: here, namespace: NS }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: there, namespace: NS }
---
apiVersion: v1
kind: Pod
metadata: { name: node-1, namespace: SYSTEM }
spec: { nodeName: n1, serviceAccountName: waymark-node, containers: [{ name: c, image: none }] }
---
apiVersion: v1
kind: Pod
metadata: { name: here, namespace: NS }
spec: { nodeName: n1, serviceAccountName: here, containers: [{ name: c, image: none }] }
---
apiVersion: v1
kind: Pod
metadata: { name: there, namespace: NS }
spec: { nodeName: n2, serviceAccountName: there, containers: [{ name: c, image: none }] }
";
