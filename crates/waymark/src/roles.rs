//! `waymark run ROLE`: logging, a runtime, signals; the rest is the role's.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
#[cfg(feature = "local")]
use tokio::signal::unix::{SignalKind, signal};
use waymark_rt::Drain;
#[cfg(feature = "waypoint")]
use waymark_rt::log::LogHandle;
use waymark_rt::log::{LevelSpec, LogFormat, LogOptions};
#[cfg(feature = "waypoint")]
use waymark_waypoint::pod::{Pod, PodArgs};

use crate::fail;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Which lines are logged: a level, or levels by target, e.g. info,waymark_node=debug.
    #[arg(
        long,
        global = true,
        env = "WAYMARK_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVELS"
    )]
    log_level: LevelSpec,
    /// How lines look.
    #[arg(
        long,
        global = true,
        env = "WAYMARK_LOG_FORMAT",
        default_value = "text",
        value_name = "text|json"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The control plane: reads resources, configures and deploys waypoints, tells node proxies about the mesh, issues
    /// certificates.
    #[cfg(feature = "controlplane")]
    Controlplane(Box<waymark_controlplane::Args>),
    /// A waypoint proxy.
    #[cfg(feature = "waypoint")]
    Waypoint(Box<waymark_waypoint::Args>),
    /// A waypoint that is a stock Envoy: gets its certificate, relays its configuration, starts and drains it.
    #[cfg(feature = "agent")]
    Agent(Box<waymark_agent::Args>),
    /// The node proxy of the secure overlay.
    #[cfg(feature = "node")]
    Node(Box<waymark_node::Args>),
    /// What another build has.
    #[cfg(not(feature = "default"))]
    #[command(external_subcommand)]
    Absent(Vec<String>),
}

pub(crate) fn run(args: RunArgs) -> ExitCode {
    let options = LogOptions {
        format: args.log_format,
        level: args.log_level.quietened(KUBE_REQUESTS),
        ..LogOptions::default()
    };
    #[cfg_attr(
        not(any(feature = "node", feature = "waypoint")),
        expect(unused_variables, reason = "what changes levels while it runs")
    )]
    let log = match waymark_rt::log::init(options) {
        Ok(log) => log,
        Err(error) => return fail(&error, None, 1),
    };
    match args.role {
        #[cfg(feature = "controlplane")]
        Role::Controlplane(args) => {
            let drain = Duration::from_secs(5);
            drive(
                tokio::runtime::Builder::new_multi_thread(),
                drain,
                |shutdown| waymark_controlplane::run(*args, shutdown),
            )
        }
        #[cfg(feature = "waypoint")]
        Role::Waypoint(args) => waypoint(&args, Pod::here(PodArgs::default()).as_ref(), log),
        #[cfg(feature = "agent")]
        Role::Agent(args) => {
            let drain = args.drain();
            // One thread, which lives as long as the program: Envoy ends with it.
            drive(
                tokio::runtime::Builder::new_current_thread(),
                drain,
                |shutdown| waymark_agent::run(*args, shutdown),
            )
        }
        #[cfg(feature = "node")]
        Role::Node(args) => {
            let drain = match args.drain_grace() {
                Ok(drain) => drain,
                Err(error) => return fail(&error, None, 64),
            };
            drive(
                tokio::runtime::Builder::new_current_thread(),
                drain,
                |shutdown| waymark_node::run(*args, shutdown, Some(log)),
            )
        }
        #[cfg(not(feature = "default"))]
        Role::Absent(words) => crate::features::absent("role", &words),
    }
}

/// Runs a waypoint, by its flags or as a pod.
#[cfg(feature = "waypoint")]
pub(crate) fn waypoint(
    args: &waymark_waypoint::Args,
    pod: Option<&Pod>,
    log: LogHandle,
) -> ExitCode {
    let settings = match args.settings(pod) {
        Ok(settings) => settings,
        Err(error) => return fail(&error, None, 1),
    };
    drive(
        tokio::runtime::Builder::new_current_thread(),
        settings.drain,
        |shutdown| waymark_waypoint::run(settings, shutdown, Some(log)),
    )
}

/// Runs a role until it fails, or a signal has made it drain.
fn drive<E: std::error::Error, F: Future<Output = Result<(), E>>>(
    mut runtime: tokio::runtime::Builder,
    grace: Duration,
    role: impl FnOnce(waymark_rt::Shutdown) -> F,
) -> ExitCode {
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, None, 1),
    };
    runtime.block_on(async {
        let drain = Drain::new(grace);
        let role = role(drain.shutdown());
        tokio::pin!(role);
        let drained = drain.run_until_signal();
        tokio::pin!(drained);
        let result = tokio::select! {
            result = &mut role => Some(result),
            _ = &mut drained => None,
        };
        // Drained: the role has seen it and ends by itself; what it holds has ended already.
        let result = match result {
            Some(result) => result,
            None => tokio::time::timeout(Duration::from_secs(2), &mut role)
                .await
                .unwrap_or(Ok(())),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, None, 1),
        }
    })
}

/// Completes at SIGINT or SIGTERM.
#[cfg(feature = "local")]
pub(crate) async fn signalled() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Whoever sends a request to an API server says what came of it; kube says so too, at level ERROR.
const KUBE_REQUESTS: &str = "kube_client::client::builder";
