//! A CONNECT before it is answered.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use waymark_driver::buffers;
use waymark_driver::h2::Stream;
use waymark_engine::h2::End;
use waymark_engine::{Field, Head};

use super::ConnectionInfo;
use crate::{Authority, Tunnel};

/// A CONNECT that waits for an answer. Dropping it resets the stream.
pub struct Incoming {
    /// Where it wants to go.
    pub authority: Authority,
    /// The request.
    pub head: Box<Head>,
    /// The connection that it came over.
    pub connection: Arc<ConnectionInfo>,
    stream: Stream,
}

impl Incoming {
    pub(super) fn new(
        authority: Authority,
        head: Box<Head>,
        connection: Arc<ConnectionInfo>,
        stream: Stream,
    ) -> Self {
        Self {
            authority,
            head,
            connection,
            stream,
        }
    }

    /// Answers 200 with `fields` and opens the tunnel.
    ///
    /// # Errors
    /// When the peer has gone meanwhile.
    pub fn accept<'f>(mut self, fields: impl IntoIterator<Item = Field<'f>>) -> io::Result<Tunnel> {
        buffers::give_head(self.head);
        let fields = std::iter::once(Field::new(b":status", b"200")).chain(fields);
        self.stream
            .send_response(fields, End::No)
            .map_err(io::Error::other)?;
        Ok(Tunnel::new(self.stream, None))
    }

    /// Answers `status` without a body.
    pub fn refuse(mut self, status: StatusCode) {
        send_status(&mut self.stream, status);
    }

    /// Waits until the peer gives up.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.stream.poll_failure(cx)).await;
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("authority", &self.authority)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

pub(super) fn send_status(stream: &mut Stream, status: StatusCode) {
    let status = Field::new(b":status", status.as_str().as_bytes());
    // An error says that the stream was reset meanwhile: nobody is left to be told.
    let _ = stream.send_response([status], End::Yes);
}
