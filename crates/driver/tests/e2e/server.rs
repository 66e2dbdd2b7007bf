//! Servers that live as long as the test process: `/echo` gives back what it is sent, anything else is greeted.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;

use waymark_driver::h2::{self, Options, Request};
use waymark_driver::http1::{self, Incoming, Piece};
use waymark_driver::io::{finish, put_all, read_to_end};
use waymark_driver::{Executor, Level, Socket, Tasks, TcpListener, TcpStream};
use waymark_engine::h2::{Config, End};
use waymark_engine::http1::{After, BodyLength, ServerConfig};
use waymark_engine::{Field, Head};

/// What whoever does not want an echo gets.
pub(crate) const GREETING: &[u8] = b"hello from the multiplexer\n";
/// More than any test sends.
const LARGEST_BODY: usize = 8 << 20;

/// What a server speaks, in clear.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// Starts a server on a thread of its own.
pub(crate) fn start(protocol: Protocol) -> SocketAddr {
    let (told, address) = mpsc::channel();
    thread::spawn(move || {
        Executor::new().unwrap().block_on(async move {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut listener = TcpListener::from_std(listener).unwrap();
            told.send(listener.local_addr()).unwrap();
            let tasks = Tasks::new();
            loop {
                let accepted = listener.accept().await;
                tasks.spawn("connection", async move {
                    let tcp = TcpStream::adopt(accepted).unwrap();
                    let Ok(socket) = Socket::plain(tcp) else {
                        return;
                    };
                    match protocol {
                        // A client that breaks off sees to its own test.
                        Protocol::Http1 => drop(serve_http1(socket).await),
                        Protocol::Http2 => serve_http2(socket).await,
                    }
                });
            }
        });
    });
    address.recv().unwrap()
}

async fn serve_http2(socket: Socket) {
    let options = Options {
        writer: Level::SocketWriter,
        keep_alive: None,
    };
    let mut server = h2::ServerConnection::new(socket, Arc::new(Config::default()), options);
    let tasks = Tasks::new();
    while let Ok(request) = server.accept().await {
        // What breaks off is what h2spec is about.
        tasks.spawn("answer", async move {
            let _ = answer_http2(request).await;
        });
    }
}

async fn answer_http2(mut request: Request) -> io::Result<()> {
    let stream = &mut request.stream;
    let sent = read_to_end(stream, LARGEST_BODY).await?;
    let body = answer(&request.head, &sent);
    let mut head = Head::response(200);
    head.push(Field::new(b"content-type", b"application/octet-stream"));
    stream
        .send_response(head.wire_fields(), End::No)
        .map_err(io::Error::other)?;
    put_all(stream, body).await?;
    finish(stream).await
}

async fn serve_http1(socket: Socket) -> io::Result<()> {
    let mut server = http1::ServerConnection::new(socket, Arc::new(ServerConfig::default()));
    loop {
        match poll_fn(|cx| server.poll_request(cx)).await? {
            Incoming::Request => {}
            Incoming::Refused(_) | Incoming::End => return Ok(()),
        }
        if server.request().expects_continue {
            server
                .inform(&Head::response(100))
                .map_err(io::Error::other)?;
            poll_fn(|cx| server.poll_drain(cx)).await?;
        }
        let sent = body_http1(&mut server).await?;
        let body = answer(server.head(), &sent).to_vec();
        let length = BodyLength::Length(body.len() as u64);
        server
            .respond(&Head::response(200), length)
            .map_err(io::Error::other)?;
        let mut rest = &body[..];
        while !rest.is_empty() {
            let put = poll_fn(|cx| server.poll_write(rest, cx)).await?;
            rest = &rest[put..];
        }
        if server.finish(None).map_err(io::Error::other)? == After::Close {
            server.close().await;
            return Ok(());
        }
    }
}

async fn body_http1(server: &mut http1::ServerConnection<Socket>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let taken = poll_fn(|cx| {
            server.poll_body(cx).map_ok(|piece| match piece {
                Piece::Data(data) => {
                    body.extend_from_slice(data);
                    Some(data.len())
                }
                Piece::Trailers => Some(0),
                Piece::End => None,
            })
        });
        match taken.await.map_err(io::Error::other)? {
            Some(taken) => server.consume(taken),
            None => return Ok(body),
        }
    }
}

fn answer<'a>(head: &Head, sent: &'a [u8]) -> &'a [u8] {
    match head.path() {
        Some(b"/echo") => sent,
        Some(_) | None => GREETING,
    }
}
