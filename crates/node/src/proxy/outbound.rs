//! Connections to a service, or of a mesh workload to a pod: decided, then tunnelled or passed on.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use waymark_hbone::Tunnel;

use super::Proxy;
use super::carry::{FarSide, near};
use super::dial::DialError;
use crate::capture::Captured;
use crate::decision::{self, Decision, HboneRoute, Refusal, Target, TcpRoute};
use crate::headers;
use crate::state::Workload;
use crate::state::balance::Origin;
use crate::telemetry::{Description, Direction, Open, Side, Transport};
use crate::workers::Local;

impl Proxy {
    /// Serves a connection of `client`, or of a client outside the mesh.
    pub(super) async fn outbound(
        &self,
        here: &Rc<Local>,
        captured: Captured,
        client: Option<Arc<Workload>>,
    ) {
        let Captured {
            stream,
            peer,
            destination,
            ..
        } = captured;
        let client = Client {
            workload: client,
            address: peer,
            asked: destination,
        };
        let decision = {
            let store = self.shared.state.load();
            decision::decide(&store, client.captured(), &mut rand::rng())
        };
        let connected = match decision.and_then(|decision| refuse_loop(decision, destination)) {
            Ok(Decision::Hbone(route)) => self.outbound_hbone(here, &client, *route).await,
            Ok(Decision::Tcp(route)) => self.outbound_tcp(&client, route).await,
            Err(refusal) => {
                self.shared.telemetry.failed_early(
                    Direction::Outbound,
                    peer,
                    destination,
                    &refusal,
                );
                return;
            }
        };
        // Without a far side the client's connection is dropped: it sees an end, or a reset if it has sent something.
        if let Some((mut far, open)) = connected {
            let Some(mut near) = near(stream) else {
                return;
            };
            self.carry(&mut near, &mut far, open, std::future::pending())
                .await;
        }
    }

    async fn outbound_hbone(
        &self,
        here: &Rc<Local>,
        client: &Client,
        route: HboneRoute,
    ) -> Option<(FarSide, Open)> {
        let address = match self.resolve(&route.address).await {
            Ok(address) => address,
            Err(error) => {
                self.shared.telemetry.failed_early(
                    Direction::Outbound,
                    client.address,
                    client.asked,
                    &error,
                );
                return None;
            }
        };
        // Who has no identity is spoken for by the proxy, which says so.
        let speaks = match &client.workload {
            Some(workload) => (workload.identity.clone(), Some(client.address.ip())),
            None => (
                self.shared.certificates.own().clone(),
                self.shared.own_address,
            ),
        };
        let service_host = route.service.as_ref().map(|service| &*service.key.hostname);
        let mut request = headers::request(
            client.workload.as_deref(),
            client.address,
            service_host,
            &mut rand::rng(),
        );
        if client.workload.is_none() {
            headers::set_source_principal(&mut request, None);
        }
        let open = self.shared.telemetry.open(Description {
            hbone_address: Some(route.authority.to_string()),
            destination: Side {
                workload: Some(route.peer.clone()),
                identity: Some(route.peer.identity.clone()),
                baggage: None,
            },
            // A client outside the mesh has none, whoever speaks for it.
            source: Side {
                identity: client.workload.as_ref().map(|w| w.identity.clone()),
                ..Side::of(client.workload.clone())
            },
            service: route.service.clone(),
            transport: Transport::Hbone,
            ..client.description(address)
        });
        let dialled = self
            .dial_hbone(here, &route, address, speaks, request)
            .await;
        settle(dialled.map(|connected| tunnel(connected.tunnel)), open)
    }

    async fn outbound_tcp(&self, client: &Client, route: TcpRoute) -> Option<(FarSide, Open)> {
        let address = match self.resolve(&route.address).await {
            Ok(address) => address,
            Err(error) => {
                self.shared.telemetry.failed_early(
                    Direction::Outbound,
                    client.address,
                    client.asked,
                    &error,
                );
                return None;
            }
        };
        let open = self.shared.telemetry.open(Description {
            destination: Side::of(route.peer.clone()),
            source: Side::of(client.workload.clone()),
            service: route.service.clone(),
            transport: Transport::Tcp,
            ..client.description(address)
        });
        settle(
            self.dial_tcp(address, Some(client.address.ip()))
                .await
                .map(FarSide::Tcp),
            open,
        )
    }
}

/// Who connected, and to what.
struct Client {
    workload: Option<Arc<Workload>>,
    address: SocketAddr,
    asked: SocketAddr,
}

impl Client {
    fn captured(&self) -> decision::Captured<'_> {
        decision::Captured {
            origin: self
                .workload
                .as_deref()
                .map_or(Origin::Outside, Origin::Workload),
            from: self.address,
            to: self.asked,
        }
    }

    fn description(&self, address: SocketAddr) -> Description {
        Description {
            direction: Direction::Outbound,
            local: self.workload.as_ref().map(|workload| workload.uid.clone()),
            source_address: self.address,
            destination_address: address,
            hbone_address: None,
            original_destination: Some(self.asked.to_string()),
            source: Side::default(),
            destination: Side::default(),
            service: None,
            transport: Transport::Tcp,
            enforcement: None,
        }
    }
}

/// Passing a connection on to the address that it was captured at would capture it again.
fn refuse_loop(decision: Decision, captured_at: SocketAddr) -> Result<Decision, Refusal> {
    match &decision {
        Decision::Tcp(TcpRoute {
            address: Target::Address(address),
            ..
        }) if *address == captured_at => Err(Refusal::SelfCall),
        Decision::Tcp(_) | Decision::Hbone(_) => Ok(decision),
    }
}

fn tunnel(tunnel: Tunnel) -> FarSide {
    FarSide::Tunnel(Box::new(tunnel))
}

fn settle(dialled: Result<FarSide, DialError>, open: Open) -> Option<(FarSide, Open)> {
    match dialled {
        Ok(far) => Some((far, open)),
        Err(error) => {
            open.finish(error.outcome());
            None
        }
    }
}
