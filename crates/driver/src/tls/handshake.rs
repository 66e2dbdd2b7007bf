//! Handshakes.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ExtractedSecrets, ServerConfig, SupportedCipherSuite};

use super::error::TlsError;
use super::session::{Keys, Session};
use crate::socket::Socket;
use crate::socket_buffer::{ReceiveBuffer, SendBuffer};
use crate::tcp::TcpStream;
use crate::timeout;

/// What a handshake has told of the peer.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The chain, the peer's own first. Empty when it has shown none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The protocol that was agreed on.
    pub alpn: Option<Vec<u8>>,
}

/// Serves a TLS session.
///
/// # Errors
/// See [`TlsError`]. The peer has been told, if it can be.
///
/// # Cancel safety
/// Dropping the future resets the connection.
pub async fn accept(
    tcp: TcpStream,
    config: Arc<ServerConfig>,
    patience: Duration,
) -> Result<(Socket, Peer), TlsError> {
    let connection = UnbufferedServerConnection::new(config)?;
    shake_hands(tcp, connection, patience).await
}

/// Opens a TLS session with `name`.
///
/// # Errors
/// See [`TlsError`]. The peer has been told, if it can be.
///
/// # Cancel safety
/// Dropping the future resets the connection.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    patience: Duration,
) -> Result<(Socket, Peer), TlsError> {
    let connection = UnbufferedClientConnection::new(config, name)?;
    shake_hands(tcp, connection, patience).await
}

/// The least room that a handshake is read into.
const READ_AT_LEAST: usize = 4 * 1024;
/// How much a peer may send before its part of the handshake is done: long chains and then some.
const MAX_HANDSHAKE: usize = 256 * 1024;

async fn shake_hands<C: Shaking>(
    tcp: TcpStream,
    connection: C,
    patience: Duration,
) -> Result<(Socket, Peer), TlsError> {
    let shaking = Handshake {
        tcp,
        connection,
        received: ReceiveBuffer::default(),
        out: SendBuffer::default(),
        shown: 0,
        read: 0,
    };
    timeout(patience, shaking.run())
        .await
        .map_err(|_| TlsError::Timeout)?
}

struct Handshake<C> {
    tcp: TcpStream,
    connection: C,
    received: ReceiveBuffer,
    out: SendBuffer,
    /// How much of what was received rustls has been shown.
    shown: usize,
    /// How much was received in all.
    read: usize,
}

/// What is to be done next.
enum Step {
    Go,
    Receive,
    Done,
}

impl<C: Shaking> Handshake<C> {
    async fn run(mut self) -> Result<(Socket, Peer), TlsError> {
        loop {
            match self.step() {
                Ok(Step::Go) => {}
                Ok(Step::Receive) => {
                    self.send().await?;
                    self.receive().await?;
                }
                // What is left to send goes out with what is put first.
                Ok(Step::Done) => break,
                Err(error) => {
                    self.collect_alert();
                    // The error that came first is the one to tell.
                    let _ = self.send().await;
                    return Err(error);
                }
            }
        }
        let peer = self.connection.peer();
        let session = self.connection.finish()?;
        let socket = Socket::new(self.tcp, Some(Box::new(session)), self.received, self.out)
            .map_err(TlsError::Io)?;
        Ok((socket, peer))
    }

    fn step(&mut self) -> Result<Step, TlsError> {
        let shown = &mut self.received.raw()[..self.shown];
        let UnbufferedStatus { discard, state, .. } = self.connection.process(shown);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                encode(&mut self.out, |room| data.encode(room)).map(|()| Step::Go)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                Ok(Step::Go)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Receive),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(TlsError::Closed),
            Ok(_) => Err(TlsError::Unsupported),
            Err(error) => Err(error.into()),
        };
        self.received.discard_raw(discard);
        self.shown -= discard;
        match step? {
            Step::Receive if self.show_record() => Ok(Step::Go),
            step => Ok(step),
        }
    }

    /// Shows rustls the next record, if it is whole: what follows the handshake is not for it to decrypt. What is no record
    /// at all is for it to refuse.
    fn show_record(&mut self) -> bool {
        let rest = &self.received.raw()[self.shown..];
        let length = match rest {
            [] => 0,
            &[20..=24, 3, _, high, low, ..] => 5 + usize::from(u16::from_be_bytes([high, low])),
            [20..=24, ..] if rest.len() < 5 => 5,
            _ => rest.len(),
        };
        let whole = (1..=rest.len()).contains(&length);
        if whole {
            self.shown += length;
        }
        whole
    }

    /// What rustls wants the peer to know of an error. Asked for once: it takes the input up again after that.
    fn collect_alert(&mut self) {
        let UnbufferedStatus { state, .. } = self
            .connection
            .process(&mut self.received.raw()[..self.shown]);
        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
            // Without it the peer sees the connection end.
            let _ = encode(&mut self.out, |room| data.encode(room));
        }
    }

    async fn send(&mut self) -> Result<(), TlsError> {
        while !self.out.is_empty() {
            let sent = poll_fn(|cx| self.tcp.poll_write(self.out.unsent(), cx)).await;
            self.out.advance(sent.map_err(TlsError::Io)?);
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<(), TlsError> {
        let count = poll_fn(|cx| {
            if self.tcp.poll_readable(cx).is_pending() {
                self.received.rest();
                return Poll::Pending;
            }
            self.tcp.poll_read(self.received.room(READ_AT_LEAST), cx)
        })
        .await
        .map_err(TlsError::Io)?;
        self.read += count;
        if count == 0 || self.read > MAX_HANDSHAKE {
            return Err(TlsError::Closed);
        }
        self.received.received(count);
        Ok(())
    }
}

/// Appends what `fill` writes into the room that it asks for.
fn encode(
    out: &mut SendBuffer,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let needed = match fill(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    let bytes = out.back(needed);
    let begins = bytes.len();
    bytes.resize(begins + needed, 0);
    fill(&mut bytes[begins..])
        .map(|_| ())
        .map_err(|_| TlsError::Unsupported)
}

/// Both roles' connections.
trait Shaking {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn peer(&self) -> Peer;

    fn finish(self) -> Result<Session, TlsError>;
}

impl Shaking for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn peer(&self) -> Peer {
        told(self)
    }

    fn finish(self) -> Result<Session, TlsError> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        session(
            &secrets,
            &keys.negotiated_cipher_suite(),
            Keys::Server(keys),
        )
    }
}

impl Shaking for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn peer(&self) -> Peer {
        told(self)
    }

    fn finish(self) -> Result<Session, TlsError> {
        let (secrets, keys) = self.dangerous_into_kernel_connection()?;
        session(
            &secrets,
            &keys.negotiated_cipher_suite(),
            Keys::Client(keys),
        )
    }
}

fn told(connection: &CommonState) -> Peer {
    Peer {
        certificates: connection
            .peer_certificates()
            .map(<[_]>::to_vec)
            .unwrap_or_default(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
    }
}

fn session(
    secrets: &ExtractedSecrets,
    suite: &SupportedCipherSuite,
    keys: Keys,
) -> Result<Session, TlsError> {
    let SupportedCipherSuite::Tls13(suite) = suite else {
        return Err(TlsError::Unsupported);
    };
    Session::new(secrets, keys, suite.common.confidentiality_limit)
}
