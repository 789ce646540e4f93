//! A crash at every write and sync of a transaction's life: the half message, the decision, the
//! real message and its op message, the copy for a check, the progress that is kept.
//!
//! A script runs on the simulated disk until the power goes at its n-th operation, for every n and
//! several ways in which a cut can fall out. What was recovered must show no message without its
//! commit, and must show or still hold every message that was committed; after the producers were
//! asked, exactly the committed ones are visible. Bugs planted in the script must be caught.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mq_broker::store::sim_disk::SimDisk;
use mq_broker::store::table_file::TableFile;
use mq_broker::store::{FlushMode, Store, StoreError, StoreOptions};
use mq_broker::transaction::{Half, Place, Progress, QUEUE, Transactions, halve};
use mq_core::clock::Clock;
use mq_core::names::HALF_TOPIC;
use mq_core::properties::{Properties, key};
use mq_core::protocol::record::{NewRecord, Record, Verify};

const TOPIC: &str = "orders";
const GROUP: &str = "shop";
/// Ways in which one cut of the power falls out.
const SEEDS: u64 = 6;

/// What must hold was found not to; the text says what.
type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

/// A bug, planted between the broker and its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// The op message is stored before the real message.
    OpFirst,
    /// Progress is kept before what it stands for is synced.
    EarlyProgress,
    /// The half message is settled before its copy is stored.
    MovedFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerCut,
    Kill,
}

/// The broker's part, and what the producers know.
struct Rig {
    sim: SimDisk,
    flush: FlushMode,
    clock: Clock,
    bug: Option<Bug>,
    /// What each producer has decided, by the body; before that it does not know.
    decided: BTreeMap<u8, bool>,
    /// Half messages that are known to be safe.
    acknowledged: BTreeSet<u8>,
}

/// One life of the broker.
struct Life<'a> {
    rig: &'a mut Rig,
    store: Store,
    transactions: Transactions,
    kept: TableFile,
}

fn options(flush: FlushMode) -> StoreOptions {
    StoreOptions {
        root: "/store".into(),
        flush,
        segment_bytes: 4096,
        queue_file_bytes: 200,
        index_slots: 16,
        index_entries: 40,
        ..StoreOptions::default()
    }
}

impl Rig {
    fn new(flush: FlushMode, bug: Option<Bug>) -> Self {
        Self {
            sim: SimDisk::new(),
            flush,
            clock: Clock::manual(1_700_000_000_000).0,
            bug,
            decided: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    fn open(&mut self) -> Result<Life<'_>, StoreError> {
        let disk = Arc::new(self.sim.clone());
        let opened = Store::open(disk.clone(), options(self.flush), self.clock.clone());
        let (store, _) = opened?;
        let kept = TableFile::new(disk, PathBuf::from("/store/config/kept.json"));
        let (half, op) = kept.load::<(i64, i64)>()?.unwrap_or_default();
        let progress = Progress { half, op };
        let transactions = Transactions::open(&store, self.clock.clone(), progress)?;
        Ok(Life { rig: self, store, transactions, kept })
    }

    /// The power goes at the `nth` operation, or not at all; says whether it went.
    fn run(&mut self, nth: u64, end: End, seed: u64) -> Checked<bool> {
        self.sim.power_off_after(nth);
        let ran = self.open().and_then(|mut life| life.script());
        match end {
            End::PowerCut => self.sim.crash(seed),
            End::Kill => self.sim.kill(),
        }
        let may_lose = self.flush == FlushMode::Async && end == End::PowerCut;
        let mut life = self.open().map_err(|error| format!("does not open: {error}"))?;
        life.check(may_lose)?;
        life.ask_all().map_err(|error| format!("after the recovery: {error}"))?;
        life.check_outcome(may_lose)?;
        Ok(ran.is_err())
    }
}

impl Life<'_> {
    /// Transactions that are decided at once, after others, after a check, and never.
    fn script(&mut self) -> Result<(), StoreError> {
        for body in 1..=4 {
            self.prepare(body)?;
        }
        self.settle_down()?;
        self.decide(2, 2, true)?;
        self.decide(1, 1, false)?;
        self.settle_down()?;
        self.keep()?;
        self.prepare(5)?;
        self.settle_down()?;
        // 3, 4 and 5 are asked about; nobody knows yet.
        self.check_round()?;
        self.settle_down()?;
        self.decide(3, 3, true)?;
        self.keep()?;
        self.decide(4, 4, true)?;
        self.settle_down()?;
        self.keep()?;
        self.prepare(6)?;
        self.settle_down()?;
        self.decide(6, 6, true)?;
        self.check_round()?;
        self.settle_down()?;
        self.store.checkpoint_step()?;
        self.keep()
    }

    fn prepare(&mut self, body: u8) -> Result<(), StoreError> {
        let mut properties = Properties::default();
        properties.set(key::UNIQ_KEY, &format!("U{body}"));
        halve(&mut properties, TOPIC, 1, GROUP);
        let host = SocketAddr::from(([127, 0, 0, 1], 10_911));
        let half = NewRecord {
            topic: HALF_TOPIC,
            queue_id: QUEUE,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            // Long enough for several log files.
            body: &[body; 700],
            properties: properties.as_str(),
        };
        self.store.log.append(&[half])?;
        if self.rig.flush == FlushMode::Async {
            self.rig.acknowledged.insert(body);
            return Ok(());
        }
        self.store.flush_step()?;
        self.rig.acknowledged.insert(body);
        Ok(())
    }

    fn settle_down(&self) -> Result<(), StoreError> {
        self.store.flush_step()?;
        while self.store.index_step()? {}
        Ok(())
    }

    /// What the broker does every few seconds.
    fn keep(&mut self) -> Result<(), StoreError> {
        let progress = self.transactions.progress();
        if self.rig.bug != Some(Bug::EarlyProgress) {
            self.store.flush_step()?;
        }
        self.kept.save(&(progress.half, progress.op))
    }

    /// A producer decides, and tells it of the `nth` half message that there ever was.
    fn decide(&mut self, nth: i64, body: u8, commit: bool) -> Result<(), StoreError> {
        self.rig.decided.insert(body, commit);
        self.end(nth - 1, commit)
    }

    fn end(&self, offset: i64, commit: bool) -> Result<(), StoreError> {
        let Some(bytes) = self.half_at(offset)? else { return Ok(()) };
        let (record, _) = Record::decode(&bytes, Verify::Whole).expect("it was read whole");
        let half = Half::of(record).expect("a half message");
        let place = Place {
            topic: half.topic.to_owned(),
            queue_id: half.queue_id,
            properties: half.record.properties.to_owned(),
        };
        let real = commit.then(|| half.committed(&place));
        if self.rig.bug == Some(Bug::OpFirst) {
            self.transactions.decide(&self.store, &half, None)?;
            let appended = real.map(|real| self.store.log.append(&[real]));
            return appended.transpose().map(drop);
        }
        self.transactions.decide(&self.store, &half, real).map(drop)
    }

    fn half_at(&self, offset: i64) -> Result<Option<bytes::Bytes>, StoreError> {
        let Some(queue) = self.store.queues.queue(HALF_TOPIC, QUEUE) else { return Ok(None) };
        let entries = queue.read(offset, 1)?;
        let Some(entry) = entries.first() else { return Ok(None) };
        self.store.log.read_record_at(entry.physical_offset.cast_unsigned()).map(Some)
    }

    /// Every undecided half message is moved, and its producer says what it knows.
    fn check_round(&mut self) -> Result<(), StoreError> {
        for (offset, body) in self.undecided()? {
            let Some(bytes) = self.half_at(offset)? else { continue };
            let (record, _) = Record::decode(&bytes, Verify::Whole).expect("it was read whole");
            let half = Half::of(record).expect("a half message");
            let properties = half.properties_after(1);
            let copy = NewRecord { properties: properties.as_str(), ..half.record.copy() };
            if self.rig.bug == Some(Bug::MovedFirst) {
                self.transactions.decide(&self.store, &half, None)?;
                self.store.log.append(&[copy])?;
                continue;
            }
            let moved = self.transactions.replace(&self.store, &half, copy)?;
            self.settle_down()?;
            if let (Some((copy, _)), Some(commit)) = (moved, self.rig.decided.get(&body)) {
                self.end(copy.queue_offset, *commit)?;
            }
        }
        Ok(())
    }

    /// Offset and body of each.
    fn undecided(&self) -> Result<Vec<(i64, u8)>, StoreError> {
        let Some(queue) = self.store.queues.queue(HALF_TOPIC, QUEUE) else { return Ok(vec![]) };
        let mut found = Vec::new();
        let mut offset = self.transactions.next_open(queue.min_offset());
        while offset < queue.max_offset() {
            if let Some(bytes) = self.half_at(offset)? {
                let (record, _) = Record::decode(&bytes, Verify::Whole).expect("read whole");
                found.push((offset, record.body[0]));
            }
            offset = self.transactions.next_open(offset + 1);
        }
        Ok(found)
    }

    /// The bodies that consumers can see, each as often as it is there.
    fn visible(&self) -> Checked<Vec<u8>> {
        let Some(queue) = self.store.queues.queue(TOPIC, 1) else { return Ok(Vec::new()) };
        let entries = queue.read(0, usize::MAX).map_err(|error| error.to_string())?;
        let mut bodies = Vec::new();
        for entry in entries {
            let at = entry.physical_offset.cast_unsigned();
            let bytes = self.store.log.read_record_at(at).map_err(|error| error.to_string())?;
            let (record, _) =
                Record::decode(&bytes, Verify::Whole).map_err(|error| error.to_string())?;
            bodies.push(record.body[0]);
        }
        Ok(bodies)
    }

    /// Nothing is visible that was not committed; what was committed is visible or can still be.
    fn check(&self, may_lose: bool) -> Checked {
        let visible = self.visible()?;
        let undecided = self.undecided().map_err(|error| error.to_string())?;
        let held = |body: u8| undecided.iter().any(|half| half.1 == body);
        for body in &visible {
            let committed = self.rig.decided.get(body) == Some(&true);
            ensure!(committed, "{body} is visible and was not committed");
        }
        for body in &self.rig.acknowledged {
            let rolled_back = self.rig.decided.get(body) == Some(&false);
            let kept = visible.contains(body) || held(*body) || rolled_back;
            ensure!(kept || may_lose && self.was_cut_off(*body), "{body} is lost");
        }
        Ok(())
    }

    /// Where nobody waits for syncs a power cut takes the end of the log: whole transactions, never
    /// the message of one whose half message and op message stay.
    fn was_cut_off(&self, body: u8) -> bool {
        let queue = self.store.queues.queue(HALF_TOPIC, QUEUE);
        let end = queue.map_or(0, |queue| queue.max_offset());
        !(0..end).any(|offset| {
            let bytes = self.half_at(offset).ok().flatten();
            let decoded = bytes.as_ref().and_then(|b| Record::decode(b, Verify::Whole).ok());
            decoded.is_some_and(|(record, _)| record.body[0] == body)
        })
    }

    /// Producers that did not know decide to roll back, and all are asked.
    fn ask_all(&mut self) -> Result<(), StoreError> {
        for (_, body) in self.undecided()? {
            self.rig.decided.entry(body).or_insert(false);
        }
        self.rig.bug = None;
        self.check_round()?;
        self.settle_down()
    }

    fn check_outcome(&self, may_lose: bool) -> Checked {
        self.check(may_lose)?;
        let undecided = self.undecided().map_err(|error| error.to_string())?;
        ensure!(undecided.is_empty(), "undecided after all were asked: {undecided:?}");
        let visible = self.visible()?;
        for body in &visible {
            let times = visible.iter().filter(|other| *other == body).count();
            ensure!(times <= 2, "{body} is visible {times} times after one crash");
        }
        Ok(())
    }
}

/// Crashes at every operation of the script; gives how many there are.
fn every_crash(flush: FlushMode, bug: Option<Bug>) -> Checked<u64> {
    for nth in 1.. {
        let mut crashed = false;
        for (end, seeds) in [(End::PowerCut, SEEDS), (End::Kill, 1)] {
            for seed in 0..seeds {
                let told = |what| format!("{flush:?}, operation {nth}, {end:?}, {seed}: {what}");
                crashed |= Rig::new(flush, bug).run(nth, end, seed).map_err(told)?;
            }
        }
        if !crashed {
            return Ok(nth - 1);
        }
    }
    unreachable!("the script ends")
}

#[test]
fn a_crash_anywhere_shows_nothing_uncommitted_and_loses_nothing_committed() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        match every_crash(flush, None) {
            Ok(operations) => {
                println!("{flush:?}: crashes at {operations} operations");
                assert!(operations > 50, "{operations} operations");
            }
            Err(what) => panic!("{what}"),
        }
    }
}

#[test]
fn bugs_are_caught() {
    for bug in [Bug::OpFirst, Bug::EarlyProgress, Bug::MovedFirst] {
        let caught = [FlushMode::Sync, FlushMode::Async].map(|flush| every_crash(flush, Some(bug)));
        let caught: Vec<String> = caught.into_iter().filter_map(Result::err).collect();
        println!("{bug:?} caught: {caught:?}");
        assert!(!caught.is_empty(), "{bug:?} is not caught");
    }
}
