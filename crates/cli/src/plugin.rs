//! The names that the program goes by: its own, and that of a plugin of kubectl.

use std::ffi::OsStr;
use std::path::Path;

/// The program's own name.
pub const NAME: &str = "waymark";
/// The file that kubectl runs for `kubectl waymark`.
const PLUGIN: &str = "kubectl-waymark";

/// How the program was called, by its first argument, as help and usage spell it.
pub fn called_as(program: Option<&OsStr>) -> &'static str {
    let file = program.and_then(|program| Path::new(program).file_stem());
    if file == Some(OsStr::new(PLUGIN)) {
        "kubectl waymark"
    } else {
        NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_called_by_kubectl() {
        for (program, want) in [
            (Some("/usr/local/bin/kubectl-waymark"), "kubectl waymark"),
            (Some("kubectl-waymark"), "kubectl waymark"),
            (Some("./waymark"), "waymark"),
            (None, "waymark"),
        ] {
            assert_eq!(called_as(program.map(OsStr::new)), want, "{program:?}");
        }
    }
}
