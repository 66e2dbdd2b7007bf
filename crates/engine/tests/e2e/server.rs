//! A blocking h2c server on the engine: one thread a connection, prior knowledge.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use waymark_engine::h2::{Config, Connection, End, Event, StreamRef};
use waymark_engine::{Field, Head, WriteBuf};

/// What `/` says.
pub(crate) const GREETING: &[u8] = b"hello from the engine\n";

/// A server that lives as long as the test process.
pub(crate) fn start(config: Config) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || serve(socket, config));
        }
    });
    address
}

/// What of a stream's answer is still to be sent.
#[derive(Default)]
struct Answer {
    body: Vec<u8>,
    end: bool,
    /// Whether the body is what the peer sent, which is to be consumed.
    echoes: bool,
}

fn serve(mut socket: TcpStream, config: Arc<Config>) {
    socket.set_nodelay(true).unwrap();
    let mut out = WriteBuf::new();
    let mut conn = Connection::server(config, &mut out);
    let mut answers: HashMap<StreamRef, Answer> = HashMap::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if socket.write_all(out.unsent()).is_err() {
            return;
        }
        out.advance(out.len());
        // What waited for the output may go on.
        if turn(&mut conn, &[], &mut out, &mut answers) && !out.is_empty() {
            continue;
        }
        let Ok(count @ 1..) = socket.read(&mut buffer) else {
            return;
        };
        if !turn(&mut conn, &buffer[..count], &mut out, &mut answers) {
            let _ = socket.write_all(out.unsent());
            let _ = socket.shutdown(std::net::Shutdown::Write);
            // Reading to the end keeps the GOAWAY from being lost to a reset.
            while matches!(socket.read(&mut buffer), Ok(1..)) {}
            return;
        }
    }
}

/// Handles `input`; false when the connection has failed.
fn turn(
    conn: &mut Connection,
    mut input: &[u8],
    out: &mut WriteBuf,
    answers: &mut HashMap<StreamRef, Answer>,
) -> bool {
    loop {
        let stream = match conn.recv(&mut input, out, Instant::now()) {
            Err(_) => return false,
            Ok(None) => return true,
            Ok(Some(Event::Head { stream, end })) => {
                let echoes = conn.head().path() == Some(b"/echo");
                let answer = answers.entry(stream).or_default();
                answer.echoes = echoes;
                if echoes || end {
                    begin(conn, stream, answer, end, out);
                }
                stream
            }
            Ok(Some(Event::Data { stream, data, end })) => {
                let answer = answers.entry(stream).or_default();
                if answer.echoes {
                    answer.body.extend_from_slice(data);
                    answer.end = end;
                } else {
                    conn.consume(stream, data.len(), out);
                    if end {
                        begin(conn, stream, answer, end, out);
                    }
                }
                stream
            }
            Ok(Some(Event::Trailers { stream })) => {
                let answer = answers.entry(stream).or_default();
                begin(conn, stream, answer, true, out);
                stream
            }
            Ok(Some(Event::Reset { stream, .. })) => {
                answers.remove(&stream);
                continue;
            }
            Ok(Some(Event::Writable { stream })) => stream,
            Ok(Some(
                Event::Informational { .. }
                | Event::Settings
                | Event::Pong { .. }
                | Event::GoAway { .. },
            )) => continue,
        };
        flush(conn, stream, answers, out);
    }
}

fn begin(
    conn: &mut Connection,
    stream: StreamRef,
    answer: &mut Answer,
    end: bool,
    out: &mut WriteBuf,
) {
    let mut head = Head::response(200);
    head.push(Field::new(b"server", b"waymark"));
    let _ = conn.send_response(stream, head.wire_fields(), End::No, out);
    if !answer.echoes {
        answer.body = GREETING.to_vec();
    }
    answer.end = end;
}

fn flush(
    conn: &mut Connection,
    stream: StreamRef,
    answers: &mut HashMap<StreamRef, Answer>,
    out: &mut WriteBuf,
) {
    let Some(answer) = answers.get_mut(&stream) else {
        return;
    };
    if answer.body.is_empty() && !answer.end {
        return;
    }
    let sent = conn
        .send_data(stream, &answer.body, End::from(answer.end), out)
        .unwrap_or(answer.body.len());
    if answer.echoes {
        conn.consume(stream, sent, out);
    }
    answer.body.drain(..sent);
    if answer.body.is_empty() && answer.end {
        answers.remove(&stream);
    }
}
