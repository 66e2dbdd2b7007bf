//! Manifests in files and directories, as they are analysed.

use std::path::{Path, PathBuf};

use waymark_api::ErrorClass;
use waymark_api::yaml::parse_documents;

use super::examine::Found;
use crate::error::CliError;
use crate::mesh::read_file;

/// Reads files and the manifests of directories, in the order of their names.
///
/// # Errors
/// When something cannot be read. What is wrong with documents is among what was found.
pub(crate) fn read(paths: &[PathBuf], recursive: bool) -> Result<Found, CliError> {
    let mut found = Found::default();
    for path in paths {
        for file in expand(path, recursive)? {
            let bytes = read_file(&file)?;
            let name = file.display().to_string();
            let text = String::from_utf8_lossy(&bytes);
            for document in parse_documents(&name, &text) {
                match document {
                    Ok(document) => {
                        let place = format!("{name}:{}", document.line);
                        found.objects.push((document.value, Some(place)));
                    }
                    Err(error) => found.errors.push(error),
                }
            }
        }
    }
    Ok(found)
}

/// What is no YAML, a line each.
pub(super) fn not_yaml(found: &Found) -> Vec<String> {
    found
        .errors
        .iter()
        .filter(|error| error.class == ErrorClass::Syntax)
        .map(ToString::to_string)
        .collect()
}

fn expand(path: &Path, recursive: bool) -> Result<Vec<PathBuf>, CliError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let error = |source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(error)? {
        let entry = entry.map_err(error)?.path();
        let is_manifest = entry
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if entry.is_dir() {
            if recursive {
                files.extend(expand(&entry, recursive)?);
            }
        } else if is_manifest {
            files.push(entry);
        }
    }
    files.sort();
    Ok(files)
}
