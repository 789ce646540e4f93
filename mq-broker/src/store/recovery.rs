//! What a start does: look, decide, and only then write.
//!
//! 1. Look: files of the log, the recovery mark, known damage, files of the queues. Whatever is
//!    missing or has the wrong length is refused by name; nothing is started empty in its place.
//! 2. Decide: scan the log from where queues and keys were durable, every record against its
//!    checksums. The first bad record at or behind the mark's `synced` is the torn tail of a crash
//!    and ends the log. Before it, it is damage: exactly the damaged range is quarantined, up to
//!    the next record that is whole and knows its own place, and the log goes on behind it.
//! 3. Write: what is behind the end becomes zeros; what was not known to be synced is written again
//!    and synced (a kernel that failed to write it once would not say so twice); queues are cut to
//!    what was durable, and the indexer fills them from there.
//!
//! Invariants: the plan depends on nothing that the writing changes, so that a start may be killed
//! anywhere and done again. A clean stop leaves nothing to scan, its tail is looked at all the
//! same.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mq_core::protocol::record::{
    BLANK_BYTES_MIN, MAGIC_V1, MAGIC_V2, RECORD_BYTES_MIN, Record, Scan, Verify,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::commit_log::{LogStart, QueueOffsets, has_queue_entry, is_foreign, is_whole};
use super::consume_queue::{ConsumeQueues, ENTRY_BYTES, Entry, queue_dir, remove_files};
use super::deletion::Deletions;
use super::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use super::indexer::Walk;
use super::mark::{Checkpoint, Mark, MarkFile};
use super::segment::{Segments, file_name, parse_name};
use super::{Layout, StoreError, StoreOptions, table_file};

const CHUNK: usize = 1 << 20;
const ENTRY: u64 = ENTRY_BYTES as u64;

/// What a start has found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The last run ended with `close`.
    pub clean: bool,
    /// The part of the log that was scanned; its end is the end of the log.
    pub scanned: Range<u64>,
    /// Records in it.
    pub records: u64,
    /// The torn tail that was cut off.
    pub truncated: Option<Range<u64>>,
    /// Damaged ranges that this start has found.
    pub damaged: Vec<Range<u64>>,
    /// All damaged ranges; what was in them cannot be read.
    pub quarantined: Vec<Range<u64>>,
    /// Queues did not fit the log and were built again from its start.
    pub rebuilt: bool,
}

/// What is on the disk. Looking changes nothing.
#[derive(Debug)]
pub(super) struct Survey<'a> {
    disk: &'a Arc<dyn Disk>,
    layout: &'a Layout,
    options: &'a StoreOptions,
    pub(super) clean: bool,
    pub(super) marks: MarkFile,
    pub(super) checkpoint: Checkpoint,
    /// The mark, unless another program has used the store since.
    mark: Option<Mark>,
    quarantined: Vec<Range<u64>>,
    segments: Segments,
    log: Range<u64>,
    /// A log file that a crash left half made; it was never used.
    unfinished: Option<PathBuf>,
    queues: Vec<FoundQueue>,
    deletions: Deletions,
    /// Topics whose deletion a crash has interrupted.
    half_deleted: BTreeSet<String>,
}

#[derive(Debug)]
struct FoundQueue {
    topic: String,
    queue_id: i32,
    /// Its files by where they start, contiguous.
    bases: Vec<u64>,
    /// A file in the middle is missing.
    broken: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    report: Recovery,
    /// Queues and keys are built from here.
    pub(super) indexed: u64,
    pub(super) store_timestamp_ms: i64,
    /// From here on every record must have a checksum of all its bytes.
    sealed_from: u64,
    offsets: QueueOffsets,
    queues: Vec<QueuePlan>,
    entries: u64,
}

impl Plan {
    /// Where the log ends.
    pub(super) fn end(&self) -> u64 {
        self.report.scanned.end
    }
}

#[derive(Debug)]
struct QueuePlan {
    topic: String,
    queue_id: i32,
    bases: Vec<u64>,
    min: i64,
    length: i64,
    /// Entries of the queue's last messages, whose records are damaged: they show that the offsets
    /// were given, so that no other message may get them.
    evidence: Vec<(i64, Entry)>,
}

impl QueuePlan {
    /// Entries before it are not cut away.
    fn keep(&self) -> i64 {
        self.evidence.last().map_or(self.length, |(offset, _)| offset + 1)
    }
}

/// What the writing leaves to the store that is being opened.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) start: LogStart,
    pub(super) marks: MarkFile,
    pub(super) checkpoint: Checkpoint,
    pub(super) deletions: Deletions,
    pub(super) evidence: Vec<Evidence>,
    pub(super) report: Recovery,
}

/// An entry of a damaged record, to be put behind those that the log gives.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) topic: String,
    pub(super) queue_id: i32,
    pub(super) offset: i64,
    pub(super) entry: Entry,
}

/// One quarantined range as the side file holds it.
#[derive(Debug, Serialize, Deserialize)]
struct Quarantined {
    from: u64,
    to: u64,
}

impl<'a> Survey<'a> {
    pub(super) fn look(
        disk: &'a Arc<dyn Disk>,
        layout: &'a Layout,
        options: &'a StoreOptions,
    ) -> Result<Self, StoreError> {
        let abort = layout.abort();
        let clean = !disk.exists(&abort).map_err(|e| StoreError::io(&abort, "look for", e))?;
        let marks = MarkFile::load(&**disk, layout.mark())?;
        let checkpoint = Checkpoint::load(&**disk, layout.checkpoint())?;
        let mark = believed(&marks, &checkpoint, options.segment_bytes)?;
        let known: Option<Vec<Quarantined>> = table_file::load(&**disk, &layout.quarantine())?;
        let queues = find_queues(&**disk, &layout.queues(), options.queue_file_bytes)?;
        let found = find_segments(disk, layout, options.segment_bytes, mark.as_ref())?;
        let deletions = Deletions::load(&**disk, &layout.deletions())?;
        let mut survey = Self {
            disk,
            layout,
            options,
            clean,
            checkpoint,
            marks,
            mark,
            quarantined: known.into_iter().flatten().map(|range| range.from..range.to).collect(),
            log: found.log,
            segments: found.segments,
            unfinished: found.unfinished,
            queues,
            deletions,
            half_deleted: BTreeSet::new(),
        };
        survey.check_log_exists()?;
        survey.set_half_deleted_apart()?;
        Ok(survey)
    }

    /// What is left of a deleted topic's queues is no queue. One of its new queues has no entry of
    /// the old: there was none left when it began.
    fn set_half_deleted_apart(&mut self) -> Result<(), StoreError> {
        for queue in &self.queues {
            let end = self.deletions.end_of(&queue.topic);
            let files = self.files_of(&queue.topic, queue.queue_id, &queue.bases);
            if end > 0 && files.first_physical()?.is_some_and(|physical| physical < end) {
                self.half_deleted.insert(queue.topic.clone());
            }
        }
        let half_deleted = &self.half_deleted;
        self.queues.retain(|queue| !half_deleted.contains(&queue.topic));
        Ok(())
    }

    /// Queues without a log, or a log shorter than what was synced, are a loss that someone must
    /// see.
    fn check_log_exists(&self) -> Result<(), StoreError> {
        let synced = self.mark.map_or(0, |mark| mark.synced);
        let has_queues = self.queues.iter().any(|queue| !queue.bases.is_empty());
        let lost = self.log.is_empty() && (synced > 0 || has_queues);
        if lost || synced > self.log.end {
            let start = self.mark.map_or(0, |mark| mark.start);
            let missing = if lost { start } else { self.log.end };
            return Err(self.missing(missing));
        }
        Ok(())
    }

    fn missing(&self, base: u64) -> StoreError {
        missing(&self.segments, base)
    }

    /// Decides. Reads much, writes nothing.
    pub(super) fn plan(&self) -> Result<Plan, StoreError> {
        let (mut indexed, mut store_timestamp_ms) = match self.mark {
            Some(mark) => (mark.indexed.max(self.log.start), mark.store_timestamp_ms),
            None if self.clean => (self.dispatched()?, self.checkpoint.store_timestamp_ms),
            None => (self.log.start, self.checkpoint.store_timestamp_ms),
        };
        let mut queues = self.plan_queues(indexed)?;
        let entries = |queues: &[QueuePlan]| queues.iter().map(|q| q.length.cast_unsigned()).sum();
        let expected = self.mark.map(|mark| mark.entries);
        let broken = self.queues.iter().any(|queue| queue.broken);
        let rebuilt = broken || expected.is_some_and(|expected| expected != entries(&queues));
        if rebuilt {
            warn!("the consume queues do not fit the log, they are built again");
            indexed = self.log.start;
            queues = self.plan_queues(indexed)?;
        }
        let mut scan = LogScan::new(self, indexed);
        let end = scan.run()?;
        if !scan.quarantined.is_empty() {
            queues.iter_mut().try_for_each(|queue| self.find_evidence(queue, &scan))?;
        }
        store_timestamp_ms = store_timestamp_ms.max(scan.store_timestamp_ms);
        let truncated = self.behind(end, self.clean && scan.torn.is_none())?;
        let entries = entries(&queues);
        let report = Recovery {
            clean: self.clean && truncated.is_none() && scan.damaged.is_empty() && !rebuilt,
            scanned: indexed..end,
            records: scan.records,
            truncated,
            damaged: scan.damaged,
            quarantined: scan.quarantined,
            rebuilt,
        };
        let sealed_from = self.mark.map_or(end, |mark| mark.sealed_from);
        Ok(Plan {
            report,
            indexed,
            store_timestamp_ms,
            sealed_from: if scan.foreign { end } else { sealed_from },
            offsets: scan.offsets,
            queues,
            entries,
        })
    }

    /// Bytes behind the end that are not zero. After a clean stop there are none.
    fn behind(&self, end: u64, clean: bool) -> Result<Option<Range<u64>>, StoreError> {
        let mut dirty_end = end;
        let mut at = if clean { self.log.end } else { end };
        let mut buf = vec![0; CHUNK.min(usize::try_from(self.segments.size).unwrap_or(CHUNK))];
        while at < self.log.end {
            let read = self.segments.read_at(at, &mut buf)?;
            let chunk = buf.get(..read).unwrap_or_default();
            if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
                dirty_end = at + last as u64 + 1;
            }
            at += read.max(1) as u64;
        }
        Ok((dirty_end > end).then_some(end..dirty_end))
    }

    /// Without a mark: the log position behind the last record that any queue knows.
    fn dispatched(&self) -> Result<u64, StoreError> {
        let mut position = self.log.start;
        for queue in self.plan_queues(u64::MAX)? {
            if let Some(last) = queue.length.checked_sub(1).filter(|last| *last >= queue.min) {
                let files = self.files_of(&queue.topic, queue.queue_id, &queue.bases);
                let entry = files.entry(last)?;
                let end = entry.physical_offset.saturating_add(entry.size.into());
                position = position.max(end.cast_unsigned());
            }
        }
        Ok(position.min(self.log.end))
    }

    fn plan_queues(&self, indexed: u64) -> Result<Vec<QueuePlan>, StoreError> {
        self.queues.iter().map(|queue| self.plan_queue(queue, indexed)).collect()
    }

    /// How much of a queue is to be believed: entries of records before `indexed`.
    fn plan_queue(&self, queue: &FoundQueue, indexed: u64) -> Result<QueuePlan, StoreError> {
        let files = self.files_of(&queue.topic, queue.queue_id, &queue.bases);
        let mut length = files.believed(indexed)?;
        while let Some(last) = length.checked_sub(1).filter(|last| *last >= files.first()) {
            let entry = files.entry(last)?;
            if !entry.is_hole() && (self.clean || self.matches(queue, last, &entry)?) {
                break;
            }
            length = last;
        }
        let length = if length <= files.first() { 0 } else { length };
        Ok(QueuePlan {
            topic: queue.topic.clone(),
            queue_id: queue.queue_id,
            bases: queue.bases.clone(),
            min: files.min(length, self.log.start)?,
            length,
            evidence: Vec::new(),
        })
    }

    /// Whether the log has this very message there. Old entries that a truncation left behind the
    /// end of a queue may point at records that came later.
    fn matches(&self, queue: &FoundQueue, offset: i64, entry: &Entry) -> Result<bool, StoreError> {
        let at = entry.physical_offset.cast_unsigned();
        if at < self.log.start || self.in_quarantine(at) {
            return Ok(true);
        }
        let left = self.segments.size - at % self.segments.size;
        let size = u64::from(entry.size.cast_unsigned()).min(left);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = self.segments.read_at(at, &mut bytes)?;
        Ok(Record::decode(bytes.get(..read).unwrap_or_default(), Verify::None).is_ok_and(
            |(record, size)| {
                let place = (record.physical_offset, record.queue_id, record.queue_offset);
                place == (entry.physical_offset, queue.queue_id, offset)
                    && size as u64 == u64::from(entry.size.cast_unsigned())
                    && record.topic == queue.topic
            },
        ))
    }

    /// Looks behind the believed entries for those of damaged records that no later one follows.
    fn find_evidence(&self, queue: &mut QueuePlan, scan: &LogScan<'_>) -> Result<(), StoreError> {
        let files = self.files_of(&queue.topic, queue.queue_id, &queue.bases);
        let found_to = scan.offsets.known(&queue.topic, queue.queue_id);
        let mut offset = queue.length;
        while files.contains(offset) {
            let entry = files.entry(offset)?;
            let at = entry.physical_offset.cast_unsigned();
            if entry.is_empty() {
                break;
            }
            if offset >= found_to
                && !entry.is_hole()
                && scan.quarantined.iter().any(|range| range.contains(&at))
            {
                queue.evidence.push((offset, entry));
            }
            offset += 1;
        }
        Ok(())
    }

    fn in_quarantine(&self, at: u64) -> bool {
        self.quarantined.iter().any(|range| range.contains(&at))
    }

    fn files_of(&self, topic: &str, queue_id: i32, bases: &'a [u64]) -> QueueFilesFound<'a> {
        QueueFilesFound {
            disk: &**self.disk,
            dir: queue_dir(&self.layout.queues(), topic, queue_id),
            bases,
            file_bytes: self.options.queue_file_bytes,
        }
    }

    /// Does what was decided. The log is ready afterwards, the queues are as `indexed` says.
    pub(super) fn carry_out(
        mut self,
        mut plan: Plan,
        queues: &ConsumeQueues,
    ) -> Result<Recovered, StoreError> {
        let end = plan.end();
        for topic in &self.half_deleted {
            remove_files(&**self.disk, &self.layout.queues(), topic)?;
        }
        if let Some(cut) = self.deletions.cut(end) {
            cut.save(&**self.disk, &self.layout.deletions())?;
            self.deletions = cut;
        }
        if !plan.report.damaged.is_empty() {
            self.save_quarantine(&plan.report.quarantined)?;
        }
        if !plan.report.clean {
            self.end_log(end, plan.report.truncated.as_ref())?;
            self.write_again(self.mark.map_or(end, |mark| mark.synced)..end)?;
            self.cut_queues(&plan.queues)?;
        }
        for queue in &plan.queues {
            plan.offsets.raise(&queue.topic, queue.queue_id, queue.keep());
            queues.queue_or_create(&queue.topic, queue.queue_id)?.restore(queue.min, queue.length);
        }
        let mark = Mark {
            synced: end,
            indexed: plan.indexed,
            entries: plan.entries,
            start: self.log.start,
            store_timestamp_ms: plan.store_timestamp_ms.max(self.checkpoint.store_timestamp_ms),
            segment_bytes: self.segments.size,
            sealed_from: plan.sealed_from,
        };
        self.marks.save(&**self.disk, mark)?;
        let start = LogStart {
            segments: self.segments,
            end,
            quarantined: plan.report.quarantined.clone().into(),
            sealed_from: mark.sealed_from,
            store_timestamp_ms: plan.store_timestamp_ms,
            offsets: plan.offsets,
        };
        let evidence = plan.queues.into_iter().flat_map(|queue| {
            let QueuePlan { topic, queue_id, evidence, .. } = queue;
            let all = evidence.into_iter();
            all.map(move |(offset, entry)| Evidence {
                topic: topic.clone(),
                queue_id,
                offset,
                entry,
            })
        });
        Ok(Recovered {
            start,
            marks: self.marks,
            checkpoint: self.checkpoint,
            deletions: self.deletions,
            evidence: evidence.collect(),
            report: plan.report,
        })
    }

    fn save_quarantine(&self, ranges: &[Range<u64>]) -> Result<(), StoreError> {
        let table: Vec<_> =
            ranges.iter().map(|range| Quarantined { from: range.start, to: range.end }).collect();
        table_file::save(&**self.disk, &self.layout.quarantine(), &table)
    }

    /// Removes log files that lie wholly behind the end, and makes zeros of the rest of the last.
    fn end_log(&self, end: u64, dirty: Option<&Range<u64>>) -> Result<(), StoreError> {
        let mut behind: Vec<PathBuf> = self.unfinished.iter().cloned().collect();
        let segments = self.segments.within(end..self.log.end);
        behind.extend(segments.iter().rev().filter(|s| s.base > end).map(|s| s.path.clone()));
        for path in &behind {
            self.disk.remove(path).map_err(|error| StoreError::io(path, "remove", error))?;
        }
        let dir = self.layout.log();
        self.disk.sync_dir(&dir).map_err(|error| StoreError::io(&dir, "sync", error))?;
        self.segments.keep_below(end + 1);
        let Some(segment) = self.segments.find(end) else { return Ok(()) };
        if segment.base == end {
            // Nothing is in it, and whether its making was ever synced cannot be known.
            let made =
                segment.file.set_len(0).and_then(|()| segment.file.reserve(self.segments.size));
            made.map_err(|error| StoreError::io(&segment.path, "make anew", error))?;
        }
        let dirty = dirty.map_or(end, |dirty| dirty.end.min(segment.base + self.segments.size));
        let zeros = vec![0; CHUNK];
        let mut at = end;
        while at < dirty {
            let size = usize::try_from(dirty - at).unwrap_or(CHUNK).min(CHUNK);
            let part = zeros.get(..size).unwrap_or_default();
            let written = segment.file.write_at(part, at - segment.base);
            written.map_err(|error| segment.failed("write zeros to", error))?;
            at += size as u64;
        }
        segment.file.sync_data().map_err(|error| segment.failed("sync", error))
    }

    /// Makes a range durable whatever the kernel believes of it: its pages become new ones.
    fn write_again(&self, range: Range<u64>) -> Result<(), StoreError> {
        let mut at = range.start;
        let mut buf = vec![0; CHUNK.min(usize::try_from(self.segments.size).unwrap_or(CHUNK))];
        while at < range.end {
            let Some(segment) = self.segments.find(at) else { return Err(self.missing(at)) };
            let size = usize::try_from(range.end - at).unwrap_or(CHUNK).min(buf.len());
            let read = self.segments.read_at(at, buf.get_mut(..size).unwrap_or_default())?;
            let bytes = buf.get(..read).unwrap_or_default();
            let written = segment.file.write_at(bytes, at - segment.base);
            written.map_err(|error| segment.failed("write", error))?;
            at += read.max(1) as u64;
        }
        for segment in self.segments.within(range) {
            segment.file.sync_data().map_err(|error| segment.failed("sync", error))?;
        }
        Ok(())
    }

    /// Behind its length every queue reads as zeros again.
    fn cut_queues(&self, queues: &[QueuePlan]) -> Result<(), StoreError> {
        for queue in queues {
            let dir = queue_dir(&self.layout.queues(), &queue.topic, queue.queue_id);
            let length = queue.keep().cast_unsigned() * ENTRY;
            // The newest first: a crash in between leaves no gap.
            for base in queue.bases.iter().rev() {
                let path = dir.join(file_name(*base));
                self.cut_file(&path, length.saturating_sub(*base))
                    .map_err(|error| StoreError::io(&path, "cut", error))?;
            }
        }
        Ok(())
    }

    fn cut_file(&self, path: &Path, keep: u64) -> io::Result<()> {
        let full = self.options.queue_file_bytes;
        if keep == 0 {
            return self.disk.remove(path);
        }
        let file = self.disk.open(path, OpenMode::Write)?;
        if keep < full {
            file.set_len(keep)?;
        }
        file.set_len(full)
    }
}

/// The mark, unless RocketMQ has appended since it was saved; then RocketMQ's rules are all there
/// is.
fn believed(
    marks: &MarkFile,
    checkpoint: &Checkpoint,
    segment_bytes: u64,
) -> Result<Option<Mark>, StoreError> {
    let Some(mark) = marks.last else { return Ok(None) };
    if mark.segment_bytes != segment_bytes {
        let what = format!(
            "mappedFileSizeCommitLog is {segment_bytes}, and this store was made with {}",
            mark.segment_bytes
        );
        return Err(StoreError::Illegal(what));
    }
    if checkpoint.store_timestamp_ms > mark.store_timestamp_ms {
        warn!("another broker has written to this store; its checkpoint says what it synced");
        return Ok(None);
    }
    Ok(Some(mark))
}

struct FoundSegments {
    segments: Segments,
    log: Range<u64>,
    unfinished: Option<PathBuf>,
}

fn missing(segments: &Segments, base: u64) -> StoreError {
    let what = "this file of the log is missing; put it back, or move the whole store away to \
                start with an empty one";
    StoreError::Corrupt { file: segments.path(base), at: base, what: what.into() }
}

/// Opens the files of the log, which must be all there and of one length.
fn find_segments(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    size: u64,
    mark: Option<&Mark>,
) -> Result<FoundSegments, StoreError> {
    let dir = layout.log();
    let names = list(&**disk, &dir)?;
    let segments = Segments::new(disk.clone(), dir.clone(), size);
    let mut log = 0..0;
    let mut unfinished = None;
    let newest = names.last().cloned();
    for name in names {
        let base = parse_name(&name).filter(|base| base.is_multiple_of(size)).ok_or_else(|| {
            let what = "it is no file of this log; move it away".into();
            StoreError::Corrupt { file: dir.join(&name), at: 0, what }
        })?;
        if log.is_empty() {
            log = base..base;
        }
        if base != log.end {
            return Err(missing(&segments, log.end));
        }
        let segment = segments.open(base)?;
        let len = segment.file.len().map_err(|error| segment.failed("look at", error))?;
        if len == size {
            log.end += size;
            continue;
        }
        // Made, and the crash came before its room was: nothing was ever appended to it.
        if newest.as_deref() != Some(&name)
            || base < mark.map_or(0, |mark| mark.synced)
            || len > size
        {
            let what = format!("it has {len} bytes, and mappedFileSizeCommitLog is {size}");
            return Err(StoreError::Corrupt { file: segment.path.clone(), at: base, what });
        }
        unfinished = Some(segment.path.clone());
        segments.keep_below(base);
    }
    if let Some(mark) = mark.filter(|mark| mark.start < log.start) {
        return Err(missing(&segments, mark.start));
    }
    Ok(FoundSegments { segments, log, unfinished })
}

/// The names in a directory; none when there is no such directory.
fn list(disk: &dyn Disk, dir: &Path) -> Result<Vec<String>, StoreError> {
    match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| StoreError::io(dir, "list", error)),
    }
}

fn find_queues(
    disk: &dyn Disk,
    dir: &Path,
    file_bytes: u64,
) -> Result<Vec<FoundQueue>, StoreError> {
    let mut queues = Vec::new();
    for topic in list(disk, dir)? {
        for number in list(disk, &dir.join(&topic))? {
            let Ok(queue_id) = number.parse() else {
                warn!(topic, number, "a directory that is no queue is left alone");
                continue;
            };
            let dir = queue_dir(dir, &topic, queue_id);
            let mut bases = Vec::new();
            for name in list(disk, &dir)? {
                let base = parse_name(&name).filter(|base| base.is_multiple_of(file_bytes));
                bases.push(base.ok_or_else(|| {
                    let what = "it is no file of a consume queue; move it away".into();
                    StoreError::Corrupt { file: dir.join(&name), at: 0, what }
                })?);
            }
            let broken = bases.windows(2).any(|pair| pair[0] + file_bytes != pair[1]);
            queues.push(FoundQueue { topic: topic.clone(), queue_id, bases, broken });
        }
    }
    Ok(queues)
}

/// Files of one queue, read before there is a queue.
struct QueueFilesFound<'a> {
    disk: &'a dyn Disk,
    dir: PathBuf,
    bases: &'a [u64],
    file_bytes: u64,
}

impl QueueFilesFound<'_> {
    /// The first offset that has a place.
    fn first(&self) -> i64 {
        self.bases.first().map_or(0, |base| (base / ENTRY).cast_signed())
    }

    /// Where the first message lies whose entry is there.
    fn first_physical(&self) -> Result<Option<u64>, StoreError> {
        for base in self.bases {
            let file = self.open(*base)?;
            for at in (*base..base + self.file_bytes).step_by(ENTRY_BYTES) {
                let entry = self.entry_in(&*file, *base, at)?;
                if entry.is_empty() {
                    break;
                }
                if !entry.is_hole() {
                    return Ok(u64::try_from(entry.physical_offset).ok());
                }
            }
        }
        Ok(None)
    }

    fn contains(&self, offset: i64) -> bool {
        let at = offset.cast_unsigned().saturating_mul(ENTRY);
        self.bases.iter().any(|base| (*base..base + self.file_bytes).contains(&at))
    }

    fn open(&self, base: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        let path = self.dir.join(file_name(base));
        self.disk.open(&path, OpenMode::Read).map_err(|error| StoreError::io(&path, "open", error))
    }

    fn entry(&self, offset: i64) -> Result<Entry, StoreError> {
        let at = offset.cast_unsigned() * ENTRY;
        let base = at - at % self.file_bytes;
        self.entry_in(&*self.open(base)?, base, at)
    }

    /// The entry at a byte of the queue; an empty one where the file is too short.
    fn entry_in(&self, file: &dyn DiskFile, base: u64, at: u64) -> Result<Entry, StoreError> {
        let mut bytes = [0; ENTRY_BYTES];
        match read_exact_at(file, &mut bytes, at - base) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(StoreError::io(&self.dir.join(file_name(base)), "read", error))
            }
            Err(_) => Ok(Entry::from_bytes(&[0; ENTRY_BYTES])),
            Ok(()) => Ok(Entry::from_bytes(&bytes)),
        }
    }

    /// The offset behind the last entry that points before `indexed`, with all entries before it.
    fn believed(&self, indexed: u64) -> Result<i64, StoreError> {
        let is_believed =
            |entry: Entry| !entry.is_empty() && entry.physical_offset.cast_unsigned() < indexed;
        for base in self.bases.iter().rev() {
            let file = self.open(*base)?;
            if !is_believed(self.entry_in(&*file, *base, *base)?) {
                continue;
            }
            let (mut low, mut high) = (base / ENTRY + 1, (base + self.file_bytes) / ENTRY);
            while low < high {
                let middle = low + (high - low) / 2;
                if is_believed(self.entry_in(&*file, *base, middle * ENTRY)?) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            return Ok(low.cast_signed());
        }
        Ok(self.first())
    }

    /// The first entry whose record is still in the log.
    fn min(&self, length: i64, log_start: u64) -> Result<i64, StoreError> {
        let (mut low, mut high) = (self.first().min(length), length);
        let is_there = |entry: &Entry| entry.physical_offset.cast_unsigned() >= log_start;
        while low < high {
            let middle = low + (high - low) / 2;
            let mut real = middle;
            while real < high && self.entry(real)?.is_hole() {
                real += 1;
            }
            if real < high && !is_there(&self.entry(real)?) {
                low = real + 1;
            } else if real > middle && middle == low {
                low = real;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// The scan of the log.
struct LogScan<'a> {
    segments: &'a Segments,
    end: u64,
    at: u64,
    /// Damage below is quarantined; `None` when only RocketMQ's checkpoint tells.
    synced: Option<u64>,
    checkpoint_ms: i64,
    sealed_from: u64,
    walk: Walk,
    deletions: &'a Deletions,
    records: u64,
    store_timestamp_ms: i64,
    offsets: QueueOffsets,
    quarantined: Vec<Range<u64>>,
    damaged: Vec<Range<u64>>,
    /// Where a bad record ended the log.
    torn: Option<u64>,
    /// RocketMQ has appended behind what the mark knows.
    foreign: bool,
}

/// What the scan has seen at a place.
enum Seen {
    Next(u64),
    End,
    Bad,
}

impl<'a> LogScan<'a> {
    fn new(survey: &'a Survey<'_>, from: u64) -> Self {
        Self {
            segments: &survey.segments,
            end: survey.log.end,
            at: from,
            synced: survey.mark.map(|mark| mark.synced),
            checkpoint_ms: survey.checkpoint.store_timestamp_ms,
            sealed_from: survey.mark.map_or(u64::MAX, |mark| mark.sealed_from),
            walk: Walk::new(),
            deletions: &survey.deletions,
            records: 0,
            store_timestamp_ms: 0,
            offsets: QueueOffsets::default(),
            quarantined: survey.quarantined.clone(),
            damaged: Vec::new(),
            torn: None,
            foreign: false,
        }
    }

    /// The end of the log.
    fn run(&mut self) -> Result<u64, StoreError> {
        while self.at < self.end {
            let known = self.quarantined.iter().find(|range| range.contains(&self.at));
            if let Some(range) = known {
                self.at = range.end;
                continue;
            }
            let seen = self.look()?;
            if let Seen::Next(at) = seen {
                self.at = at;
                continue;
            }
            let Some(resume) = self.resume()? else {
                self.torn = matches!(seen, Seen::Bad).then_some(self.at);
                break;
            };
            let range = self.at..resume;
            warn!(?range, "damage in the log is quarantined");
            self.damaged.push(range.clone());
            self.quarantined.push(range);
            self.quarantined.sort_unstable_by_key(|range| range.start);
            self.at = resume;
        }
        Ok(self.at)
    }

    fn look(&mut self) -> Result<Seen, StoreError> {
        let at = self.at;
        let left = self.segments.base_of(at) + self.segments.size - at;
        let room = left.saturating_sub(BLANK_BYTES_MIN as u64);
        let unknown = self.synced.is_some_and(|synced| at >= synced);
        match self.walk.scan(self.segments, at, self.end, Verify::Whole)? {
            Scan::Record(record, size) if size as u64 <= room => {
                if !is_whole(&record, at, self.sealed_from) {
                    if !unknown || !is_foreign(&record, at) {
                        return Ok(Seen::Bad);
                    }
                    self.foreign = true;
                }
                self.records += 1;
                self.store_timestamp_ms = self.store_timestamp_ms.max(record.store_timestamp_ms);
                let dead = self.deletions.covers(record.topic, at);
                if has_queue_entry(record.sys_flag) && !dead {
                    let next = record.queue_offset.saturating_add(1);
                    self.offsets.raise(record.topic, record.queue_id, next);
                }
                Ok(Seen::Next(at + size as u64))
            }
            Scan::Blank(size) if size as u64 == left => Ok(Seen::Next(at + left)),
            Scan::End => Ok(Seen::End),
            _ => Ok(Seen::Bad),
        }
    }

    /// Where the log goes on behind damage at the present place; `None` when this is its end.
    fn resume(&mut self) -> Result<Option<u64>, StoreError> {
        match self.synced {
            Some(synced) if self.at >= synced => Ok(None),
            Some(synced) => {
                let next = self.next_record(synced)?;
                Ok(Some(next.map_or(synced, |next| next.0)))
            }
            // What RocketMQ had synced is older than its checkpoint says.
            None => Ok(self
                .next_record(self.end)?
                .filter(|next| next.1 <= self.checkpoint_ms)
                .map(|next| next.0)),
        }
    }

    /// The first whole record behind the present place that starts before `limit`, and its time.
    fn next_record(&mut self, limit: u64) -> Result<Option<(u64, i64)>, StoreError> {
        let mut at = self.at + 1;
        let mut buf = vec![0; CHUNK.min(usize::try_from(self.segments.size).unwrap_or(CHUNK))];
        while at < limit {
            let segment_end = self.segments.base_of(at) + self.segments.size;
            if segment_end - at < RECORD_BYTES_MIN as u64 {
                at = segment_end;
                continue;
            }
            let read = self.segments.read_at(at, &mut buf)?;
            for candidate in places_of_magic(buf.get(..read).unwrap_or_default()) {
                let candidate = at + candidate;
                if candidate >= limit {
                    return Ok(None);
                }
                let scan = self.walk.scan(self.segments, candidate, self.end, Verify::Whole)?;
                match scan {
                    Scan::Record(record, _) if is_whole(&record, candidate, self.sealed_from) => {
                        return Ok(Some((candidate, record.store_timestamp_ms)));
                    }
                    _ => {}
                }
            }
            // The last bytes are looked at again: a magic may lie across the edge.
            let whole = at + read as u64 >= segment_end;
            at = if whole { segment_end } else { at + (read as u64).saturating_sub(7).max(1) };
        }
        Ok(None)
    }
}

/// Where in the bytes a record may start: its magic stands four bytes behind.
fn places_of_magic(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let [v1, v2] = [MAGIC_V1.to_be_bytes(), MAGIC_V2.to_be_bytes()];
    let found = bytes
        .windows(8)
        .enumerate()
        .filter(move |(_, window)| window.get(4..).is_some_and(|magic| magic == v1 || magic == v2));
    found.map(|(place, _)| place as u64)
}
