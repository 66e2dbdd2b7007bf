//! Whether a waypoint says that it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use waymark_rt::{ConnectOptions, connect};

/// Asks again and again, and tells when the answer changes. Ends when nobody listens.
pub(super) async fn watch_readiness(addr: SocketAddr, ready: watch::Sender<bool>) {
    let mut failures = 0;
    let mut pause = EAGER;
    while !ready.is_closed() {
        if is_ready(addr).await {
            failures = 0;
            pause = CALM;
            ready.send_if_modified(|was| !std::mem::replace(was, true));
        } else {
            failures += 1;
            let was_ready = *ready.borrow();
            if was_ready && failures >= FAILURES {
                ready.send_replace(false);
            }
            pause = if was_ready {
                CALM
            } else {
                (pause.min(PATIENT) * 3 / 2).min(PATIENT)
            };
        }
        tokio::time::sleep(pause).await;
    }
}

/// `GET /healthz/ready` answers 200 within a second.
async fn is_ready(addr: SocketAddr) -> bool {
    tokio::time::timeout(TIMEOUT, ask(addr))
        .await
        .ok()
        .flatten()
        == Some(StatusCode::OK)
}

async fn ask(addr: SocketAddr) -> Option<StatusCode> {
    let options = ConnectOptions {
        timeout: TIMEOUT,
        keepalive: None,
        ..ConnectOptions::default()
    };
    let stream = connect(addr, &options).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/healthz/ready")
        .header("host", addr.to_string())
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = async { Some(sender.send_request(request).await.ok()?.status()) };
    tokio::pin!(answer);
    tokio::select! {
        status = &mut answer => status,
        // Over, perhaps in the very poll that read the answer.
        _ = connection => answer.await,
    }
}

const TIMEOUT: Duration = Duration::from_secs(1);
/// The first pause of a process that starts; it grows to [`PATIENT`].
const EAGER: Duration = Duration::from_millis(20);
const PATIENT: Duration = Duration::from_millis(200);
/// The pause of one that is ready.
const CALM: Duration = Duration::from_secs(1);
/// So many failures in a row, and it is not ready any more.
const FAILURES: u32 = 3;
