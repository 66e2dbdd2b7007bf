//! A program that ends with the test, however the test ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// A program under a keeper: a shell that passes on the signals named on its standard input, and kills the program when
/// that is closed, as it is when the test's process is gone.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    keeper: Child,
    signals: Option<ChildStdin>,
}

impl Process {
    /// Starts a program; what it says goes to `<directory>/<name>.log`, after what is there.
    pub(super) fn start(directory: &Path, program: &Path, args: &[String]) -> Self {
        Self::start_with(directory, program, args, &[])
    }

    /// As [`Process::start`], with further environment.
    pub(super) fn start_with(
        directory: &Path,
        program: &Path,
        args: &[String],
        env: &[(String, String)],
    ) -> Self {
        let name = program
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let log = directory.join(format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("open a log");
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(program)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a log twice"))
            .stderr(output)
            .spawn()
            .expect("start sh");
        Self {
            name,
            log,
            signals: keeper.stdin.take(),
            keeper,
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.keeper.try_wait().expect("wait for the keeper")
    }

    /// Sends a signal, by its name without SIG.
    pub(super) fn signal(&self, signal: &str) {
        let mut signals = self.signals.as_ref().expect("open until it ends");
        writeln!(signals, "{signal}").expect("the keeper listens");
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) {
        self.keeper.wait().expect("wait for the keeper");
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let last = last_lines(&self.log);
        format!("{}:\n{last}", self.name)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.signals.take());
        let _ = self.keeper.wait();
    }
}

/// The end of a log.
pub(super) fn last_lines(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

const KEEPER: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- & program=$!
(while read -r signal <&3; do kill -s "$signal" "$program"; done; kill -s KILL "$program") & reader=$!
wait "$program"; status=$?
kill -s KILL "$reader"
exit "$status"
"#;

/// How much of a log is shown.
const LINES: usize = 20;
