//! A connection that has arrived at a local workload, in clear or by HBONE: judged by policies and enforcement, then
//! connected to the application or sent through the waypoint.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use waymark_identity::SpiffeId;

use super::Proxy;
use super::carry::{Admission, FarSide};
use super::dial::DialError;
use crate::decision::to_replica;
use crate::enforcement::{self, Arrival, Detour, DetourKind, Judgement, Refused, Route, Why};
use crate::headers::{self, Baggage};
use crate::policy::{Connection, Verdict};
use crate::state::model::{Service, Workload};
use crate::state::{Store, balance};
use crate::telemetry::metrics::EnforcementAction;
use crate::telemetry::{Description, Direction, Open, Outcome, ResponseFlag, Side, Transport};
use crate::workers::Local;

/// How long a policy that a workload names may be on its way: the control plane sends policies right after workloads.
const POLICY_PATIENCE: Duration = Duration::from_secs(1);

/// What has arrived.
pub(super) struct Arrived {
    pub(super) workload: Arc<Workload>,
    /// TCP peer.
    pub(super) peer: SocketAddr,
    /// The workload that the peer's address is; it says nothing of who the peer is.
    pub(super) source: Option<Arc<Workload>>,
    /// Who the peer proved to be.
    pub(super) identity: Option<SpiffeId>,
    /// Where it connected to.
    pub(super) accepted_at: SocketAddr,
    /// The workload's address and the real target port.
    pub(super) destination: SocketAddr,
    /// Where the application listens.
    pub(super) application: SocketAddr,
    /// `:authority`, by HBONE.
    pub(super) authority: Option<String>,
    /// The service that was addressed, as far as known.
    pub(super) service: Option<Arc<Service>>,
    /// Headers of the CONNECT.
    pub(super) headers: HeaderMap,
}

/// A connection that may pass, and its far side.
pub(super) struct Passed {
    pub(super) far: FarSide,
    pub(super) open: Open,
    pub(super) admission: Admission,
}

/// Why a connection may not pass.
#[derive(Debug, thiserror::Error)]
enum Denied {
    #[error("connection closed due to policy rejection: explicitly denied by: {0}")]
    ByPolicy(String),
    #[error("connection closed due to policy rejection: allow policies exist, but none allowed")]
    NotAllowed,
    #[error("connection closed due to policy rejection: policy {0} is not known yet")]
    UnknownPolicy(String),
    #[error(transparent)]
    Enforced(Refused),
}

impl Denied {
    fn status(&self) -> StatusCode {
        match self {
            Self::ByPolicy(_) | Self::NotAllowed | Self::UnknownPolicy(_) => {
                StatusCode::UNAUTHORIZED
            }
            Self::Enforced(Refused::Require(_) | Refused::WaypointInClear(_)) => {
                StatusCode::UNAUTHORIZED
            }
            Self::Enforced(Refused::Waypoint(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn flag(&self) -> ResponseFlag {
        match self {
            Self::Enforced(Refused::Waypoint(_)) => ResponseFlag::Connect,
            Self::ByPolicy(_) | Self::NotAllowed | Self::UnknownPolicy(_) | Self::Enforced(_) => {
                ResponseFlag::Deny
            }
        }
    }
}

impl Proxy {
    /// Judges and connects. On `Err`, what a peer by HBONE is answered; the rest has been told to log and metrics.
    pub(super) async fn pass(
        &self,
        here: &Rc<Local>,
        arrived: Arrived,
    ) -> Result<Passed, StatusCode> {
        let judgement = self.judge(&arrived);
        let admission = Admission {
            workload: arrived.workload.uid.clone(),
            connection: Connection {
                source: arrived.peer.ip(),
                identity: arrived.identity.clone(),
                destination: arrived.destination,
            },
            delivered: matches!(judgement.route, Route::Deliver(_)),
        };
        let denied = match self.policy_verdict(&admission).await {
            Verdict::Allowed => None,
            Verdict::DeniedBy(key) => Some(Denied::ByPolicy(key.to_string())),
            Verdict::NotAllowed => Some(Denied::NotAllowed),
            Verdict::Unknown(key) => Some(Denied::UnknownPolicy(key.to_string())),
        };
        if let Some(denied) = denied {
            return Err(self.deny(&arrived, None, &denied));
        }
        self.count(&arrived, &judgement);
        match judgement.route {
            Route::Deliver(why) => self.deliver(&arrived, why, admission).await,
            Route::Waypoint(detour) => self.detour(here, &arrived, *detour, admission).await,
            Route::Refuse(refused) => {
                let action = Some(EnforcementAction::Refused);
                Err(self.deny(&arrived, action, &Denied::Enforced(refused)))
            }
        }
    }

    fn judge(&self, arrived: &Arrived) -> Judgement {
        let arrival = Arrival {
            workload: &arrived.workload,
            destination: arrived.destination,
            peer: arrived.peer.ip(),
            identity: arrived.identity.as_ref(),
        };
        enforcement::judge(&self.shared.state.load(), &arrival, &mut rand::rng())
    }

    /// DENY policies speak of whoever is at the other end here, detour or not; ALLOW policies are judged where the
    /// connection is delivered, which after a detour is another connection, the waypoint's.
    async fn policy_verdict(&self, admission: &Admission) -> Verdict {
        let known = |_: &Store| match admission.judge(self) {
            Verdict::Unknown(_) => None,
            verdict => Some(verdict),
        };
        match self.shared.state.wait_for(POLICY_PATIENCE, known).await {
            Some(verdict) => verdict,
            None => admission.judge(self),
        }
    }

    fn deny(
        &self,
        arrived: &Arrived,
        action: Option<EnforcementAction>,
        denied: &Denied,
    ) -> StatusCode {
        let open = self.shared.telemetry.open(arrived.description(action));
        open.finish(Outcome::not_connected(denied.flag(), denied));
        denied.status()
    }

    fn count(&self, arrived: &Arrived, judgement: &Judgement) {
        if let Some(action) = action(&judgement.route) {
            let mutual_tls = arrived.identity.is_some();
            let metrics = &self.shared.telemetry.metrics;
            metrics.enforced(
                action,
                judgement.service.as_ref(),
                &arrived.workload,
                mutual_tls,
            );
        }
    }

    async fn deliver(
        &self,
        arrived: &Arrived,
        why: Why,
        admission: Admission,
    ) -> Result<Passed, StatusCode> {
        let action = action(&Route::Deliver(why));
        let open = self.shared.telemetry.open(arrived.description(action));
        match self
            .dial_tcp(arrived.application, Some(arrived.peer.ip()))
            .await
        {
            Ok(stream) => Ok(Passed {
                far: FarSide::Tcp(stream),
                open,
                admission,
            }),
            Err(error) => Err(unavailable(open, &error)),
        }
    }

    /// In the proxy's own name, saying whom it speaks for.
    async fn detour(
        &self,
        here: &Rc<Local>,
        arrived: &Arrived,
        detour: Detour,
        admission: Admission,
    ) -> Result<Passed, StatusCode> {
        let Detour {
            kind,
            replica,
            authority,
            service,
        } = detour;
        let action = match kind {
            DetourKind::Hairpin => EnforcementAction::Hairpin,
            DetourKind::Service => EnforcementAction::Service,
        };
        let host = service.as_ref().map(|service| &*service.key.hostname);
        let mut request = headers::request(None, arrived.peer, host, &mut rand::rng());
        headers::copy_baggage(&arrived.headers, &mut request);
        headers::set_source_principal(&mut request, arrived.identity.as_ref());
        let route = to_replica(replica, authority, service);
        let crate::decision::Target::Address(address) = route.address else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        let open = self.shared.telemetry.open(Description {
            destination_address: address,
            hbone_address: Some(authority.to_string()),
            ..arrived.description(Some(action))
        });
        let speaks = (
            self.shared.certificates.own().clone(),
            self.shared.own_address,
        );
        match self
            .dial_hbone(here, &route, address, speaks, request)
            .await
        {
            Ok(connected) => Ok(Passed {
                far: FarSide::Tunnel(Box::new(connected.tunnel)),
                open,
                admission,
            }),
            Err(error) => Err(unavailable(open, &error)),
        }
    }
}

fn unavailable(open: Open, error: &DialError) -> StatusCode {
    open.finish(error.outcome());
    StatusCode::SERVICE_UNAVAILABLE
}

/// What is counted: nothing for what came as it should.
fn action(route: &Route) -> Option<EnforcementAction> {
    match route {
        Route::Deliver(Why::Unbound | Why::FromWaypoint) => None,
        Route::Deliver(Why::Probe) => Some(EnforcementAction::Probe),
        Route::Deliver(Why::Off) => Some(EnforcementAction::Off),
        Route::Waypoint(detour) => Some(match detour.kind {
            DetourKind::Hairpin => EnforcementAction::Hairpin,
            DetourKind::Service => EnforcementAction::Service,
        }),
        Route::Refuse(_) => Some(EnforcementAction::Refused),
    }
}

impl Arrived {
    fn description(&self, action: Option<EnforcementAction>) -> Description {
        let by_hbone = self.authority.is_some();
        Description {
            direction: Direction::Inbound,
            local: Some(self.workload.uid.clone()),
            source_address: self.peer,
            destination_address: self.accepted_at,
            hbone_address: self.authority.clone(),
            original_destination: self.forwarded_host(),
            source: Side {
                workload: self.source.clone(),
                baggage: by_hbone.then(|| Baggage::parse(&self.headers)),
                identity: self.identity.clone(),
            },
            destination: Side {
                identity: by_hbone.then(|| self.workload.identity.clone()),
                ..Side::of(Some(self.workload.clone()))
            },
            service: self.service.clone(),
            transport: if by_hbone {
                Transport::Hbone
            } else {
                Transport::Tcp
            },
            enforcement: action.map(EnforcementAction::as_str),
        }
    }

    fn forwarded_host(&self) -> Option<String> {
        headers::forwarded_host(&self.headers).map(str::to_owned)
    }
}

/// The service that a connection to `port` of a workload is counted under: the one that the client named, if it is one of
/// the workload's, else the first that leads there.
pub(super) fn service_of(
    store: &Store,
    workload: &Workload,
    port: u16,
    named: Option<&str>,
) -> Option<Arc<Service>> {
    let services = || {
        workload
            .services
            .keys()
            .filter_map(|key| store.service(key))
    };
    let by_name = named.and_then(|host| services().find(|service| *service.key.hostname == *host));
    let leads_there = |service: &&Arc<Service>| {
        let mut ports = service.ports.keys();
        ports.any(|p| {
            balance::target_port(workload, service, *p, balance::PickFor::Traffic) == Some(port)
        })
    };
    by_name.or_else(|| services().find(leads_there)).cloned()
}
