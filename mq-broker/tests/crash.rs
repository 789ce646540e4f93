//! Power cuts, kills, failing and full disks against the store, seeded: append a little, crash,
//! recover, check; over and over on one store. A seed that fails is printed and repeats exactly:
//! `CRASH_SEED=n cargo test -p mq-broker --test crash`. `CRASH_CYCLES=n` runs longer than CI does.
//!
//! The rig is itself tried: a disk that lies about syncs of one kind must be caught, for each kind.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mq_broker::store::disk::{Disk, DiskFile, DiskLock, OpenMode, Space};
use mq_broker::store::sim_disk::{Rng, SimDisk};
use mq_broker::store::{Appended, FlushMode, Recovery, Store, StoreError, StoreOptions};
use mq_core::clock::{Clock, ManualClock};
use mq_core::protocol::record::{NewRecord, Record, Verify};

/// Crashes in a run of CI, over both flush modes.
const CYCLES: u64 = 10_000;
/// Crashes of one store before the next starts empty.
const CYCLES_PER_STORE: u64 = 8;
const SEGMENT_BYTES: u64 = 4096;
const TOPICS: [&str; 2] = ["orders", "stock"];
const QUEUES: i32 = 2;

/// What must hold was found not to; the text says what.
type Checked<T = ()> = Result<T, String>;

macro_rules! ensure {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}

fn options(flush: FlushMode) -> StoreOptions {
    StoreOptions {
        root: "/store".into(),
        flush,
        segment_bytes: SEGMENT_BYTES,
        queue_file_bytes: 200,
        index_slots: 16,
        index_entries: 40,
        ..StoreOptions::default()
    }
}

/// What the test knows of a message.
#[derive(Clone, Debug)]
struct Message {
    topic: &'static str,
    queue_id: i32,
    body: Vec<u8>,
    properties: String,
    /// Where it went; not known when the append failed, it may be there or not.
    at: Option<Appended>,
    /// Whether its sender was told that it is safe.
    acked: bool,
}

/// How the last life of the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The page cache went with it.
    PowerCut,
    /// The page cache stayed, and no sync had failed: nothing at all may be missing.
    Kill,
    Closed,
}

struct Rig {
    rng: Rng,
    sim: SimDisk,
    disk: Arc<dyn Disk>,
    clock: Clock,
    hand: ManualClock,
    flush: FlushMode,
    messages: Vec<Message>,
    end: End,
}

impl Rig {
    fn new(seed: u64, flush: FlushMode, lie: Option<Lie>) -> Self {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = match lie {
            None => Arc::new(sim.clone()),
            Some(lie) => Arc::new(Liar { disk: sim.clone(), lie }),
        };
        let (clock, hand) = Clock::manual(1_700_000_000_000);
        let rng = Rng::new(seed);
        Self { rng, sim, disk, clock, hand, flush, messages: Vec::new(), end: End::Closed }
    }

    /// A number of lives on one disk.
    fn run(&mut self) -> Checked {
        for _ in 0..CYCLES_PER_STORE {
            let (store, report) = self.open()?;
            self.check(&store, &report)?;
            self.live(&store)?;
            self.end(store)?;
        }
        let (store, report) = self.open()?;
        self.check(&store, &report)
    }

    /// Opens, and often loses the power or is killed on the way; that must not matter.
    fn open(&mut self) -> Checked<(Store, Recovery)> {
        let twice = self.rng.chance(20);
        while self.rng.chance(40) {
            self.sim.power_off_after(1 + self.rng.below(60));
            let opened = self.try_open();
            let kill = self.rng.chance(30);
            drop(opened);
            if kill {
                self.sim.kill();
            } else {
                self.cut_power();
            }
        }
        let (store, report) = self.try_open().map_err(|error| format!("does not open: {error}"))?;
        if !twice || report.clean {
            return Ok((store, report));
        }
        let first = self.content();
        drop(store);
        self.sim.kill();
        let (store, _) =
            self.try_open().map_err(|error| format!("not the second time: {error}"))?;
        let second = self.content();
        ensure!(first == second, "a second recovery changes {}", difference(&first, &second));
        Ok((store, report))
    }

    fn try_open(&self) -> Result<(Store, Recovery), StoreError> {
        Store::open(self.disk.clone(), options(self.flush), self.clock.clone())
    }

    /// All files but the mark, which counts its saves.
    fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut image = self.sim.image();
        image.remove(Path::new("/store/recovery-mark"));
        image
    }

    fn cut_power(&mut self) {
        self.sim.crash(self.rng.draw());
        self.end = End::PowerCut;
    }

    /// Does a few things, with a fault on the way more often than not.
    fn live(&mut self, store: &Store) -> Checked {
        match self.rng.below(8) {
            0 => self.sim.fail_sync(1 + self.rng.below(6)),
            1 => self.sim.fail_write(1 + self.rng.below(12)),
            2 => self.sim.set_room(Some(self.rng.below(12) * 4096)),
            3 | 4 => self.sim.power_off_after(1 + self.rng.below(40)),
            _ => {}
        }
        for _ in 0..1 + self.rng.below(12) {
            self.hand.advance(Duration::from_millis(self.rng.below(3000)));
            let stepped = match self.rng.below(10) {
                0..4 => self.append(store)?,
                4..6 => store.flush_step().map(|_| ()),
                6 | 7 => store.index_step().map(|_| ()),
                8 => store.checkpoint_step().map(|_| ()),
                _ => store.prefill_step().map(|_| ()),
            };
            self.acknowledge(store);
            match stepped {
                Ok(()) => {}
                Err(StoreError::Full) => self.check_full(store)?,
                Err(_) => return self.check_poisoned(store),
            }
        }
        self.sim.set_room(None);
        Ok(())
    }

    fn append(&mut self, store: &Store) -> Checked<Result<(), StoreError>> {
        let most = if self.rng.chance(10) { 40 } else { 4 };
        let count = 1 + self.rng.below(most);
        let burst: Vec<Message> = (0..count).map(|_| self.new_message()).collect();
        let records: Vec<_> = burst.iter().map(Message::record).collect();
        let before = store.log.appended.get();
        let appended = store.log.append(&records);
        ensure!(
            appended.is_ok() || store.log.appended.get() == before,
            "a failed append moved the log"
        );
        match appended {
            Ok(places) => {
                let acked = self.flush == FlushMode::Async;
                let placed = burst.into_iter().zip(places);
                self.messages.extend(placed.map(|(message, at)| Message {
                    at: Some(at),
                    acked,
                    ..message
                }));
                Ok(Ok(()))
            }
            // Nothing was written, so that nothing of it may ever be seen.
            Err(StoreError::Full) => Ok(Err(StoreError::Full)),
            Err(error) => {
                self.messages.extend(burst);
                Ok(Err(error))
            }
        }
    }

    fn new_message(&mut self) -> Message {
        let id = self.rng.draw();
        let mut body = format!("{id:016x}").into_bytes();
        let filling = if self.rng.chance(5) { 1500 } else { 120 };
        body.extend((0..self.rng.below(filling)).map(|n| n as u8));
        Message {
            topic: TOPICS[self.rng.below(TOPICS.len() as u64) as usize],
            queue_id: self.rng.below(QUEUES as u64) as i32,
            body,
            properties: format!("TAGS\u{1}t\u{2}KEYS\u{1}k{id:x}\u{2}UNIQ_KEY\u{1}u{id:x}\u{2}"),
            at: None,
            acked: false,
        }
    }

    /// Under sync flush a sender hears of it when the sync has covered its message.
    fn acknowledge(&mut self, store: &Store) {
        let flushed = store.log.flushed.get();
        for message in self.messages.iter_mut().rev().take(200) {
            message.acked |= message.at.is_some_and(|at| at.end() <= flushed);
        }
    }

    /// A full disk stops nothing for good: with room again the next append works.
    fn check_full(&mut self, store: &Store) -> Checked {
        self.sim.set_room(None);
        let appended = self.append(store)?;
        ensure!(
            !matches!(appended, Err(StoreError::Full)),
            "still full when there is room: {appended:?}"
        );
        Ok(())
    }

    fn check_poisoned(&mut self, store: &Store) -> Checked {
        let flushed = store.log.flushed.get();
        let message = self.new_message();
        let again = store.log.append(&[message.record()]);
        self.messages.push(message);
        ensure!(
            matches!(again, Err(StoreError::Poisoned(_) | StoreError::Io { .. })),
            "an append after a failure gives {again:?}"
        );
        for _ in 0..3 {
            let _fails = store.flush_step();
        }
        ensure!(store.log.flushed.get() == flushed, "a sync after a failure is believed");
        Ok(())
    }

    fn end(&mut self, store: Store) -> Checked {
        if self.rng.chance(15) && store.close().is_ok() {
            self.acknowledge(&store);
            ensure!(
                self.messages.iter().all(|m| m.at.is_none() || m.acked),
                "closed, and not all is synced"
            );
            self.end = End::Closed;
            drop(store);
            // Nothing is left for a power cut to take.
            self.sim.crash(self.rng.draw());
        } else if self.rng.chance(30) {
            drop(store);
            self.sim.kill();
            self.end = End::Kill;
        } else {
            drop(store);
            self.cut_power();
        }
        self.sim.set_room(None);
        Ok(())
    }

    /// Compares the recovered store with what is known.
    fn check(&mut self, store: &Store, report: &Recovery) -> Checked {
        ensure!(report.damaged.is_empty(), "damage seen where there was none: {report:?}");
        ensure!(!report.rebuilt, "queues did not fit the log: {report:?}");
        let found = records_of(store)?;
        self.check_messages(store, &found)?;
        check_queues(store, &found)?;
        check_keys(store, &found)
    }

    /// All that was acknowledged is there as it was sent; what is there was sent; nothing is
    /// missing in between.
    fn check_messages(&mut self, store: &Store, found: &[Found]) -> Checked {
        let by_body: BTreeMap<&[u8], &Found> =
            found.iter().map(|found| (&found.body[..], found)).collect();
        ensure!(by_body.len() == found.len(), "a message is there twice");
        let end = store.log.appended.get();
        let async_cut = self.flush == FlushMode::Async && self.end == End::PowerCut;
        let mut known = 0;
        let mut kept = Vec::new();
        for mut message in std::mem::take(&mut self.messages) {
            let there = by_body.get(&message.body[..]);
            if let Some(at) = message.at.filter(|at| at.end() <= end) {
                ensure!(there.is_some(), "a hole at {} before the end {end}", at.physical_offset);
            }
            let Some(there) = there else {
                ensure!(!message.acked || async_cut, "acknowledged and lost: {message:?}");
                ensure!(self.end != End::Closed || message.at.is_none(), "closed and lost");
                continue;
            };
            known += 1;
            let place = (there.at.physical_offset, there.at.queue_offset);
            let moved = message.at.is_some_and(|at| (at.physical_offset, at.queue_offset) != place);
            ensure!(!moved, "{message:?} is at {place:?}");
            let same = (&*there.topic, there.queue_id, &*there.properties)
                == (message.topic, message.queue_id, &*message.properties);
            ensure!(same, "{message:?} is {there:?}");
            message.at = Some(there.at);
            // What a consumer may have seen must stay.
            message.acked = true;
            kept.push(message);
        }
        ensure!(known == found.len(), "{} messages that nobody sent", found.len() - known);
        self.messages = kept;
        Ok(())
    }
}

impl Message {
    fn record(&self) -> NewRecord<'_> {
        let host = SocketAddr::from(([127, 0, 0, 1], 10_911));
        NewRecord {
            topic: self.topic,
            queue_id: self.queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: &self.body,
            properties: &self.properties,
        }
    }
}

/// A record of the log.
#[derive(Debug)]
struct Found {
    topic: String,
    queue_id: i32,
    body: Vec<u8>,
    /// Without the checksum.
    properties: String,
    store_timestamp_ms: i64,
    at: Appended,
}

/// Walks the log from its start; every byte up to its end must be accounted for.
fn records_of(store: &Store) -> Checked<Vec<Found>> {
    let mut found = Vec::new();
    let mut at = store.log.min_offset();
    let end = store.log.readable();
    ensure!(end == store.log.appended.get(), "readable {end} after a start");
    while at < end {
        let head = store.log.read(at, 8).map_err(|error| format!("at {at}: {error}"))?;
        if head[4..] == 0xCBD4_3194_u32.to_be_bytes() {
            at = at.next_multiple_of(SEGMENT_BYTES);
            continue;
        }
        let bytes = store.log.read_record_at(at).map_err(|error| error.to_string())?;
        let (record, size) =
            Record::decode(&bytes, Verify::Whole).map_err(|error| error.to_string())?;
        let properties = record.properties.split("__CRC32#").next().unwrap_or_default();
        found.push(Found {
            topic: record.topic.into(),
            queue_id: record.queue_id,
            body: record.body.into(),
            properties: properties.into(),
            store_timestamp_ms: record.store_timestamp_ms,
            at: Appended {
                physical_offset: record.physical_offset,
                queue_offset: record.queue_offset,
                size: size as u32,
            },
        });
        at += size as u64;
    }
    let in_order =
        found.windows(2).all(|two| two[0].store_timestamp_ms <= two[1].store_timestamp_ms);
    ensure!(in_order, "store timestamps fall");
    Ok(found)
}

/// Offsets are consecutive, the queues hold exactly the log, and the next offsets follow on.
fn check_queues(store: &Store, found: &[Found]) -> Checked {
    for topic in TOPICS {
        for queue_id in 0..QUEUES {
            let of_queue = found.iter().filter(|f| f.topic == topic && f.queue_id == queue_id);
            let expected: Vec<_> = of_queue.map(|found| found.at).collect();
            for (n, at) in (0..).zip(&expected) {
                ensure!(at.queue_offset == n, "{topic}/{queue_id}: {at:?} is number {n}");
            }
            let length = expected.len() as i64;
            let next = store.log.next_queue_offset(topic, queue_id);
            ensure!(next == length, "{topic}/{queue_id}: next {next}, and there are {length}");
            let Some(queue) = store.queues.queue(topic, queue_id) else {
                ensure!(length == 0, "{topic}/{queue_id} is gone");
                continue;
            };
            let entries = queue.read(0, usize::MAX).map_err(|error| error.to_string())?;
            let stored: Vec<_> =
                entries.iter().map(|e| (e.physical_offset, e.size as u32)).collect();
            let expected: Vec<_> =
                expected.iter().map(|at| (at.physical_offset, at.size)).collect();
            ensure!(stored == expected, "{topic}/{queue_id}: {stored:?}, in the log {expected:?}");
        }
    }
    Ok(())
}

fn check_keys(store: &Store, found: &[Found]) -> Checked {
    for message in found {
        let id = String::from_utf8_lossy(&message.body[..16]).into_owned();
        let id = id.trim_start_matches('0');
        for key in [format!("k{id}"), format!("u{id}")] {
            let offsets = store.index.query(&message.topic, &key, 1000, 0, i64::MAX);
            let offsets = offsets.map_err(|error| error.to_string())?;
            let at = message.at.physical_offset;
            ensure!(offsets.contains(&at), "key {key} at {at} is not found: {offsets:?}");
        }
    }
    Ok(())
}

fn difference(a: &BTreeMap<PathBuf, Vec<u8>>, b: &BTreeMap<PathBuf, Vec<u8>>) -> String {
    let names = a.keys().chain(b.keys());
    let differ = names.filter(|name| a.get(*name) != b.get(*name));
    let sizes = |name| (a.get(name).map(Vec::len), b.get(name).map(Vec::len));
    let texts = differ.map(|name| format!("{} {:?}", name.display(), sizes(name)));
    texts.collect::<Vec<_>>().join(", ")
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs one store after the other; the first failure of a seed ends it.
fn run(flush: FlushMode, lie: Option<Lie>, stores: u64) -> Checked {
    let seeds = number("CRASH_SEED").map_or(0..stores, |seed| seed..seed + 1);
    for seed in seeds {
        let mut rig = Rig::new(seed, flush, lie);
        rig.run().map_err(|what| format!("{flush:?}, CRASH_SEED={seed}: {what}"))?;
    }
    Ok(())
}

fn stores() -> u64 {
    number("CRASH_CYCLES").unwrap_or(CYCLES) / 2 / CYCLES_PER_STORE
}

#[test]
fn sync_flush_loses_nothing_that_was_acknowledged() {
    if let Err(what) = run(FlushMode::Sync, None, stores()) {
        panic!("{what}");
    }
}

#[test]
fn async_flush_loses_at_most_the_end() {
    if let Err(what) = run(FlushMode::Async, None, stores()) {
        panic!("{what}");
    }
}

#[test]
fn a_lie_about_any_sync_is_caught() {
    for lie in [Lie::LogSync, Lie::LogEntries, Lie::QueueSync, Lie::IndexSync, Lie::RetriedSync] {
        let caught = run(FlushMode::Sync, Some(lie), stores());
        let what = caught.expect_err("the rig must catch it");
        println!("{lie:?} caught: {what}");
    }
}

/// A bug of the store, planted beneath it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Messages are acknowledged before they are synced.
    LogSync,
    /// The directory of the log is not synced when a file is new.
    LogEntries,
    /// Queues are said to be durable and are not.
    QueueSync,
    /// The key index is said to be durable and is not.
    IndexSync,
    /// A sync that failed is tried again and believed.
    RetriedSync,
}

/// A disk that does not do all it says.
#[derive(Debug)]
struct Liar {
    disk: SimDisk,
    lie: Lie,
}

impl Liar {
    fn lies_about(&self, path: &Path) -> bool {
        let part = match self.lie {
            Lie::LogSync | Lie::RetriedSync | Lie::LogEntries => "/store/commitlog",
            Lie::QueueSync => "/store/consumequeue",
            Lie::IndexSync => "/store/index",
        };
        path.starts_with(part)
    }
}

impl Disk for Liar {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if self.lie == Lie::LogEntries || !self.lies_about(path) {
            return Ok(file);
        }
        Ok(Arc::new(LyingFile { file, lie: self.lie }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if self.lie == Lie::LogEntries && self.lies_about(dir) {
            return Ok(());
        }
        self.disk.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.disk.space(path)
    }
}

#[derive(Debug)]
struct LyingFile {
    file: Arc<dyn DiskFile>,
    lie: Lie,
}

impl DiskFile for LyingFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.lie {
            Lie::RetriedSync => self.file.sync_data().or_else(|_| self.file.sync_data()),
            _ => Ok(()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.file.reserve(len)
    }
}
