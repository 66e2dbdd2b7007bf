//! What the owner sends.

use crate::WriteBuf;
use crate::head::Field;

use super::Connection;
use super::frame::{FrameHeader, HEADER_LEN, MAX_31_BITS, flag, kind, split_headers};
use super::stream::{Asked, Blocked, Half, StreamRef};

/// Whether something is the last that a direction of a stream has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// More follows.
    No,
    /// Nothing follows.
    Yes,
}

impl From<bool> for End {
    fn from(end: bool) -> Self {
        if end { Self::Yes } else { Self::No }
    }
}

/// Why something can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream is gone.
    #[error("the stream is gone")]
    Gone,
    /// Our direction has ended, or its head is sent already, or not yet.
    #[error("the stream does not expect this now")]
    OutOfOrder,
    /// The peer allows no more streams at once.
    #[error("the peer allows no more streams at once")]
    TooManyStreams,
    /// The connection takes no new streams.
    #[error("the connection takes no new streams")]
    Leaving,
}

impl Connection {
    /// Opens a stream with a request. A client's.
    ///
    /// `fields` are in the order of the wire, pseudo-header fields first, as [`Head::wire_fields`](crate::Head::wire_fields)
    /// has them; they are sent as they are.
    ///
    /// # Errors
    /// [`SendError::Leaving`] when this connection is no longer for new streams; [`SendError::TooManyStreams`] when it is full.
    pub fn send_request<'f>(
        &mut self,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
        out: &mut WriteBuf,
    ) -> Result<StreamRef, SendError> {
        if self.is_leaving() || self.next_id > MAX_31_BITS {
            return Err(SendError::Leaving);
        }
        if self.available_streams() == 0 {
            return Err(SendError::TooManyStreams);
        }
        let id = self.next_id;
        self.next_id += 2;
        let mut asked = Asked::Other;
        self.put_head(id, fields, end, out, |field| {
            if field.name == b":method" {
                asked = match field.value {
                    b"HEAD" => Asked::Head,
                    b"CONNECT" => Asked::Connect,
                    _ => Asked::Other,
                };
            }
        });
        let send = if end == End::Yes {
            Half::Ended
        } else {
            Half::Body
        };
        let stream = self.open(id, send, Half::Head);
        if let Some(state) = self.streams.get_mut(stream) {
            state.asked = asked;
        }
        Ok(stream)
    }

    /// Answers a request, finally or with an informational response. A server's.
    ///
    /// # Errors
    /// [`SendError::Gone`], or [`SendError::OutOfOrder`] when there was a final response.
    pub fn send_response<'f>(
        &mut self,
        stream: StreamRef,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
        out: &mut WriteBuf,
    ) -> Result<(), SendError> {
        let state = self.streams.get_mut(stream).ok_or(SendError::Gone)?;
        if state.send != Half::Head {
            return Err(SendError::OutOfOrder);
        }
        let mut informational = false;
        self.put_head(stream.id(), fields, end, out, |field| {
            informational |= field.name == b":status" && field.value.starts_with(b"1");
        });
        if end == End::Yes {
            self.end_sending(stream);
        } else if !informational && let Some(state) = self.streams.get_mut(stream) {
            state.send = Half::Body;
        }
        Ok(())
    }

    /// Ends our direction with trailers.
    ///
    /// # Errors
    /// [`SendError::Gone`], or [`SendError::OutOfOrder`] when the direction has ended or has no head yet.
    pub fn send_trailers<'f>(
        &mut self,
        stream: StreamRef,
        fields: impl IntoIterator<Item = Field<'f>>,
        out: &mut WriteBuf,
    ) -> Result<(), SendError> {
        let state = self.streams.get(stream).ok_or(SendError::Gone)?;
        if state.send != Half::Body {
            return Err(SendError::OutOfOrder);
        }
        self.put_head(stream.id(), fields, End::Yes, out, |_| {});
        self.end_sending(stream);
        Ok(())
    }

    /// Sends as much of `data` as the windows and the output have room for, and returns how much that is.
    ///
    /// When it is less than all, nothing was ended and [`Event::Writable`](super::Event::Writable) will tell when to go on.
    ///
    /// # Errors
    /// [`SendError::Gone`], or [`SendError::OutOfOrder`] when the direction has ended or has no head yet.
    pub fn send_data(
        &mut self,
        stream: StreamRef,
        data: &[u8],
        end: End,
        out: &mut WriteBuf,
    ) -> Result<usize, SendError> {
        let state = self.streams.get_mut(stream).ok_or(SendError::Gone)?;
        if state.send != Half::Body {
            return Err(SendError::OutOfOrder);
        }
        let window = state.send_window.min(self.send_window).max(0) as usize;
        let room = self.config.output_bytes.saturating_sub(out.len());
        let count = data.len().min(window).min(room);
        let complete = count == data.len();
        state.send_window -= count as i32;
        self.send_window -= count as i32;
        let mut queues = false;
        if state.blocked != Blocked::OnConnection {
            state.blocked = if complete {
                Blocked::No
            } else if state.send_window <= 0 {
                Blocked::OnStream
            } else {
                queues = true;
                Blocked::OnConnection
            };
        }
        let ends = complete && end == End::Yes;
        if count > 0 || ends {
            self.put_data(stream.id(), &data[..count], ends, out);
        }
        if ends {
            self.end_sending(stream);
        } else if queues {
            self.wait(stream);
        }
        Ok(count)
    }

    /// How much [`send_data`](Self::send_data) would take now.
    #[must_use]
    pub fn send_capacity(&self, stream: StreamRef, out: &WriteBuf) -> usize {
        let Some(state) = self
            .streams
            .get(stream)
            .filter(|state| state.send == Half::Body)
        else {
            return 0;
        };
        let window = state.send_window.min(self.send_window).max(0) as usize;
        window.min(self.config.output_bytes.saturating_sub(out.len()))
    }

    fn put_data(&mut self, id: u32, data: &[u8], end: bool, out: &mut WriteBuf) {
        let max_frame = self
            .peer
            .max_frame_bytes
            .min(self.config.send_frame_bytes.max(1)) as usize;
        let mut rest = data;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(max_frame));
            rest = after;
            let last = rest.is_empty();
            let flags = if last && end { flag::END_STREAM } else { 0 };
            self.work = self.work.wrapping_add(1);
            if !out.join_data_frame(id, piece, flags, max_frame) {
                let header = FrameHeader {
                    len: piece.len() as u32,
                    kind: kind::DATA,
                    flags,
                    stream: id,
                };
                out.put_data_frame(header.bytes(), piece, id);
            }
            if last {
                break;
            }
        }
    }

    /// Appends a head; `look` sees each field.
    fn put_head<'f>(
        &mut self,
        id: u32,
        fields: impl IntoIterator<Item = Field<'f>>,
        end: End,
        out: &mut WriteBuf,
        mut look: impl FnMut(&Field<'f>),
    ) {
        let back = out.back(256);
        let at = back.len();
        back.extend_from_slice(&[0; HEADER_LEN]);
        self.encoder.begin(back);
        for field in fields {
            look(&field);
            self.encoder.field(field, back);
        }
        let len = back.len() - at - HEADER_LEN;
        let header = FrameHeader {
            len: len as u32,
            kind: kind::HEADERS,
            flags: flag::END_HEADERS | if end == End::Yes { flag::END_STREAM } else { 0 },
            stream: id,
        };
        let max_frame = self.peer.max_frame_bytes as usize;
        if len <= max_frame {
            back[at..at + HEADER_LEN].copy_from_slice(&header.bytes());
        } else {
            split_headers(back, at, header, max_frame);
        }
    }

    /// A new stream, with the windows of new streams.
    pub(super) fn open(&mut self, id: u32, send: Half, recv: Half) -> StreamRef {
        self.work = self.work.wrapping_add(1);
        let send_window = self.peer.initial_window_bytes as i32;
        let recv_window = self.initial_recv_window();
        let stream = self
            .streams
            .insert(id, send, recv, send_window, recv_window);
        let now = self.milliseconds();
        if let Some(state) = self.streams.get_mut(stream) {
            state.credited_at = now;
        }
        stream
    }
}
