//! Whether Envoy takes traffic, by its own numbers.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::Method;
use tracing::{info, warn};

use crate::envoy::admin;
use crate::relay::chain;

/// Looks at Envoy's numbers when it is asked. What was true once of configuration and workers is not asked again.
pub(super) struct Readiness {
    admin: SocketAddr,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    configured: bool,
    workers: bool,
    ready_since: Option<Instant>,
    /// The reason that was logged last.
    told: Option<String>,
}

impl Readiness {
    pub(super) fn new(admin: SocketAddr) -> Self {
        Self {
            admin,
            seen: Mutex::default(),
        }
    }

    pub(super) async fn look(&self) -> bool {
        let stats = admin::ask(self.admin, Method::GET, PATH).await;
        let mut seen = self.seen();
        let obstacle = match &stats {
            Ok(stats) => seen.obstacle(&Numbers::of(&String::from_utf8_lossy(stats))),
            Err(error) => Some(format!("failed to get readiness stats: {}", chain(error))),
        };
        match (&obstacle, &seen.told) {
            (None, _) if seen.ready_since.is_none() => info!("envoy is ready"),
            (Some(now), told) if told.as_ref() != Some(now) => {
                warn!("Envoy proxy is NOT ready: {now}");
            }
            _ => {}
        }
        let ready = obstacle.is_none();
        if ready {
            seen.ready_since.get_or_insert_with(Instant::now);
        }
        seen.told = obstacle;
        ready
    }

    /// Seconds from the start to the first time that it was ready.
    pub(super) fn ready_after(&self, started: Instant) -> Option<String> {
        let since = self.seen().ready_since?;
        Some(
            since
                .saturating_duration_since(started)
                .as_secs_f64()
                .to_string(),
        )
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// What stands in the way, in upstream's words.
    fn obstacle(&mut self, now: &Numbers) -> Option<String> {
        let Numbers {
            cds,
            lds,
            state,
            workers,
        } = now;
        self.configured |= cds.taken > 0 && lds.taken > 0;
        if !self.configured {
            let what = match (cds, lds) {
                (c, l) if c.refused > 0 || l.refused > 0 => {
                    "config received from XDS server, but was rejected"
                }
                (c, l) if c.taken > 0 || l.taken > 0 => "config not fully received from XDS server",
                _ => "config not received from XDS server (is Istiod running?)",
            };
            return Some(format!(
                "{what}: cds updates: {} successful, {} rejected; lds updates: {} successful, {} rejected",
                cds.taken, cds.refused, lds.taken, lds.refused
            ));
        }
        if *state != 0 {
            let name = STATES
                .get(usize::try_from(*state).unwrap_or(usize::MAX))
                .unwrap_or(&"UNKNOWN");
            return Some(format!("server is not live, current state is: {name}"));
        }
        self.workers |= *workers;
        (!self.workers).then(|| "workers have not yet started".to_owned())
    }
}

#[derive(Default)]
struct Updates {
    taken: u64,
    refused: u64,
}

struct Numbers {
    cds: Updates,
    lds: Updates,
    state: u64,
    workers: bool,
}

impl Numbers {
    fn of(stats: &str) -> Self {
        // What is not there is not live.
        let mut all = Self {
            cds: Updates::default(),
            lds: Updates::default(),
            state: 3,
            workers: false,
        };
        for (name, value) in admin::numbers(stats) {
            match name {
                "cluster_manager.cds.update_success" => all.cds.taken = value,
                "cluster_manager.cds.update_rejected" => all.cds.refused = value,
                "listener_manager.lds.update_success" => all.lds.taken = value,
                "listener_manager.lds.update_rejected" => all.lds.refused = value,
                "server.state" => all.state = value,
                "listener_manager.workers_started" => all.workers = value == 1,
                _ => {}
            }
        }
        all
    }
}

const STATES: [&str; 4] = ["LIVE", "DRAINING", "PRE_INITIALIZING", "INITIALIZING"];
const PATH: &str = "/stats?filter=%5E(server.state%7Clistener_manager.workers_started%7C(cluster_manager.cds%7Clistener_manager.lds).update_(success%7Crejected))%24";

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(seen: &mut Seen, stats: &str) -> Option<String> {
        seen.obstacle(&Numbers::of(stats))
    }

    #[test]
    fn says_what_is_missing_in_upstreams_words() {
        let cases = [
            (
                "",
                "config not received from XDS server (is Istiod running?): cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected",
            ),
            (
                "cluster_manager.cds.update_success: 1\n",
                "config not fully received from XDS server: cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 0 rejected",
            ),
            (
                "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_rejected: 2\n",
                "config received from XDS server, but was rejected: cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 2 rejected",
            ),
            (
                "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\nserver.state: 3\n",
                "server is not live, current state is: INITIALIZING",
            ),
            (
                "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\nserver.state: 0\n",
                "workers have not yet started",
            ),
        ];
        for (stats, want) in cases {
            assert_eq!(obstacle(&mut Seen::default(), stats).as_deref(), Some(want));
        }
    }

    #[test]
    fn configuration_and_workers_are_latched_the_state_is_not() {
        let mut seen = Seen::default();
        let all = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\nserver.state: 0\nlistener_manager.workers_started: 1\n";
        assert_eq!(obstacle(&mut seen, all), None);
        assert_eq!(obstacle(&mut seen, "server.state: 0\n"), None);
        assert_eq!(
            obstacle(&mut seen, "server.state: 1\n").as_deref(),
            Some("server is not live, current state is: DRAINING")
        );
    }
}
