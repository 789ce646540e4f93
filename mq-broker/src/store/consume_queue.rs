//! Consume queues: for each queue of a topic, where its messages lie in the log.
//!
//! ```text
//! consumequeue/TOPIC/QUEUE/<byte offset, 20 digits>   sparse files of one size
//! entry: physical offset 8 | size 4 | tags code 8     entry n of a queue is at byte 20 n
//! ```
//!
//! Here: the entries, reading them by offset and by time, and the open files. Not here: what goes
//! into an entry (`indexer.rs`), record bytes.
//!
//! Invariants:
//! - One writer, the indexer. Entries at or behind `length` are invisible, whatever the file holds.
//! - Queues are derived: nothing is synced before a checkpoint, which names the log position from
//!   which they can be built again.
//! - An entry with the greatest size and offset 0 is a hole: it fills what no longer exists.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mq_core::watermark::Watermark;

use super::commit_log::CommitLog;
use super::disk::{Disk, DiskFile, DiskLock, OpenMode, parent_of, read_exact_at};
use super::segment::file_name;
use super::{StoreError, check_topic};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 20;
const ENTRY: u64 = ENTRY_BYTES as u64;
/// So many files of queues are open at once.
const OPEN_FILES: usize = 1024;
/// More unsynced files than this are synced together with the file system.
const SYNC_ONE_BY_ONE: usize = 32;
/// Entries read by one call at most.
const READ_ENTRIES: usize = 64 << 10;
/// Holes are written in runs of so many entries.
const HOLE_RUN: usize = 4096;
/// More holes in a row than this are not believed.
const HOLES: i64 = 50_000_000;

/// Where a message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the log.
    pub physical_offset: i64,
    /// Bytes of the record.
    pub size: i32,
    /// Hash of the tags, or the deliver time of a delayed message.
    pub tags_code: i64,
}

impl Entry {
    /// What stands where there is no message.
    pub const HOLE: Self = Self { physical_offset: 0, size: i32::MAX, tags_code: 0 };

    /// The entry as it is stored.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// The entry that the bytes are.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7, s0, s1, s2, s3, tags @ ..] = *bytes;
        Self {
            physical_offset: i64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
            size: i32::from_be_bytes([s0, s1, s2, s3]),
            tags_code: i64::from_be_bytes(tags),
        }
    }

    /// Whether there is no message here; readers go on to the next.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.size == i32::MAX && self.physical_offset == 0
    }

    /// Whether nothing was ever written here.
    pub(super) fn is_empty(&self) -> bool {
        self.size <= 0 || self.physical_offset < 0
    }
}

/// All queues of a store.
#[derive(Debug)]
pub struct ConsumeQueues {
    files: Arc<QueueFiles>,
    queues: RwLock<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    topics: HashMap<Box<str>, BTreeMap<i32, Arc<ConsumeQueue>>>,
    count: u32,
}

impl ConsumeQueues {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, file_bytes: u64) -> Self {
        let files = QueueFiles {
            disk,
            dir,
            file_bytes: file_bytes - file_bytes % ENTRY,
            entries: AtomicU64::new(0),
            open: Mutex::default(),
        };
        Self { files: Arc::new(files), queues: RwLock::default() }
    }

    /// The queue, if it has ever had a message or was asked for.
    pub fn queue(&self, topic: &str, queue_id: i32) -> Option<Arc<ConsumeQueue>> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.topics.get(topic)?.get(&queue_id).cloned()
    }

    /// The queue; one without messages takes nothing on the disk.
    pub fn queue_or_create(
        &self,
        topic: &str,
        queue_id: i32,
    ) -> Result<Arc<ConsumeQueue>, StoreError> {
        if let Some(queue) = self.queue(topic, queue_id) {
            return Ok(queue);
        }
        check_topic(topic)?;
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let number = queues.count;
        let topic_queues = queues.topics.entry(topic.into()).or_default();
        if let Some(queue) = topic_queues.get(&queue_id) {
            return Ok(queue.clone());
        }
        let queue = Arc::new(ConsumeQueue {
            topic: topic.into(),
            queue_id,
            length: Watermark::new(0),
            number,
            min: AtomicI64::new(0),
            bytes: AtomicU64::new(0),
            removed: AtomicBool::new(false),
            files: self.files.clone(),
        });
        topic_queues.insert(queue_id, queue.clone());
        queues.count += 1;
        Ok(queue)
    }

    /// Every queue, by topic and number.
    pub fn all(&self) -> Vec<Arc<ConsumeQueue>> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = queues.topics.values().flat_map(BTreeMap::values).cloned().collect();
        all.sort_unstable_by(|a, b| (&a.topic, a.queue_id).cmp(&(&b.topic, b.queue_id)));
        all
    }

    /// How many messages a topic's queues have ever had, and how many bytes came since the start.
    pub fn total(&self, topic: &str) -> Option<(u64, u64)> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.topics.get(topic).map(total)
    }

    /// The topics that have queues.
    pub fn topics(&self) -> Vec<String> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.topics.keys().map(ToString::to_string).collect()
    }

    /// Removes all queues of a topic and their files, durably. Whoever still holds one of them
    /// reads nothing from it.
    pub(super) fn remove_topic(&self, topic: &str) -> Result<(), StoreError> {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        let removed = queues.topics.remove(topic).unwrap_or_default();
        drop(queues);
        for queue in removed.values() {
            self.files.forget(queue);
            self.files.count(-queue.max_offset());
            queue.length.close("the topic was deleted");
        }
        remove_files(&*self.files.disk, &self.files.dir, topic)
    }

    /// The lengths of all queues together.
    pub(super) fn entries(&self) -> u64 {
        self.files.entries.load(Ordering::Acquire)
    }

    /// Makes everything durable that was written before the call.
    pub(super) fn sync(&self, lock: &dyn DiskLock) -> Result<(), StoreError> {
        self.files.sync(lock).map_err(|error| StoreError::io(&self.files.dir, "sync", error))
    }
}

fn total(queues: &BTreeMap<i32, Arc<ConsumeQueue>>) -> (u64, u64) {
    queues.values().fold((0, 0), |(messages, bytes), queue| {
        (messages + queue.length.get(), bytes + queue.bytes.load(Ordering::Relaxed))
    })
}

/// One queue.
#[derive(Debug)]
pub struct ConsumeQueue {
    /// Its topic.
    pub topic: Box<str>,
    /// Its number in the topic.
    pub queue_id: i32,
    /// The offset of the next message: what a consumer that has everything waits for to grow.
    pub length: Watermark,
    /// Small and dense: by it the indexer and the open files find the queue.
    pub(super) number: u32,
    min: AtomicI64,
    /// Bytes of the records that entries were made of since the start.
    pub(super) bytes: AtomicU64,
    /// Its files are not its own any more. Changes under the lock of the open files.
    removed: AtomicBool,
    files: Arc<QueueFiles>,
}

impl ConsumeQueue {
    /// The first offset that can be read.
    pub fn min_offset(&self) -> i64 {
        self.min.load(Ordering::Acquire)
    }

    /// The offset that the next message will get.
    pub fn max_offset(&self) -> i64 {
        self.length.get().cast_signed()
    }

    /// Up to `count` entries from an offset on; fewer at the end of the queue. Holes are among
    /// them.
    pub fn read(&self, from: i64, count: usize) -> Result<Vec<Entry>, StoreError> {
        let (min, max) = (self.min_offset(), self.max_offset());
        if from < min || from > max {
            let [at, from, to] = [from, min, max].map(i64::cast_unsigned);
            return Err(StoreError::OutOfRange { at, from, to });
        }
        let left = usize::try_from(max - from).unwrap_or(usize::MAX);
        let count = count.min(left).min(READ_ENTRIES);
        let mut entries = Vec::with_capacity(count);
        let mut buf = [0; 100 * ENTRY_BYTES];
        while entries.len() < count {
            let at = (from.cast_unsigned() + entries.len() as u64) * ENTRY;
            let in_file = usize::try_from(self.files.left_in_file(at)).unwrap_or(usize::MAX);
            let size = buf.len().min((count - entries.len()) * ENTRY_BYTES).min(in_file);
            let part = buf.get_mut(..size).unwrap_or_default();
            self.read_bytes(part, at)?;
            entries.extend(part.as_chunks().0.iter().map(Entry::from_bytes));
        }
        Ok(entries)
    }

    /// The first offset whose message was stored at `timestamp_ms` or later; the length when none
    /// was.
    pub fn search_time(&self, log: &CommitLog, timestamp_ms: i64) -> Result<i64, StoreError> {
        let (mut low, mut high) = (self.min_offset(), self.max_offset());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.stored_at_or_behind(log, middle, high)? {
                Some((offset, stored_ms)) if stored_ms < timestamp_ms => low = offset + 1,
                // Nothing readable between the middle and `high`, or all of it is late enough.
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// When the first message that is still there was stored; `None` when there is none.
    pub fn earliest_time(&self, log: &CommitLog) -> Result<Option<i64>, StoreError> {
        let first = self.stored_at_or_behind(log, self.min_offset(), self.max_offset())?;
        Ok(first.map(|(_, stored_ms)| stored_ms))
    }

    /// When the message at an offset was stored; `None` when there is none to be read.
    pub fn stored_at(&self, log: &CommitLog, offset: i64) -> Result<Option<i64>, StoreError> {
        if !(self.min_offset()..self.max_offset()).contains(&offset) {
            return Ok(None);
        }
        let found = self.stored_at_or_behind(log, offset, offset + 1)?;
        Ok(found.map(|(_, stored_ms)| stored_ms))
    }

    /// The first message of `from..to` that can be read, and when it was stored.
    fn stored_at_or_behind(
        &self,
        log: &CommitLog,
        from: i64,
        to: i64,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        for offset in from..to {
            let entry = self.entry(offset)?;
            let Ok(physical) = u64::try_from(entry.physical_offset) else { continue };
            if entry.is_hole() || physical < log.min_offset() {
                continue;
            }
            match log.store_timestamp_at(physical) {
                Ok(stored_ms) => return Ok(Some((offset, stored_ms))),
                Err(StoreError::Corrupt { .. } | StoreError::OutOfRange { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub(super) fn entry(&self, offset: i64) -> Result<Entry, StoreError> {
        let mut bytes = [0; ENTRY_BYTES];
        self.read_bytes(&mut bytes, offset.cast_unsigned() * ENTRY)?;
        Ok(Entry::from_bytes(&bytes))
    }

    fn read_bytes(&self, buf: &mut [u8], at: u64) -> Result<(), StoreError> {
        let base = self.files.base_of(at);
        let read = self
            .files
            .file(self, base, OpenMode::Read)
            .and_then(|file| read_exact_at(&*file, buf, at - base));
        read.map_err(|error| StoreError::io(&self.path(base), "read", error))
    }

    /// Appends entries of which the first has the offset `from`. What is there already stays; where
    /// offsets are missing in between, holes are filled in. One write per file.
    pub(super) fn append(&self, from: i64, entries: &[u8]) -> Result<(), StoreError> {
        let length = self.max_offset();
        if from > length {
            self.fill_holes(length, from)?;
        }
        let known = usize::try_from((length - from).max(0)).unwrap_or(usize::MAX);
        let new = entries.get(known.saturating_mul(ENTRY_BYTES)..).unwrap_or_default();
        self.write(from.max(length), new)
    }

    /// A queue that starts in the middle has holes from the start of its first file on.
    fn fill_holes(&self, length: i64, to: i64) -> Result<(), StoreError> {
        let mut from = length;
        if length == 0 {
            from = (self.files.base_of(to.cast_unsigned() * ENTRY) / ENTRY).cast_signed();
            self.files.count(from);
            self.length.advance(from.cast_unsigned());
            self.min.store(to, Ordering::Release);
        }
        if to - from > HOLES {
            let what = format!("its next message would be {to}, and the last is {length}");
            return Err(StoreError::Corrupt { file: self.dir(), at: length.cast_unsigned(), what });
        }
        let holes = Entry::HOLE.to_bytes().repeat(HOLE_RUN);
        while from < to {
            let run = usize::try_from(to - from).unwrap_or(HOLE_RUN).min(HOLE_RUN);
            self.write(from, holes.get(..run * ENTRY_BYTES).unwrap_or(&holes))?;
            from += run as i64;
        }
        Ok(())
    }

    fn write(&self, from: i64, entries: &[u8]) -> Result<(), StoreError> {
        let mut at = from.cast_unsigned() * ENTRY;
        let mut rest = entries;
        while !rest.is_empty() {
            let base = self.files.base_of(at);
            let room = usize::try_from(self.files.left_in_file(at)).unwrap_or(usize::MAX);
            let (part, left) = rest.split_at(room.min(rest.len()));
            let written = self.files.write(self, base, part, at - base);
            written.map_err(|error| StoreError::io(&self.path(base), "write", error))?;
            at += part.len() as u64;
            self.files.count((part.len() / ENTRY_BYTES) as i64);
            self.length.advance(at / ENTRY);
            rest = left;
        }
        Ok(())
    }

    /// States what a start has found on the disk.
    pub(super) fn restore(&self, min: i64, length: i64) {
        self.files.count(length);
        self.min.store(min, Ordering::Release);
        self.length.advance(length.cast_unsigned());
    }

    fn dir(&self) -> PathBuf {
        queue_dir(&self.files.dir, &self.topic, self.queue_id)
    }

    fn path(&self, base: u64) -> PathBuf {
        self.dir().join(file_name(base))
    }
}

/// Where the files of a queue are.
pub(super) fn queue_dir(dir: &Path, topic: &str, queue_id: i32) -> PathBuf {
    dir.join(topic).join(queue_id.to_string())
}

/// Removes the files of all queues of a topic, durably. They may be gone already.
pub(super) fn remove_files(disk: &dyn Disk, dir: &Path, topic: &str) -> Result<(), StoreError> {
    let topic_dir = dir.join(topic);
    let removed = remove_tree(disk, &topic_dir).and_then(|()| disk.sync_dir(dir));
    removed.map_err(|error| StoreError::io(&topic_dir, "remove", error))
}

/// The newest files first, so that what a crash leaves begins where the queue began.
fn remove_tree(disk: &dyn Disk, topic_dir: &Path) -> io::Result<()> {
    for queue in names_in(disk, topic_dir)? {
        let queue_dir = topic_dir.join(&queue);
        if queue.parse::<i32>().is_err() {
            continue;
        }
        for file in names_in(disk, &queue_dir)?.iter().rev() {
            disk.remove(&queue_dir.join(file))?;
        }
        disk.sync_dir(&queue_dir)?;
        disk.remove(&queue_dir)?;
    }
    match disk.exists(topic_dir)? {
        true => disk.sync_dir(topic_dir).and_then(|()| remove_if_empty(disk, topic_dir)),
        false => Ok(()),
    }
}

/// Something that is not the store's may lie in it.
fn remove_if_empty(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.remove(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other,
    }
}

fn names_in(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<String>> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The open files of all queues, a bounded number of them.
#[derive(Debug)]
struct QueueFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file_bytes: u64,
    /// Sum of the lengths of all queues: a start compares it with what it finds.
    entries: AtomicU64,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: HashMap<(u32, u64), OpenFile>,
    uses: u64,
    /// A file was closed before it was synced; only the whole file system can be synced then.
    closed_unsynced: bool,
    /// Directories with new entries.
    new_entries: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<dyn DiskFile>,
    used: u64,
    unsynced: bool,
    writable: bool,
}

impl QueueFiles {
    fn base_of(&self, at: u64) -> u64 {
        at - at % self.file_bytes
    }

    fn left_in_file(&self, at: u64) -> u64 {
        self.file_bytes - at % self.file_bytes
    }

    fn count(&self, entries: i64) {
        self.entries.fetch_add(entries.cast_unsigned(), Ordering::AcqRel);
    }

    fn open(&self) -> MutexGuard<'_, OpenFiles> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(
        &self,
        queue: &ConsumeQueue,
        base: u64,
        mode: OpenMode,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let write = mode != OpenMode::Read;
        let mut open = self.open();
        if queue.removed.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the topic was deleted"));
        }
        open.uses += 1;
        let uses = open.uses;
        if let Some(known) = open.files.get_mut(&(queue.number, base))
            && (known.writable || !write)
        {
            known.used = uses;
            known.unsynced |= write;
            return Ok(known.file.clone());
        }
        let path = queue.path(base);
        let file = if write {
            self.make(&mut open, &path)?
        } else {
            self.disk.open(&path, OpenMode::Read)?
        };
        open.make_room();
        let entry = OpenFile { file: file.clone(), used: uses, unsynced: write, writable: write };
        open.files.insert((queue.number, base), entry);
        Ok(file)
    }

    /// Closes the files of a queue that is being removed.
    fn forget(&self, queue: &ConsumeQueue) {
        let mut open = self.open();
        queue.removed.store(true, Ordering::Relaxed);
        open.files.retain(|(number, _), _| *number != queue.number);
        // Directories that are about to go cannot be synced later.
        let dir = queue.dir();
        open.new_entries.retain(|new| !dir.starts_with(new) || *new == self.dir);
    }

    fn make(&self, open: &mut OpenFiles, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let dir = parent_of(path);
        if !self.disk.exists(&dir)? {
            self.disk.create_dir_all(&dir)?;
            open.new_entries.extend([parent_of(&dir), self.dir.clone()]);
        }
        let file = self.disk.open(path, OpenMode::Create)?;
        if file.len()? < self.file_bytes {
            file.set_len(self.file_bytes)?;
            open.new_entries.insert(dir);
        }
        Ok(file)
    }

    fn write(&self, queue: &ConsumeQueue, base: u64, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file(queue, base, OpenMode::Create)?.write_at(bytes, at)
    }

    fn sync(&self, lock: &dyn DiskLock) -> io::Result<()> {
        let mut open = self.open();
        let unsynced: Vec<_> = open.files.values_mut().filter(|file| file.unsynced).collect();
        let together = unsynced.len() > SYNC_ONE_BY_ONE;
        let mut files = Vec::with_capacity(unsynced.len());
        for file in unsynced {
            file.unsynced = false;
            files.push(file.file.clone());
        }
        let together = together || std::mem::take(&mut open.closed_unsynced);
        let dirs = std::mem::take(&mut open.new_entries);
        drop(open);
        if together || dirs.len() > SYNC_ONE_BY_ONE {
            return lock.sync_all();
        }
        files.iter().try_for_each(|file| file.sync_data())?;
        dirs.iter().rev().try_for_each(|dir| self.disk.sync_dir(dir))
    }
}

impl OpenFiles {
    /// Closes the files that were not used for longest, when there are too many.
    fn make_room(&mut self) {
        if self.files.len() < OPEN_FILES {
            return;
        }
        let mut uses: Vec<u64> = self.files.values().map(|file| file.used).collect();
        let (_, oldest, _) = uses.select_nth_unstable(OPEN_FILES / 8);
        let oldest = *oldest;
        let mut closed_unsynced = false;
        self.files.retain(|_, file| {
            let keep = file.used > oldest;
            closed_unsynced |= !keep && file.unsynced;
            keep
        });
        self.closed_unsynced |= closed_unsynced;
    }
}
