//! What a node runs: built from Go modules, or of Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::{KUBERNETES, build_programs, go};
use crate::cache;

const CONTAINERD: &str = "2.4.2";
const COREDNS: &str = "1.15.0";

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "waymark.dev/pause:1";
/// Where the Debian package containernetworking-plugins has them.
pub(super) const CNI_PLUGINS: &str = "/usr/lib/cni";

/// A directory with the programs of a node, by their names, and the image `pause.tar`.
#[derive(Clone, Debug)]
pub(super) struct NodePrograms(pub(super) PathBuf);

impl NodePrograms {
    /// The programs in `$WAYMARK_KUBERNETES`, or those of the cache, where they are built when they are first asked for.
    ///
    /// `None` when something that a node needs cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When it cannot be had and `CI=true`.
    pub(super) fn find() -> Option<Self> {
        let missing = |what: &str, why: &str| {
            cache::missing(what, why);
            None
        };
        if !rustix::process::geteuid().is_root() {
            return missing("Kubernetes node", "only root can start one");
        }
        for (file, package) in DEBIAN {
            if !Path::new(file).exists() {
                let why = format!("{file} is not there (Debian package {package})");
                return missing("Kubernetes node", &why);
            }
        }
        if let Some(given) = std::env::var_os("WAYMARK_KUBERNETES") {
            return Some(Self(given.into()));
        }
        let name = format!("kubernetes-node-{KUBERNETES}-{CONTAINERD}-{COREDNS}");
        match cache::entry(&name, build) {
            Ok(home) => Some(Self(home)),
            Err(why) => missing("Kubernetes node", &why),
        }
    }
}

fn build(home: &Path) -> Result<(), String> {
    cache::say(&format!(
        "building kubelet, kube-proxy and kube-scheduler {KUBERNETES}, containerd {CONTAINERD} and CoreDNS {COREDNS} to \
         test with; once, about ten minutes"
    ));
    build_programs(
        home,
        &["kubelet", "kube-proxy", "kube-scheduler"]
            .map(|program| format!("k8s.io/kubernetes/cmd/{program}")),
    )?;
    let mut containerd = go();
    containerd
        .env("GOBIN", home)
        .current_dir(std::env::temp_dir())
        .args(["install", "-trimpath", "-ldflags", "-s -w"])
        .args(
            ["containerd", "containerd-shim-runc-v2", "ctr"].map(|program| {
                format!("github.com/containerd/containerd/v2/cmd/{program}@v{CONTAINERD}")
            }),
        );
    cache::run(&mut containerd)?;
    let coredns = format!("require github.com/coredns/coredns v{COREDNS}\n");
    build_own(home, "coredns", include_str!("node/dns.go"), &coredns)?;
    build_own(home, "pause", include_str!("node/pause.go"), "")?;
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/image/build");
    let mut image = Command::new(recipe);
    image.args(["--name", PAUSE, "--binary"]);
    image.arg(home.join("pause")).arg("--out");
    cache::run(image.arg(home.join("pause.tar"))).map(drop)
}

/// Builds a program of ours that consists of one file.
fn build_own(home: &Path, name: &str, program: &str, requires: &str) -> Result<(), String> {
    let source = home.join(format!("source-{name}"));
    let text = |e: std::io::Error| format!("{}: {e}", source.display());
    fs::create_dir(&source).map_err(text)?;
    let module = format!("module waymark.dev/testkit/{name}\n\ngo 1.26.0\n\n{requires}");
    fs::write(source.join("go.mod"), module).map_err(text)?;
    fs::write(source.join("main.go"), program).map_err(text)?;
    let mut go = go();
    go.current_dir(&source)
        .args(["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(home.join(name))
        .arg(".");
    cache::run(&mut go).map(drop)
}

/// What a node takes from Debian, and the package that has it.
const DEBIAN: [(&str, &str); 3] = [
    ("/usr/sbin/runc", "runc"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
];
