//! The proxy's HTTP endpoints: admin, readiness, metrics.
//!
//! Spec: hbone-and-l4.md 17.3, cli-and-admin.md 10.

mod config_dump;
mod http;

use std::sync::Arc;

use ::http::{Method, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use waymark_rt::Shutdown;
use waymark_rt::log::{LevelSpec, LogHandle};

use crate::certificates::Certificates;
use crate::readiness::Readiness;
use crate::state::StateHandle;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::Gauge;
pub use http::serve;

/// Everything that the endpoints show or do.
#[derive(Clone)]
pub struct Admin {
    /// What is known of the mesh.
    pub state: StateHandle,
    /// Certificates.
    pub certificates: Certificates,
    /// Counters and open connections.
    pub telemetry: Arc<Telemetry>,
    /// Readiness.
    pub readiness: Readiness,
    /// Log levels, where they can be changed.
    pub log: Option<LogHandle>,
    /// For `/quitquitquit`.
    pub shutdown: Shutdown,
    /// Effective settings.
    pub config: Arc<Value>,
}

/// Which of the three servers a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// `/healthz/ready`.
    Readiness,
    /// `/metrics`.
    Metrics,
}

type Answer = Response<Full<Bytes>>;

impl Admin {
    /// Answers a request.
    fn answer(&self, role: Role, method: &Method, path: &str, query: Option<&str>) -> Answer {
        match (role, path) {
            (Role::Readiness | Role::Admin, "/healthz/ready") => self.ready(),
            (Role::Metrics | Role::Admin, "/metrics" | "/stats/prometheus") => self.metrics(),
            (Role::Admin, "/") => text(StatusCode::OK, "text/html; charset=utf-8", INDEX),
            (Role::Admin, "/config_dump") => json(&config_dump::render(self)),
            (Role::Admin, "/logging") if method == Method::POST => self.logging(query),
            (Role::Admin, "/quitquitquit") if method == Method::POST => {
                self.shutdown.begin();
                plain(StatusCode::OK, "shutdown now\n")
            }
            (Role::Admin, "/logging" | "/quitquitquit") => {
                plain(StatusCode::METHOD_NOT_ALLOWED, "")
            }
            (Role::Admin | Role::Readiness | Role::Metrics, _) => plain(StatusCode::NOT_FOUND, ""),
        }
    }

    fn ready(&self) -> Answer {
        let mut pending = self.readiness.pending();
        if self.shutdown.is_draining() {
            pending.push("drain".to_owned());
        }
        if pending.is_empty() {
            return plain(StatusCode::OK, "ready\n");
        }
        plain(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("not ready, pending: {}\n", pending.join(", ")),
        )
    }

    fn metrics(&self) -> Answer {
        self.telemetry.connections.flush();
        let usage = waymark_rt::usage::of_this_process();
        let gauges = [
            Gauge {
                name: "waymark_capture_addresses",
                help: "addresses that connections are captured at",
                value: count(self.readiness.captured().len()),
            },
            Gauge {
                name: "waymark_capture_obstacles",
                help: "addresses that cannot be captured",
                value: count(self.readiness.obstacles().len()),
            },
            Gauge {
                name: "process_open_fds",
                help: "open descriptors",
                value: usage.open_fds,
            },
            Gauge {
                name: "process_resident_memory_bytes",
                help: "memory",
                value: usage.resident_bytes,
            },
        ];
        text(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            self.telemetry.metrics.render(&gauges),
        )
    }

    /// `?level=<spec>` sets, `?reset` goes back to what the program was started with, nothing shows.
    fn logging(&self, query: Option<&str>) -> Answer {
        let Some(log) = &self.log else {
            return plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "log levels of this process cannot be changed\n",
            );
        };
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        let mut level = None;
        for pair in pairs {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("reset", _) => log.reset(),
                ("level", spec) => level = Some(spec),
                _ => return plain(StatusCode::BAD_REQUEST, LOGGING_USAGE),
            }
        }
        if let Some(spec) = level.filter(|spec| !spec.is_empty()) {
            // The documented form is `scope:level`, the one that works upstream `scope=level`: both are meant.
            let spec = spec
                .replace("%3D", "=")
                .replace("%2C", ",")
                .replace("%3A", ":");
            match normal_level(&spec).parse::<LevelSpec>() {
                Ok(spec) => log.set(spec),
                Err(error) => {
                    let text = format!("Invalid level provided: {error}\n{LOGGING_USAGE}");
                    return plain(StatusCode::BAD_REQUEST, text);
                }
            }
        }
        plain(
            StatusCode::OK,
            format!("current log level is {}\n", log.current()),
        )
    }
}

/// `a::b:debug` becomes `a::b=debug`.
fn normal_level(spec: &str) -> String {
    let part = |part: &str| match part.rsplit_once(':') {
        Some((scope, level)) if !part.contains('=') && !scope.ends_with(':') => {
            format!("{scope}={level}")
        }
        Some(_) | None => part.to_owned(),
    };
    spec.split(',').map(part).collect::<Vec<_>>().join(",")
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn json(value: &Value) -> Answer {
    let body = serde_json::to_string_pretty(value).unwrap_or_default();
    text(StatusCode::OK, "application/json", body)
}

fn plain(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    text(status, "text/plain; charset=utf-8", body)
}

fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    answer
}

const LOGGING_USAGE: &str = "usage: POST /logging\t\t\t\tshow the log levels
usage: POST /logging?level=<level>\t\tset the level of everything
usage: POST /logging?level=<scope>=<level>,...\tset the levels of scopes
usage: POST /logging?reset\t\t\tback to the levels of the start
levels: off, error, warn, info, debug, trace
";

const INDEX: &str = "<!DOCTYPE html>
<html><head><title>waymark node proxy</title></head><body><h1>waymark node proxy</h1><table>
<tr><td><a href=\"config_dump\">config_dump</a></td><td>what is known of the mesh, certificates, open connections</td></tr>
<tr><td>logging</td><td>POST: show or change log levels</td></tr>
<tr><td>quitquitquit</td><td>POST: drain and end</td></tr>
<tr><td><a href=\"metrics\">metrics</a></td><td>counters</td></tr>
<tr><td><a href=\"healthz/ready\">healthz/ready</a></td><td>readiness</td></tr>
</table></body></html>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_scope_level_are_understood() {
        for (given, normal) in [
            ("debug", "debug"),
            ("access=debug", "access=debug"),
            ("access:debug", "access=debug"),
            (
                "waymark_node::proxy:trace,info",
                "waymark_node::proxy=trace,info",
            ),
            ("waymark_node::proxy", "waymark_node::proxy"),
        ] {
            assert_eq!(normal_level(given), normal);
        }
    }
}
