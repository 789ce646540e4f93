//! Pop consumption as RocketMQ 5 has it, by plain requests: what is not acknowledged in time comes
//! back, nothing is lost over a crash, and receipts count once.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions, Transport};
use mq_core::clock::{Clock, ManualClock};
use mq_core::embedded::{EmbeddedBroker, EmbeddedOptions};
use mq_core::message::Outgoing;
use mq_core::properties::{self, key};
use mq_core::protocol::body::{BatchAck, BatchAckRequest, to_json};
use mq_core::protocol::header::{
    AckMessageRequest, ChangeInvisibleTimeRequest, ChangeInvisibleTimeResponse, Header,
    NotificationRequest, NotificationResponse, PopMessageRequest, PopMessageResponse,
};
use mq_core::protocol::{Command, RequestCode, ResponseCode, record};
use mq_core::remote::Remote;
use tempfile::TempDir;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(60);
const INVISIBLE_MS: i64 = 60_000;
const TOPIC: &str = "orders";
const GROUP: &str = "workers";

struct World {
    broker: Arc<dyn EmbeddedBroker>,
    remote: Remote,
    hand: ManualClock,
}

/// A message as a popping client sees it.
#[derive(Clone, Debug)]
struct Popped {
    body: String,
    topic: String,
    /// The topic whose queue it lies in.
    lane: String,
    queue_id: i32,
    offset: i64,
    receipt: String,
    reconsume_times: i32,
}

impl World {
    async fn open(folder: &Path, now_ms: u64) -> Self {
        let (clock, hand) = Clock::manual(now_ms);
        let options = EmbeddedOptions {
            store: folder.to_owned(),
            listen: None,
            settings: BTreeMap::new(),
            clock,
        };
        // One that was dropped without a stop lets go of the store a moment later.
        let broker = loop {
            match mq_broker::start_embedded(options.clone()).await {
                Ok(broker) => break broker,
                Err(error) => assert!(error.to_string().contains("lock"), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (inbound, _none) = mpsc::channel(8);
        let remote = Remote::local(broker.connect(), inbound);
        Self { broker, remote, hand }
    }

    async fn send(&self, count: usize) {
        let transport = Transport::InProcess(self.broker.clone());
        let client = Client::connect(ClientOptions { transport, ..Default::default() });
        let client = client.await.unwrap();
        let producer = client.producer("p");
        for body in support::numbered(count) {
            producer.send(Outgoing::new(TOPIC, body)).await.unwrap();
        }
        client.shutdown().await;
    }

    async fn ask<'a>(&self, code: RequestCode, header: &impl Header<'a>) -> Command {
        self.remote.call(Command::with(code, header), PATIENCE).await.unwrap()
    }

    async fn pop_waiting(&self, poll_time: i64) -> Vec<Popped> {
        let header = PopMessageRequest {
            consumer_group: GROUP,
            topic: TOPIC,
            queue_id: -1,
            max_msg_nums: 32,
            invisible_time: INVISIBLE_MS,
            poll_time,
            ..Default::default()
        };
        let answer = self.ask(RequestCode::PopMessage, &header).await;
        let header: PopMessageResponse<'_> = answer.decode_header().unwrap();
        match answer.response_code() {
            ResponseCode::PollingTimeout => Vec::new(),
            ResponseCode::Success => popped(&header, &answer.body),
            code => panic!("{code:?}: {:?}", answer.remark),
        }
    }

    /// The next `count` messages.
    async fn pop(&self, count: usize) -> Vec<Popped> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.pop_waiting(30_000).await);
        }
        all
    }

    /// Everything that is left.
    async fn pop_rest(&self) -> Vec<Popped> {
        let mut all = Vec::new();
        loop {
            let some = self.pop_waiting(300).await;
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    async fn ack(&self, message: &Popped) -> ResponseCode {
        let header = AckMessageRequest {
            consumer_group: GROUP,
            topic: &message.lane,
            queue_id: message.queue_id,
            extra_info: &message.receipt,
            offset: message.offset,
        };
        self.ask(RequestCode::AckMessage, &header).await.response_code()
    }

    /// Lets time pass, and what hangs on it happen: all messages that come back are there again.
    async fn until_back(&self, time_ms: i64, count: usize) -> Vec<Popped> {
        self.hand.advance(Duration::from_millis(time_ms.unsigned_abs()));
        self.pop(count).await
    }
}

/// What a Java client makes of an answer.
fn popped(header: &PopMessageResponse<'_>, body: &[u8]) -> Vec<Popped> {
    let starts: BTreeMap<(&str, &str), &str> = header
        .start_offset_info
        .unwrap()
        .split(';')
        .map(|info| info.split(' ').collect::<Vec<_>>())
        .map(|words| ((words[0], words[1]), words[2]))
        .collect();
    let message = |record: record::Record<'_>| {
        let queue_id = record.queue_id.to_string();
        let receipt = match properties::find(record.properties, key::POP_CK) {
            Some(receipt) => receipt.to_owned(),
            None => {
                let start = starts[&("0", queue_id.as_str())];
                let (time, invisible) = (header.pop_time, header.invisible_time);
                format!("{start} {time} {invisible} 0 0 b {queue_id} {}", record.queue_offset)
            }
        };
        let lane = match receipt.split(' ').nth(4) {
            Some("1") => format!("%RETRY%{GROUP}_{TOPIC}"),
            _ => TOPIC.to_owned(),
        };
        Popped {
            body: String::from_utf8(record.body.to_vec()).unwrap(),
            topic: record.topic.to_owned(),
            lane,
            queue_id: record.queue_id,
            offset: record.queue_offset,
            receipt,
            reconsume_times: record.reconsume_times,
        }
    };
    record::records(body).map(|record| message(record.unwrap())).collect()
}

fn bodies(messages: &[Popped]) -> Vec<String> {
    let mut bodies: Vec<_> = messages.iter().map(|message| message.body.clone()).collect();
    bodies.sort();
    bodies
}

#[tokio::test]
async fn every_message_is_handed_out_once_and_done_when_acknowledged() {
    let folder = TempDir::new().unwrap();
    let world = World::open(folder.path(), 1_000_000).await;
    world.send(100).await;
    let all = world.pop(100).await;
    assert_eq!(bodies(&all), support::numbered(100));
    for message in &all {
        assert_eq!(world.ack(message).await, ResponseCode::Success);
        assert_eq!((message.topic.as_str(), message.reconsume_times), (TOPIC, 0));
    }
    world.hand.advance(Duration::from_millis(10 * INVISIBLE_MS.unsigned_abs()));
    assert_eq!(bodies(&world.pop_waiting(300).await), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_back_and_ends_as_a_dead_letter() {
    let folder = TempDir::new().unwrap();
    let world = World::open(folder.path(), 1_000_000).await;
    world.send(10).await;
    let all = world.pop(10).await;
    for message in all.iter().filter(|message| message.body != "0007") {
        assert_eq!(world.ack(message).await, ResponseCode::Success);
    }
    for attempt in 1..=16 {
        let back = world.until_back(INVISIBLE_MS, 1).await;
        assert_eq!(bodies(&back), ["0007"]);
        assert_eq!((back[0].topic.as_str(), back[0].reconsume_times), (TOPIC, attempt));
        // An old receipt does nothing.
        assert_eq!(world.ack(&all[7]).await, ResponseCode::Success);
    }
    world.hand.advance(Duration::from_millis(INVISIBLE_MS.unsigned_abs()));
    let dead = PopMessageRequest {
        consumer_group: "undertakers",
        topic: &format!("%DLQ%{GROUP}"),
        queue_id: -1,
        max_msg_nums: 32,
        invisible_time: INVISIBLE_MS,
        poll_time: 0,
        ..Default::default()
    };
    let answer = loop {
        let answer = world.ask(RequestCode::PopMessage, &dead).await;
        if answer.response_code() == ResponseCode::Success {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let (dead, _) = record::Record::decode(&answer.body, record::Verify::Whole).unwrap();
    assert_eq!((dead.body, dead.reconsume_times), (&b"0007"[..], 16));
    assert_eq!(properties::find(dead.properties, key::RETRY_TOPIC), Some(TOPIC));
    assert_eq!(bodies(&world.pop_waiting(300).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_message_may_be_given_more_time() {
    let folder = TempDir::new().unwrap();
    let world = World::open(folder.path(), 1_000_000).await;
    world.send(1).await;
    let mut message = world.pop(1).await.remove(0);
    let header = ChangeInvisibleTimeRequest {
        consumer_group: GROUP,
        topic: &message.lane,
        queue_id: message.queue_id,
        extra_info: &message.receipt,
        offset: message.offset,
        invisible_time: 5 * INVISIBLE_MS,
    };
    let answer = world.ask(RequestCode::ChangeMessageInvisibletime, &header).await;
    assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
    let changed: ChangeInvisibleTimeResponse = answer.decode_header().unwrap();
    // The receipt of before is void.
    assert_eq!(world.ack(&message).await, ResponseCode::Success);
    world.hand.advance(Duration::from_millis(2 * INVISIBLE_MS.unsigned_abs()));
    assert!(world.pop_waiting(300).await.is_empty(), "it has more time");
    let again = world.ask(RequestCode::ChangeMessageInvisibletime, &header).await;
    assert_eq!(again.response_code(), ResponseCode::NoMessage);
    message.receipt = message.receipt.replace("1000000", &changed.pop_time.to_string());
    assert_eq!(world.ack(&message).await, ResponseCode::Success);
    world.hand.advance(Duration::from_millis(10 * INVISIBLE_MS.unsigned_abs()));
    assert!(world.pop_waiting(300).await.is_empty(), "it is done with");
}

#[tokio::test]
async fn a_waiting_pop_hears_of_a_message() {
    let folder = TempDir::new().unwrap();
    let world = World::open(folder.path(), 1_000_000).await;
    world.send(1).await;
    assert_eq!(bodies(&world.pop(1).await), ["0000"]);
    let notice = NotificationRequest {
        consumer_group: GROUP,
        topic: TOPIC,
        queue_id: -1,
        poll_time: 30_000,
        ..Default::default()
    };
    let (notified, ()) = tokio::join!(world.ask(RequestCode::Notification, &notice), world.send(1));
    assert!(notified.decode_header::<NotificationResponse>().unwrap().has_msg);
    assert_eq!(bodies(&world.pop(1).await), ["0000"]);
    let (came, ()) = tokio::join!(world.pop_waiting(30_000), world.send(1));
    assert_eq!(bodies(&came), ["0000"]);
}

#[tokio::test]
async fn a_batch_of_receipts_counts() {
    let folder = TempDir::new().unwrap();
    let world = World::open(folder.path(), 1_000_000).await;
    world.send(40).await;
    let all = world.pop(40).await;
    let mut acks: BTreeMap<(i32, i64), BatchAck> = BTreeMap::new();
    for message in all.iter().filter(|message| message.body.as_str() < "0038") {
        let words: Vec<i64> =
            message.receipt.split(' ').map(|word| word.parse().unwrap_or(0)).collect();
        let ack = acks.entry((message.queue_id, words[0])).or_insert_with(|| BatchAck {
            consumer_group: GROUP.to_owned(),
            topic: TOPIC.to_owned(),
            retry: "0".to_owned(),
            start_offset: words[0],
            queue_id: message.queue_id,
            pop_time: words[1],
            invisible_time: words[2],
            ..BatchAck::default()
        });
        // Ten of a queue: two bytes, kept as four letters until all bits are known.
        ack.bit_set.push_str(&format!("{} ", message.offset - words[0]));
    }
    let acks = acks.into_values().map(|mut ack| {
        let bits: u16 =
            ack.bit_set.split_whitespace().map(|bit| 1 << bit.parse::<u16>().unwrap()).sum();
        ack.bit_set = base64(bits.to_le_bytes());
        ack
    });
    let body = to_json(&BatchAckRequest { broker_name: "b".to_owned(), acks: acks.collect() });
    let request = Command::request(RequestCode::BatchAckMessage).body(body);
    let answer = world.remote.call(request, PATIENCE).await.unwrap();
    assert_eq!(answer.response_code(), ResponseCode::Success, "{:?}", answer.remark);
    assert_eq!(bodies(&world.until_back(INVISIBLE_MS, 2).await), ["0038", "0039"]);
    assert!(world.pop_waiting(300).await.is_empty());
}

/// Two bytes as four letters.
fn base64([low, high]: [u8; 2]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u32::from(low) << 16 | u32::from(high) << 8;
    let letter = |shift: u32| char::from(LETTERS[(bits >> shift & 63) as usize]);
    format!("{}{}{}=", letter(18), letter(12), letter(6))
}

#[tokio::test]
async fn a_crash_loses_nothing_and_old_receipts_still_count() {
    let folder = TempDir::new().unwrap();
    let first = World::open(folder.path(), 1_000_000).await;
    first.send(60).await;
    let all = first.pop(60).await;
    let (done, open) = all.split_at(20);
    for message in done {
        assert_eq!(first.ack(message).await, ResponseCode::Success);
    }
    // Neither stopped nor told: as after a crash, the last snapshot of offsets counts.
    drop(first);
    let second = World::open(folder.path(), 1_100_000).await;
    let (receipts, silent) = open.split_at(20);
    for message in receipts {
        assert_eq!(second.ack(message).await, ResponseCode::Success);
    }
    let again: BTreeSet<String> = second.pop_rest().await.into_iter().map(|m| m.body).collect();
    for message in silent {
        assert!(again.contains(&message.body), "{} is lost", message.body);
    }
    for message in receipts {
        assert!(!again.contains(&message.body), "{} was acknowledged", message.body);
    }
}
