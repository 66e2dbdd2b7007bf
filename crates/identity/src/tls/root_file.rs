//! Where the roots of the control plane come from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::roots::{Roots, RootsError};

/// Roots that are given, or in a file that may be replaced while the program runs.
#[derive(Debug, Clone)]
pub struct RootSource {
    inner: Arc<Inner>,
}

#[derive(Debug)]
enum Inner {
    Fixed(Arc<Roots>),
    File {
        path: PathBuf,
        read: Mutex<Option<(Stamp, Arc<Roots>)>>,
    },
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl RootSource {
    /// These roots.
    pub fn fixed(roots: Arc<Roots>) -> Self {
        Self {
            inner: Arc::new(Inner::Fixed(roots)),
        }
    }

    /// The roots in a PEM file, which need not be there yet.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner::File {
                path: path.into(),
                read: Mutex::default(),
            }),
        }
    }

    /// The roots now. A file is read again only when it was changed or replaced.
    ///
    /// # Errors
    /// When the file cannot be read or has no roots.
    pub fn load(&self) -> Result<Arc<Roots>, RootFileError> {
        match &*self.inner {
            Inner::Fixed(roots) => Ok(Arc::clone(roots)),
            Inner::File { path, read } => load(
                path,
                &mut read.lock().unwrap_or_else(PoisonError::into_inner),
            ),
        }
    }
}

fn load(path: &Path, read: &mut Option<(Stamp, Arc<Roots>)>) -> Result<Arc<Roots>, RootFileError> {
    use std::os::unix::fs::MetadataExt;
    let io = |source| RootFileError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(io)?;
    let stamp = Stamp {
        modified: metadata.modified().map_err(io)?,
        length: metadata.len(),
        inode: metadata.ino(),
    };
    if let Some((known, roots)) = read
        && *known == stamp
    {
        return Ok(Arc::clone(roots));
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let roots = Roots::from_pem(&text).map_err(|source| RootFileError::Roots {
        path: path.to_owned(),
        source,
    })?;
    let roots = Arc::new(roots);
    *read = Some((stamp, Arc::clone(&roots)));
    Ok(roots)
}

/// Why the roots are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum RootFileError {
    /// Not readable.
    #[error("read the root certificates in {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not roots.
    #[error("root certificates in {path}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RootsError,
    },
}
