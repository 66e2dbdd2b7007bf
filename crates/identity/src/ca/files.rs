//! The files of an authority.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::{CaError, CaPem, NewRoot};
use crate::credentials::{CredentialsError, certificates};

/// A complete set, read.
pub(super) struct Files {
    pub(super) signer: Text,
    pub(super) key: Text,
    pub(super) chain: Text,
    pub(super) roots: Text,
}

/// A file's text and where it is from.
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Text {
    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        certificates(&self.text)
    }
}

impl Files {
    /// The set of an authority that is its own root.
    pub(super) fn of_root(dir: &Path, certificate: String, key: String) -> Self {
        let file = |name: &str, text: &str| Text {
            path: dir.join(name),
            text: text.to_owned(),
        };
        Self {
            signer: file(ISTIO.signer, &certificate),
            chain: file(ISTIO.chain, &certificate),
            roots: file(ISTIO.roots, &certificate),
            key: file(ISTIO.key, &key),
        }
    }
}

impl Files {
    /// The set of a Secret.
    pub(super) fn of_pem(origin: &str, pem: &CaPem) -> Self {
        let file = |name: &str, text: &str| Text {
            path: Path::new(origin).join(name),
            text: text.to_owned(),
        };
        Self {
            signer: file(ISTIO.signer, &pem.signer),
            key: file(ISTIO.key, &pem.key),
            chain: file(ISTIO.chain, &pem.chain),
            roots: file(ISTIO.roots, &pem.roots),
        }
    }
}

/// The names of one layout.
struct Layout {
    signer: &'static str,
    key: &'static str,
    chain: &'static str,
    roots: &'static str,
}

/// As Istio's secret `cacerts` has them.
const ISTIO: Layout = Layout {
    signer: "ca-cert.pem",
    key: "ca-key.pem",
    chain: "cert-chain.pem",
    roots: "root-cert.pem",
};
/// As a secret of type `kubernetes.io/tls` has them; the signer's file has the chain too.
const KUBERNETES: Layout = Layout {
    signer: "tls.crt",
    key: "tls.key",
    chain: "tls.crt",
    roots: "ca.crt",
};

impl Layout {
    fn names(&self) -> [&'static str; 4] {
        [self.signer, self.key, self.chain, self.roots]
    }

    fn any(&self, dir: &Path) -> bool {
        self.names().iter().any(|name| dir.join(name).exists())
    }

    fn all(&self, dir: &Path) -> bool {
        self.names().iter().all(|name| dir.join(name).exists())
    }
}

/// Whether a directory has any file of an authority.
pub(super) fn any(dir: &Path) -> bool {
    ISTIO.any(dir) || KUBERNETES.any(dir)
}

/// Reads a set: Istio's if any file of it is there, unless the other one is complete and it is not.
pub(super) fn read(dir: &Path) -> Result<Files, CaError> {
    let layout =
        if KUBERNETES.any(dir) && (!ISTIO.any(dir) || (KUBERNETES.all(dir) && !ISTIO.all(dir))) {
            &KUBERNETES
        } else {
            &ISTIO
        };
    let file = |name: &str| {
        let path = dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Text { path, text }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(CaError::Incomplete { missing: path })
            }
            Err(source) => Err(CaError::Io { path, source }),
        }
    };
    Ok(Files {
        signer: file(layout.signer)?,
        key: file(layout.key)?,
        chain: file(layout.chain)?,
        roots: file(layout.roots)?,
    })
}

/// Writes a new root. Certificates come before the key: a set that was cut short says that the key is missing.
pub(super) fn create(dir: &Path, root: &NewRoot) -> Result<(), CaError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| CaError::Io {
            path: dir.to_owned(),
            source,
        })?;
    for name in [ISTIO.signer, ISTIO.chain, ISTIO.roots] {
        write(&dir.join(name), 0o644, &root.certificate)?;
    }
    write(&dir.join(ISTIO.key), 0o600, &root.key)
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), CaError> {
    let io = |source| CaError::Io {
        path: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(io)
}
