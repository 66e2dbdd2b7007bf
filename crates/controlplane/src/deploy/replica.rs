//! One replica, from start to end.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};
use waymark_rt::spawn;

use super::process::{CommandLine, Found, Process, forget};
use super::{DeployOptions, Phase, ReplicaKey, ReplicaState, log_file, probe};

/// What a replica should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Running.
    Wanted(Arc<Spec>),
    /// Drained and gone.
    Gone,
    /// Left alone: the control plane ends.
    Left,
}

/// How a replica is run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) address: IpAddr,
    pub(super) command: CommandLine,
}

/// What has become of a replica; `None` when it is gone.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) key: ReplicaKey,
    pub(super) state: Option<ReplicaState>,
}

/// Keeps one replica as it should be. Nobody else starts, signals or notes its process.
pub(super) struct Replica {
    pub(super) key: ReplicaKey,
    pub(super) dir: PathBuf,
    pub(super) options: Arc<DeployOptions>,
    pub(super) target: watch::Receiver<Target>,
    pub(super) report: mpsc::Sender<Report>,
}

/// Why a process is not watched any more.
enum Over {
    /// It ended by itself.
    Ended { why: String, healthy: bool },
    /// It should end.
    Unwanted(Process),
    /// The control plane ends.
    Left,
}

impl Replica {
    /// Runs until the replica is gone, or left alone.
    pub(super) async fn run(mut self) -> ReplicaKey {
        let mut restarts = 0;
        let mut pause = PAUSE_MIN;
        let mut looked = false;
        loop {
            let target = self.target.borrow_and_update().clone();
            let found = if std::mem::replace(&mut looked, true) {
                None
            } else {
                self.find(&target)
            };
            let (spec, adopted) = match (target, found) {
                (Target::Left, _) | (Target::Gone, None) => break,
                (Target::Wanted(spec), None) => (spec, None),
                (Target::Wanted(spec), Some((process, true))) => {
                    info!(replica = %self.key, pid = process.pid(), "adopted");
                    (spec, Some(process))
                }
                (Target::Gone, Some((process, _)))
                | (Target::Wanted(_), Some((process, false))) => {
                    self.drain(process, restarts).await;
                    continue;
                }
            };
            let process = adopted.map_or_else(|| self.start(&spec), Ok);
            let (why, healthy) = match process {
                Err(e) => (format!("cannot be started: {e}"), false),
                Ok(process) => match self.watch(process, &spec, restarts).await {
                    Over::Ended { why, healthy } => (why, healthy),
                    Over::Unwanted(process) => {
                        self.drain(process, restarts).await;
                        (restarts, pause) = (0, PAUSE_MIN);
                        continue;
                    }
                    Over::Left => break,
                },
            };
            if healthy {
                pause = PAUSE_MIN;
            }
            warn!(replica = %self.key, why, retry_in = ?pause, "waypoint ended");
            self.back_off(why, pause, restarts).await;
            restarts += 1;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.key
    }

    /// What an earlier control plane left, and whether it is as wanted.
    fn find(&self, target: &Target) -> Option<(Process, bool)> {
        let command = match target {
            Target::Wanted(spec) => Some(&spec.command),
            Target::Gone => None,
            Target::Left => return None,
        };
        match Process::find(command, &self.dir) {
            Found::Nothing => {
                forget(&self.dir);
                None
            }
            Found::Same(process) => Some((process, true)),
            Found::Other(process) => Some((process, false)),
        }
    }

    fn start(&self, spec: &Spec) -> std::io::Result<Process> {
        std::fs::create_dir_all(&self.dir)?;
        let process = Process::start(&spec.command, &self.dir, log_file::open(&self.dir)?)?;
        info!(replica = %self.key, pid = process.pid(), address = %spec.address, "started");
        Ok(process)
    }

    /// Watches a process until it ends or should.
    async fn watch(&mut self, mut process: Process, spec: &Arc<Spec>, restarts: u32) -> Over {
        let pid = Some(process.pid());
        let began = Instant::now();
        let (sender, mut ready) = watch::channel(false);
        let addr = SocketAddr::new(spec.address, self.options.ready_port);
        let _probing = spawn("probe", probe::watch_readiness(addr, sender));
        let mut look_at_log = interval(LOG_EVERY);
        look_at_log.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ready_since: Option<Instant> = None;
        self.tell(Phase::Starting, pid, restarts).await;
        loop {
            tokio::select! {
                biased;
                why = process.ended() => {
                    let healthy = ready_since.is_some_and(|since| since.elapsed() >= HEALTHY);
                    forget(&self.dir);
                    let words = log_file::last_words(&self.dir).map(|w| format!("; its last words: {w}"));
                    return Over::Ended { why: why + &words.unwrap_or_default(), healthy };
                }
                changed = self.target.changed() => {
                    let target = self.target.borrow_and_update().clone();
                    match target {
                        _ if changed.is_err() => return Over::Left,
                        Target::Wanted(now) if now == *spec => {}
                        Target::Wanted(_) | Target::Gone => return Over::Unwanted(process),
                        Target::Left => return Over::Left,
                    }
                }
                Ok(()) = ready.changed() => {
                    let is_ready = *ready.borrow_and_update();
                    info!(replica = %self.key, ready = is_ready, after = ?began.elapsed(), "readiness");
                    ready_since = is_ready.then(Instant::now);
                    let phase = if is_ready { Phase::Ready } else { Phase::Starting };
                    self.tell(phase, pid, restarts).await;
                }
                _ = look_at_log.tick() => {
                    if let Err(e) = log_file::cap(&self.dir) {
                        warn!(replica = %self.key, error = %e, "log cannot be cut");
                    }
                }
            }
        }
    }

    /// Tells a process to end, and sees to it.
    async fn drain(&mut self, mut process: Process, restarts: u32) {
        info!(replica = %self.key, pid = process.pid(), "draining");
        self.tell(Phase::Draining, Some(process.pid()), restarts)
            .await;
        process.signal(Signal::TERM);
        let left = async |target: &mut watch::Receiver<Target>| {
            let _ = target.wait_for(|target| *target == Target::Left).await;
        };
        tokio::select! {
            biased;
            ended = timeout(self.options.drain, process.ended()) => {
                if ended.is_err() {
                    warn!(replica = %self.key, pid = process.pid(), after = ?self.options.drain, "did not drain: killed");
                    process.signal(Signal::KILL);
                    process.ended().await;
                }
                forget(&self.dir);
            }
            // It was told, and ends by itself; the next control plane finds it if not.
            () = left(&mut self.target) => {}
        }
    }

    /// Waits before the next start, unless what is wanted changes.
    async fn back_off(&mut self, why: String, pause: Duration, restarts: u32) {
        self.tell(Phase::Backoff { why }, None, restarts).await;
        tokio::select! {
            biased;
            _ = self.target.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn tell(&self, phase: Phase, pid: Option<u32>, restarts: u32) {
        let state = ReplicaState {
            phase,
            since: SystemTime::now(),
            pid,
            restarts,
            refused: None,
        };
        // Fails only when nobody wants to know.
        let _ = self
            .report
            .send(Report {
                key: self.key.clone(),
                state: Some(state),
            })
            .await;
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// One that was ready for so long starts over with the shortest pause.
const HEALTHY: Duration = Duration::from_secs(10);
const LOG_EVERY: Duration = Duration::from_secs(10);
