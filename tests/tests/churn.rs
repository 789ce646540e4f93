//! Members of a group join, leave and crash while messages flow: nothing is lost; in orderly
//! consumption every queue has one owner at a time, and the order of a key is never broken.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{Client, ConsumeMode, Consumer, ConsumerOptions, Producer};
use mq_core::message::Outgoing;
use support::history::{History, Item, Witness, disorder, lost, overlaps};
use support::{Cluster, member, unique};
use tokio::task::JoinSet;

support::each_transport!(nothing_is_lost, queues_have_one_owner_and_keys_keep_their_order);

const KEYS: u64 = 64;
const SECONDS_10: Duration = Duration::from_secs(10);

/// A test of another cluster, which is not built for the test's machine, is a smaller one.
fn messages(cluster: &Cluster) -> u64 {
    if cluster.broker.is_some() { 100_000 } else { 20_000 }
}

/// The members of a group by number, and what happens to them.
struct Members<'a> {
    cluster: &'a Cluster,
    options: ConsumerOptions,
    history: Arc<History>,
    here: BTreeMap<u32, (Client, Consumer)>,
}

impl Members<'_> {
    async fn join(&mut self, number: u32) {
        let client = self.cluster.client().await;
        let witness = Witness::new(number, &self.history);
        let consumer = client.start_consumer(self.options.clone(), witness).await.unwrap();
        self.here.insert(number, (client, consumer));
    }

    async fn leave(&mut self, number: u32) {
        let (client, consumer) = self.here.remove(&number).unwrap();
        let report = consumer.shutdown(SECONDS_10).await;
        assert_eq!((report.cut_off, report.uncommitted), (0, 0), "member {number}: {report:?}");
        client.shutdown().await;
    }

    /// Nobody is told; the connections end with the client.
    fn crash(&mut self, number: u32) {
        self.history.crashed(number);
        drop(self.here.remove(&number));
    }

    /// Three to six members at a time.
    async fn churn(&mut self, count: u64) {
        let reached = |percent: u64| usize::try_from(count * percent / 100).unwrap();
        let history = self.history.clone();
        for number in 1..=3 {
            self.join(number).await;
        }
        history.handled(reached(5)).await;
        self.join(4).await;
        history.handled(reached(15)).await;
        self.leave(2).await;
        history.handled(reached(25)).await;
        self.join(5).await;
        self.join(6).await;
        history.handled(reached(35)).await;
        self.crash(3);
        self.join(7).await;
        history.handled(reached(50)).await;
        self.leave(1).await;
        self.join(8).await;
        history.handled(reached(65)).await;
        self.leave(5).await;
        history.handled(reached(100)).await;
        for number in [4, 6, 7, 8] {
            self.leave(number).await;
        }
    }
}

/// Sends each key's messages one after another, and the keys side by side.
async fn send(producer: Producer, topic: String, count: u64) -> BTreeSet<Item> {
    let mut keys = JoinSet::new();
    for key in 0..KEYS {
        let (producer, topic, key) = (producer.clone(), topic.clone(), format!("key-{key}"));
        keys.spawn(async move {
            let mut sent = Vec::new();
            for number in 0..count / KEYS {
                let item = Item { key: key.clone(), number };
                let message = Outgoing::new(&topic, item.to_string());
                producer.send_by_key(message, &key).await.unwrap();
                sent.push(item);
            }
            sent
        });
    }
    keys.join_all().await.into_iter().flatten().collect()
}

async fn live_through(cluster: &Cluster, mode: ConsumeMode) -> (Arc<History>, BTreeSet<Item>) {
    let (topic, group) = (unique("topic"), unique("group"));
    let mut settings = cluster.options();
    settings.default_queues = 8;
    let client = Client::connect(settings).await.unwrap();
    let producer = client.producer("p");
    // The topic is there before anybody asks for its queues.
    let first = Item { key: "first".to_owned(), number: 0 };
    producer.send(Outgoing::new(&topic, first.to_string())).await.unwrap();
    let mut options = member(&group, &topic);
    options.mode = mode;
    options.concurrency = 4;
    let (history, here) = (Arc::<History>::default(), BTreeMap::new());
    let mut members = Members { cluster, options, history: history.clone(), here };
    let count = messages(cluster) / KEYS * KEYS;
    let sending = send(producer, topic, count);
    let ((), mut sent) = tokio::join!(members.churn(count + 1), sending);
    sent.insert(first);
    (history, sent)
}

#[track_caller]
fn assert_none(found: &[String]) {
    let shown = &found[..found.len().min(10)];
    assert!(found.is_empty(), "{} violations, such as {shown:#?}", found.len());
}

async fn nothing_is_lost(cluster: Cluster) {
    let (history, sent) = live_through(&cluster, ConsumeMode::Concurrently).await;
    assert_none(&lost(&history.events(), &sent));
}

async fn queues_have_one_owner_and_keys_keep_their_order(cluster: Cluster) {
    let (history, sent) = live_through(&cluster, ConsumeMode::Orderly).await;
    let events = history.events();
    assert_none(&lost(&events, &sent));
    assert_none(&overlaps(&events));
    assert_none(&disorder(&events));
}
