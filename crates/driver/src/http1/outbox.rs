//! What a connection has written and its `Io` had no room for yet.

use std::io;
use std::task::{Context, Poll, ready};

use waymark_engine::http1::{Client, Server, WriteError};

use crate::Io;

/// Heads and the framing of chunks, in front of body that is put directly.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes of body that the framing has announced and that are still to be put.
    owed: usize,
    /// Whether anything was put since [`begin`](Self::begin).
    has_put: bool,
}

/// A core that frames a body.
pub(super) trait Framer {
    /// Writes what goes in front of so many bytes.
    fn before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError>;
    /// Writes what goes behind them.
    fn after(&mut self, len: usize, out: &mut Vec<u8>);
}

impl Framer for Server {
    fn before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.write_before(len, out)
    }

    fn after(&mut self, len: usize, out: &mut Vec<u8>) {
        self.write_after(len, out);
    }
}

impl Framer for Client {
    fn before(&mut self, len: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
        self.write_before(len, out)
    }

    fn after(&mut self, len: usize, out: &mut Vec<u8>) {
        self.write_after(len, out);
    }
}

/// The memory that an empty outbox keeps.
const KEPT_BYTES: usize = 4 * 1024;

impl Outbox {
    /// Where a core appends to.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// A message begins.
    pub(super) fn begin(&mut self) {
        self.has_put = false;
    }

    /// Whether any of the message was put.
    pub(super) fn has_put(&self) -> bool {
        self.has_put
    }

    /// Whether all is put.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.bytes.len() && self.owed == 0
    }

    /// Gives the memory back, if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Puts what waits.
    pub(super) fn poll_drain<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            self.sent += ready!(io.poll_put(&self.bytes[self.sent..], cx))?;
            self.has_put = true;
        }
        self.bytes.clear();
        self.sent = 0;
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Puts some of `data`, framed. Of what there was no room for the framing may have been told already: the caller has to come
    /// back with those bytes.
    pub(super) fn poll_body<I: Io>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
        data: &[u8],
        framer: &mut impl Framer,
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.owed == 0 {
            match framer.before(data.len(), &mut self.bytes) {
                Ok(()) => {}
                Err(WriteError::NoBody) => return Poll::Ready(Ok(data.len())),
                Err(e) => return Poll::Ready(Err(io::Error::other(e))),
            }
            self.owed = data.len();
        }
        if !self.bytes.is_empty() {
            ready!(self.poll_drain(io, cx))?;
        }
        let len = self.owed.min(data.len());
        let put = ready!(io.poll_put(&data[..len], cx))?;
        self.owed -= put;
        if self.owed == 0 {
            framer.after(put, &mut self.bytes);
        }
        Poll::Ready(Ok(put))
    }
}
