//! Transactions: half messages, the end of a transaction (37), which half messages are undecided,
//! and giving one that was given up another chance (323). Not here: asking producers
//! (`transaction_check`), storing a half message (`send`).
//!
//! A half message lies in queue 0 of RMQ_SYS_TRANS_HALF_TOPIC. It is settled once an op message in
//! RMQ_SYS_TRANS_OP_HALF_TOPIC names its offset there: committed, rolled back, given up, or moved
//! to the end of the queue. Progress in both queues is kept as the offsets of group
//! CID_RMQ_SYS_TRANS, as Apache RocketMQ does, so that a store moves both ways.
//!
//! Invariants:
//! - What settles a half message (the real message, the copy) is appended before its op message,
//!   both with one append. A crash leaves a beginning of the log: where there is an op message,
//!   there is what it stands for. A crash between the two leaves the half message undecided, so
//!   that its producer is asked once more and a committed message is repeated at most. The other
//!   order would lose it.
//! - Progress is told to `offsets` only when the log is synced up to what it stands for.
//! - The first decision counts; a second one, of whichever copy, changes nothing.
//! - 37 is one-way. One that is lost costs a check, nothing else.
//!
//! Memory: a bit for each half message from the oldest undecided one on, and 24 bytes or so for
//! each that was moved and is undecided, at most `MOVED_MAX`. A million undecided transactions
//! cost 125 KB, and 25 MB more once their producers have been asked.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mq_core::clock::Clock;
use mq_core::names;
use mq_core::properties::{Properties, find, key, push_pair};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::command::Command;
use mq_core::protocol::header::{EndTransactionRequest, ResumeCheckHalfMessageRequest};
use mq_core::protocol::record::{NewRecord, Record, Verify, parse_offset_msg_id, sys_flag};
use tracing::{debug, warn};

use crate::broker::Broker;
use crate::delay::{self, Wish};
use crate::dispatch::{Answer, Handled};
use crate::offsets::Offsets;
use crate::refusal::Refusal;
use crate::retry::{answer_when_stored, read_original};
use crate::store::{Appended, Entry, Store, StoreError};

/// Half messages and op messages are all in this queue of their topics.
pub const QUEUE: i32 = 0;
/// The tag of an op message that settles.
const OP_TAG: &str = "d";
/// Moved half messages that are known at once. Of one beyond it a late decision that names its
/// former place is not understood, and its producer is asked again.
const MOVED_MAX: usize = 1_000_000;
/// Op messages whose positions are kept together.
const OPS_PER_RUN: i64 = 1_024;
/// Entries of a queue that are read at once.
const READ_AHEAD: usize = 64;

/// Which half messages are undecided, and where they are now.
#[derive(Debug)]
pub struct Transactions {
    ledger: Mutex<Ledger>,
    clock: Clock,
}

/// The first offset of each queue that is still needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of the half messages: the oldest undecided one.
    pub half: i64,
    /// Of the op messages.
    pub op: i64,
}

#[derive(Debug)]
struct Ledger {
    settled: Settled,
    ops: Ops,
    /// Where a half message went that was moved, by its first offset. One that was given up stays,
    /// at a settled offset, in case its producer decides after all.
    moved: BTreeMap<i64, i64>,
}

/// A half message as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct Half<'a> {
    /// All of it.
    pub record: Record<'a>,
    /// The producer group that decides.
    pub group: &'a str,
    /// Where the message goes when it is committed.
    pub topic: &'a str,
    /// Its queue there.
    pub queue_id: i32,
    /// The offset in the half queue that it was first given.
    pub origin: i64,
}

/// Where a committed message is stored, and with which properties.
#[derive(Debug)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The queue.
    pub queue_id: i32,
    /// All of them.
    pub properties: String,
}

/// Turns a message's properties into those of its half message.
pub fn halve(properties: &mut Properties, topic: &str, queue_id: i32, group: &str) {
    if let Some(unique_key) = properties.unique_key().map(str::to_owned) {
        properties.set(key::TRANSACTION_ID, &unique_key);
    }
    if properties.get(key::PGROUP).is_none() {
        properties.set(key::PGROUP, group);
    }
    // These are the broker's to say: a sender's could name the half message of another.
    properties.remove(key::TRAN_PREPARED_QUEUE_OFFSET);
    properties.remove(key::TRANSACTION_CHECK_TIMES);
    delay::remember(properties, topic, queue_id);
}

impl<'a> Half<'a> {
    /// The half message in a record. The error says what it is instead.
    pub fn of(record: Record<'a>) -> Result<Self, String> {
        if record.topic != names::HALF_TOPIC || record.queue_id != QUEUE {
            return Err(format!("no half message lies at {}", record.physical_offset));
        }
        Self::with_origin(record, record.queue_offset)
    }

    fn with_origin(record: Record<'a>, offset: i64) -> Result<Self, String> {
        let property = |name: &'static str| find(record.properties, name).ok_or(name);
        let lacks = |name| format!("the half message at {} lacks {name}", record.physical_offset);
        let origin = property(key::TRAN_PREPARED_QUEUE_OFFSET).ok();
        Ok(Self {
            group: property(key::PGROUP).map_err(lacks)?,
            topic: property(key::REAL_TOPIC).map_err(lacks)?,
            queue_id: property(key::REAL_QID).ok().and_then(|id| id.parse().ok()).unwrap_or(0),
            origin: origin.and_then(|origin| origin.parse().ok()).unwrap_or(offset),
            record,
        })
    }

    /// How often its producer was asked.
    pub(crate) fn checks(&self) -> u32 {
        let checks = find(self.record.properties, key::TRANSACTION_CHECK_TIMES);
        checks.and_then(|checks| checks.parse().ok()).unwrap_or(0)
    }

    /// Its properties, to be stored once more after so many checks.
    pub fn properties_after(&self, checks: u32) -> Properties {
        let mut properties = Properties::from_wire(self.record.properties.to_owned());
        properties.set(key::TRAN_PREPARED_QUEUE_OFFSET, &self.origin.to_string());
        properties.set(key::TRANSACTION_CHECK_TIMES, &checks.to_string());
        properties
    }

    /// The message as consumers will see it.
    pub fn committed(&self, place: &'a Place) -> NewRecord<'a> {
        NewRecord {
            topic: &place.topic,
            queue_id: place.queue_id,
            sys_flag: self.record.sys_flag | sys_flag::TRANSACTION_COMMIT,
            prepared_transaction_offset: self.record.physical_offset,
            properties: &place.properties,
            ..self.record.copy()
        }
    }
}

impl Transactions {
    /// Reads what was settled since `progress` was kept.
    pub fn open(store: &Store, clock: Clock, progress: Progress) -> Result<Self, StoreError> {
        let mut ledger = Ledger::new(first_of(store, names::HALF_TOPIC, progress.half));
        ledger.read_ops(store, first_of(store, names::OP_HALF_TOPIC, progress.op))?;
        ledger.read_moved(store)?;
        Ok(Self { ledger: Mutex::new(ledger), clock })
    }

    /// What may be kept once the log is synced up to where it is now.
    pub fn progress(&self) -> Progress {
        let mut ledger = self.ledger();
        let half = ledger.settled.first_open;
        Progress { half, op: ledger.ops.first_needed(half) }
    }

    /// The first undecided half message at or behind `offset`; `offset` may be behind all.
    pub fn next_open(&self, offset: i64) -> i64 {
        self.ledger().settled.next_open(offset)
    }

    /// Takes a half message that cannot be read for settled, until the next start.
    pub(crate) fn pass_over(&self, offset: i64) {
        self.ledger().settled.insert(offset);
    }

    /// Ends a transaction: with the real message, or without one. Gives the end of what was
    /// appended; nothing when it had been decided before.
    pub fn decide(
        &self,
        store: &Store,
        half: &Half<'_>,
        real: Option<NewRecord<'_>>,
    ) -> Result<Option<u64>, StoreError> {
        let mut ledger = self.ledger();
        let moved = ledger.moved.get(&half.origin).copied();
        let at = moved.unwrap_or(half.record.queue_offset);
        let open = !ledger.settled.contains(at);
        if !open && moved.is_none() {
            return Ok(None);
        }
        let op = OpMessage::new(at, half, self.clock.now_ms());
        let op = open.then(|| op.record());
        let burst: Vec<_> = real.into_iter().chain(op).collect();
        let appended = store.log.append(&burst)?;
        if let Some(op) = appended.last().filter(|_| open) {
            ledger.settle(at, op.queue_offset);
        }
        ledger.moved.remove(&half.origin);
        Ok(appended.last().map(Appended::end))
    }

    /// Puts a copy in the place of an undecided half message: behind all others, or where those
    /// lie that were given up. Nothing is done when it has been settled meanwhile.
    pub fn replace(
        &self,
        store: &Store,
        half: &Half<'_>,
        copy: NewRecord<'_>,
    ) -> Result<Option<(Appended, u64)>, StoreError> {
        let at = half.record.queue_offset;
        let mut ledger = self.ledger();
        if ledger.settled.contains(at) {
            return Ok(None);
        }
        let op = OpMessage::new(at, half, self.clock.now_ms());
        let appended = store.log.append(&[copy, op.record()])?;
        let [stored, op] = appended[..] else { return Ok(None) };
        ledger.settle(at, op.queue_offset);
        let now = if copy.topic == names::HALF_TOPIC { stored.queue_offset } else { at };
        ledger.note_moved(half.origin, now);
        Ok(Some((stored, op.end())))
    }

    /// Puts a half message that was given up back among the undecided; nothing is done when it is
    /// there. Gives the end of what was appended.
    fn resume(
        &self,
        store: &Store,
        half: &Half<'_>,
        copy: NewRecord<'_>,
    ) -> Result<Option<u64>, StoreError> {
        let mut ledger = self.ledger();
        let moved = ledger.moved.get(&half.origin);
        if moved.is_some_and(|at| !ledger.settled.contains(*at)) {
            return Ok(None);
        }
        let appended = store.log.append(&[copy])?;
        let Some(stored) = appended.first() else { return Ok(None) };
        ledger.note_moved(half.origin, stored.queue_offset);
        Ok(Some(stored.end()))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Progress that was kept may be behind what is still there; ahead of the log it is not this
/// store's.
fn first_of(store: &Store, topic: &str, kept: i64) -> i64 {
    let min = store.queues.queue(topic, QUEUE).map_or(0, |queue| queue.min_offset());
    kept.clamp(min, store.log.next_queue_offset(topic, QUEUE).max(min))
}

impl Ledger {
    fn new(first_open: i64) -> Self {
        Self { settled: Settled::new(first_open), ops: Ops::default(), moved: BTreeMap::new() }
    }

    fn settle(&mut self, half: i64, op: i64) {
        self.settled.insert(half);
        self.ops.add(op, half);
    }

    fn note_moved(&mut self, origin: i64, now: i64) {
        self.moved.insert(origin, now);
        if self.moved.len() > MOVED_MAX {
            self.moved.pop_first();
        }
    }

    /// Op messages name offsets in decimal: one, or several with commas. No number beyond the half
    /// queue is believed.
    fn read_ops(&mut self, store: &Store, from: i64) -> Result<(), StoreError> {
        let end = store.log.next_queue_offset(names::HALF_TOPIC, QUEUE);
        self.ops.next = from;
        each_record(store, names::OP_HALF_TOPIC, from, |ledger_op, record| {
            let body = std::str::from_utf8(record.body).unwrap_or_default();
            let named = body.split(',').filter_map(|offset| offset.trim().parse::<i64>().ok());
            for half in named.filter(|half| (0..end).contains(half)) {
                self.settle(half, ledger_op);
            }
        })
    }

    /// Finds the copies among the undecided, so that a decision that names the original is
    /// understood.
    fn read_moved(&mut self, store: &Store) -> Result<(), StoreError> {
        let Some(queue) = store.queues.queue(names::HALF_TOPIC, QUEUE) else { return Ok(()) };
        let mut offset = self.settled.first_open;
        while offset < queue.max_offset() {
            for entry in queue.read(offset, 1)? {
                let Some(bytes) = read_entry(store, &entry)? else { continue };
                let half = Record::decode(&bytes, Verify::None).ok().map(|(record, _)| record);
                let half = half.and_then(|record| Half::of(record).ok());
                if let Some(half) = half.filter(|half| half.origin != offset) {
                    self.note_moved(half.origin, offset);
                }
            }
            offset = self.settled.next_open(offset + 1);
        }
        Ok(())
    }
}

/// Calls `visit` with every readable record of queue 0 of a topic, and its offset.
fn each_record(
    store: &Store,
    topic: &str,
    from: i64,
    mut visit: impl FnMut(i64, &Record<'_>),
) -> Result<(), StoreError> {
    let Some(queue) = store.queues.queue(topic, QUEUE) else { return Ok(()) };
    let mut offset = from;
    while offset < queue.max_offset() {
        for entry in queue.read(offset, READ_AHEAD)? {
            if let Some(bytes) = read_entry(store, &entry)?
                && let Ok((record, _)) = Record::decode(&bytes, Verify::None)
            {
                visit(offset, &record);
            }
            offset += 1;
        }
    }
    Ok(())
}

/// The record of an entry; nothing when it is damaged or gone.
pub(crate) fn read_entry(store: &Store, entry: &Entry) -> Result<Option<bytes::Bytes>, StoreError> {
    let Ok(at) = u64::try_from(entry.physical_offset) else { return Ok(None) };
    if entry.is_hole() {
        return Ok(None);
    }
    match store.log.read_record_at(at) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::Corrupt { file, at, what }) => {
            warn!(?file, at, what, "a message of a transaction is damaged");
            Ok(None)
        }
        Err(StoreError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A message that settles the half message at an offset.
struct OpMessage {
    body: String,
    properties: String,
    host: SocketAddr,
    born_timestamp_ms: i64,
}

impl OpMessage {
    fn new(half_offset: i64, half: &Half<'_>, born_timestamp_ms: i64) -> Self {
        let mut properties = String::new();
        push_pair(&mut properties, key::TAGS, OP_TAG);
        let host = half.record.store_host;
        Self { body: half_offset.to_string(), properties, host, born_timestamp_ms }
    }

    fn record(&self) -> NewRecord<'_> {
        NewRecord {
            topic: names::OP_HALF_TOPIC,
            queue_id: QUEUE,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: self.born_timestamp_ms,
            born_host: self.host,
            store_host: self.host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: self.body.as_bytes(),
            properties: &self.properties,
        }
    }
}

/// A set of half offsets: everything below `first_open`, and one bit for each from there on.
#[derive(Debug)]
struct Settled {
    first_open: i64,
    /// The offset of the first bit: a multiple of 64, at most `first_open`.
    base: i64,
    words: VecDeque<u64>,
}

impl Settled {
    fn new(first_open: i64) -> Self {
        Self { first_open, base: first_open - first_open % 64, words: VecDeque::new() }
    }

    fn contains(&self, offset: i64) -> bool {
        offset < self.first_open || self.word(offset) & bit(offset) != 0
    }

    fn word(&self, offset: i64) -> u64 {
        let index = usize::try_from((offset - self.base) / 64).unwrap_or(usize::MAX);
        self.words.get(index).copied().unwrap_or(0)
    }

    fn insert(&mut self, offset: i64) {
        if offset < self.first_open {
            return;
        }
        let Ok(index) = usize::try_from((offset - self.base) / 64) else { return };
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        if let Some(word) = self.words.get_mut(index) {
            *word |= bit(offset);
        }
        self.first_open = self.next_open(self.first_open);
        while self.first_open - self.base >= 64 {
            self.words.pop_front();
            self.base += 64;
        }
    }

    fn next_open(&self, from: i64) -> i64 {
        let mut offset = from.max(self.first_open);
        loop {
            // The settled ones from here on, in a row.
            let row = (self.word(offset) >> (offset & 63)).trailing_ones();
            let left = 64 - (offset & 63);
            offset += left.min(i64::from(row));
            if i64::from(row) < left {
                return offset;
            }
        }
    }
}

fn bit(offset: i64) -> u64 {
    1 << (offset & 63)
}

/// Which op messages must be read again at a start, a run of them at a time.
#[derive(Debug, Default)]
struct Ops {
    runs: VecDeque<OpRun>,
    /// The offset behind the last.
    next: i64,
}

#[derive(Debug)]
struct OpRun {
    first: i64,
    /// The greatest half offset that they name.
    last_half: i64,
}

impl Ops {
    fn add(&mut self, op: i64, half: i64) {
        self.next = op + 1;
        match self.runs.back_mut().filter(|run| op - run.first < OPS_PER_RUN) {
            Some(run) => run.last_half = run.last_half.max(half),
            None => self.runs.push_back(OpRun { first: op, last_half: half }),
        }
    }

    fn first_needed(&mut self, first_open: i64) -> i64 {
        while self.runs.front().is_some_and(|run| run.last_half < first_open) {
            self.runs.pop_front();
        }
        self.runs.front().map_or(self.next, |run| run.first)
    }
}

/// What was kept of the progress.
pub(crate) fn kept(offsets: &Offsets) -> Progress {
    let kept = |topic| offsets.committed(names::TRANSACTION_GROUP, topic, QUEUE).unwrap_or(0);
    Progress { half: kept(names::HALF_TOPIC), op: kept(names::OP_HALF_TOPIC) }
}

/// Keeps progress that the synced log stands for.
pub(crate) fn keep(offsets: &Offsets, progress: Progress) {
    for (topic, offset) in [(names::HALF_TOPIC, progress.half), (names::OP_HALF_TOPIC, progress.op)]
    {
        // A broker without transactions needs no trace of them.
        if offset > 0 {
            offsets.commit(names::TRANSACTION_GROUP, topic, QUEUE, offset);
        }
    }
}

/// 37: a producer commits or rolls back.
pub(crate) fn end(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: EndTransactionRequest<'_> = request.decode_header()?;
    let commits = match header.commit_or_rollback {
        0 => return Ok(Answer::Now(Command::success(request))),
        sys_flag::TRANSACTION_COMMIT => true,
        sys_flag::TRANSACTION_ROLLBACK => false,
        other => return Err(refused(format!("commitOrRollback is 0, 8 or 12, not {other}"))),
    };
    let bytes = read_original(broker, header.commit_log_offset)
        .map_err(|_| refused("Find prepared transaction message failed".to_owned()))?;
    let half = half_of(&bytes)?;
    check(&half, &header)?;
    let place = commits.then(|| place(broker, &half)).transpose()?;
    let real = place.as_ref().map(|place| half.committed(place));
    match broker.transactions.decide(&broker.store, &half, real)? {
        Some(end) => answer_when_stored(broker, Command::success(request), end),
        None => {
            debug!(id = header.msg_id, commits, "a transaction was decided before");
            Ok(Answer::Now(Command::success(request)))
        }
    }
}

fn half_of(bytes: &[u8]) -> Result<Half<'_>, Refusal> {
    let (record, _) =
        Record::decode(bytes, Verify::None).map_err(|error| refused(error.to_string()))?;
    Half::of(record).map_err(refused)
}

/// The positions decide, and the group must be the sender's.
fn check(half: &Half<'_>, header: &EndTransactionRequest<'_>) -> Result<(), Refusal> {
    if half.group != header.producer_group {
        return Err(refused("The producer group wrong".to_owned()));
    }
    if half.record.queue_offset != header.tran_state_table_offset {
        return Err(refused("The transaction state table offset wrong".to_owned()));
    }
    Ok(())
}

fn refused(remark: String) -> Refusal {
    Refusal::new(ResponseCode::SystemError, remark)
}

/// Where a committed message goes: as if it had been sent now, delayed too.
fn place(broker: &Broker, half: &Half<'_>) -> Result<Place, Refusal> {
    let mut properties = Properties::from_wire(half.record.properties.to_owned());
    let wish = Wish::of(half.record.properties);
    let real = (half.topic, half.queue_id);
    let detour = delay::divert(broker, &wish, &mut properties, real)?;
    let (topic, queue_id) = detour.map_or(real, |detour| (detour.topic, detour.queue_id));
    Ok(Place { topic: topic.to_owned(), queue_id, properties: properties.into_wire() })
}

/// 323: an administrator has the producer asked again, as if it had not been yet.
pub(crate) fn resume(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: ResumeCheckHalfMessageRequest<'_> = request.decode_header()?;
    let at = header.msg_id.and_then(parse_offset_msg_id).map(|(_, offset)| offset);
    let at = at.ok_or_else(|| refused("msgId is no offset message id".to_owned()))?;
    let bytes = read_original(broker, at)?;
    let (record, _) =
        Record::decode(&bytes, Verify::None).map_err(|error| refused(error.to_string()))?;
    let given_up = record.topic == names::CHECK_MAX_TOPIC;
    let half = match given_up {
        true => Half::with_origin(record, -1 - record.queue_offset),
        false => Half::of(record),
    };
    let half = half.map_err(refused)?;
    let properties = half.properties_after(0);
    let copy = NewRecord {
        topic: names::HALF_TOPIC,
        queue_id: QUEUE,
        properties: properties.as_str(),
        ..record.copy()
    };
    let end = match given_up {
        true => broker.transactions.resume(&broker.store, &half, copy)?,
        false => broker.transactions.replace(&broker.store, &half, copy)?.map(|(_, end)| end),
    };
    match end {
        Some(end) => answer_when_stored(broker, Command::success(request), end),
        None => Err(refused("the transaction is decided, or will be asked about".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_offset_follows_what_is_settled() {
        let mut settled = Settled::new(70);
        assert!(settled.contains(69) && !settled.contains(70));
        for offset in [72, 71, 200, 300, 5] {
            settled.insert(offset);
        }
        assert_eq!((settled.first_open, settled.next_open(71)), (70, 73));
        settled.insert(70);
        assert_eq!((settled.first_open, settled.next_open(200)), (73, 201));
        (73..300).for_each(|offset| settled.insert(offset));
        assert_eq!((settled.first_open, settled.words.len()), (301, 1));
    }

    #[test]
    fn a_million_behind_an_undecided_one_cost_a_bit_each() {
        let mut settled = Settled::new(0);
        (1..=1_000_000).for_each(|offset| settled.insert(offset));
        assert_eq!((settled.first_open, settled.words.len()), (0, 15_626));
        settled.insert(0);
        assert_eq!((settled.first_open, settled.words.len()), (1_000_001, 1));
    }

    #[test]
    fn op_messages_are_needed_while_they_name_what_lies_behind_an_undecided_one() {
        let mut ops = Ops::default();
        (0..3_000).for_each(|op| ops.add(op, op + 10));
        assert_eq!(ops.first_needed(10), 0);
        // The second run goes from 1024 to 2047 and names up to 2057.
        assert_eq!(ops.first_needed(2_057), OPS_PER_RUN);
        assert_eq!(ops.first_needed(2_058), 2 * OPS_PER_RUN);
        assert_eq!(ops.first_needed(10_000), 3_000);
    }
}
