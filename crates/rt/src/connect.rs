//! Outgoing TCP connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

/// How an outgoing connection is made.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// The address to call from; the port is the kernel's choice.
    pub source: Option<IpAddr>,
    /// For the whole connect.
    pub timeout: Duration,
    /// `None` leaves keepalive off.
    pub keepalive: Option<Keepalive>,
}

impl Default for ConnectOptions {
    /// 10 s, keepalive as [`Keepalive::default`], any source address.
    fn default() -> Self {
        Self {
            source: None,
            timeout: Duration::from_secs(10),
            keepalive: Some(Keepalive::default()),
        }
    }
}

impl ConnectOptions {
    /// The same, from `source`.
    #[must_use]
    pub fn from_source(self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self
        }
    }
}

/// When the kernel probes an idle connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes until the connection is taken to be dead.
    pub probes: u32,
}

impl Default for Keepalive {
    /// 180 s, 180 s, 9: what ztunnel uses.
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(180),
            interval: Duration::from_secs(180),
            probes: 9,
        }
    }
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The source address cannot be used.
    #[error("call {addr} from {source_ip}")]
    Bind {
        /// The destination.
        addr: SocketAddr,
        /// The source address that was asked for.
        source_ip: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Refused, unreachable, or out of descriptors.
    #[error("connect to {addr}")]
    Io {
        /// The destination.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No answer.
    #[error("connect to {addr}: no answer within {after:?}")]
    Timeout {
        /// The destination.
        addr: SocketAddr,
        /// How long was waited.
        after: Duration,
    },
}

/// Connects, with `TCP_NODELAY`.
///
/// With a source address, `IP_BIND_ADDRESS_NO_PORT` lets the ports of one source be shared between destinations.
///
/// # Errors
/// See [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future abandons the connection.
pub async fn connect(
    addr: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let io = |source| ConnectError::Io { addr, source };
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .map_err(io)?;
    socket.set_nodelay(true).map_err(io)?;
    if let Some(keepalive) = options.keepalive {
        set_keepalive(&socket, &keepalive).map_err(io)?;
    }
    if let Some(source_ip) = options.source {
        if source_ip.is_ipv4() {
            // An old kernel does without: fewer ports, nothing worse.
            let _ = waymark_sys::bind_address_no_port(socket.as_fd());
        }
        socket
            .bind((source_ip, 0).into())
            .map_err(|source| ConnectError::Bind {
                addr,
                source_ip,
                source,
            })?;
    }
    match tokio::time::timeout(options.timeout, socket.connect(addr)).await {
        Ok(result) => result.map_err(io),
        Err(_) => Err(ConnectError::Timeout {
            addr,
            after: options.timeout,
        }),
    }
}

/// Turns keepalive on for a socket of either direction.
///
/// # Errors
/// What the system says.
pub fn set_keepalive(socket: &impl AsFd, keepalive: &Keepalive) -> io::Result<()> {
    let parameters = TcpKeepalive::new()
        .with_time(keepalive.idle)
        .with_interval(keepalive.interval)
        .with_retries(keepalive.probes);
    SockRef::from(socket).set_tcp_keepalive(&parameters)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{ListenOptions, listen};

    #[tokio::test]
    async fn calls_from_the_given_address() {
        let mut listener =
            listen((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default()).unwrap();
        let options = ConnectOptions::default().from_source(Ipv4Addr::new(127, 9, 8, 7).into());
        let stream = connect(listener.local_addr(), &options).await.unwrap();
        let (_accepted, peer) = listener.accept().await;
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 9, 8, 7));
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn refused_names_the_destination() {
        let addr = crate::bind((Ipv4Addr::LOCALHOST, 0).into(), &ListenOptions::default())
            .unwrap()
            .local_addr()
            .unwrap();
        let e = connect(addr, &ConnectOptions::default()).await.unwrap_err();
        assert_eq!(e.to_string(), format!("connect to {addr}"));
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_named() {
        let options = ConnectOptions::default().from_source(Ipv4Addr::new(192, 0, 2, 1).into());
        let e = connect((Ipv4Addr::LOCALHOST, 1).into(), &options)
            .await
            .unwrap_err();
        assert!(matches!(e, ConnectError::Bind { .. }), "{e:?}");
    }

    #[tokio::test]
    async fn gives_up_after_the_timeout() {
        // A listener whose backlog is full does not answer further SYNs.
        let full = crate::bind(
            (Ipv4Addr::LOCALHOST, 0).into(),
            &ListenOptions {
                backlog: 0,
                ..ListenOptions::default()
            },
        )
        .unwrap();
        let addr = full.local_addr().unwrap();
        let options = ConnectOptions {
            timeout: Duration::from_millis(50),
            ..ConnectOptions::default()
        };
        let mut kept = Vec::new();
        loop {
            match connect(addr, &options).await {
                Ok(stream) if kept.len() < 8 => kept.push(stream),
                other => {
                    assert!(
                        matches!(other, Err(ConnectError::Timeout { .. })),
                        "{other:?}"
                    );
                    break;
                }
            }
        }
    }
}
