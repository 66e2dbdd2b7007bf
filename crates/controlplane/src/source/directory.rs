//! The directory: walks it, watches it, reads what changed.
//!
//! Changes are seen through the kernel's notifications, and every few seconds by looking at the directory itself, for file
//! systems that do not notify. A file is read as soon as its writer has closed it or moved it into place; one that is
//! written to and not closed is read when it has been quiet for a moment, so that a half-written file is not taken for
//! one with fewer documents. A file that is gone or empty is looked at twice: some editors delete before they write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Batch;
use super::catalog::{Catalog, Content};
use crate::store::Change;

/// The mesh directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be walked.
    #[error("read mesh directory {}", path.display())]
    Walk {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be watched.
    #[error("watch mesh directory {}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

/// A watched directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    catalog: Catalog,
    /// What a file looked like when it was last read.
    seen: BTreeMap<String, Stamp>,
}

/// Tells whether a file was written to since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// A path that is to be read.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Instant,
    /// It was found gone or empty once already.
    doubted: bool,
}

impl Directory {
    /// Reads the whole directory for the first time.
    ///
    /// # Errors
    /// When it cannot be walked. Files in it that cannot be read are in the batch's errors.
    pub fn open(root: &Path) -> Result<(Self, Batch), DirectoryError> {
        let mut directory = Self {
            root: root.to_owned(),
            catalog: Catalog::default(),
            seen: BTreeMap::new(),
        };
        let files = directory.walk().map_err(|source| DirectoryError::Walk {
            path: root.to_owned(),
            source,
        })?;
        let found: Vec<_> = files.into_keys().map(|path| directory.read(path)).collect();
        let batch = directory.take(found);
        Ok((directory, batch))
    }

    /// Watches until `stop`, sending what changes to `batches`. When that is full, changes gather here meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be watched at all.
    pub async fn watch(
        mut self,
        batches: mpsc::Sender<Batch>,
        rescan_every: Duration,
        stop: CancellationToken,
    ) -> Result<(), DirectoryError> {
        // Full means that many paths are waiting already; the rescan finds what is dropped.
        let (events, mut changed) = mpsc::channel(EVENTS);
        let _watcher = watcher(&self.root, events)?;
        let mut due: BTreeMap<String, Due> = BTreeMap::new();
        let mut rescan = tokio::time::interval(rescan_every);
        rescan.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = due.values().map(|due| due.at).min();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                event = changed.recv() => {
                    let Some(event) = event else { return Ok(()) };
                    self.note(event, &mut due);
                    continue;
                }
                () = async { tokio::time::sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
                _ = rescan.tick() => self.rescan(&mut due),
            }
            let batch = self.read_due(&mut due);
            if let Some(batch) = batch
                && batches.send(batch).await.is_err()
            {
                return Ok(());
            }
        }
    }

    /// Notes what a notification says is to be read, and when.
    fn note(&self, event: Seen, due: &mut BTreeMap<String, Due>) {
        let (paths, wait) = match event {
            Seen::Settled(paths) => (paths, SETTLED),
            Seen::Writing(paths) => (paths, WRITING),
            Seen::Unclear => return self.rescan(due),
        };
        for path in paths {
            let Some(name) = self.relative(&path) else {
                continue;
            };
            let known_below = self
                .catalog
                .paths()
                .any(|known| Path::new(known).starts_with(&name));
            if is_manifest(&path) {
                let at = Instant::now() + wait;
                let doubted = due.get(&name).is_some_and(|due| due.doubted);
                due.insert(name, Due { at, doubted });
            } else if path.is_dir() || known_below {
                // A directory that came or went with everything in it.
                self.rescan(due);
            }
        }
    }

    /// Looks for files that changed without a notification.
    fn rescan(&self, due: &mut BTreeMap<String, Due>) {
        let files = match self.walk() {
            Ok(files) => files,
            Err(error) => {
                warn!(%error, directory = %self.root.display(), "mesh directory cannot be read; what is known stays in force");
                return;
            }
        };
        let now = Due {
            at: Instant::now(),
            doubted: false,
        };
        let changed = files
            .iter()
            .filter(|(path, stamp)| self.seen.get(*path) != Some(stamp))
            .map(|(path, _)| path);
        let gone = self.seen.keys().filter(|path| !files.contains_key(*path));
        for path in changed.chain(gone) {
            due.entry(path.clone()).or_insert(now);
        }
    }

    fn read_due(&mut self, due: &mut BTreeMap<String, Due>) -> Option<Batch> {
        let now = Instant::now();
        let ready: Vec<(String, Due)> = due
            .iter()
            .filter(|(_, due)| due.at <= now)
            .map(|(path, due)| (path.clone(), *due))
            .collect();
        let mut found = Vec::new();
        for (path, entry) in ready {
            let (path, content) = self.read(path);
            let emptied = match &content {
                Content::Gone => true,
                Content::Text(text) => text.trim().is_empty(),
                Content::Unreadable(_) => false,
            };
            if emptied && !entry.doubted && self.catalog.says_anything(&path) {
                due.insert(
                    path,
                    Due {
                        at: now + WRITING,
                        doubted: true,
                    },
                );
                continue;
            }
            due.remove(&path);
            found.push((path, content));
        }
        (!found.is_empty()).then(|| self.take(found))
    }

    fn take(&mut self, found: Vec<(String, Content)>) -> Batch {
        let changes = self.catalog.update(found);
        let upserted = changes.iter().filter_map(|change| match change {
            Change::Upsert(object) => Some(object.key()),
            Change::Delete(_) => None,
        });
        let places = upserted
            .filter_map(|key| Some((key.clone(), self.catalog.place(&key)?)))
            .collect();
        Batch {
            changes,
            errors: self.catalog.errors(),
            places,
        }
    }

    fn read(&mut self, name: String) -> (String, Content) {
        let path = self.root.join(&name);
        // Stamped before it is read: what is written in between is seen by the next look.
        match fs::metadata(&path).map(|metadata| stamp(&metadata)) {
            Ok(stamp) => self.seen.insert(name.clone(), stamp),
            Err(_) => self.seen.remove(&name),
        };
        let content = match fs::read(&path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Content::Text(text),
                Err(error) => Content::Unreadable(format!("not UTF-8: {error}")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::Gone,
            Err(error) => Content::Unreadable(error.to_string()),
        };
        (name, content)
    }

    fn relative(&self, path: &Path) -> Option<String> {
        path.strip_prefix(&self.root)
            .ok()?
            .to_str()
            .map(str::to_owned)
    }

    /// Every manifest below the directory.
    fn walk(&self) -> io::Result<BTreeMap<String, Stamp>> {
        let mut files = BTreeMap::new();
        let mut open = vec![self.root.clone()];
        // A symbolic link may lead back up.
        let mut walked = BTreeSet::new();
        while let Some(directory) = open.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                // One that went away, or that is not ours to read, takes nothing else with it.
                Err(error) if directory != self.root => {
                    warn!(%error, directory = %directory.display(), "directory cannot be read");
                    continue;
                }
                Err(error) => return Err(error),
            };
            if !walked.insert(fs::canonicalize(&directory)?) {
                continue;
            }
            for entry in entries {
                let path = entry?.path();
                let Ok(metadata) = fs::metadata(&path) else {
                    continue;
                };
                if metadata.is_dir() && !is_hidden(&path) {
                    open.push(path);
                } else if metadata.is_file()
                    && is_manifest(&path)
                    && let Some(name) = self.relative(&path)
                {
                    files.insert(name, stamp(&metadata));
                }
            }
        }
        Ok(files)
    }
}

/// What a notification comes to.
#[derive(Debug)]
enum Seen {
    /// These are whole, or gone.
    Settled(Vec<PathBuf>),
    /// These are being written.
    Writing(Vec<PathBuf>),
    /// Something happened; look everywhere.
    Unclear,
}

fn watcher(root: &Path, events: mpsc::Sender<Seen>) -> Result<RecommendedWatcher, DirectoryError> {
    let failed = |source| DirectoryError::Watch {
        path: root.to_owned(),
        source,
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let seen = event.map_or(Some(Seen::Unclear), classify);
        if let Some(seen) = seen {
            // Full or closed: see `watch`.
            let _ = events.try_send(seen);
        }
    })
    .map_err(failed)?;
    watcher
        .watch(root, RecursiveMode::Recursive)
        .map_err(failed)?;
    Ok(watcher)
}

fn classify(event: notify::Event) -> Option<Seen> {
    if event.need_rescan() {
        return Some(Seen::Unclear);
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(
            RenameMode::To | RenameMode::Both | RenameMode::From | RenameMode::Any,
        ))
        | EventKind::Modify(ModifyKind::Metadata(_))
        | EventKind::Remove(_) => Some(Seen::Settled(event.paths)),
        EventKind::Create(_) | EventKind::Modify(_) => Some(Seen::Writing(event.paths)),
        EventKind::Access(_) => None,
        EventKind::Any | EventKind::Other => Some(Seen::Unclear),
    }
}

/// Editors' leftovers (`.#x.yaml`, `.x.yaml.swp`) are hidden files.
fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_none_or(|name| name.starts_with('.'))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml")) && !is_hidden(path)
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    }
}

/// How long a file that is whole waits for others of the same burst.
const SETTLED: Duration = Duration::from_millis(2);
/// How long a file must be quiet that nobody has closed, and how long one that is gone may stay away.
const WRITING: Duration = Duration::from_millis(60);
/// Notifications that may wait.
const EVENTS: usize = 1024;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use waymark_rt::{Task, spawn};

    use super::*;

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: NAME\nspec:\n  ports:\n  - port: 80\n";

    fn service(name: &str) -> String {
        SERVICE.replace("NAME", name)
    }

    struct Watched {
        dir: tempfile::TempDir,
        batches: mpsc::Receiver<Batch>,
        _watching: Task<Result<(), DirectoryError>>,
    }

    fn watch(first: &[(&str, &str)], rescan_every: Duration) -> (Watched, Batch) {
        let dir = tempfile::tempdir().unwrap();
        for (name, service_name) in first {
            fs::write(dir.path().join(name), service(service_name)).unwrap();
        }
        let (directory, batch) = Directory::open(dir.path()).unwrap();
        let (sender, batches) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let watching = spawn("watch", directory.watch(sender, rescan_every, stop));
        (
            Watched {
                dir,
                batches,
                _watching: watching,
            },
            batch,
        )
    }

    async fn next(watched: &mut Watched) -> Vec<String> {
        let batch = tokio::time::timeout(Duration::from_secs(5), watched.batches.recv())
            .await
            .unwrap()
            .unwrap();
        batch
            .changes
            .iter()
            .map(|change| match change {
                Change::Upsert(object) => format!("+{}", object.key()),
                Change::Delete(key) => format!("-{key}"),
            })
            .collect()
    }

    #[tokio::test]
    async fn sees_files_written_moved_into_place_and_removed() {
        let (mut watched, first) = watch(
            &[("a.yaml", "a"), ("ignored.txt", "x"), (".hidden.yaml", "y")],
            NEVER,
        );
        assert_eq!(first.changes.len(), 1);
        let path = |name: &str| watched.dir.path().join(name);
        let (b, temporary, c, a) = (path("b.yml"), path("c.tmp"), path("c.yaml"), path("a.yaml"));

        fs::write(&b, service("b")).unwrap();
        assert_eq!(next(&mut watched).await, ["+Service default/b"]);
        fs::write(&temporary, service("c")).unwrap();
        fs::rename(&temporary, &c).unwrap();
        assert_eq!(next(&mut watched).await, ["+Service default/c"]);
        fs::remove_file(&a).unwrap();
        assert_eq!(next(&mut watched).await, ["-Service default/a"]);
    }

    #[tokio::test]
    async fn sees_directories_come_and_go() {
        let (mut watched, _) = watch(&[], NEVER);
        let elsewhere = tempfile::tempdir_in(watched.dir.path().parent().unwrap()).unwrap();
        let staged = elsewhere.path().join("team");
        fs::create_dir(&staged).unwrap();
        fs::write(staged.join("d.yaml"), service("d")).unwrap();
        let placed = watched.dir.path().join("team");
        fs::rename(&staged, &placed).unwrap();
        assert_eq!(next(&mut watched).await, ["+Service default/d"]);
        fs::rename(&placed, &staged).unwrap();
        assert_eq!(next(&mut watched).await, ["-Service default/d"]);
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_by_deleting_it_first_is_never_missed() {
        let (mut watched, _) = watch(&[("a.yaml", "a")], NEVER);
        let a = watched.dir.path().join("a.yaml");
        fs::remove_file(&a).unwrap();
        fs::write(&a, format!("{}---\n{}", service("a"), service("b"))).unwrap();
        assert_eq!(next(&mut watched).await, ["+Service default/b"]);
    }

    #[test]
    fn a_look_at_the_directory_finds_what_no_notification_told() {
        let dir = tempfile::tempdir().unwrap();
        let (mut directory, _) = Directory::open(dir.path()).unwrap();
        fs::write(dir.path().join("a.yaml"), service("a")).unwrap();
        let mut due = BTreeMap::new();
        directory.rescan(&mut due);
        let batch = directory.read_due(&mut due).unwrap();
        assert_eq!(batch.changes.len(), 1);
        directory.rescan(&mut due);
        assert!(due.is_empty());
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            Directory::open(&dir.path().join("nowhere")),
            Err(DirectoryError::Walk { .. })
        ));
    }

    const NEVER: Duration = Duration::from_secs(3600);
}
