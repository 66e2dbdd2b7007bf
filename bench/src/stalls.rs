//! Whether anything waits for a delayed acknowledgement: small writes behind an unacknowledged one cost 40 ms each where a
//! socket is without TCP_NODELAY.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use rustix::net::{AddressFamily, SocketType, getpeername, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::scenario::{self, Scenario};
use crate::stage::{Extent, Proxy, Stage, StageError};

/// What half of all requests may take: less than the least that a delayed acknowledgement does, more than a busy machine.
const MEDIAN_MS: f64 = 35.0;

const ONE_AT_A_TIME: [Scenario; 3] = [
    Scenario {
        name: "gRPC 64 B c1s1i1",
        connections: 1,
        streams: 1,
        inner_streams: 1,
        ..scenario::GRPC
    },
    Scenario {
        name: "64 KiB c1s1",
        connections: 1,
        streams: 1,
        ..scenario::LARGE
    },
    Scenario {
        name: "L4 64 KiB c1s1",
        bytes: 65536,
        ..scenario::L4_C1S1
    },
];

#[derive(Debug, Clone, Args)]
pub(crate) struct StallsArgs {
    /// The program `waymark`.
    #[arg(long, default_value = "target/dist/waymark")]
    waymark: PathBuf,
    /// How long each load lasts.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StallsError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("look at the proxy's sockets")]
    Sockets(#[source] io::Error),
    #[error("print the result")]
    Print(#[from] io::Error),
    #[error("{0}")]
    Found(String),
}

pub(crate) fn run(args: &StallsArgs, out: &mut dyn Write) -> Result<(), StallsError> {
    let stage = Stage::set_up(&args.waymark, None)?;
    let mut found = Vec::new();
    let head =
        "| one at a time | requests | failed | p50 ms | p99 ms | sockets | without TCP_NODELAY |";
    writeln!(out, "{head}\n|---|---|---|---|---|---|---|")?;
    for scenario in ONE_AT_A_TIME {
        let _backend = stage.backend(scenario.place, scenario.bytes)?;
        let proxy = Proxy::Waymark(1);
        let running = stage.proxy(proxy, scenario.place, None)?;
        let pid = running.pid();
        let extent = Extent::Seconds {
            warm_up: 0.2,
            seconds: args.seconds,
        };
        let mut sockets = Sockets::default();
        let measured = std::thread::scope(|scope| {
            let (done, ended) = mpsc::channel();
            let (stage, scenario, extent) = (&stage, &scenario, &extent);
            scope.spawn(move || {
                let _ = done.send(stage.load(proxy, scenario, pid, extent));
            });
            loop {
                match ended.recv_timeout(Duration::from_millis(100)) {
                    Ok(measured) => return measured.map_err(StallsError::from),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        sockets.look_at(pid).map_err(StallsError::Sockets)?;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => {
                        return Err(StallsError::Found("the load generator is gone".into()));
                    }
                }
            }
        })?;
        let name = scenario.name;
        writeln!(
            out,
            "| {name} | {} | {} | {:.2} | {:.2} | {} | {} |",
            measured.requests,
            measured.failed,
            measured.p50_ms,
            measured.p99_ms,
            sockets.seen.len(),
            sockets.delaying.len(),
        )?;
        if measured.requests == 0 || measured.failed > 0 {
            let why = measured.first_failure.unwrap_or_default();
            found.push(format!(
                "{name}: {} requests failed: {why}",
                measured.failed
            ));
        }
        if measured.p50_ms > MEDIAN_MS {
            found.push(format!(
                "{name}: half of the requests take {} ms",
                measured.p50_ms
            ));
        }
        // Both legs at least.
        if sockets.seen.len() < 2 {
            found.push(format!("{name}: the connections were not seen"));
        }
        for peer in sockets.delaying {
            found.push(format!(
                "{name}: the connection with {peer} is without TCP_NODELAY"
            ));
        }
    }
    if found.is_empty() {
        Ok(())
    } else {
        Err(StallsError::Found(found.join("; ")))
    }
}

/// The TCP connections of a process that were seen, by peer.
#[derive(Default)]
struct Sockets {
    seen: BTreeSet<String>,
    delaying: BTreeSet<String>,
}

impl Sockets {
    fn look_at(&mut self, pid: u32) -> io::Result<()> {
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let target = target.ok_or(io::ErrorKind::NotFound)?;
        let process = pidfd_open(target, PidfdFlags::empty())?;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
            let Some(fd) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let copy = match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
                Ok(copy) => copy,
                Err(rustix::io::Errno::BADF) => continue, // closed meanwhile
                Err(e) => return Err(e.into()),
            };
            let is_tcp = sockopt::socket_type(&copy) == Ok(SocketType::STREAM)
                && sockopt::socket_domain(&copy).is_ok_and(|domain| {
                    domain == AddressFamily::INET || domain == AddressFamily::INET6
                });
            let Some(peer) = is_tcp.then(|| getpeername(&copy).ok().flatten()).flatten() else {
                continue; // a listener, or no socket
            };
            let peer = std::net::SocketAddr::try_from(peer)
                .map_or_else(|_| format!("fd {fd}"), |peer| peer.to_string());
            if sockopt::tcp_nodelay(&copy) == Ok(false) {
                self.delaying.insert(peer.clone());
            }
            self.seen.insert(peer);
        }
        Ok(())
    }
}
