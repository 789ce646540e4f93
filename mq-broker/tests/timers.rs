//! A million messages that wait for instants of their own, and a broker that is stopped, killed and
//! cut off from power at random moments meanwhile: none leaves early, none is lost, and only a
//! crash repeats any.
#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::config::{BrokerConfig, Settings, Sources};
use mq_broker::store::Disk;
use mq_broker::store::sim_disk::{Rng, SimDisk};
use mq_broker::store::{Store, StoreOptions};
use mq_broker::{Broker, RunningBroker};
use mq_core::clock::{Clock, ManualClock};
use mq_core::names::TIMER_TOPIC;
use mq_core::protocol::header::{
    OffsetResponse, PullRequest, QueueRequest, SendRequest, SendRequestV2,
};
use mq_core::protocol::record::{NewRecord, Record, Verify, records};
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const BURST: usize = 2_000;
const START_MS: i64 = 1_700_000_000_000;
/// The instants lie in so much time.
const SPAN_MS: i64 = 3_600_000;
const RESTARTS: u32 = 12;
const TOPIC: &str = "t";
const LIMIT: Duration = Duration::from_secs(60);

fn config() -> BrokerConfig {
    let settings = BTreeMap::from([("storePathRootDir".to_owned(), "/store".to_owned())]);
    BrokerConfig::load(&Sources::pairs(&settings)).unwrap().config
}

fn open(disk: &SimDisk) -> Store {
    let options = StoreOptions { root: "/store".into(), ..StoreOptions::default() };
    let (clock, _hand) = Clock::manual(START_MS.unsigned_abs());
    Store::open(Arc::new(disk.clone()), options, clock).unwrap().0
}

fn waiting(number: u32, due_ms: i64) -> (Vec<u8>, String) {
    let properties =
        format!("REAL_TOPIC\u{1}{TOPIC}\u{2}REAL_QID\u{1}0\u{2}TIMER_OUT_MS\u{1}{due_ms}\u{2}");
    (number.to_be_bytes().to_vec(), properties)
}

/// Stores the messages as a broker stores them that took them; gives their instants.
fn fill(disk: &SimDisk, rng: &mut Rng, count: u32) -> Vec<i64> {
    let host = "127.0.0.1:1".parse().unwrap();
    let draw = |_| START_MS + 1 + rng.below(SPAN_MS.unsigned_abs()).cast_signed();
    let due: Vec<i64> = (0..count).map(draw).collect();
    let store = open(disk);
    for burst in (0..count).zip(&due).collect::<Vec<_>>().chunks(BURST) {
        let texts: Vec<_> = burst.iter().map(|(number, due)| waiting(*number, **due)).collect();
        let records: Vec<NewRecord<'_>> = texts
            .iter()
            .map(|(body, properties)| NewRecord {
                topic: TIMER_TOPIC,
                queue_id: 0,
                flag: 0,
                sys_flag: 0,
                born_timestamp_ms: START_MS,
                born_host: host,
                store_host: host,
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body,
                properties,
            })
            .collect();
        store.log.append(&records).unwrap();
    }
    store.close().unwrap();
    // Of the message that is sent last.
    due.into_iter().chain([START_MS + 2 * SPAN_MS]).collect()
}

/// How often each message was delivered. None may have been early.
fn delivered(disk: &SimDisk, due: &[i64]) -> Vec<u8> {
    let store = open(disk);
    let mut times = vec![0_u8; due.len()];
    let queue = store.queues.queue(TOPIC, 0).unwrap();
    let mut at = 0;
    while at < queue.max_offset() {
        let entries = queue.read(at, 1_000).unwrap();
        for entry in &entries {
            let size = usize::try_from(entry.size).unwrap();
            let bytes = store.log.read(entry.physical_offset.unsigned_abs(), size).unwrap();
            let (record, _) = Record::decode(&bytes, Verify::None).unwrap();
            let number = u32::from_be_bytes(record.body.try_into().unwrap()) as usize;
            let early = due[number] - record.store_timestamp_ms;
            assert!(early <= 0, "message {number} was {early} ms early");
            times[number] += 1;
        }
        at += i64::try_from(entries.len()).unwrap();
    }
    times
}

/// What ends a life of the broker.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Stop,
    Kill,
    PowerCut,
}

/// A broker, its time, and a way to it.
struct Life {
    running: RunningBroker,
    remote: Remote,
    hand: ManualClock,
}

impl Life {
    fn begin(disk: &SimDisk, now_ms: i64) -> Self {
        let (clock, hand) = Clock::manual(now_ms.unsigned_abs());
        let disk = Arc::new(disk.clone());
        let mut running = Broker::start(config(), clock, disk, Vec::new(), None).unwrap();
        let (inbound, _unread) = mpsc::channel(1);
        let remote = Remote::local(running.connect_on(&Handle::current()), inbound);
        Self { running, remote, hand }
    }

    /// Sends the message that is due last.
    async fn send_last(&self, number: u32) {
        let properties = format!("TIMER_DELIVER_MS\u{1}{}\u{2}", START_MS + 2 * SPAN_MS);
        let header = SendRequest {
            producer_group: "p",
            topic: TOPIC,
            default_topic: "TBW102",
            default_topic_queue_nums: 1,
            properties: Some(&properties),
            ..SendRequest::default()
        };
        let request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(header));
        let body = number.to_be_bytes().to_vec();
        let answer = self.remote.call(request.body(body), LIMIT).await.unwrap();
        assert_eq!(answer.response_code(), ResponseCode::Success, "{answer:?}");
    }

    /// How many messages were delivered, repeated ones among them.
    async fn delivered(&self) -> i64 {
        let request = QueueRequest { topic: TOPIC, queue_id: 0 };
        let request = Command::with(RequestCode::GetMaxOffset, &request);
        let answer = self.remote.call(request, LIMIT).await.unwrap();
        answer.decode_header::<OffsetResponse>().unwrap().offset
    }

    /// Lets time pass, and waits until some of what is due is delivered, or the power is gone.
    async fn deliver_some(&self, disk: &SimDisk, rng: &mut Rng, count: u32) {
        let passes_ms = rng.below((3 * SPAN_MS / 2 / i64::from(RESTARTS)).unsigned_abs());
        self.hand.advance(Duration::from_millis(passes_ms));
        let due = u64::from(count) * passes_ms / SPAN_MS.unsigned_abs();
        let target = self.delivered().await + rng.below(due + 1).cast_signed();
        let has_power = || disk.exists(Path::new("/store")).is_ok();
        let delivering = async {
            while self.delivered().await < target && has_power() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // What is due is not spread quite evenly: some lives have less to do.
        let _in_time = tokio::time::timeout(LIMIT / 4, delivering).await;
    }

    /// Delivers everything: the message that is due last comes last.
    async fn deliver_all(&self, last: u32) {
        self.hand.advance(Duration::from_millis((3 * SPAN_MS).unsigned_abs()));
        while self.last().await != Some(last) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The number of the message that was delivered last.
    async fn last(&self) -> Option<u32> {
        let request = PullRequest {
            consumer_group: "c",
            topic: TOPIC,
            queue_offset: self.delivered().await - 1,
            max_msg_nums: 1,
            sys_flag: 4,
            subscription: Some("*"),
            ..PullRequest::default()
        };
        let request = Command::with(RequestCode::PullMessage, &request);
        let answer = self.remote.call(request, LIMIT).await.unwrap();
        let record = records(&answer.body).last()?.unwrap();
        record.body.try_into().ok().map(u32::from_be_bytes)
    }
}

/// Stores `count` messages, and lets brokers live and end until all are delivered. How often each
/// was.
async fn run(count: u32, seed: u64, ends: &[End]) -> Vec<u8> {
    println!("seed {seed}");
    let (disk, mut rng) = (SimDisk::new(), Rng::new(seed));
    let due = fill(&disk, &mut rng, count);
    let mut now_ms = START_MS;
    for life in 0..RESTARTS {
        let end = ends[usize::try_from(rng.below(ends.len() as u64)).unwrap()];
        let broker = Life::begin(&disk, now_ms);
        if life == 0 {
            broker.send_last(count).await;
        }
        if end != End::Stop {
            disk.power_off_after(1 + rng.below(3_000));
        }
        broker.deliver_some(&disk, &mut rng, count).await;
        println!("{end:?} after {}", broker.delivered().await);
        let stopped = broker.running.stop().await;
        match end {
            End::Stop => stopped.unwrap(),
            End::Kill => disk.kill(),
            End::PowerCut => disk.crash(rng.draw()),
        }
        now_ms = broker.hand.now_ms();
    }
    let broker = Life::begin(&disk, now_ms);
    broker.deliver_all(count).await;
    broker.running.stop().await.unwrap();
    delivered(&disk, &due)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_timers_over_crashes() {
    let times = run(1_000_000, seed(), &[End::Stop, End::Kill, End::PowerCut]).await;
    let lost = times.iter().filter(|times| **times == 0).count();
    let repeated: u32 = times.iter().map(|times| u32::from(times.saturating_sub(1))).sum();
    println!("{} delivered, {repeated} repeated", times.len() - lost);
    assert_eq!(lost, 0, "messages are lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_repeats_nothing() {
    let times = run(100_000, seed(), &[End::Stop]).await;
    let wrong = times.iter().filter(|times| **times != 1).count();
    assert_eq!(wrong, 0, "messages are lost or repeated");
}

/// Another one with every run, unless `TIMERS_SEED` gives it.
fn seed() -> u64 {
    let given = std::env::var("TIMERS_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| Clock::System.now_ms().unsigned_abs())
}
