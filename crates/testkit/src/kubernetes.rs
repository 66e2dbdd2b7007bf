//! A real Kubernetes API: etcd, kube-apiserver and, when asked for, kube-controller-manager, without a node; a real istiod on
//! it; and a whole cluster with a node that runs pods.
//!
//! ```no_run
//! use waymark_testkit::kubernetes::{ApiServer, Crds, Options};
//!
//! // One API server for the tests of a program: each takes a namespace of its own.
//! let Some(api) = ApiServer::shared() else { return };
//! let namespace = api.namespace();
//! api.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: a, namespace: default }\n");
//! let kubeconfig = api.kubeconfig(); // system:masters; `kubeconfig_of` for a service account
//!
//! // One of its own, for a test that stops it, pauses etcd, or needs controllers.
//! let Some(mut api) = ApiServer::start(Options { controllers: true, crds: Crds::UpstreamStandard, ..Options::default() })
//! else { return };
//! api.stop_api_server();
//! api.start_api_server();
//!
//! // A whole cluster; the calling thread is in its network namespace from then on.
//! use waymark_testkit::kubernetes::Cluster;
//! let Some(cluster) = Cluster::shared() else { return };
//! cluster.import(std::path::Path::new("image.tar"));
//! cluster.api().apply("...");
//! cluster.wait("default", &["pod", "--all"], "condition=Ready");
//! ```
//!
//! Everything but a cluster's node listens on 127.0.0.1 of the network namespace that the caller is in, on ports that were
//! free. The programs are built from Go modules into the cache when they are first asked for, which takes minutes and is
//! said on stderr; without Go the tests say so and are skipped, under `CI=true` they fail. `$WAYMARK_KUBERNETES` names a
//! directory that has the programs already. Nothing outlives the test's process, however that ends.
//!
//! The controller manager, where it runs, is the whole one: it writes EndpointSlices and default ServiceAccounts, empties
//! namespaces and collects garbage, and it also ends Pods of Nodes that do not exist (after 40 s). Without a cluster there is
//! no kubelet: Pods are what a test writes into their status, and one that has a Node goes only by
//! `--force --grace-period=0`. [`Forwarder`] plays the kubelet for port-forwards.

mod api_server;
mod certificates;
mod cluster;
mod crds;
mod forwarder;
mod istiod;
mod kubelet;
mod node;
mod node_programs;
mod process;
mod programs;

pub use api_server::{ApiServer, Options};
pub use cluster::Cluster;
pub use crds::{Crds, UpstreamCrds};
pub use forwarder::{Dial, Forwarder};
pub use istiod::Istiod;
pub use kubelet::{Container, mount_volumes, run_pod, set_running};
pub use programs::{Programs, helm};
