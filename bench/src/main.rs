//! Load for HBONE proxies, and our waypoint beside Envoy in the same place.
//!
//! `load` speaks as a source node proxy does: mTLS, CONNECT, many streams a connection, inner HTTP/1.1 or HTTP/2, closed or
//! open loop. `backend` plays the destination: node proxy and application in one. `compare` alternates proxies in one run.
#![forbid(unsafe_code)]

mod backend;
mod certs;
mod compare;
mod envoy;
mod load;
mod process;
mod report;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "waymark-bench",
    about = "Load generator and side-by-side runner for HBONE proxies"
)]
struct App {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Drive one proxy and print what was measured as JSON.
    Load(load::LoadArgs),
    /// Answer HBONE requests until killed.
    Backend(backend::BackendArgs),
    /// Our waypoint and Envoy, alternating; prints Markdown, writes JSON.
    Compare(compare::CompareArgs),
}

fn main() -> ExitCode {
    let app = App::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let mut out = std::io::stdout();
    let result: Result<(), Box<dyn std::error::Error>> = runtime.block_on(async {
        match app.command {
            Command::Load(args) => {
                let measured = load::run(&args).await?;
                writeln!(out, "{}", serde_json::to_string_pretty(&measured)?)?;
            }
            Command::Backend(args) => backend::run(&args).await?,
            Command::Compare(args) => compare::run(&args, &mut out).await?,
        }
        Ok(())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    let mut text = format!("Error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}
