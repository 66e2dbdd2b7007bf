//! The bundled bookinfo mesh.

use std::io;
use std::path::Path;

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../examples/bookinfo/", $name)))),*]
    };
}

/// File name and content of each manifest of `examples/bookinfo`.
pub(crate) const FILES: &[(&str, &str)] = bundled![
    "bookinfo.yaml",
    "reviews-routing.yaml",
    "waypoint-default-bookinfo-reviews.yaml"
];

/// Writes the manifests where they are not there yet; what a user has edited stays. Returns whether anything was there.
pub(crate) fn unpack(directory: &Path) -> io::Result<bool> {
    let existed = directory.is_dir();
    if !existed {
        std::fs::create_dir_all(directory)?;
        for (name, content) in FILES {
            std::fs::write(directory.join(name), content)?;
        }
    }
    Ok(existed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_manifest_is_bundled() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookinfo");
        let mut on_disk: Vec<String> = std::fs::read_dir(directory)
            .expect("examples/bookinfo")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".yaml"))
            .collect();
        on_disk.sort();
        let mut bundled: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        bundled.sort_unstable();
        assert_eq!(on_disk, bundled);
    }

    #[test]
    fn edits_survive_the_next_start() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mesh = dir.path().join("mesh");
        assert!(!unpack(&mesh).expect("first"));
        let file = mesh.join(FILES[0].0);
        std::fs::write(&file, "edited").expect("edit");
        assert!(unpack(&mesh).expect("second"));
        assert_eq!(std::fs::read_to_string(file).expect("read"), "edited");
    }
}
