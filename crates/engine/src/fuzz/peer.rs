//! One end against a peer that says anything.

use std::sync::Arc;
use std::time::Instant;

use crate::h2::{Config, Connection, End, Event, Limits};
use crate::{Field, Head, WriteBuf};

use super::Choices;

/// Feeds the input to a server that answers requests with what they bring; the preface and SETTINGS come before it.
pub fn fuzz_server(input: &[u8]) {
    let (choices, wire) = input.split_at(input.len().min(8));
    let mut out = WriteBuf::new();
    let conn = Connection::server(Arc::new(config()), &mut out);
    let mut start = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    start.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    run(conn, out, &start, wire, Choices(choices));
}

/// Feeds the input to a client that made some requests; SETTINGS comes before it.
pub fn fuzz_client(input: &[u8]) {
    let (choices, wire) = input.split_at(input.len().min(8));
    let mut out = WriteBuf::new();
    let mut conn = Connection::client(Arc::new(config()), &mut out);
    for method in [b"GET".as_slice(), b"HEAD", b"POST"] {
        let mut head = Head::request(method);
        head.set_scheme(b"http");
        head.set_authority(b"a");
        head.set_path(b"/");
        let _ = conn.send_request(head.wire_fields(), End::from(method != b"POST"), &mut out);
    }
    let mut tunnel = Head::request(b"CONNECT");
    tunnel.set_authority(b"127.0.0.1:80");
    let _ = conn.send_request(tunnel.wire_fields(), End::No, &mut out);
    run(
        conn,
        out,
        &[0, 0, 0, 4, 0, 0, 0, 0, 0],
        wire,
        Choices(choices),
    );
}

fn config() -> Config {
    Config {
        stream_window_bytes: 1000,
        max_concurrent_streams: 10,
        output_bytes: 4000,
        limits: Limits {
            header_list_bytes: 2000,
            header_fields: 20,
            header_block_bytes: 20_000,
            ..Limits::default()
        },
        ..Config::default()
    }
}

fn run(
    mut conn: Connection,
    mut out: WriteBuf,
    start: &[u8],
    wire: &[u8],
    mut choices: Choices<'_>,
) {
    let now = Instant::now();
    let slice = 1 + choices.pick(200);
    let flushes = choices.flag();
    let consumes = choices.flag();
    for piece in std::iter::once(start).chain(wire.chunks(slice)) {
        let mut input = piece;
        loop {
            match conn.recv(&mut input, &mut out, now) {
                Ok(Some(event)) => react(&mut conn, event, consumes, &mut out),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(conn.recv(&mut input, &mut out, now), Err(error));
                    return;
                }
            }
            conn.assert_consistent();
        }
        assert!(input.is_empty(), "input that wasn't read");
        assert!(conn.memory() < 256 * 1024, "{} bytes", conn.memory());
        assert!(out.len() < 128 * 1024, "{} bytes unsent", out.len());
        if flushes {
            out.advance(out.len());
        }
    }
}

fn react(conn: &mut Connection, event: Event<'_>, consumes: bool, out: &mut WriteBuf) {
    match event {
        Event::Head { stream, end } => {
            let _ = conn.head().authority();
            let mut head = Head::response(200);
            head.push(Field::new(
                b"x-echo",
                conn.head().get(b"x-echo").unwrap_or_default(),
            ));
            let _ = conn.send_response(stream, head.wire_fields(), End::from(end), out);
        }
        Event::Data { stream, data, end } => {
            let _ = conn.send_data(stream, data, End::from(end), out);
            if consumes {
                conn.consume(stream, data.len(), out);
            }
        }
        Event::Trailers { stream } => {
            let _ = conn.send_trailers(stream, [Field::new(b"x", b"y")], out);
        }
        Event::Writable { stream } => {
            let _ = conn.send_data(stream, &[0; 3000], End::No, out);
        }
        Event::Reset { stream, .. } => {
            assert!(conn.streams().all(|living| living != stream));
        }
        Event::Informational { .. }
        | Event::Settings
        | Event::Pong { .. }
        | Event::GoAway { .. } => {}
    }
}
