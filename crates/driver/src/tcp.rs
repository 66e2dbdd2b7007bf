//! TCP on the executor: connecting, accepting, and the sockets before something is spoken over them.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Type};
use waymark_rt::{ConnectError, ConnectOptions};

use crate::reactor::{Fresh, Watched};
use crate::{sleep, timeout};

/// A TCP connection, with `TCP_NODELAY`. Becomes an [`Io`](crate::Io) as a [`Socket`](crate::Socket).
#[derive(Debug)]
pub struct TcpStream {
    watched: Watched<mio::net::TcpStream>,
    peer: SocketAddr,
}

/// A connection that was accepted and belongs to no executor yet: it can be handed to another thread.
#[derive(Debug)]
pub struct Accepted {
    socket: mio::net::TcpStream,
    peer: SocketAddr,
}

/// A listening socket whose [`accept`](Self::accept) never fails.
#[derive(Debug)]
pub struct TcpListener {
    watched: Watched<mio::net::TcpListener>,
    addr: SocketAddr,
    /// Consecutive failures, for the pause after the next.
    failures: u32,
}

/// The first pause after `accept` failed, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl TcpStream {
    /// Connects, with `TCP_NODELAY`.
    ///
    /// With a source address, `IP_BIND_ADDRESS_NO_PORT` lets the ports of one source be shared between destinations.
    ///
    /// # Errors
    /// See [`ConnectError`].
    ///
    /// # Panics
    /// Outside an executor.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the connection.
    pub async fn connect(addr: SocketAddr, options: &ConnectOptions) -> Result<Self, ConnectError> {
        Self::connect_with(addr, options, |_| Ok(())).await
    }

    /// As [`connect`](Self::connect), after `prepare` has had the unbound socket: for options that are to be set before.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and what `prepare` says.
    pub async fn connect_with(
        addr: SocketAddr,
        options: &ConnectOptions,
        prepare: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> Result<Self, ConnectError> {
        let io = |source| ConnectError::Io { addr, source };
        let socket = begin(addr, options, prepare)?;
        let mio = mio::net::TcpStream::from_std(socket.into());
        let this = Self {
            watched: Watched::new(mio, Fresh::Connecting).map_err(io)?,
            peer: addr,
        };
        let connected = poll_fn(|cx| this.poll_connected(cx));
        match timeout(options.timeout, connected).await {
            Ok(result) => result.map_err(io)?,
            Err(_) => {
                return Err(ConnectError::Timeout {
                    addr,
                    after: options.timeout,
                });
            }
        }
        Ok(this)
    }

    /// Takes over a connection that another thread or another runtime has made.
    ///
    /// # Errors
    /// When the system cannot watch it.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn from_std(socket: std::net::TcpStream) -> io::Result<Self> {
        let peer = socket.peer_addr()?;
        socket.set_nonblocking(true)?;
        Self::adopt(Accepted {
            socket: mio::net::TcpStream::from_std(socket),
            peer,
        })
    }

    /// Has the executor of this thread watch a connection.
    ///
    /// # Errors
    /// When the system cannot.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn adopt(accepted: Accepted) -> io::Result<Self> {
        // Fails only on a connection that is already reset; its first read says so.
        let _ = accepted.socket.set_nodelay(true);
        Ok(Self {
            watched: Watched::new(accepted.socket, Fresh::Open)?,
            peer: accepted.peer,
        })
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our address: what the peer connected to, or what we called from.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.watched.socket.local_addr()
    }

    /// Waits until a read may find something.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watched.poll_readable(cx)
    }

    /// Reads into `room`, which is not empty. 0 is the end.
    pub(crate) fn poll_read(
        &self,
        room: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watched.poll_readable(cx));
            match (&self.watched.socket).read(room) {
                Ok(count) => {
                    if count < room.len() && count > 0 {
                        self.watched.drained();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watched.not_readable();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes what the system has room for of `bytes`, which are not none.
    pub(crate) fn poll_write(&self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watched.poll_writable(cx));
            if let Some(result) = self.write_once(bytes) {
                return Poll::Ready(result);
            }
        }
    }

    /// As [`poll_write`](Self::poll_write), without waiting for room.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        while self.watched.is_writable() {
            if let Some(result) = self.write_once(bytes) {
                return result;
            }
        }
        Ok(0)
    }

    /// Ends our direction.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        self.watched.socket.shutdown(Shutdown::Write)
    }

    /// Closes the connection so that the peer sees a reset.
    pub(crate) fn reset(self) {
        let _ = SockRef::from(&self.watched.socket).set_linger(Some(Duration::ZERO));
    }

    fn write_once(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        match (&self.watched.socket).write(bytes) {
            Ok(count) => {
                if count < bytes.len() {
                    self.watched.not_writable();
                }
                Some(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.watched.not_writable();
                None
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            Err(error) => Some(Err(error)),
        }
    }

    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.watched.poll_writable(cx));
            if let Some(error) = self.watched.socket.take_error()? {
                return Poll::Ready(Err(error));
            }
            match self.watched.socket.peer_addr() {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    self.watched.not_writable();
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.socket.as_fd()
    }
}

impl Accepted {
    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// What the peer connected to.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl AsFd for Accepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl TcpListener {
    /// Takes over a socket that [`waymark_rt::bind`] made.
    ///
    /// # Errors
    /// When the system cannot watch it.
    ///
    /// # Panics
    /// Outside an executor.
    pub fn from_std(socket: std::net::TcpListener) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            watched: Watched::new(mio::net::TcpListener::from_std(socket), Fresh::Open)?,
            addr,
            failures: 0,
        })
    }

    /// The address, with the real port where 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection, for this thread or another.
    ///
    /// A connection that was gone before it was accepted is passed over. When the process has no descriptor or memory
    /// left for one, waits (10 ms, doubling to 1 s) and goes on: connections stay in the backlog meanwhile.
    ///
    /// # Cancel safety
    /// No accepted connection is lost when the future is dropped.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            poll_fn(|cx| self.watched.poll_readable(cx)).await;
            match self.watched.socket.accept() {
                Ok((socket, peer)) => {
                    self.failures = 0;
                    return Accepted { socket, peer };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watched.not_readable();
                }
                Err(error) if waymark_rt::listen::is_about_the_connection(&error) => {}
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// Waits until the process may have recovered.
    fn pause(&mut self, error: &dyn fmt::Display) -> impl Future<Output = ()> {
        let pause = PAUSE_MIN
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_MAX);
        if self.failures == 0 || pause == PAUSE_MAX {
            tracing::warn!(addr = %self.addr, %error, ?pause, "cannot accept connections");
        }
        self.failures = self.failures.saturating_add(1);
        sleep(pause)
    }
}

/// A socket that has begun to connect.
fn begin(
    addr: SocketAddr,
    options: &ConnectOptions,
    prepare: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<socket2::Socket, ConnectError> {
    let io = |source| ConnectError::Io { addr, source };
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket =
        socket2::Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP)).map_err(io)?;
    socket.set_tcp_nodelay(true).map_err(io)?;
    if let Some(keepalive) = &options.keepalive {
        waymark_rt::connect::set_keepalive(&socket, keepalive).map_err(io)?;
    }
    prepare(socket.as_fd()).map_err(io)?;
    if let Some(source_ip) = options.source {
        if source_ip.is_ipv4() {
            // An old kernel does without: fewer ports, nothing worse.
            let _ = waymark_sys::bind_address_no_port(socket.as_fd());
        }
        socket
            .bind(&SocketAddr::from((source_ip, 0)).into())
            .map_err(|source| ConnectError::Bind {
                addr,
                source_ip,
                source,
            })?;
    }
    match socket.connect(&addr.into()) {
        Ok(()) => Ok(socket),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(io(error)),
    }
}
