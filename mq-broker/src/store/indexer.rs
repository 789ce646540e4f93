//! From log to queues and keys, one step: read what is new, write the entries of each queue with
//! one write, hand the keys over, advance the lengths. Not here: when it runs; files of queues and
//! keys.
//!
//! Invariants: everything before `position` is in the queues; a step that fails in between is done
//! again, because entries that are there already are skipped. The queue offset comes from the
//! record. The hot path allocates nothing per record and does not look at checksums: appends were
//! ours, and what a crash left was checked at the start.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mq_core::names::{SCHEDULE_TOPIC, TIMER_TOPIC};
use mq_core::properties::{NAME_END, PAIR_END, find, java_hash, key};
use mq_core::protocol::record::{
    BLANK_BYTES_MIN, MAGIC_BLANK, Record, Scan, Verify, scan, sys_flag,
};
use tracing::warn;

use super::StoreError;
use super::commit_log::{CommitLog, has_queue_entry};
use super::consume_queue::{ConsumeQueue, ConsumeQueues, ENTRY_BYTES, Entry};
use super::deletion::Deletions;
use super::key_index::{self, BATCH_UNITS, KeyIndex, Unit};
use super::recovery::Evidence;
use super::segment::Segments;

/// A step takes in so much of the log.
const STEP_BYTES: u64 = 1 << 20;
/// And so much at once, little enough to stay near the processor.
const WINDOW_BYTES: u64 = 256 << 10;
/// Queues remembered from step to step.
const LANES: usize = 1024;
/// Bytes that a remembered queue may hold between steps.
const LANE_BYTES: usize = 8 << 10;
/// Places of the memo that finds a lane without hashing the topic.
const MEMO: usize = 256;
/// A delayed message whose level is unknown waits so long, as in RocketMQ.
const UNKNOWN_LEVEL_MS: i64 = 1000;

/// Reads the log record by record through a window of it.
#[derive(Debug)]
pub(super) struct Walk {
    window: Vec<u8>,
    start: u64,
    filled: usize,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { window: Vec::new(), start: 0, filled: 0 }
    }

    /// What stands at `at`, of which nothing at or behind `limit` is looked at.
    pub(super) fn scan(
        &mut self,
        segments: &Segments,
        at: u64,
        limit: u64,
        verify: Verify,
    ) -> Result<Scan<'_>, StoreError> {
        let left = (segments.base_of(at) + segments.size).min(limit).saturating_sub(at);
        let start = self.bytes(segments, at, left.min(BLANK_BYTES_MIN as u64), left)?;
        let size = start.first_chunk::<4>().map_or(0, |size| u32::from_be_bytes(*size));
        let blank = start.get(4..8) == Some(&MAGIC_BLANK.to_be_bytes());
        let wanted = if blank { BLANK_BYTES_MIN as u64 } else { u64::from(size).max(8) };
        let bytes = self.bytes(segments, at, wanted.min(left), left)?;
        Ok(scan(bytes, verify))
    }

    /// `wanted` bytes from `at`, fewer only where the file ends; `left` may be read ahead.
    fn bytes(
        &mut self,
        segments: &Segments,
        at: u64,
        wanted: u64,
        left: u64,
    ) -> Result<&[u8], StoreError> {
        let held = self.start + self.filled as u64;
        if at < self.start || at + wanted > held {
            let size = usize::try_from(left.min(WINDOW_BYTES).max(wanted)).unwrap_or(usize::MAX);
            if self.window.len() < size {
                self.window.resize(size, 0);
            }
            let window = self.window.get_mut(..size).unwrap_or_default();
            self.filled = 0;
            self.filled = segments.read_at(at, window)?;
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(wanted).unwrap_or(usize::MAX));
        Ok(self.window.get(from..to.min(self.filled)).unwrap_or_default())
    }
}

/// The indexer's own state.
#[derive(Debug)]
pub(super) struct Indexer {
    /// What is before it is in the queues.
    pub(super) position: u64,
    /// Of the record before `position`; what RocketMQ's checkpoint wants.
    store_timestamp_ms: i64,
    /// Sum of the lengths of all queues at `position`.
    entries: u64,
    walk: Walk,
    batch: Batch,
}

/// What a step has gathered.
#[derive(Debug)]
struct Batch {
    delay_levels_ms: Vec<i64>,
    lanes: Vec<Lane>,
    /// Lane by number of the queue; `NO_LANE` for those without.
    lane_of: Vec<u32>,
    memo: Box<[u32; MEMO]>,
    units: Vec<Unit>,
}

const NO_LANE: u32 = u32::MAX;

/// The new entries of one queue, without a gap.
#[derive(Debug)]
struct Lane {
    queue: Arc<ConsumeQueue>,
    /// Hash of `topic#`, with which the hashes of its keys begin.
    topic_hash: i32,
    /// Offset of the first entry.
    from: i64,
    entries: Vec<u8>,
    /// Bytes of their records.
    bytes: u64,
}

impl Indexer {
    pub(super) fn new(
        position: u64,
        entries: u64,
        store_timestamp_ms: i64,
        delay_levels_ms: Vec<i64>,
    ) -> Self {
        let batch = Batch {
            delay_levels_ms,
            lanes: Vec::new(),
            lane_of: Vec::new(),
            memo: Box::new([NO_LANE; MEMO]),
            units: Vec::new(),
        };
        Self { position, store_timestamp_ms, entries, walk: Walk::new(), batch }
    }

    /// Position, lengths of all queues together, and store timestamp, which belong together.
    pub(super) fn checkpoint(&self) -> (u64, u64, i64) {
        (self.position, self.entries, self.store_timestamp_ms)
    }

    /// Puts entries behind those that the log gives: messages were there, and are damaged.
    pub(super) fn restore(
        &mut self,
        evidence: &[Evidence],
        queues: &ConsumeQueues,
    ) -> Result<(), StoreError> {
        for Evidence { topic, queue_id, offset, entry } in evidence {
            queues.queue_or_create(topic, *queue_id)?.append(*offset, &entry.to_bytes())?;
        }
        self.entries = queues.entries();
        Ok(())
    }

    /// Remembers no queue from step to step: one of them is to be removed.
    pub(super) fn forget_queues(&mut self) {
        self.batch.forget_queues();
    }

    /// A queue was removed.
    pub(super) fn count(&mut self, queues: &ConsumeQueues) {
        self.entries = queues.entries();
    }

    /// Takes in what is new, up to about a MiB of it; says whether there was any.
    pub(super) fn step(
        &mut self,
        log: &CommitLog,
        (queues, index): (&ConsumeQueues, &KeyIndex),
        deletions: &Deletions,
    ) -> Result<bool, StoreError> {
        let limit = log.readable();
        if self.position >= limit {
            return Ok(false);
        }
        self.batch.start();
        let (mut at, mut stored_ms) = (self.position, self.store_timestamp_ms);
        let stop = limit.min(at + STEP_BYTES);
        while at < stop && self.batch.units.len() < BATCH_UNITS {
            if let Some(range) = log.quarantine_of(at) {
                at = range.end;
                continue;
            }
            match self.walk.scan(&log.segments, at, limit, Verify::None)? {
                Scan::Record(record, size) => {
                    if !deletions.covers(record.topic, at) {
                        self.batch.take(&record, at, queues)?;
                    }
                    stored_ms = record.store_timestamp_ms;
                    at += size as u64;
                }
                Scan::Blank(_) => at = log.segments.base_of(at) + log.segments.size,
                Scan::End => return Err(log.corrupt(at, "zeros below the log's end".into())),
                Scan::Bad(error) => return Err(log.corrupt(at, error.to_string())),
            }
        }
        self.batch.write()?;
        index.extend(&self.batch.units, at, log)?;
        (self.position, self.store_timestamp_ms) = (at, stored_ms);
        self.entries = queues.entries();
        Ok(true)
    }
}

impl Batch {
    /// Forgets what a step before may have left half done.
    fn start(&mut self) {
        self.units.clear();
        if self.lanes.len() > LANES {
            self.forget_queues();
        }
        for lane in &mut self.lanes {
            lane.entries.clear();
            lane.bytes = 0;
            lane.entries.shrink_to(LANE_BYTES);
        }
    }

    fn forget_queues(&mut self) {
        self.lanes.clear();
        self.lane_of.fill(NO_LANE);
        self.memo.fill(NO_LANE);
    }

    fn take(
        &mut self,
        record: &Record<'_>,
        at: u64,
        queues: &ConsumeQueues,
    ) -> Result<(), StoreError> {
        let Some(index) = self.lane(record, queues)? else { return Ok(()) };
        let Some(lane) = self.lanes.get_mut(index) else { return Ok(()) };
        let indexed = Indexed::of(record.properties);
        if record.sys_flag & sys_flag::TRANSACTION_MASK != sys_flag::TRANSACTION_ROLLBACK {
            let (hash, store_timestamp_ms) = (lane.topic_hash, record.store_timestamp_ms);
            let units = indexed.keys().map(|key| Unit {
                hash: key_index::unsigned(key_index::extend_hash(hash, key)),
                physical_offset: at,
                store_timestamp_ms,
            });
            self.units.extend(units);
        }
        if !has_queue_entry(record.sys_flag) {
            return Ok(());
        }
        let entry = Entry {
            physical_offset: at.cast_signed(),
            size: i32::try_from(record.size).unwrap_or(i32::MAX),
            tags_code: tags_code(record, &indexed, &self.delay_levels_ms),
        };
        lane.push(record.queue_offset, entry)
    }

    /// The lane of the record's queue; `None` when its topic cannot have one.
    fn lane(
        &mut self,
        record: &Record<'_>,
        queues: &ConsumeQueues,
    ) -> Result<Option<usize>, StoreError> {
        let place = memo_place(record.topic, record.queue_id);
        if let Some(lane) = self.memo.get(place).filter(|lane| **lane != NO_LANE) {
            let index = *lane as usize;
            let is_it = |lane: &Lane| {
                lane.queue.queue_id == record.queue_id && *lane.queue.topic == *record.topic
            };
            if self.lanes.get(index).is_some_and(is_it) {
                return Ok(Some(index));
            }
        }
        let queue = match queues.queue_or_create(record.topic, record.queue_id) {
            Ok(queue) => queue,
            Err(error @ StoreError::Illegal(_)) => {
                warn!(at = record.physical_offset, %error, "a record gets no queue");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let index = self.lane_of_queue(queue);
        if let Some(memo) = self.memo.get_mut(place) {
            *memo = index;
        }
        Ok(Some(index as usize))
    }

    fn lane_of_queue(&mut self, queue: Arc<ConsumeQueue>) -> u32 {
        let number = queue.number as usize;
        if self.lane_of.len() <= number {
            self.lane_of.resize((number + 1).next_power_of_two(), NO_LANE);
        }
        let new = self.lanes.len() as u32;
        let Some(index) = self.lane_of.get_mut(number) else { return new };
        if *index == NO_LANE {
            *index = new;
            let topic_hash = key_index::extend_hash(java_hash(&queue.topic), "#");
            self.lanes.push(Lane { queue, topic_hash, from: 0, entries: Vec::new(), bytes: 0 });
        }
        *index
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.lanes.iter_mut().try_for_each(Lane::write)
    }
}

impl Lane {
    fn push(&mut self, offset: i64, entry: Entry) -> Result<(), StoreError> {
        let held = (self.entries.len() / ENTRY_BYTES) as i64;
        let expected = if held == 0 { self.queue.max_offset() } else { self.from + held };
        if offset < expected {
            return Ok(());
        }
        if offset > i64::MAX / ENTRY_BYTES as i64 - 1 {
            let what = format!("offset {offset} of queue {}", self.queue.queue_id);
            return Err(StoreError::Illegal(what));
        }
        if offset > expected {
            self.write()?;
        }
        if self.entries.is_empty() {
            self.from = offset;
        }
        self.entries.extend_from_slice(&entry.to_bytes());
        self.bytes += u64::from(entry.size.cast_unsigned());
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        self.queue.append(self.from, &self.entries)?;
        self.entries.clear();
        self.queue.bytes.fetch_add(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        Ok(())
    }
}

fn memo_place(topic: &str, queue_id: i32) -> usize {
    let last = topic.as_bytes().last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mixed = (last ^ queue_id.cast_unsigned().wrapping_mul(0x9E37_79B9))
        .wrapping_mul(0x85EB_CA6B)
        .wrapping_add(topic.len() as u32);
    (mixed >> 16) as usize % MEMO
}

/// The properties that queues and keys are made of, found in one pass.
#[derive(Debug, Default)]
struct Indexed<'a> {
    tags: Option<&'a str>,
    keys: Option<&'a str>,
    unique_key: Option<&'a str>,
    delay: Option<&'a str>,
}

impl<'a> Indexed<'a> {
    /// As in `properties::pairs`, but a pair that is not wanted costs one comparison.
    fn of(wire: &'a str) -> Self {
        let mut found = Self::default();
        for pair in wire.split(PAIR_END) {
            let (field, name) = match pair.as_bytes().first() {
                Some(b'T') => (&mut found.tags, key::TAGS),
                Some(b'K') => (&mut found.keys, key::KEYS),
                Some(b'U') => (&mut found.unique_key, key::UNIQ_KEY),
                Some(b'D') => (&mut found.delay, key::DELAY),
                _ => continue,
            };
            let value = pair.strip_prefix(name).and_then(|rest| rest.strip_prefix(NAME_END));
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                *field = Some(value);
            }
        }
        found
    }

    fn keys(&self) -> impl Iterator<Item = &'a str> {
        let words = self.keys.unwrap_or_default().split(' ').filter(|word| !word.is_empty());
        self.unique_key.into_iter().chain(words)
    }
}

/// What filters compare; for a delayed message the time to deliver it.
fn tags_code(record: &Record<'_>, indexed: &Indexed<'_>, delay_levels_ms: &[i64]) -> i64 {
    if record.topic == TIMER_TOPIC {
        return timer_code(record.properties);
    }
    let level = indexed.delay.and_then(|level| level.parse::<usize>().ok()).unwrap_or(0);
    if level > 0 && record.topic == SCHEDULE_TOPIC {
        let level = level.min(delay_levels_ms.len());
        let delay_ms = level.checked_sub(1).and_then(|index| delay_levels_ms.get(index));
        let delay_ms = delay_ms.copied().unwrap_or(UNKNOWN_LEVEL_MS);
        return record.store_timestamp_ms.saturating_add(delay_ms);
    }
    indexed.tags.map_or(0, |tags| i64::from(java_hash(tags)))
}

/// When a message of the timer topic is due; negative for one that takes another back. Both are far
/// from what a hash of tags can be. 0 when the record does not say.
fn timer_code(properties: &str) -> i64 {
    let due_ms = find(properties, key::TIMER_OUT_MS).and_then(|due| due.parse::<i64>().ok());
    let due_ms = due_ms.filter(|due| *due > 0).unwrap_or(0);
    match find(properties, key::TIMER_DEL_UNIQKEY) {
        Some(_) => -due_ms,
        None => due_ms,
    }
}
