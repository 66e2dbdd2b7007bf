//! Listeners.

use std::sync::Arc;

use waymark_proto::envoy::envoy::config::listener::v3;

use super::clusters::remove;
use super::entry::{InUse, Received, Refused};
use super::state::State;
use crate::decode::{DecodeError, DecodedListener, Decoder, Listener};
use crate::program::Chain;

/// A listener that was accepted.
#[derive(Debug)]
pub(super) struct AcceptedListener {
    pub(super) listener: DecodedListener,
    /// The router's chains with the route tables in use, in its order.
    pub(super) chains: Vec<Arc<Chain>>,
}

impl AcceptedListener {
    /// Names of the route tables that come over RDS.
    pub(super) fn rds_names(&self) -> impl Iterator<Item = &str> {
        let chains = match &self.listener.kind {
            Listener::Router(router) => router.chains.as_slice(),
            Listener::Terminate(_) | Listener::Originate(_) | Listener::DoubleTunnel => &[],
        };
        chains.iter().filter_map(|c| c.rds.as_deref())
    }
}

impl State {
    pub(super) fn take_listener(
        &mut self,
        name: &str,
        received: Received,
    ) -> Result<(), DecodeError> {
        let entry = self.listeners.entry(name.to_owned()).or_default();
        if entry.is_known::<v3::Listener>(&received) {
            self.stats.config.unchanged.inc();
            return Ok(());
        }
        self.stats.config.listeners_decoded.inc();
        let decoded = Decoder::new(&mut self.names)
            .listener(&received.bytes)
            .and_then(|decoded| {
                if *decoded.value.name == *name {
                    return Ok(decoded);
                }
                Err(DecodeError {
                    resource: name.to_owned(),
                    path: "name".to_owned(),
                    why: format!(
                        "is {:?}, but the resource is called {name:?}",
                        decoded.value.name
                    ),
                })
            });
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                entry.refused = Some(Refused {
                    received,
                    why: error.to_string(),
                });
                return Err(error);
            }
        };
        entry.refused = None;
        match entry.latest() {
            Some(_) => self.stats.listener_modified.inc(),
            None => self.stats.listener_added.inc(),
        }
        let value = AcceptedListener {
            listener: decoded.value,
            chains: Vec::new(),
        };
        entry.warming = Some(InUse {
            received,
            value,
            ignored: decoded.ignored,
        });
        self.references_changed = true;
        Ok(())
    }

    pub(super) fn remove_listeners(&mut self, names: Vec<String>) {
        let gone = remove(&mut self.listeners, names);
        if gone > 0 {
            self.stats.listener_removed.add(gone);
            self.dirty = true;
            self.references_changed = true;
        }
    }

    /// Puts to use the listeners whose route tables have all come.
    pub(super) fn warm_listeners(&mut self) {
        let routes = &self.routes;
        for entry in self.listeners.values_mut() {
            let known = |name: &str| routes.get(name).is_some_and(|r| r.active.is_some());
            if entry
                .warming
                .as_ref()
                .is_some_and(|w| w.value.rds_names().all(known))
            {
                entry.active = entry.warming.take();
                // Tables that the one before named may be needed no longer: seen to with the next response.
                self.references_changed = true;
                if let Some(active) = &mut entry.active {
                    active.value.chains = compile(&active.value.listener, routes);
                }
                self.dirty = true;
            }
        }
    }

    /// Gives the chains that name a route table the one that has come.
    pub(super) fn renew_chains(&mut self, table: &str) {
        let routes = &self.routes;
        for active in self
            .listeners
            .values_mut()
            .filter_map(|l| l.active.as_mut())
        {
            let Listener::Router(router) = &active.value.listener.kind else {
                continue;
            };
            for (decoded, chain) in router.chains.iter().zip(&mut active.value.chains) {
                if decoded.rds.as_deref() == Some(table) {
                    *chain = super::routes::with_table(decoded, routes);
                    self.dirty = true;
                }
            }
        }
    }
}

fn compile(listener: &DecodedListener, routes: &super::routes::Tables) -> Vec<Arc<Chain>> {
    match &listener.kind {
        Listener::Router(router) => router
            .chains
            .iter()
            .map(|c| super::routes::with_table(c, routes))
            .collect(),
        Listener::Terminate(_) | Listener::Originate(_) | Listener::DoubleTunnel => Vec::new(),
    }
}
