//! What handlers of a group did with the messages of a test, and whether they may have. Handlers
//! write a [`History`]; the checks are pure functions over its events and look at nothing else. Not
//! here: who sends, joins, leaves and crashes.
//!
//! Messages carry a key and a number; the messages of one key are numbered from 0 and sent in that
//! order to one queue.
//!
//! The rules:
//! - [`lost`]: every message that was sent is handled to the end at least once.
//! - [`overlaps`]: calls for one queue do not overlap, whoever makes them.
//! - [`disorder`]: within a key, number `n` is begun only right after `n - 1`: nothing is skipped,
//!   so that a number that is new never comes before a smaller one that is new. Going back, which
//!   repeats a suffix, is excused when the call before for this queue was not done, or the member
//!   that made it has crashed. A member that leaves in order is no excuse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Handler, Outcome};
use mq_core::message::Delivery;
use mq_core::names::MessageQueue;
use tokio::sync::watch;

/// Nobody waits for a history longer than this, which includes the end of a dead member's locks.
const DEADLINE: Duration = Duration::from_secs(150);

/// A message: its key, and its number within the key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// What messages are ordered by.
    pub key: String,
    /// From 0.
    pub number: u64,
}

impl Item {
    /// The message of a body that [`fmt::Display`] wrote.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let (key, number) = std::str::from_utf8(body).ok()?.rsplit_once('/')?;
        Some(Self { key: key.to_owned(), number: number.parse().ok()? })
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key, self.number)
    }
}

/// What happened, in the order it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A handler was called.
    Began {
        /// Names the call.
        call: u64,
        /// Whose handler it is.
        member: u32,
        /// Where the message lies.
        queue: MessageQueue,
        /// The message.
        item: Item,
    },
    /// A call came to its end.
    Ended {
        /// Names the call.
        call: u64,
        /// Whether the handler acknowledged the message; else it failed, or was dropped.
        done: bool,
    },
    /// A member ended without a word to anybody.
    Crashed {
        /// Which one.
        member: u32,
    },
}

/// The messages of `sent` that no call has done.
#[must_use]
pub fn lost(events: &[Event], sent: &BTreeSet<Item>) -> Vec<String> {
    let mut begun = BTreeMap::new();
    let mut left: BTreeSet<&Item> = sent.iter().collect();
    for event in events {
        match event {
            Event::Began { call, item, .. } => {
                begun.insert(call, item);
            }
            Event::Ended { call, done: true } => {
                if let Some(item) = begun.get(call) {
                    left.remove(item);
                }
            }
            Event::Ended { .. } | Event::Crashed { .. } => {}
        }
    }
    left.into_iter().map(|item| format!("{item} was lost")).collect()
}

/// Calls that began while another one for the same queue ran.
#[must_use]
pub fn overlaps(events: &[Event]) -> Vec<String> {
    let mut running: BTreeMap<&MessageQueue, BTreeMap<u64, String>> = BTreeMap::new();
    let mut found = Vec::new();
    for event in events {
        match event {
            Event::Began { call, member, queue, item } => {
                let calls = running.entry(queue).or_default();
                let this = format!("{item} by member {member}");
                found.extend(calls.values().map(|o| format!("{queue}: {this} began during {o}")));
                calls.insert(*call, this);
            }
            Event::Ended { call, .. } => {
                for calls in running.values_mut() {
                    calls.remove(call);
                }
            }
            Event::Crashed { .. } => {}
        }
    }
    found
}

/// The newest call of a queue.
#[derive(Clone, Copy)]
struct Last {
    call: u64,
    member: u32,
    done: bool,
}

/// Messages of one key that were begun in a wrong order.
#[must_use]
pub fn disorder(events: &[Event]) -> Vec<String> {
    let mut found = Vec::new();
    let mut crashed = BTreeSet::new();
    let mut newest: BTreeMap<&MessageQueue, Last> = BTreeMap::new();
    let mut excused: BTreeMap<&str, bool> = BTreeMap::new();
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    let mut keys: BTreeMap<&MessageQueue, BTreeSet<&str>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Began { call, member, queue, item } => {
                let keys = keys.entry(queue).or_default();
                keys.insert(&item.key);
                let last = newest.insert(queue, Last { call: *call, member: *member, done: false });
                if last.is_some_and(|last| !last.done || crashed.contains(&last.member)) {
                    // All of the queue may go back, each key when it comes.
                    excused.extend(keys.iter().map(|key| (*key, true)));
                }
                let next = next.entry(&item.key).or_default();
                let excuse = excused.insert(&item.key, false).unwrap_or(false);
                if item.number > *next {
                    found.push(format!("{queue}: {item} by member {member}, {next} was skipped"));
                } else if item.number < *next && !excuse {
                    found.push(format!("{queue}: {item} by member {member}, {next} was due"));
                }
                *next = item.number + 1;
            }
            Event::Ended { call, done } => {
                for last in newest.values_mut().filter(|last| last.call == *call) {
                    last.done = *done;
                }
            }
            Event::Crashed { member } => {
                crashed.insert(*member);
            }
        }
    }
    found
}

/// Events, as handlers write them.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
    calls: AtomicU64,
    done: watch::Sender<BTreeSet<Item>>,
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>, member: u32, queue: &MessageQueue, item: &Item) -> Call {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let (queue, item) = (queue.clone(), item.clone());
        self.lock().push(Event::Began { call, member, queue, item });
        Call { history: self.clone(), call, done: false }
    }

    /// Writes down that a member ended without a word.
    pub fn crashed(&self, member: u32) {
        self.lock().push(Event::Crashed { member });
    }

    /// What happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// Waits until `count` different messages are done.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn handled(&self, count: usize) {
        let mut done = self.done.subscribe();
        let enough = done.wait_for(|done| done.len() >= count);
        let enough = tokio::time::timeout(DEADLINE, enough).await.is_ok();
        assert!(enough, "{} of {count} messages were handled", self.done.borrow().len());
    }
}

/// A call under way. Dropped, it has ended.
struct Call {
    history: Arc<History>,
    call: u64,
    done: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.history.lock().push(Event::Ended { call: self.call, done: self.done });
    }
}

/// A member's handler: writes down what it is given, takes a moment, and acknowledges it.
#[derive(Debug)]
pub struct Witness {
    member: u32,
    history: Arc<History>,
}

impl Witness {
    /// The handler of a member.
    #[must_use]
    pub fn new(member: u32, history: &Arc<History>) -> Arc<Self> {
        Arc::new(Self { member, history: history.clone() })
    }
}

#[async_trait]
impl Handler for Witness {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let Some(item) = Item::read(&delivery.body) else {
            panic!("a message that the test has not sent: {delivery:?}");
        };
        let mut call = self.history.begin(self.member, &delivery.queue, &item);
        match item.number % 64 {
            0 => tokio::time::sleep(Duration::from_millis(2)).await,
            _ => tokio::task::yield_now().await,
        }
        call.done = true;
        drop(call);
        self.history.done.send_if_modified(|done| done.insert(item));
        Outcome::Ack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes events by hand: `(member, queue, "key/number", done)`, one call after another.
    #[derive(Default)]
    struct Story(Vec<Event>);

    impl Story {
        fn began(&mut self, member: u32, queue: i32, item: &str) -> u64 {
            let (queue, call) = (MessageQueue::new("t", "b", queue), self.0.len() as u64);
            let item = Item::read(item.as_bytes()).unwrap();
            self.0.push(Event::Began { call, member, queue, item });
            call
        }

        fn call(&mut self, member: u32, queue: i32, item: &str, done: bool) {
            let call = self.began(member, queue, item);
            self.0.push(Event::Ended { call, done });
        }

        fn done(member: u32, items: &[&str]) -> Self {
            let mut story = Self::default();
            items.iter().for_each(|item| story.call(member, 0, item, true));
            story
        }
    }

    fn items(items: &[&str]) -> BTreeSet<Item> {
        items.iter().map(|item| Item::read(item.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_message_is_lost_unless_a_call_has_done_it() {
        let mut story = Story::done(1, &["a/0", "b/0"]);
        story.call(1, 0, "a/1", false);
        story.began(2, 0, "a/2");
        let sent = items(&["a/0", "b/0", "a/1", "a/2", "c/0"]);
        assert_eq!(lost(&story.0, &sent), ["a/1 was lost", "a/2 was lost", "c/0 was lost"]);
        story.call(2, 0, "a/1", true);
        assert_eq!(lost(&story.0, &items(&["a/0", "b/0", "a/1"])), [""; 0]);
    }

    #[test]
    fn calls_of_one_queue_must_not_overlap() {
        let mut story = Story::default();
        let first = story.began(1, 0, "a/0");
        story.call(2, 1, "b/0", true);
        assert_eq!(overlaps(&story.0), [""; 0], "another queue");
        story.call(2, 0, "a/0", true);
        assert_eq!(overlaps(&story.0).len(), 1);
        story.0.push(Event::Ended { call: first, done: false });
        story.call(2, 0, "a/1", true);
        assert_eq!(overlaps(&story.0), ["t@b[0]: a/0 by member 2 began during a/0 by member 1"]);
    }

    #[test]
    fn the_calls_of_a_crashed_member_overlap_like_any_other() {
        let mut story = Story::default();
        story.began(1, 0, "a/0");
        story.0.push(Event::Crashed { member: 1 });
        story.call(2, 0, "a/0", true);
        assert_eq!(overlaps(&story.0).len(), 1);
    }

    #[test]
    fn numbers_come_one_after_another() {
        let story = Story::done(1, &["a/0", "b/0", "a/1", "b/1", "a/2"]);
        assert_eq!(disorder(&story.0), [""; 0]);
        let story = Story::done(1, &["a/0", "a/2", "a/1"]);
        let found =
            ["t@b[0]: a/2 by member 1, 1 was skipped", "t@b[0]: a/1 by member 1, 3 was due"];
        assert_eq!(disorder(&story.0), found);
        assert_eq!(disorder(&Story::done(1, &["a/1"]).0).len(), 1, "0 was skipped");
    }

    #[test]
    fn going_back_needs_an_excuse() {
        let mut story = Story::done(1, &["a/0", "b/0", "a/1"]);
        story.call(2, 0, "a/0", true);
        assert_eq!(disorder(&story.0), ["t@b[0]: a/0 by member 2, 2 was due"]);

        let mut story = Story::done(1, &["a/0", "b/0", "a/1"]);
        story.0.push(Event::Crashed { member: 1 });
        for item in ["a/0", "b/0", "a/1", "a/2"] {
            story.call(2, 0, item, true);
        }
        assert_eq!(disorder(&story.0), [""; 0], "a crash repeats a suffix, of every key");
        story.call(2, 0, "a/2", true);
        assert_eq!(disorder(&story.0).len(), 1, "once");

        let mut story = Story::done(1, &["a/0", "a/1"]);
        story.0.push(Event::Crashed { member: 1 });
        story.call(2, 0, "a/0", true);
        story.call(2, 0, "a/2", true);
        assert_eq!(disorder(&story.0), ["t@b[0]: a/2 by member 2, 1 was skipped"]);
    }

    #[test]
    fn what_failed_may_come_again() {
        let mut story = Story::done(1, &["a/0"]);
        story.call(1, 0, "a/1", false);
        story.call(1, 0, "a/1", true);
        story.call(1, 0, "a/2", true);
        assert_eq!(disorder(&story.0), [""; 0]);
        story.call(1, 0, "a/2", true);
        assert_eq!(disorder(&story.0).len(), 1);
    }

    #[test]
    fn a_crash_elsewhere_excuses_nothing() {
        let mut story = Story::done(1, &["a/0", "a/1"]);
        story.call(2, 1, "b/0", true);
        story.0.push(Event::Crashed { member: 2 });
        story.call(1, 0, "a/1", true);
        assert_eq!(disorder(&story.0).len(), 1);
    }
}
