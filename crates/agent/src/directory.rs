//! The agent's directory, and the Unix sockets in it that only this user can open.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::Stream;
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

/// A directory of mode 0700 that belongs to this user.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    open: File,
}

impl Directory {
    /// Makes the directory, or takes it if it is ours already.
    pub(crate) fn prepare(path: &Path) -> Result<Self, DirectoryError> {
        let io = |source| DirectoryError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let open = File::open(path).map_err(io)?;
        let metadata = open.metadata().map_err(io)?;
        if metadata.uid() != geteuid().as_raw() {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
                owner: metadata.uid(),
            });
        }
        open.set_permissions(Permissions::from_mode(0o700))
            .map_err(io)?;
        Ok(Self {
            path: path.to_owned(),
            open,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that nobody else can read.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, DirectoryError> {
        let path = self.path.join(name);
        let io = |source| DirectoryError::Io {
            path: path.clone(),
            source,
        };
        let beside = self.path.join(format!("{name}.new"));
        fs::write(&beside, content).map_err(io)?;
        fs::set_permissions(&beside, Permissions::from_mode(0o600)).map_err(io)?;
        fs::rename(&beside, &path).map_err(io)?;
        Ok(path)
    }

    /// Listens on a Unix socket of mode 0600; one that an earlier agent left is replaced.
    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener, DirectoryError> {
        let path = self.path.join(name);
        let io = |source| DirectoryError::Io {
            path: path.clone(),
            source,
        };
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
        // A socket's address holds 107 bytes, and directories may be longer: the open directory has a short name.
        let short = format!("/proc/self/fd/{}/{name}", self.open.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(io)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(io)?;
        Ok(listener)
    }
}

/// The connections of a Unix socket, from processes of this user alone.
pub(crate) fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_own(&stream) => return Some((Ok(stream), listener)),
                Ok(_) => warn!("refused a process of another user"),
                Err(error) => {
                    // Out of descriptors, most likely; it passes.
                    warn!(%error, "accept on unix socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

fn is_own(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It or a file in it.
    #[error("agent directory: {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else's.
    #[error("agent directory {} belongs to user {owner}, not to us", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_are_for_this_user_alone_whatever_the_length_of_the_path() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("long".repeat(40));
        let directory = Directory::prepare(&path).unwrap();
        let _listener = directory.listen("socket").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("socket"))), (0o700, 0o600));
        directory.listen("socket").unwrap();
    }

    #[test]
    fn a_directory_that_others_could_enter_is_closed() {
        let temporary = tempfile::tempdir().unwrap();
        fs::set_permissions(temporary.path(), Permissions::from_mode(0o755)).unwrap();
        let directory = Directory::prepare(temporary.path()).unwrap();
        assert_eq!(
            fs::metadata(directory.path()).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
