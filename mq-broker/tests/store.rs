//! The store through its public face, on real files: append, read, index, query, close and open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::store::sim_disk::SimDisk;
use mq_broker::store::{Appended, FlushMode, OsDisk, Recovery, Store, StoreError, StoreOptions};
use mq_core::clock::Clock;
use mq_core::properties::java_hash;
use mq_core::protocol::record::{NewRecord, Record, Verify, sys_flag};

fn record<'a>(topic: &'a str, queue_id: i32, body: &'a [u8], properties: &'a str) -> NewRecord<'a> {
    let host = SocketAddr::from(([10, 0, 0, 1], 10_911));
    NewRecord {
        topic,
        queue_id,
        flag: 0,
        sys_flag: 0,
        born_timestamp_ms: 1,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
    }
}

fn options(dir: &tempfile::TempDir) -> StoreOptions {
    StoreOptions {
        root: dir.path().join("store"),
        segment_bytes: 64 << 10,
        queue_file_bytes: 2000,
        index_slots: 100,
        index_entries: 500,
        ..StoreOptions::default()
    }
}

fn open(options: &StoreOptions, clock: &Clock) -> (Store, Recovery) {
    Store::open(Arc::new(OsDisk), options.clone(), clock.clone()).expect("the store works")
}

fn settle(store: &Store) {
    while store.flush_step().expect("the store works") {}
    while store.index_step().expect("the store works") {}
}

#[test]
fn what_is_appended_is_read_found_and_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let (clock, hand) = Clock::manual(1_700_000_000_000);
    let (store, report) = open(&options, &clock);
    assert!(report.clean);
    let mut appended = Vec::new();
    for n in 0..500_u32 {
        let body = vec![n as u8; n as usize];
        let tags = n % 3;
        let properties =
            format!("TAGS\u{1}t{tags}\u{2}KEYS\u{1}a{n} b{n}\u{2}UNIQ_KEY\u{1}U{n}\u{2}");
        let record = record(topic_of(n), (n % 5) as i32, &body, &properties);
        appended.extend(store.log.append(&[record]).unwrap());
        hand.advance(Duration::from_millis(10));
        store.prefill_step().unwrap();
    }
    assert_eq!(store.log.readable(), 0, "nothing is seen before it is synced");
    settle(&store);
    check(&store, &appended);
    store.close().unwrap();
    let refused = store.log.append(&[record("even", 0, b"", "")]);
    assert!(matches!(refused, Err(StoreError::Poisoned(_))));
    drop(store);
    let (store, report) = open(&options, &clock);
    assert!(report.clean, "{report:?}");
    assert_eq!(report.records, 0);
    check(&store, &appended);
    let next = store.log.append(&[record("even", 0, b"more", "")]).unwrap();
    assert_eq!(next[0].queue_offset, 50);
    assert_eq!(next[0].physical_offset.cast_unsigned(), appended.last().unwrap().end());
}

fn topic_of(n: u32) -> &'static str {
    if n.is_multiple_of(2) { "even" } else { "odd" }
}

fn check(store: &Store, appended: &[Appended]) {
    for (n, at) in (0_u32..).zip(appended) {
        let bytes =
            store.log.read_record_at(at.physical_offset.cast_unsigned()).expect("the store works");
        let (record, size) = Record::decode(&bytes, Verify::Whole).expect("the store works");
        assert_eq!((size, record.body), (at.size as usize, &vec![n as u8; n as usize][..]));
        let topic = topic_of(n);
        let queue = store.queues.queue(topic, (n % 5) as i32).expect("the store works");
        let entry = queue.read(at.queue_offset, 1).expect("the store works")[0];
        assert_eq!((entry.physical_offset, entry.size as u32), (at.physical_offset, at.size));
        assert_eq!(entry.tags_code, i64::from(java_hash(&format!("t{}", n % 3))));
        for key in [format!("a{n}"), format!("b{n}"), format!("U{n}")] {
            let found = store.index.query(topic, &key, 10, 0, i64::MAX).expect("the store works");
            assert!(found.contains(&at.physical_offset), "{key} {found:?}");
        }
        let stored_ms = record.store_timestamp_ms;
        assert_eq!(
            queue.search_time(&store.log, stored_ms).expect("the store works"),
            at.queue_offset
        );
        assert_eq!(
            queue.search_time(&store.log, stored_ms + 1).expect("the store works"),
            at.queue_offset + 1
        );
    }
    assert_eq!(store.queues.queue("even", 0).expect("the store works").max_offset(), 50);
}

#[test]
fn a_burst_is_contiguous_and_may_be_larger_than_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { flush: FlushMode::Async, ..options(&dir) };
    let (store, _) = open(&options, &Clock::System);
    let body = [7; 1000];
    let burst: Vec<_> = (0..200).map(|_| record("t", 0, &body, "")).collect();
    let appended = store.log.append(&burst).unwrap();
    let offsets: Vec<_> = appended.iter().map(|at| at.queue_offset).collect();
    assert_eq!(offsets, (0..200).collect::<Vec<_>>());
    settle(&store);
    assert_eq!(store.queues.queue("t", 0).unwrap().max_offset(), 200);
    let too_big = vec![0; 64 << 10];
    let refused = store.log.append(&[record("t", 0, b"", ""), record("t", 0, &too_big, "")]);
    assert!(matches!(refused, Err(StoreError::Illegal(_))));
    assert_eq!(store.log.next_queue_offset("t", 0), 200, "a refused burst leaves no trace");
}

#[test]
fn half_and_rollback_records_are_in_no_queue() {
    use sys_flag::{TRANSACTION_COMMIT, TRANSACTION_PREPARED, TRANSACTION_ROLLBACK};
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&options(&dir), &Clock::System);
    for flag in [TRANSACTION_PREPARED, TRANSACTION_ROLLBACK, 0, TRANSACTION_COMMIT] {
        let record = record("t", 0, b"", "UNIQ_KEY\u{1}k\u{2}");
        store.log.append(&[NewRecord { sys_flag: flag, ..record }]).unwrap();
    }
    settle(&store);
    assert_eq!(store.queues.queue("t", 0).unwrap().max_offset(), 2);
    let found = store.index.query("t", "k", 9, 0, i64::MAX).unwrap();
    assert_eq!(found.len(), 3, "all but the rollback");
}

#[test]
fn a_delayed_message_carries_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, _hand) = Clock::manual(5_000);
    let (store, _) = open(&options(&dir), &clock);
    for level in ["3", "99", "0"] {
        let properties = format!("DELAY\u{1}{level}\u{2}TAGS\u{1}x\u{2}");
        store.log.append(&[record("SCHEDULE_TOPIC_XXXX", 2, b"", &properties)]).unwrap();
    }
    settle(&store);
    let entries = store.queues.queue("SCHEDULE_TOPIC_XXXX", 2).unwrap().read(0, 9).unwrap();
    let codes: Vec<_> = entries.iter().map(|entry| entry.tags_code).collect();
    assert_eq!(codes, [15_000, 7_205_000, i64::from(java_hash("x"))]);
}

#[test]
fn names_that_lead_out_of_the_store_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&options(&dir), &Clock::System);
    for topic in ["", "..", "a/b", "/", "a\0"] {
        let refused = store.log.append(&[record(topic, 0, b"", "")]);
        assert!(matches!(refused, Err(StoreError::Illegal(_))), "{topic:?}");
        assert!(matches!(store.queues.queue_or_create(topic, 0), Err(StoreError::Illegal(_))));
    }
    assert!(matches!(store.log.append(&[record("t", -1, b"", "")]), Err(StoreError::Illegal(_))));
    store.log.append(&[record("%RETRY%a|b", 0, b"", "")]).unwrap();
    settle(&store);
    assert_eq!(store.queues.queue("%RETRY%a|b", 0).unwrap().max_offset(), 1);
}

#[test]
fn a_store_is_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    let (_store, _) = open(&options, &Clock::System);
    let second = Store::open(Arc::new(OsDisk), options, Clock::System);
    assert!(matches!(second, Err(StoreError::Locked { .. })), "{second:?}");
}

#[test]
fn positions_outside_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&options(&dir), &Clock::System);
    store.log.append(&[record("t", 0, b"body", "")]).unwrap();
    assert!(matches!(store.log.read(0, 10), Err(StoreError::OutOfRange { .. })), "not synced yet");
    settle(&store);
    assert_eq!(store.log.read(0, 10).unwrap().len(), 10);
    assert!(matches!(store.log.read(1000, 10), Err(StoreError::OutOfRange { .. })));
    let amid = store.log.read_record_at(1);
    assert!(matches!(amid, Err(StoreError::Corrupt { .. } | StoreError::OutOfRange { .. })));
    let queue = store.queues.queue("t", 0).unwrap();
    assert_eq!(queue.read(1, 10).unwrap(), []);
    let behind = queue.read(2, 10);
    assert!(matches!(behind, Err(StoreError::OutOfRange { at: 2, from: 0, to: 1 })));
    assert!(matches!(queue.read(-1, 10), Err(StoreError::OutOfRange { .. })));
}

#[test]
fn more_queues_than_files_may_be_open() {
    const QUEUES: usize = 2500;
    let disk = SimDisk::new();
    let options = StoreOptions {
        root: "/store".into(),
        flush: FlushMode::Async,
        segment_bytes: 1 << 20,
        queue_file_bytes: 2000,
        index_slots: 100,
        index_entries: 500,
        ..StoreOptions::default()
    };
    let reopen = || Store::open(Arc::new(disk.clone()), options.clone(), Clock::System).unwrap();
    let topics: Vec<_> = (0..QUEUES).map(|n| format!("topic-{n}")).collect();
    let (store, _) = reopen();
    for _ in 0..2 {
        let burst: Vec<_> = topics.iter().map(|topic| record(topic, 0, b"x", "")).collect();
        store.log.append(&burst).unwrap();
        settle(&store);
    }
    store.close().unwrap();
    drop(store);
    // What was closed on the way was synced all the same.
    disk.crash(7);
    let (store, report) = reopen();
    assert!(report.clean, "{report:?}");
    for topic in &topics {
        let queue = store.queues.queue(topic, 0).unwrap();
        assert_eq!(queue.read(0, 9).unwrap().len(), 2, "{topic}");
    }
}

#[test]
fn a_full_disk_delays_and_loses_nothing() {
    let disk = SimDisk::new();
    let options = StoreOptions {
        root: "/store".into(),
        segment_bytes: 4096,
        queue_file_bytes: 400,
        index_slots: 100,
        index_entries: 500,
        ..StoreOptions::default()
    };
    let (store, _) = Store::open(Arc::new(disk.clone()), options, Clock::System).unwrap();
    let body = [1; 1000];
    let message = || record("t", 0, &body, "KEYS\u{1}k\u{2}");
    let first = store.log.append(&[message()]).unwrap()[0];
    disk.set_room(Some(0));
    let mut appended = 1;
    while store.log.append(&[message()]).is_ok() {
        appended += 1;
    }
    assert_eq!(appended, 3, "what is reserved is used up");
    assert!(matches!(store.log.append(&[message()]), Err(StoreError::Full)));
    assert_eq!(store.log.next_queue_offset("t", 0), 3);
    while store.flush_step().unwrap() {}
    assert!(matches!(store.index_step(), Err(StoreError::Full)));
    let read = store.log.read_record_at(0).unwrap();
    assert_eq!(read.len(), first.size as usize, "reading goes on");
    disk.set_room(None);
    assert_eq!(store.log.append(&[message()]).unwrap()[0].queue_offset, 3);
    settle(&store);
    assert_eq!(store.queues.queue("t", 0).unwrap().max_offset(), 4);
    assert_eq!(store.index.query("t", "k", 9, 0, i64::MAX).unwrap().len(), 4);
    store.close().unwrap();
}

#[test]
fn a_failed_sync_ends_the_writing() {
    let disk = SimDisk::new();
    let options = StoreOptions { root: "/store".into(), ..StoreOptions::default() };
    let (store, _) = Store::open(Arc::new(disk.clone()), options, Clock::System).unwrap();
    let first = store.log.append(&[record("t", 0, b"safe", "")]).unwrap()[0];
    settle(&store);
    let second = store.log.append(&[record("t", 0, b"not safe", "")]).unwrap()[0];
    let waiting = store.log.flushed.clone();
    disk.fail_sync(1);
    assert!(matches!(store.flush_step(), Err(StoreError::Io { .. })));
    let told = waiting.wait_reached(second.end(), Duration::from_secs(9)).unwrap_err();
    assert!(told.0.contains("commitlog"), "{told}");
    assert!(matches!(store.flush_step(), Err(StoreError::Poisoned(_))), "never tried again");
    let refused = store.log.append(&[record("t", 0, b"", "")]);
    assert!(matches!(refused, Err(StoreError::Poisoned(_))));
    assert!(matches!(store.close(), Err(StoreError::Poisoned(_))));
    assert_eq!(store.log.flushed.get(), first.end());
    store.log.read_record_at(0).unwrap();
    let unsafe_at = second.physical_offset.cast_unsigned();
    assert!(matches!(store.log.read_record_at(unsafe_at), Err(StoreError::OutOfRange { .. })));
}
