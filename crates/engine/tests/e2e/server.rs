//! A blocking h2c server on the engine: one thread a connection, prior knowledge.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use waymark_engine::WriteBuf;
use waymark_engine::h2::{Config, Connection};

use crate::echo::Echo;

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

fn serve(mut socket: TcpStream, config: Arc<Config>) {
    socket.set_nodelay(true).unwrap();
    let mut out = WriteBuf::new();
    let mut conn = Connection::server(config, &mut out);
    let mut echo = Echo::default();
    let mut buffer = vec![0; 64 * 1024];
    let mut count = 0;
    loop {
        let going_on = echo.turn(&mut conn, &buffer[..count], &mut out).is_ok();
        count = 0;
        if socket.write_all(out.unsent()).is_err() {
            return;
        }
        let sent = !out.is_empty();
        out.advance(out.len());
        if !going_on {
            // Reading to the end keeps the GOAWAY from being lost to a reset.
            let _ = socket.shutdown(Shutdown::Write);
            while matches!(socket.read(&mut buffer), Ok(1..)) {}
            return;
        }
        if sent {
            // What waited for room in the output may go on.
            continue;
        }
        match socket.read(&mut buffer) {
            Ok(read @ 1..) => count = read,
            Ok(0) | Err(_) => return,
        }
    }
}
