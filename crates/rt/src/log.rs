//! Log set-up: text or JSON lines on stderr (or into a file), at levels that can be changed while the program runs.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "text" | "plain" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(s.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Which lines are written: `info`, or `info,waymark_node=debug,access=off`.
///
/// A part without `=` is the level of everything else; a target is the start of a module path.
#[derive(Debug, Clone, PartialEq)]
pub struct LevelSpec {
    targets: Targets,
    text: String,
}

impl LevelSpec {
    /// The level of what no target names.
    pub fn default_level(&self) -> LevelFilter {
        self.targets.default_level().unwrap_or(LevelFilter::OFF)
    }

    /// Without what a library logs about errors that it returns too, unless the spec names that target itself.
    #[must_use]
    pub fn quietened(mut self, target: &str) -> Self {
        if self.targets().all(|(named, _)| named != target) {
            self.targets = self.targets.with_target(target, LevelFilter::OFF);
        }
        self
    }

    /// The targets that have a level of their own, and their levels.
    pub fn targets(&self) -> impl Iterator<Item = (&str, LevelFilter)> {
        self.targets.iter()
    }
}

impl Default for LevelSpec {
    fn default() -> Self {
        Self {
            targets: Targets::new().with_default(LevelFilter::INFO),
            text: "info".to_owned(),
        }
    }
}

impl FromStr for LevelSpec {
    type Err = LogError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = |part: &str| LogError::Level {
            spec: s.to_owned(),
            part: part.to_owned(),
        };
        let mut targets = Targets::new();
        let mut default = None;
        for part in s.split(',').map(str::trim) {
            match part.split_once('=') {
                None => {
                    let level = level(part).ok_or_else(|| invalid(part))?;
                    if default.replace(level).is_some() {
                        return Err(invalid(part));
                    }
                }
                Some((target, name)) => {
                    let level = level(name).ok_or_else(|| invalid(part))?;
                    if target.is_empty()
                        || !target.bytes().all(|b| {
                            b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-' | b'.')
                        })
                    {
                        return Err(invalid(part));
                    }
                    targets = targets.with_target(target, level);
                }
            }
        }
        // A spec that names only targets leaves the rest as it usually is, rather than off.
        let targets = targets.with_default(default.unwrap_or(LevelFilter::INFO));
        Ok(Self {
            targets,
            text: s.split(',').map(str::trim).collect::<Vec<_>>().join(","),
        })
    }
}

impl fmt::Display for LevelSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn level(name: &str) -> Option<LevelFilter> {
    Some(match name.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Where lines go.
#[derive(Debug, Default)]
pub enum LogSink {
    /// Standard error.
    #[default]
    Stderr,
    /// A file, written to as it is (open it for appending).
    File(File),
}

/// What [`init`] sets up.
#[derive(Debug, Default)]
pub struct LogOptions {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines are written, at the start and after a reset.
    pub level: LevelSpec,
    /// Where they go.
    pub sink: LogSink,
}

/// Why logging is not set up or not changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a format.
    #[error("log format {0:?}: allowed are text and json")]
    Format(String),
    /// Not a level specification.
    #[error(
        "log level {spec:?}: {part:?} is none of off, error, warn, info, debug, trace, or TARGET=LEVEL"
    )]
    Level {
        /// The whole text.
        spec: String,
        /// The part that is wrong.
        part: String,
    },
    /// Set up twice in one process.
    #[error("logging is already set up")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

/// Changes the levels of a running program. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
}

struct Shared {
    reload: reload::Handle<Targets, Registry>,
    initial: LevelSpec,
    current: Mutex<LevelSpec>,
}

impl LogHandle {
    /// The levels in force.
    pub fn current(&self) -> LevelSpec {
        self.shared
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts other levels in force.
    pub fn set(&self, level: LevelSpec) {
        let mut current = self
            .shared
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Fails only when the subscriber is gone, and then there is nothing to filter.
        if self.shared.reload.reload(level.targets.clone()).is_ok() {
            *current = level;
        }
    }

    /// Goes back to the levels of the start.
    pub fn reset(&self) {
        self.set(self.shared.initial.clone());
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogHandle")
            .field(&self.current().text)
            .finish()
    }
}

/// Sets up logging for the whole process; once, from `main`. A panic is logged as an error, with its place.
///
/// # Errors
/// When it is set up already.
pub fn init(options: LogOptions) -> Result<LogHandle, LogError> {
    let (filter, reload) = reload::Layer::new(options.level.targets.clone());
    let (writer, ansi) = match options.sink {
        LogSink::Stderr => (BoxMakeWriter::new(io::stderr), io::stderr().is_terminal()),
        LogSink::File(file) => (BoxMakeWriter::new(Mutex::new(file)), false),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(ansi)
        .with_span_events(FmtSpan::NONE);
    let lines = match options.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(LogError::AlreadySet)?;
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let why = info.payload_as_str().unwrap_or("");
        tracing::error!(at, thread = thread.name(), why, "panic");
    }));
    let current = Mutex::new(options.level.clone());
    Ok(LogHandle {
        shared: Arc::new(Shared {
            reload,
            initial: options.level,
            current,
        }),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn parses_levels_and_targets() {
        let spec: LevelSpec = "warn, waymark_node=debug,access=off".parse().unwrap();
        assert_eq!(spec.default_level(), LevelFilter::WARN);
        assert!(
            spec.targets
                .would_enable("waymark_node::inbound", &tracing::Level::DEBUG)
        );
        assert!(
            !spec
                .targets
                .would_enable("waymark_hbone", &tracing::Level::INFO)
        );
        assert!(!spec.targets.would_enable("access", &tracing::Level::ERROR));
        assert_eq!(spec.to_string(), "warn,waymark_node=debug,access=off");
    }

    #[test]
    fn a_target_is_quiet_unless_it_is_named() {
        let on = |spec: &str, level| {
            let spec = spec.parse::<LevelSpec>().unwrap().quietened("kube");
            spec.targets.would_enable("kube::client", &level)
        };
        assert!(!on("debug", tracing::Level::ERROR));
        assert!(on("warn,kube=info", tracing::Level::INFO));
    }

    #[test]
    fn targets_alone_leave_the_rest_at_info() {
        let spec: LevelSpec = "h2=trace".parse().unwrap();
        assert_eq!(spec.default_level(), LevelFilter::INFO);
    }

    #[test]
    fn rejects_what_is_no_level() {
        for bad in [
            "",
            "loud",
            "info,debug",
            "h2=",
            "=info",
            "h2:debug",
            "h 2=info",
            "info,,debug",
            "a=b=c",
        ] {
            let e = bad.parse::<LevelSpec>().unwrap_err();
            assert!(matches!(e, LogError::Level { .. }), "{bad}: {e}");
        }
    }

    #[test]
    fn levels_change_while_the_program_runs() {
        let mut file = tempfile::tempfile().unwrap();
        let sink = LogSink::File(file.try_clone().unwrap());
        let handle = init(LogOptions {
            format: LogFormat::Json,
            sink,
            ..LogOptions::default()
        })
        .unwrap();
        tracing::debug!("one");
        handle.set("debug".parse().unwrap());
        tracing::debug!(answer = 42, "two");
        assert_eq!(handle.current().to_string(), "debug");
        handle.reset();
        tracing::debug!("three");
        assert_eq!(handle.current().to_string(), "info");
        file.rewind().unwrap();
        let text = io::read_to_string(file).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| l.contains("rt::log::tests"))
            .collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(
            lines[0].contains(r#""message":"two""#) && lines[0].contains(r#""answer":42"#),
            "{text}"
        );
    }
}
