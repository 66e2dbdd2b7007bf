//! h2spec, all of it, strictly.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use waymark_driver::h2::{Options, Request, ServerConnection};
use waymark_driver::io::{finish, put_all, read_to_end};
use waymark_driver::{Executor, Level, Socket, Tasks, TcpListener, TcpStream};
use waymark_engine::Head;
use waymark_engine::h2::{Config, End};

#[test]
fn h2spec_passes_every_case_strictly() {
    let Some(h2spec) = installed() else {
        assert!(std::env::var_os("CI").is_none(), "no h2spec");
        return;
    };
    let address = start();
    let output = Command::new(h2spec)
        .args(["--strict", "--timeout", "2", "--host"])
        .arg(address.ip().to_string())
        .args(["--port", &address.port().to_string()])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let totals = report
        .lines()
        .rev()
        .find(|line| line.contains(" tests, "))
        .unwrap_or_default();
    assert!(
        output.status.success() && totals.contains(" 0 skipped, 0 failed"),
        "{report}"
    );
}

/// A server that lives as long as the test process: it greets whoever asks.
fn start() -> SocketAddr {
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
                    if let Ok(socket) = Socket::plain(tcp) {
                        serve(socket).await;
                    }
                });
            }
        });
    });
    address.recv().unwrap()
}

async fn serve(socket: Socket) {
    let options = Options {
        writer: Level::SocketWriter,
        keep_alive: None,
    };
    let mut server = ServerConnection::new(socket, Arc::new(Config::default()), options);
    let tasks = Tasks::new();
    while let Ok(request) = server.accept().await {
        // What breaks off is what h2spec is about.
        tasks.spawn("greeting", async move {
            let _ = greet(request).await;
        });
    }
}

async fn greet(mut request: Request) -> std::io::Result<()> {
    let stream = &mut request.stream;
    read_to_end(stream, 1 << 20).await?;
    let head = Head::response(200);
    stream
        .send_response(head.wire_fields(), End::No)
        .map_err(std::io::Error::other)?;
    put_all(stream, b"hello from the multiplexer\n").await?;
    finish(stream).await
}

/// The program, which the engine's tests build into a cache outside the checkout.
fn installed() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = var("WAYMARK_CACHE").unwrap_or_else(|| {
        var("XDG_CACHE_HOME")
            .or_else(|| var("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("waymark")
    });
    Some(cache.join("h2spec-2.2.1/h2spec")).filter(|program| program.exists())
}
