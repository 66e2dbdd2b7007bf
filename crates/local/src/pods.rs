//! The pods of the mesh directory that name a command: started, kept running, ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::mesh::ServiceInfo;
use crate::process::{MARKER, Process, Spec, describe};
use crate::roles::PodView;
use crate::state_dir::StateDir;

const GRACE: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Key: `namespace/name`.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    running: BTreeMap<String, Pod>,
}

#[derive(Debug)]
struct Pod {
    spec: Spec,
    /// What must accept connections before the pod counts as ready.
    probe: Option<SocketAddr>,
    ready: bool,
    state: State,
    backoff: Duration,
}

#[derive(Debug)]
enum State {
    Running(Process),
    Waiting { until: Instant },
}

impl Pods {
    /// Starts what is wanted and not there, ends what is no longer wanted or changed, starts again what ended.
    /// Returns what to tell the user.
    pub(crate) async fn reconcile(
        &mut self,
        state: &StateDir,
        exe: &Path,
        pods: &[PodView],
        services: &[ServiceInfo],
    ) -> Vec<String> {
        let wanted: BTreeMap<String, (&PodView, Spec)> = pods
            .iter()
            .filter_map(|pod| {
                let command = pod.command.as_deref()?;
                let key = format!("{}/{}", pod.namespace, pod.name);
                Some((key, (pod, pod_spec(state, exe, pod, command, services))))
            })
            .collect();
        let stale: Vec<String> = self
            .running
            .iter()
            .filter(|(key, pod)| {
                wanted.get(*key).is_none_or(|(_, spec)| {
                    spec.args != pod.spec.args || !same_pod(spec, &pod.spec)
                })
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in stale {
            if let Some(Pod {
                state: State::Running(process),
                ..
            }) = self.running.remove(&key)
            {
                process.stop(GRACE).await;
            }
        }
        let mut notes = Vec::new();
        for (key, (view, spec)) in wanted {
            let pod = self.running.entry(key.clone()).or_insert_with(|| Pod {
                probe: view
                    .ports
                    .first()
                    .map(|port| SocketAddr::new(view.app_address, *port)),
                spec,
                ready: false,
                state: State::Waiting {
                    until: Instant::now(),
                },
                backoff: BACKOFF_MIN,
            });
            notes.extend(pod.tend(&key));
        }
        notes
    }

    /// Tries the pods that are not ready yet; names those that still are not.
    pub(crate) async fn pending(&mut self) -> Vec<String> {
        let mut pending = Vec::new();
        for (key, pod) in &mut self.running {
            if !pod.ready && matches!(pod.state, State::Running(_)) {
                pod.ready = match pod.probe {
                    None => true,
                    Some(address) => TcpStream::connect(address).await.is_ok(),
                };
            }
            if !pod.ready {
                pending.push(key.clone());
            }
        }
        pending
    }

    pub(crate) fn len(&self) -> usize {
        self.running.len()
    }

    /// Log file of the pod.
    pub(crate) fn log(&self, key: &str) -> Option<&Path> {
        self.running.get(key).map(|pod| pod.spec.log.as_path())
    }
}

impl Pod {
    fn tend(&mut self, key: &str) -> Option<String> {
        match &self.state {
            State::Running(process) => {
                let status = process.exited()?;
                if process.started.elapsed() > HEALTHY_AFTER {
                    self.backoff = BACKOFF_MIN;
                }
                self.state = State::Waiting {
                    until: Instant::now() + self.backoff,
                };
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                Some(format!(
                    "pod {key} ended with {}; starting it again (log: {})",
                    describe(status),
                    self.spec.log.display()
                ))
            }
            State::Waiting { until } if Instant::now() < *until => None,
            State::Waiting { .. } => match Process::spawn(&self.spec) {
                Ok(process) => {
                    self.state = State::Running(process);
                    None
                }
                Err(error) => {
                    self.state = State::Waiting {
                        until: Instant::now() + self.backoff,
                    };
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                    Some(format!("pod {key}: {error}"))
                }
            },
        }
    }
}

/// The variables of the services are those of the moment when the pod starts, as in Kubernetes: they do not restart it.
fn same_pod(a: &Spec, b: &Spec) -> bool {
    let own = |spec: &Spec| -> Vec<(OsString, OsString)> {
        let is_service = |name: &OsString| name.to_str().is_some_and(|n| n.contains("_SERVICE_"));
        spec.env
            .iter()
            .filter(|(name, _)| !is_service(name))
            .cloned()
            .collect()
    };
    own(a) == own(b)
}

fn pod_spec(
    state: &StateDir,
    exe: &Path,
    pod: &PodView,
    command: &str,
    services: &[ServiceInfo],
) -> Spec {
    let mut env: Vec<(OsString, OsString)> = vec![
        (MARKER.into(), state.path().into()),
        ("POD_IP".into(), pod.ip.to_string().into()),
        ("POD_NAME".into(), (&pod.name).into()),
        ("POD_NAMESPACE".into(), (&pod.namespace).into()),
        ("WAYMARK_APP_IP".into(), pod.app_address.to_string().into()),
        ("PATH".into(), path_with(exe)),
    ];
    if let Some(port) = pod.ports.first() {
        env.push(("PORT".into(), port.to_string().into()));
    }
    for service in services.iter().filter(|s| s.namespace == pod.namespace) {
        let (Some(vip), Some(port)) = (service.vip, service.ports.first()) else {
            continue;
        };
        let name = service.name.to_uppercase().replace('-', "_");
        env.push((
            format!("{name}_SERVICE_HOST").into(),
            vip.to_string().into(),
        ));
        env.push((
            format!("{name}_SERVICE_PORT").into(),
            port.port.to_string().into(),
        ));
    }
    env.extend(pod.env.iter().map(|(k, v)| (k.into(), v.into())));
    Spec {
        name: format!("pod {}/{}", pod.namespace, pod.name),
        program: "/bin/sh".into(),
        args: vec!["-c".into(), format!("exec {command}").into()],
        env,
        log: state.log(&format!("pod-{}-{}", pod.namespace, pod.name)),
    }
}

/// `PATH` with this program's own directory first, so that `waymark ...` in a pod's command is this program.
fn path_with(exe: &Path) -> OsString {
    let mut paths: Vec<std::path::PathBuf> = exe.parent().map(Path::to_owned).into_iter().collect();
    if let Some(path) = std::env::var_os("PATH") {
        paths.extend(std::env::split_paths(&path));
    }
    std::env::join_paths(paths).unwrap_or_default()
}
