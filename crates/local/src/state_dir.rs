//! Where a mesh keeps its files. The layout is in ARCHITECTURE.md.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It could not be made or opened.
    #[error("use state directory {path}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another `waymark up` holds it.
    #[error("a mesh is already running from state directory {path} (pid {pid})")]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Process id of the supervisor, or `?`.
        pid: String,
    },
    /// There is no home directory to put it in.
    #[error(
        "no state directory: neither --state-dir, WAYMARK_STATE_DIR, XDG_STATE_HOME nor HOME is set"
    )]
    Nowhere,
}

/// A mesh's state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// Held while the mesh runs; the lock ends with the process.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl StateDir {
    /// The directory given, else that of the environment (`WAYMARK_STATE_DIR` is read by the argument parser),
    /// else `$XDG_STATE_HOME/waymark`, else `~/.local/state/waymark`. Nothing is made yet.
    ///
    /// # Errors
    /// [`StateDirError::Nowhere`] when nothing says where.
    pub fn resolve(given: Option<&Path>) -> Result<Self, StateDirError> {
        let path = match given {
            Some(path) => path.to_owned(),
            None => default_path(|name| std::env::var_os(name).map(PathBuf::from))
                .ok_or(StateDirError::Nowhere)?,
        };
        let path = std::path::absolute(&path).map_err(|source| StateDirError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `mesh.json`: what runs and where.
    #[must_use]
    pub fn mesh_file(&self) -> PathBuf {
        self.path.join("mesh.json")
    }

    pub(crate) fn controlplane_file(&self) -> PathBuf {
        self.path.join("controlplane.json")
    }

    pub(crate) fn root_cert(&self) -> PathBuf {
        self.path.join("root-cert.pem")
    }

    pub(crate) fn node_token(&self) -> PathBuf {
        self.path.join("tokens/istio-system.waymark-node")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }

    pub(crate) fn bundled_mesh(&self) -> PathBuf {
        self.path.join("mesh")
    }

    /// Makes the directory (mode 0700) and `logs/` below it.
    pub(crate) fn create(&self) -> Result<(), StateDirError> {
        for path in [self.path.clone(), self.path.join("logs")] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|source| StateDirError::Io { path, source })?;
        }
        Ok(())
    }

    /// Takes the directory for this process.
    pub(crate) fn lock(&self) -> Result<Lock, StateDirError> {
        let path = self.path.join("up.lock");
        let io_error = |source| StateDirError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.is_empty() { "?".into() } else { pid };
                return Err(StateDirError::Busy {
                    path: self.path.clone(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(io_error(source)),
        }
        file.set_len(0).map_err(io_error)?;
        file.rewind().map_err(io_error)?;
        write!(file, "{}", std::process::id()).map_err(io_error)?;
        Ok(Lock { _file: file })
    }

    /// Process id of the supervisor that holds the directory, if one does.
    pub(crate) fn holder(&self) -> Option<u32> {
        let mut file = File::open(self.path.join("up.lock")).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).ok()?;
                pid.trim().parse().ok()
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

fn default_path(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| var(name).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("waymark"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_follows_xdg_then_home() {
        let env = |pairs: &'static [(&str, &str)]| {
            move |name: &str| {
                pairs
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| PathBuf::from(v))
            }
        };
        assert_eq!(
            default_path(env(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")])),
            Some("/x/waymark".into())
        );
        assert_eq!(
            default_path(env(&[("HOME", "/h")])),
            Some("/h/.local/state/waymark".into())
        );
        assert_eq!(default_path(env(&[])), None);
    }

    #[test]
    fn second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let state = StateDir::resolve(Some(dir.path())).expect("resolve");
        state.create().expect("create");
        assert_eq!(state.holder(), None);
        let _lock = state.lock().expect("first lock");
        assert_eq!(state.holder(), Some(std::process::id()));
        let error = state.lock().expect_err("second lock");
        assert!(
            error
                .to_string()
                .contains(&format!("pid {}", std::process::id()))
        );
    }
}
