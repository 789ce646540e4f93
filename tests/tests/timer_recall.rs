//! A message that waits for its instant can be taken back until then, by its receipt's handle or by
//! a message that names it.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::Error;
use mq_core::client::Producer;
use mq_core::message::{Outgoing, SendReceipt};
use mq_core::properties::key;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(with moved time:
    what_is_taken_back_does_not_come,
    it_can_be_too_late,
    a_handle_must_be_one,
    a_message_can_name_what_it_takes_back,
);

const DELAY: Duration = Duration::from_secs(5);
const RECALL: (&str, &str) = ("5.3.0", "recall");

/// Two messages for the same instant.
async fn send_two(producer: &Producer, topic: &str, at_ms: i64) -> [SendReceipt; 2] {
    let send = async |body: &'static str| {
        producer.send(Outgoing::new(topic, body).deliver_at(at_ms)).await.unwrap()
    };
    [send("stays").await, send("goes").await]
}

/// The instant passes, and with it what is due.
async fn bodies_after(cluster: &Cluster, topic: &str) -> Vec<String> {
    let producer = cluster.client().await.producer("p");
    let last = Outgoing::new(topic, "zz last").deliver_after(DELAY + Duration::from_secs(2));
    producer.send(last).await.unwrap();
    let (recorder, client) = (Recorder::new(), cluster.client().await);
    let consumer = member(&unique("group"), topic);
    let _consumer = client.start_consumer(consumer, recorder.clone()).await.unwrap();
    let expected = 2;
    tokio::join!(cluster.pass(DELAY * 2), recorder.given(expected));
    recorder.bodies()
}

async fn what_is_taken_back_does_not_come(cluster: Cluster) {
    if !cluster.has(RECALL.0, RECALL.1) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let at_ms = cluster.options().clock.now_ms() + 5_000;
    let [_, goes] = send_two(&producer, &topic, at_ms).await;
    let handle = goes.recall_handle.unwrap();
    assert_eq!(producer.recall(&handle).await.unwrap(), goes.msg_id);
    producer.recall(&handle).await.unwrap();
    assert_eq!(bodies_after(&cluster, &topic).await, ["stays", "zz last"]);
}

async fn it_can_be_too_late(cluster: Cluster) {
    if !cluster.has(RECALL.0, RECALL.1) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let message = Outgoing::new(&topic, "x").deliver_after(Duration::from_secs(1));
    let receipt = producer.send(message).await.unwrap();
    cluster.pass(Duration::from_secs(2)).await;
    assert_eq!(code(producer.recall(&receipt.recall_handle.unwrap()).await), 604);
}

fn code(answer: Result<String, Error>) -> i32 {
    match answer {
        Err(Error::Refused { code, .. }) => code,
        other => panic!("not refused by the broker: {other:?}"),
    }
}

async fn a_handle_must_be_one(cluster: Cluster) {
    if !cluster.has(RECALL.0, RECALL.1) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    assert!(matches!(producer.recall("nonsense").await, Err(Error::Message(_))));
    let receipt = producer.send(Outgoing::new(&topic, "x")).await.unwrap();
    assert_eq!(receipt.recall_handle, None, "it was stored at once");
}

async fn a_message_can_name_what_it_takes_back(cluster: Cluster) {
    if cluster.broker.is_none() {
        println!("SKIPPED: RocketMQ 5.5.0 delivers the message all the same");
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let at_ms = cluster.options().clock.now_ms() + 5_000;
    let [_, goes] = send_two(&producer, &topic, at_ms).await;
    let mut takes_back = Outgoing::new(&topic, "never seen").deliver_at(at_ms);
    takes_back.properties.set(key::TIMER_DEL_UNIQKEY, &format!("{topic}+{}", goes.msg_id));
    producer.send(takes_back).await.unwrap();
    assert_eq!(bodies_after(&cluster, &topic).await, ["stays", "zz last"]);
}
