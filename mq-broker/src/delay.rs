//! Delayed messages: what a message asks for and where it waits then; the levels, one reader a
//! level, redelivery, delayOffset.json. Not here: why a message is late; instants (`timer`).
//!
//! Invariants (protocol section 5.1): a message leaves no earlier than its deliver time; it is
//! appended to its real topic before the level's progress moves past it, so that a crash repeats it
//! and never loses it; a delivered message no longer carries DELAY, or it would be diverted for
//! ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use mq_core::names;
use mq_core::properties::{self, Properties, key};
use mq_core::protocol::body::DelayOffsets;
use mq_core::protocol::record::{NewRecord, Record, Verify};
use tracing::warn;

use crate::broker::{Broker, FULL_PAUSE};
use crate::refusal::Refusal;
use crate::store::StoreError;
use crate::store::consume_queue::{ConsumeQueue, Entry};
use crate::store::disk::Disk;
use crate::store::table_file::TableFile;
use crate::timer;

/// Entries of a level that are read at once.
const READ_AHEAD: usize = 64;

/// Levels and how far each has been delivered.
#[derive(Debug)]
pub(crate) struct Delay {
    levels: Vec<Level>,
    file: TableFile,
}

#[derive(Debug)]
struct Level {
    delay_ms: i64,
    /// Next offset of the level's queue to be delivered.
    next: AtomicI64,
}

impl Delay {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        delays_ms: &[i64],
    ) -> Result<Self, StoreError> {
        let file = TableFile::new(disk, path);
        let stored: DelayOffsets = file.load()?.unwrap_or_default();
        let levels = (1..)
            .zip(delays_ms)
            .map(|(level, delay_ms)| Level {
                delay_ms: *delay_ms,
                next: AtomicI64::new(stored.offset_table.get(&level).copied().unwrap_or(0)),
            })
            .collect();
        Ok(Self { levels, file })
    }

    /// Numbers of the levels.
    pub(crate) fn levels(&self) -> impl Iterator<Item = i32> {
        (1..).take(self.levels.len())
    }

    /// `asked` within the levels that there are.
    pub(crate) fn level(&self, asked: i32) -> i32 {
        asked.clamp(1, i32::try_from(self.levels.len()).unwrap_or(i32::MAX).max(1))
    }

    /// How far every level is.
    pub(crate) fn progress(&self) -> DelayOffsets {
        let next = self.levels.iter().map(|level| level.next.load(Ordering::Acquire));
        DelayOffsets { offset_table: (1..).zip(next).collect(), ..DelayOffsets::default() }
    }

    pub(crate) fn save(&self, progress: &DelayOffsets) -> Result<(), StoreError> {
        self.file.save(progress)
    }

    /// Messages that are due and not delivered; at most one a level is counted.
    pub(crate) fn due(&self, broker: &Broker) -> u64 {
        let now = broker.clock.now_ms();
        let is_due = |(level, state): &(i32, &Level)| {
            let next = state.next.load(Ordering::Acquire);
            let queue = broker.store.queues.queue(names::SCHEDULE_TOPIC, level - 1);
            let entries = queue.and_then(|q| q.read(next.max(q.min_offset()), 1).ok());
            entries.is_some_and(|entries| entries.first().is_some_and(|e| e.tags_code <= now))
        };
        (1..).zip(&self.levels).filter(is_due).map(|_| 1).sum()
    }

    fn of(&self, level: i32) -> Option<&Level> {
        self.levels.get(usize::try_from(level).ok()?.checked_sub(1)?)
    }
}

/// When a message wants to be delivered, as its properties say. By default at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// 0 is no level.
    pub(crate) level: i32,
    timer: Option<timer::Wish<'a>>,
}

impl<'a> Wish<'a> {
    /// The wish in a stored text.
    pub(crate) fn of(wire: &'a str) -> Self {
        let mut wish = Self::default();
        properties::pairs(wire).for_each(|(name, value)| wish.note(name, value));
        wish
    }

    /// Takes one property in.
    pub(crate) fn note(&mut self, name: &str, value: &'a str) {
        if name == key::DELAY {
            self.level = value.parse().unwrap_or(0);
        } else if name.starts_with(key::TIMER_PREFIX) {
            self.timer.get_or_insert_default().note(name, value);
        }
    }

    /// Can it be done?
    pub(crate) fn check(&self, broker: &Broker) -> Result<(), Refusal> {
        match self.timer {
            Some(timer) if self.level <= 0 => timer.due(broker).map(drop),
            _ => Ok(()),
        }
    }

    /// The same, but by a level.
    pub(crate) fn at_level(self, level: i32) -> Self {
        Self { level, ..self }
    }

    /// Whether there is more to it than "at once".
    pub(crate) fn is_there(&self) -> bool {
        self.level > 0 || self.timer.is_some()
    }
}

/// Where a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detour {
    pub(crate) topic: &'static str,
    pub(crate) queue_id: i32,
    /// Of a message that can be taken back: when it is due.
    pub(crate) due_ms: Option<i64>,
}

/// Where a message for `place` waits first, if it asks for that; its properties become those of the
/// waiting one. The only way into a delay: for what is sent, what is given back and what a
/// transaction commits. A level counts before an instant (protocol section 5.2).
pub(crate) fn divert(
    broker: &Broker,
    wish: &Wish<'_>,
    properties: &mut Properties,
    (topic, queue_id): (&str, i32),
) -> Result<Option<Detour>, Refusal> {
    let detour = match (wish.level, wish.timer) {
        (1.., timer) => {
            if timer.is_some() {
                timer::forget(properties);
            }
            let queue_id = broker.delay.level(wish.level) - 1;
            Detour { topic: names::SCHEDULE_TOPIC, queue_id, due_ms: None }
        }
        (_, Some(timer)) => match timer.due(broker)? {
            Some(due) => {
                properties.set(key::TIMER_OUT_MS, &due.at_ms.to_string());
                let due_ms = Some(due.at_ms).filter(|_| !due.takes_back);
                Detour { topic: names::TIMER_TOPIC, queue_id: 0, due_ms }
            }
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    remember(properties, topic, queue_id);
    Ok(Some(detour))
}

/// Notes in a message's properties where it goes in the end.
pub(crate) fn remember(properties: &mut Properties, topic: &str, queue_id: i32) {
    properties.set(key::REAL_TOPIC, topic);
    properties.set(key::REAL_QID, &queue_id.to_string());
}

/// Delivers one level's messages as they fall due, until the broker stops.
pub(crate) async fn deliver(broker: Arc<Broker>, level: i32) {
    let Some(state) = broker.delay.of(level) else { return };
    let queue = match broker.store.queues.queue_or_create(names::SCHEDULE_TOPIC, level - 1) {
        Ok(queue) => queue,
        Err(error) => return broker.fail("delay", &error),
    };
    loop {
        let next = state.next.load(Ordering::Acquire).max(queue.min_offset());
        let target = u64::try_from(next).unwrap_or(0) + 1;
        if queue.length.reached(target).await.is_err() {
            return;
        }
        match due(&broker, &queue, state, next).await.and_then(|due| redeliver(&broker, &due)) {
            Ok(delivered) => state.next.store(next + delivered, Ordering::Release),
            // Nothing was delivered, and nothing is passed over: again when there may be room.
            Err(StoreError::Full) => tokio::time::sleep(FULL_PAUSE).await,
            // The store has failed and refuses everything from now on.
            Err(error) => return broker.fail("delay", &error),
        }
    }
}

/// Waits for the first message and gives all that are due then.
async fn due(
    broker: &Broker,
    queue: &ConsumeQueue,
    level: &Level,
    next: i64,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries = queue.read(next, READ_AHEAD)?;
    if let Some(first) = entries.first() {
        // A deliver time that is further away than the level's delay means that the clock was set
        // back: due at once.
        let latest = broker.clock.now_ms().saturating_add(level.delay_ms);
        if first.tags_code <= latest {
            broker.clock.sleep_until(first.tags_code).await;
        }
    }
    let now = broker.clock.now_ms();
    let late = entries.iter().take_while(|entry| entry.tags_code <= now).count();
    entries.truncate(late.max(1));
    Ok(entries)
}

/// Appends the messages to their real topics. Gives how many entries are done with: those before a
/// failure are, or they would be delivered again with every new try.
fn redeliver(broker: &Broker, due: &[Entry]) -> Result<i64, StoreError> {
    let mut done = 0;
    for entry in due {
        match redeliver_one(broker, entry) {
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
            Ok(()) => done += 1,
        }
    }
    Ok(done)
}

fn redeliver_one(broker: &Broker, entry: &Entry) -> Result<(), StoreError> {
    let Ok(at) = u64::try_from(entry.physical_offset) else { return Ok(()) };
    if entry.is_hole() {
        return Ok(());
    }
    match broker.store.log.read_record_at(at) {
        Ok(bytes) => put_back(broker, &bytes),
        Err(StoreError::Corrupt { file, at, what }) => {
            warn!(?file, at, what, "a delayed message is damaged and cannot be delivered");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn put_back(broker: &Broker, bytes: &[u8]) -> Result<(), StoreError> {
    let record = match Record::decode(bytes, Verify::None) {
        Ok((record, _)) => record,
        Err(error) => {
            warn!(%error, "a delayed message is not readable and cannot be delivered");
            return Ok(());
        }
    };
    let mut properties = Properties::from_wire(record.properties.to_owned());
    let topic = properties.get(key::REAL_TOPIC).unwrap_or(record.topic).to_owned();
    let queue_id = properties.get(key::REAL_QID).and_then(|id| id.parse().ok()).unwrap_or(0);
    properties.remove(key::DELAY);
    let copy =
        NewRecord { topic: &topic, queue_id, properties: properties.as_str(), ..record.copy() };
    broker.store.log.append(&[copy]).map(drop)
}
