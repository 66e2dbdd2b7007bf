//! A session after its handshake.

use rustls::ConnectionTrafficSecrets;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::error::{RecordError, TlsError};
use super::message::{Message, Messages, OUR_KEY_UPDATE};
use super::record::{MAX_PLAIN, Protection, kind};
use crate::socket_buffer::{ReceiveBuffer, SendBuffer};

/// The keys of both directions, and what makes the next ones.
pub(crate) struct Session {
    sealer: Protection,
    opener: Protection,
    keys: Keys,
    messages: Messages,
    /// Records without data since the last with data.
    idle_records: u32,
    /// How many records a key may protect.
    seal_limit: u64,
}

/// The key schedule of either role.
pub(super) enum Keys {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
}

/// What became of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The record is not whole, or there is none.
    Partial,
    /// There is more plain text.
    Data,
    /// Something for the session itself; there may be an answer to send.
    Control,
    /// The peer's direction has ended in good order.
    End,
}

/// How many records without data may follow each other: keys are updated now and then, not all the time.
const MAX_IDLE_RECORDS: u32 = 32;
/// How much before the limit of a key the next one is taken.
const LIMIT_MARGIN: u64 = 1024;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

impl Session {
    pub(super) fn new(
        secrets: &rustls::ExtractedSecrets,
        keys: Keys,
        seal_limit: u64,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            sealer: Protection::new(secrets.tx.0, &secrets.tx.1)?,
            opener: Protection::new(secrets.rx.0, &secrets.rx.1)?,
            keys,
            messages: Messages::default(),
            idle_records: 0,
            seal_limit: seal_limit.saturating_sub(LIMIT_MARGIN),
        })
    }

    /// Decrypts the next record of what was received. Answers go to `out`.
    pub(crate) fn open(
        &mut self,
        received: &mut ReceiveBuffer,
        out: &mut SendBuffer,
    ) -> Result<Opened, TlsError> {
        let raw = received.raw();
        let Some(length) = Protection::length(raw)?.filter(|&length| length <= raw.len()) else {
            return Ok(Opened::Partial);
        };
        let record = &mut raw[..length];
        let (kind, plain) = self.opener.open(record)?;
        if self.messages.is_waiting() && kind != kind::HANDSHAKE {
            return Err(RecordError::Unexpected.into());
        }
        let opened = match kind {
            kind::DATA if !plain.is_empty() => {
                self.idle_records = 0;
                received.append_plain(plain);
                Opened::Data
            }
            kind::DATA => self.idle(Opened::Control)?,
            kind::HANDSHAKE => {
                self.messages.add(&record[plain])?;
                self.take_messages(out)?;
                self.idle(Opened::Control)?
            }
            kind::ALERT => {
                let opened = alert(&record[plain])?;
                self.idle(opened)?
            }
            _ => return Err(RecordError::Unexpected.into()),
        };
        received.discard_raw(length);
        Ok(opened)
    }

    /// Encrypts `plain` into `out`, in as many records as it takes.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut SendBuffer) -> Result<(), TlsError> {
        for part in plain.chunks(MAX_PLAIN) {
            if self.sealer.sequence() >= self.seal_limit {
                self.update_our_key(out)?;
            }
            self.record(kind::DATA, part, out)?;
        }
        Ok(())
    }

    /// Ends our direction.
    pub(crate) fn close(&mut self, out: &mut SendBuffer) -> Result<(), TlsError> {
        self.record(kind::ALERT, &[WARNING, CLOSE_NOTIFY], out)
    }

    /// Tells the peer what is wrong with what it sent.
    pub(crate) fn alert(&mut self, error: &TlsError, out: &mut SendBuffer) {
        if let TlsError::Record(error) = error {
            // The session is over in any case.
            let _ = self.record(kind::ALERT, &[FATAL, error.alert()], out);
        }
    }

    fn record(&mut self, kind: u8, plain: &[u8], out: &mut SendBuffer) -> Result<(), TlsError> {
        // Header, type and tag.
        let out = out.back(plain.len() + 5 + 1 + 16);
        self.sealer.seal(kind, plain, out)
    }

    fn idle(&mut self, opened: Opened) -> Result<Opened, RecordError> {
        self.idle_records += 1;
        if self.idle_records > MAX_IDLE_RECORDS {
            return Err(RecordError::Flood);
        }
        Ok(opened)
    }

    fn take_messages(&mut self, out: &mut SendBuffer) -> Result<(), TlsError> {
        while let Some(message) = self.messages.next()? {
            match message {
                Message::Ticket(content) => self.keys.ticket(&content)?,
                Message::KeyUpdate { requested } => {
                    let (sequence, secrets) = self.keys.next(Side::Peer)?;
                    self.opener = Protection::new(sequence, &secrets)?;
                    if requested {
                        self.update_our_key(out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn update_our_key(&mut self, out: &mut SendBuffer) -> Result<(), TlsError> {
        self.record(kind::HANDSHAKE, &OUR_KEY_UPDATE, out)?;
        let (sequence, secrets) = self.keys.next(Side::Ours)?;
        self.sealer = Protection::new(sequence, &secrets)?;
        Ok(())
    }
}

/// Whose direction.
#[derive(Clone, Copy)]
enum Side {
    Ours,
    Peer,
}

impl Keys {
    fn next(&mut self, side: Side) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        match (self, side) {
            (Self::Client(keys), Side::Ours) => keys.update_tx_secret(),
            (Self::Client(keys), Side::Peer) => keys.update_rx_secret(),
            (Self::Server(keys), Side::Ours) => keys.update_tx_secret(),
            (Self::Server(keys), Side::Peer) => keys.update_rx_secret(),
        }
    }

    fn ticket(&mut self, content: &[u8]) -> Result<(), TlsError> {
        match self {
            Self::Client(keys) => Ok(keys.handle_new_session_ticket(content)?),
            Self::Server(_) => Err(RecordError::Unexpected.into()),
        }
    }
}

/// What an alert means. All but two end the session. Spec: RFC 8446, section 6.
fn alert(content: &[u8]) -> Result<Opened, TlsError> {
    match content {
        [_, CLOSE_NOTIFY] => Ok(Opened::End),
        [_, USER_CANCELED] => Ok(Opened::Control),
        &[_, description] => Err(TlsError::Alert(description)),
        _ => Err(RecordError::Malformed.into()),
    }
}
