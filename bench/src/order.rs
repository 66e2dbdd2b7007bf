//! What a proxy runs through until it is idle, written as linker scripts that put just that together
//! (`crates/waymark/order`, docs/decisions/0013-programs-of-one-role.md).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::meter::Meter;
use crate::scenario::Place;
use crate::stage::{Proxy, Stage, StageError};

#[derive(Debug, Clone, Args)]
pub(crate) struct OrderArgs {
    /// The program `waymark` of the control plane.
    #[arg(long, default_value = "target/dist/waymark")]
    waymark: PathBuf,
    /// The programs of waypoint and node proxy, with their symbols and built without the scripts.
    #[arg(long, num_args = 2, value_names = ["WAYPOINT", "NODE"], required = true)]
    roles: Vec<PathBuf>,
    /// Where the scripts go.
    #[arg(long, default_value = "crates/waymark/order")]
    directory: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error("{path}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("--roles takes two programs, the waypoint's and the node proxy's")]
    Roles,
    #[error("callgrind names no function of {0}: is it stripped?")]
    NoSymbols(PathBuf),
}

/// Under callgrind everything takes fifty times as long.
const ENDED_WITHIN: Duration = Duration::from_secs(180);

pub(crate) fn run(args: &OrderArgs, out: &mut dyn Write) -> Result<(), OrderError> {
    let [waypoint, node] = args.roles.as_slice() else {
        return Err(OrderError::Roles);
    };
    let stage = Stage::set_up(&args.waymark, None)?.with_roles(waypoint, node);
    for (place, name, program) in [
        (Place::Waypoint, "waypoint", waypoint),
        (Place::Node, "node", node),
    ] {
        let counted = until_idle(&stage, place)?;
        let functions = functions(&counted, program);
        if functions.len() < 100 {
            return Err(OrderError::NoSymbols(program.clone()));
        }
        let path = args.directory.join(format!("{name}.ld"));
        let failed = |source| OrderError::File {
            path: path.clone(),
            source,
        };
        std::fs::write(&path, script(name, &functions)).map_err(failed)?;
        writeln!(out, "{}: {} functions", path.display(), functions.len()).map_err(failed)?;
    }
    Ok(())
}

/// Runs a proxy until it is ready, and ends it. Returns what callgrind wrote.
fn until_idle(stage: &Stage, place: Place) -> Result<String, StageError> {
    let proxy = Proxy::Waymark(1);
    let file = tempfile::NamedTempFile::new()?;
    let running = stage.proxy(proxy, place, Some((Meter::instructions()?, file.path())))?;
    if !running.end(ENDED_WITHIN) {
        return Err(StageError::NotEnded { what: proxy.name() });
    }
    Ok(std::fs::read_to_string(file.path())?)
}

/// The functions of `program` that were run, as they are named in object files, without what differs from build to build.
///
/// In callgrind's format a name is given once, `(number) name`, and is the number from then on.
fn functions(counted: &str, program: &Path) -> BTreeSet<String> {
    let program = program.to_string_lossy();
    let mut names = BTreeMap::new();
    let mut objects = BTreeMap::new();
    let mut inside = false;
    let mut run = BTreeSet::new();
    for line in counted.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (number, name) = match value.split_once(' ') {
            Some((number, name)) => (number, Some(name.trim_end())),
            None => (value, None),
        };
        match key {
            "ob" | "cob" => {
                if let Some(name) = name {
                    objects.insert(number, name.ends_with(&*program));
                }
                if key == "ob" {
                    inside = objects.get(number).copied().unwrap_or(false);
                }
            }
            "fn" | "cfn" => {
                if let Some(name) = name {
                    names.insert(number, name);
                }
                if let Some(name) = names.get(number).filter(|_| key == "fn" && inside) {
                    run.extend(pattern(name));
                }
            }
            _ => {}
        }
    }
    run
}

/// The name of a function as a pattern: hashes of compiler and build are left open. `None` for what has no section of its name.
fn pattern(name: &str) -> Option<String> {
    // Recursion: name'2.
    let name = name.split('\'').next().unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '$');
    if name.is_empty() || name.starts_with("0x") || !name.chars().all(plain) {
        return None;
    }
    if let Some((path, hash)) = name.rsplit_once("17h")
        && name.starts_with("_ZN")
        && hash.len() > 16
    {
        return Some(format!("{path}17h*"));
    }
    if name.starts_with("_R") {
        return Some(without_disambiguators(name));
    }
    Some(without_version(name))
}

/// A name of aws-lc, in which its version is: `aws_lc_0_47_0_EVP_sha256` as `aws_lc_*_EVP_sha256`.
fn without_version(name: &str) -> String {
    match name.split_once("aws_lc_") {
        None => name.to_owned(),
        Some((before, after)) => {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
            format!("{before}aws_lc_*_{after}")
        }
    }
}

/// A name of today's mangling with `Cs<hash>_` as `Cs*_`.
fn without_disambiguators(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("Cs") {
        let (before, after) = rest.split_at(at + 2);
        text += before;
        match after.find('_') {
            Some(end) if after[..end].chars().all(|c| c.is_ascii_alphanumeric()) => {
                text.push('*');
                rest = &after[end..];
            }
            _ => rest = after,
        }
    }
    text + rest
}

/// A linker script that puts these functions in front of all others.
fn script(name: &str, functions: &BTreeSet<String>) -> String {
    let mut text = format!(
        "/* Written by `bench/run order`; do not edit. Functions that are not there do no harm. */\nSECTIONS\n{{\n  .text.{name} :\n  {{\n"
    );
    for function in functions {
        // Functions that the compiler takes for rare have a prefix more.
        text += &format!("    *(.text.{function} .text.unlikely.{function})\n");
    }
    text + "  }\n}\nINSERT BEFORE .text;\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: &str = "\
version: 1
ob=(1) /lib/ld.so
fn=(1) _dl_start
0 4
cob=(2) /target/slim/waymark
cfn=(2) _ZN7waymark5never17h0123456789abcdefE
calls=1 0
0 3
ob=(2)
fn=(3) _ZN7waymark4main17h0123456789abcdefE
0 9
fn=(4) _RNvNtCs4X4t9plMPHF_3std2io5stdio
0 9
fn=(5) aws_lc_0_47_0_aes_init'2
0 1
fn=(6) 0x00000000001234
0 1
ob=(1)
fn=(1)
0 4
";

    #[test]
    fn functions_are_those_of_the_program_that_were_run() {
        let functions = functions(COUNTED, Path::new("slim/waymark"));
        let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        assert_eq!(
            functions,
            [
                "_RNvNtCs*_3std2io5stdio",
                "_ZN7waymark4main17h*",
                "aws_lc_*_aes_init"
            ]
        );
    }

    #[test]
    fn a_script_names_each_function_also_as_a_rare_one() {
        let script = script("node", &["_ZN1a17h*".to_owned()].into());
        assert!(script.contains("  .text.node :"), "{script}");
        assert!(
            script.contains("*(.text._ZN1a17h* .text.unlikely._ZN1a17h*)"),
            "{script}"
        );
        assert!(script.ends_with("INSERT BEFORE .text;\n"), "{script}");
    }
}
