//! Why a message is refused, and what is said about it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request is refused. Spec: l7-semantics.md 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// HTTP/1.0 where that isn't enabled, or any other version but 1.1.
    #[error("the version is not HTTP/1.1")]
    LowVersion,
    /// Not a method, a target and a version with single spaces between.
    #[error("the request line is none")]
    RequestLine,
    /// A method that isn't in the list.
    #[error("the method is unknown")]
    Method,
    /// A target that is neither a path nor a URI, or with characters that are not ASCII.
    #[error("the target is neither path nor URI")]
    Target,
    /// A URI without authority, with user information, or CONNECT to what is no authority.
    #[error("the target's authority is none")]
    Url,
    /// A URI that isn't http or https.
    #[error("the target's scheme is neither http nor https")]
    Scheme,
    /// No field line: bad name, white space before the colon, no colon, a continuation of nothing.
    #[error("a field line is none")]
    Field,
    /// Control characters.
    #[error("there are control characters in the head or the trailers")]
    Characters,
    /// Underscores in a name where those are refused.
    #[error("a field's name has an underscore")]
    Underscore,
    /// More bytes than the limit.
    #[error("head or trailers are too large")]
    TooLarge,
    /// More fields than the limit.
    #[error("head or trailers have too many fields")]
    TooManyFields,
    /// A Content-Length that is no number, or more than one.
    #[error("content-length is not one number")]
    ContentLength,
    /// Content-Length and Transfer-Encoding.
    #[error("content-length and transfer-encoding are both there")]
    AmbiguousLength,
    /// A Transfer-Encoding that isn't exactly `chunked`, or of an HTTP/1.0 request.
    #[error("transfer-encoding is not chunked")]
    TransferEncoding,
    /// The body isn't in the chunked coding.
    #[error("the body is not in chunks")]
    Chunk,
    /// A Host that is no authority.
    #[error("host is no authority")]
    Authority,
    /// Two Host fields. Envoy joins them, and nobody behind it can know which one was meant: a deliberate difference.
    #[error("host is repeated")]
    RepeatedHost,
    /// A Connection that nominates pseudo-header fields, fields that a proxy owns, or too many.
    #[error("connection nominates fields that it must not, or too many")]
    Connection,
    /// No Host, or a Connection that nominates it.
    #[error("host is missing")]
    MissingHost,
    /// `*` as target.
    #[error("the target is no path")]
    AbsolutePath,
    /// CONNECT, which has no route.
    #[error("there is no route for CONNECT")]
    Connect,
    /// QUERY without Content-Type.
    #[error("query has no content-type")]
    QueryContentType,
}

/// What a refusal looks like on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// As Envoy's codec replies: the reason phrase as text, flag `DPE`, always closing.
    Codec,
    /// As Envoy's connection manager replies: no body.
    Manager,
}

impl Refusal {
    /// All of them, in the order in which [`RefusalCounts`] has them.
    pub const ALL: [Self; 22] = [
        Self::LowVersion,
        Self::RequestLine,
        Self::Method,
        Self::Target,
        Self::Url,
        Self::Scheme,
        Self::Field,
        Self::Characters,
        Self::Underscore,
        Self::TooLarge,
        Self::TooManyFields,
        Self::ContentLength,
        Self::AmbiguousLength,
        Self::TransferEncoding,
        Self::Chunk,
        Self::Authority,
        Self::RepeatedHost,
        Self::Connection,
        Self::MissingHost,
        Self::AbsolutePath,
        Self::Connect,
        Self::QueryContentType,
    ];

    /// The status of the answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.answer().0
    }

    /// Envoy's `response_code_details`.
    #[must_use]
    pub const fn details(self) -> &'static str {
        self.answer().1
    }

    /// What the answer looks like.
    #[must_use]
    pub const fn kind(self) -> ReplyKind {
        match self {
            Self::MissingHost | Self::AbsolutePath | Self::Connect | Self::QueryContentType => {
                ReplyKind::Manager
            }
            Self::LowVersion
            | Self::RequestLine
            | Self::Method
            | Self::Target
            | Self::Url
            | Self::Scheme
            | Self::Field
            | Self::Characters
            | Self::Underscore
            | Self::TooLarge
            | Self::TooManyFields
            | Self::ContentLength
            | Self::AmbiguousLength
            | Self::TransferEncoding
            | Self::Chunk
            | Self::Authority
            | Self::RepeatedHost
            | Self::Connection => ReplyKind::Codec,
        }
    }

    /// Envoy's response flag.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match (self, self.kind()) {
            (Self::Connect, _) => "NR",
            (_, ReplyKind::Codec) => "DPE",
            (_, ReplyKind::Manager) => "-",
        }
    }

    /// The body of the answer.
    #[must_use]
    pub const fn body(self) -> &'static str {
        match self.kind() {
            ReplyKind::Codec => super::reason(self.status()),
            ReplyKind::Manager => "",
        }
    }

    /// Whether the connection ends with the answer.
    #[must_use]
    pub const fn closes(self) -> bool {
        !matches!(self, Self::AbsolutePath)
    }

    const fn answer(self) -> (u16, &'static str) {
        match self {
            Self::LowVersion => (426, "low_version"),
            Self::RequestLine
            | Self::Method
            | Self::Target
            | Self::Field
            | Self::ContentLength
            | Self::Chunk => (400, "http1.codec_error"),
            Self::Url => (400, "http1.invalid_url"),
            Self::Scheme => (400, "http1.invalid_scheme"),
            Self::Characters => (400, "http1.invalid_characters"),
            Self::Underscore => (400, "http1.unexpected_underscore"),
            Self::TooLarge => (431, "http1.headers_too_large"),
            Self::TooManyFields => (431, "http1.too_many_headers"),
            Self::AmbiguousLength => (400, "http1.content_length_and_chunked_not_allowed"),
            Self::TransferEncoding => (501, "http1.invalid_transfer_encoding"),
            Self::Authority | Self::RepeatedHost => (400, "http.invalid_authority"),
            Self::Connection => (400, "http1.connection_header_rejected"),
            Self::MissingHost => (400, "missing_host_header"),
            Self::AbsolutePath => (404, "absolute_path_rejected"),
            Self::Connect => (404, "route_not_found"),
            Self::QueryContentType => (400, "query_missing_content_type"),
        }
    }
}

/// How often each request was refused. Shared by the connections that share a configuration.
#[derive(Debug, Default)]
pub struct RefusalCounts([AtomicU64; Refusal::ALL.len()]);

impl RefusalCounts {
    /// How often for this reason.
    #[must_use]
    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0[refusal as usize].load(Ordering::Relaxed)
    }

    /// All reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().map(|r| (r, self.of(r)))
    }

    pub(super) fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a response can't be used. All but [`Closed`](Self::Closed) are protocol errors: 502 `UPE` before the head was relayed, a
/// reset after it. Spec: l7-semantics.md 3.1, upstream side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ResponseError {
    /// No status line.
    #[error("the status line is none")]
    StatusLine,
    /// A status below 100, or an informational one that nobody defined.
    #[error("the status is impossible")]
    Status,
    /// No field line.
    #[error("a field line is none")]
    Field,
    /// Control characters.
    #[error("there are control characters in the head or the trailers")]
    Characters,
    /// More bytes than the limit.
    #[error("head or trailers are too large")]
    TooLarge,
    /// More fields than the limit.
    #[error("head or trailers have too many fields")]
    TooManyFields,
    /// A Content-Length that is no number, or more than one.
    #[error("content-length is not one number")]
    ContentLength,
    /// Content-Length and Transfer-Encoding.
    #[error("content-length and transfer-encoding are both there")]
    AmbiguousLength,
    /// A Transfer-Encoding that isn't exactly `chunked`, or of an HTTP/1.0 response.
    #[error("transfer-encoding is not chunked")]
    TransferEncoding,
    /// A length where no body may be: informational, 204.
    #[error("a body is announced where none may be")]
    BodyNotAllowed,
    /// The body isn't in the chunked coding.
    #[error("the body is not in chunks")]
    Chunk,
    /// 101 that nobody asked for, or without Upgrade.
    #[error("the protocol is switched unasked")]
    Switch,
    /// More informational responses than the limit.
    #[error("there are too many informational responses")]
    TooManyInformational,
    /// Bytes although nothing was asked.
    #[error("bytes came unasked")]
    Unasked,
    /// The connection was closed amid a response.
    #[error("the connection was closed amid a response")]
    Truncated,
    /// The connection was closed before a response began.
    #[error("the connection was closed before a response")]
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_place_in_the_counts() {
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place);
        }
        let counts = RefusalCounts::default();
        counts.count(Refusal::QueryContentType);
        assert_eq!(counts.iter().map(|(_, n)| n).sum::<u64>(), 1);
        assert_eq!(counts.of(Refusal::QueryContentType), 1);
    }
}
