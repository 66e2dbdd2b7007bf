//! `experimental serve-capture`: the operator's command asks, the control plane's part serves.

use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use waymark_cli::ServeCaptureArgs;
use waymark_controlplane::replay::{self, ReplayEvent, ReplayOptions};
use waymark_rt::Drain;

use crate::causes;

pub(crate) fn run(args: ServeCaptureArgs) -> Pin<Box<dyn Future<Output = Result<(), String>>>> {
    Box::pin(async move {
        let options = ReplayOptions {
            file: args.file,
            node: args.node,
            address: args.xds_address,
            ca_dir: args.ca_dir,
            trust_domain: args
                .trust_domain
                .parse()
                .map_err(|e| format!("--trust-domain: {e}"))?,
            repeat: args.repeat.map(Duration::from_secs),
        };
        let drain = Drain::new(Duration::from_secs(1));
        let served = replay::serve(options, Arc::new(tell), drain.shutdown());
        tokio::pin!(served);
        tokio::select! {
            done = &mut served => done.map_err(|e| causes(&e)),
            _ = drain.run_until_signal() => Ok(()),
        }
    })
}

/// A line for each event. A reader that has gone away is no reason to stop serving.
fn tell(event: ReplayEvent) {
    let line = match event {
        ReplayEvent::Listening(address) => format!("listening on {address}"),
        ReplayEvent::Token(path) => format!("token {}", path.display()),
        ReplayEvent::Skipped(what) => format!("left out: {what}"),
        ReplayEvent::Connected { client, node } => format!("connected: {client}, as {node}"),
        ReplayEvent::Accepted { kind, resources } => format!("accepted: {kind} ({resources})"),
        ReplayEvent::Refused { kind, why } => format!("refused: {kind}: {why}"),
    };
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
