//! A broker whose disk fills up refuses sends clearly, and goes on by itself once there is room:
//! what was acknowledged is delivered, the delayed included, each message once.
#![expect(clippy::unwrap_used, reason = "a test fails when its set-up does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_broker::Broker;
use mq_broker::config::{BrokerConfig, Settings, Sources};
use mq_broker::store::sim_disk::SimDisk;
use mq_core::clock::Clock;
use mq_core::protocol::header::{PullRequest, PullResponse, SendRequest, SendRequestV2};
use mq_core::protocol::record::records;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::Remote;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);

fn config() -> BrokerConfig {
    let settings = BTreeMap::from(
        [
            ("storePathRootDir", "/store"),
            ("maxMessageSize", "16384"),
            ("mappedFileSizeCommitLog", "131072"),
            // Three entries a file: indexing needs room, too.
            ("mappedFileSizeConsumeQueue", "60"),
            ("maxHashSlotNum", "100"),
            ("maxIndexNum", "500"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    BrokerConfig::load(&Sources::pairs(&settings)).unwrap().config
}

/// Sends to queue 0; gives the answer's code.
async fn send(remote: &Remote, body: &str, properties: &str) -> ResponseCode {
    let header = SendRequest {
        producer_group: "p",
        topic: "t",
        default_topic: "TBW102",
        default_topic_queue_nums: 1,
        properties: Some(properties),
        ..SendRequest::default()
    };
    let request = Command::with(RequestCode::SendMessageV2, &SendRequestV2(header));
    let body = format!("{body}:{}", "x".repeat(8_000));
    remote.call(request.body(body), LIMIT).await.unwrap().response_code()
}

/// The first words of the bodies from `offset` on; waits up to `hold` for the first.
async fn pull(remote: &Remote, offset: i64, hold: Duration) -> (Vec<String>, i64) {
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
    let answer = remote.call(request, LIMIT * 2).await.unwrap();
    let header: PullResponse = answer.decode_header().unwrap();
    let word = |body: &[u8]| String::from_utf8_lossy(body).split(':').next().unwrap().to_owned();
    let bodies = records(&answer.body).map(|record| word(record.unwrap().body)).collect();
    (bodies, header.next_begin_offset)
}

/// Everything from `offset` on, until `count` messages are there and no more come.
async fn drain(remote: &Remote, mut offset: i64, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let hold = if all.len() < count { LIMIT } else { Duration::from_millis(300) };
        let (bodies, next) = pull(remote, offset, hold).await;
        if bodies.is_empty() {
            return all;
        }
        all.extend(bodies);
        offset = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_when_there_is_room_again() {
    let disk = SimDisk::new();
    let (clock, hand) = Clock::manual(1_700_000_000_000);
    let mut running =
        Broker::start(config(), clock, Arc::new(disk.clone()), Vec::new(), None).unwrap();
    let (inbound, _unread) = mpsc::channel(1);
    let remote = Remote::local(running.connect_on(&Handle::current()), inbound);
    assert_eq!(send(&remote, "first", "").await, ResponseCode::Success);
    assert_eq!(send(&remote, "late", "DELAY\u{1}1\u{2}").await, ResponseCode::Success);
    assert_eq!(pull(&remote, 0, LIMIT).await.0, ["first"]);

    disk.set_room(Some(0));
    let mut acknowledged = vec!["first".to_owned(), "late".to_owned()];
    let refused = loop {
        let body = format!("m{}", acknowledged.len());
        match send(&remote, &body, "").await {
            ResponseCode::Success => acknowledged.push(body),
            code => break code,
        }
    };
    assert_eq!(refused, ResponseCode::ServiceNotAvailable);
    hand.advance(Duration::from_secs(60));
    // Long enough for every loop to meet the full disk; what was visible before still is.
    let (bodies, _) = pull(&remote, 0, Duration::ZERO).await;
    assert_eq!(bodies.first().map(String::as_str), Some("first"));
    pull(&remote, bodies.len().try_into().unwrap(), Duration::from_secs(2)).await;

    disk.set_room(None);
    let mut found = drain(&remote, 0, acknowledged.len()).await;
    assert_eq!(send(&remote, "again", "").await, ResponseCode::Success);
    found.extend(drain(&remote, i64::try_from(found.len()).unwrap(), 1).await);
    acknowledged.push("again".to_owned());
    found.sort();
    acknowledged.sort();
    assert_eq!(found, acknowledged, "everything acknowledged, each once");
    running.stop().await.unwrap();
}
