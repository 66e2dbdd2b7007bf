//! `proxy-config log`: shows and sets a proxy's log levels.

use clap::Args;
use http::Method;

use super::print;
use crate::error::CliError;
use crate::mesh::{self, ADMIN_PORT, MeshClient, Peer, good};
use crate::{Context, Global};

const LEVELS: &[&str] = &[
    "trace", "debug", "info", "warning", "warn", "error", "critical", "off",
];

#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// The proxy: [<type>/]<name>[.<namespace>].
    target: String,
    /// Comma-separated `<level>` or `<logger>:<level>`.
    #[arg(long, value_name = "LEVELS")]
    level: Option<String>,
    /// Back to `warning`.
    #[arg(short, long)]
    reset: bool,
    /// Port of the proxy's admin endpoint, in a cluster.
    #[arg(long, default_value_t = ADMIN_PORT, value_name = "PORT")]
    proxy_admin_port: u16,
}

pub(crate) async fn run(
    global: &Global,
    args: LogArgs,
    cx: &mut Context<'_>,
) -> Result<(), CliError> {
    if args.reset && args.level.is_some() {
        return Err(CliError::Usage(
            "--level cannot be combined with --reset".into(),
        ));
    }
    let mesh = mesh::open(global, cx.err).await?;
    let proxy = mesh.proxy(&args.target, args.proxy_admin_port).await?;
    let loggers = post(&*mesh, &proxy, "logging").await?;
    let queries = match (&args.level, args.reset) {
        (_, true) => vec!["level=warning".to_owned()],
        (Some(spec), false) => queries(spec, &loggers)?,
        (None, false) => Vec::new(),
    };
    let mut body = loggers;
    for query in queries {
        body = post(&*mesh, &proxy, &format!("logging?{query}")).await?;
    }
    print(cx, &format!("{}:\n{body}", proxy.name))
}

async fn post(mesh: &dyn MeshClient, proxy: &Peer, path: &str) -> Result<String, CliError> {
    let answer = mesh.ask(proxy, Method::POST, path).await?;
    Ok(String::from_utf8_lossy(&good(proxy, answer)?).into_owned())
}

/// The global level first, then one query a logger.
fn queries(spec: &str, loggers: &str) -> Result<Vec<String>, CliError> {
    let (mut global, mut single) = (Vec::new(), Vec::new());
    for part in spec.split(',') {
        let pair = part.split_once([':', '=']).map(|_| {
            // An `ns::` prefix belongs to the name.
            let at = part.rfind([':', '=']).unwrap_or(0);
            (
                part[..at].rsplit("::").next().unwrap_or(""),
                &part[at + 1..],
            )
        });
        let level = pair.map_or(part, |(_, level)| level);
        if !LEVELS.contains(&level) {
            return Err(CliError::Usage(format!(
                "unrecognized logging level: {level}"
            )));
        }
        match pair {
            None => global.push(format!("level={level}")),
            Some((logger, level)) => {
                if !loggers.contains(logger) {
                    return Err(CliError::Usage(format!(
                        "unrecognized logger name: {logger}"
                    )));
                }
                single.push(format!("{logger}={level}"));
            }
        }
    }
    global.truncate(1);
    global.extend(single);
    Ok(global)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_both_separators_and_checks_names() {
        let loggers = "active loggers:\n  http: warning\n  rbac: warning\n";
        assert_eq!(
            queries("debug,http:trace,ns::rbac=info", loggers).expect("good"),
            ["level=debug", "http=trace", "rbac=info"]
        );
        for (spec, want) in [
            ("loud", "unrecognized logging level: loud"),
            ("nope:info", "unrecognized logger name: nope"),
        ] {
            assert_eq!(queries(spec, loggers).expect_err(spec).to_string(), want);
        }
    }
}
