//! The one program: arguments to roles, commands and streams. Everything else is in the crates.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

#[cfg(feature = "cli")]
mod capture;
#[cfg(not(feature = "default"))]
mod features;
#[cfg(feature = "waypoint")]
mod proxy;
#[cfg(all(test, feature = "default"))]
mod reference;
mod roles;
#[cfg(feature = "cli")]
mod simulate;

/// Waymark: an ambient service mesh.
#[derive(Debug, Parser)]
#[command(
    name = "waymark",
    version,
    propagate_version = false,
    disable_help_subcommand = true
)]
struct App {
    #[cfg(feature = "cli")]
    #[command(flatten)]
    global: waymark_cli::Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring up a whole mesh on this machine: bookinfo, or a directory of manifests.
    #[cfg(feature = "local")]
    Up(waymark_local::UpArgs),
    /// End the mesh that `up --detach` left running.
    #[cfg(feature = "local")]
    Down(waymark_local::DownArgs),
    /// Run one part of the mesh as a service.
    Run(roles::RunArgs),
    /// Be a waypoint in a pod, by the arguments that istiod's deployer gives its container.
    #[cfg(feature = "waypoint")]
    #[command(hide = true)]
    Proxy(proxy::ProxyArgs),
    /// Be a service of the bookinfo sample.
    #[cfg(feature = "local")]
    #[command(hide = true)]
    Sample(waymark_samples::Args),
    #[cfg(feature = "cli")]
    #[command(flatten)]
    Operator(waymark_cli::Command),
    /// What another build has.
    #[cfg(not(feature = "default"))]
    #[command(external_subcommand)]
    Absent(Vec<String>),
}

fn main() -> ExitCode {
    #[cfg(feature = "cli")]
    let called_as = waymark_cli::called_as(std::env::args_os().next().as_deref());
    #[cfg(not(feature = "cli"))]
    let called_as = "waymark";
    let parsed = App::command()
        .bin_name(called_as)
        .try_get_matches()
        .and_then(|mut matches| App::from_arg_matches_mut(&mut matches));
    let app = match parsed {
        Ok(app) => app,
        Err(error) => {
            let _ = error.print();
            // Help and version are no errors; everything else is wrong usage.
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    match app.command {
        #[cfg(feature = "local")]
        Command::Up(args) => block_on(up(args)),
        #[cfg(feature = "local")]
        Command::Down(args) => block_on(async {
            let done = waymark_local::down(&args, &mut std::io::stdout()).await;
            done.map_err(|e| fail(&e, None, 1))
        }),
        Command::Run(args) => roles::run(args),
        #[cfg(feature = "waypoint")]
        Command::Proxy(args) => proxy::run(args),
        #[cfg(feature = "local")]
        Command::Sample(args) => block_on(async {
            let done = waymark_samples::run(args, roles::signalled()).await;
            done.map_err(|e| fail(&e, None, 1))
        }),
        #[cfg(feature = "cli")]
        Command::Operator(command) => block_on(operate(&app.global, command)),
        #[cfg(not(feature = "default"))]
        Command::Absent(words) => features::absent("command", &words),
    }
}

#[cfg(feature = "local")]
async fn up(args: waymark_local::UpArgs) -> Result<(), ExitCode> {
    let exe = std::env::current_exe().map_err(|e| fail(&e, None, 1))?;
    let mut out = std::io::stdout();
    let terminal = std::io::IsTerminal::is_terminal(&out);
    waymark_local::up(args, &exe, terminal, &mut out, roles::signalled())
        .await
        .map_err(|e| fail(&e, e.hint(), 1))
}

#[cfg(feature = "cli")]
async fn operate(
    global: &waymark_cli::Global,
    command: waymark_cli::Command,
) -> Result<(), ExitCode> {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut context = waymark_cli::Context {
        out: &mut out,
        err: &mut err,
        simulate: &simulate::run,
        serve_capture: &capture::run,
        root: &App::command,
    };
    match waymark_cli::run(global, command, &mut context).await {
        Err(error) if error.is_closed_pipe() => Ok(()),
        done => done.map_err(|e| fail(&e, e.hint(), e.exit_code())),
    }
}

/// Prints the error, its causes and a hint; gives the exit code.
fn fail(error: &dyn std::error::Error, hint: Option<&str>, code: u8) -> ExitCode {
    let mut err = std::io::stderr();
    let _ = writeln!(err, "Error: {}", causes(error));
    if let Some(hint) = hint {
        let _ = writeln!(err, "Hint: {hint}");
    }
    ExitCode::from(code)
}

/// The error and its causes, as one text.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(any(feature = "cli", feature = "local"))]
fn block_on(work: impl Future<Output = Result<(), ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => match runtime.block_on(work) {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        },
        Err(error) => fail(&error, None, 1),
    }
}
