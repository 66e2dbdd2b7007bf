//! One request, from its head to the end of its response. Spec: l7-semantics.md 1.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use waymark_driver::sleep;
use waymark_engine::Field;
use waymark_engine::http1::Refusal;

use super::admit::admit;
use super::client::{After, Client};
use super::edit::{edit_request, header_edits, timers};
use super::exchange::{Exchange, Facts, http_of};
use super::filters::{self, Memory, Verdict};
use super::forward::{Forwarded, Forwarding};
use super::headers::{DECORATOR, prepare_request, remove_from_request};
use super::local_reply::LocalReply;
use super::respond::Turn;
use super::timers::Running;
use super::upload::Upload;
use super::{HttpConnection, Served};
use crate::cluster::ClusterRuntime;
use crate::program::{HttpChain, Snapshot};
use crate::route::{Action, Clusters, Destination, Forward, Route};

/// A request's body is kept for another attempt up to this many bytes. Spec: l7-semantics.md 7.2.
const RETRY_BUFFER_BYTES: usize = 1024 * 1024;

/// Serves one request. `refused` is what the codec found wrong with it.
pub(super) async fn handle(
    connection: &Rc<HttpConnection>,
    exchange: &mut Exchange,
    client: &mut Client<'_>,
    refused: Option<Refusal>,
) -> Served {
    let (chain, snapshot) = connection.chain();
    let http = http_of(&chain);
    client.swap_head(&mut exchange.facts().head);
    let admitted = match refused {
        Some(refusal) => Err(LocalReply::refused(refusal)),
        None => admit(&mut exchange.facts().head, http, client.is_http2()),
    };
    let upgrade = wanted_upgrade(exchange.facts(), client);
    remove_from_request(&mut exchange.facts().head, http);
    exchange.begin(&chain, client.protocol());
    let mut turn = Turn {
        http,
        memory: Memory::default(),
        route: None,
        decorator: None,
    };
    if let Err(reply) = admitted {
        return turn.local(exchange, client, reply, None).await.into();
    }
    match before_routing(connection, exchange.facts(), client, &mut turn).await {
        Ok(()) => {}
        Err(Early::Answer(reply)) => {
            return turn.local(exchange, client, reply, None).await.into();
        }
        Err(Early::ClientLeft) => {
            exchange.finish(client.left());
            return After::Abort.into();
        }
    }
    let Some(route) = turn.route else {
        let reply = LocalReply::no_route();
        return turn.local(exchange, client, reply, None).await.into();
    };
    let forward = match &route.action {
        Action::Direct(direct) => return turn.direct(exchange, client, direct).await.into(),
        Action::Redirect(redirect) => {
            return turn.redirect(exchange, client, redirect).await.into();
        }
        Action::Forward(forward) => forward,
    };
    if let Some(protocol) = &upgrade {
        let of_chain = http.upgrades.iter().any(|u| **u == **protocol);
        if !forward.allows_upgrade(protocol, of_chain) {
            let reply = LocalReply::new(http::StatusCode::FORBIDDEN, "upgrade_failed").close();
            return turn.local(exchange, client, reply, None).await.into();
        }
        let head = &mut exchange.facts().head;
        head.insert(Field::new(b"connection", b"Upgrade"));
        head.insert(Field::new(b"upgrade", protocol.as_bytes()));
    }
    let step = Step {
        connection,
        snapshot: &snapshot,
        route,
        forward,
        upgrades: upgrade.is_some(),
    };
    step.forward(exchange, client, &turn).await
}

/// Answers a client whose request's head takes too long.
pub(super) async fn header_timeout(
    connection: &Rc<HttpConnection>,
    exchange: &mut Exchange,
    client: &mut Client<'_>,
) -> Served {
    let (chain, _) = connection.chain();
    client.give_up_head();
    exchange.facts().head.clear();
    exchange.begin(&chain, client.protocol());
    let turn = Turn {
        http: http_of(&chain),
        memory: Memory::default(),
        route: None,
        decorator: None,
    };
    let status = http::StatusCode::REQUEST_TIMEOUT;
    let reply = LocalReply::new(status, "request_header_timeout")
        .body("request header timeout")
        .close();
    turn.local(exchange, client, reply, None).await.into()
}

/// A request that has found its route.
struct Step<'a> {
    connection: &'a HttpConnection,
    snapshot: &'a Snapshot,
    route: &'a Route,
    forward: &'a Forward,
    upgrades: bool,
}

impl Step<'_> {
    /// Forwards the request and answers it.
    async fn forward(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        turn: &Turn<'_>,
    ) -> Served {
        let Self { forward, .. } = self;
        let worker = &self.connection.worker;
        let destination = forward.pick(worker.random.next());
        let edits = header_edits(destination, forward).map(|e| &e.response);
        let facts = exchange.facts();
        let Some(cluster) = self.cluster(facts, destination) else {
            let reply = LocalReply::no_cluster(forward.cluster_not_found);
            return turn.local(exchange, client, reply, edits).await.into();
        };
        let config = cluster.config();
        facts.cluster = Some(config.clone());
        let timers = timers(forward, facts);
        edit_request(facts, self.route, forward, destination, &timers);
        let keep = match &forward.retry {
            Some(policy) if policy.num_retries > 0 => forward
                .retry_buffer_bytes
                .map_or(RETRY_BUFFER_BYTES, |n| n as usize),
            Some(_) | None => 0,
        };
        let mut upload = Upload::new(client, &facts.head, keep);
        let mut running = Running::start(timers);
        if upload.is_complete() {
            running.complete();
        } else if !turn.http.relay_100_continue {
            client.go_ahead();
        }
        let forwarding = Forwarding {
            worker,
            snapshot: self.snapshot,
            forward,
            cluster: &cluster,
            config: &config,
            limits: cluster.thresholds(forward.high_priority),
            upgrades: self.upgrades,
            client,
            facts,
            upload: &mut upload,
            running: &mut running,
        };
        match forwarding.run().await {
            Forwarded::Local(reply) => turn.local(exchange, client, reply, edits).await.into(),
            Forwarded::ClientLeft => {
                exchange.finish(client.left());
                After::Abort.into()
            }
            Forwarded::Upstream(answer) => match exchange.facts().response.status() {
                Some(101) => match turn.switch(exchange, client, answer, edits) {
                    Some(switched) => Served::Switched(Box::new(switched)),
                    None => After::Abort.into(),
                },
                Some(200..300) if self.upgrades => {
                    turn.swallow(exchange, client, answer, edits).await.into()
                }
                _ => turn
                    .relay(exchange, client, answer, &mut upload, &mut running, edits)
                    .await
                    .into(),
            },
        }
    }

    fn cluster(
        &self,
        facts: &Facts,
        destination: Option<&Destination>,
    ) -> Option<Rc<ClusterRuntime>> {
        let id = match (destination, &self.forward.clusters) {
            (Some(destination), _) => destination.cluster.id,
            (None, Clusters::Header(name, _)) => {
                let named = facts.head.get_str(name.as_str().as_bytes())?;
                self.snapshot.cluster_by_name(named)?.id
            }
            (None, Clusters::One(_) | Clusters::Weighted(_)) => return None,
        };
        let worker = &self.connection.worker;
        worker.clusters.of(self.snapshot, id, &worker.random)
    }
}

/// Why a request does not get to the router.
enum Early {
    /// A filter answers it.
    Answer(LocalReply),
    /// Nobody waits for an answer any more.
    ClientLeft,
}

/// Headers, the route, and the filters in front of the router.
async fn before_routing<'a>(
    connection: &HttpConnection,
    facts: &mut Facts,
    client: &mut Client<'_>,
    turn: &mut Turn<'a>,
) -> Result<(), Early> {
    let (http, random) = (turn.http, &connection.worker.random);
    let port = connection.downstream.local.port();
    prepare_request(&mut facts.head, http, port, random);
    let route = http.routes.find(&facts.as_request(), &mut || random.next());
    facts.route_name = route.map(|r| std::sync::Arc::clone(&r.name));
    turn.route = route;
    turn.decorator = decorator(http, route, facts);
    let mut from = 0;
    loop {
        match filters::on_request(from, http, facts, route, &mut turn.memory, random) {
            Verdict::Go => return Ok(()),
            Verdict::Wait(delay, at) => {
                waited(client, delay).await?;
                from = at;
            }
            Verdict::Answer(reply) => return Err(Early::Answer(reply)),
        }
    }
}

/// Waits, unless the client leaves. One whose body is on its way is not looked at: nobody reads that yet.
async fn waited(client: &mut Client<'_>, delay: Duration) -> Result<(), Early> {
    let mut over = pin!(sleep(delay));
    poll_fn(|cx| {
        if client.is_complete() && client.poll_left(cx).is_ready() {
            return Poll::Ready(Err(Early::ClientLeft));
        }
        over.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// The protocol that the client wants to change to, lower case; the codec has left the headers of such a request only.
fn wanted_upgrade(facts: &mut Facts, client: &Client<'_>) -> Option<String> {
    if !client.wants_upgrade() {
        return None;
    }
    let protocol = facts.head.get_str(b"upgrade")?.trim().to_ascii_lowercase();
    facts.head.remove(b"connection");
    facts.head.remove(b"upgrade");
    Some(protocol)
}

/// The name of the operation for the response, where there is tracing. A client that names it itself gets none.
fn decorator<'a>(
    chain: &HttpChain,
    route: Option<&'a Route>,
    facts: &mut Facts,
) -> Option<&'a str> {
    if !chain.tracing || facts.head.remove(DECORATOR) {
        return None;
    }
    route.and_then(|r| r.decorator.as_deref())
}

impl From<After> for Served {
    fn from(after: After) -> Self {
        Self::Answered(after)
    }
}
