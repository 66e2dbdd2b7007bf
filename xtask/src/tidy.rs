//! The repository's own checks: what must hold by construction and no compiler sees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Which of our crates each crate may depend on (besides in tests). The arrows of ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("waymark-proto", &[]),
    ("waymark-api", &[]),
    ("waymark-sys", &[]),
    ("waymark-rt", &["waymark-sys"]),
    ("waymark-engine", &["waymark-rt"]),
    (
        "waymark-driver",
        &[
            "waymark-engine",
            "waymark-identity",
            "waymark-rt",
            "waymark-sys",
        ],
    ),
    (
        "waymark-identity",
        &["waymark-proto", "waymark-rt", "waymark-sys"],
    ),
    ("waymark-xds", &["waymark-proto", "waymark-rt"]),
    (
        "waymark-hbone",
        &[
            "waymark-driver",
            "waymark-engine",
            "waymark-identity",
            "waymark-rt",
            "waymark-sys",
        ],
    ),
    (
        "waymark-hbone-tokio",
        &["waymark-identity", "waymark-rt", "waymark-sys"],
    ),
    (
        "waymark-kubernetes",
        &["waymark-api", "waymark-identity", "waymark-rt"],
    ),
    (
        "waymark-controlplane",
        &[
            "waymark-api",
            "waymark-identity",
            "waymark-kubernetes",
            "waymark-proto",
            "waymark-rt",
            "waymark-sys",
            "waymark-xds",
        ],
    ),
    (
        "waymark-waypoint",
        &[
            "waymark-driver",
            "waymark-engine",
            "waymark-hbone",
            "waymark-identity",
            "waymark-proto",
            "waymark-rt",
            "waymark-sys",
            "waymark-xds",
        ],
    ),
    (
        "waymark-node",
        &[
            "waymark-driver",
            "waymark-engine",
            "waymark-hbone",
            "waymark-hbone-tokio",
            "waymark-identity",
            "waymark-proto",
            "waymark-rt",
            "waymark-sys",
            "waymark-xds",
        ],
    ),
    (
        "waymark-agent",
        &[
            "waymark-identity",
            "waymark-proto",
            "waymark-rt",
            "waymark-sys",
        ],
    ),
    (
        "waymark-cli",
        &[
            "waymark-api",
            "waymark-kubernetes",
            "waymark-proto",
            "waymark-rt",
        ],
    ),
    ("waymark-samples", &["waymark-rt"]),
    (
        "waymark-local",
        &["waymark-api", "waymark-rt", "waymark-samples"],
    ),
    (
        "waymark-testkit",
        &[
            "waymark-api",
            "waymark-hbone",
            "waymark-identity",
            "waymark-proto",
            "waymark-rt",
            "waymark-sys",
            "waymark-xds",
        ],
    ),
    (
        "waymark",
        &[
            "waymark-agent",
            "waymark-cli",
            "waymark-controlplane",
            "waymark-local",
            "waymark-node",
            "waymark-rt",
            "waymark-samples",
            "waymark-waypoint",
        ],
    ),
    ("waymark-bench", &["waymark-driver", "waymark-engine"]),
    ("xtask", &[]),
];

/// Crates that may contain `unsafe`.
const UNSAFE: &[&str] = &["waymark-sys"];

/// Where requests pass: nothing there may bring in another event loop or another codec.
const DATA_PATH: &[&str] = &[
    "crates/driver/src/",
    "crates/engine/src/",
    "crates/hbone/src/",
    "crates/waypoint/src/cluster",
    "crates/waypoint/src/downstream.rs",
    "crates/waypoint/src/http",
    "crates/waypoint/src/listener",
    "crates/waypoint/src/originate.rs",
    "crates/waypoint/src/route",
    "crates/waypoint/src/signal.rs",
    "crates/waypoint/src/tcp.rs",
    "crates/waypoint/src/worker",
];

/// What may not be named there, and what of it may: channels and tokens that need no runtime.
const OTHER_LOOPS: &[&str] = &[
    "tokio::",
    "tokio_rustls::",
    "hyper::",
    "hyper_util::",
    " h2::",
];
const RUNTIME_FREE: &[&str] = &["tokio::sync::", "use waymark_"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

/// Why the checks could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TidyError {
    #[error("run {command}")]
    Run {
        command: String,
        source: std::io::Error,
    },
    #[error("{command} failed: {stderr}")]
    Failed { command: String, stderr: String },
    #[error("read the output of {command}")]
    Parse {
        command: String,
        source: serde_json::Error,
    },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// Makes every check; returns what is wrong, a line each.
pub(crate) fn tidy(root: &Path) -> Result<Vec<String>, TidyError> {
    let metadata: Metadata = {
        let output = run(
            root,
            "cargo",
            &["metadata", "--format-version=1", "--locked"],
        )?;
        serde_json::from_str(&output).map_err(|source| TidyError::Parse {
            command: "cargo metadata".into(),
            source,
        })?
    };
    let members: BTreeSet<&str> = metadata
        .workspace_members
        .iter()
        .map(String::as_str)
        .collect();
    let ours: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|p| members.contains(p.id.as_str()))
        .collect();
    let files = tracked_files(root)?;
    let mut wrong = Vec::new();
    wrong.extend(arrows(&ours));
    wrong.extend(unsafe_roots(root, &ours)?);
    wrong.extend(licences(root, &metadata)?);
    wrong.extend(file_names(&files));
    wrong.extend(contents(root, &files)?);
    wrong.extend(data_path(root, &files)?);
    Ok(wrong)
}

fn arrows(ours: &[&Package]) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let names: BTreeSet<&str> = ours.iter().map(|p| p.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in ours {
        let Some(may) = allowed.get(package.name.as_str()) else {
            wrong.push(format!(
                "{}: crate is not in the table of arrows (xtask/src/tidy.rs)",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let in_tests = dependency.kind.as_deref() == Some("dev");
            if names.contains(name) && !in_tests && !may.contains(&name) {
                wrong.push(format!(
                    "{}: may not depend on {name} (ARCHITECTURE.md, code map)",
                    package.name
                ));
            }
        }
    }
    wrong
}

fn unsafe_roots(root: &Path, ours: &[&Package]) -> Result<Vec<String>, TidyError> {
    let mut wrong = Vec::new();
    for package in ours.iter().filter(|p| !UNSAFE.contains(&p.name.as_str())) {
        for target in &package.targets {
            let is_root = target
                .kind
                .iter()
                .any(|k| matches!(k.as_str(), "lib" | "bin" | "proc-macro"));
            if is_root && !read(&target.src_path)?.contains("#![forbid(unsafe_code)]") {
                let path = target
                    .src_path
                    .strip_prefix(root)
                    .unwrap_or(&target.src_path);
                wrong.push(format!("{}: no #![forbid(unsafe_code)]", path.display()));
            }
        }
        let manifest = read(&package.manifest_path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            wrong.push(format!(
                "{}: does not take the workspace's lints",
                package.name
            ));
        }
    }
    Ok(wrong)
}

/// Every dependency's licence has an alternative that `deny.toml` allows.
fn licences(root: &Path, metadata: &Metadata) -> Result<Vec<String>, TidyError> {
    let deny = read(&root.join("deny.toml"))?;
    let list = deny
        .split_once("allow = [")
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("", |(list, _)| list);
    let allowed: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
    Ok(metadata
        .packages
        .iter()
        .filter(|p| p.source.is_some())
        .filter(|p| {
            !p.license
                .as_deref()
                .is_some_and(|l| licence_allowed(l, &allowed))
        })
        .map(|p| {
            format!(
                "{} {}: licence {} is not allowed by deny.toml",
                p.name,
                p.version,
                p.license.as_deref().unwrap_or("(none)")
            )
        })
        .collect())
}

/// SPDX expressions as they occur: `A`, `A OR B`, `A/B`, `A AND (B OR C)`.
fn licence_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    expression.split(" AND ").all(|part| {
        part.trim_matches(|c| c == '(' || c == ')')
            .split(" OR ")
            .flat_map(|alternative| alternative.split('/'))
            .any(|name| allowed.contains(name.trim().trim_matches(|c| c == '(' || c == ')')))
    })
}

fn file_names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .filter(|f| f.file_name().is_some_and(|n| n == "mod.rs"))
        .map(|f| format!("{}: `foo.rs` beside `foo/`, no mod.rs", f.display()))
        .chain(
            files
                .iter()
                .filter(|f| {
                    let stem = f.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
                    f.extension().is_some_and(|e| e == "rs")
                        && matches!(
                            stem,
                            "util" | "utils" | "common" | "helpers" | "misc" | "manager"
                        )
                })
                .map(|f| format!("{}: name the concept", f.display())),
        )
        .collect()
}

fn contents(root: &Path, files: &[PathBuf]) -> Result<Vec<String>, TidyError> {
    let mut wrong = Vec::new();
    for file in files {
        let name = file.to_string_lossy();
        let generated = name.contains("/gen/") || name == "Cargo.lock";
        let source = name.ends_with(".rs");
        let prose = name.ends_with(".md");
        if generated || name.starts_with("xtask/") || !(source || prose) {
            continue;
        }
        for (number, line) in read(&root.join(file))?.lines().enumerate() {
            let place = format!("{name}:{}", number + 1);
            if source && line.contains("TODO") && !line.contains("TODO(#") {
                wrong.push(format!("{place}: a TODO names its issue: TODO(#123)"));
            }
            let silences = line.contains("#[allow(") || line.contains("#![allow(");
            if source && silences && !line.contains("reason = ") {
                wrong.push(format!("{place}: a silenced lint has its reason"));
            }
            if source && line.trim_start().starts_with("#[ignore") {
                wrong.push(format!("{place}: no ignored tests"));
            }
            for path in ["/work/main", "/work/shared", "/root/.", "/tmp/wm"] {
                if line.contains(path) {
                    wrong.push(format!("{place}: path of one machine"));
                }
            }
        }
    }
    Ok(wrong)
}

/// The data path stays on the driver and the engine.
fn data_path(root: &Path, files: &[PathBuf]) -> Result<Vec<String>, TidyError> {
    let mut wrong = Vec::new();
    for file in files {
        let name = file.to_string_lossy();
        let in_tests = name.contains("/tests/") || name.ends_with("/tests.rs");
        let is_code = name.ends_with(".rs"); // a corpus is not
        if in_tests || !is_code || !DATA_PATH.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in read(&root.join(file))?.lines().enumerate() {
            if line.starts_with("mod tests {") {
                break; // peers are whoever there is
            }
            if imports_another_loop(line) {
                let place = format!("{name}:{}", number + 1);
                wrong.push(format!(
                    "{place}: the data path knows the driver and the engine only"
                ));
            }
        }
    }
    Ok(wrong)
}

fn imports_another_loop(line: &str) -> bool {
    let line = line.trim_start();
    let imports = line.starts_with("use ") || line.starts_with("pub use ");
    imports
        && OTHER_LOOPS.iter().any(|other| line.contains(other))
        && !RUNTIME_FREE.iter().any(|free| line.contains(free))
}

fn tracked_files(root: &Path) -> Result<Vec<PathBuf>, TidyError> {
    let output = run(
        root,
        "git",
        &["ls-files", "--cached", "--others", "--exclude-standard"],
    )?;
    Ok(output
        .lines()
        .map(PathBuf::from)
        .filter(|f| root.join(f).is_file())
        .collect())
}

fn run(root: &Path, program: &str, args: &[&str]) -> Result<String, TidyError> {
    let command = || format!("{program} {}", args.join(" "));
    let output = Command::new(program)
        .args(args)
        .current_dir(root)
        .output()
        .map_err(|source| TidyError::Run {
            command: command(),
            source,
        })?;
    if !output.status.success() {
        return Err(TidyError::Failed {
            command: command(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn read(path: &Path) -> Result<String, TidyError> {
    std::fs::read_to_string(path).map_err(|source| TidyError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_event_loops_are_told_from_their_channels() {
        for (line, want) in [
            ("use tokio::time::sleep;", true),
            ("    use hyper::body::Incoming;", true),
            ("use h2::Reason;", true),
            ("use tokio::sync::mpsc;", false),
            ("use waymark_engine::h2::Config;", false),
            ("// as tokio::time does", false),
        ] {
            assert_eq!(imports_another_loop(line), want, "{line}");
        }
    }

    #[test]
    fn licence_expressions_need_one_allowed_alternative_in_every_part() {
        let allowed = BTreeSet::from(["MIT", "ISC"]);
        for (expression, want) in [
            ("MIT", true),
            ("Apache-2.0 OR MIT", true),
            ("Apache-2.0/MIT", true),
            ("ISC AND (Apache-2.0 OR MIT)", true),
            ("ISC AND Apache-2.0", false),
            ("GPL-3.0", false),
        ] {
            assert_eq!(licence_allowed(expression, &allowed), want, "{expression}");
        }
    }

    #[test]
    fn roles_may_not_import_each_other() {
        let package = |name: &str, dependency: &str| Package {
            id: name.into(),
            name: name.into(),
            version: "0".into(),
            license: None,
            source: None,
            manifest_path: PathBuf::new(),
            dependencies: vec![Dependency {
                name: dependency.into(),
                kind: None,
            }],
            targets: Vec::new(),
        };
        let waypoint = package("waymark-waypoint", "waymark-controlplane");
        let controlplane = package("waymark-controlplane", "waymark-api");
        let wrong = arrows(&[&waypoint, &controlplane]);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        assert!(wrong[0].contains("waymark-waypoint: may not depend on waymark-controlplane"));
    }
}
