//! Bytes that rot, files that vanish: what is hit is told apart from what is not, and nothing else
//! is lost. Every case starts from the same kind of store: messages in three queues, all
//! acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mq_broker::store::disk::{Disk, OpenMode};
use mq_broker::store::sim_disk::{Rng, SimDisk};
use mq_broker::store::{Appended, FlushMode, Recovery, Store, StoreError, StoreOptions};
use mq_core::clock::Clock;
use mq_core::protocol::record::{NewRecord, Record, Verify};

const SEGMENT_BYTES: u64 = 4096;
const QUEUES: i32 = 3;
const START_MS: u64 = 1_700_000_000_000;

fn options() -> StoreOptions {
    StoreOptions {
        root: "/store".into(),
        flush: FlushMode::Sync,
        segment_bytes: SEGMENT_BYTES,
        queue_file_bytes: 400,
        index_slots: 50,
        index_entries: 100,
        ..StoreOptions::default()
    }
}

fn try_open(disk: &SimDisk) -> Result<(Store, Recovery), StoreError> {
    let (clock, _hand) = Clock::manual(START_MS);
    Store::open(Arc::new(disk.clone()), options(), clock)
}

fn open(disk: &SimDisk) -> (Store, Recovery) {
    try_open(disk).expect("the store opens")
}

fn refusal(disk: &SimDisk) -> String {
    let error = try_open(disk).expect_err("the store must not open");
    assert!(matches!(error, StoreError::Corrupt { .. } | StoreError::Illegal(_)), "{error}");
    error.to_string()
}

fn body(n: usize) -> Vec<u8> {
    format!("message {n}").repeat(1 + n % 7).into_bytes()
}

fn append(store: &Store, n: usize) -> Appended {
    let host = SocketAddr::from(([127, 0, 0, 1], 10_911));
    let properties = format!("KEYS\u{1}k{n}\u{2}");
    let record = NewRecord {
        topic: "t",
        queue_id: n as i32 % QUEUES,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 0,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &body(n),
        properties: &properties,
    };
    store.log.append(&[record]).expect("it is appended")[0]
}

/// A store that was killed after its messages were synced, indexed and marked.
fn killed(count: usize) -> (SimDisk, Vec<Appended>) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let appended = (0..count).map(|n| append(&store, n)).collect();
    settle(&store);
    store.checkpoint_step().expect("the mark is saved");
    drop(store);
    disk.kill();
    (disk, appended)
}

fn closed(count: usize) -> (SimDisk, Vec<Appended>) {
    let disk = SimDisk::new();
    let (store, _) = open(&disk);
    let appended = (0..count).map(|n| append(&store, n)).collect();
    store.close().expect("it closes");
    drop(store);
    (disk, appended)
}

fn settle(store: &Store) {
    while store.flush_step().expect("it syncs") {}
    while store.index_step().expect("it indexes") {}
}

fn file_at(offset: u64) -> (PathBuf, u64) {
    let base = offset - offset % SEGMENT_BYTES;
    (PathBuf::from(format!("/store/commitlog/{base:020}")), offset - base)
}

fn rot(disk: &SimDisk, offset: u64, bytes: &[u8]) {
    let (file, at) = file_at(offset);
    disk.damage(&file, at, bytes).expect("the file is there");
}

/// All messages but the damaged ones are there with their offsets; those are told, and the queues
/// go on behind them.
fn check(store: &Store, appended: &[Appended], damaged: &[usize]) {
    for (n, at) in appended.iter().enumerate() {
        let physical = at.physical_offset.cast_unsigned();
        let read = store.log.read_record_at(physical);
        let queue = store.queues.queue("t", n as i32 % QUEUES).expect("the queue is there");
        if damaged.contains(&n) {
            assert!(matches!(read, Err(StoreError::Corrupt { .. })), "message {n}: {read:?}");
            // A queue whose first messages are damaged starts behind them.
            let entry = queue.read(at.queue_offset.max(queue.min_offset()), 1).expect("works")[0];
            let is_it = entry.is_hole() || entry.physical_offset == at.physical_offset;
            assert!(is_it || at.queue_offset < queue.min_offset(), "message {n}: {entry:?}");
            continue;
        }
        read.expect("a whole message is read");
        let entry = queue.read(at.queue_offset, 1).expect("it has an entry")[0];
        assert_eq!((entry.physical_offset, entry.size as u32), (at.physical_offset, at.size));
        let found = store.index.query("t", &format!("k{n}"), 9, 0, i64::MAX).expect("works");
        assert_eq!(found, [at.physical_offset], "key of message {n}");
    }
    for queue_id in 0..QUEUES {
        let of_queue = |n: &usize| *n as i32 % QUEUES == queue_id;
        let expected = (0..appended.len()).filter(of_queue).count() as i64;
        assert_eq!(store.log.next_queue_offset("t", queue_id), expected, "queue {queue_id}");
    }
}

#[test]
fn damage_below_the_mark_costs_exactly_what_it_hit() {
    for hit in [0, 1, 5, 20, 41, 58, 59] {
        for within in [0, 3, 4, 9, 30, 90, 120] {
            let (disk, appended) = killed(60);
            let at = appended[hit].physical_offset.cast_unsigned();
            rot(&disk, at + within, &[0x55]);
            let (store, report) = open(&disk);
            let range = at..appended[hit].end();
            assert_eq!(report.damaged.len(), 1, "{report:?}");
            assert_eq!(report.damaged[0].start, range.start);
            let next = appended.get(hit + 1).map_or(range.end, |n| n.physical_offset as u64);
            assert_eq!(report.damaged[0].end, next);
            check(&store, &appended, &[hit]);
            let more = append(&store, 60);
            assert_eq!(more.queue_offset, 20, "the offset of a damaged message is not given again");
            settle(&store);
            drop(store);
            disk.kill();
            // It is known by now, and stays what it is.
            let (store, report) = open(&disk);
            assert_eq!((report.damaged.len(), report.quarantined.len()), (0, 1));
            check(&store, &[&appended[..], &[more]].concat(), &[hit]);
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off() {
    let (disk, appended) = killed(20);
    let end = appended[19].end();
    for garbage in [&[1, 2, 3][..], &[0, 0, 1, 0, 0xDA, 0xA3, 0x20, 0xA7], &[0xFF; 700]] {
        rot(&disk, end + 4, garbage);
        let (store, report) = open(&disk);
        assert_eq!(report.truncated, Some(end..end + 4 + garbage.len() as u64));
        assert_eq!((report.damaged, report.scanned.end), (Vec::new(), end));
        check(&store, &appended, &[]);
        drop(store);
        disk.kill();
        let (file, at) = file_at(end);
        let image = disk.image();
        assert!(image[&file][at as usize..].iter().all(|byte| *byte == 0), "zeros behind the end");
    }
}

#[test]
fn a_valid_record_beyond_a_hole_above_the_mark_is_not_served() {
    let (disk, appended) = killed(20);
    let (store, _) = open(&disk);
    let lost = append(&store, 20);
    let beyond = append(&store, 21);
    drop(store);
    disk.kill();
    rot(&disk, lost.physical_offset.cast_unsigned() + 20, b"x");
    let (store, report) = open(&disk);
    assert_eq!(report.truncated.map(|range| range.start), Some(appended[19].end()));
    assert!(matches!(
        store.log.read_record_at(beyond.physical_offset.cast_unsigned()),
        Err(StoreError::OutOfRange { .. })
    ));
    check(&store, &appended, &[]);
}

#[test]
fn damage_in_the_last_messages_is_not_taken_for_a_torn_tail() {
    let (disk, appended) = killed(30);
    let at = appended[28].physical_offset.cast_unsigned();
    rot(&disk, at, &vec![0; (appended[29].end() - at) as usize]);
    let (store, report) = open(&disk);
    assert_eq!(report.damaged.first(), Some(&(at..appended[29].end())));
    assert_eq!((report.damaged.len(), report.truncated), (1, None));
    check(&store, &appended, &[28, 29]);
}

#[test]
fn a_log_file_that_is_missing_short_or_foreign_is_named() {
    let start = || killed(60).0;
    let name = |n: u64| format!("/store/commitlog/{:020}", n * SEGMENT_BYTES);
    for n in 0..3 {
        let disk = start();
        disk.remove(Path::new(&name(n))).expect("it was there");
        assert!(refusal(&disk).contains(&name(n)), "missing file {n}");
        let disk = start();
        let file = disk.open(Path::new(&name(n)), OpenMode::Write).expect("it is there");
        file.set_len(1000).expect("it can be cut");
        assert!(refusal(&disk).contains(&name(n)), "short file {n}");
    }
    let disk = start();
    disk.open(Path::new("/store/commitlog/notes.txt"), OpenMode::Create).expect("it is made");
    assert!(refusal(&disk).contains("notes.txt"));
    let disk = start();
    for name in disk.list(Path::new("/store/commitlog")).expect("it is there") {
        disk.remove(&Path::new("/store/commitlog").join(name)).expect("it was there");
    }
    assert!(refusal(&disk).contains(&name(0)));
    assert!(
        disk.exists(Path::new("/store/consumequeue/t/0")).expect("works"),
        "nothing is deleted"
    );
}

#[test]
fn queues_that_vanish_are_built_again() {
    let parts = ["/store/consumequeue/t/1", "/store/consumequeue"];
    for (part, disk_and_log) in parts.into_iter().zip([killed(60), closed(60)]) {
        let (disk, appended) = disk_and_log;
        let (store, _) = open(&disk);
        store.close().expect("it closes");
        drop(store);
        let before = queue_files(&disk);
        for file in before.keys().filter(|file| file.starts_with(part)) {
            disk.remove(file).expect("it was there");
        }
        let (store, report) = open(&disk);
        assert!(report.rebuilt);
        check(&store, &appended, &[]);
        assert_eq!(queue_files(&disk), before, "rebuilt must equal stored");
    }
}

#[test]
fn a_queue_file_of_yesterday_is_noticed() {
    let (disk, mut appended) = closed(30);
    let old = disk.image();
    let (store, _) = open(&disk);
    appended.extend((30..60).map(|n| append(&store, n)));
    store.close().expect("it closes");
    drop(store);
    let file = Path::new("/store/consumequeue/t/2/00000000000000000000");
    disk.damage(file, 0, &old[file]).expect("it is there");
    let (store, report) = open(&disk);
    assert!(report.rebuilt);
    check(&store, &appended, &[]);
}

fn queue_files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut image = disk.image();
    image.retain(|file, _| file.starts_with("/store/consumequeue"));
    image
}

#[test]
fn a_store_without_the_mark_is_scanned_whole() {
    let (disk, appended) = killed(60);
    disk.remove(Path::new("/store/recovery-mark")).expect("it was there");
    let (store, report) = open(&disk);
    assert_eq!((report.records, report.scanned.start), (60, 0));
    check(&store, &appended, &[]);
}

#[test]
fn changed_options_are_told() {
    let (disk, _) = closed(10);
    let changed = StoreOptions { segment_bytes: 8192, ..options() };
    let opened = Store::open(Arc::new(disk), changed, Clock::System);
    let error = opened.expect_err("the files have another size").to_string();
    assert!(error.contains("mappedFileSizeCommitLog"), "{error}");
}

#[test]
fn random_damage_is_survived_or_refused() {
    let mut opened = 0;
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let (disk, appended) = if rng.chance(50) { killed(40) } else { closed(40) };
        let files: Vec<_> = disk.image().into_iter().filter(|file| !file.1.is_empty()).collect();
        let (file, bytes) = &files[rng.below(files.len() as u64) as usize];
        let at = rng.below(bytes.len() as u64);
        let size = [1, 4, 512][rng.below(3) as usize].min(bytes.len() - at as usize);
        let fill = if rng.chance(50) { 0 } else { rng.draw() as u8 };
        disk.damage(file, at, &vec![fill; size]).expect("the file is there");
        let hit = |message: &Appended| {
            let (of, from) = file_at(message.physical_offset.cast_unsigned());
            *file == of && from < at + size as u64 && from + u64::from(message.size) > at
        };
        let what = format!("seed {seed}: {size} bytes of {} at {at}", file.display());
        match try_open(&disk) {
            Err(error) => {
                let told = matches!(error, StoreError::Corrupt { .. } | StoreError::Illegal(_));
                assert!(told, "{what}: {error}");
            }
            Ok((store, _)) => {
                opened += 1;
                for message in appended.iter().filter(|message| !hit(message)) {
                    let read = store.log.read_record_at(message.physical_offset.cast_unsigned());
                    assert!(read.is_ok(), "{what}: {message:?} {read:?}");
                }
                let next = append(&store, 40);
                settle(&store);
                let read = store.log.read_record_at(next.physical_offset.cast_unsigned());
                assert!(read.is_ok(), "{what}: the next message {read:?}");
                let _may_fail = store.queues.queue("t", 0).map(|queue| queue.read(0, 100));
                let _may_fail = store.index.query("t", "k1", 9, 0, i64::MAX);
            }
        }
    }
    assert!(opened > 450, "only {opened} of 600 stores opened");
}

#[test]
fn store_timestamps_do_not_fall_when_the_clock_is_set_back() {
    let (disk, appended) = killed(10);
    let (clock, _hand) = Clock::manual(1000);
    let (store, _) = Store::open(Arc::new(disk.clone()), options(), clock).expect("it opens");
    let next = append(&store, 10);
    settle(&store);
    let stored_ms = [appended[9], next].map(|at| {
        let bytes = store.log.read_record_at(at.physical_offset.cast_unsigned());
        let bytes = bytes.expect("it is there");
        Record::decode(&bytes, Verify::Whole).expect("it is whole").0.store_timestamp_ms
    });
    assert_eq!(stored_ms, [START_MS as i64; 2]);
}

/// A record as RocketMQ writes it: ours without the checksum of all bytes.
fn rocketmqs(bytes: &[u8]) -> Vec<u8> {
    let (record, size) = Record::decode(bytes, Verify::Whole).expect("it is whole");
    let properties = record.properties.len();
    let mut bytes = bytes[..size - 20].to_vec();
    let total = (size as u32 - 20).to_be_bytes();
    bytes[..4].copy_from_slice(&total);
    let at = size - properties - 2;
    bytes[at..at + 2].copy_from_slice(&(properties as u16 - 20).to_be_bytes());
    bytes
}

#[test]
fn what_rocketmq_has_appended_is_kept_and_what_is_torn_is_not() {
    for torn in [false, true] {
        let (disk, _) = killed(20);
        let (store, _) = open(&disk);
        let at = append(&store, 20);
        settle(&store);
        let physical = at.physical_offset.cast_unsigned();
        let ours = store.log.read_record_at(physical).expect("it is there");
        drop(store);
        disk.kill();
        // The mark does not know of it yet, as after a sudden end.
        if torn {
            rot(&disk, at.end() - 20, &[0; 20]);
        } else {
            let theirs = [&rocketmqs(&ours)[..], &[0; 20]].concat();
            rot(&disk, physical, &theirs);
        }
        let (store, report) = open(&disk);
        assert_eq!(report.records, if torn { 20 } else { 21 }, "{report:?}");
        let read = store.log.read_record_at(physical);
        assert_eq!(read.is_ok(), !torn, "{read:?}");
        assert_eq!(append(&store, 20).queue_offset, if torn { 6 } else { 7 });
        assert_eq!(store.queues.queue("t", 0).expect("it is there").max_offset(), 7);
    }
}
