//! How a channel connects.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;
use tower_service::Service;
use waymark_rt::{ConnectError, ConnectOptions, connect};

use super::incoming::Connection;

/// Connects to one address, with TLS or without. The address in the request is not looked at.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connector {
    pub(super) fn new(
        address: String,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner { address, tls }),
        }
    }
}

impl Inner {
    async fn connect(&self) -> Result<Connection, ConnectFailed> {
        let stream = self.connect_tcp().await?;
        match &self.tls {
            None => Ok(Connection::plain(stream)),
            Some((config, name)) => {
                let stream: TlsStream<TcpStream> = TlsConnector::from(Arc::clone(config))
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|source| ConnectFailed::Tls {
                        address: self.address.clone(),
                        source,
                    })?;
                Ok(Connection::tls(stream.into()))
            }
        }
    }

    /// Tries each address that the name has, in order.
    async fn connect_tcp(&self) -> Result<TcpStream, ConnectFailed> {
        let lookup = |source| ConnectFailed::Lookup {
            address: self.address.clone(),
            source,
        };
        let mut last = None;
        for addr in tokio::net::lookup_host(&self.address)
            .await
            .map_err(lookup)?
        {
            match connect(addr, &ConnectOptions::default()).await {
                Ok(stream) => return Ok(stream),
                Err(e) => last = Some(e),
            }
        }
        Err(match last {
            Some(e) => ConnectFailed::Tcp(e),
            None => lookup(io::ErrorKind::NotFound.into()),
        })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = ConnectFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        Box::pin(async move { inner.connect().await.map(TokioIo::new) })
    }
}

/// Why a channel is not connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailed {
    /// The name.
    #[error("look up {address}")]
    Lookup {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection.
    #[error(transparent)]
    Tcp(ConnectError),
    /// The handshake.
    #[error("TLS with {address}")]
    Tls {
        /// Host and port.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
}
