//! Connections over streams in memory: ours with ours, and ours with the h2 crate.

mod ends;
mod flow;
mod messages;
mod peers;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use waymark_engine::Head;
use waymark_engine::h2::{Config, End};

use crate::io::{PairEnd, finish, pair, put_all, read_to_end};
use crate::{Executor, Level, Tasks, timeout};

use super::*;

const OPTIONS: Options = Options {
    writer: Level::SocketWriter,
    keep_alive: None,
};

/// Runs a test on an executor of its own, with a limit.
fn run<F: Future>(test: F) -> F::Output {
    let mut executor = Executor::new().unwrap();
    let output = executor.block_on(timeout(Duration::from_secs(20), test));
    assert_eq!(executor.panicked(), 0);
    output.unwrap()
}

/// A client and a server of ours.
fn connected(config: Config) -> (ClientConnection, ServerConnection) {
    let (one, other) = pair(64 * 1024);
    let config = Arc::new(config);
    let client = ClientConnection::new(one, Arc::clone(&config), OPTIONS);
    (client, ServerConnection::new(other, config, OPTIONS))
}

fn server(io: PairEnd, config: Config) -> ServerConnection {
    ServerConnection::new(io, Arc::new(config), OPTIONS)
}

fn connect() -> Head {
    let mut head = Head::request(b"CONNECT");
    head.set_authority(b"10.0.0.1:80");
    head
}

fn tunnel(client: &ClientConnection) -> Stream {
    client.open(connect().wire_fields(), End::No).unwrap()
}

fn ok(stream: &mut Stream, end: End) {
    stream
        .send_response(Head::response(200).wire_fields(), end)
        .unwrap();
}

/// Opens a tunnel and accepts it.
async fn open(client: &ClientConnection, server: &mut ServerConnection) -> (Stream, Stream) {
    let mut ours = tunnel(client);
    let mut theirs = server.accept().await.unwrap().stream;
    ok(&mut theirs, End::No);
    let response = ours.response().await.unwrap();
    assert_eq!(response.head.status(), Some(200));
    (ours, theirs)
}

/// Accepts streams and sends back what they say.
async fn echo_all(mut server: ServerConnection) -> ConnectionEnd {
    let tasks = Tasks::new();
    loop {
        match server.accept().await {
            Ok(mut request) => tasks.spawn("echo", async move {
                ok(&mut request.stream, End::No);
                let _ = echo(&mut request.stream).await;
            }),
            Err(end) => {
                tasks.finished().await;
                return end;
            }
        }
    }
}

async fn echo(stream: &mut Stream) -> std::io::Result<()> {
    loop {
        let chunk = chunk(stream).await?;
        if chunk.is_empty() {
            return finish(stream).await;
        }
        put_all(stream, &chunk).await?;
    }
}

/// Takes what has come.
async fn chunk(stream: &mut Stream) -> std::io::Result<Vec<u8>> {
    use crate::Io;
    let chunk = std::future::poll_fn(|cx| stream.poll_fill(cx).map_ok(<[u8]>::to_vec)).await?;
    stream.consume(chunk.len());
    Ok(chunk)
}

/// Takes exactly this.
async fn expect(stream: &mut Stream, wanted: &[u8]) {
    use crate::Io;
    let mut got = 0;
    while got < wanted.len() {
        let count = std::future::poll_fn(|cx| {
            stream.poll_fill(cx).map_ok(|bytes| {
                let count = bytes.len().min(wanted.len() - got);
                assert_eq!(&bytes[..count], &wanted[got..got + count]);
                count
            })
        })
        .await
        .unwrap();
        assert!(count > 0, "ended after {got} bytes");
        stream.consume(count);
        got += count;
    }
}

async fn all(stream: &mut Stream) -> Vec<u8> {
    read_to_end(stream, 1 << 26).await.unwrap()
}
