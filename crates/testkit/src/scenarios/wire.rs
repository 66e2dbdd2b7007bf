//! A client of HTTP/2 that says what no library would: frames by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::site::Site;

/// A connection with its preface said.
pub(super) struct Wire {
    stream: TcpStream,
    authority: String,
}

/// What a peer says to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Headers of an answer.
    Headers,
    /// The stream is reset.
    Reset,
    /// The connection ends: GOAWAY, or the end itself.
    End,
}

/// The pseudo-headers of an ordinary request but its authority.
pub(super) const GET: [(&str, &str); 3] = [(":method", "GET"), (":scheme", "http"), (":path", "/")];

impl Wire {
    /// Connects to a port of the service.
    ///
    /// # Errors
    /// When there is no connection.
    pub(super) fn connect(site: &Site<'_>, port: u16) -> Result<Self, String> {
        let mut stream = site.connect(port)?;
        let preface = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        stream.write_all(&preface).map_err(|e| e.to_string())?;
        Ok(Self {
            stream,
            authority: format!("{}:{port}", site.vip),
        })
    }

    /// Opens a stream with those fields, in that order, after the authority; `end` ends the request.
    ///
    /// # Errors
    /// When the connection is over.
    pub(super) fn open(
        &mut self,
        stream: u32,
        fields: &[(&str, &str)],
        end: bool,
    ) -> Result<(), String> {
        let mut block = field(":authority", &self.authority);
        for (name, value) in fields {
            block.extend(field(name, value));
        }
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.write(&frame(HEADERS, flags, stream, &block))
    }

    /// Sends some of a body.
    ///
    /// # Errors
    /// When the connection is over.
    pub(super) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> Result<(), String> {
        let flags = if end { END_STREAM } else { 0 };
        self.write(&frame(DATA, flags, stream, bytes))
    }

    /// Waits for what is said to a stream.
    ///
    /// # Errors
    /// When nothing is.
    pub(super) fn said(&mut self, stream: u32) -> Result<Said, String> {
        loop {
            let mut head = [0; 9];
            match self.stream.read_exact(&mut head) {
                Ok(()) => {}
                Err(e) if is_end(&e) => return Ok(Said::End),
                Err(e) => return Err(format!("a frame: {e}")),
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            self.stream
                .read_exact(&mut payload)
                .map_err(|e| format!("{length} bytes of a frame: {e}"))?;
            match head[3] {
                HEADERS if of == stream => return Ok(Said::Headers),
                RST_STREAM if of == stream => return Ok(Said::Reset),
                GOAWAY => return Ok(Said::End),
                SETTINGS if head[4] & ACK == 0 => self.write(&frame(SETTINGS, ACK, 0, b""))?,
                _ => {}
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        match self.stream.write_all(bytes) {
            Err(e) if !is_end(&e) => Err(e.to_string()),
            // What has ended shows when it is read.
            _ => Ok(()),
        }
    }
}

fn is_end(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut all = vec![a, b, c, kind, flags];
    all.extend(stream.to_be_bytes());
    all.extend(payload);
    all
}

/// A literal field that is not put into the table; names and values of up to 126 bytes.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut all = vec![0];
    for text in [name, value] {
        let length = u8::try_from(text.len()).ok().filter(|n| *n < 127);
        all.push(length.expect("short texts"));
        all.extend(text.as_bytes());
    }
    all
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
