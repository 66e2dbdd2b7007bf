//! What the user sees while the mesh comes up and runs.

use std::io::Write;

/// Writes to the terminal; keeps one live line at the bottom where there is a terminal.
pub(crate) struct Progress<'a> {
    out: &'a mut dyn Write,
    terminal: bool,
    quiet: bool,
    live: String,
}

impl<'a> Progress<'a> {
    /// `quiet`: only [`Progress::result`] prints.
    pub(crate) fn new(out: &'a mut dyn Write, terminal: bool, quiet: bool) -> Self {
        Self {
            out,
            terminal,
            quiet,
            live: String::new(),
        }
    }

    /// A line of its own, above the live line.
    pub(crate) fn say(&mut self, line: &str) {
        if self.quiet {
            return;
        }
        let live = std::mem::take(&mut self.live);
        if self.terminal && !live.is_empty() {
            let _ = write!(self.out, "\r\x1b[K");
        }
        let _ = writeln!(self.out, "{line}");
        if !live.is_empty() {
            self.live_line(&live);
        }
        let _ = self.out.flush();
    }

    /// Something that became ready.
    pub(crate) fn done(&mut self, what: &str, detail: &str) {
        self.say(&format!("  ✔ {what:<15} {detail}"));
    }

    /// Replaces the live line. Without a terminal a line is printed when it says something new.
    pub(crate) fn live_line(&mut self, line: &str) {
        if self.quiet || self.live == line {
            return;
        }
        line.clone_into(&mut self.live);
        let _ = if self.terminal {
            write!(self.out, "\r\x1b[K{line}")
        } else {
            writeln!(self.out, "{line}")
        };
        let _ = self.out.flush();
    }

    /// Ends the live line.
    pub(crate) fn end_live(&mut self) {
        if self.terminal && !self.live.is_empty() && !self.quiet {
            let _ = writeln!(self.out);
        }
        self.live.clear();
    }

    /// Printed even when quiet: what a program reads.
    pub(crate) fn result(&mut self, text: &str) {
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_printed_above_leaves_the_live_line_in_place() {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, true, false);
        progress.live_line("10 req/s");
        progress.say("a note");
        progress.end_live();
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "\r\x1b[K10 req/s\r\x1b[Ka note\n\r\x1b[K10 req/s\n"
        );
    }

    #[test]
    fn quiet_prints_results_only() {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, false, true);
        progress.say("note");
        progress.live_line("live");
        progress.result("{}");
        assert_eq!(String::from_utf8(out).expect("text"), "{}\n");
    }
}
