//! `cargo xtask gen`: generated code and JSON descriptors of `waymark-proto`.
//!
//! Both are checked in, so that a build needs neither protoc nor the protos of other packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

mod descriptors;
mod sources;

/// Why nothing was generated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GenError {
    #[error("find the packages of the workspace")]
    Metadata { source: io::Error },
    #[error("`cargo metadata` {0}")]
    MetadataOutput(&'static str),
    #[error("compile protos")]
    Compile { source: protox::Error },
    #[error("generate code")]
    Generate { source: io::Error },
    #[error("{path}")]
    File { path: PathBuf, source: io::Error },
    #[error("stale: {}; run `cargo xtask gen`", .0.join(", "))]
    Stale(Vec<String>),
}

/// Writes the generated files.
pub(crate) fn write() -> Result<String, GenError> {
    let workspace = workspace_root();
    let target = workspace.join(OUT_DIR);
    let files = generate(&workspace)?;
    fs::create_dir_all(&target).map_err(file_error(&target))?;
    for name in present(&target)? {
        if !files.contains_key(&name) {
            let path = target.join(&name);
            fs::remove_file(&path).map_err(file_error(&path))?;
        }
    }
    for (name, bytes) in &files {
        let path = target.join(name);
        fs::write(&path, bytes).map_err(file_error(&path))?;
    }
    let descriptors = files.get(DESCRIPTORS).map_or(0, Vec::len);
    Ok(format!(
        "wrote {} files to {OUT_DIR} (descriptors: {descriptors} bytes)",
        files.len()
    ))
}

/// Compares the generated files with what is checked in.
pub(crate) fn check() -> Result<String, GenError> {
    let workspace = workspace_root();
    let target = workspace.join(OUT_DIR);
    let mut files = generate(&workspace)?;
    let mut stale = Vec::new();
    for name in present(&target)? {
        let path = target.join(&name);
        let bytes = fs::read(&path).map_err(file_error(&path))?;
        if files.remove(&name) != Some(bytes) {
            stale.push(name);
        }
    }
    stale.extend(files.into_keys());
    if stale.is_empty() {
        Ok(format!("{OUT_DIR} is current"))
    } else {
        Err(GenError::Stale(stale))
    }
}

/// All generated files by name.
fn generate(workspace: &Path) -> Result<BTreeMap<String, Vec<u8>>, GenError> {
    let our_protos = workspace.join(OUR_PROTOS);
    let includes: Vec<PathBuf> = std::iter::once(our_protos.clone())
        .chain(
            ENVOY_INCLUDES
                .iter()
                .map(|dir| Path::new(dir).to_owned())
                .map({
                    let package = envoy_types_dir(workspace)?;
                    move |dir| package.join("proto").join(dir)
                }),
        )
        .collect();
    let our_files = proto_files(&our_protos, Path::new(""))?;

    let mut files = code(
        compile(&includes, &our_files, SourceInfo::Keep)?,
        &our_files,
    )?;

    let roots = descriptor_roots(&includes)?;
    let roots: Vec<PathBuf> = roots.into_iter().chain(our_files).collect();
    let set = compile(&includes, &roots, SourceInfo::Drop)?;
    let roots: Vec<String> = roots
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let set = descriptors::prune(set, &roots);
    files.insert(DESCRIPTORS.to_owned(), set.encode_to_vec());
    Ok(files)
}

/// The files and all that they import, each after what it imports.
fn compile(
    includes: &[PathBuf],
    files: &[PathBuf],
    source_info: SourceInfo,
) -> Result<FileDescriptorSet, GenError> {
    let error = |source| GenError::Compile { source };
    let mut compiler = protox::Compiler::with_file_resolver(sources::resolver(includes));
    compiler
        .include_source_info(matches!(source_info, SourceInfo::Keep))
        .include_imports(true);
    compiler.open_files(files).map_err(error)?;
    Ok(compiler.file_descriptor_set())
}

/// Comments and positions.
enum SourceInfo {
    Keep,
    Drop,
}

/// Messages, and the services' clients and servers, of our own protos.
fn code(
    set: FileDescriptorSet,
    our_files: &[PathBuf],
) -> Result<BTreeMap<String, Vec<u8>>, GenError> {
    let is_ours =
        |file: &FileDescriptorProto| our_files.iter().any(|path| path == Path::new(file.name()));
    let ours: BTreeSet<String> = set
        .file
        .iter()
        .filter(|file| is_ours(file))
        .map(|file| file.package().to_owned())
        .collect();
    let mut config = prost_build::Config::new();
    config
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .format(true)
        .service_generator(tonic_prost_build::configure().service_generator());
    // What `envoy-types` has is taken from there.
    for file in set
        .file
        .iter()
        .filter(|file| !is_ours(file) && !file.package().starts_with("google."))
    {
        let module = file.package().replace('.', "::");
        for message in &file.message_type {
            let proto = format!(".{}.{}", file.package(), message.name());
            config.extern_path(
                proto,
                format!("::envoy_types::pb::{module}::{}", message.name()),
            );
        }
    }
    let requests = set
        .file
        .into_iter()
        .map(|file| {
            (
                prost_build::Module::from_protobuf_package_name(file.package()),
                file,
            )
        })
        .collect::<Vec<_>>();
    let generated = config
        .generate(requests)
        .map_err(|source| GenError::Generate { source })?;
    let ours: BTreeSet<String> = ours
        .iter()
        .map(|package| prost_build::Module::from_protobuf_package_name(package).to_file_name_or(""))
        .collect();
    let files = generated
        .into_iter()
        .map(|(module, text)| (module.to_file_name_or(""), text.into_bytes()));
    Ok(files
        .filter(|(name, _)| ours.contains(name))
        .map(|(name, text)| (name.replace("r#", ""), text))
        .collect())
}

/// The files of the directories that `descriptor_roots.txt` lists.
fn descriptor_roots(includes: &[PathBuf]) -> Result<Vec<PathBuf>, GenError> {
    let mut files = Vec::new();
    for root in include_str!("codegen/descriptor_roots.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let before = files.len();
        for include in includes
            .iter()
            .skip(1)
            .filter(|include| include.join(root).is_dir())
        {
            files.extend(proto_files(include, Path::new(root))?);
        }
        if files.len() == before {
            let missing = io::Error::new(
                io::ErrorKind::NotFound,
                "no protos in the envoy-types package",
            );
            return Err(GenError::File {
                path: root.into(),
                source: missing,
            });
        }
    }
    Ok(files)
}

/// Every `.proto` below `base/dir`, relative to `base`, in order.
fn proto_files(base: &Path, dir: &Path) -> Result<Vec<PathBuf>, GenError> {
    let path = base.join(dir);
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(file_error(&path))? {
        let entry = entry.map_err(file_error(&path))?;
        let relative = dir.join(entry.file_name());
        if entry.path().is_dir() {
            files.extend(proto_files(base, &relative)?);
        } else if relative
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(relative);
        }
    }
    files.sort();
    Ok(files)
}

/// Where cargo unpacked `envoy-types`.
fn envoy_types_dir(workspace: &Path) -> Result<PathBuf, GenError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1"])
        .current_dir(workspace)
        .output()
        .map_err(|source| GenError::Metadata { source })?;
    if !output.status.success() {
        return Err(GenError::MetadataOutput("failed"));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| GenError::MetadataOutput("printed no JSON"))?;
    metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .and_then(|manifest| Path::new(manifest).parent())
        .map(Path::to_owned)
        .ok_or(GenError::MetadataOutput("knows no package envoy-types"))
}

fn present(dir: &Path) -> Result<Vec<String>, GenError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        })
        .map_err(file_error(dir))
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> GenError + use<> {
    let path = path.to_owned();
    move |source| GenError::File { path, source }
}

const OUR_PROTOS: &str = "crates/proto/proto";
const OUT_DIR: &str = "crates/proto/src/gen";
const DESCRIPTORS: &str = "descriptors.bin";
const ENVOY_INCLUDES: [&str; 8] = [
    "data-plane-api",
    "googleapis",
    "xds",
    "protoc-gen-validate",
    "opentelemetry-proto",
    "client_model",
    "cel-spec/proto",
    "ratelimit",
];
