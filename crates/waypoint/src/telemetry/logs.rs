//! Access logs: lines are rendered where the request ends and written by a thread of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};

use tracing::warn;

use crate::program::{AccessLog, AccessLogFilter, LogTarget};
use crate::route::FormatContext;
use crate::telemetry::Counter;

/// Lines that wait to be written, for each target. When that many wait the next ones are dropped and counted: a slow disk
/// must not hold requests back.
const QUEUE: usize = 16_384;

/// Writes access logs.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    writers: RwLock<HashMap<LogTarget, SyncSender<Box<str>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) written: Counter,
    pub(crate) dropped: Counter,
}

thread_local! {
    static LINE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Logs {
    /// Writes a line to each log that wants one.
    pub(crate) fn write(&self, logs: &[AccessLog], context: &FormatContext<'_>) {
        for log in logs {
            if log.only.as_ref().is_none_or(|only| passes(only, context)) {
                let line = LINE.with_borrow_mut(|line| {
                    line.clear();
                    log.format.render(context, line);
                    Box::from(line.as_str())
                });
                self.send(&log.to, line);
            }
        }
    }

    fn send(&self, to: &LogTarget, line: Box<str>) {
        let known = self
            .writers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(to)
            .cloned();
        let sent = known
            .or_else(|| self.open(to))
            .map(|writer| writer.try_send(line));
        match sent {
            Some(Ok(())) => self.written.inc(),
            None | Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) => {
                self.dropped.inc()
            }
        }
    }

    /// Starts the thread of a target; `None` when there can be none.
    fn open(&self, to: &LogTarget) -> Option<SyncSender<Box<str>>> {
        let mut writers = self.writers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = writers.get(to) {
            return Some(known.clone());
        }
        let (sender, lines) = mpsc::sync_channel(QUEUE);
        let target = to.clone();
        let started = thread::Builder::new()
            .name("access log".to_owned())
            .spawn(move || write_lines(&target, &lines));
        match started {
            Ok(thread) => self
                .threads
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(thread),
            Err(error) => {
                warn!(%error, "no thread for an access log");
                return None;
            }
        }
        writers.insert(to.clone(), sender.clone());
        Some(sender)
    }
}

impl Drop for Logs {
    /// Waits until what is queued is written.
    fn drop(&mut self) {
        self.writers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        for thread in self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // It does not panic; and if it did, there would be nothing left to write.
            let _ = thread.join();
        }
    }
}

fn write_lines(target: &LogTarget, lines: &Receiver<Box<str>>) {
    let opened: io::Result<Box<dyn Write>> = match target {
        LogTarget::Stdout => Ok(Box::new(io::stdout())),
        LogTarget::Stderr => Ok(Box::new(io::stderr())),
        LogTarget::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(&**path);
            file.map(|f| Box::new(f) as Box<dyn Write>)
        }
    };
    let mut out = match opened {
        Ok(out) => out,
        Err(error) => {
            warn!(?target, %error, "access log cannot be opened");
            return;
        }
    };
    let mut batch = String::new();
    let mut failing = false;
    while let Ok(line) = lines.recv() {
        batch.clear();
        batch.push_str(&line);
        while batch.len() < BATCH_BYTES {
            match lines.try_recv() {
                Ok(line) => batch.push_str(&line),
                Err(_) => break,
            }
        }
        let written = out.write_all(batch.as_bytes()).and_then(|()| out.flush());
        if let Err(error) = &written
            && !failing
        {
            warn!(?target, %error, "access log cannot be written");
        }
        failing = written.is_err();
    }
}

/// What is written at once.
const BATCH_BYTES: usize = 64 << 10;

fn passes(only: &AccessLogFilter, context: &FormatContext<'_>) -> bool {
    match only {
        AccessLogFilter::StatusAtLeast(code) => context.response_code >= code.as_u16(),
        AccessLogFilter::StatusAtMost(code) => context.response_code <= code.as_u16(),
        AccessLogFilter::StatusIs(code) => context.response_code == code.as_u16(),
        AccessLogFilter::Flags(any) if any.is_empty() => !context.flags.is_empty(),
        AccessLogFilter::Flags(any) => context
            .flags
            .iter()
            .any(|f| any.iter().any(|a| **a == *f.as_str())),
        AccessLogFilter::HeaderPresent(name) => context
            .request
            .is_some_and(|r| r.headers.contains(name.as_str().as_bytes())),
        AccessLogFilter::All(all) => all.iter().all(|f| passes(f, context)),
        AccessLogFilter::Any(any) => any.iter().any(|f| passes(f, context)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use http::StatusCode;

    use super::*;
    use crate::route::{LogFormat, Template};

    #[test]
    fn lines_that_pass_are_written_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = AccessLog {
            format: Arc::new(LogFormat::Text(
                Template::parse("%RESPONSE_CODE%\n").unwrap(),
            )),
            to: LogTarget::File(path.to_str().unwrap().into()),
            only: Some(AccessLogFilter::StatusAtLeast(StatusCode::BAD_REQUEST)),
        };
        let logs = Logs::default();
        for response_code in [404, 200, 503] {
            logs.write(
                std::slice::from_ref(&log),
                &FormatContext {
                    response_code,
                    ..FormatContext::default()
                },
            );
        }
        assert_eq!((logs.written.value(), logs.dropped.value()), (2, 0));
        drop(logs);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "404\n503\n");
    }
}
