//! Traffic scenarios: one list, run unchanged against each program that can serve as a waypoint.
//!
//! A scenario is a service of its own with further manifests, requests, and what has to come of them. Everything else is
//! the same for all: one namespace behind one waypoint, three applications that tell what they saw ([`app`]), a client.

pub mod app;
mod list;
mod site;
mod table;

pub use list::all;
pub use site::{Got, Site, Verdict};
pub use table::{Column, report};

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `group: what happens`.
    pub name: &'static str,
    /// Further objects; `HOST` stands for the scenario's service.
    pub manifests: &'static str,
    /// The requests and what has to come of them.
    pub run: fn(&Site<'_>) -> Verdict,
    /// A difference that is known.
    pub known: Option<Known>,
}

/// A difference between an implementation and what is expected.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The implementation that differs.
    pub of: &'static str,
    /// Why, as a user is told.
    pub reason: &'static str,
}

impl Scenario {
    /// Name of its service: `s` and its place in the list.
    #[must_use]
    pub fn host(place: usize) -> String {
        format!("s{place}")
    }
}

/// The namespace of the scenarios.
pub const NAMESPACE: &str = "scenarios";
/// What the waypoint is deployed as.
pub const WAYPOINT: &str = "waypoint";

/// The manifests of the whole suite.
#[must_use]
pub fn manifests(scenarios: &[Scenario]) -> String {
    let mut text = COMMON.to_owned();
    for (version, address) in app::PODS {
        text.push_str(&pod(version, address));
    }
    for (place, scenario) in scenarios.iter().enumerate() {
        let host = Scenario::host(place);
        // A scenario may bring its own Service or rules of that name.
        if !scenario.manifests.contains("kind: Service\n") {
            text.push_str(&SERVICE.replace("HOST", &host));
        }
        if !scenario.manifests.contains("kind: DestinationRule\n") {
            text.push_str(&SUBSETS.replace("HOST", &host));
        }
        if !scenario.manifests.is_empty() {
            text.push_str("---\n");
            text.push_str(&scenario.manifests.replace("HOST", &host));
        }
    }
    text
}

fn pod(version: &str, address: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata:
  name: echo-{version}
  namespace: {NAMESPACE}
  labels: {{app: echo, version: {version}}}
spec:
  serviceAccountName: echo
  containers:
  - name: echo
    image: echo
    ports:
    - containerPort: 8080
    - containerPort: 9000
    - containerPort: 9001
status: {{podIP: {address}}}
"
    )
}

const COMMON: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: scenarios
  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: scenarios}
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - {name: mesh, port: 15008, protocol: HBONE}
---
apiVersion: v1
kind: Pod
metadata:
  name: client
  namespace: scenarios
  labels: {app: client}
spec:
  serviceAccountName: client
  containers:
  - {name: client, image: client}
status: {podIP: 127.244.20.1}
---
apiVersion: v1
kind: Pod
metadata:
  name: absent
  namespace: scenarios
  labels: {app: absent}
spec:
  serviceAccountName: echo
  containers:
  - name: absent
    image: absent
    ports:
    - containerPort: 8080
status: {podIP: 127.244.10.9}
";

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: HOST, namespace: scenarios}
spec:
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: tcp, port: 9000}
  - {name: auto, port: 7000, targetPort: 8080}
  - {name: auto-tcp, port: 7001, targetPort: 9000}
  - {name: auto-first, port: 7002, targetPort: 9001}
";

const SUBSETS: &str = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: HOST, namespace: scenarios}
spec:
  host: HOST
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v3, labels: {version: v3}}
  - {name: none, labels: {version: none}}
";
