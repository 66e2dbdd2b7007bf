//! The programs, built from Go modules.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cache;

/// Kubernetes' version; its libraries have the same with a 0 in front.
pub(super) const KUBERNETES: &str = "1.36.3";
/// The version of etcd that this Kubernetes is tested with.
const ETCD: &str = "3.6.8";
const HELM: &str = "3.22.0";

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// The API server.
    pub kube_apiserver: PathBuf,
    /// The controller manager.
    pub kube_controller_manager: PathBuf,
    /// The command-line client.
    pub kubectl: PathBuf,
}

impl Programs {
    /// The programs in `$WAYMARK_KUBERNETES`, or those of the cache, where they are built when they are first asked for.
    ///
    /// `None` when they cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When they cannot be had and `CI=true`.
    #[must_use]
    pub fn find() -> Option<Self> {
        if let Some(given) = std::env::var_os("WAYMARK_KUBERNETES") {
            return Some(Self::of(Path::new(&given)));
        }
        match cache::entry(&format!("kubernetes-{KUBERNETES}"), build_kubernetes) {
            Ok(home) => Some(Self::of(&home)),
            Err(why) => {
                let hint = "WAYMARK_KUBERNETES=/directory/of/programs names them";
                cache::missing(
                    &format!("Kubernetes {KUBERNETES}"),
                    &format!("{why}; {hint}"),
                );
                None
            }
        }
    }

    fn of(directory: &Path) -> Self {
        Self {
            etcd: directory.join("etcd"),
            kube_apiserver: directory.join("kube-apiserver"),
            kube_controller_manager: directory.join("kube-controller-manager"),
            kubectl: directory.join("kubectl"),
        }
    }
}

/// Helm 3: `$WAYMARK_HELM`, or the one of the cache, where it is built when it is first asked for.
///
/// `None` when it cannot be had, which is said on stderr.
///
/// # Panics
/// When it cannot be had and `CI=true`.
#[must_use]
pub fn helm() -> Option<PathBuf> {
    if let Some(given) = std::env::var_os("WAYMARK_HELM") {
        return Some(given.into());
    }
    match cache::entry(&format!("helm-{HELM}"), build_helm) {
        Ok(home) => Some(home.join("helm")),
        Err(why) => {
            let hint = "WAYMARK_HELM=/path/to/helm names one";
            cache::missing(&format!("helm {HELM}"), &format!("{why}; {hint}"));
            None
        }
    }
}

/// Where the Go module cache has a module's files.
///
/// # Errors
/// A sentence, when it cannot be had.
pub(super) fn module(name_and_version: &str) -> Result<PathBuf, String> {
    downloaded(name_and_version, "Dir")
}

fn build_kubernetes(home: &Path) -> Result<(), String> {
    cache::say(&format!(
        "building Kubernetes {KUBERNETES} and etcd {ETCD} to test with; once, about ten minutes"
    ));
    let kubernetes = ["kube-apiserver", "kube-controller-manager", "kubectl"]
        .map(|program| format!("k8s.io/kubernetes/cmd/{program}"));
    build_programs(
        home,
        &[&["go.etcd.io/etcd/server/v3".to_owned()], &kubernetes[..]].concat(),
    )?;
    fs::rename(home.join("server"), home.join("etcd")).map_err(|e| e.to_string())
}

/// Builds these packages of Kubernetes and etcd into a directory.
///
/// `k8s.io/kubernetes` is no module that others can build on: it takes its libraries from its own tree. So a module is made
/// that takes them where they are published.
pub(super) fn build_programs(home: &Path, packages: &[String]) -> Result<(), String> {
    let go_mod = downloaded(&format!("k8s.io/kubernetes@v{KUBERNETES}"), "GoMod")?;
    let go_mod = fs::read_to_string(&go_mod).map_err(|e| format!("{}: {e}", go_mod.display()))?;
    let source = home.join("source");
    let text = |e: std::io::Error| e.to_string();
    fs::create_dir(&source).map_err(text)?;
    fs::write(source.join("go.mod"), module_file(&go_mod)).map_err(text)?;
    let mut go = go();
    go.current_dir(&source)
        .args(["build", "-mod=mod", "-trimpath", "-ldflags"])
        .arg(format!(
            "-s -w -X k8s.io/component-base/version.gitVersion=v{KUBERNETES}"
        ))
        .arg("-o")
        .arg(format!("{}/", home.display()))
        .args(packages);
    cache::run(&mut go).map(drop)
}

fn build_helm(home: &Path) -> Result<(), String> {
    cache::say(&format!("building helm {HELM} to test with; once"));
    let mut go = go();
    go.env("GOBIN", home)
        .args(["install", "-trimpath", "-ldflags", "-s -w"])
        .arg(format!("helm.sh/helm/v3/cmd/helm@v{HELM}"));
    cache::run(&mut go).map(drop)
}

/// The `go.mod` of a module that builds Kubernetes' programs, by that of Kubernetes.
fn module_file(kubernetes: &str) -> String {
    let mut text = format!(
        "module waymark.dev/testkit/kubernetes\n\ngo 1.26.0\n\ngodebug default=go1.26\n\n\
         require go.etcd.io/etcd/server/v3 v{ETCD}\nrequire k8s.io/kubernetes v{KUBERNETES}\n\n"
    );
    for line in kubernetes.lines() {
        if let Some((name, _)) = line.trim().split_once(" => ./staging/") {
            let _ = writeln!(text, "replace {name} => {name} v0{}", &KUBERNETES[1..]);
        }
    }
    text
}

/// What `go mod download` says of a module, downloading it when the module cache has it not.
fn downloaded(name_and_version: &str, field: &str) -> Result<PathBuf, String> {
    // Outside of any module, which would have its own idea of versions.
    let answer = cache::run(Command::new("go").current_dir(std::env::temp_dir()).args([
        "mod",
        "download",
        "-json",
        name_and_version,
    ]))?;
    let answer: Value = serde_json::from_str(&answer).map_err(|e| e.to_string())?;
    answer[field]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| format!("go mod download {name_and_version} names no {field}"))
}

/// Go, yielding to the tests that run beside it.
pub(super) fn go() -> Command {
    let mut go = Command::new("nice");
    go.args(["-n", "5", "go"]).env("CGO_ENABLED", "0");
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_taken_where_they_are_published() {
        let kubernetes = "module k8s.io/kubernetes\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\
                          \tk8s.io/client-go => ./staging/src/k8s.io/client-go\n)\n";
        let ours = module_file(kubernetes);
        assert!(ours.contains("\nrequire k8s.io/kubernetes v1.36.3\n"));
        assert!(ours.ends_with(
            "\nreplace k8s.io/api => k8s.io/api v0.36.3\nreplace k8s.io/client-go => k8s.io/client-go v0.36.3\n"
        ));
    }
}
