//! Frames that steer streams and the connection.

use std::time::Instant;

use crate::WriteBuf;

use super::super::abuse::{Flood, Refusal};
use super::super::connection::{Event, LEAVING_PING, Leaving, ResetBy};
use super::super::frame::{self, FrameHeader, MAX_31_BITS, flag, kind};
use super::super::settings::Role;
use super::super::stream::{Blocked, Half};
use super::super::{Connection, ConnectionError, ErrorCode};
use super::Outcome;

impl Connection {
    pub(super) fn on_window_update<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let payload: &[u8; 4] = payload.try_into().map_err(|_| ConnectionError::FrameSize {
            kind: kind::WINDOW_UPDATE,
        })?;
        self.spend(Flood::WindowUpdates, now)?;
        let increment = u32::from_be_bytes(*payload) & MAX_31_BITS;
        if header.stream == 0 {
            if increment == 0 {
                return Err(ConnectionError::WindowIncrement);
            }
            self.send_window = enlarged(self.send_window, increment).ok_or_else(|| {
                self.refusals.add(Refusal::WindowOverflow);
                ConnectionError::WindowOverflow
            })?;
            return Ok(self.next_pending(out));
        }
        if self.is_idle(header.stream) {
            return Err(ConnectionError::IdleStream {
                kind: kind::WINDOW_UPDATE,
            });
        }
        let found = self.streams.find(header.stream);
        let Some((stream, state)) =
            found.and_then(|stream| Some((stream, self.streams.get_mut(stream)?)))
        else {
            return Ok(None);
        };
        if increment == 0 {
            return self.stream_error(header.stream, ErrorCode::PROTOCOL_ERROR, out, now);
        }
        let Some(window) = enlarged(state.send_window, increment) else {
            self.refusals.add(Refusal::WindowOverflow);
            return self.stream_error(header.stream, ErrorCode::FLOW_CONTROL_ERROR, out, now);
        };
        state.send_window = window;
        if state.blocked == Blocked::OnStream && window > 0 {
            state.blocked = Blocked::OnConnection;
            self.wait(stream);
        }
        Ok(self.next_pending(out))
    }

    pub(super) fn on_reset<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let payload: &[u8; 4] = payload.try_into().map_err(|_| ConnectionError::FrameSize {
            kind: kind::RST_STREAM,
        })?;
        self.check_not_idle(header)?;
        let Some(stream) = self.streams.find(header.stream) else {
            self.spend(Flood::IdleFrames, now)?;
            return Ok(None);
        };
        let unanswered = self
            .streams
            .get(stream)
            .is_some_and(|state| state.send == Half::Head);
        if unanswered {
            self.spend(Flood::Resets, now)?;
        }
        self.forget(stream, out);
        Ok(Some(Event::Reset {
            stream,
            code: ErrorCode(u32::from_be_bytes(*payload)),
            by: ResetBy::Peer,
        }))
    }

    pub(super) fn on_settings<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        let is_ack = header.has(flag::ACK);
        let (settings, rest) = payload.as_chunks::<6>();
        if header.stream != 0 {
            return Err(ConnectionError::WrongStream {
                kind: kind::SETTINGS,
            });
        }
        if !rest.is_empty() || (is_ack && !payload.is_empty()) {
            return Err(ConnectionError::FrameSize {
                kind: kind::SETTINGS,
            });
        }
        self.spend(Flood::Settings, now)?;
        if is_ack {
            self.on_settings_ack();
            return Ok(None);
        }
        let peer_role = match self.role {
            Role::Server => Role::Client,
            Role::Client => Role::Server,
        };
        if !self.got_settings {
            // Whatever it doesn't limit now has no limit.
            self.got_settings = true;
            self.peer.max_concurrent_streams = u32::MAX;
        }
        let window_before = self.peer.initial_window_bytes;
        for [id_high, id_low, value @ ..] in settings {
            let id = u16::from_be_bytes([*id_high, *id_low]);
            self.peer.apply(id, u32::from_be_bytes(*value), peer_role)?;
        }
        self.encoder
            .set_limit(self.peer.header_table_bytes as usize);
        self.change_send_windows(window_before)?;
        self.answer(out)?;
        frame::put(out, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(Some(Event::Settings))
    }

    /// The peer knows our settings: what it sends from now on obeys them.
    fn on_settings_ack(&mut self) {
        if !self.settings_acked {
            let before = self.initial_recv_window();
            self.settings_acked = true;
            let after = self.initial_recv_window();
            for (_, state) in self.streams.iter_mut() {
                state.recv_window += after - before;
            }
            self.decoder
                .set_limit(self.config.header_table_bytes as usize);
        }
    }

    /// Applies the peer's new initial window to the streams that are open (RFC 9113 6.9.2).
    fn change_send_windows(&mut self, before: u32) -> Result<(), ConnectionError> {
        let change = i64::from(self.peer.initial_window_bytes) - i64::from(before);
        if change == 0 {
            return Ok(());
        }
        let mut open_again = Vec::new();
        for (stream, state) in self.streams.iter_mut() {
            let window = i64::from(state.send_window) + change;
            state.send_window = i32::try_from(window).map_err(|_| {
                self.refusals.add(Refusal::WindowOverflow);
                ConnectionError::WindowOverflow
            })?;
            if state.blocked == Blocked::OnStream && state.send_window > 0 {
                state.blocked = Blocked::OnConnection;
                open_again.push(stream);
            }
        }
        for stream in open_again {
            self.wait(stream);
        }
        Ok(())
    }

    pub(super) fn on_ping<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        if header.stream != 0 {
            return Err(ConnectionError::WrongStream { kind: kind::PING });
        }
        let payload: [u8; 8] = payload
            .try_into()
            .map_err(|_| ConnectionError::FrameSize { kind: kind::PING })?;
        self.spend(Flood::Pings, now)?;
        if !header.has(flag::ACK) {
            self.answer(out)?;
            frame::put(out, kind::PING, flag::ACK, 0, &payload);
            return Ok(None);
        }
        if payload == LEAVING_PING && self.leaving == Leaving::Announced {
            self.go_away(ErrorCode::NO_ERROR, out);
            return Ok(None);
        }
        Ok(Some(Event::Pong { payload }))
    }

    pub(super) fn on_go_away<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Outcome<'b> {
        if header.stream != 0 {
            return Err(ConnectionError::WrongStream { kind: kind::GOAWAY });
        }
        let Some(([s0, s1, s2, s3, code @ ..], _debug)) = payload.split_first_chunk::<8>() else {
            return Err(ConnectionError::FrameSize { kind: kind::GOAWAY });
        };
        self.spend(Flood::IdleFrames, now)?;
        let said = u32::from_be_bytes([*s0, *s1, *s2, *s3]) & MAX_31_BITS;
        let last_stream = self.peer_last_id.map_or(said, |before| before.min(said));
        self.peer_last_id = Some(last_stream);
        if self.role == Role::Client {
            let refused = self
                .streams
                .iter()
                .filter(|stream| stream.id() > last_stream);
            self.refused = refused.collect();
        }
        Ok(Some(Event::GoAway {
            last_stream,
            code: ErrorCode(u32::from_be_bytes(*code)),
        }))
    }

    /// PRIORITY says nothing to us, but may say it wrongly.
    pub(super) fn on_priority<'b>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        out: &mut WriteBuf,
        now: Instant,
    ) -> Outcome<'b> {
        if header.stream == 0 {
            return Err(ConnectionError::WrongStream {
                kind: kind::PRIORITY,
            });
        }
        self.spend(Flood::IdleFrames, now)?;
        let &[a, b, c, d, _weight] = payload else {
            // RFC 9113 6.3 makes this an error of the stream, which may be idle: then there is none to reset.
            return Err(ConnectionError::FrameSize {
                kind: kind::PRIORITY,
            });
        };
        if u32::from_be_bytes([a, b, c, d]) & MAX_31_BITS == header.stream {
            if self.is_idle(header.stream) {
                return Err(ConnectionError::IdleStream {
                    kind: kind::PRIORITY,
                });
            }
            return self.stream_error(header.stream, ErrorCode::PROTOCOL_ERROR, out, now);
        }
        Ok(None)
    }
}

fn enlarged(window: i32, increment: u32) -> Option<i32> {
    i32::try_from(i64::from(window) + i64::from(increment)).ok()
}
