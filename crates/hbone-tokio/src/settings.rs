//! HTTP/2 parameters of both roles and where they come from.

use std::time::Duration;

/// HTTP/2 parameters of a tunnel connection; the defaults are those of hbone-and-l4.md 3.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// SETTINGS_INITIAL_WINDOW_SIZE: what a peer may send on a stream before its reader took something.
    pub stream_window_bytes: u32,
    /// The window of all streams of a connection together.
    pub connection_window_bytes: u32,
    /// SETTINGS_MAX_FRAME_SIZE. A peer that sees 16 KiB sends 16 KiB frames, which costs both sides CPU.
    pub max_frame_bytes: u32,
    /// SETTINGS_MAX_HEADER_LIST_SIZE.
    pub max_header_list_bytes: u32,
    /// What a stream may have buffered for sending.
    pub send_buffer_bytes: usize,
    /// The time from the start, and from each answer, to the next PING.
    pub ping_interval: Duration,
    /// The time an answer may take before the connection counts as dead.
    pub ping_timeout: Duration,
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
            stream_window_bytes: 4 * 1024 * 1024,
            connection_window_bytes: 16 * 1024 * 1024,
            max_frame_bytes: 1024 * 1024,
            max_header_list_bytes: 64 * 1024,
            send_buffer_bytes: 400 * 1024,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
        }
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
    /// The time that TLS and the HTTP/2 preface may take together, waiting for a turn included.
    pub handshake_timeout: Duration,
    /// TLS handshakes at the same time; the next ones wait (a handshake is a quarter of a millisecond of CPU).
    pub max_handshakes: usize,
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
            max_handshakes: 256,
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connections: 100_000,
        }
    }
}

/// Parameters of a client pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// HTTP/2.
    pub http2: Http2Settings,
    /// Streams a connection carries at most, if the peer allows as many.
    pub max_streams_per_connection: usize,
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

impl ServerSettings {
    pub(crate) fn builder(&self) -> h2::server::Builder {
        let h = &self.http2;
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(h.stream_window_bytes)
            .initial_connection_window_size(h.connection_window_bytes)
            .max_frame_size(h.max_frame_bytes)
            .max_header_list_size(h.max_header_list_bytes)
            .max_send_buffer_size(h.send_buffer_bytes)
            .max_concurrent_streams(self.max_concurrent_streams)
            // What a peer can make us remember by resetting (rapid reset) or by provoking our resets.
            .max_pending_accept_reset_streams(20)
            .max_concurrent_reset_streams(50)
            .max_local_error_reset_streams(Some(1024))
            .reset_stream_duration(Duration::from_secs(1));
        builder
    }
}

impl PoolSettings {
    pub(crate) fn builder(&self) -> h2::client::Builder {
        let h = &self.http2;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(h.stream_window_bytes)
            .initial_connection_window_size(h.connection_window_bytes)
            .max_frame_size(h.max_frame_bytes)
            .max_header_list_size(h.max_header_list_bytes)
            .max_send_buffer_size(h.send_buffer_bytes)
            .enable_push(false)
            .initial_max_send_streams(self.max_streams_per_connection)
            .max_concurrent_reset_streams(50)
            .max_local_error_reset_streams(Some(1024))
            .reset_stream_duration(Duration::from_secs(1));
        builder
    }
}
