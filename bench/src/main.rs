//! Load for HBONE proxies, and ours beside Envoy and the floor in the same place.
//!
//! `load` speaks as a source node proxy does: mTLS, CONNECT, many streams a connection, inner HTTP/1.1 or HTTP/2, closed or
//! open loop. `backend` plays the destination: node proxy and application in one. `floor` relays frames and nothing else.
//! `compare` alternates proxies in one run, `gate` counts what CI watches, `soak` looks for leaks and failures,
//! `order` writes what the linker puts together.
#![forbid(unsafe_code)]

mod backend;
mod bars;
mod certs;
mod compare;
mod envoy;
mod floor;
mod gate;
mod hub;
mod load;
mod manifests;
mod meter;
mod order;
mod plain;
mod process;
mod report;
mod scenario;
mod soak;
mod stage;
mod stalls;
mod timer;

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
    /// Relay HBONE frames until killed: what a proxy can't be cheaper than.
    Floor(floor::FloorArgs),
    /// Our proxy, Envoy and the floor, alternating; prints Markdown, writes JSON.
    Compare(compare::CompareArgs),
    /// Count what a request costs and fail where it costs more than the limits say.
    Gate(gate::GateArgs),
    /// Write down what a proxy runs through until it is idle, for the linker.
    Order(order::OrderArgs),
    /// Load with changes all around: fails when a request does, or when memory grows.
    Soak(soak::SoakArgs),
    /// One request at a time: fails when half of them take as long as a delayed acknowledgement.
    Stalls(stalls::StallsArgs),
}

fn main() -> ExitCode {
    match run(App::parse().command, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "Error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Load(args) => {
            let measured = load::run(&args)?;
            writeln!(out, "{}", serde_json::to_string_pretty(&measured)?)?;
        }
        Command::Backend(args) => backend::run(&args)?,
        Command::Floor(args) => floor::run(&args)?,
        Command::Compare(args) => compare::run(&args, out)?,
        Command::Gate(args) => gate::run(&args, out)?,
        Command::Order(args) => order::run(&args, out)?,
        Command::Soak(args) => soak::run(&args, out)?,
        Command::Stalls(args) => stalls::run(&args, out)?,
    }
    Ok(())
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
