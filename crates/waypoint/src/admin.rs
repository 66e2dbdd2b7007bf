//! The admin interface, as Envoy's (port 15000), and its small siblings: metrics (15020) and readiness (15021).
//!
//! [`Admin::answer`] is a function from a request to an answer; [`serve`] puts it on a socket.

mod bootstrap;
mod certs;
mod clusters;
mod config_dump;
mod json;
mod lifecycle;
mod logging;
mod mask;
mod query;
mod server;
mod server_info;
mod stats;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;
use waymark_identity::CertHandle;
use waymark_rt::Clock;
use waymark_rt::log::LogHandle;

pub use self::lifecycle::{Lifecycle, Phase, Wish};
use self::query::Query;
pub use self::server::serve;
use crate::config::{Config, NodeOptions};
use crate::program::SnapshotCell;
use crate::telemetry::Telemetry;

/// What admin shows.
#[derive(Debug)]
pub struct Admin {
    /// What was received.
    pub config: Config,
    /// What is in use.
    pub snapshot: SnapshotCell,
    /// Figures.
    pub telemetry: Arc<Telemetry>,
    /// Where the process is in its life.
    pub lifecycle: Arc<Lifecycle>,
    /// The waypoint's certificate.
    pub identity: Option<CertHandle>,
    /// The log's levels.
    pub log: Option<LogHandle>,
    /// Who the waypoint says it is.
    pub node: NodeOptions,
    /// Where it listens and whom it talks to.
    pub places: Places,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Where the process listens and whom it talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Admin.
    pub admin: SocketAddr,
    /// Metrics, `/stats/prometheus`.
    pub metrics: SocketAddr,
    /// Readiness, `/healthz/ready`.
    pub readiness: SocketAddr,
    /// Tunnels.
    pub tunnels: Vec<SocketAddr>,
    /// The control plane's xDS, `host:port`.
    pub control_plane: String,
    /// The certificate authority, `host:port`.
    pub ca: String,
    /// Worker threads.
    pub workers: usize,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// `content-type`.
    pub content_type: &'static str,
    /// Body.
    pub body: Bytes,
}

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Answer {
    fn text(body: impl Into<String>) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: TEXT,
            body: Bytes::from(body.into()),
        }
    }

    fn json(value: &Value) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: JSON,
            body: Bytes::from(json::pretty(value)),
        }
    }

    fn refused(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::text(why)
        }
    }
}

/// A path of the admin interface.
struct Path {
    path: &'static str,
    /// Changes something, so it has to be a POST.
    changes: bool,
    help: &'static str,
    answer: fn(&Admin, &Query) -> Answer,
}

const PATHS: &[Path] = &[
    get("/", "admin home page", |a, _| a.home()),
    get("/certs", "print certificates", |a, _| a.certs()),
    get(
        "/clusters",
        "upstream cluster status (format=json)",
        Admin::clusters,
    ),
    get(
        "/config_dump",
        "dump what was received (include_eds, mask, resource, name_regex)",
        Admin::config_dump,
    ),
    get("/contention", "mutex contention: not measured", |_, _| {
        Answer::text("Mutex contention tracing is not enabled.\n")
    }),
    post(
        "/drain_listeners",
        "drain listeners (graceful, inboundonly, skip_exit)",
        Admin::drain_listeners,
    ),
    post(
        "/healthcheck/fail",
        "cause the server to fail health checks",
        |a, _| a.health(false),
    ),
    post(
        "/healthcheck/ok",
        "cause the server to pass health checks",
        |a, _| a.health(true),
    ),
    get("/help", "print out list of admin commands", |_, _| {
        Answer::text(format!("admin commands are:\n{}", help()))
    }),
    get(
        "/hot_restart_version",
        "print the hot restart compatibility version",
        |_, _| Answer::text("disabled\n"),
    ),
    get("/init_dump", "what is waited for", |a, _| a.init_dump()),
    get(
        "/listeners",
        "print listener info (format=json)",
        Admin::listeners,
    ),
    post(
        "/logging",
        "query/change logging levels (level, paths, <logger>=<level>)",
        Admin::logging,
    ),
    get("/memory", "print current allocation/heap usage", |_, _| {
        server_info::memory()
    }),
    post("/quitquitquit", "exit the server", |a, _| a.quit()),
    get(
        "/ready",
        "print server state, return 200 if LIVE, otherwise return 503",
        |a, _| a.ready(),
    ),
    post("/reset_counters", "reset all counters to zero", |a, _| {
        a.reset_counters()
    }),
    get("/runtime", "print runtime values", |_, _| {
        server_info::runtime()
    }),
    get(
        "/server_info",
        "print server version/status information",
        |a, _| a.server_info(),
    ),
    get(
        "/stats",
        "print server stats (usedonly, filter, type, format)",
        Admin::stats,
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format (usedonly, filter)",
        Admin::stats_prometheus,
    ),
    get(
        "/stats/recentlookups",
        "stat name lookups: not kept",
        |_, _| Answer::text(""),
    ),
    get(
        "/x/ignored",
        "what of the configuration does nothing here",
        |a, _| a.ignored(),
    ),
];

const fn get(path: &'static str, help: &'static str, answer: fn(&Admin, &Query) -> Answer) -> Path {
    Path {
        path,
        changes: false,
        help,
        answer,
    }
}

const fn post(
    path: &'static str,
    help: &'static str,
    answer: fn(&Admin, &Query) -> Answer,
) -> Path {
    Path {
        path,
        changes: true,
        help,
        answer,
    }
}

fn help() -> String {
    PATHS
        .iter()
        .map(|p| {
            format!(
                "  {}{}: {}\n",
                p.path,
                if p.changes { " (POST)" } else { "" },
                p.help
            )
        })
        .collect()
}

impl Admin {
    /// Answers a request to the admin port. `target` is path and query.
    #[must_use]
    pub fn answer(&self, method: &Method, target: &str) -> Answer {
        let (path, query) = crate::route::split_query(target);
        let Some(known) = PATHS.iter().find(|p| p.path == path) else {
            let body = format!("invalid path. admin commands are:\n{}", help());
            return Answer::refused(StatusCode::NOT_FOUND, body);
        };
        if known.changes && method != Method::POST {
            let body = format!("Method {method} not allowed, POST required.");
            return Answer::refused(StatusCode::METHOD_NOT_ALLOWED, body);
        }
        (known.answer)(self, &Query::parse(query.unwrap_or_default()))
    }

    /// Answers a request to the metrics port: what the agent of an istio-proxy answers there. Only the machine itself may
    /// drain or end the waypoint. Spec: cli-and-admin.md 11.
    #[must_use]
    pub fn answer_metrics(&self, from: IpAddr, method: &Method, target: &str) -> Answer {
        let (path, query) = crate::route::split_query(target);
        match path {
            "/stats/prometheus" | "/metrics" => {
                self.stats_prometheus(&Query::parse(query.unwrap_or_default()))
            }
            "/healthz/ready" => self.healthz_ready(),
            "/quitquitquit" | "/drain" if !from.to_canonical().is_loopback() => {
                let why = "Only requests from localhost are allowed\n";
                Answer::refused(StatusCode::FORBIDDEN, why)
            }
            "/quitquitquit" | "/drain" if method != Method::POST => {
                Answer::refused(StatusCode::METHOD_NOT_ALLOWED, "")
            }
            "/quitquitquit" => {
                self.lifecycle.wish(Wish::Quit);
                Answer::text("OK")
            }
            "/drain" => {
                self.lifecycle.wish(Wish::Drain);
                Answer::text("OK")
            }
            _ => Answer::refused(StatusCode::NOT_FOUND, ""),
        }
    }

    /// Answers a request to the port where a pod's proxy serves its figures, without its agent.
    #[must_use]
    pub fn answer_prometheus(&self, target: &str) -> Answer {
        match crate::route::split_query(target) {
            ("/stats/prometheus", query) => {
                self.stats_prometheus(&Query::parse(query.unwrap_or_default()))
            }
            _ => Answer::refused(StatusCode::NOT_FOUND, ""),
        }
    }

    /// Answers a request to the readiness port.
    #[must_use]
    pub fn answer_readiness(&self, _: &Method, target: &str) -> Answer {
        match crate::route::split_query(target).0 {
            "/healthz/ready" => self.healthz_ready(),
            _ => Answer::refused(StatusCode::NOT_FOUND, ""),
        }
    }

    fn healthz_ready(&self) -> Answer {
        let status = if self.lifecycle.is_ready() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Answer::refused(status, "")
    }

    fn ready(&self) -> Answer {
        let status = if self.lifecycle.is_ready() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Answer::refused(status, format!("{}\n", self.lifecycle.shown().name()))
    }

    fn home(&self) -> Answer {
        let mut body =
            String::from("<!DOCTYPE html>\n<title>waymark waypoint admin</title>\n<table>\n");
        for path in PATHS {
            let link = if path.changes {
                format!(
                    "<form action=\"{0}\" method=\"post\"><button>{0}</button></form>",
                    path.path
                )
            } else {
                format!("<a href=\"{0}\">{0}</a>", path.path)
            };
            body.push_str(&format!("<tr><td>{link}</td><td>{}</td></tr>\n", path.help));
        }
        body.push_str("</table>\n");
        Answer {
            content_type: HTML,
            ..Answer::text(body)
        }
    }

    fn health(&self, ok: bool) -> Answer {
        self.lifecycle.set_healthy(ok);
        Answer::text("OK\n")
    }

    fn quit(&self) -> Answer {
        self.lifecycle.wish(Wish::Quit);
        Answer::text("OK\n")
    }

    fn drain_listeners(&self, query: &Query) -> Answer {
        if query.has("skip_exit") && !query.has("graceful") {
            return Answer::refused(StatusCode::BAD_REQUEST, "skip_exit requires graceful\n");
        }
        self.lifecycle.wish(Wish::Drain);
        Answer::text("OK\n")
    }

    fn reset_counters(&self) -> Answer {
        self.telemetry.reset_counters(&self.snapshot.load());
        Answer::text("OK\n")
    }

    fn ignored(&self) -> Answer {
        let rows = self.config.ignored().into_iter().map(|(resource, note)| {
            serde_json::json!({ "resource": resource, "path": note.path, "what": note.what })
        });
        Answer::json(&serde_json::json!({ "ignored": rows.collect::<Vec<_>>() }))
    }
}

#[cfg(test)]
mod tests;
