//! What a client gets: an upstream's response or one of our own, through the filters and with the headers of a proxy.

use std::borrow::Cow;
use std::time::Duration;

use waymark_engine::Field;
use waymark_engine::http1::BodyLength;

use super::client::{After, Client};
use super::edit::apply_to_response;
use super::exchange::{End, Exchange, Facts, grpc_status};
use super::filters::{self, Memory};
use super::forward::Answer;
use super::headers::{DECORATOR, DIGITS, REQUEST_ID, SERVICE_TIME, decimal, finish_response};
use super::local_reply::LocalReply;
use super::relay::{Relay, Relayed};
use super::timers::Running;
use super::upgrade::Switched;
use super::upload::Upload;
use crate::program::HttpChain;
use crate::route::{DirectResponse, HeaderOps, Redirect, Route};

/// What is known of a request when its response is made.
pub(super) struct Turn<'a> {
    pub(super) http: &'a HttpChain,
    pub(super) memory: Memory,
    pub(super) route: Option<&'a Route>,
    /// The name of the operation, where the client is told.
    pub(super) decorator: Option<&'a str>,
}

impl Turn<'_> {
    /// Answers by a local reply. `edits` are what the route does to its own replies.
    pub(super) async fn local(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        reply: LocalReply,
        edits: Option<&HeaderOps>,
    ) -> After {
        let body = reply.body.as_bytes();
        self.own(exchange, client, &reply, edits, body).await
    }

    /// Answers as the route itself says.
    pub(super) async fn direct(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        direct: &DirectResponse,
    ) -> After {
        let reply = LocalReply::new(direct.status, "direct_response");
        let edits = Some(&direct.response_headers);
        self.own(exchange, client, &reply, edits, &direct.body)
            .await
    }

    /// Sends the client elsewhere.
    pub(super) async fn redirect(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        redirect: &Redirect,
    ) -> After {
        let mut reply = LocalReply::new(redirect.status, "direct_response");
        if let Some(route) = self.route {
            let request = exchange.facts().as_request();
            reply.location = Some(redirect.location(&route.matches.path, &request));
        }
        let edits = Some(&redirect.response_headers);
        self.own(exchange, client, &reply, edits, b"").await
    }

    /// A response of our own: first the route's header operations, then ours, which count only where those say nothing.
    async fn own(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        reply: &LocalReply,
        edits: Option<&HeaderOps>,
        body: &[u8],
    ) -> After {
        let facts = exchange.facts();
        if let Some(flag) = reply.flag {
            facts.flags.add(flag);
        }
        facts.details = Some(reply.details.clone());
        facts.response.clear();
        facts.status = Some(reply.status_for(facts.grpc));
        if let Some(edits) = edits.filter(|e| !e.is_empty()) {
            apply_to_response(edits, facts);
        }
        let has_body = reply.write(facts.grpc, body.len(), &mut facts.response);
        facts.grpc_status = grpc_status(&facts.response);
        if reply.close {
            facts.connection.close_after_response();
        }
        client.skip_request().await;
        self.finish(facts, client);
        let body = if has_body { body } else { b"" };
        let is_head = facts.head.method() == Some(b"HEAD");
        let (length, shown) = (body.len() as u64, if is_head { b"" } else { body });
        facts.sent = shown.len() as u64;
        exchange.finish(End::Complete(None));
        if !client.respond(&exchange.facts().response, BodyLength::Length(length)) {
            return After::Abort;
        }
        client.send_body(shown).await
    }

    /// Passes an upstream's response on.
    pub(super) async fn relay(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        answer: Answer,
        upload: &mut Upload,
        running: &mut Running,
        edits: Option<&HeaderOps>,
    ) -> After {
        let Answer {
            mut in_flight,
            length,
            waited,
        } = answer;
        let facts = exchange.facts();
        self.upstream_headers(facts, waited, edits, client);
        if !client.respond(&facts.response, length) {
            return After::Abort;
        }
        let relay = Relay {
            client,
            upstream: in_flight.acquired(),
            upload,
            running,
            facts,
        };
        match relay.run().await {
            Relayed::Complete => {
                let trailers = in_flight.acquired().trailers();
                exchange.finish(End::Complete(trailers));
                let after = client.finish(trailers);
                in_flight.complete();
                after
            }
            Relayed::Upstream(broke) => {
                exchange.finish(End::Upstream(broke));
                After::Abort
            }
            Relayed::Timeout(timer) => {
                exchange.finish(End::Timeout(timer));
                After::Abort
            }
            Relayed::Downstream => {
                exchange.finish(client.left());
                After::Abort
            }
        }
    }

    /// The client asked for an upgrade and the upstream did not switch: what it sent instead is not HTTP's any more.
    pub(super) async fn swallow(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        answer: Answer,
        edits: Option<&HeaderOps>,
    ) -> After {
        let facts = exchange.facts();
        self.upstream_headers(facts, answer.waited, edits, client);
        drop(answer);
        facts.details = Some(Cow::Borrowed("websocket_handshake_unsuccessful"));
        facts.response.remove(b"content-length");
        exchange.finish(End::Complete(None));
        if !client.respond(&exchange.facts().response, BodyLength::Length(0)) {
            return After::Abort;
        }
        client.finish(None)
    }

    /// Tells the client that the protocol is switched.
    pub(super) fn switch(
        &self,
        exchange: &mut Exchange,
        client: &mut Client<'_>,
        answer: Answer,
        edits: Option<&HeaderOps>,
    ) -> Option<Switched> {
        let facts = exchange.facts();
        let protocol = facts.response.get(b"upgrade").map(<[u8]>::to_vec);
        facts.response.remove(b"connection");
        facts.response.remove(b"upgrade");
        self.upstream_headers(facts, answer.waited, edits, client);
        facts.response.push(Field::new(b"connection", b"upgrade"));
        if let Some(protocol) = protocol {
            facts.response.push(Field::new(b"upgrade", &protocol));
        }
        if !client.respond(&facts.response, BodyLength::None) {
            return None;
        }
        answer.in_flight.switched()
    }

    fn upstream_headers(
        &self,
        facts: &mut Facts,
        waited: Duration,
        edits: Option<&HeaderOps>,
        client: &mut Client<'_>,
    ) {
        facts.status = facts.response.status();
        facts.details = Some(Cow::Borrowed("via_upstream"));
        facts.grpc_status = grpc_status(&facts.response);
        if !self.http.suppress_envoy_headers {
            let mut digits = [0; DIGITS];
            let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            let millis = decimal(millis, &mut digits);
            facts.response.insert(Field::new(SERVICE_TIME, millis));
        }
        if let Some(edits) = edits.filter(|e| !e.is_empty()) {
            apply_to_response(edits, facts);
        }
        self.finish(facts, client);
    }

    /// What is done to every response: filters in reverse, then the headers that a proxy always writes.
    fn finish(&self, facts: &mut Facts, client: &mut Client<'_>) {
        filters::on_response(self.http, facts, self.route, &self.memory);
        let Facts { head, response, .. } = facts;
        if let Some(decorator) = self.decorator {
            response.insert(Field::new(DECORATOR, decorator.as_bytes()));
        }
        if self.http.request_id.in_response
            && let Some(id) = head.get(REQUEST_ID)
        {
            response.insert(Field::new(REQUEST_ID, id));
        }
        finish_response(response, self.http);
        if facts.connection.is_ending() {
            client.close_after_response();
        }
    }
}
