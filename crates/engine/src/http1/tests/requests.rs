//! The table of what is refused and what becomes of what isn't. Measured on Envoy 1.40, unless a comment says that it is stricter
//! on purpose.

use std::sync::Arc;

use super::super::{
    BodyLength, Client, Http10, Limits, Refusal, Server, ServerConfig, ServerEof, ServerEvent,
    Underscores,
};

/// What becomes of the bytes: a refusal, or what is sent on, with `|` for CR LF.
#[derive(Debug, PartialEq, Eq)]
enum Want {
    No(Refusal),
    Yes(&'static str),
    /// What is sent on, then a refusal.
    YesNo(&'static str, Refusal),
}
use Refusal as R;
use Want::{No, Yes, YesNo};

/// Everything that a server accepts of `input`, as a client sends it on, and what ended it.
fn pass_on(config: &Arc<ServerConfig>, input: &[u8], piece: usize) -> (Vec<u8>, Option<Refusal>) {
    let mut server = Server::new(Arc::clone(config));
    let mut client = Client::new(Limits::UPSTREAM);
    let (mut upstream, mut downstream, mut body) = (Vec::new(), Vec::new(), Vec::new());
    let (mut at, mut end) = (0, 0);
    loop {
        let got = server.recv(&input[at..end]);
        let here = at;
        at += got.consumed;
        match got.event {
            ServerEvent::Head => {
                client = Client::new(Limits::UPSTREAM);
                let length = server.request().body;
                client.send(server.head(), length, &mut upstream).unwrap();
            }
            ServerEvent::Body(range) => {
                body.extend_from_slice(&input[here + range.start..here + range.end]);
            }
            ServerEvent::Trailers => {}
            ServerEvent::End => {
                client.write(&body, &mut upstream).unwrap();
                body.clear();
                client.finish(None, &mut upstream).unwrap();
                let head = crate::Head::response(204);
                let length = BodyLength::None;
                server.respond(&head, length, &mut downstream).unwrap();
                server.finish(None, &mut downstream).unwrap();
            }
            ServerEvent::Refused(refusal) => return (upstream, Some(refusal)),
            ServerEvent::NeedMore if end < input.len() => end = (end + piece).min(input.len()),
            ServerEvent::NeedMore => {
                assert_eq!(server.eof(), ServerEof::Clean, "{}", input.escape_ascii());
                return (upstream, None);
            }
            ServerEvent::Closed => return (upstream, None),
            ServerEvent::Busy | ServerEvent::Raw(_) => panic!("{:?}", got.event),
        }
    }
}

fn check(config: ServerConfig, cases: &[(&[u8], Want)]) {
    let config = Arc::new(config);
    for (input, want) in cases {
        for piece in [1, 5, input.len().max(1)] {
            let (upstream, refusal) = pass_on(&config, input, piece);
            let text = String::from_utf8_lossy(&upstream).replace("\r\n", "|");
            let (want_text, want_refusal) = match want {
                No(refusal) => ("", Some(*refusal)),
                Yes(text) => (*text, None),
                YesNo(text, refusal) => (*text, Some(*refusal)),
            };
            let name = input.escape_ascii();
            assert_eq!(text, want_text, "{name} by {piece}");
            assert_eq!(refusal, want_refusal, "{name} by {piece}");
        }
    }
}

#[test]
#[rustfmt::skip] // a case a line
fn what_frames_a_request_is_beyond_doubt() {
    check(
        ServerConfig::default(),
        &[
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", Yes("POST / HTTP/1.1|host: a|content-length: 2||hi")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \t2 \t\r\n\r\nhi", Yes("POST / HTTP/1.1|host: a|content-length: 2||hi")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0002\r\n\r\nhi", Yes("POST / HTTP/1.1|host: a|content-length: 2||hi")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 00\r\n\r\n", Yes("POST / HTTP/1.1|host: a|content-length: 0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n 2\r\n\r\nhi", Yes("POST / HTTP/1.1|host: a|content-length: 2||hi")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\ncontent-LENGTH: 3\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n 2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2;\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2.0\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: two\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \xd9\xa2\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\nhi", No(R::ContentLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r0\r\n\r\nhi", No(R::Field)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\nhi", No(R::Field)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length\t: 2\r\n\r\nhi", No(R::Field)),
            (b"POST / HTTP/1.1\r\nHost: a\r\n Content-Length: 2\r\n\r\nhi", No(R::Authority)), // goes on with Host
            (b"POST / HTTP/1.1\r\nHost: a\r\nX: b\r\n Content-Length: 2\r\n\r\n", Yes("POST / HTTP/1.1|host: a|x: b Content-Length: 2|content-length: 0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Yes("POST / HTTP/1.1|host: a|transfer-encoding: chunked||2|hi|0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ChunKED\t\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Yes("POST / HTTP/1.1|host: a|transfer-encoding: chunked||2|hi|0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Yes("POST / HTTP/1.1|host: a|transfer-encoding: chunked||2|hi|0||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Yes("GET / HTTP/1.1|host: a|transfer-encoding: chunked||0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", No(R::AmbiguousLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", No(R::AmbiguousLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", No(R::AmbiguousLength)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;x\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", No(R::Characters)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunk\red\r\n\r\n0\r\n\r\n", No(R::Field)), // stricter
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", No(R::Field)),
            (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n", Yes("POST / HTTP/1.1|host: a|transfer_encoding: chunked|content-length: 0||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 2\r\n\r\nhi", Yes("POST / HTTP/1.1|host: a|content-length: 2||hi")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", Yes("POST / HTTP/1.1|host: a|transfer-encoding: chunked||2|hi|0||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", Yes("GET / HTTP/1.1|host: a|content-length: 2||hi")),
        ],
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn chunks_are_read_strictly_and_written_anew() {
    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    const SENT: &str = "POST / HTTP/1.1|host: a|transfer-encoding: chunked||";
    let cases: &[(&[u8], Result<&str, Refusal>)] = &[
        (b"2;a=b\r\nhi\r\n0\r\n\r\n", Ok("2|hi|0||")),
        (b"2;a=\"x;y\"\r\nhi\r\n0;z\r\n\r\n", Ok("2|hi|0||")),
        (b"2 ; a\r\nhi\r\n0\r\n\r\n", Ok("2|hi|0||")),
        (b"00002\r\nhi\r\n000\r\n\r\n", Ok("2|hi|0||")),
        (b"0A\r\n0123456789\r\n0\r\n\r\n", Ok("a|0123456789|0||")),
        (b"2\r\nhi\r\n0\r\nx-t: 1\r\n\r\n", Ok("2|hi|0||")),
        (b"2\r\nhi\r\n0\r\nContent-Length: 1\r\nHost: b\r\n\r\n", Ok("2|hi|0||")),
        (b"2\r\nhi\r\n0\r\nx: 1\r\n y\r\n\r\n", Ok("2|hi|0||")),
        (b"2\r\nhi\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\n", Ok("2|hi|0||GET /2 HTTP/1.1|host: b||")),
        (b"2\r\nhi\r\n0\r\nx t: 1\r\n\r\n", Err(R::Field)),
        (b"2\r\nhi\r\n0\r\nxt\r\n\r\n", Err(R::Field)),
        (b"2\r\nhi\r\n0\r\nx: a\0\r\n\r\n", Err(R::Characters)),
        (b"2\r\nhi\r\n0\r\nx: a\n\r\n", Err(R::Field)), // stricter
        (b"2\r\nhi\r\n0\r\n\n", Err(R::Field)),        // stricter
        (b"2\r\nhi\r\n0\n\n", Err(R::Chunk)),
        (b"2\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"2\r\nhi\n0\r\n\r\n", Err(R::Chunk)), // stricter
        (b"2;a\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"2;a\rb\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"2;a\0\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)), // stricter
        (b"2\rhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"2\r\nhi0\r\n\r\n", Err(R::Chunk)),
        (b"2\r\nhiX0\r\n\r\n", Err(R::Chunk)),
        (b" 2\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"0x2\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"+2\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"-2\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"2g\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
        (b"10000000000000002\r\nhi\r\n0\r\n\r\n", Err(R::Chunk)),
    ];
    let config = Arc::new(ServerConfig::default());
    for (body, want) in cases {
        let input = [HEAD.as_bytes(), body].concat();
        let (upstream, refusal) = pass_on(&config, &input, input.len());
        let name = body.escape_ascii();
        assert_eq!(refusal, want.err(), "{name}");
        let text = String::from_utf8(upstream).unwrap().replace("\r\n", "|");
        match want {
            Ok(sent) => assert_eq!(text, format!("{SENT}{sent}"), "{name}"),
            Err(_) => assert!(!text.contains("0||"), "{name}: {text} is complete"),
        }
    }
}

#[test]
#[rustfmt::skip] // a case a line
fn request_lines_and_targets() {
    check(
        ServerConfig::default(),
        &[
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"\r\n\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET /a?b=c&d HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET /a?b=c&d HTTP/1.1|host: a||")),
            (b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET //x HTTP/1.1|host: a||")),
            (b"GET /\"<>^`{|} HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET /\"<>^`{|} HTTP/1.1|host: a||")), // paths are normalized elsewhere
            (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("TRACE / HTTP/1.1|host: a||")),
            (b"OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("OPTIONS / HTTP/1.1|host: a|content-length: 0||")),
            (b"MSEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("MSEARCH / HTTP/1.1|host: a|content-length: 0||")),
            (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", Yes("DELETE / HTTP/1.1|host: a||")),
            (b"QUERY / HTTP/1.1\r\nHost: a\r\nContent-Type: b\r\n\r\n", Yes("QUERY / HTTP/1.1|host: a|content-type: b|content-length: 0||")),
            (b"QUERY / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::QueryContentType)),
            (b"GET http://b/x?q HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET /x?q HTTP/1.1|host: b||")),
            (b"GET http://b:80/ HTTP/1.1\r\n\r\n", Yes("GET / HTTP/1.1|host: b:80||")),
            (b"GET HTTPS://b HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET / HTTP/1.1|host: b||")),
            (b"GET http://b?x HTTP/1.1\r\nHost: a\r\n\r\n", No(R::AbsolutePath)),
            (b"GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", No(R::RepeatedHost)),
            (b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Url)), // stricter
            (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Url)),
            (b"GET ftp://b/x HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Scheme)),
            (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", No(R::AbsolutePath)),
            (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET b/x HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Target)),
            (b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Characters)),
            (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Characters)),
            (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Characters)),
            (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Connect)),
            (b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Url)),
            (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),
            (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),
            (b"M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", No(R::Method)),
            (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),
            (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)), // stricter
            (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),  // stricter
            (b"GET\0 / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::Method)),
            (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", No(R::RequestLine)), // stricter
            (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", No(R::RequestLine)), // stricter
            (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", No(R::RequestLine)), // stricter
            (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / http/1.1\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTPS/1.1\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTP/1\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / FOO\r\nHost: a\r\n\r\n", No(R::RequestLine)),
            (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", No(R::LowVersion)),
            (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", No(R::LowVersion)),
            (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", No(R::LowVersion)),
            (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", No(R::LowVersion)),
            (b"GET /\r\nHost: a\r\n\r\n", No(R::LowVersion)),
            (b"\x16\x03\x01\x02\x00", No(R::Method)),
        ],
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn hosts_and_fields() {
    check(
        ServerConfig::default(),
        &[
            (b"GET / HTTP/1.1\r\n\r\n", No(R::MissingHost)),
            (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Yes("GET / HTTP/1.1|host: ||")),
            (b"GET / HTTP/1.1\r\nX: y\r\nhOsT: A.b:8080\r\n\r\n", Yes("GET / HTTP/1.1|host: A.b:8080|x: y||")),
            (b"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Yes("GET / HTTP/1.1|host: [::1]:80||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", No(R::RepeatedHost)), // stricter
            (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", No(R::RepeatedHost)), // stricter
            (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", No(R::Authority)), // stricter
            (b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", No(R::Authority)),
            (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", No(R::Field)), // stricter
            (b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", No(R::MissingHost)),
            (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX:  a\t b \r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: a\t b||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: ||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX-FoO: BaR\r\nx-foo: 2\r\nA: 1\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x-foo: BaR|x-foo: 2|a: 1||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\na!#$%&'*+-.^_`|~z: 1\r\n\r\n", Yes("GET / HTTP/1.1|host: a|a!#$%&'*+-.^_`|~z: 1||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: ab||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a \r\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb \r\n  c\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: a b c||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n \r\nY: b\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: a|y: b||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n a\r\n \r\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: a||")),
            (b"GET / HTTP/1.1\nHost: a\nX: b\n\n", Yes("GET / HTTP/1.1|host: a|x: b||")),
            (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\n", Yes("GET / HTTP/1.1|host: a|x: b||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n \x0b\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", No(R::Characters)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX\t: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX Y: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX(: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX\x80: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\"X\": a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n:path: /b\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\rX: a\r\n\r\n", No(R::Field)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nfoo bar\r\n\r\n", YesNo("GET / HTTP/1.1|host: a||", R::Method)),
            (b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPUT /2 HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: c\r\n\r\n", Yes("GET /1 HTTP/1.1|host: a||PUT /2 HTTP/1.1|host: b|content-length: 1||xGET /3 HTTP/1.1|host: c||")),
        ],
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn what_belongs_to_the_connection_stays_there() {
    check(
        ServerConfig::default(),
        &[
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Foo\r\nx-foo: 1\r\nx-b: 2\r\nKeep-Alive: 3\r\nProxy-Connection: close\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x-b: 2||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a\r\nConnection: ,, b\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n", Yes("GET / HTTP/1.1|host: a|c: 3||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers\r\nx: 1\r\n\r\n", Yes("GET / HTTP/1.1|host: a|x: 1|te: trailers||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nTE: trailers\r\n\r\n", Yes("GET / HTTP/1.1|host: a|te: trailers||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTE: gzip, trailers;q=0.5\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\nVia: v\r\nProxy-Authorization: p\r\nForwarded: f\r\n\r\n", Yes("GET / HTTP/1.1|host: a|trailer: x|via: v|proxy-authorization: p|forwarded: f||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: cookie, authorization\r\nCookie: a\r\nAuthorization: b\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-for\r\nx-forwarded-for: 1\r\n\r\n", No(R::Connection)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-Host\r\n\r\n", No(R::Connection)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-forwarded-proto\r\n\r\n", No(R::Connection)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: :path\r\n\r\n", No(R::Connection)),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e,f,g,h,i,j\r\n\r\n", No(R::Connection)),
            (b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: CLOSE\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n", Yes("GET /1 HTTP/1.1|host: a||")),
            (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", Yes("POST / HTTP/1.1|host: a|expect: 100-continue|content-length: 1||x")),
        ],
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn underscores_as_configured() {
    const INPUT: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n 2\r\nz: 3_\r\n\r\n";
    for (underscores, want) in [
        (Underscores::Allow, Yes("GET / HTTP/1.1|host: a|x_y: 1 2|z: 3_||")),
        (Underscores::Drop, Yes("GET / HTTP/1.1|host: a|z: 3_||")),
        (Underscores::Reject, No(R::Underscore)),
    ] {
        let config = ServerConfig {
            underscores,
            ..ServerConfig::default()
        };
        check(config, &[(INPUT, want)]);
    }
}

#[test]
#[rustfmt::skip] // a case a line
fn http10_as_configured() {
    let with = |host: Option<&str>| ServerConfig {
        http10: Http10::Accept {
            default_host: host.map(Into::into),
        },
        ..ServerConfig::default()
    };
    check(
        with(None),
        &[
            (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.0\r\n\r\n", No(R::MissingHost)),
            (b"GET /1 HTTP/1.0\r\nHost: a\r\n\r\nGET /2 HTTP/1.0\r\nHost: a\r\n\r\n", Yes("GET /1 HTTP/1.1|host: a||")),
            (b"GET /1 HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\nHost: a\r\n\r\n", Yes("GET /1 HTTP/1.1|host: a||GET /2 HTTP/1.1|host: a||")),
            (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", No(R::TransferEncoding)), // stricter
            (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", No(R::LowVersion)),
        ],
    );
    check(
        with(Some("d")),
        &[
            (b"GET / HTTP/1.0\r\n\r\n", Yes("GET / HTTP/1.1|host: d||")),
            (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", Yes("GET / HTTP/1.1|host: a||")),
            (b"GET / HTTP/1.1\r\n\r\n", No(R::MissingHost)),
        ],
    );
}

#[test]
#[rustfmt::skip] // a case a line
fn limits_hold_however_the_bytes_come() {
    let config = Arc::new(ServerConfig::default());
    let outcome = |input: &[u8]| {
        let whole = pass_on(&config, input, input.len()).1;
        for piece in [1, 4096] {
            assert_eq!(pass_on(&config, input, piece).1, whole);
        }
        whole
    };
    let target = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len));
    let value = |len: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(len));
    let count = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(count));
    let fold = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n{}\r\n", " z\r\n".repeat(count));
    assert_eq!(outcome(target(20_000).as_bytes()), None);
    assert_eq!(outcome(target(61_400).as_bytes()), None);
    assert_eq!(outcome(target(61_440).as_bytes()), Some(R::TooLarge));
    assert_eq!(outcome(value(61_400).as_bytes()), None);
    assert_eq!(outcome(value(61_440).as_bytes()), Some(R::TooLarge));
    assert_eq!(outcome("a".repeat(70_000).as_bytes()), Some(R::Method));
    assert_eq!(outcome(format!("GET /{}", "a".repeat(70_000)).as_bytes()), Some(R::TooLarge));
    assert_eq!(outcome(count(99).as_bytes()), None);
    assert_eq!(outcome(count(100).as_bytes()), Some(R::TooManyFields));
    assert_eq!(outcome(fold(10_000).as_bytes()), None);
    assert_eq!(outcome(fold(40_000).as_bytes()), Some(R::TooLarge));
    assert_eq!(outcome("\r\n".repeat(70_000).as_bytes()), Some(R::TooLarge));
    let trailers = |lines: usize| {
        let lines = "x: y\r\n".repeat(lines);
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{lines}\r\n")
    };
    assert_eq!(outcome(trailers(100).as_bytes()), None);
    assert_eq!(outcome(trailers(101).as_bytes()), Some(R::TooManyFields));
    assert!(config.refusals.of(R::TooManyFields) >= 2);
}

#[test]
#[rustfmt::skip] // a case a line
fn refusals_say_what_envoy_says() {
    for (refusal, status, details, body, closes, flag) in [
        (R::LowVersion, 426, "low_version", "Upgrade Required", true, "DPE"),
        (R::MissingHost, 400, "missing_host_header", "", true, "-"),
        (R::Authority, 400, "http.invalid_authority", "Bad Request", true, "DPE"),
        (R::AbsolutePath, 404, "absolute_path_rejected", "", false, "-"),
        (R::Target, 400, "http1.codec_error", "Bad Request", true, "DPE"),
        (R::Method, 400, "http1.codec_error", "Bad Request", true, "DPE"),
        (R::Connect, 404, "route_not_found", "", true, "NR"),
        (R::AmbiguousLength, 400, "http1.content_length_and_chunked_not_allowed", "Bad Request", true, "DPE"),
        (R::Characters, 400, "http1.invalid_characters", "Bad Request", true, "DPE"),
        (R::TransferEncoding, 501, "http1.invalid_transfer_encoding", "Not Implemented", true, "DPE"),
        (R::TooLarge, 431, "http1.headers_too_large", "Request Header Fields Too Large", true, "DPE"),
        (R::TooManyFields, 431, "http1.too_many_headers", "Request Header Fields Too Large", true, "DPE"),
        (R::Underscore, 400, "http1.unexpected_underscore", "Bad Request", true, "DPE"),
        (R::Connection, 400, "http1.connection_header_rejected", "Bad Request", true, "DPE"),
        (R::QueryContentType, 400, "query_missing_content_type", "", true, "-"),
    ] {
        let got = (refusal.status(), refusal.details(), refusal.body(), refusal.closes(), refusal.flag());
        assert_eq!(got, (status, details, body, closes, flag), "{refusal:?}");
    }
}
