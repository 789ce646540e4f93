//! Counters of what goes in and out, and their history: verb 315 and the rates in other answers.
//! Not here: who counts (`send.rs`, `pull.rs`, `retry.rs`), what the answers look like.
//!
//! A topic's own counters are its queues: their lengths, and the bytes that the indexer adds up. So
//! a send counts once per burst, for the broker, and a pull that finds messages once. Every ten
//! seconds all counters are looked at, and what they were is kept for a minute, an hour and a day.
//!
//! Invariants: counters only grow while the broker runs; counting is a relaxed add; a history has a
//! bounded number of samples, and there is a bounded number of histories.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use mq_core::clock::Clock;
use mq_core::protocol::body::{BrokerStatsData, BrokerStatsItem, to_json};
use mq_core::protocol::command::Command;
use mq_core::protocol::header::BrokerStatsDataRequest;

use crate::broker::Broker;
use crate::catalog::illegal;
use crate::dispatch::{Answer, Handled};

/// Time between two looks at the counters.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);
/// Pairs of group and topic that are counted, and histories that are kept: names come from peers.
const PAIRS_MAX: usize = 100_000;
const HISTORIES_MAX: usize = 40_000;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Messages stored in a topic.
    TopicPut,
    /// Messages given to a group of a topic; the key is `topic@group`.
    GroupGet,
    /// Messages that a group of a topic sent back.
    SentBack,
    /// Messages that clients sent to this broker.
    BrokerPut,
    /// Messages that this broker gave.
    BrokerGet,
    /// Pulls that found something, and those that did not.
    Found,
    Missed,
}

/// How often something happened, and how much it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) times: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counter {
    messages: AtomicU64,
    bytes: AtomicU64,
    times: AtomicU64,
}

impl Counter {
    pub(crate) fn add(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            times: self.times.load(Ordering::Relaxed),
        }
    }
}

/// What a group took from a topic, and gave back.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) got: Counter,
    pub(crate) sent_back: Counter,
}

/// All counters.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) started_ms: i64,
    pub(crate) put: Counter,
    pub(crate) got: Counter,
    pub(crate) missed: Counter,
    /// By group and topic.
    taken: RwLock<Pairs>,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct Pairs {
    groups: HashMap<String, HashMap<String, Arc<Taken>>>,
    count: usize,
    /// What is over the limit is counted here, and nobody asks for it.
    others: Arc<Taken>,
}

#[derive(Debug, Default)]
struct History {
    looked_ms: i64,
    days: Days,
    items: HashMap<(Kind, String), Series>,
}

/// Messages put and given before a day began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Days {
    day: i64,
    pub(crate) put: (u64, u64),
    pub(crate) got: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ms: i64,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Series {
    minute: VecDeque<Sample>,
    hour: VecDeque<Sample>,
    day: VecDeque<Sample>,
}

impl Series {
    fn push(&mut self, sample: Sample) {
        keep(&mut self.minute, sample, 0, MINUTE_MS);
        keep(&mut self.hour, sample, 10 * MINUTE_MS, HOUR_MS);
        keep(&mut self.day, sample, HOUR_MS, DAY_MS);
    }
}

/// Adds a sample that is `apart` from the last, and drops those that are too old. The newest of the
/// old stays: the time is measured from it.
fn keep(samples: &mut VecDeque<Sample>, sample: Sample, apart_ms: i64, window_ms: i64) {
    if samples.back().is_some_and(|last| sample.at_ms - last.at_ms < apart_ms) {
        return;
    }
    samples.push_back(sample);
    while samples.get(1).is_some_and(|second| sample.at_ms - second.at_ms >= window_ms) {
        samples.pop_front();
    }
}

impl Stats {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self {
            started_ms: clock.now_ms(),
            put: Counter::default(),
            got: Counter::default(),
            missed: Counter::default(),
            taken: RwLock::default(),
            history: Mutex::default(),
        }
    }

    /// The counters of a group and a topic.
    pub(crate) fn taken(&self, group: &str, topic: &str) -> Arc<Taken> {
        if let Some(known) = self.known(group, topic) {
            return known;
        }
        let mut pairs = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        if pairs.count >= PAIRS_MAX {
            return Arc::clone(&pairs.others);
        }
        pairs.count += 1;
        let topics = pairs.groups.entry(group.to_owned()).or_default();
        Arc::clone(topics.entry(topic.to_owned()).or_default())
    }

    fn known(&self, group: &str, topic: &str) -> Option<Arc<Taken>> {
        let pairs = self.taken.read().unwrap_or_else(PoisonError::into_inner);
        pairs.groups.get(group)?.get(topic).cloned()
    }

    /// A topic is gone.
    pub(crate) fn forget(&self, topic: &str) {
        let mut pairs = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        pairs.groups.values_mut().for_each(|topics| drop(topics.remove(topic)));
        pairs.tidy();
    }

    /// A group is gone.
    pub(crate) fn forget_group(&self, group: &str) {
        let mut pairs = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        pairs.groups.remove(group);
        pairs.tidy();
    }

    /// Messages before today and before yesterday.
    pub(crate) fn days(&self) -> Days {
        self.history().days
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pairs {
    fn tidy(&mut self) {
        self.groups.retain(|_, topics| !topics.is_empty());
        self.count = self.groups.values().map(HashMap::len).sum();
    }
}

impl Broker {
    /// Looks at all counters.
    pub(crate) fn look_at_counters(&self) {
        let now_ms = self.clock.now_ms();
        let items = self.counted();
        let mut history = self.stats.history();
        history.days.turn(now_ms, self.stats.put.totals(), self.stats.got.totals());
        history.take(now_ms, items);
    }

    /// Everything that was counted so far.
    fn counted(&self) -> HashMap<(Kind, String), Totals> {
        let mut items = HashMap::new();
        for topic in self.store.queues.topics() {
            let totals = self.total(Kind::TopicPut, &topic).unwrap_or_default();
            items.insert((Kind::TopicPut, topic), totals);
        }
        let pairs = self.stats.taken.read().unwrap_or_else(PoisonError::into_inner);
        for (group, topics) in &pairs.groups {
            for (topic, taken) in topics {
                let key = format!("{topic}@{group}");
                items.insert((Kind::SentBack, key.clone()), taken.sent_back.totals());
                items.insert((Kind::GroupGet, key), taken.got.totals());
            }
        }
        drop(pairs);
        for kind in [Kind::BrokerPut, Kind::BrokerGet, Kind::Found, Kind::Missed] {
            let totals = self.total(kind, "").unwrap_or_default();
            items.insert((kind, String::new()), totals);
        }
        items.retain(|_, totals| *totals != Totals::default());
        items
    }

    /// What was counted so far of one thing; `None` when there is no such thing.
    fn total(&self, kind: Kind, key: &str) -> Option<Totals> {
        let taken = |key: &str| {
            let (topic, group) = key.split_once('@')?;
            self.stats.known(group, topic)
        };
        let pulls = |counter: &Counter| {
            let times = counter.totals().times;
            Totals { messages: times, bytes: 0, times }
        };
        match kind {
            Kind::TopicPut => {
                let (messages, bytes) = self.store.queues.total(key)?;
                Some(Totals { messages, bytes, times: messages })
            }
            Kind::GroupGet => taken(key).map(|taken| taken.got.totals()),
            Kind::SentBack => taken(key).map(|taken| taken.sent_back.totals()),
            Kind::BrokerPut => Some(self.stats.put.totals()),
            Kind::BrokerGet => Some(self.stats.got.totals()),
            Kind::Found => Some(pulls(&self.stats.got)),
            Kind::Missed => Some(pulls(&self.stats.missed)),
        }
    }

    /// Messages a second of the last minute.
    pub(crate) fn tps(&self, kind: Kind, key: &str) -> f64 {
        self.measured(kind, key).map_or(0.0, |[minute, ..]| minute.rate(|totals| totals.messages))
    }

    /// Minute, hour and day of one thing.
    pub(crate) fn measured(&self, kind: Kind, key: &str) -> Option<[Span; 3]> {
        let totals = self.total(kind, key)?;
        let now = Sample { at_ms: self.clock.now_ms(), totals };
        Some(self.stats.history().spans(kind, key, now, self.stats.started_ms))
    }
}

impl Days {
    fn turn(&mut self, now_ms: i64, put: Totals, got: Totals) {
        let day = now_ms.div_euclid(DAY_MS);
        if self.day != 0 && day > self.day {
            self.put = (self.put.1, put.messages);
            self.got = (self.got.1, got.messages);
        }
        self.day = day;
    }
}

impl History {
    fn take(&mut self, at_ms: i64, items: HashMap<(Kind, String), Totals>) {
        self.items.retain(|item, _| items.contains_key(item));
        for (item, totals) in items {
            // What is met for the first time was not there at the look before.
            let looked_ms = self.looked_ms;
            if let Some(series) = self.items.get_mut(&item) {
                series.push(Sample { at_ms, totals });
            } else if self.items.len() < HISTORIES_MAX {
                let mut series = Series::default();
                if looked_ms > 0 {
                    series.push(Sample { at_ms: looked_ms, totals: Totals::default() });
                }
                series.push(Sample { at_ms, totals });
                self.items.insert(item, series);
            }
        }
        self.looked_ms = at_ms;
    }

    fn spans(&self, kind: Kind, key: &str, now: Sample, started_ms: i64) -> [Span; 3] {
        let key = match kind {
            Kind::TopicPut | Kind::GroupGet | Kind::SentBack => key,
            _ => "",
        };
        let series = self.items.get(&(kind, key.to_owned()));
        let looked_ms = if self.looked_ms > 0 { self.looked_ms } else { started_ms };
        let unseen = Sample { at_ms: looked_ms, totals: Totals::default() };
        let span = |samples: Option<&VecDeque<Sample>>| Span {
            from: samples.and_then(|s| s.front().copied()).unwrap_or(unseen),
            to: now,
        };
        [
            span(series.map(|series| &series.minute)),
            span(series.map(|series| &series.hour)),
            span(series.map(|series| &series.day)),
        ]
    }
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    from: Sample,
    to: Sample,
}

impl Span {
    fn sum(&self, of: impl Fn(&Totals) -> u64) -> u64 {
        of(&self.to.totals).saturating_sub(of(&self.from.totals))
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
    pub(crate) fn rate(&self, of: impl Fn(&Totals) -> u64) -> f64 {
        let ms = (self.to.at_ms - self.from.at_ms).max(1);
        self.sum(of) as f64 * 1_000.0 / ms as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "an average is for people")]
    fn item(&self, of: impl Fn(&Totals) -> u64) -> BrokerStatsItem {
        let (sum, times) = (self.sum(&of), self.sum(|totals| totals.times));
        let avgpt = if times == 0 { 0.0 } else { sum as f64 / times as f64 };
        let tps = self.rate(&of);
        BrokerStatsItem { sum: i64::try_from(sum).unwrap_or(i64::MAX), tps, avgpt }
    }
}

/// One number of the totals.
type Measure = fn(&Totals) -> u64;

/// What a name of RocketMQ's statistics counts here.
fn named(name: &str) -> Option<(Kind, Measure)> {
    let messages: Measure = |totals| totals.messages;
    let bytes: Measure = |totals| totals.bytes;
    Some(match name {
        "TOPIC_PUT_NUMS" => (Kind::TopicPut, messages),
        "TOPIC_PUT_SIZE" => (Kind::TopicPut, bytes),
        "GROUP_GET_NUMS" => (Kind::GroupGet, messages),
        "GROUP_GET_SIZE" => (Kind::GroupGet, bytes),
        "SNDBCK_PUT_NUMS" => (Kind::SentBack, messages),
        "BROKER_PUT_NUMS" => (Kind::BrokerPut, messages),
        "BROKER_GET_NUMS" => (Kind::BrokerGet, messages),
        _ => return None,
    })
}

/// 315: a counter's last minute, hour and day.
pub(crate) fn view(broker: &Arc<Broker>, request: &Command) -> Handled {
    let header: BrokerStatsDataRequest<'_> = request.decode_header()?;
    let (name, key) = (header.stats_name, header.stats_key);
    let spans = named(name).and_then(|(kind, of)| Some((broker.measured(kind, key)?, of)));
    let Some(([minute, hour, day], of)) = spans else {
        return Err(illegal(format!("The stats <{name}> <{key}> not exist")));
    };
    let body = BrokerStatsData {
        stats_minute: minute.item(of),
        stats_hour: hour.item(of),
        stats_day: day.item(of),
    };
    Ok(Answer::Now(Command::success(request).body(to_json(&body))))
}
