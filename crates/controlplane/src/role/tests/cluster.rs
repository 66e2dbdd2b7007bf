//! The control plane of a real API server.

use waymark_proto::workload::TunnelProtocol;
use waymark_testkit::kubernetes::{ApiServer, Crds, Options};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_served_as_its_objects_say_through_an_outage_of_its_api_server() {
    let options = Options {
        controllers: true,
        crds: Crds::UpstreamStandard,
        ..Options::default()
    };
    let Some(mut api) = ApiServer::start(options) else {
        return;
    };
    let ns = api.namespace();
    api.apply(&CLUSTER.replace("NS", &ns));
    for (pod, ip) in [("reviews-1", "10.244.0.5"), ("waypoint-1", "10.244.0.6")] {
        run_pod(&api, &ns, pod, ip);
    }

    let place = Place::new();
    let running = start(&place, &api, &ns).await;
    let mut node = node_proxy_of(&place, &api, running.xds, &ns);
    let reviews = format!("{ns}/reviews.{ns}.svc.cluster.local");
    let workload = format!("Kubernetes//Pod/{ns}/reviews-1");
    node.until("the pod in its service", |held| {
        held.get(type_url::ADDRESS)
            .is_some_and(|held| held.contains_key(&reviews) && held.contains_key(&workload))
    })
    .await;
    let pod = node.workload(&workload);
    assert_eq!(pod.addresses, [[10, 244, 0, 5]]);
    assert_eq!(pod.node, "node-1");
    assert_eq!(pod.tunnel_protocol(), TunnelProtocol::Hbone);
    assert_eq!(pod.locality.as_ref().unwrap().zone, "zone-1");
    assert!(pod.services.contains_key(&reviews), "{:?}", pod.services);
    // What has no address has not been started; what is not captured is reached in plain text.
    assert!(
        !node
            .names(type_url::ADDRESS)
            .contains(&format!("Kubernetes//Pod/{ns}/reviews-2"))
    );
    let external = format!("Kubernetes/discovery.k8s.io/EndpointSlice/{ns}/external/192.0.2.7");
    assert_eq!(
        node.workload(&external).tunnel_protocol(),
        TunnelProtocol::None
    );
    let vip = api.get("service", &ns, "reviews")["spec"]["clusterIP"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(vip.starts_with("10.96."), "{vip}");
    let address: std::net::Ipv4Addr = vip.parse().unwrap();
    assert_eq!(
        node.service(&reviews).addresses[0].address,
        address.octets()
    );

    // A waypoint is one from when its Gateway says where it is.
    assert_eq!(node.service(&reviews).waypoint, None);
    patch_status(
        &api,
        &ns,
        "gateway/waypoint",
        &format!(
            r#"{{"addresses":[{{"type":"Hostname","value":"waypoint.{ns}.svc.cluster.local"}}]}}"#
        ),
    );
    node.until("the waypoint of the service", |held| {
        let address = Address::decode(&*held[type_url::ADDRESS][&reviews]).unwrap();
        matches!(address.r#type, Some(address::Type::Service(service)) if service.waypoint.is_some())
    })
    .await;
    let destination = node.service(&reviews).waypoint.unwrap().destination;
    let Some(gateway_address::Destination::Hostname(host)) = destination else {
        panic!("{destination:?}")
    };
    assert_eq!(host.hostname, format!("waypoint.{ns}.svc.cluster.local"));

    // The waypoint's own proxy is given the service, with the pod's real address.
    let plaintext = running.plaintext.unwrap();
    let mut waypoint = proxy_of(plaintext, &ns, "waypoint-1", "waypoint", ("reviews", 9080));
    let endpoints = format!("inbound-vip|9080|http|reviews.{ns}.svc.cluster.local");
    waypoint
        .until("routes and endpoints of the service", |held| {
            let endpoints = held
                .get(type_url::ENDPOINT)
                .and_then(|held| held.get(&endpoints));
            held.contains_key(type_url::ROUTE)
                && endpoints
                    .is_some_and(|bytes| bytes.windows(10).any(|text| text == b"10.244.0.5"))
        })
        .await;

    // An outage is seen by nobody, and a change after it is.
    node.forget();
    waypoint.forget();
    let streams = node.state.borrow().streams;
    api.stop_api_server();
    api.start_api_server();
    api.apply(&SERVICE.replace("NS", &ns));
    let late = format!("{ns}/late.{ns}.svc.cluster.local");
    let seen = node.next().await;
    assert_eq!(seen.names, BTreeSet::from([late]), "{seen:?}");
    assert!(waypoint.seen.try_recv().is_err(), "it concerns no waypoint");
    assert_eq!(
        (node.state.borrow().streams, &seen.removed),
        (streams, &Vec::new())
    );
    running.stop().await;
}

/// Starts a control plane with this namespace as its own, that deploys nothing.
async fn start(place: &Place, api: &ApiServer, system_namespace: &str) -> Running {
    let args = Args {
        no_deploy: Some(true),
        ..args(place, api, system_namespace)
    };
    started(place, args).await
}

pub(super) fn args(place: &Place, api: &ApiServer, system_namespace: &str) -> Args {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Args {
        kubeconfig: Some(api.kubeconfig()),
        system_namespace: Some(system_namespace.to_owned()),
        state_dir: Some(place.state.path().to_owned()),
        xds_address: Some(local),
        plaintext_xds_address: Some(local),
        debug_address: Some(local),
        ..Args::default()
    }
}

pub(super) async fn started(place: &Place, args: Args) -> Running {
    let drain = Drain::new(Duration::from_secs(5));
    let task = spawn("control plane", run(args, drain.shutdown()));
    let started = eventually("the control plane listens", || {
        place.json("controlplane.json")
    })
    .await;
    Running {
        drain,
        task,
        xds: started["xds"].as_str().unwrap().parse().unwrap(),
        plaintext: started["plaintextXds"]
            .as_str()
            .map(|address| address.parse().unwrap()),
    }
}

/// A node proxy with a token of the cluster.
pub(super) fn node_proxy_of(
    place: &Place,
    api: &ApiServer,
    xds: SocketAddr,
    system_namespace: &str,
) -> Client {
    api.run(&[
        "create",
        "serviceaccount",
        "waymark-node",
        "--namespace",
        system_namespace,
    ]);
    let token = place.state("node-token");
    let text = api.token(system_namespace, "waymark-node", Some("istio-ca"));
    fs::write(&token, text).unwrap();
    let id =
        format!("ztunnel~127.0.0.1~node.{system_namespace}~{system_namespace}.svc.cluster.local");
    let types = [type_url::ADDRESS, type_url::AUTHORIZATION];
    Client::connect(place, xds, node(&id, &[], None), &types, token)
}

/// A waypoint's proxy, which asks for the routes of one service, `service:port`.
pub(super) fn proxy_of(
    xds: SocketAddr,
    ns: &str,
    pod: &str,
    gateway: &str,
    (service, port): (&str, u16),
) -> Client {
    let node = node(
        &format!("waypoint~10.244.0.6~{pod}.{ns}~{ns}.svc.cluster.local"),
        &[("NAMESPACE", ns)],
        Some(gateway),
    );
    let types = [type_url::CLUSTER, type_url::LISTENER];
    let nobody = tempfile::NamedTempFile::new().unwrap();
    let token = nobody.into_temp_path().keep().unwrap();
    let route = format!("inbound-vip|{port}|http|{service}.{ns}.svc.cluster.local");
    Client::connect_to(xds, None, node, &types, token, &route)
}

fn run_pod(api: &ApiServer, ns: &str, pod: &str, ip: &str) {
    let status = format!(
        r#"{{"phase":"Running","podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}],"conditions":[{{"type":"Ready","status":"True"}}]}}"#
    );
    patch_status(api, ns, &format!("pod/{pod}"), &status);
}

fn patch_status(api: &ApiServer, ns: &str, object: &str, status: &str) {
    let patch = format!(r#"{{"status":{status}}}"#);
    let args = [
        "patch",
        object,
        "--namespace",
        ns,
        "--type=merge",
        "--subresource=status",
    ];
    api.run(&[args.as_slice(), &["--patch", &patch]].concat());
}

const SERVICE: &str = r"
apiVersion: v1
kind: Service
metadata: { name: late, namespace: NS }
spec: { selector: { app: late }, ports: [{ name: http, port: 80 }] }
";

const CLUSTER: &str = r"
apiVersion: v1
kind: Node
metadata: { name: node-1, labels: { topology.kubernetes.io/region: region-1, topology.kubernetes.io/zone: zone-1 } }
---
apiVersion: v1
kind: ServiceAccount
metadata: { name: reviews, namespace: NS }
---
apiVersion: v1
kind: Service
metadata: { name: reviews, namespace: NS, labels: { istio.io/use-waypoint: waypoint } }
spec: { selector: { app: reviews }, ports: [{ name: http, port: 9080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: reviews-1, namespace: NS, labels: { app: reviews }, annotations: { ambient.istio.io/redirection: enabled } }
spec: { nodeName: node-1, serviceAccountName: reviews, containers: [{ name: c, image: none }] }
---
apiVersion: v1
kind: Pod
metadata: { name: reviews-2, namespace: NS, labels: { app: reviews } }
spec: { serviceAccountName: reviews, containers: [{ name: c, image: none }] }
---
apiVersion: v1
kind: Service
metadata: { name: external, namespace: NS }
spec: { ports: [{ name: http, port: 80 }] }
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: external, namespace: NS, labels: { kubernetes.io/service-name: external } }
addressType: IPv4
ports: [{ name: http, port: 80 }]
endpoints: [{ addresses: [192.0.2.7] }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: NS }
spec:
  gatewayClassName: istio-waypoint
  listeners: [{ name: mesh, port: 15008, protocol: HBONE }]
---
apiVersion: v1
kind: Service
metadata: { name: waypoint, namespace: NS, labels: { gateway.istio.io/managed: istio.io-mesh-controller } }
spec: { selector: { gateway.networking.k8s.io/gateway-name: waypoint }, ports: [{ name: mesh, port: 15008 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: waypoint-1, namespace: NS, labels: { gateway.networking.k8s.io/gateway-name: waypoint } }
spec: { nodeName: node-1, serviceAccountName: reviews, containers: [{ name: c, image: none }] }
";
