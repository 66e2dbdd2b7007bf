//! Tokens in files, for the processes of this machine.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use waymark_identity::ServiceAccountRef;

use super::TokenKey;
use crate::file;

/// The directory `tokens/` of the state directory: one file `<namespace>.<service account>` (0600) each.
#[derive(Debug)]
pub struct TokenFiles {
    dir: PathBuf,
    key: Arc<TokenKey>,
}

impl TokenFiles {
    /// Takes a directory, making it (0700) if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path, key: Arc<TokenKey>) -> Result<Self, TokenFilesError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| TokenFilesError {
                path: dir.to_owned(),
                source,
            })?;
        Ok(Self {
            dir: dir.to_owned(),
            key,
        })
    }

    /// Where a service account's token is. (A namespace has no dot, so names do not collide.)
    pub fn path(&self, account: &ServiceAccountRef) -> PathBuf {
        self.dir
            .join(format!("{}.{}", account.namespace(), account.name()))
    }

    /// Sees to it that a service account's file has a token that lasts, and gives its path.
    ///
    /// A token that is ours and has more than half of its life left is kept.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn ensure(&self, account: &ServiceAccountRef) -> Result<PathBuf, TokenFilesError> {
        let path = self.path(account);
        let lasts = fs::read_to_string(&path)
            .ok()
            .filter(|token| {
                self.key
                    .verify(token.trim())
                    .is_ok_and(|who| who == *account)
            })
            .and_then(|token| self.key.remaining(token.trim()))
            .is_some_and(|left| left > TTL / 2);
        if !lasts {
            let token = self.key.issue(account, TTL);
            file::replace_private(&path, token.as_bytes()).map_err(|source| TokenFilesError {
                path: path.clone(),
                source,
            })?;
        }
        Ok(path)
    }

    /// Takes back a service account's file. (Its token stays valid until it ends.)
    pub fn remove(&self, account: &ServiceAccountRef) {
        // What is gone already is what was wanted.
        let _ = fs::remove_file(self.path(account));
    }
}

/// A token that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("token file {path}")]
pub struct TokenFilesError {
    /// The file or directory.
    pub path: PathBuf,
    source: io::Error,
}

/// How long tokens in files last. Call [`TokenFiles::ensure`] again within half of that.
const TTL: Duration = Duration::from_secs(24 * 3600);
