//! The connections of a server.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tonic::transport::server::Connected;
use tracing::debug;
use waymark_rt::{Listener, Shutdown, Task, Tasks, spawn};

use crate::spiffe::SpiffeId;
use crate::tls::peer_identities;

/// A stream of connections for `serve_with_incoming`. Ends when the drain begins.
///
/// Handshakes run beside each other, at most 1,024 at once (further connections wait in the backlog), each for at most 10 s,
/// so that a client that is slow or says nothing delays nobody. One that fails is logged at debug level and dropped.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Connection>,
    _accepting: Task<()>,
}

impl Incoming {
    /// Accepts with TLS.
    pub fn tls(listener: Listener, config: Arc<ServerConfig>, shutdown: Shutdown) -> Self {
        Self::start(listener, Some(TlsAcceptor::from(config)), shutdown)
    }

    /// Accepts plain text.
    pub fn plain(listener: Listener, shutdown: Shutdown) -> Self {
        Self::start(listener, None, shutdown)
    }

    fn start(listener: Listener, tls: Option<TlsAcceptor>, shutdown: Shutdown) -> Self {
        let (send, ready) = mpsc::channel(READY);
        Self {
            ready,
            _accepting: spawn("accept", accept(listener, tls, shutdown, send)),
        }
    }
}

impl Stream for Incoming {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready
            .poll_recv(cx)
            .map(|connection| connection.map(Ok))
    }
}

async fn accept(
    mut listener: Listener,
    tls: Option<TlsAcceptor>,
    shutdown: Shutdown,
    ready: mpsc::Sender<Connection>,
) {
    let handshakes = Tasks::new();
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let next = async {
            (
                Arc::clone(&slots).acquire_owned().await,
                listener.accept().await,
            )
        };
        let (slot, (stream, peer)) = tokio::select! {
            biased;
            () = shutdown.draining() => break,
            accepted = next => accepted,
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        handshakes.spawn("handshake", async move {
            let connection = match tls {
                None => Connection::plain(stream),
                Some(tls) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => Connection::tls(stream.into()),
                        Ok(Err(e)) => return debug!(%peer, error = %e, "TLS handshake failed"),
                        Err(_) => return debug!(%peer, "TLS handshake timed out"),
                    }
                }
            };
            drop(slot);
            // Fails only when the server is gone.
            let _ = ready.send(connection).await;
        });
    }
}

/// One connection, of either side.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    info: PeerInfo,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn plain(stream: TcpStream) -> Self {
        let info = PeerInfo::of(&stream, false, Arc::from([]));
        Self {
            io: Io::Plain(stream),
            info,
        }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Self {
        let (tcp, session) = stream.get_ref();
        let identities = peer_identities(session.peer_certificates().unwrap_or_default());
        let info = PeerInfo::of(tcp, true, identities);
        Self {
            io: Io::Tls(Box::new(stream)),
            info,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerInfo {
        &self.info
    }
}

/// Who is at the other end of a connection; an extension of every request on it.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// The peer's address, unless the connection was gone before it was looked at.
    pub remote_addr: Option<SocketAddr>,
    /// Our address.
    pub local_addr: Option<SocketAddr>,
    /// Whether it is TLS.
    pub tls: bool,
    /// The identities in its certificate, verified; empty when it showed none.
    pub identities: Arc<[SpiffeId]>,
}

impl PeerInfo {
    fn of(stream: &TcpStream, tls: bool, identities: Arc<[SpiffeId]>) -> Self {
        Self {
            remote_addr: stream.peer_addr().ok(),
            local_addr: stream.local_addr().ok(),
            tls,
            identities,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}

/// Handshakes under way.
const HANDSHAKES: usize = 1024;
/// Spec: ours; ztunnel has no limit of its own.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that wait for the server to take them.
const READY: usize = 16;
