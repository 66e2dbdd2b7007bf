//! A Node whose kubelet does one thing: it leads port-forwards to where a test says that pods' ports are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::api_server::ApiServer;

/// Where a port of a pod (namespace, name) is for the test: a connection to it, or why there is none.
pub type Dial = dyn Fn(&str, &str, u16) -> io::Result<std::net::TcpStream> + Send + Sync;

/// A Node that the API server can forward ports to. Its kubelet ends when it is dropped; the Node stays.
#[derive(Debug)]
pub struct Forwarder {
    stop: Option<oneshot::Sender<()>>,
    kubelet: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Makes the Node of that name (or takes over the one that there is) and begins to serve the port-forwards of its pods.
    ///
    /// # Panics
    /// When the API server refuses the Node.
    pub fn start(
        api: &ApiServer,
        name: &str,
        dial: impl Fn(&str, &str, u16) -> io::Result<std::net::TcpStream> + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("local address");
        let (stop, stopped) = oneshot::channel();
        let kubelet = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, Arc::new(dial)) => {}
                    _ = stopped => {}
                }
            });
        });
        register(api, name, address);
        Self {
            stop: Some(stop),
            kubelet: Some(kubelet),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(kubelet) = self.kubelet.take() {
            let _ = kubelet.join();
        }
    }
}

fn register(api: &ApiServer, name: &str, address: SocketAddr) {
    api.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\n"
    ));
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
    }});
    api.run(&[
        "patch",
        "node",
        name,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &status.to_string(),
    ]);
}

async fn serve(listener: std::net::TcpListener, dial: Arc<Dial>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = TcpListener::from_std(listener).expect("a listener");
    let acceptor = acceptor();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (acceptor, dial) = (acceptor.clone(), Arc::clone(&dial));
                connections.spawn(async move {
                    // What breaks one port-forward is told to who asked for it.
                    let _ = connection(stream, acceptor, dial).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    dial: Arc<Dial>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let stream = acceptor.accept(stream).await?;
    let mut asked = None;
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let answer = |request: &Request, mut response: Response| {
        asked = request
            .uri()
            .path_and_query()
            .and_then(|path| Target::of(path.as_str()));
        let protocol = PROTOCOL.parse().expect("a header value");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, answer).await?;
    let Some(target) = asked else {
        return Err("not a port-forward".into());
    };
    // Each channel begins with the port that it is for: data, then errors.
    let [low, high] = target.port.to_le_bytes();
    for channel in [DATA, ERROR] {
        let greeting = Message::binary(vec![channel, low, high]);
        socket.send(greeting).await?;
    }
    match dial(&target.namespace, &target.pod, target.port) {
        Ok(stream) => forward(socket, stream).await,
        Err(e) => {
            let text = format!("error forwarding port {}: {e}", target.port);
            let message = [&[ERROR], text.as_bytes()].concat();
            socket.send(Message::binary(message)).await?;
            socket.close(None).await?;
            Ok(())
        }
    }
}

async fn forward<S>(
    socket: WebSocketStream<S>,
    stream: std::net::TcpStream,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.set_nonblocking(true)?;
    let (mut from_pod, mut to_pod) = TcpStream::from_std(stream)?.into_split();
    let (mut to_client, mut from_client) = socket.split();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        tokio::select! {
            read = from_pod.read(&mut buffer) => {
                let read = read?;
                if read == 0 {
                    to_client.close().await?;
                    return Ok(());
                }
                let message = [&[DATA], &buffer[..read]].concat();
                to_client.send(Message::binary(message)).await?;
            }
            message = from_client.next() => {
                let Some(message) = message else { return Ok(()) };
                if let Message::Binary(bytes) = message?
                    && let Some((&DATA, bytes)) = bytes.split_first()
                {
                    to_pod.write_all(bytes).await?;
                }
            }
        }
    }
}

/// What a port-forward is for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    namespace: String,
    pod: String,
    port: u16,
}

impl Target {
    /// Reads `/portForward/NAMESPACE/POD?port=PORT`, as the API server asks a kubelet.
    fn of(path: &str) -> Option<Self> {
        let (path, query) = path.split_once('?')?;
        let mut parts = path.strip_prefix("/portForward/")?.split('/');
        let port = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("port=")?.parse().ok())?;
        Some(Self {
            namespace: parts.next()?.to_owned(),
            pod: parts.next()?.to_owned(),
            port,
        })
    }
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .expect("a PKCS #8 key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate of that key");
    TlsAcceptor::from(Arc::new(config))
}

/// What kubelets and clients speak over the WebSocket: a byte that says which channel, then bytes.
const PROTOCOL: &str = "v4.channel.k8s.io";
const DATA: u8 = 0;
const ERROR: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_api_server_asks_for() {
        let target = Target::of("/portForward/shop/waypoint-1?port=15000").expect("good");
        let want = ("shop".to_owned(), "waypoint-1".to_owned(), 15000);
        assert_eq!((target.namespace, target.pod, target.port), want);
        assert_eq!(Target::of("/containerLogs/shop/waypoint-1/c"), None);
    }
}
