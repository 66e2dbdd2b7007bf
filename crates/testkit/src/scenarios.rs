//! Traffic scenarios: one list, run unchanged against each program that can serve as a waypoint.
//!
//! A scenario is a service of its own with further manifests, requests, and what has to come of them. Everything else is
//! the same for all: one namespace behind one waypoint, three applications that tell what they saw ([`app`]), a client.

mod access_log;
pub mod app;
mod call;
mod got;
mod list;
mod reply;
mod run;
mod site;
mod table;
mod wire;

pub use access_log::{ANY, FORMAT};
pub use call::{Call, H2, Stream};
pub use got::Got;
pub use list::{all, needs_interop};
pub use reply::Reply;
pub use run::verdicts;
pub use site::{Ask, Ground, Pending, Site, Verdict};
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
    /// The ports of its service.
    pub ports: Ports,
    /// How much of the machine it needs.
    pub load: Load,
}

/// The ports of a service: a waypoint holds what it is asked for, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// HTTP on 80.
    Http,
    /// HTTP/2 on 82, on 83 with a name that says HTTP, and on 7003 with none that says anything.
    Http2,
    /// gRPC on 90.
    Grpc,
    /// TCP on 9000, and undeclared on 7000 (HTTP), 7001 (TCP) and 7002 (an application that speaks first).
    Tcp,
}

impl Ports {
    fn yaml(self) -> &'static str {
        match self {
            Self::Http => "  - {name: http, port: 80, targetPort: 8080}\n",
            Self::Http2 => {
                "  - {name: http2, port: 82, targetPort: 8081}\n  - {name: http-both, port: 83, targetPort: 8081}\n  - {name: any, port: 7003, targetPort: 8081}\n"
            }
            Self::Grpc => "  - {name: grpc, port: 90, targetPort: 8081}\n",
            Self::Tcp => {
                "  - {name: tcp, port: 9000}\n  - {name: any, port: 7000, targetPort: 8080}\n  - {name: any-tcp, port: 7001, targetPort: 9000}\n  - {name: any-first, port: 7002, targetPort: 9001}\n"
            }
        }
    }
}

/// How much of the machine a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Next to none: it runs beside others.
    Light,
    /// Much: it runs alone, after the others.
    Heavy,
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

/// The manifests of the whole suite: file names and texts.
#[must_use]
pub fn files(scenarios: &[Scenario]) -> Vec<(String, String)> {
    let mut common = COMMON.to_owned();
    for (version, address) in app::PODS {
        common.push_str(&pod(version, address));
    }
    common.push_str(INTEROP);
    let mut files = vec![("common.yaml".to_owned(), common)];
    for (place, scenario) in scenarios.iter().enumerate() {
        let host = Scenario::host(place);
        files.push((file_of(&host), text(scenario, scenario.manifests, &host)));
    }
    files
}

/// All objects of a scenario with those manifests.
fn text(scenario: &Scenario, manifests: &str, host: &str) -> String {
    let mut text = String::new();
    // A scenario may bring its own Service or rules of that name.
    if !manifests.contains("kind: Service\n") {
        text.push_str(SERVICE);
        text.push_str(scenario.ports.yaml());
    }
    if manifests.contains("subset") && !manifests.contains("kind: DestinationRule\n") {
        text.push_str(SUBSETS);
    }
    if !manifests.is_empty() {
        text.push_str("---\n");
        text.push_str(manifests);
    }
    text.replace("HOST", host)
}

/// The file of a scenario's manifests.
fn file_of(host: &str) -> String {
    format!("{host}.yaml")
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
    - containerPort: 8081
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

/// gRPC's interoperability server. It listens on every address: outside the range that the node proxy captures it may.
const INTEROP: &str = "---
apiVersion: v1
kind: Pod
metadata:
  name: interop
  namespace: scenarios
  labels: {app: interop}
spec:
  serviceAccountName: echo
  containers:
  - {name: interop, image: interop}
status: {podIP: 127.200.10.4}
";

const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: HOST, namespace: scenarios}
spec:
  selector: {app: echo}
  ports:
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
