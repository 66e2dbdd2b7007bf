//! Names of labels, annotations, classes and ports that have a meaning to the mesh.

/// Label: the waypoint that an object uses, or `none`.
pub const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// Label: the namespace of that waypoint, when it is another one.
pub const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// Label: a second waypoint that gets a share of the traffic. Not supported yet.
pub const USE_WAYPOINT_CANARY: &str = "istio.io/use-waypoint-canary";
/// Label on Gateway or GatewayClass: which traffic the waypoint takes.
pub const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Label: what happens to traffic that did not pass the waypoint (Waymark's own).
pub const WAYPOINT_ENFORCEMENT: &str = "istio.io/waypoint-enforcement";
/// Label: whether an object takes part in the mesh.
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Label: the revision of the control plane that shall read the object.
pub const REVISION: &str = "istio.io/rev";
/// Annotation of the 2023 form: the service account that a waypoint Gateway serves.
pub const FOR_SERVICE_ACCOUNT: &str = "istio.io/for-service-account";
/// Annotation on Gateway: the service account that the waypoint itself runs as.
pub const GATEWAY_SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";
/// Annotation on Gateway: the name of the deployment.
pub const GATEWAY_NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
/// Label on what a Gateway's controller made: which controller it was.
pub const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";
/// Value of [`GATEWAY_MANAGED`] on waypoints.
pub const MANAGED_MESH_CONTROLLER: &str = "istio.io-mesh-controller";
/// Value of [`GATEWAY_MANAGED`] on east-west gateways.
pub const MANAGED_EAST_WEST_CONTROLLER: &str = "istio.io-eastwest-controller";
/// Value of [`GATEWAY_MANAGED`] on waypoints of our own class.
pub const MANAGED_WAYMARK_CONTROLLER: &str = "waymark.dev-mesh-controller";
/// Annotation on Gateway: the version of the controller that keeps what is made for it.
pub const GATEWAY_CONTROLLER_VERSION: &str = "gateway.istio.io/controller-version";
/// Label on what was made for a Gateway: its name.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label on what was made for a Gateway: its class.
pub const GATEWAY_CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Annotation on pods: whether the node proxy has captured them.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// Annotation: how a waypoint's pods are handed connections. Not supported.
pub const WAYPOINT_INBOUND_BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
/// Annotation or label on workloads: `http` when they take HBONE by themselves.
pub const TUNNEL: &str = "networking.istio.io/tunnel";
/// Annotation on services and namespaces: which endpoints are preferred.
pub const TRAFFIC_DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Label: the network that an object is in.
pub const NETWORK: &str = "topology.istio.io/network";
/// Label on nodes: region.
pub const REGION: &str = "topology.kubernetes.io/region";
/// Label on nodes: zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Label on nodes: subzone.
pub const SUBZONE: &str = "topology.istio.io/subzone";

/// Label on endpoint slices: the service that they are of.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label: name that metrics know a workload's service by.
pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
/// Label: revision that metrics know a workload by.
pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
/// Label: recommended application name.
pub const APP_KUBERNETES_NAME: &str = "app.kubernetes.io/name";
/// Label: recommended application version.
pub const APP_KUBERNETES_VERSION: &str = "app.kubernetes.io/version";

/// Annotation on pods: the command that `waymark up` starts for it.
pub const COMMAND: &str = "waymark.dev/command";
/// Annotation on pods: where the application itself listens.
pub const APP_ADDRESS: &str = "waymark.dev/app-address";
/// Annotation on Gateways: how many replicas of the waypoint run.
pub const REPLICAS: &str = "waymark.dev/replicas";
/// Annotation on Gateways: the program that serves as the waypoint, `waymark` or `envoy`.
pub const WAYPOINT_BINARY: &str = "waymark.dev/waypoint-binary";
/// Prefix of annotations on pods: the rest names a variable of the command's environment.
pub const ENV_PREFIX: &str = "waymark.dev/env.";

/// Upstream's class of waypoint Gateways.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";
/// Our class of waypoint Gateways.
pub const WAYMARK_WAYPOINT_CLASS: &str = "waymark-waypoint";
/// The controller of upstream's class of waypoints.
pub const WAYPOINT_CONTROLLER: &str = "istio.io/mesh-controller";
/// The controller of our class of waypoints.
pub const WAYMARK_WAYPOINT_CONTROLLER: &str = "waymark.dev/mesh-controller";
/// The port that a waypoint takes HBONE on.
pub const HBONE_PORT: u16 = 15008;
/// The namespace of the mesh's own parts.
pub const SYSTEM_NAMESPACE: &str = "istio-system";
/// The domain of service host names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The gateway name that stands for all of the mesh in `VirtualService.spec.gateways`.
pub const MESH_GATEWAY: &str = "mesh";
