//! The commit log: the one truth of the store. Here: the append lock with everything under it
//! (positions, queue offsets, encoding, the one write of a burst), reading, and writing ahead of
//! the tail. Not here: syncing (`flush.rs`), what is derived (`indexer.rs`), what a start does.
//!
//! ```text
//! segment: | record | record | ... | blank: rest 4, magic 4 | zeros |   next segment: | record ...
//! ```
//!
//! Invariants:
//! - A record lies in one segment; one that does not fit with 8 bytes to spare goes to the next,
//!   and a blank says so.
//! - A burst is written before `appended` covers any of it. When a write fails the store is
//!   poisoned: what follows a hole could never be told from damage.
//! - Nothing is written to a segment whose room is not reserved, so that a full disk is found out
//!   before the first byte.
//! - Zeros are written ahead only behind the tail and under the lock that moves it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use mq_core::clock::Clock;
use mq_core::properties::key;
use mq_core::protocol::record::{
    BLANK_BYTES_MIN, MAGIC_BLANK, NewRecord, Position, RECORD_BYTES_MIN, Record, Verify, sys_flag,
};
use mq_core::watermark::Watermark;
use tracing::error;

use super::disk::is_full;
use super::segment::{Segment, Segments};
use super::{FlushMode, StoreError, check_topic};

/// The scratch buffer keeps at most this much between bursts.
const SCRATCH_BYTES: usize = 4 << 20;
/// Zeros are written in pieces of this size, each under the append lock.
const ZERO_PIECE: u64 = 256 << 10;
/// Pieces between two syncs.
const ZERO_PIECES: u32 = 4;
/// How far ahead of the tail the zeros reach.
const ZERO_AHEAD: u64 = 8 << 20;
/// Page size of the caches that matter; zeros start at the next one, no append's page is touched.
const PAGE: u64 = 4096;

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position in the log.
    pub physical_offset: i64,
    /// Position in its queue; 0 for half and rollback records, which are in none.
    pub queue_offset: i64,
    /// Bytes.
    pub size: u32,
}

impl Appended {
    /// The first byte behind the record: what `flushed` must reach for it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.physical_offset.cast_unsigned() + u64::from(self.size)
    }
}

/// The log.
#[derive(Debug)]
pub struct CommitLog {
    /// Everything before it was written.
    pub appended: Watermark,
    /// Everything before it was synced.
    pub flushed: Watermark,
    pub(super) segments: Segments,
    /// One flush at a time.
    pub(super) flushing: Mutex<()>,
    /// Damaged ranges, in order; they are not read.
    pub(super) quarantined: Box<[Range<u64>]>,
    sealed_from: u64,
    flush: FlushMode,
    clock: Clock,
    poison: OnceLock<Arc<str>>,
    tail: Mutex<Tail>,
    spares: Mutex<Spares>,
}

/// Where a log goes on.
#[derive(Debug)]
pub(super) struct LogStart {
    pub(super) segments: Segments,
    pub(super) end: u64,
    pub(super) quarantined: Box<[Range<u64>]>,
    /// Records from here on must have a checksum of all their bytes.
    pub(super) sealed_from: u64,
    pub(super) store_timestamp_ms: i64,
    pub(super) offsets: QueueOffsets,
}

#[derive(Debug)]
struct Tail {
    /// The segment of `at`; `None` before the first record of a segment that is not made yet.
    segment: Option<Arc<Segment>>,
    /// Position of the next record.
    at: u64,
    /// Zeros are written up to here.
    zeroed: u64,
    offsets: QueueOffsets,
    store_timestamp_ms: i64,
    scratch: Vec<u8>,
    closed: bool,
}

/// The next offset of every queue. A lookup allocates nothing.
#[derive(Debug, Default)]
pub(super) struct QueueOffsets {
    topics: HashMap<Box<str>, usize>,
    queues: Vec<BTreeMap<i32, i64>>,
}

impl QueueOffsets {
    pub(super) fn next(&mut self, topic: &str, queue_id: i32) -> &mut i64 {
        let known = self.topics.get(topic).copied();
        let index = known.unwrap_or_else(|| {
            self.topics.insert(topic.into(), self.queues.len());
            self.queues.push(BTreeMap::new());
            self.queues.len() - 1
        });
        self.queues[index].entry(queue_id).or_default()
    }

    pub(super) fn known(&self, topic: &str, queue_id: i32) -> i64 {
        let queues = self.topics.get(topic).and_then(|index| self.queues.get(*index));
        queues.and_then(|queues| queues.get(&queue_id)).copied().unwrap_or_default()
    }

    fn of_topic(&self, topic: &str) -> BTreeMap<i32, i64> {
        let queues = self.topics.get(topic).and_then(|index| self.queues.get(*index));
        queues.cloned().unwrap_or_default()
    }

    /// All queues of the topic start at 0 again.
    fn forget(&mut self, topic: &str) {
        let index = self.topics.get(topic).copied();
        if let Some(queues) = index.and_then(|index| self.queues.get_mut(index)) {
            queues.clear();
        }
    }

    /// Makes sure the next offset is at least `floor`.
    pub(super) fn raise(&mut self, topic: &str, queue_id: i32, floor: i64) {
        let next = self.next(topic, queue_id);
        *next = floor.max(*next);
    }
}

/// Segments made ahead of need.
#[derive(Debug)]
struct Spares {
    ready: VecDeque<Spare>,
    next_base: u64,
}

#[derive(Debug)]
struct Spare {
    segment: Arc<Segment>,
    /// Zeros are written up to here in it.
    zeroed: u64,
}

impl CommitLog {
    pub(super) fn new(start: LogStart, flush: FlushMode, clock: Clock) -> Self {
        let LogStart { segments, end, quarantined, sealed_from, store_timestamp_ms, offsets } =
            start;
        let segment = segments.find(end);
        let mut spares = VecDeque::new();
        let mut next_base = end.next_multiple_of(segments.size);
        if end == next_base && segment.is_some() {
            next_base += segments.size;
        }
        while let Some(segment) = segments.find(next_base) {
            spares.push_back(Spare { segment, zeroed: 0 });
            next_base += segments.size;
        }
        let tail = Tail {
            segment,
            at: end,
            zeroed: end,
            offsets,
            store_timestamp_ms,
            scratch: Vec::new(),
            closed: false,
        };
        segments.keep_below(end.next_multiple_of(segments.size).max(end + 1));
        Self {
            appended: Watermark::new(end),
            flushed: Watermark::new(end),
            segments,
            flushing: Mutex::default(),
            quarantined,
            sealed_from,
            flush,
            clock,
            poison: OnceLock::new(),
            tail: Mutex::new(tail),
            spares: Mutex::new(Spares { ready: spares, next_base }),
        }
    }

    /// Stores a burst: one lock, one write, positions without a gap (but where a segment ends). All
    /// or nothing. Durable once `flushed` reaches [`Appended::end`] of the last.
    pub fn append(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>, StoreError> {
        let checked = records.iter().map(|record| self.check(record));
        let mut appended = checked.collect::<Result<Vec<_>, _>>()?;
        let mut tail = self.tail();
        self.check_poison()?;
        if tail.closed {
            return Err(StoreError::Poisoned("it was closed".into()));
        }
        self.reserve_for(&tail, &appended)?;
        let store_timestamp_ms = self.clock.now_ms().max(tail.store_timestamp_ms);
        tail.store_timestamp_ms = store_timestamp_ms;
        for (record, place) in records.iter().zip(&mut appended) {
            if !self.fits(tail.end(), place.size) {
                self.roll(&mut tail)?;
            }
            tail.encode(record, place);
        }
        self.write(&mut tail)?;
        tail.scratch.shrink_to(SCRATCH_BYTES);
        self.appended.advance(tail.at);
        Ok(appended)
    }

    /// Takes no more appends; what was appended can still be synced.
    pub(super) fn close(&self) {
        self.tail().closed = true;
    }

    /// The offset that the next record of a queue will get.
    pub fn next_queue_offset(&self, topic: &str, queue_id: i32) -> i64 {
        self.tail().offsets.known(topic, queue_id)
    }

    /// The log's end, and the next offsets of a topic's queues there.
    pub(super) fn offsets_of(&self, topic: &str) -> (u64, BTreeMap<i32, i64>) {
        let tail = self.tail();
        (tail.at, tail.offsets.of_topic(topic))
    }

    /// Lets a topic's queues start at 0 again, unless its offsets are others than `seen` by now;
    /// false then.
    pub(super) fn forget_offsets(&self, topic: &str, seen: &BTreeMap<i32, i64>) -> bool {
        let mut tail = self.tail();
        let unchanged = tail.offsets.of_topic(topic) == *seen;
        if unchanged {
            tail.offsets.forget(topic);
        }
        unchanged
    }

    /// Bytes of the log as they are, checksums unchecked. They may lie in two segments.
    pub fn read(&self, offset: u64, size: usize) -> Result<Bytes, StoreError> {
        let mut bytes = vec![0; self.check_range(offset, size)?];
        self.read_into(offset, &mut bytes)?;
        Ok(bytes.into())
    }

    /// The record that starts at `offset`, whole and checked against its checksums.
    pub fn read_record_at(&self, offset: u64) -> Result<Bytes, StoreError> {
        let mut start = [0; 4];
        self.check_range(offset, RECORD_BYTES_MIN)?;
        self.read_into(offset, &mut start)?;
        let size = u32::from_be_bytes(start) as usize;
        if size < RECORD_BYTES_MIN || size as u64 > self.segments.size - offset % self.segments.size
        {
            return Err(self.corrupt(offset, format!("no record has {size} bytes here")));
        }
        let bytes = self.read(offset, size)?;
        match Record::decode(&bytes, Verify::Whole) {
            Ok((record, _)) if is_whole(&record, offset, self.sealed_from) => Ok(bytes),
            Ok(_) => Err(self.corrupt(offset, "a record of another place".into())),
            Err(error) => Err(self.corrupt(offset, error.to_string())),
        }
    }

    /// The store timestamp of the record at `offset`, read alone.
    pub(super) fn store_timestamp_at(&self, offset: u64) -> Result<i64, StoreError> {
        let mut start = [0; 76];
        self.check_range(offset, start.len())?;
        self.read_into(offset, &mut start)?;
        let flag = i32::from_be_bytes(start[36..40].try_into().expect("four bytes"));
        let at = if flag & sys_flag::BORN_HOST_V6 == 0 { 56 } else { 68 };
        Ok(i64::from_be_bytes(start[at..at + 8].try_into().expect("eight bytes")))
    }

    /// When the first record that is still there was stored; `None` when none can be read.
    pub fn earliest_time(&self) -> Option<i64> {
        self.store_timestamp_at(self.min_offset()).ok()
    }

    /// Readers see what is before it: under sync flush what no power cut takes back.
    pub fn readable(&self) -> u64 {
        self.readable_mark().get()
    }

    /// The mark that [`Self::readable`] reads.
    pub fn readable_mark(&self) -> &Watermark {
        match self.flush {
            FlushMode::Sync => &self.flushed,
            FlushMode::Async => &self.appended,
        }
    }

    /// Where the log starts: what was before is deleted.
    pub fn min_offset(&self) -> u64 {
        self.segments.first_base().unwrap_or_else(|| self.appended.get())
    }

    /// The damaged range that covers `offset`.
    pub(super) fn quarantine_of(&self, offset: u64) -> Option<&Range<u64>> {
        let behind = self.quarantined.partition_point(|range| range.end <= offset);
        self.quarantined.get(behind).filter(|range| range.start <= offset)
    }

    /// Nothing is written any more; everyone who waits for it is told why. The first reason stays.
    pub(super) fn poison(&self, reason: &StoreError) {
        if self.stop(&reason.to_string()) {
            error!(%reason, "the store takes no more writes");
        }
    }

    /// As [`Self::poison`], without an error to tell of. False when it has been stopped before.
    pub(super) fn stop(&self, reason: &str) -> bool {
        let reason: Arc<str> = reason.into();
        let first = self.poison.set(reason.clone()).is_ok();
        if first {
            self.flushed.close(reason.clone());
            self.appended.close(reason);
        }
        first
    }

    pub(super) fn check_poison(&self) -> Result<(), StoreError> {
        self.poison.get().map_or(Ok(()), |reason| Err(StoreError::Poisoned(reason.clone())))
    }

    pub(super) fn corrupt(&self, at: u64, what: String) -> StoreError {
        StoreError::Corrupt { file: self.segments.path(self.segments.base_of(at)), at, what }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // A panic under the lock may have left it half changed; appends after it would be wrong.
        self.tail.lock().unwrap_or_else(|poisoned| {
            self.poison(&StoreError::Poisoned("a thread panicked while it appended".into()));
            poisoned.into_inner()
        })
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the record can be stored, and its size. No place yet.
    fn check(&self, record: &NewRecord<'_>) -> Result<Appended, StoreError> {
        check_topic(record.topic)?;
        record.check().map_err(|error| StoreError::Illegal(error.to_string()))?;
        if record.queue_id < 0 {
            return Err(StoreError::Illegal(format!("queue {} does not exist", record.queue_id)));
        }
        let size = u32::try_from(record.size()).unwrap_or(u32::MAX);
        if !self.fits(0, size) {
            let room = self.segments.size - BLANK_BYTES_MIN as u64;
            let what = format!("a record of {size} bytes; a log file holds {room}");
            return Err(StoreError::Illegal(what));
        }
        Ok(Appended { physical_offset: 0, queue_offset: 0, size })
    }

    fn fits(&self, at: u64, size: u32) -> bool {
        at % self.segments.size + u64::from(size) + BLANK_BYTES_MIN as u64 <= self.segments.size
    }

    /// Makes sure that there are as many segments as the burst will enter.
    fn reserve_for(&self, tail: &Tail, burst: &[Appended]) -> Result<(), StoreError> {
        let mut at = tail.at;
        let mut needed = usize::from(tail.segment.is_none() && !burst.is_empty());
        for record in burst {
            if !self.fits(at, record.size) {
                at = at.next_multiple_of(self.segments.size);
                needed += 1;
            }
            at += u64::from(record.size);
        }
        if needed > 0 {
            let mut spares = self.spares();
            while spares.ready.len() < needed {
                self.add_spare(&mut spares)?;
            }
        }
        Ok(())
    }

    fn add_spare(&self, spares: &mut Spares) -> Result<(), StoreError> {
        let segment = self.segments.create(spares.next_base).inspect_err(|error| {
            if !matches!(error, StoreError::Full) {
                self.poison(error);
            }
        })?;
        spares.next_base += self.segments.size;
        spares.ready.push_back(Spare { segment, zeroed: 0 });
        Ok(())
    }

    /// Ends the segment with a blank, writes what is encoded for it, and goes to the next.
    fn roll(&self, tail: &mut Tail) -> Result<(), StoreError> {
        let rest = self.segments.size - tail.end() % self.segments.size;
        tail.scratch.extend_from_slice(&u32::try_from(rest).unwrap_or(u32::MAX).to_be_bytes());
        tail.scratch.extend_from_slice(&MAGIC_BLANK.to_be_bytes());
        self.write(tail)?;
        tail.at = tail.at.next_multiple_of(self.segments.size);
        self.enter_spare(tail)
    }

    fn enter_spare(&self, tail: &mut Tail) -> Result<(), StoreError> {
        let spare = self.spares().ready.pop_front();
        let spare = spare.filter(|spare| spare.segment.base == tail.at);
        let Some(Spare { segment, zeroed }) = spare else {
            // Cannot be: the burst was counted before. Better stopped than written elsewhere.
            let error = self.corrupt(tail.at, "the next log file was not prepared".into());
            self.poison(&error);
            return Err(error);
        };
        tail.zeroed = segment.base + zeroed;
        self.segments.enter(segment.clone());
        tail.segment = Some(segment);
        Ok(())
    }

    fn write(&self, tail: &mut Tail) -> Result<(), StoreError> {
        if tail.scratch.is_empty() {
            return Ok(());
        }
        if tail.segment.is_none() {
            self.enter_spare(tail)?;
        }
        let Some(segment) = &tail.segment else { return Ok(()) };
        if let Err(error) = segment.file.write_at(&tail.scratch, tail.at - segment.base) {
            let error = segment.failed("write", error);
            self.poison(&error);
            return Err(error);
        }
        tail.at = tail.end();
        tail.scratch.clear();
        Ok(())
    }

    /// The size as asked, once the range is known to be readable.
    fn check_range(&self, offset: u64, size: usize) -> Result<usize, StoreError> {
        let (from, to) = (self.min_offset(), self.readable());
        let end = offset.saturating_add(size as u64);
        if offset < from || end > to || size as u64 > self.segments.size {
            return Err(StoreError::OutOfRange { at: offset, from, to });
        }
        let behind = self.quarantined.partition_point(|range| range.end <= offset);
        match self.quarantined.get(behind) {
            Some(range) if range.start < end => Err(self.corrupt(range.start, quarantine(range))),
            _ => Ok(size),
        }
    }

    fn read_into(&self, mut offset: u64, mut bytes: &mut [u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let read = self.segments.read_at(offset, bytes)?;
            if read == 0 {
                return Err(self.corrupt(offset, "the file is shorter than the log".into()));
            }
            bytes = bytes.split_at_mut(read).1;
            offset += read as u64;
        }
        Ok(())
    }

    /// Makes the next segment before it is needed and, where acknowledgements wait for syncs,
    /// writes zeros ahead: a sync of space that was written before is several times cheaper.
    pub(super) fn prefill(&self) -> Result<bool, StoreError> {
        self.check_poison()?;
        let made = self.make_spare()?;
        let zeroed = self.flush == FlushMode::Sync && self.zero_ahead()?;
        Ok(made || zeroed)
    }

    fn make_spare(&self) -> Result<bool, StoreError> {
        let at = self.appended.get();
        let half_used = at % self.segments.size >= self.segments.size / 2;
        let mut spares = self.spares();
        if !half_used || !spares.ready.is_empty() {
            return Ok(false);
        }
        self.add_spare(&mut spares)?;
        Ok(true)
    }

    fn zero_ahead(&self) -> Result<bool, StoreError> {
        let mut touched: Option<Arc<Segment>> = None;
        for _ in 0..ZERO_PIECES {
            let segment = match self.zero_behind_tail()? {
                None => self.zero_spare()?,
                tail => tail,
            };
            let Some(segment) = segment else { break };
            if touched.as_ref().is_some_and(|before| before.base != segment.base) {
                break;
            }
            touched = Some(segment);
        }
        let Some(segment) = touched else { return Ok(false) };
        // The descriptor is the one that appends go through: what fails here may be theirs.
        segment.file.sync_data().map_err(|error| {
            let error = segment.failed("sync", error);
            self.poison(&error);
            error
        })?;
        Ok(true)
    }

    fn zero_behind_tail(&self) -> Result<Option<Arc<Segment>>, StoreError> {
        let mut tail = self.tail();
        let Some(segment) = tail.segment.clone() else { return Ok(None) };
        let from = tail.zeroed.max(tail.at.next_multiple_of(PAGE));
        let end = segment.base + self.segments.size;
        if from >= end.min(tail.at + ZERO_AHEAD) {
            return Ok(None);
        }
        let to = end.min(from + ZERO_PIECE);
        self.zero(&segment, from - segment.base..to - segment.base)?;
        tail.zeroed = to;
        Ok(Some(segment))
    }

    fn zero_spare(&self) -> Result<Option<Arc<Segment>>, StoreError> {
        let mut spares = self.spares();
        let Some(spare) = spares.ready.front_mut() else { return Ok(None) };
        let to = self.segments.size.min(spare.zeroed + ZERO_PIECE).min(ZERO_AHEAD);
        if spare.zeroed >= to {
            return Ok(None);
        }
        self.zero(&spare.segment, spare.zeroed..to)?;
        spare.zeroed = to;
        Ok(Some(spare.segment.clone()))
    }

    fn zero(&self, segment: &Segment, range: Range<u64>) -> Result<(), StoreError> {
        static ZEROS: [u8; ZERO_PIECE as usize] = [0; ZERO_PIECE as usize];
        let size = usize::try_from(range.end - range.start).unwrap_or(0);
        let zeros = ZEROS.get(..size).unwrap_or(&ZEROS);
        segment.file.write_at(zeros, range.start).map_err(|error| {
            if is_full(&error) {
                return StoreError::Full;
            }
            let error = segment.failed("write zeros to", error);
            self.poison(&error);
            error
        })
    }
}

/// What is said of a quarantined range.
fn quarantine(range: &Range<u64>) -> String {
    format!("quarantined bytes {}..{}", range.start, range.end)
}

impl Tail {
    /// Position behind what is encoded.
    fn end(&self) -> u64 {
        self.at + self.scratch.len() as u64
    }

    fn encode(&mut self, record: &NewRecord<'_>, place: &mut Appended) {
        place.physical_offset = self.end().cast_signed();
        place.queue_offset = self.take_queue_offset(record);
        let position = Position {
            physical_offset: place.physical_offset,
            queue_offset: place.queue_offset,
            store_timestamp_ms: self.store_timestamp_ms,
        };
        record.encode(&mut self.scratch, position);
    }

    fn take_queue_offset(&mut self, record: &NewRecord<'_>) -> i64 {
        if !has_queue_entry(record.sys_flag) {
            return 0;
        }
        let next = self.offsets.next(record.topic, record.queue_id);
        *next += 1;
        *next - 1
    }
}

/// Bytes of the property that holds the checksum of all bytes; it is the last.
const SEAL_BYTES: usize = 20;

/// Whether a record that passed its checksums is the one of this place and had all it needs: the
/// checksum of all bytes may only be missing where RocketMQ has written.
pub(super) fn is_whole(record: &Record<'_>, at: u64, sealed_from: u64) -> bool {
    let seal = record.properties.as_bytes().last_chunk::<SEAL_BYTES>();
    let sealed = seal.is_some_and(|seal| {
        let value = seal.strip_prefix(key::CRC32.as_bytes());
        value.is_some_and(|value| value.starts_with(b"\x01") && value.ends_with(b"\x02"))
    });
    record.physical_offset.cast_unsigned() == at && (sealed || at < sealed_from)
}

/// Whether a record without that checksum is one that RocketMQ has written, and not one of ours
/// that a crash has torn: there the checksum, or what is missing of it, reads as zeros.
pub(super) fn is_foreign(record: &Record<'_>, at: u64) -> bool {
    let properties = record.properties.as_bytes();
    let end = properties.last_chunk::<SEAL_BYTES>().map_or(properties, |seal| &seal[..]);
    is_whole(record, at, u64::MAX) && !is_whole(record, at, 0) && !end.contains(&0)
}

/// Half and rollback records are in the log only.
pub(super) fn has_queue_entry(flag: i32) -> bool {
    let kind = flag & sys_flag::TRANSACTION_MASK;
    kind != sys_flag::TRANSACTION_PREPARED && kind != sys_flag::TRANSACTION_ROLLBACK
}
