//! What pop has handed out and nobody has acknowledged yet, by group and queue. Not here: reading
//! queues (`pop`), verbs that acknowledge (`ack`), what happens when the time is up (`revive`).
//!
//! Invariants:
//! - A group's committed offset on a queue never passes a message that is in flight. So the table
//!   needs no file: after a crash everything from the committed offset on is handed out again, what
//!   was acknowledged behind it once more. A flight lasts as long as its invisible time at most,
//!   then its message is in the retry topic and the offset moves on.
//! - A receipt names queue, offset and the time it was popped. Only the newest one counts.
//! - Somebody else who commits an offset (a pull consumer, a reset) wins: flights of before are
//!   forgotten and popping goes on there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use mq_core::watermark::Watermark;

/// Messages of one queue that a group may have in flight.
const FLYING_MAX: usize = 20_000;
/// Receipts of before the last start that are kept for a queue.
const ACKED_MAX: usize = 20_000;
/// Pops that may be waited for at once. One costs about 100 bytes, its messages 50 bytes each.
const DUE_MAX: usize = 500_000;

/// One group on one queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lane {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) queue_id: i32,
}

/// All flights.
#[derive(Debug)]
pub(crate) struct Flights {
    started_ms: i64,
    windows: RwLock<HashMap<Lane, Arc<Mutex<Window>>>>,
    due: Mutex<Departures>,
    /// Grows when a flight ends before all that were known.
    pub(crate) sooner: Watermark,
    /// Pops that wait for a message.
    waiting: AtomicUsize,
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Departures {
    by_time: BTreeMap<(i64, u64), Due>,
    last: u64,
    /// One was taken out and is not through.
    ending: bool,
}

/// Messages of one pop, and when they come back.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) lane: Lane,
    pub(crate) offsets: RangeInclusive<i64>,
    pub(crate) pop_time_ms: i64,
}

/// How far one lane is.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// The next offset to hand out.
    pub(crate) next: i64,
    /// What this table has committed last; another value means that somebody else has.
    committed: Option<i64>,
    /// Offset to the time it was popped.
    flying: BTreeMap<i64, i64>,
    /// Acknowledged by receipts of before the start, and not handed out since.
    acked: BTreeSet<i64>,
}

impl Window {
    /// Takes over what is committed; `first` is where a group without an offset begins.
    pub(crate) fn follow(&mut self, committed: Option<i64>, first: impl FnOnce() -> i64) {
        if self.committed.is_none() || committed != self.committed {
            *self = Self { next: committed.unwrap_or_else(first), ..Self::default() };
        }
    }

    /// How many more may be in flight.
    pub(crate) fn room(&self) -> usize {
        FLYING_MAX.saturating_sub(self.flying.len())
    }

    /// Is this offset handed out or done with already?
    pub(crate) fn passes(&mut self, offset: i64) -> bool {
        self.acked.remove(&offset) || self.flying.contains_key(&offset)
    }

    pub(crate) fn take_off(&mut self, offset: i64, pop_time_ms: i64) {
        self.flying.insert(offset, pop_time_ms);
    }

    /// Ends a flight. False: the receipt is not the newest one.
    pub(crate) fn land(&mut self, offset: i64, pop_time_ms: i64) -> bool {
        let newest = self.flying.get(&offset) == Some(&pop_time_ms);
        if newest {
            self.flying.remove(&offset);
        }
        newest
    }

    /// Takes a receipt of before the start, for an offset that was not handed out since.
    fn land_early(&mut self, offset: i64) {
        if offset >= self.next && self.acked.len() < ACKED_MAX {
            self.acked.insert(offset);
        }
    }

    /// Those of `offsets` that fly since `pop_time_ms`.
    pub(crate) fn of_pop(&self, due: &Due) -> Vec<i64> {
        let popped = self.flying.range(due.offsets.clone());
        popped.filter(|(_, time)| **time == due.pop_time_ms).map(|(offset, _)| *offset).collect()
    }

    /// The offset to commit, when it is another than before.
    pub(crate) fn commit(&mut self) -> Option<i64> {
        let lowest = self.flying.first_key_value().map_or(self.next, |(offset, _)| *offset);
        let offset = lowest.min(self.next);
        (self.committed.replace(offset) != Some(offset)).then_some(offset)
    }
}

impl Flights {
    pub(crate) fn new(started_ms: i64) -> Self {
        Self {
            started_ms,
            windows: RwLock::default(),
            due: Mutex::default(),
            sooner: Watermark::new(0),
            waiting: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
        }
    }

    /// Another number each time.
    pub(crate) fn turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// The lane's window, made if need be. Callers have checked group, topic and queue: there are
    /// no more windows than those allow.
    pub(crate) fn window(&self, lane: &Lane) -> Arc<Mutex<Window>> {
        if let Some(window) = self.known(lane) {
            return window;
        }
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(windows.entry(lane.clone()).or_default())
    }

    /// The lane's window, if anything was popped from it since the start.
    pub(crate) fn known(&self, lane: &Lane) -> Option<Arc<Mutex<Window>>> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        windows.get(lane).cloned()
    }

    /// May another pop be begun?
    pub(crate) fn has_room(&self) -> bool {
        self.due().by_time.len() < DUE_MAX
    }

    /// The flights of a pop end at `at_ms`.
    pub(crate) fn end_at(&self, at_ms: i64, due: Due) {
        let mut departures = self.due();
        let sooner = departures.by_time.first_key_value().is_none_or(|((at, _), _)| at_ms < *at);
        departures.last += 1;
        let number = departures.last;
        departures.by_time.insert((at_ms, number), due);
        drop(departures);
        if sooner {
            self.sooner.advance(self.sooner.get() + 1);
        }
    }

    /// Has a flight ended whose message is not back yet?
    pub(crate) fn is_late(&self, now_ms: i64) -> bool {
        let departures = self.due();
        let first = departures.by_time.first_key_value();
        departures.ending || first.is_some_and(|((at_ms, _), _)| *at_ms <= now_ms)
    }

    /// When the first flight ends.
    pub(crate) fn first_end_ms(&self) -> Option<i64> {
        self.due().by_time.first_key_value().map(|((at, _), _)| *at)
    }

    /// A pop whose flights have ended. Asking for the next says that this one is through.
    pub(crate) fn next_ended(&self, now_ms: i64) -> Option<Due> {
        let mut departures = self.due();
        let first = departures.by_time.first_entry();
        let ended = first.filter(|first| first.key().0 <= now_ms).map(|first| first.remove());
        departures.ending = ended.is_some();
        ended
    }

    /// Ends a flight by its receipt. A receipt of before the start is remembered, so that the
    /// message is not handed out again for that.
    pub(crate) fn land(&self, window: &mut Window, offset: i64, pop_time_ms: i64) {
        if !window.land(offset, pop_time_ms) && pop_time_ms < self.started_ms {
            window.land_early(offset);
        }
    }

    /// Gives a flight another pop time, so that it ends later. False: the receipt is not the
    /// newest one.
    pub(crate) fn go_on(
        &self,
        window: &mut Window,
        offset: i64,
        pop_time_ms: i64,
        new_pop_time_ms: i64,
    ) -> bool {
        let early = pop_time_ms < self.started_ms
            && offset >= window.next
            && window.room() > 0
            && !window.flying.contains_key(&offset);
        let flies = window.land(offset, pop_time_ms) || early;
        if flies {
            window.take_off(offset, new_pop_time_ms);
        }
        flies
    }

    /// Counts a waiting pop as long as the answer lives; nothing when too many wait.
    pub(crate) fn wait(self: &Arc<Self>, max: usize) -> Option<Waiting> {
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= max {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Waiting(Arc::clone(self)))
    }

    /// Pops that wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    fn due(&self) -> MutexGuard<'_, Departures> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pop that waits.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<Flights>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(crate) fn lock(window: &Mutex<Window>) -> MutexGuard<'_, Window> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}
