//! `/logging`: Envoy's loggers, mapped to the modules of this program.

use http::StatusCode;

use super::query::Query;
use super::{Admin, Answer};

/// Envoy's logger names (people type them), and the module that does what the logger is about; the others are shown and
/// follow the general level.
const LOGGERS: &[(&str, Option<&str>)] = &[
    ("admin", Some("waymark_waypoint::admin")),
    ("aws", None),
    ("client", Some("waymark_waypoint::http")),
    ("cluster", Some("waymark_waypoint::cluster")),
    ("config", Some("waymark_waypoint::config")),
    ("conn_handler", Some("waymark_waypoint::worker")),
    ("connection", Some("waymark_waypoint::downstream")),
    ("ext_authz", None),
    ("filter", Some("waymark_waypoint::tcp")),
    ("forward_proxy", None),
    ("grpc", Some("tonic")),
    ("hc", None),
    ("http", Some("waymark_driver::http1")),
    ("http2", Some("waymark_driver::h2")),
    ("init", Some("waymark_waypoint::run")),
    ("jwt", None),
    ("lua", None),
    ("main", Some("waymark_rt")),
    ("misc", None),
    ("pool", Some("waymark_hbone")),
    ("rbac", None),
    ("router", Some("waymark_waypoint::route")),
    ("runtime", None),
    ("secret", Some("waymark_identity")),
    ("tracing", None),
    ("upstream", Some("waymark_waypoint::originate")),
    ("udp", None),
    ("wasm", None),
    ("xds", Some("waymark_xds")),
];

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    levels: trace debug info warning error critical off\n";

impl Admin {
    pub(super) fn logging(&self, query: &Query) -> Answer {
        let Some(log) = &self.log else {
            return Answer::refused(StatusCode::NOT_IMPLEMENTED, "logging is not set up\n");
        };
        let mut levels = Levels::of(&log.current());
        if let Err(why) = levels.change(query) {
            return Answer::refused(StatusCode::BAD_REQUEST, format!("error: {why}\n{USAGE}"));
        }
        if query.iter().next().is_some() {
            match levels.spec().parse() {
                Ok(spec) => log.set(spec),
                Err(error) => {
                    return Answer::refused(
                        StatusCode::BAD_REQUEST,
                        format!("error: {error}\n{USAGE}"),
                    );
                }
            }
        }
        Answer::text(levels.list())
    }
}

/// The general level, and those of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    general: String,
    modules: Vec<(String, String)>,
}

impl Levels {
    fn of(spec: &waymark_rt::log::LevelSpec) -> Self {
        let name = |level: tracing::level_filters::LevelFilter| level.to_string().to_lowercase();
        Self {
            general: name(spec.default_level()),
            modules: spec
                .targets()
                .map(|(target, level)| (target.to_owned(), name(level)))
                .collect(),
        }
    }

    fn change(&mut self, query: &Query) -> Result<(), String> {
        for (key, value) in query.iter() {
            match key {
                "level" => {
                    self.general = level(value)?.to_owned();
                    self.modules.clear();
                }
                "paths" => {
                    for pair in value.split(',').filter(|p| !p.is_empty()) {
                        let (name, value) = pair
                            .rsplit_once(':')
                            .ok_or_else(|| format!("{pair:?} has no level"))?;
                        self.set(name, value)?;
                    }
                }
                name => self.set(name, value)?,
            }
        }
        Ok(())
    }

    fn set(&mut self, logger: &str, value: &str) -> Result<(), String> {
        let level = level(value)?;
        let known = LOGGERS.iter().find(|(name, _)| *name == logger);
        let module = match known {
            Some((_, Some(module))) => *module,
            // Nothing here logs by that name.
            Some((_, None)) => return Ok(()),
            // A module's own path is fine too.
            None if logger.starts_with("waymark") => logger,
            None => return Err(format!("unknown logger name {logger:?}")),
        };
        self.modules.retain(|(m, _)| m != module);
        self.modules.push((module.to_owned(), level.to_owned()));
        Ok(())
    }

    fn spec(&self) -> String {
        let modules = self
            .modules
            .iter()
            .map(|(module, level)| format!(",{module}={level}"));
        format!("{}{}", self.general, modules.collect::<String>())
    }

    fn list(&self) -> String {
        let mut out = String::from("active loggers:\n");
        for (name, module) in LOGGERS {
            let own = module.and_then(|m| self.modules.iter().find(|(module, _)| module == m));
            let level = own.map_or(&self.general, |(_, level)| level);
            out.push_str(&format!(
                "  {name}: {}\n",
                if level == "warn" { "warning" } else { level }
            ));
        }
        out
    }
}

/// Envoy's level as one of ours.
fn level(name: &str) -> Result<&'static str, String> {
    Ok(match name {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warning" | "warn" => "warn",
        "error" | "critical" => "error",
        "off" => "off",
        _ => return Err(format!("unknown logger level {name:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_change_by_envoys_names() {
        let mut levels = Levels {
            general: "info".into(),
            modules: Vec::new(),
        };
        assert_eq!(
            levels.change(&Query::parse("paths=http:debug,rbac:trace")),
            Ok(())
        );
        assert_eq!(levels.spec(), "info,waymark_driver::http1=debug");
        assert_eq!(levels.change(&Query::parse("connection=warning")), Ok(()));
        assert!(
            levels.list().contains("  connection: warning\n")
                && levels.list().contains("  rbac: info\n")
        );
        assert_eq!(levels.change(&Query::parse("level=error")), Ok(()));
        assert_eq!(levels.spec(), "error");
        assert!(levels.change(&Query::parse("nonsense=debug")).is_err());
        assert!(levels.change(&Query::parse("level=loud")).is_err());
    }
}
