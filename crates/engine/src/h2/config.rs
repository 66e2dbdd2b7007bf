//! What a connection offers its peer, and what it bears from it.

use super::Rate;

/// Parameters of a connection. Shared by all connections of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// SETTINGS_INITIAL_WINDOW_SIZE: what a stream may hold unread.
    pub stream_window_bytes: u32,
    /// How far the window of a stream grows whose reader keeps up, as far as `connection_window_bytes` has room for the
    /// largest number of streams at once. What is below `stream_window_bytes` counts as that: windows don't grow.
    pub stream_window_max_bytes: u32,
    /// What all streams together may hold unread; what is below 65,535 counts as that. When it is as large as
    /// `max_concurrent_streams` windows of `stream_window_bytes`, no number of unread streams is felt by the others.
    pub connection_window_bytes: u32,
    /// SETTINGS_MAX_FRAME_SIZE: 16,384 to 16,777,215.
    pub max_frame_bytes: u32,
    /// SETTINGS_HEADER_TABLE_SIZE: the table of what we receive.
    pub header_table_bytes: u32,
    /// SETTINGS_MAX_CONCURRENT_STREAMS, of a server; a client opens no more than this.
    pub max_concurrent_streams: u32,
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL, of a server (RFC 8441).
    pub extended_connect: bool,
    /// The table of what we send; the peer may want it smaller.
    pub encoder_table_bytes: u32,
    /// Streams that a client opens before it knows the server's limit.
    pub assumed_concurrent_streams: u32,
    /// The largest DATA frame we send; the peer may want it smaller.
    pub send_frame_bytes: u32,
    /// The output is full when it has this many unsent bytes: no more data is taken until half of them are sent.
    pub output_bytes: usize,
    /// What is refused.
    pub limits: Limits,
}

/// What a connection bears from its peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// SETTINGS_MAX_HEADER_LIST_SIZE: names, values and 32 for each field. The stream ends with INTERNAL_ERROR.
    pub header_list_bytes: u32,
    /// Fields in a head. The stream ends with INTERNAL_ERROR.
    pub header_fields: u32,
    /// A header block before decompression.
    pub header_block_bytes: u32,
    /// CONTINUATION frames in a header block.
    pub continuations: u32,
    /// Memory of the connection: tables, streams, unsent output, header blocks. New streams are refused above it.
    pub memory_bytes: usize,
    /// Unsent output beyond [`Config::output_bytes`] that frames which need an answer may cause.
    pub backlog_bytes: usize,
    /// Streams that are reset before we answered, or that we reset for errors of the peer. Work is a stream that ended well.
    pub resets: Rate,
    /// SETTINGS. Work is here, and in all that follow, a stream that was opened, or a frame with data, of either side.
    pub settings: Rate,
    /// PING. gRPC sends one for every round trip of a bulk transfer.
    pub pings: Rate,
    /// Empty DATA frames that don't end a stream.
    pub empty_frames: Rate,
    /// PRIORITY and unknown frames, and frames for streams that are gone.
    pub idle_frames: Rate,
    /// WINDOW_UPDATE.
    pub window_updates: Rate,
}

impl Default for Config {
    /// For mesh traffic: all streams may stand still without being felt by one that is new, and the window of a bulk transfer
    /// doubles with each round trip.
    fn default() -> Self {
        Self {
            stream_window_bytes: 128 * 1024,
            stream_window_max_bytes: 4 * 1024 * 1024,
            connection_window_bytes: 32 * 1024 * 1024,
            max_frame_bytes: 16 * 1024,
            header_table_bytes: 4096,
            max_concurrent_streams: 200,
            extended_connect: false,
            encoder_table_bytes: 4096,
            assumed_concurrent_streams: 100,
            send_frame_bytes: 16 * 1024,
            output_bytes: 256 * 1024,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_list_bytes: 60 * 1024,
            header_fields: 100,
            header_block_bytes: 64 * 1024,
            continuations: 16,
            memory_bytes: 2 * 1024 * 1024,
            backlog_bytes: 64 * 1024,
            resets: Rate {
                burst: 1000,
                per_second: 33,
                per_work: 1,
            },
            settings: Rate {
                burst: 100,
                per_second: 1,
                per_work: 0,
            },
            pings: Rate {
                burst: 1000,
                per_second: 10,
                per_work: 1,
            },
            empty_frames: Rate {
                burst: 100,
                per_second: 10,
                per_work: 1,
            },
            idle_frames: Rate {
                burst: 1000,
                per_second: 33,
                per_work: 1,
            },
            window_updates: Rate {
                burst: 10_000,
                per_second: 100,
                per_work: 10,
            },
        }
    }
}
