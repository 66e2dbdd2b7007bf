//! gRPC's own interoperability client and server, in Go.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cache;
use crate::wait::until;

/// Version of the Go module.
const VERSION: &str = "1.85.0";

/// The two programs.
#[derive(Debug, Clone)]
pub struct Interop {
    directory: PathBuf,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct InteropServer(Child);

/// The programs, built with Go into the cache where they are first asked for.
///
/// `None` when they cannot be had, which is said on stderr.
///
/// # Panics
/// When they cannot be had and `CI=true`.
#[must_use]
pub fn grpc_interop() -> Option<Interop> {
    match cache::entry(&format!("grpc-interop-{VERSION}"), build) {
        Ok(directory) => Some(Interop { directory }),
        Err(why) => {
            let hint = "they are built with Go (Debian package golang-go)";
            cache::missing("gRPC interoperability programs", &format!("{why}; {hint}"));
            None
        }
    }
}

fn build(into: &Path) -> Result<(), String> {
    let programs = ["client", "server"]
        .map(|program| format!("google.golang.org/grpc/interop/{program}@v{VERSION}"));
    let mut go = Command::new("go");
    go.arg("install").args(programs).env("GOBIN", into);
    cache::run(&mut go).map(drop)
}

impl Interop {
    /// The client's program.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.directory.join("client")
    }

    /// Starts a server on every address.
    ///
    /// # Panics
    /// When it does not listen within 10 s.
    #[must_use]
    pub fn serve(&self, port: u16) -> InteropServer {
        let child = Command::new(self.directory.join("server"))
            .args(["-port", &port.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the gRPC interoperability server");
        let server = InteropServer(child);
        until("the gRPC server listens", Duration::from_secs(10), || {
            TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()
        });
        server
    }
}

impl Drop for InteropServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
