//! HTTP/2 parameters of both roles and where they come from.

use std::sync::Arc;
use std::time::Duration;

use waymark_driver::Level;
use waymark_driver::h2::{KeepAlive, Options};
use waymark_engine::h2::{Config, Limits};

/// HTTP/2 parameters of a tunnel connection; the defaults are those of hbone-and-l4.md 3.1, but for the windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// What a peer may send on a stream before its reader took something.
    pub stream_window: StreamWindow,
    /// The window of all streams of a connection together.
    pub connection_window_bytes: u32,
    /// SETTINGS_MAX_FRAME_SIZE. A peer that sees 16 KiB sends 16 KiB frames, which costs both sides CPU.
    pub max_frame_bytes: u32,
    /// SETTINGS_MAX_HEADER_LIST_SIZE.
    pub max_header_list_bytes: u32,
    /// What a connection may have buffered for sending, beside what the socket has.
    pub send_buffer_bytes: usize,
    /// The time from the start, and from each answer, to the next PING.
    pub ping_interval: Duration,
    /// The time an answer may take before the connection counts as dead.
    pub ping_timeout: Duration,
}

/// The window of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamWindow {
    /// Always this many bytes.
    Fixed(u32),
    /// Larger while the reader keeps up, as far as the connection's window has room for all streams.
    Growing {
        /// SETTINGS_INITIAL_WINDOW_SIZE.
        first_bytes: u32,
        /// The most.
        most_bytes: u32,
    },
}

impl Http2Settings {
    /// As a ztunnel client.
    #[must_use]
    pub fn client() -> Self {
        Self {
            max_header_list_bytes: 16 * 1024,
            ..Self::server()
        }
    }

    /// As a ztunnel server.
    #[must_use]
    pub fn server() -> Self {
        Self {
            stream_window: StreamWindow::Growing {
                first_bytes: 128 * 1024,
                most_bytes: 4 * 1024 * 1024,
            },
            connection_window_bytes: 32 * 1024 * 1024,
            max_frame_bytes: 1024 * 1024,
            max_header_list_bytes: 64 * 1024,
            send_buffer_bytes: 256 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            writer: Level::SocketWriter,
            keep_alive: Some(KeepAlive {
                interval: self.ping_interval,
                timeout: self.ping_timeout,
            }),
        }
    }

    fn config(&self, streams: u32) -> Arc<Config> {
        let (first, most) = match self.stream_window {
            StreamWindow::Fixed(bytes) => (bytes, bytes),
            StreamWindow::Growing {
                first_bytes,
                most_bytes,
            } => (first_bytes, most_bytes),
        };
        Arc::new(Config {
            stream_window_bytes: first,
            stream_window_max_bytes: most,
            connection_window_bytes: self.connection_window_bytes,
            max_frame_bytes: self.max_frame_bytes,
            max_concurrent_streams: streams,
            assumed_concurrent_streams: streams,
            send_frame_bytes: SEND_FRAME_BYTES,
            output_bytes: self.send_buffer_bytes,
            limits: Limits {
                header_list_bytes: self.max_header_list_bytes,
                ..Limits::default()
            },
            ..Config::default()
        })
    }
}

/// Parameters of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// HTTP/2.
    pub http2: Http2Settings,
    /// SETTINGS_MAX_CONCURRENT_STREAMS. ztunnel opens 100 streams before it has seen our SETTINGS, so less than 100
    /// costs users connections.
    pub max_concurrent_streams: u32,
    /// The time that TLS and the HTTP/2 preface may take together.
    pub handshake_timeout: Duration,
    /// A connection without streams is told to go away after that long, at the latest after twice as long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Connections at the same time; the next ones are closed at once and counted.
    pub max_connections: usize,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            http2: Http2Settings::server(),
            max_concurrent_streams: 200,
            handshake_timeout: Duration::from_secs(15),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connections: 100_000,
        }
    }
}

impl ServerSettings {
    pub(crate) fn config(&self) -> Arc<Config> {
        self.http2.config(self.max_concurrent_streams)
    }
}

/// Parameters of a client pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// HTTP/2.
    pub http2: Http2Settings,
    /// Streams a connection carries at most, if the peer allows as many.
    pub max_streams_per_connection: u32,
    /// The time that TCP, TLS and HTTP/2 set-up may take together.
    pub connect_timeout: Duration,
    /// The time from the request to the response of a CONNECT. The peer connects to its application meanwhile, for
    /// which it has 10 s itself.
    pub response_timeout: Duration,
    /// The time after which a connection without streams is closed.
    pub idle_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            http2: Http2Settings::client(),
            max_streams_per_connection: 100,
            connect_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

impl PoolSettings {
    pub(crate) fn config(&self) -> Arc<Config> {
        self.http2.config(self.max_streams_per_connection)
    }
}

/// The largest DATA frame that we send: what a socket's output takes at once.
const SEND_FRAME_BYTES: u32 = 64 * 1024;
