//! The destination of a waypoint: node proxy and application in one process. Accepts HBONE, answers HTTP in the tunnel.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use clap::Args;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::certs::{Ca, CertError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0";
const WINDOW: u32 = 16 << 20;

#[derive(Debug, Clone, Args)]
pub(crate) struct BackendArgs {
    /// Addresses to accept HBONE on.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Directory with ca-cert.pem, ca-key.pem, root-cert.pem.
    #[arg(long)]
    pub(crate) ca_dir: PathBuf,
    /// Own identity.
    #[arg(long, default_value = "spiffe://cluster.local/ns/bench/sa/backend")]
    pub(crate) identity: String,
    /// Bytes of a response body.
    #[arg(long, default_value_t = 1024)]
    pub(crate) bytes: usize,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error(transparent)]
    Certs(#[from] CertError),
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

pub(crate) async fn run(args: &BackendArgs) -> Result<(), BackendError> {
    let tls = Ca::load(&args.ca_dir)?.server(&args.identity)?;
    let answers = Arc::new(Answers::new(args.bytes));
    let mut accepting = tokio::task::JoinSet::new();
    for &address in &args.listen {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|e| BackendError::Listen(address, e))?;
        accepting.spawn(accept(
            listener,
            TlsAcceptor::from(Arc::clone(&tls)),
            Arc::clone(&answers),
        ));
    }
    while accepting.join_next().await.is_some() {}
    Ok(())
}

/// The responses, made once.
struct Answers {
    h1: Bytes,
    body: Bytes,
}

impl Answers {
    fn new(bytes: usize) -> Self {
        let body = Bytes::from(vec![b'x'; bytes]);
        let mut h1 = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\ncontent-type: text/plain\r\n\r\n"
        )
        .into_bytes();
        h1.extend_from_slice(&body);
        Self {
            h1: h1.into(),
            body,
        }
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, answers: Arc<Answers>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, tls.clone(), Arc::clone(&answers)));
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, answers: Arc<Answers>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(10_000)
        .max_send_buffer_size(WINDOW as usize);
    let Ok(mut h2) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = h2.accept().await {
        while streams.try_join_next().is_some() {}
        streams.spawn(tunnel(request, respond, Arc::clone(&answers)));
    }
}

async fn tunnel(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    answers: Arc<Answers>,
) {
    if request.method() != Method::CONNECT {
        let refused = Response::builder().status(StatusCode::BAD_REQUEST).body(());
        if let Ok(refused) = refused {
            let _ = respond.send_response(refused, true);
        }
        return;
    }
    let mut received = request.into_body();
    let Ok(mut send) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let mut buffer = BytesMut::new();
    let mut answered_h1 = false;
    while let Some(Ok(chunk)) = received.data().await {
        let _ = received.flow_control().release_capacity(chunk.len());
        buffer.extend_from_slice(&chunk);
        if !answered_h1 && buffer.starts_with(PREFACE) {
            return h2_inside(buffer.freeze(), received, send, answers).await;
        }
        while let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            answered_h1 = true;
            buffer.advance(end + 4);
            if send.send_data(answers.h1.clone(), false).is_err() {
                return;
            }
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

/// Inner HTTP/2: hyper on one end of a pipe, the tunnel on the other.
async fn h2_inside(
    first: Bytes,
    mut received: h2::RecvStream,
    mut send: h2::SendStream<Bytes>,
    answers: Arc<Answers>,
) {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (mut from_hyper, mut to_hyper) = tokio::io::split(near);
    let serve = serve_h2(far, answers);
    let inward = async {
        let mut chunk = first;
        loop {
            if to_hyper.write_all(&chunk).await.is_err() {
                return;
            }
            match received.data().await {
                Some(Ok(next)) => {
                    let _ = received.flow_control().release_capacity(next.len());
                    chunk = next;
                }
                _ => return,
            }
        }
    };
    let outward = async {
        let mut buffer = BytesMut::with_capacity(64 * 1024);
        while matches!(from_hyper.read_buf(&mut buffer).await, Ok(n) if n > 0) {
            if send.send_data(buffer.split().freeze(), false).is_err() {
                return;
            }
        }
        let _ = send.send_data(Bytes::new(), true);
    };
    tokio::select! {
        () = serve => {}
        ((), ()) = async { tokio::join!(inward, outward) } => {}
    }
}

async fn serve_h2(stream: DuplexStream, answers: Arc<Answers>) {
    let service = service_fn(move |_| {
        let body = answers.body.clone();
        async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(body))) }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(10_000)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
