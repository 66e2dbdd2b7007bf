//! istiod, unmodified, installed as Helm installs it; the test is the kubelet that runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::api_server::ApiServer;
use super::kubelet::Container;
use super::process::Process;
use super::programs::{go, module};
use crate::cache;
use crate::http::get;
use crate::wait::until_or;

/// The development tree of 1.32.
const VERSION: &str = "v0.0.0-20260827124520-eed52ebb66ad";
/// What it calls itself.
const NAME: &str = "1.32-alpha";
/// Its namespace.
const NAMESPACE: &str = "istio-system";
const START: Duration = Duration::from_secs(120);

/// An istiod that runs; it ends when it is dropped, at the latest with the test's process.
#[derive(Debug)]
pub struct Istiod {
    process: Process,
    // Kept for as long as it runs.
    _directory: tempfile::TempDir,
}

impl Istiod {
    /// Where program and chart are: `$WAYMARK_ISTIOD` (a directory with `pilot-discovery` and `chart/`), or the cache, where
    /// they are put when they are first asked for. Has to be called where there is a network.
    ///
    /// `None` when they cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// When they cannot be had and `CI=true`.
    #[must_use]
    pub fn find() -> Option<PathBuf> {
        if let Some(given) = std::env::var_os("WAYMARK_ISTIOD") {
            return Some(given.into());
        }
        match cache::entry(&format!("istiod-{VERSION}"), build) {
            Ok(home) => Some(home),
            Err(why) => {
                let hint = "WAYMARK_ISTIOD=/directory/of/pilot-discovery names one";
                cache::missing("istiod", &format!("{why}; {hint}"));
                None
            }
        }
    }

    /// Installs the chart with the profile `ambient` and these further values, starts the program, and waits until it is
    /// ready. It listens on its usual ports, so the caller is in a network namespace of its own; the API server has
    /// upstream's CRDs. `None` as for [`Istiod::find`] and [`helm`](super::helm).
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(api: &ApiServer, values: &[&str]) -> Option<Self> {
        let home = Self::find()?;
        let mut helm = api.helm()?;
        helm.args([
            "install",
            "istiod",
            "--create-namespace",
            "--namespace",
            NAMESPACE,
        ])
        .args(["--set", "profile=ambient", "--set", "global.hub=none"])
        .args(["--set", &format!("global.tag={NAME}")])
        // Nothing leads from the API server to it.
        .args(["--set", "global.configValidation=false"]);
        for value in values {
            helm.args(["--set", value]);
        }
        cache::run(helm.arg(home.join("chart"))).unwrap_or_else(|why| panic!("{why}"));

        let directory = tempfile::tempdir().expect("temporary directory");
        let injection = api.get("configmap", NAMESPACE, "istio-sidecar-injector");
        let mounted = directory.path().join("var/lib/istio/inject");
        fs::create_dir_all(&mounted).expect("make a directory");
        for file in ["config", "values"] {
            let text = injection["data"][file].as_str().expect("templates");
            fs::write(mounted.join(file), text).expect("write a file");
        }
        let deployment = api.get("deployment", NAMESPACE, "istiod");
        let mut pod = deployment["spec"]["template"].clone();
        pod["metadata"]["name"] = "istiod-0".into();
        pod["metadata"]["namespace"] = NAMESPACE.into();
        let Container { args, mut env } = Container::of(&pod);
        env.retain(|(name, _)| name != "KUBECONFIG");
        let kubeconfig = api.kubeconfig_of(NAMESPACE, "istiod");
        env.push(("KUBECONFIG".to_owned(), kubeconfig.display().to_string()));
        let program = home.join("pilot-discovery");
        let mut process = Process::start_with(directory.path(), &program, &args, &env);
        let mut ended = None;
        let ready = until_or(START, || {
            ended = process.ended();
            ended.is_some() || is_ready()
        });
        assert!(
            ready && ended.is_none(),
            "istiod is not ready ({ended:?}): {}",
            process.last_words()
        );
        Some(Self {
            process,
            _directory: directory,
        })
    }

    /// What it sent to each proxy and what was acknowledged: `/debug/syncz`.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn syncz(&self) -> Value {
        self.http("/debug/syncz").json()
    }

    /// The sum of a metric's values; 0 when it has none.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let answer = self.http("/metrics");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        text.lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.process.last_words()
    }

    fn http(&self, path: &str) -> crate::http::Answer {
        let port = if path == "/metrics" { 15014 } else { 8080 };
        get(None, ([127, 0, 0, 1], port).into(), path).expect("istiod answers")
    }
}

fn is_ready() -> bool {
    get(None, ([127, 0, 0, 1], 8080).into(), "/ready").is_ok_and(|answer| answer.status == 200)
}

fn build(home: &Path) -> Result<(), String> {
    cache::say(&format!(
        "building istiod {NAME} to test with; once, about four minutes"
    ));
    let chart = module(&format!("istio.io/istio@{VERSION}"))?
        .join("manifests/charts/istio-control/istio-discovery");
    // The module cache is read-only, and so would be the copy.
    cache::run(
        Command::new("cp")
            .args(["-R", "--no-preserve=mode"])
            .arg(chart)
            .arg(home.join("chart")),
    )?;
    let mut go = go();
    go.env("GOBIN", home)
        .args([
            "install",
            "-trimpath",
            "-tags",
            "vtprotobuf,disable_pgv",
            "-ldflags",
        ])
        .arg(format!(
            "-s -w -X istio.io/istio/pkg/version.buildVersion={NAME}"
        ))
        .arg(format!(
            "istio.io/istio/pilot/cmd/pilot-discovery@{VERSION}"
        ));
    cache::run(&mut go).map(drop)
}
