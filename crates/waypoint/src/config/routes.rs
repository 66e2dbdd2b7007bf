//! Route tables that come over RDS.

use std::sync::Arc;

use waymark_proto::envoy::envoy::config::route::v3;

use super::entry::{Entries, InUse, Received, Refused};
use super::state::State;
use crate::decode::{DecodeError, DecodedChain, Decoder};
use crate::program::Chain;
use crate::route::RouteTable;

/// Tables by name.
pub(super) type Tables = Entries<Arc<RouteTable>>;

impl State {
    pub(super) fn take_routes(
        &mut self,
        name: &str,
        received: Received,
    ) -> Result<(), DecodeError> {
        let entry = self.routes.entry(name.to_owned()).or_default();
        if entry.is_known::<v3::RouteConfiguration>(&received) {
            self.stats.config.unchanged.inc();
            return Ok(());
        }
        self.stats.config.routes_decoded.inc();
        let decoded = Decoder::new(&mut self.names)
            .route_configuration(&received.bytes)
            .and_then(|decoded| {
                if **decoded.value.name() == *name {
                    return Ok(decoded);
                }
                Err(DecodeError {
                    resource: name.to_owned(),
                    path: "name".to_owned(),
                    why: format!(
                        "is {:?}, but the resource is called {name:?}",
                        decoded.value.name()
                    ),
                })
            });
        match decoded {
            Ok(decoded) => {
                entry.refused = None;
                entry.active = Some(InUse {
                    received,
                    value: decoded.value,
                    ignored: decoded.ignored,
                });
                self.renew_chains(name);
                Ok(())
            }
            Err(error) => {
                entry.refused = Some(Refused {
                    received,
                    why: error.to_string(),
                });
                Err(error)
            }
        }
    }
}

/// A chain with the table that it names, or its own.
pub(super) fn with_table(decoded: &DecodedChain, tables: &Tables) -> Arc<Chain> {
    let table = decoded
        .rds
        .as_deref()
        .and_then(|name| tables.get(name)?.active.as_ref());
    Arc::new(match (&decoded.chain, table) {
        (Chain::Http(http), Some(table)) => {
            let mut http = http.clone();
            http.routes = Arc::clone(&table.value);
            Chain::Http(http)
        }
        (Chain::Http(http), None) => Chain::Http(http.clone()),
        (Chain::Tcp(tcp), _) => Chain::Tcp(tcp.clone()),
    })
}
