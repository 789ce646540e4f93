//! Messages for an instant of their own: what they ask for, which are pending, their delivery, and
//! how far it is (timerProgress.json). Not here: delay levels (`delay`), taking back by handle
//! (`recall`).
//!
//! The topic `rmq_sys_wheel_timer` is the truth, and its consume queue is the index: an entry's
//! tags code is the instant, negative for a record that takes a message back. Memory holds a window
//! of what is due first; what is due later is read from the queue again when the window is empty.
//!
//! Invariants:
//! - No message leaves before its instant; those of one instant leave in their order of arrival.
//! - The window holds everything pending that is due before `horizon`, and never more than
//!   `WINDOW_MAX` entries of 16 bytes. How many messages are pending is limited by the disk alone.
//! - Progress says: of the entries before `taken`, all before `reached` are delivered, and durably.
//!   A message is appended to its topic before progress passes it: a crash repeats, and never
//!   loses. A start reads 20 bytes of each entry behind `floor`, and no record of a message.
//! - A message that was taken back in time is not delivered: both happen under one lock.

use std::cmp::Reverse;
use std::collections::hash_map::RandomState;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mq_core::clock::Clock;
use mq_core::names;
use mq_core::properties::{self, Properties, key};
use mq_core::protocol::code::ResponseCode;
use mq_core::protocol::record::{NewRecord, Record, Verify};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::broker::{Broker, FULL_PAUSE};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::consume_queue::{ConsumeQueue, Entry};
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;

/// Entries in memory: 4 MiB.
const WINDOW_MAX: usize = 1 << 18;
/// Messages taken back and not yet forgotten; about 10 MiB.
const TAKEN_BACK_MAX: usize = 1 << 18;
/// Queue entries read at once.
const READ_AHEAD: usize = 4_096;
/// Messages delivered with one append,
const BATCH_MAX: usize = 256;
/// and their bytes, save that one always fits.
const BATCH_BYTES: usize = 1 << 20;
/// Whoever takes a message back may name its instant in seconds.
const SECOND_MS: i64 = 1_000;

/// What a message asks for; the first of the three that is there counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    delay_sec: Option<&'a str>,
    delay_ms: Option<&'a str>,
    deliver_ms: Option<&'a str>,
    takes_back: bool,
    /// It has waited already, and is sent again.
    has_waited: bool,
}

/// When a message is due.
pub(crate) struct Due {
    pub(crate) at_ms: i64,
    /// It is no message, it takes one back.
    pub(crate) takes_back: bool,
}

impl<'a> Wish<'a> {
    /// Takes in one property whose name starts as those of timers do.
    pub(crate) fn note(&mut self, name: &str, value: &'a str) {
        match name {
            key::TIMER_DELAY_SEC => self.delay_sec = Some(value),
            key::TIMER_DELAY_MS => self.delay_ms = Some(value),
            key::TIMER_DELIVER_MS => self.deliver_ms = Some(value),
            key::TIMER_DEL_UNIQKEY => self.takes_back = true,
            key::TIMER_OUT_MS => self.has_waited = true,
            _ => {}
        }
    }

    /// When it is due; `None` when that is at once.
    pub(crate) fn due(&self, broker: &Broker) -> Result<Option<Due>, Refusal> {
        if self.has_waited {
            return Ok(None);
        }
        let now_ms = broker.clock.now_ms();
        let Some(at_ms) = self.instant(now_ms)? else { return Ok(None) };
        if at_ms <= now_ms {
            let late = "what takes a message back must name its instant, and that is over";
            return if self.takes_back { Err(illegal(late)) } else { Ok(None) };
        }
        let max_sec = i64::from(broker.config.timer_max_delay_sec);
        if at_ms.saturating_sub(now_ms) > max_sec * SECOND_MS {
            return Err(illegal(&format!(
                "timer message illegal, the delay time should not be longer than the max delay \
                 {max_sec}s: raise timerMaxDelaySec"
            )));
        }
        if self.takes_back {
            broker.timers.has_room()?;
        }
        Ok(Some(Due { at_ms, takes_back: self.takes_back }))
    }

    fn instant(&self, now_ms: i64) -> Result<Option<i64>, Refusal> {
        let number = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| illegal(&format!("timer message illegal, `{text}` is no number")))
        };
        let later = |ms: i64| now_ms.saturating_add(ms);
        Ok(match (self.delay_sec, self.delay_ms, self.deliver_ms) {
            (Some(seconds), _, _) => Some(later(number(seconds)?.saturating_mul(SECOND_MS))),
            (_, Some(ms), _) => Some(later(number(ms)?)),
            (_, _, Some(at_ms)) => Some(number(at_ms)?),
            _ => None,
        })
    }
}

fn illegal(remark: &str) -> Refusal {
    Refusal::new(ResponseCode::MessageIllegal, remark)
}

/// Takes the wish out of a message that waits by another rule.
pub(crate) fn forget(properties: &mut Properties) {
    for name in [key::TIMER_DELAY_SEC, key::TIMER_DELAY_MS, key::TIMER_DELIVER_MS] {
        properties.remove(name);
    }
}

/// Names a pending message, as `TIMER_DEL_UNIQKEY` does: `TOPIC+UNIQUE_KEY`.
pub(crate) struct Target(pub(crate) String);

impl Target {
    pub(crate) fn of(topic: &str, unique_key: &str) -> Self {
        Self([topic, "+", unique_key].concat())
    }
}

/// Place in the order of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place {
    at_ms: i64,
    /// In the queue of the timer topic.
    offset: i64,
}

impl Place {
    const FIRST: Self = Self { at_ms: i64::MIN, offset: i64::MIN };
    const LAST: Self = Self { at_ms: i64::MAX, offset: i64::MAX };
}

/// What timerProgress.json says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    /// Nothing before this offset is pending.
    floor: i64,
    /// Of what is before this offset,
    taken: i64,
    /// all that has a place before this one is delivered.
    reached: Place,
}

impl Default for Progress {
    fn default() -> Self {
        Self { floor: 0, taken: 0, reached: Place::FIRST }
    }
}

/// The pending messages.
#[derive(Debug)]
pub(crate) struct Timers {
    state: Mutex<State>,
    file: TableFile,
    hasher: RandomState,
}

#[derive(Debug)]
struct State {
    /// The first of what is pending.
    window: BinaryHeap<Reverse<Place>>,
    /// Everything pending before it is in the window.
    horizon: Place,
    /// The first offset of what is pending and not in the window.
    beyond: i64,
    /// The queue was read up to here.
    taken: i64,
    /// The last that was delivered.
    delivered: Place,
    /// What was taken back, by the hash of its target.
    taken_back: HashMap<u64, TakenBack>,
    progress: Progress,
    saved: Progress,
}

#[derive(Clone, Copy, Debug)]
struct TakenBack {
    /// Messages due later are meant no longer.
    until_ms: i64,
    /// Of the record that says so.
    offset: i64,
}

impl Timers {
    pub(crate) fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<Self, StoreError> {
        let file = TableFile::new(disk, path);
        let progress: Progress = file.load()?.unwrap_or_default();
        let state = State {
            window: BinaryHeap::new(),
            horizon: Place::LAST,
            beyond: i64::MAX,
            taken: progress.floor,
            delivered: Place::FIRST,
            taken_back: HashMap::new(),
            progress,
            saved: progress,
        };
        Ok(Self { state: Mutex::new(state), file, hasher: RandomState::new() })
    }

    /// What may be saved once the log is synced.
    pub(crate) fn progress(&self, now_ms: i64) -> Progress {
        let mut state = self.state();
        state.forget_taken_back(now_ms);
        Progress { floor: state.floor(), ..state.progress }
    }

    pub(crate) fn save(&self, progress: Progress) -> Result<(), StoreError> {
        if self.state().saved == progress {
            return Ok(());
        }
        self.file.save(&progress)?;
        self.state().saved = progress;
        Ok(())
    }

    /// Keeps a message that is due at `due_ms` from being delivered, if it is not too late. Says
    /// whether this is the first time.
    pub(crate) fn take_back(
        &self,
        clock: &Clock,
        target: &Target,
        due_ms: i64,
    ) -> Result<bool, Refusal> {
        self.has_room()?;
        let mut state = self.state();
        // Under the lock: what is not due now has not been delivered, and will meet this entry.
        if clock.now_ms() >= due_ms {
            let remark = "recall failed, timestamp invalid: the message was delivered";
            return Err(Refusal::new(ResponseCode::IllegalOperation, remark));
        }
        let entry = TakenBack { until_ms: due_ms, offset: i64::MAX };
        let hash = self.hasher.hash_one(&target.0);
        let mut is_new = false;
        state.taken_back.entry(hash).or_insert_with(|| {
            is_new = true;
            entry
        });
        Ok(is_new)
    }

    /// Is there a message that is due and not delivered, or one that nobody has looked at?
    pub(crate) fn is_late(&self, broker: &Broker) -> bool {
        let queue = broker.store.queues.queue(names::TIMER_TOPIC, 0);
        let state = self.state();
        let unread = queue.is_some_and(|queue| state.taken < queue.max_offset());
        unread || state.next().at_ms <= broker.clock.now_ms()
    }

    /// Undoes [`Self::take_back`], of which no record was stored.
    pub(crate) fn give_again(&self, target: &Target) {
        self.state().taken_back.remove(&self.hasher.hash_one(&target.0));
    }

    fn has_room(&self) -> Result<(), Refusal> {
        if self.state().taken_back.len() < TAKEN_BACK_MAX {
            return Ok(());
        }
        let remark = format!(
            "{TAKEN_BACK_MAX} messages were taken back whose instants are still to come: no more \
             can be until some have passed"
        );
        Err(Refusal::new(ResponseCode::SystemBusy, remark))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a pending message in: into the window when it is due before the horizon.
    fn admit(&mut self, place: Place) {
        if place >= self.horizon {
            self.beyond = self.beyond.min(place.offset);
            return;
        }
        if self.window.len() >= WINDOW_MAX {
            self.shrink();
            return self.admit(place);
        }
        self.window.push(Reverse(place));
    }

    /// Leaves the later half of the window to the queue.
    fn shrink(&mut self) {
        // The latest first.
        let mut sorted = std::mem::take(&mut self.window).into_sorted_vec();
        for Reverse(place) in sorted.drain(..sorted.len() / 2) {
            self.horizon = place;
            self.beyond = self.beyond.min(place.offset);
        }
        self.window = sorted.into();
    }

    /// The first place that is not delivered.
    fn next(&self) -> Place {
        self.window.peek().map_or(self.horizon, |first| first.0)
    }

    /// Takes out what is due, in order.
    fn take_due(&mut self, now_ms: i64) -> Vec<Place> {
        let mut due = Vec::new();
        while due.len() < BATCH_MAX && self.window.peek().is_some_and(|at| at.0.at_ms <= now_ms) {
            due.extend(self.window.pop().map(|first| first.0));
        }
        due
    }

    /// The places are done with. Progress goes on when nothing that came late is before them.
    fn deliver(&mut self, places: &[Place]) {
        self.delivered = self.delivered.max(places.last().copied().unwrap_or(Place::FIRST));
        self.advance();
    }

    fn advance(&mut self) {
        // At a start everything is taken in once more first.
        if self.taken >= self.progress.taken && self.next() > self.delivered {
            (self.progress.taken, self.progress.reached) = (self.taken, self.next());
        }
    }

    /// Nothing before it is needed by the next start.
    fn floor(&self) -> i64 {
        let waiting = self.window.iter().map(|place| place.0.offset);
        let taken_back = self.taken_back.values().map(|entry| entry.offset);
        let first = waiting.chain(taken_back).min().unwrap_or(i64::MAX);
        first.min(self.beyond).min(self.taken)
    }

    fn note_taken_back(&mut self, hash: u64, entry: TakenBack) {
        let known = self.taken_back.get(&hash);
        if known.is_none_or(|known| known.until_ms <= entry.until_ms) {
            self.taken_back.insert(hash, entry);
        }
    }

    fn forget_taken_back(&mut self, now_ms: i64) {
        let first_ms = self.next().at_ms.min(now_ms);
        self.taken_back.retain(|_, entry| entry.until_ms.saturating_add(SECOND_MS) >= first_ms);
    }
}

/// Delivers messages at their instants, until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let queue = match broker.store.queues.queue_or_create(names::TIMER_TOPIC, 0) {
        Ok(queue) => queue,
        Err(error) => return broker.fail("timer", &error),
    };
    loop {
        match step(&broker, &queue) {
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {
                if !something_to_do(&broker, &queue).await {
                    return;
                }
            }
            // Nothing was delivered, and nothing is passed over: again when there may be room.
            Err(StoreError::Full) => tokio::time::sleep(FULL_PAUSE).await,
            // The store has failed and refuses everything from now on.
            Err(error) => return broker.fail("timer", &error),
        }
    }
}

/// Waits for the next instant or for new messages; false when the store is closed.
async fn something_to_do(broker: &Broker, queue: &ConsumeQueue) -> bool {
    let (next, taken) = {
        let state = broker.timers.state();
        (state.next(), state.taken)
    };
    let grown = queue.length.reached(u64::try_from(taken).unwrap_or(0) + 1);
    if next == Place::LAST {
        return grown.await.is_ok();
    }
    tokio::select! {
        grown = grown => grown.is_ok(),
        () = broker.clock.sleep_until(next.at_ms) => true,
    }
}

/// Takes in what is new, and then delivers a batch of what is due. Says whether there was any.
fn step(broker: &Broker, queue: &ConsumeQueue) -> Result<bool, StoreError> {
    let mut state = broker.timers.state();
    // All of it first, or what is due first might be behind.
    if take_in(broker, queue, &mut state)? {
        return Ok(true);
    }
    if state.window.is_empty() && state.horizon < Place::LAST {
        refill(broker, queue, &mut state)?;
    }
    let due = state.take_due(broker.clock.now_ms());
    if due.is_empty() {
        state.advance();
        return Ok(false);
    }
    let done = deliver(broker, queue, &state, &due);
    let count = *done.as_ref().unwrap_or(&0);
    let (done_with, rest) = due.split_at_checked(count).unwrap_or((&due, &[]));
    state.window.extend(rest.iter().copied().map(Reverse));
    state.deliver(done_with);
    done.map(|_| true)
}

/// Reads the queue on from where it was read up to; says whether there was anything.
fn take_in(broker: &Broker, queue: &ConsumeQueue, state: &mut State) -> Result<bool, StoreError> {
    let from = state.taken.max(queue.min_offset());
    if from >= queue.max_offset() {
        return Ok(false);
    }
    let entries = queue.read(from, READ_AHEAD)?;
    for (entry, offset) in entries.iter().zip(from..) {
        match Kind::of(broker, entry)? {
            Kind::Message(at_ms) => {
                let place = Place { at_ms, offset };
                let was_delivered = offset < state.progress.taken && place < state.progress.reached;
                if !was_delivered {
                    state.admit(place);
                }
            }
            Kind::TakesBack(until_ms) => {
                if let Some(target) = target_of(broker, entry)? {
                    let hash = broker.timers.hasher.hash_one(target);
                    state.note_taken_back(hash, TakenBack { until_ms, offset });
                }
            }
            Kind::Nothing => {}
        }
    }
    state.taken = from + i64::try_from(entries.len()).unwrap_or(0);
    Ok(true)
}

/// Reads again what was left to the queue.
fn refill(broker: &Broker, queue: &ConsumeQueue, state: &mut State) -> Result<(), StoreError> {
    let (horizon, beyond) = (state.horizon, state.beyond);
    (state.horizon, state.beyond) = (Place::LAST, i64::MAX);
    let filled = fill(broker, queue, state, (horizon, beyond.max(queue.min_offset())));
    if filled.is_err() {
        state.window.clear();
        (state.horizon, state.beyond) = (horizon, beyond);
    }
    filled
}

fn fill(
    broker: &Broker,
    queue: &ConsumeQueue,
    state: &mut State,
    (from, mut at): (Place, i64),
) -> Result<(), StoreError> {
    while at < state.taken {
        let left = usize::try_from(state.taken - at).unwrap_or(READ_AHEAD);
        let entries = queue.read(at, left.min(READ_AHEAD))?;
        for (entry, offset) in entries.iter().zip(at..) {
            if let Kind::Message(at_ms) = Kind::of(broker, entry)? {
                let place = Place { at_ms, offset };
                if place >= from {
                    state.admit(place);
                }
            }
        }
        at += i64::try_from(entries.len()).unwrap_or(0).max(1);
    }
    Ok(())
}

/// What an entry of the timer topic's queue stands for.
enum Kind {
    /// A message, and when it is due.
    Message(i64),
    /// Takes a message back that is due by then.
    TakesBack(i64),
    Nothing,
}

impl Kind {
    fn of(broker: &Broker, entry: &Entry) -> Result<Self, StoreError> {
        if entry.is_hole() {
            return Ok(Self::Nothing);
        }
        if i32::try_from(entry.tags_code).is_err() {
            return Ok(match entry.tags_code {
                at_ms @ 0.. => Self::Message(at_ms),
                negative => Self::TakesBack(negative.saturating_neg()),
            });
        }
        // A hash of tags: Apache RocketMQ made the entry.
        let Some(bytes) = read(broker, entry)? else { return Ok(Self::Nothing) };
        let Ok((record, _)) = Record::decode(&bytes, Verify::None) else {
            return Ok(Self::Nothing);
        };
        let due = properties::find(record.properties, key::TIMER_OUT_MS);
        let takes_back = properties::find(record.properties, key::TIMER_DEL_UNIQKEY).is_some();
        Ok(match due.and_then(|due| due.parse().ok()) {
            Some(until_ms) if takes_back => Self::TakesBack(until_ms),
            Some(at_ms) => Self::Message(at_ms),
            None => Self::Nothing,
        })
    }
}

/// The record of an entry, unless it is lost.
fn read(broker: &Broker, entry: &Entry) -> Result<Option<Bytes>, StoreError> {
    let Ok(at) = u64::try_from(entry.physical_offset) else { return Ok(None) };
    match broker.store.log.read_record_at(at) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error @ (StoreError::Corrupt { .. } | StoreError::OutOfRange { .. })) => {
            warn!(%error, "a timer message is lost and cannot be delivered");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What a record takes back.
fn target_of(broker: &Broker, entry: &Entry) -> Result<Option<String>, StoreError> {
    let Some(bytes) = read(broker, entry)? else { return Ok(None) };
    let Ok((record, _)) = Record::decode(&bytes, Verify::None) else { return Ok(None) };
    Ok(properties::find(record.properties, key::TIMER_DEL_UNIQKEY).map(str::to_owned))
}

/// A message on its way from the timer topic to its own.
struct Leaving {
    bytes: Bytes,
    topic: String,
    queue_id: i32,
    unique_key: Option<String>,
    properties: Properties,
}

/// Appends what is due to its topics. Gives how many places are done with.
fn deliver(
    broker: &Broker,
    queue: &ConsumeQueue,
    state: &State,
    due: &[Place],
) -> Result<usize, StoreError> {
    let (mut leaving, mut bytes, mut done) = (Vec::with_capacity(due.len()), 0, 0);
    for place in due {
        let Some(entry) = queue.read(place.offset, 1)?.pop() else { break };
        let size = usize::try_from(entry.size).unwrap_or(0);
        if !leaving.is_empty() && bytes + size > BATCH_BYTES {
            break;
        }
        if let Some(one) = read(broker, &entry)?.and_then(|bytes| Leaving::of(broker, bytes))
            && !broker.timers.is_taken_back(state, place.at_ms, &one)
        {
            bytes += size;
            leaving.push(one);
        }
        done += 1;
    }
    let records: Vec<_> = leaving.iter().filter_map(Leaving::record).collect();
    if !records.is_empty() {
        broker.store.log.append(&records)?;
    }
    Ok(done)
}

impl Leaving {
    fn of(broker: &Broker, bytes: Bytes) -> Option<Self> {
        let (record, _) = Record::decode(&bytes, Verify::None).ok()?;
        let (mut topic, mut queue_id, mut unique_key) = (None, None, None);
        let mut properties = Properties::default();
        for (name, value) in properties::pairs(record.properties) {
            match name {
                key::REAL_TOPIC => topic = Some(value.to_owned()),
                key::REAL_QID => queue_id = value.parse().ok(),
                key::TIMER_ENQUEUE_MS | key::TIMER_DEQUEUE_MS => {}
                key::UNIQ_KEY => {
                    unique_key = Some(value.to_owned());
                    properties.push(name, value);
                }
                _ => properties.push(name, value),
            }
        }
        properties.push(key::TIMER_ENQUEUE_MS, &record.store_timestamp_ms.to_string());
        properties.push(key::TIMER_DEQUEUE_MS, &broker.clock.now_ms().to_string());
        Some(Self { topic: topic?, queue_id: queue_id?, unique_key, properties, bytes })
    }

    /// As it is appended. The times of its way are left out where there is no room for them.
    fn record(&self) -> Option<NewRecord<'_>> {
        let (record, _) = Record::decode(&self.bytes, Verify::None).ok()?;
        let waiting = record.copy();
        let (topic, queue_id) = (self.topic.as_str(), self.queue_id);
        let told = NewRecord { topic, queue_id, properties: self.properties.as_str(), ..waiting };
        if told.check().is_ok() {
            return Some(told);
        }
        let plain = NewRecord { properties: record.properties, ..told };
        match plain.check() {
            Ok(()) => Some(plain),
            Err(error) => {
                warn!(%error, topic, "a timer message cannot be delivered");
                None
            }
        }
    }
}

impl Timers {
    fn is_taken_back(&self, state: &State, due_ms: i64, message: &Leaving) -> bool {
        if state.taken_back.is_empty() {
            return false;
        }
        let Some(unique_key) = message.unique_key.as_deref() else { return false };
        // Before 5.1 the key alone was named.
        let full = Target::of(&message.topic, unique_key);
        [full.0.as_str(), unique_key].iter().any(|target| {
            let entry = state.taken_back.get(&self.hasher.hash_one(target));
            entry.is_some_and(|entry| entry.until_ms.saturating_add(SECOND_MS) > due_ms)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim_disk::{Rng, SimDisk};

    fn state() -> State {
        let timers = Timers::open(Arc::new(SimDisk::new()), "/timerProgress.json".into()).unwrap();
        timers.state.into_inner().unwrap()
    }

    /// Places of messages, in the order they came.
    fn places(count: i64) -> Vec<Place> {
        let mut rng = Rng::new(7);
        (0..count).map(|offset| Place { at_ms: rng.below(100_000).cast_signed(), offset }).collect()
    }

    #[test]
    fn a_million_pending_messages_take_four_mebibytes() {
        let mut state = state();
        for place in places(1_000_000) {
            state.admit(place);
            state.taken = place.offset + 1;
        }
        let bytes = state.window.capacity() * size_of::<Reverse<Place>>();
        println!(
            "{} of 1000000 pending messages are in a window of {bytes} bytes, {} each",
            state.window.len(),
            size_of::<Place>()
        );
        assert!(bytes <= 4 << 20, "{bytes}");
        assert_eq!(state.floor(), 0);
    }

    #[test]
    fn the_window_has_the_first_and_the_queue_the_rest() {
        let (mut state, places) = (state(), places(400_000));
        places.iter().for_each(|place| state.admit(*place));
        let mut sorted = places.clone();
        sorted.sort();
        let mut order = Vec::with_capacity(sorted.len());
        while order.len() < sorted.len() {
            order.extend(state.take_due(i64::MAX));
            if state.window.is_empty() {
                let from = std::mem::replace(&mut state.horizon, Place::LAST);
                assert!(
                    state.beyond
                        <= places
                            .iter()
                            .filter(|at| **at >= from)
                            .map(|at| at.offset)
                            .min()
                            .unwrap_or(i64::MAX)
                );
                state.beyond = i64::MAX;
                places.iter().filter(|at| **at >= from).for_each(|place| state.admit(*place));
            }
        }
        assert!(order == sorted, "each once, and in order");
    }

    #[test]
    fn progress_waits_for_what_came_late() {
        let mut state = state();
        let place = |at_ms, offset| Place { at_ms, offset };
        state.admit(place(5, 0));
        state.taken = 1;
        let due = state.take_due(5);
        state.deliver(&due);
        assert_eq!((state.progress.taken, state.progress.reached), (1, Place::LAST));
        state.admit(place(3, 1));
        state.taken = 2;
        state.advance();
        assert_eq!(state.progress.taken, 1, "3 is not delivered, but 5 is");
        let due = state.take_due(5);
        state.deliver(&due);
        assert_eq!(state.progress.taken, 2);
    }
}
