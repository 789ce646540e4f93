//! `kill -9` under load, again and again on one store: no acknowledged message may be missing
//! afterwards, and every queue's offsets are consecutive.
//!
//! The real program, our client, synchronous flush. Now and then the program is killed while it
//! recovers from the time before. A machine that is too slow for all kills does fewer.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mq_core::client::{Client, ClientOptions, Producer};
use mq_core::message::{Delivery, Outgoing, SendReceipt, SendStatus};
use support::program::MqDev;
use support::{Recorder, member};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const KILLS: u64 = 50;
const SENDERS: u64 = 8;
const TOPIC: &str = "torture";
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a message was acknowledged to be: queue id and queue offset.
type Place = (i32, i64);

/// A little pseudo-randomness (xorshift), so that a failure can tell how it was reached.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

async fn connect(mq: &MqDev) -> Client {
    let options = ClientOptions {
        name_servers: vec![mq.address.to_string()],
        send_timeout: Duration::from_secs(10),
        // What is sent again may be stored twice, which would hide a loss behind its copy.
        send_retries: 0,
        ..ClientOptions::default()
    };
    Client::connect(options).await.expect("a client")
}

/// Sends until the broker is gone, and tells every acknowledgement.
async fn send_until_broken(producer: Producer, name: String, told: mpsc::Sender<SendReceipt>) {
    let body = vec![b'x'; 300];
    for number in 0.. {
        let message = Outgoing::new(TOPIC, body.clone()).key(&format!("{name}-{number}"));
        let Ok(receipt) = producer.send(message).await else { return };
        if receipt.status != SendStatus::Ok || told.send(receipt).await.is_err() {
            return;
        }
    }
}

/// One life of the program: load, a kill after so many acknowledgements, and all that it had
/// acknowledged until its end.
async fn live_and_die(store: &Path, cycle: u64, acknowledgements: u64) -> Vec<SendReceipt> {
    let mq = MqDev::start(store);
    let client = connect(&mq).await;
    let (told, mut receipts) = mpsc::channel(1_024);
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let name = format!("{cycle}-{sender}");
        senders.spawn(send_until_broken(client.producer("torture"), name, told.clone()));
    }
    drop(told);
    let mut acknowledged = Vec::new();
    while (acknowledged.len() as u64) < acknowledgements {
        let next = tokio::time::timeout(PATIENCE, receipts.recv()).await;
        acknowledged.push(next.ok().flatten().expect("a living broker acknowledges"));
    }
    mq.program.kill();
    while let Some(receipt) = receipts.recv().await {
        acknowledged.push(receipt);
    }
    senders.join_all().await;
    client.shutdown().await;
    acknowledged
}

/// Everything the store holds, by place. A marker sent to the end of each queue tells when that
/// is all.
async fn read_all(store: &Path) -> BTreeMap<Place, String> {
    let mq = MqDev::start(store);
    let client = connect(&mq).await;
    let producer = client.producer("torture");
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for queue in producer.queues(TOPIC).await.expect("the topic has outlived its broker") {
        let marker = Outgoing::new(TOPIC, "the end");
        let sent = producer.send_to(marker, &queue).await.expect("every queue takes a message");
        ends.insert(queue.queue_id, sent.queue_offset);
    }
    let reader = Recorder::new();
    let consumer = client.start_consumer(member("readers", TOPIC), reader.clone()).await;
    let total: i64 = ends.values().map(|end| end + 1).sum();
    let taken = reader.given(usize::try_from(total).expect("a count")).await;
    let consumer = consumer.expect("a consumer");
    consumer.shutdown(PATIENCE).await;
    client.shutdown().await;

    let placed = |d: &Delivery| ((d.queue.queue_id, d.queue_offset), d.msg_id());
    let found: BTreeMap<Place, String> = taken.iter().map(placed).collect();
    let expected = ends.iter().flat_map(|(queue, end)| (0..=*end).map(|offset| (*queue, offset)));
    assert!(found.keys().copied().eq(expected), "offsets are missing, or too many: {ends:?}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_message_outlives_kill_9() {
    let folder = tempfile::tempdir().expect("a scratch folder");
    let store = folder.path().join("store");
    #[expect(clippy::disallowed_methods, reason = "a seed that differs from run to run")]
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos() as u64;
    println!("seed {seed}");
    let mut dice = Dice(seed | 1);
    let mut acknowledged: BTreeMap<Place, String> = BTreeMap::new();
    for kills in 0..KILLS {
        if kills % 5 == 4 {
            let recovering = MqDev::launch(&store);
            // The moment is to be any; there is no fact to wait for.
            tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
            recovering.kill();
        }
        for receipt in live_and_die(&store, kills, 1 + dice.below(100)).await {
            let place = (receipt.queue.queue_id, receipt.queue_offset);
            let earlier = acknowledged.insert(place, receipt.msg_id);
            assert_eq!(earlier, None, "{place:?} was given to two messages");
        }
    }
    let found = read_all(&store).await;
    for (place, id) in &acknowledged {
        assert_eq!(found.get(place), Some(id), "the message acknowledged at {place:?}");
    }
    println!("{KILLS} kills, {} acknowledged, {} found", acknowledged.len(), found.len());
    assert!(acknowledged.len() as u64 > KILLS, "there was no load");
}
