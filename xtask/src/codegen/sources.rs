//! Where protos come from.

use std::fs;
use std::path::{Path, PathBuf};

use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// Finds protos in the include directories, and Google's own in protox.
pub(crate) fn resolver(includes: &[PathBuf]) -> ChainFileResolver {
    let mut chain = ChainFileResolver::new();
    chain.add(Includes(includes.to_owned()));
    chain.add(GoogleFileResolver::new());
    chain
}

struct Includes(Vec<PathBuf>);

impl FileResolver for Includes {
    /// The roots are given by name already.
    fn resolve_path(&self, path: &Path) -> Option<String> {
        path.to_str().map(str::to_owned)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let path = self
            .0
            .iter()
            .map(|include| include.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| protox::Error::file_not_found(name))?;
        let source = fs::read_to_string(&path).map_err(protox::Error::new)?;
        File::from_source(name, &qualify(&source))
    }
}

/// Writes `common.…` names in full, by the imports. protox resolves them otherwise than protoc: it searches every package
/// that it has read so far, protoc only those of the imported files, and `envoy.extensions.filters.common` hides
/// `envoy.extensions.common`.
fn qualify(source: &str) -> String {
    let imports = source
        .lines()
        .filter_map(|line| line.strip_prefix("import \"")?.strip_suffix("\";"));
    imports.fold(source.to_owned(), |text, import| {
        let Some((directory, _)) = import.rsplit_once('/') else {
            return text;
        };
        let package = directory.replace('/', ".");
        match package.split_once(".common.") {
            Some((_, rest)) => text.replace(&format!(" common.{rest}."), &format!(" .{package}.")),
            None => text,
        }
    })
}
