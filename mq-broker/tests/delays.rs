//! Delay levels on a virtual clock: each of the 18, and levels that the configuration replaces. A
//! message comes at its time to the millisecond, and not before.
#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::config::{BrokerConfig, Settings, Sources};
use mq_broker::store::sim_disk::SimDisk;
use mq_broker::{Broker, RunningBroker};
use mq_core::clock::{Clock, ManualClock};
use mq_core::protocol::header::{PullRequest, PullResponse, SendRequest, SendRequestV2};
use mq_core::protocol::record::records;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);
const START_MS: u64 = 1_700_000_000_000;
/// RocketMQ's, in seconds.
const LEVELS: [i64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

fn config(levels: Option<&str>) -> BrokerConfig {
    let mut settings: BTreeMap<String, String> = BTreeMap::from(
        [("storePathRootDir", "/store"), ("maxHashSlotNum", "100"), ("maxIndexNum", "500")]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    settings.extend(levels.map(|levels| ("messageDelayLevel".to_owned(), levels.to_owned())));
    BrokerConfig::load(&Sources::pairs(&settings)).unwrap().config
}

/// A broker whose time is moved by hand, and a way to it.
struct World {
    running: RunningBroker,
    remote: Remote,
    hand: ManualClock,
}

impl World {
    fn start(disk: &SimDisk, start_ms: u64, levels: Option<&str>) -> Self {
        let (clock, hand) = Clock::manual(start_ms);
        let disk = Arc::new(disk.clone());
        let mut running = Broker::start(config(levels), clock, disk, Vec::new(), None).unwrap();
        let (inbound, _unread) = mpsc::channel(1);
        let remote = Remote::local(running.connect_on(&Handle::current()), inbound);
        Self { running, remote, hand }
    }

    /// Sends to queue 0 of topic `t`.
    async fn send(&self, body: &str, properties: &str) -> ResponseCode {
        let header = SendRequest {
            producer_group: "p",
            topic: "t",
            default_topic: "TBW102",
            default_topic_queue_nums: 1,
            properties: Some(properties),
            ..SendRequest::default()
        };
        let request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(header));
        self.remote.call(request.body(body.to_owned()), LIMIT).await.unwrap().response_code()
    }

    /// Body and store time of what is in the queue from `offset` on; waits for the first.
    async fn pull(&self, offset: i64, hold: Duration) -> Vec<(String, i64)> {
        let request = Command::with(
            RequestCode::PullMessage,
            &PullRequest {
                consumer_group: "c",
                topic: "t",
                queue_offset: offset,
                max_msg_nums: 1_000,
                sys_flag: 2 | 4,
                suspend_timeout_millis: i64::try_from(hold.as_millis()).unwrap(),
                subscription: Some("*"),
                ..PullRequest::default()
            },
        );
        let answer = self.remote.call(request, LIMIT * 2).await.unwrap();
        let _header: PullResponse = answer.decode_header().unwrap();
        let read = records(&answer.body).map(Result::unwrap);
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        read.map(|record| (text(record.body), record.store_timestamp_ms)).collect()
    }

    /// Moves time to so much behind the start.
    fn move_to(&self, start_ms: u64, behind_ms: i64) {
        let by = i64::try_from(start_ms).unwrap() + behind_ms - self.hand.now_ms();
        self.hand.advance(Duration::from_millis(u64::try_from(by).unwrap()));
    }
}

/// One message a level, sent at once: each comes when its delay is over, and not a millisecond
/// before.
async fn each_level_in_its_time(levels: Option<&str>, delays_ms: &[i64]) {
    let disk = SimDisk::new();
    let world = World::start(&disk, START_MS, levels);
    for level in 1..=delays_ms.len() {
        let sent = world.send(&level.to_string(), &format!("DELAY\u{1}{level}\u{2}")).await;
        assert_eq!(sent, ResponseCode::Success);
    }
    let mut order: Vec<(i64, String)> =
        delays_ms.iter().zip(1..).map(|(delay, level)| (*delay, format!("{level}"))).collect();
    order.sort();
    let short = Duration::from_millis(50);
    for (offset, (delay_ms, body)) in (0..).zip(&order) {
        world.move_to(START_MS, delay_ms - 1);
        assert_eq!(world.pull(offset, short).await, [], "level {body} came early");
        world.move_to(START_MS, *delay_ms);
        let due_ms = i64::try_from(START_MS).unwrap() + delay_ms;
        assert_eq!(world.pull(offset, LIMIT).await, [(body.clone(), due_ms)]);
    }
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_18_levels() {
    each_level_in_its_time(None, &LEVELS.map(|seconds| seconds * 1000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_that_the_configuration_replaces() {
    each_level_in_its_time(Some("3s 1s 2d"), &[3_000, 1_000, 2 * 24 * 3_600_000]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_19th_level_and_what_is_beyond_the_last() {
    let nineteen: String = (1..=19).map(|level| format!("{}s ", 2 * level)).collect();
    let delays: Vec<i64> = (1..=19).map(|level| 2_000 * level).collect();
    each_level_in_its_time(Some(nineteen.trim()), &delays).await;
    // Without it a level 19 is the last that there is.
    let world = World::start(&SimDisk::new(), START_MS, Some("1s 2s"));
    assert_eq!(world.send("x", "DELAY\u{1}19\u{2}").await, ResponseCode::Success);
    world.move_to(START_MS, 1_999);
    assert_eq!(world.pull(0, Duration::from_millis(50)).await, []);
    world.move_to(START_MS, 2_000);
    assert_eq!(world.pull(0, LIMIT).await.len(), 1);
    world.running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_outlive_a_restart() {
    let disk = SimDisk::new();
    let world = World::start(&disk, START_MS, None);
    for level in [1, 3] {
        world.send(&level.to_string(), &format!("DELAY\u{1}{level}\u{2}")).await;
    }
    world.move_to(START_MS, 1_000);
    assert_eq!(world.pull(0, LIMIT).await.len(), 1);
    world.running.stop().await.unwrap();
    let later = START_MS + 9_999;
    let world = World::start(&disk, later, None);
    let seen = world.pull(0, Duration::from_millis(200)).await;
    assert_eq!(seen.len(), 1, "what was delivered is not again, what is not due waits: {seen:?}");
    world.move_to(later, 1);
    assert_eq!(world.pull(1, LIMIT).await, [("3".to_owned(), 1_700_000_010_000)]);
    world.running.stop().await.unwrap();
}
