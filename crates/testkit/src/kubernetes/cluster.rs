//! A whole Kubernetes with one node that runs pods.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::api_server::{ApiServer, KUBELET, Options, PROXY, SCHEDULER};
use super::certificates::NODE;
use super::crds::Crds;
use super::node::Node;
use super::node_programs::{CNI_PLUGINS, NodePrograms, PAUSE};
use super::process::last_lines;
use super::programs::Programs;
use crate::cache;
use crate::wait::until_or;

/// An API server with controllers, a scheduler, and a node with kubelet, containerd, kube-proxy and the cluster's DNS, all in
/// namespaces of their own; they end when it is dropped, at the latest with the test's process.
#[derive(Debug)]
pub struct Cluster {
    // Ended in this order: what the node has open is in the API server's directory.
    node: Node,
    api: ApiServer,
    programs: NodePrograms,
}

impl Cluster {
    /// The one that the tests of a program share, with upstream's CRDs (standard channel). The calling thread, and what it
    /// starts, is in the cluster's network namespace from then on. A test takes [`namespace`](ApiServer::namespace)s of its
    /// own. `None` as for [`start`](Self::start).
    ///
    /// # Panics
    /// As for [`start`](Self::start).
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let cluster = SHARED
            .get_or_init(|| Self::start(Crds::UpstreamStandard))
            .as_ref()?;
        cluster.node.enter_network();
        Some(cluster)
    }

    /// Starts one and waits until its node is ready. The calling thread, and what it starts, is in the cluster's network
    /// namespace from then on. `None` where it cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When it does not become ready; under `CI=true` also when it cannot be had.
    #[must_use]
    pub fn start(crds: Crds) -> Option<Self> {
        // What is built or downloaded is before the network is another.
        let programs = NodePrograms::find()?;
        Programs::find()?;
        crds.find()?;
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut node = Node::start(directory.path(), ADDRESS, &programs.0);
        node.enter_network();
        let api = ApiServer::start_in(
            directory,
            Options {
                controllers: true,
                crds,
                advertise: Some(ADDRESS),
                ..Options::default()
            },
        )?;
        start_programs(&mut node, &api, &programs);
        let cluster = Self {
            node,
            api,
            programs,
        };
        cluster.until("containerd does not answer", || {
            cache::run(cluster.ctr().arg("version")).is_ok()
        });
        cluster.import(&cluster.programs.0.join("pause.tar"));
        cluster.until("the node is not ready", || {
            let node = cluster.api.get("node", "default", NODE);
            let conditions = node["status"]["conditions"].as_array();
            conditions
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        Some(cluster)
    }

    /// Its API server, which listens on 127.0.0.1 in the cluster's network namespace.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// Gives the node the images of an archive (OCI, or as `docker save` writes). A pod that uses one has the
    /// `imagePullPolicy` `IfNotPresent` or `Never`: there is no registry.
    ///
    /// # Panics
    /// When containerd refuses it.
    pub fn import(&self, archive: &Path) {
        let mut import = self.ctr();
        import.args(["images", "import", "--local"]).arg(archive);
        cache::run(&mut import).unwrap_or_else(|why| panic!("{}: {why}", archive.display()));
    }

    /// Waits until objects, like `["deployment/a"]` or `["pod", "--all"]`, are as `condition` says, in the words of
    /// `kubectl wait --for`, like `condition=Available` or `delete`.
    ///
    /// # Panics
    /// When it is not within two minutes: with what the object looks like, the namespace's events and the ends of its pods'
    /// logs.
    pub fn wait(&self, namespace: &str, objects: &[&str], condition: &str) {
        let mut kubectl = self.api.kubectl();
        kubectl.arg("wait").args(objects);
        kubectl.args(["--namespace", namespace, "--timeout=120s"]);
        kubectl.arg(format!("--for={condition}"));
        if let Err(why) = cache::run(&mut kubectl) {
            panic!(
                "{objects:?} in {namespace}: {why}\n{}",
                self.state_of(namespace)
            );
        }
    }

    /// What is known about a namespace, for somebody who has to find out why a test failed: its pods, events, and the ends
    /// of its containers' logs.
    #[must_use]
    pub fn state_of(&self, namespace: &str) -> String {
        let said = |args: &[&str]| {
            let mut kubectl = self.api.kubectl();
            cache::run(kubectl.args(args).args(["--namespace", namespace]))
                .unwrap_or_else(|why| why)
        };
        let pods: Value =
            serde_json::from_str(&said(&["get", "pods", "-o", "json"])).unwrap_or_default();
        let logs = pods["items"].as_array().into_iter().flatten().map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let log = said(&[
                "logs",
                name,
                "--all-containers",
                "--prefix",
                "--ignore-errors",
                "--tail=20",
            ]);
            format!("{name}:\n{log}")
        });
        let logs: Vec<String> = logs.collect();
        format!(
            "{}\n{}\n{}",
            said(&["get", "all", "-o", "wide"]),
            said(&["get", "events", "--sort-by=.lastTimestamp"]),
            logs.join("\n")
        )
    }

    /// A process of a pod that runs, as the machine counts: for [`netns::inside`](crate::netns::inside).
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn process_of(&self, namespace: &str, pod: &str) -> u32 {
        let object = self.api.get("pod", namespace, pod);
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let cgroup = format!("/pod{uid}/");
        let processes = fs::read_dir("/proc").expect("/proc");
        let mut processes =
            processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let process = processes.find(|process: &u32| {
            fs::read_to_string(format!("/proc/{process}/cgroup"))
                .is_ok_and(|cgroups| cgroups.contains(&cgroup))
        });
        process.unwrap_or_else(|| panic!("no process of pod {pod} in {namespace}"))
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new(self.programs.0.join("ctr"));
        ctr.arg("--address")
            .arg(socket(&self.api))
            .args(["--namespace", "k8s.io"]);
        ctr
    }

    /// Waits for a part of the start.
    fn until(&self, failure: &str, ask: impl FnMut() -> bool) {
        if !until_or(START, ask) {
            let logs = [CONTAINERD, KUBELET, PROXY, "node"].map(|name| {
                let log = self.api.directory().join(format!("{name}.log"));
                format!("{name}:\n{}", last_lines(&log))
            });
            panic!("{failure}\n{}", logs.join("\n"));
        }
    }
}

/// Starts them all; each waits for those that it needs.
fn start_programs(node: &mut Node, api: &ApiServer, programs: &NodePrograms) {
    let directory = api.directory();
    let file = |name: &str, content: String| -> String {
        let path = directory.join(name);
        fs::write(&path, content).expect("write a file");
        path.display().to_string()
    };
    let kubeconfig = |component: &str| {
        let path = api.kubeconfig_of_component(component);
        path.display().to_string()
    };
    let _ = fs::create_dir(directory.join("cni"));
    file("cni/10-pods.conflist", cni().to_string());
    let containerd = file("containerd.toml", containerd_toml(api));
    let dns = kubeconfig("admin");
    let corefile = file(
        "Corefile",
        format!(".:53 {{\n errors\n kubernetes cluster.local {{\n kubeconfig {dns}\n }}\n}}\n"),
    );
    let proxy = file(
        "kube-proxy.json",
        proxy_configuration(&kubeconfig(PROXY)).to_string(),
    );
    let kubelet = file("kubelet.json", kubelet_configuration(api).to_string());
    for (program, args) in [
        (CONTAINERD, vec![format!("--config={containerd}")]),
        (
            KUBELET,
            vec![
                format!("--config={kubelet}"),
                format!("--kubeconfig={}", kubeconfig(KUBELET)),
                format!("--hostname-override={NODE}"),
                format!("--node-ip={ADDRESS}"),
            ],
        ),
        (PROXY, vec![format!("--config={proxy}")]),
        (
            SCHEDULER,
            vec![
                format!("--kubeconfig={}", kubeconfig(SCHEDULER)),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ],
        ),
        ("coredns", vec![format!("-conf={corefile}")]),
    ] {
        node.run(&programs.0.join(program), &args);
    }
}

fn socket(api: &ApiServer) -> PathBuf {
    api.directory().join("containerd.sock")
}

fn containerd_toml(api: &ApiServer) -> String {
    format!(
        r#"version = 3
root = "/run/state/containerd"
state = "/run/containerd"
# It would make a directory in /opt.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
# Root may lack CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{CNI_PLUGINS}"]
conf_dir = "{cni}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc"
SystemdCgroup = false
"#,
        socket = socket(api).display(),
        cni = api.directory().join("cni").display(),
    )
}

/// A link for each pod instead of a bridge between them: what pods say to each other is then routed, and kube-proxy sees it
/// also where the kernel has no netfilter for bridges.
fn cni() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

fn kubelet_configuration(api: &ApiServer) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": false},
            "x509": {"clientCAFile": api.ca_file()},
        },
        // Of those whom the CA knows: the API server.
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{}", socket(api).display()),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [ADDRESS],
        "resolvConf": "",
        "volumePluginDir": "/run/state/volume-plugins",
        // An image that is collected cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        // The machine is shared.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "serializeImagePulls": false,
    })
}

fn proxy_configuration(kubeconfig: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": kubeconfig},
        // Not the namespace's own to set.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            "udpTimeout": "0s", "udpStreamTimeout": "0s",
        },
    })
}

const CONTAINERD: &str = "containerd";
/// The node's own address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 243, 0, 1);
/// The pods' addresses.
const PODS: &str = "10.244.0.0/24";
/// How long it may take on a machine that has much else to do.
const START: Duration = Duration::from_secs(120);
