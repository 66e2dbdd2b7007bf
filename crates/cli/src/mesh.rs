//! The running mesh, found by its state directory; and short questions over HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use crate::Global;
use crate::error::CliError;

const TIMEOUT: Duration = Duration::from_secs(15);
const MAX_BODY_BYTES: usize = 1 << 30;

/// `mesh.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Mesh {
    pub(crate) state_dir: PathBuf,
    pub(crate) mesh_directory: PathBuf,
    pub(crate) control_plane: ControlPlane,
    #[serde(default)]
    pub(crate) waypoints: Vec<Waypoint>,
    #[serde(default)]
    pub(crate) workloads: Vec<Workload>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ControlPlane {
    pub(crate) debug: SocketAddr,
}

/// One replica. `name` is the deployment's.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Waypoint {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) admin: SocketAddr,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Mesh {
    pub(crate) fn find(global: &Global) -> Result<Self, CliError> {
        let state_dir = state_dir(global)?;
        let path = state_dir.join("mesh.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(CliError::NoMesh { state_dir });
            }
            Err(source) => {
                return Err(CliError::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        serde_json::from_slice(&bytes)
            .map_err(|e| CliError::Data(format!("{}: {e}", path.display())))
    }

    pub(crate) fn status_file(&self) -> PathBuf {
        self.state_dir.join("status.json")
    }
}

fn state_dir(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(dir) = &global.state_dir {
        return Ok(dir.clone());
    }
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("waymark"))
        .ok_or_else(|| {
            CliError::Usage("no state directory: give --state-dir or set WAYMARK_STATE_DIR".into())
        })
}

/// `target` is how errors call the peer.
pub(crate) async fn get(target: &str, address: SocketAddr, path: &str) -> Result<Bytes, CliError> {
    ask(target, address, Method::GET, path).await
}

pub(crate) async fn ask(
    target: &str,
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<Bytes, CliError> {
    let failed = |reason: String| CliError::Ask {
        target: target.to_owned(),
        reason,
    };
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{address}/{}", path.trim_start_matches('/')))
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed(e.to_string()))?;
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let exchange = async {
        let response = client
            .request(request)
            .await
            .map_err(|e| failed(chain(&e)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
            .collect()
            .await
            .map_err(|e| failed(e.to_string()))?
            .to_bytes();
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(failed(format!(
                "unexpected status code: {}",
                status.as_u16()
            )))
        }
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .map_err(|_| failed(format!("no answer within {} s", TIMEOUT.as_secs())))?
}

pub(crate) async fn get_json(
    target: &str,
    address: SocketAddr,
    path: &str,
) -> Result<Value, CliError> {
    let body = get(target, address, path).await?;
    serde_json::from_slice(&body)
        .map_err(|e| CliError::Data(format!("{target}: /{path} is not JSON: {e}")))
}

/// Reads a file, or standard input for `-`.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    read.map_err(|source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
