//! Settings of both sides (RFC 9113 6.5).

use crate::WriteBuf;

use super::frame::{self, DEFAULT_WINDOW, MAX_31_BITS, MAX_MAX_FRAME, MIN_MAX_FRAME, kind};
use super::{Config, ConnectionError};

pub(super) const HEADER_TABLE_SIZE: u16 = 0x1;
pub(super) const ENABLE_PUSH: u16 = 0x2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 0x4;
pub(super) const MAX_FRAME_SIZE: u16 = 0x5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Client,
}

/// What the peer wants of us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The table of what we send it.
    pub header_table_bytes: u32,
    /// Streams we may have open.
    pub max_concurrent_streams: u32,
    /// What we may send on a new stream before it reads.
    pub initial_window_bytes: u32,
    /// The largest frame.
    pub max_frame_bytes: u32,
    /// The largest head, if it says. It may refuse a larger one, or a smaller one; nothing here enforces it.
    pub max_header_list_bytes: Option<u32>,
    /// Whether it takes extended CONNECT.
    pub extended_connect: bool,
}

impl PeerSettings {
    /// What holds before the peer said anything.
    pub(super) fn assumed(config: &Config) -> Self {
        Self {
            header_table_bytes: 4096,
            max_concurrent_streams: config.assumed_concurrent_streams,
            initial_window_bytes: DEFAULT_WINDOW,
            max_frame_bytes: MIN_MAX_FRAME,
            max_header_list_bytes: None,
            extended_connect: false,
        }
    }

    /// Takes over one setting that `peer` sent.
    pub(super) fn apply(&mut self, id: u16, value: u32, peer: Role) -> Result<(), ConnectionError> {
        let valid = match id {
            HEADER_TABLE_SIZE => {
                self.header_table_bytes = value;
                true
            }
            ENABLE_PUSH => value == 0 || (value == 1 && peer == Role::Client),
            MAX_CONCURRENT_STREAMS => {
                self.max_concurrent_streams = value;
                true
            }
            INITIAL_WINDOW_SIZE => {
                self.initial_window_bytes = value;
                value <= MAX_31_BITS
            }
            MAX_FRAME_SIZE => {
                self.max_frame_bytes = value;
                (MIN_MAX_FRAME..=MAX_MAX_FRAME).contains(&value)
            }
            MAX_HEADER_LIST_SIZE => {
                self.max_header_list_bytes = Some(value);
                true
            }
            ENABLE_CONNECT_PROTOCOL => {
                let withdrawn = value == 0 && self.extended_connect;
                self.extended_connect = value == 1 && peer == Role::Server;
                value <= 1 && !withdrawn
            }
            // RFC 9113 6.5.2: what isn't known is ignored.
            _ => true,
        };
        valid.then_some(()).ok_or(ConnectionError::Setting { id })
    }
}

/// Appends our settings: those that differ from what holds without.
pub(super) fn put(out: &mut WriteBuf, config: &Config, role: Role) {
    let server = role == Role::Server;
    let settings = [
        (
            HEADER_TABLE_SIZE,
            config.header_table_bytes,
            config.header_table_bytes != 4096,
        ),
        (ENABLE_PUSH, 0, !server),
        (
            MAX_CONCURRENT_STREAMS,
            config.max_concurrent_streams,
            server,
        ),
        (
            INITIAL_WINDOW_SIZE,
            config.stream_window_bytes.min(MAX_31_BITS),
            config.stream_window_bytes != DEFAULT_WINDOW,
        ),
        (
            MAX_FRAME_SIZE,
            max_frame_bytes(config),
            config.max_frame_bytes != MIN_MAX_FRAME,
        ),
        (MAX_HEADER_LIST_SIZE, config.limits.header_list_bytes, true),
        (
            ENABLE_CONNECT_PROTOCOL,
            1,
            server && config.extended_connect,
        ),
    ];
    let mut payload = Vec::with_capacity(6 * settings.len());
    for (id, value, _) in settings.iter().filter(|(_, _, told)| *told) {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame::put(out, kind::SETTINGS, 0, 0, &payload);
}

/// The largest frame we take.
pub(super) fn max_frame_bytes(config: &Config) -> u32 {
    config.max_frame_bytes.clamp(MIN_MAX_FRAME, MAX_MAX_FRAME)
}
