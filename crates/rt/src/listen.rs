//! Listening sockets: bound with a clear error, accepted from without end.

mod holder;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

/// How a listening socket is made.
#[derive(Debug, Clone, Copy)]
pub struct ListenOptions {
    /// `SO_REUSEPORT`: several sockets share the address and the kernel spreads connections over them (one a worker).
    pub reuse_port: bool,
    /// Connections that wait to be accepted, as the kernel caps it (`net.core.somaxconn`).
    pub backlog: u16,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            reuse_port: false,
            backlog: 1024,
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr}{}", InWords(.kind))]
pub struct ListenError {
    /// The address.
    pub addr: SocketAddr,
    /// What stands in the way.
    pub kind: ListenErrorKind,
    source: io::Error,
}

/// What stands in the way of listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenErrorKind {
    /// Another socket listens there; by whom, where the system tells.
    InUse(Option<String>),
    /// A port below 1024 without the right to it.
    Permission,
    /// The address is not one of this machine's.
    NotLocal,
    /// See the cause.
    Other,
}

impl ListenError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let port = self.addr.port();
        match &self.kind {
            ListenErrorKind::InUse(Some(who)) => {
                Some(format!("stop {who}, or choose another address"))
            }
            ListenErrorKind::InUse(None) => Some(format!(
                "find what listens there with `ss -ltnp 'sport = :{port}'`, or choose another address"
            )),
            ListenErrorKind::Permission => Some(format!(
                "port {port} is below 1024: choose a higher one, or grant CAP_NET_BIND_SERVICE"
            )),
            ListenErrorKind::NotLocal => Some(format!(
                "{} is not an address of this machine; `ip address` lists those that are",
                self.addr.ip()
            )),
            ListenErrorKind::Other => None,
        }
    }

    fn new(addr: SocketAddr, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::AddrInUse => ListenErrorKind::InUse(holder::find(addr)),
            io::ErrorKind::PermissionDenied => ListenErrorKind::Permission,
            io::ErrorKind::AddrNotAvailable => ListenErrorKind::NotLocal,
            _ => ListenErrorKind::Other,
        };
        Self { addr, kind, source }
    }
}

struct InWords<'a>(&'a ListenErrorKind);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ListenErrorKind::InUse(Some(who)) => write!(f, ": taken by {who}"),
            ListenErrorKind::InUse(None)
            | ListenErrorKind::Permission
            | ListenErrorKind::NotLocal
            | ListenErrorKind::Other => Ok(()),
        }
    }
}

/// Binds and listens, without a runtime: for sockets that are handed to another thread.
///
/// `SO_REUSEADDR` is set, so that a restart does not wait for old connections. The socket does not block.
///
/// # Errors
/// See [`ListenErrorKind`].
pub fn bind(addr: SocketAddr, options: &ListenOptions) -> Result<StdListener, ListenError> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.reuse_port)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::from(options.backlog))?;
        Ok(socket)
    };
    open()
        .map(StdListener::from)
        .map_err(|e| ListenError::new(addr, e))
}

/// Binds and listens.
///
/// # Errors
/// See [`ListenErrorKind`].
///
/// # Panics
/// Outside a tokio runtime.
pub fn listen(addr: SocketAddr, options: &ListenOptions) -> Result<Listener, ListenError> {
    Listener::from_std(bind(addr, options)?).map_err(|e| ListenError::new(addr, e))
}

/// A listening socket whose [`Listener::accept`] never fails.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    addr: SocketAddr,
    /// Consecutive failures, for the pause after the next.
    failures: u32,
}

impl Listener {
    /// Takes over a socket that [`bind`] made.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn from_std(socket: StdListener) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            addr,
            failures: 0,
        })
    }

    /// The address, with the real port where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection, with `TCP_NODELAY`.
    ///
    /// A connection that was gone before it was accepted is passed over. When the process has no descriptor or memory
    /// left for one, waits (10 ms, doubling to 1 s) and goes on: connections stay in the backlog meanwhile.
    ///
    /// # Cancel safety
    /// No accepted connection is lost when the future is dropped.
    pub async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    self.failures = 0;
                    // Fails only on a connection that is already reset; its first read says so.
                    let _ = stream.set_nodelay(true);
                    return (stream, peer);
                }
                Err(e) if is_about_the_connection(&e) => {}
                Err(e) => {
                    let pause = PAUSE_MIN
                        .saturating_mul(1 << self.failures.min(10))
                        .min(PAUSE_MAX);
                    if self.failures == 0 || pause == PAUSE_MAX {
                        warn!(addr = %self.addr, error = %e, ?pause, "cannot accept connections");
                    }
                    self.failures = self.failures.saturating_add(1);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// Whether `accept` reports what happened to one connection, and not the state of the process. Spec: `accept(2)`.
#[must_use]
pub fn is_about_the_connection(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    )
}

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::error::Error;
    use std::net::Ipv4Addr;

    use super::*;

    fn any_port() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[tokio::test]
    async fn accepts_with_nodelay() {
        let mut listener = listen(any_port(), &ListenOptions::default()).unwrap();
        let addr = listener.local_addr();
        let client = crate::spawn("client", TcpStream::connect(addr));
        let (stream, peer) = listener.accept().await;
        assert!(stream.nodelay().unwrap());
        assert_eq!(client.await.unwrap().unwrap().local_addr().unwrap(), peer);
    }

    #[test]
    fn an_address_in_use_names_who_has_it() {
        let first = bind(any_port(), &ListenOptions::default()).unwrap();
        let addr = first.local_addr().unwrap();
        let e = bind(addr, &ListenOptions::default()).unwrap_err();
        let me = format!("(pid {})", std::process::id());
        assert!(
            matches!(&e.kind, ListenErrorKind::InUse(Some(who)) if who.ends_with(&me)),
            "{e:?}"
        );
        assert!(
            e.to_string()
                .starts_with(&format!("listen on {addr}: taken by "))
        );
        assert!(e.hint().unwrap().starts_with("stop "));
        assert!(e.source().is_some());
    }

    #[test]
    fn a_wildcard_that_has_the_port_is_found_too() {
        let first = bind((Ipv4Addr::UNSPECIFIED, 0).into(), &ListenOptions::default()).unwrap();
        let port = first.local_addr().unwrap().port();
        let e = bind(
            (Ipv4Addr::LOCALHOST, port).into(),
            &ListenOptions::default(),
        )
        .unwrap_err();
        assert!(matches!(e.kind, ListenErrorKind::InUse(Some(_))), "{e:?}");
    }

    #[test]
    fn a_foreign_address_is_said_to_be_foreign() {
        let e = bind("192.0.2.1:0".parse().unwrap(), &ListenOptions::default()).unwrap_err();
        assert_eq!(e.kind, ListenErrorKind::NotLocal);
        assert!(e.hint().unwrap().contains("192.0.2.1"));
    }

    #[test]
    fn reuse_port_shares_an_address() {
        let options = ListenOptions {
            reuse_port: true,
            ..ListenOptions::default()
        };
        let first = bind(any_port(), &options).unwrap();
        let second = bind(first.local_addr().unwrap(), &options).unwrap();
        assert_eq!(first.local_addr().unwrap(), second.local_addr().unwrap());
    }
}
