//! What a process prints, in a file that does not grow without end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Opens the log of a new process; what was there before becomes `log.1`.
pub(super) fn open(dir: &Path) -> io::Result<File> {
    let log = dir.join(LOG);
    match fs::rename(&log, dir.join(OLD)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Appending: the process goes on at the new end after the file was cut.
    OpenOptions::new().create(true).append(true).open(log)
}

/// Cuts a log that has become too long. The process keeps the file open, so its text is copied to `log.1` and the file
/// emptied; lines that it prints in between are lost.
pub(super) fn cap(dir: &Path) -> io::Result<()> {
    let log = dir.join(LOG);
    if fs::metadata(&log)?.len() > MAX_BYTES {
        fs::copy(&log, dir.join(OLD))?;
        OpenOptions::new().write(true).open(&log)?.set_len(0)?;
    }
    Ok(())
}

/// The last line that is not empty, to say why a process ended.
pub(super) fn last_words(dir: &Path) -> Option<String> {
    let mut file = File::open(dir.join(LOG)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))
        .ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail
        .lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())?;
    Some(line.chars().take(MAX_WORDS).collect())
}

const LOG: &str = "log";
const OLD: &str = "log.1";
const MAX_BYTES: u64 = 16 << 20;
const TAIL: u64 = 4096;
const MAX_WORDS: usize = 300;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_log_of_the_run_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).unwrap().write_all(b"one\n").unwrap();
        open(dir.path()).unwrap().write_all(b"two\n\n  \n").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(OLD)).unwrap(), "one\n");
        assert_eq!(last_words(dir.path()).unwrap(), "two");
    }

    #[test]
    fn a_long_log_is_cut_and_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = open(dir.path()).unwrap();
        file.write_all(b"first\n").unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        cap(dir.path()).unwrap();
        file.write_all(b"second\n").unwrap();
        cap(dir.path()).unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join(LOG)).unwrap(),
            "second\n"
        );
        assert_eq!(
            fs::metadata(dir.path().join(OLD)).unwrap().len(),
            MAX_BYTES + 1
        );
    }
}
