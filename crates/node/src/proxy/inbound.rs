//! Connections to a local workload: tunnels at its 15008, and plain text at its ports.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tracing::debug;
use waymark_driver::TcpStream;
use waymark_driver::io::put_all;
use waymark_hbone::{AcceptError, Incoming};

use super::Proxy;
use super::arrival::{Arrived, Passed, service_of};
use super::carry::{FarSide, near};
use crate::capture::Captured;
use crate::decision::ILLEGAL_PORTS;
use crate::destination::{self, Asked, Delivery, DestinationError};
use crate::headers;
use crate::proxy_header;
use crate::state::{Store, Workload};
use crate::telemetry::Direction;
use crate::workers::Local;

/// How long a workload may be unknown: the listener can be ahead of nothing, but a workload may be replaced just now.
const WORKLOAD_PATIENCE: Duration = Duration::from_secs(5);

/// Why a CONNECT does not get as far as policies.
#[derive(Debug, thiserror::Error)]
enum Unserved {
    #[error("unknown destination workload at {0}")]
    UnknownWorkload(SocketAddr),
    #[error(transparent)]
    Destination(#[from] DestinationError),
}

impl Unserved {
    fn status(&self) -> StatusCode {
        match self {
            Self::UnknownWorkload(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Destination(error) => error.status(),
        }
    }
}

/// Why a connection at 15008 does not become a tunnel connection.
#[derive(Debug, thiserror::Error)]
#[error("tls handshake error")]
struct NotAccepted(#[source] AcceptError);

impl Proxy {
    /// Serves a connection at a workload's HBONE port.
    pub(super) async fn inbound_hbone(&self, here: &Rc<Local>, captured: Captured) {
        let Captured {
            stream,
            peer,
            destination,
            released,
            ..
        } = captured;
        let drain = self.shared.drain.child();
        let stream = match TcpStream::adopt(stream) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%peer, %error, "accepted connection is gone");
                return;
            }
        };
        let accepted = Box::pin(self.shared.acceptor.accept(stream, &drain)).await;
        let mut connection = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                self.shared.telemetry.failed_early(
                    Direction::Inbound,
                    peer,
                    destination,
                    &NotAccepted(error),
                );
                return;
            }
        };
        loop {
            let incoming = tokio::select! {
                biased;
                // The workload is gone: its tunnels finish, new streams go elsewhere.
                () = released.cancelled(), if !drain.is_started() => {
                    drain.start();
                    continue;
                }
                incoming = connection.next() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let proxy = self.clone();
            let on = Rc::clone(here);
            let hold = self.shared.open.token();
            here.spawn("tunnel", async move {
                let _hold = hold;
                // In a box: what is spawned is moved a few times.
                Box::pin(proxy.serve_stream(&on, incoming)).await;
            });
        }
    }

    /// Serves one CONNECT.
    async fn serve_stream(&self, here: &Rc<Local>, mut incoming: Incoming) {
        let info = Arc::clone(&incoming.connection);
        let (arrived, proxy_header) = match self.arrived(&incoming).await {
            Ok(found) => found,
            Err(error) => {
                self.shared.telemetry.failed_early(
                    Direction::Inbound,
                    info.peer_addr,
                    info.local_addr,
                    &error,
                );
                incoming.refuse(error.status());
                return;
            }
        };
        let workload = Arc::clone(&arrived.workload);
        let peer_identity = arrived.identity.clone();
        let passed = tokio::select! {
            biased;
            () = incoming.cancelled() => return,
            passed = Box::pin(self.pass(here, arrived)) => passed,
        };
        let Passed {
            mut far,
            open,
            admission,
        } = match passed {
            Ok(passed) => passed,
            Err(status) => return incoming.refuse(status),
        };
        let mut tunnel = match incoming.accept(headers::fields(&headers::response(&workload))) {
            Ok(tunnel) => tunnel,
            Err(error) => {
                debug!(%error, "the peer is gone");
                return;
            }
        };
        if let (Some(destination), FarSide::Tcp(stream)) = (proxy_header, &mut far) {
            let header = proxy_header::v2(info.peer_addr, destination, peer_identity.as_ref());
            if let Err(error) = put_all(stream, &header).await {
                debug!(%error, "the application is gone");
                return;
            }
        }
        self.carry_admitted(&mut tunnel, &mut far, open, &admission)
            .await;
    }

    /// Who and what a CONNECT is for; with the destination of a PROXY header where the application wants one.
    async fn arrived(
        &self,
        incoming: &Incoming,
    ) -> Result<(Arrived, Option<SocketAddr>), Unserved> {
        let info = &incoming.connection;
        let local = info.local_addr;
        let workload = self.local_workload(local).await?;
        let store = self.shared.state.load();
        let asked = Asked {
            workload: &workload,
            local: local.ip(),
            authority: &incoming.authority,
        };
        let Delivery {
            destination,
            application,
            service,
            proxy_header,
        } = destination::find(&store, &asked)?;
        let headers = headers::of_head(&incoming.head);
        let named = headers::forwarded_host(&headers);
        let service = service.or_else(|| service_of(&store, &workload, destination.port(), named));
        let source = source_of(&store, info.peer_addr);
        drop(store);
        let arrived = Arrived {
            workload,
            peer: info.peer_addr,
            source,
            identity: info.peer.clone(),
            accepted_at: local,
            destination,
            application,
            authority: Some(incoming.authority.to_string()),
            service,
            headers,
        };
        Ok((arrived, proxy_header))
    }

    async fn local_workload(&self, at: SocketAddr) -> Result<Arc<Workload>, Unserved> {
        let find = |store: &Store| {
            store
                .local_workload(at.ip())
                .filter(|w| w.is_captured())
                .cloned()
        };
        self.shared
            .state
            .wait_for(WORKLOAD_PATIENCE, find)
            .await
            .ok_or(Unserved::UnknownWorkload(at))
    }

    /// Serves a plain-text connection of a client outside the mesh to a port of a pod.
    pub(super) async fn inbound_plain(&self, here: &Rc<Local>, captured: Captured) {
        let Captured {
            stream,
            peer,
            destination,
            ..
        } = captured;
        let arrived = match self.arrived_plain(peer, destination).await {
            Ok(arrived) => arrived,
            Err(error) => {
                self.shared
                    .telemetry
                    .failed_early(Direction::Inbound, peer, destination, &error);
                return;
            }
        };
        // A status is for tunnels; in clear, the connection just ends.
        if let Ok(Passed {
            mut far,
            open,
            admission,
        }) = Box::pin(self.pass(here, arrived)).await
        {
            let Some(mut near) = near(stream) else {
                return;
            };
            self.carry_admitted(&mut near, &mut far, open, &admission)
                .await;
        }
    }

    async fn arrived_plain(
        &self,
        peer: SocketAddr,
        destination: SocketAddr,
    ) -> Result<Arrived, Unserved> {
        if ILLEGAL_PORTS.contains(&destination.port()) {
            return Err(DestinationError::SelfCall.into());
        }
        let workload = self.local_workload(destination).await?;
        let application = workload
            .extension
            .application_address
            .unwrap_or(destination.ip());
        let application = SocketAddr::new(application, destination.port());
        // An application on the captured address itself would be us.
        if application == destination {
            return Err(DestinationError::SelfCall.into());
        }
        let store = self.shared.state.load();
        let service = service_of(&store, &workload, destination.port(), None);
        let source = source_of(&store, peer);
        drop(store);
        Ok(Arrived {
            workload,
            peer,
            source,
            identity: None,
            accepted_at: destination,
            destination,
            application,
            authority: None,
            service,
            headers: HeaderMap::new(),
        })
    }
}

/// Who calls from an address, for telemetry.
fn source_of(store: &Store, peer: SocketAddr) -> Option<Arc<Workload>> {
    store.workload_by_address(&store.here(peer.ip())).cloned()
}
