use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tracing::debug;
use waymark_rt::{Listener, Tasks};

use super::{Admin, Role};

/// For a request's head; nobody who asks needs longer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers requests until it is dropped. Request bodies are not read.
pub async fn serve(admin: Admin, role: Role, mut listener: Listener) {
    let connections = Tasks::new();
    loop {
        let (stream, peer) = listener.accept().await;
        let admin = admin.clone();
        connections.spawn("admin connection", async move {
            let service = service_fn(|request: hyper::Request<Incoming>| {
                let uri = request.uri();
                let answer = admin.answer(role, request.method(), uri.path(), uri.query());
                async move { Ok::<_, Infallible>(answer) }
            });
            let mut server = http1::Builder::new();
            server
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                debug!(%peer, %error, "admin connection");
            }
        });
    }
}
