//! The store: a commit log, and queues and keys that are derived from it. Synchronous, and no
//! request code is known here; its background work is exposed as steps that somebody else drives.
//!
//! | file | what |
//! |---|---|
//! | `commit_log.rs` | appending and reading records |
//! | `flush.rs` | making them durable |
//! | `indexer.rs` | from log to queues and keys |
//! | `consume_queue.rs`, `key_index.rs` | the two derived things |
//! | `deletion.rs` | topics whose records are dead |
//! | `recovery.rs`, `mark.rs` | what a start does, and what it must know for it |
//! | `segment.rs`, `table_file.rs` | files of one size; small tables |
//! | `disk.rs`, `sim_disk.rs` | the seam to the file system, and a disk that fails |
//!
//! A store directory is RocketMQ's own and may change hands after a clean stop; `recovery-mark`,
//! `quarantine.json` and `deleted-topics.json` are ours beside it.

pub mod commit_log;
pub mod consume_queue;
mod deletion;
pub mod disk;
mod flush;
mod indexer;
pub mod key_index;
mod mark;
mod recovery;
pub mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod table_file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use mq_core::clock::{Clock, millis};
use mq_core::watermark::Watermark;
use tracing::warn;

pub use commit_log::{Appended, CommitLog};
pub use consume_queue::{ConsumeQueue, ConsumeQueues, Entry};
pub use disk::{Disk, OsDisk};
pub use key_index::KeyIndex;
pub use recovery::Recovery;

use deletion::Deletions;
use disk::{DiskLock, OpenMode, Space, make_dir};
use indexer::Indexer;
use mark::{Checkpoint, Mark, MarkFile};
use recovery::{Evidence, Recovered, Survey};

/// Queues and keys are made durable when so much of the log was indexed since, or
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// when so much time has passed.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Why the store did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system failed.
    #[error("{action} {}: {source}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// Bytes on the disk are not what was written, or a file is missing.
    #[error("{} is damaged at {at}: {what}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The offset: in the file, or in the log for a part of the log.
        at: u64,
        /// What is wrong, and the mend if there is one.
        what: String,
    },
    /// No room. Nothing was written; it works again when there is room.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed before; nothing is written any more.
    #[error("the store has stopped: {0}")]
    Poisoned(Arc<str>),
    /// The position is not in the log or queue.
    #[error("{at} is outside {from}..{to}")]
    OutOfRange {
        /// The position asked for.
        at: u64,
        /// The first there is.
        from: u64,
        /// The first there is not.
        to: u64,
    },
    /// Another process has the store.
    #[error("{} is locked: another broker uses this store", file.display())]
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// The caller's record, name or option cannot be.
    #[error("{0}")]
    Illegal(String),
}

impl StoreError {
    /// An error of a file; a full disk is what it is wherever it is met.
    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        if disk::is_full(&source) {
            return Self::Full;
        }
        Self::Io { file: file.to_owned(), action, source }
    }
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushMode {
    /// The record is synced.
    #[default]
    Sync,
    /// The record is in the page cache of the operating system.
    Async,
}

/// How a store is laid out and kept.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory of the store.
    pub root: PathBuf,
    /// What an acknowledgement means.
    pub flush: FlushMode,
    /// Bytes of a file of the log; a record must fit into one. Fixed once the store exists.
    pub segment_bytes: u64,
    /// Bytes of a file of a queue, a multiple of 20. Fixed once the store exists.
    pub queue_file_bytes: u64,
    /// Slots of a file of the key index. Fixed once the store exists.
    pub index_slots: u32,
    /// Keys that a file of the key index holds. Fixed once the store exists.
    pub index_entries: u32,
    /// The delay of each level, of level 1 first.
    pub delay_levels_ms: Vec<i64>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        const LEVELS_SECONDS: [i64; 18] =
            [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
        Self {
            root: "store".into(),
            flush: FlushMode::Sync,
            segment_bytes: 64 << 20,
            queue_file_bytes: 6_000_000,
            index_slots: 5_000_000,
            index_entries: 20_000_000,
            delay_levels_ms: LEVELS_SECONDS.map(|seconds| seconds * 1000).into(),
        }
    }
}

impl StoreOptions {
    fn check(&self) -> Result<(), StoreError> {
        let illegal = |what: String| Err(StoreError::Illegal(what));
        if !(4096..=1 << 30).contains(&self.segment_bytes) {
            let bytes = self.segment_bytes;
            return illegal(format!(
                "mappedFileSizeCommitLog {bytes}: 4096 to 1073741824 is possible"
            ));
        }
        if self.queue_file_bytes == 0 || !self.queue_file_bytes.is_multiple_of(20) {
            let bytes = self.queue_file_bytes;
            return illegal(format!("a queue file of {bytes} bytes: multiples of 20 are possible"));
        }
        Ok(())
    }
}

/// Where the parts of a store are.
#[derive(Clone, Debug)]
struct Layout(PathBuf);

impl Layout {
    fn log(&self) -> PathBuf {
        self.0.join("commitlog")
    }
    fn queues(&self) -> PathBuf {
        self.0.join("consumequeue")
    }
    fn index(&self) -> PathBuf {
        self.0.join("index")
    }
    fn config(&self) -> PathBuf {
        self.0.join("config")
    }
    fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// There while the store is open: what it finds at a start was no clean stop.
    fn abort(&self) -> PathBuf {
        self.0.join("abort")
    }
    fn checkpoint(&self) -> PathBuf {
        self.0.join("checkpoint")
    }
    fn mark(&self) -> PathBuf {
        self.0.join("recovery-mark")
    }
    fn deletions(&self) -> PathBuf {
        self.0.join("deleted-topics.json")
    }
    fn quarantine(&self) -> PathBuf {
        self.0.join("quarantine.json")
    }
}

/// A topic names a directory; whatever leads elsewhere is refused, wherever the name came from.
pub(crate) fn check_topic(topic: &str) -> Result<(), StoreError> {
    if topic.is_empty() || topic == "." || topic == ".." || topic.contains(['/', '\0']) {
        return Err(StoreError::Illegal(format!("the topic {topic:?} cannot name a directory")));
    }
    Ok(())
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The records.
    pub log: CommitLog,
    /// Where the records of each queue are.
    pub queues: ConsumeQueues,
    /// Where the records of each key are.
    pub index: KeyIndex,
    /// Queues and keys have everything of the log before it.
    pub indexed: Watermark,
    disk: Arc<dyn Disk>,
    layout: Layout,
    clock: Clock,
    lock: Box<dyn DiskLock>,
    indexer: Mutex<Indexer>,
    deletions: RwLock<Deletions>,
    saved: Mutex<Saved>,
}

/// What was made durable about the state of the store.
#[derive(Debug)]
struct Saved {
    marks: MarkFile,
    checkpoint: Checkpoint,
    derived_at_ms: i64,
}

impl Store {
    /// Opens the store, or makes it; after a crash it is put in order first. The report says how.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: StoreOptions,
        clock: Clock,
    ) -> Result<(Self, Recovery), StoreError> {
        options.check()?;
        let layout = Layout(options.root.clone());
        let lock = take(&*disk, &layout)?;
        let survey = Survey::look(&disk, &layout, &options)?;
        let clean = survey.clean;
        let plan = survey.plan()?;
        let end = plan.end();
        prepare(&*disk, &layout)?;
        let queues = ConsumeQueues::new(disk.clone(), layout.queues(), options.queue_file_bytes);
        let shape = (options.index_slots, options.index_entries);
        let index = KeyIndex::open(disk.clone(), layout.index(), shape, !clean)?.reaching(end);
        let (indexed, stored_ms) = (plan.indexed, plan.store_timestamp_ms);
        let recovered = survey.carry_out(plan, &queues)?;
        let Recovered { start, marks, checkpoint, deletions, evidence, report } = recovered;
        if !report.clean {
            lock.sync_all().map_err(|error| StoreError::io(&layout.0, "sync", error))?;
        }
        let indexer = Indexer::new(indexed, queues.entries(), stored_ms, options.delay_levels_ms);
        let derived_at_ms = clock.now_ms();
        let store = Self {
            log: CommitLog::new(start, options.flush, clock.clone()),
            queues,
            index,
            indexed: Watermark::new(indexed),
            disk,
            layout,
            clock,
            lock,
            indexer: Mutex::new(indexer),
            deletions: RwLock::new(deletions),
            saved: Mutex::new(Saved { marks, checkpoint, derived_at_ms }),
        };
        store.catch_up(&evidence)?;
        Ok((store, report))
    }

    /// Syncs what was appended. One caller in a loop; whoever waits, waits for `log.flushed`.
    pub fn flush_step(&self) -> Result<bool, StoreError> {
        flush::step(&self.log)
    }

    /// Brings queues and keys forward by about a MiB of the log.
    pub fn index_step(&self) -> Result<bool, StoreError> {
        self.log.check_poison()?;
        let mut indexer = self.indexer();
        let derived = (&self.queues, &self.index);
        let stepped = indexer.step(&self.log, derived, &self.deletions());
        self.indexed.advance(indexer.position);
        drop(indexer);
        self.poisoning(stepped)
    }

    /// Prepares the next log file and writes zeros ahead of the tail.
    pub fn prefill_step(&self) -> Result<bool, StoreError> {
        self.log.prefill()
    }

    /// Notes durably how far the log is synced, and from time to time makes queues and keys
    /// durable. A start after a crash relies on the first and is as quick as the second is fresh:
    /// to be called every 200 ms or so while messages come.
    pub fn checkpoint_step(&self) -> Result<bool, StoreError> {
        let mut saved = self.saved();
        let last = saved.marks.last.unwrap_or_default();
        let behind = self.indexed.get().saturating_sub(last.indexed);
        let interval = millis(CHECKPOINT_INTERVAL);
        let late = self.clock.now_ms().saturating_sub(saved.derived_at_ms) >= interval;
        let derived = behind >= CHECKPOINT_BYTES || behind > 0 && late;
        let wrote = self.checkpoint(&mut saved, derived);
        self.poisoning(wrote)
    }

    /// Room on the file system of the store.
    pub fn space(&self) -> Result<Space, StoreError> {
        let space = self.disk.space(&self.layout.0);
        space.map_err(|error| StoreError::io(&self.layout.0, "look at the room of", error))
    }

    /// Makes everything durable, and says so; the next start has nothing to do. No appends any
    /// more.
    pub fn close(&self) -> Result<(), StoreError> {
        self.log.close();
        while self.flush_step()? {}
        while self.index_step()? {}
        let wrote = self.checkpoint(&mut self.saved(), true);
        self.poisoning(wrote)?;
        self.log.stop("it was closed");
        let abort = self.layout.abort();
        let removed = self.disk.remove(&abort).and_then(|()| self.disk.sync_dir(&self.layout.0));
        removed.map_err(|error| StoreError::io(&abort, "remove", error))
    }

    /// At a start: everything durable is in the queues before anyone asks.
    fn catch_up(&self, evidence: &[Evidence]) -> Result<(), StoreError> {
        let caught_up = || {
            while self.index_step()? {}
            self.indexer().restore(evidence, &self.queues)
        };
        match caught_up() {
            Err(StoreError::Full) => {
                warn!("the disk is full; queues and keys are behind the log until it is not");
                Ok(())
            }
            other => other,
        }
    }

    fn checkpoint(&self, saved: &mut Saved, derived: bool) -> Result<bool, StoreError> {
        self.log.check_poison()?;
        let last = saved.marks.last.unwrap_or_default();
        let mut mark = Mark { start: self.log.min_offset(), ..last };
        // On a full disk queues and keys wait, and the mark, which needs no room, does not.
        let made = match self.make_derived_durable(saved, &mut mark, derived) {
            Err(error) if !matches!(error, StoreError::Full) => return Err(error),
            made => made,
        };
        mark.synced = self.log.flushed.get().max(mark.synced);
        if mark != last {
            saved.marks.save(&*self.disk, mark)?;
        }
        // Behind the mark, so that a checkpoint ahead of it is known to be someone else's.
        if mark.store_timestamp_ms > saved.checkpoint.store_timestamp_ms {
            saved.checkpoint.save(&*self.disk, mark.store_timestamp_ms)?;
        }
        Ok(made? || mark != last)
    }

    /// Writes full batches of keys and, when it is time, all of them with the queues.
    fn make_derived_durable(
        &self,
        saved: &mut Saved,
        mark: &mut Mark,
        all: bool,
    ) -> Result<bool, StoreError> {
        let wrote = self.index.write_full(&self.log)?;
        if !all {
            return Ok(wrote);
        }
        let (position, entries, stored_ms) = self.indexer().checkpoint();
        let keys_to = self.index.write_all(&self.log)?;
        self.queues.sync(&*self.lock)?;
        // Where nobody waits for syncs the index is ahead of them.
        flush::reach(&self.log, position)?;
        if keys_to >= position {
            (mark.indexed, mark.entries) = (position, entries);
            mark.store_timestamp_ms = stored_ms.max(mark.store_timestamp_ms);
        }
        saved.derived_at_ms = self.clock.now_ms();
        Ok(true)
    }

    /// A store that could not write or sync takes no more; a full disk is no such failure.
    fn poisoning<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(error @ (StoreError::Io { .. } | StoreError::Corrupt { .. })) = &result {
            self.log.poison(error);
        }
        result
    }

    fn deletions(&self) -> RwLockReadGuard<'_, Deletions> {
        self.deletions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn deletions_mut(&self) -> RwLockWriteGuard<'_, Deletions> {
        self.deletions.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn indexer(&self) -> MutexGuard<'_, Indexer> {
        self.indexer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saved(&self) -> MutexGuard<'_, Saved> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The root and its lock, which outlives everything the store does.
fn take(disk: &dyn Disk, layout: &Layout) -> Result<Box<dyn DiskLock>, StoreError> {
    let root = &layout.0;
    make_dir(disk, root).map_err(|error| StoreError::io(root, "make", error))?;
    if !disk.exists(&layout.mark()).map_err(|error| StoreError::io(root, "look into", error))? {
        // A start before may have made the root and been killed before its entry was durable.
        for dir in root.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()) {
            sync_if_permitted(disk, dir).map_err(|error| StoreError::io(dir, "sync", error))?;
        }
    }
    disk.lock(&layout.lock()).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => StoreError::Locked { file: layout.lock() },
        _ => StoreError::io(&layout.lock(), "lock", error),
    })
}

fn sync_if_permitted(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.sync_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

/// The directories, and the note that the store is open: durable before anything is changed.
fn prepare(disk: &dyn Disk, layout: &Layout) -> Result<(), StoreError> {
    for dir in [layout.log(), layout.queues(), layout.index(), layout.config()] {
        make_dir(disk, &dir).map_err(|error| StoreError::io(&dir, "make", error))?;
    }
    let abort = layout.abort();
    let made = disk.open(&abort, OpenMode::Create).and_then(|_| disk.sync_dir(&layout.0));
    made.map_err(|error| StoreError::io(&abort, "make", error))
}
