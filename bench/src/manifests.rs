//! The mesh that is measured: a waypoint between clients and two versions of a service, and a pod of another node without one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::envoy::Places;
use crate::stage::address;

/// The node that a node proxy under test is.
pub(crate) const L4_NODE: &str = "l4";
/// Its pod, and where that pod's application listens.
pub(crate) const L4_POD: SocketAddr = SocketAddr::new(address(201, 11), 9080);
pub(crate) const L4_APPLICATION: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 245, 201, 11)), 9080);
pub(crate) const L4_READINESS: SocketAddr = SocketAddr::new(address(201, 1), 15021);

/// A second endpoint of version v1, which is there at times.
pub(crate) const FLAPPING_POD: IpAddr = address(200, 13);

/// Where everything is.
pub(crate) fn places() -> Places {
    Places {
        waypoint: address(200, 1),
        vip: SocketAddr::new(Ipv4Addr::new(127, 96, 200, 1).into(), 9080),
        pods: [
            SocketAddr::new(address(200, 11), 9080),
            SocketAddr::new(address(200, 12), 9080),
        ],
        admin_port: 15000,
    }
}

/// All manifests, the route with so many of a hundred for version v1.
pub(crate) fn all(places: &Places, weight: u8) -> String {
    let mut text = namespace("bench", "    istio.io/use-waypoint: waypoint\n");
    text += &namespace("l4", "");
    text += &pod("bench", "v1", "v1", places.pods[0].ip(), "other");
    text += &pod("bench", "v2", "v2", places.pods[1].ip(), "other");
    text += &pod("l4", "v1", "v1", L4_POD.ip(), L4_NODE);
    text += &format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: backend\n  namespace: bench\nspec:\n  clusterIP: {}\n  \
         selector:\n    app: backend\n  ports:\n  - name: http\n    port: {}\n---\n",
        places.vip.ip(),
        places.vip.port()
    );
    text += GATEWAY;
    text += DESTINATION_RULE;
    text += &route(weight);
    text
}

fn route(weight: u8) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: backend\n  namespace: bench\n\
         spec:\n  hosts:\n  - backend\n  http:\n  - route:\n    - destination:\n        host: backend\n        \
         subset: v1\n      weight: {weight}\n    - destination:\n        host: backend\n        subset: v2\n      \
         weight: {}\n",
        100 - weight
    )
}

fn namespace(name: &str, more_labels: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
         istio.io/dataplane-mode: ambient\n{more_labels}---\n"
    )
}

/// A pod of the service.
pub(crate) fn pod(namespace: &str, name: &str, version: &str, ip: IpAddr, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: backend-{name}\n  namespace: {namespace}\n  labels:\n    \
         app: backend\n    version: {version}\nspec:\n  nodeName: {node}\n  serviceAccountName: backend\n  \
         containers:\n  - name: backend\n    ports:\n    - containerPort: 9080\nstatus:\n  podIP: {ip}\n---\n"
    )
}

const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: waypoint
  namespace: bench
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
---
";

const DESTINATION_RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: backend
  namespace: bench
spec:
  host: backend
  trafficPolicy:
    connectionPool:
      http:
        useClientProtocol: true
  subsets:
  - name: v1
    labels:
      version: v1
  - name: v2
    labels:
      version: v2
---
";
