//! Where a consumer without progress begins: with the first message, the last, or a time. Asked of
//! broadcasting consumers too, as brokers begin with the first message of a young topic for a
//! clustering group, whatever it says.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{ConsumeFrom, Consumer, MessageModel};
use mq_core::message::{Delivery, Outgoing};
use support::{Cluster, Recorder, eventually, member, numbered, unique};

support::each_transport!(
    with_the_first_message,
    with_messages_stored_from_now_on,
    with_messages_of_a_time,
    with_messages_of_a_time_that_several_have,
    after_all_messages,
);

const MODELS: [MessageModel; 2] = [MessageModel::Clustering, MessageModel::Broadcasting];

async fn begin(
    cluster: &Cluster,
    topic: &str,
    from: ConsumeFrom,
    model: MessageModel,
) -> (Consumer, Arc<Recorder>) {
    let mut options = member(&unique("group"), topic);
    options.from = from;
    options.model = model;
    let (client, recorder) = (cluster.client().await, Recorder::new());
    let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    (consumer, recorder)
}

/// One message after another to one queue, none of them within the same two milliseconds.
async fn send(cluster: &Cluster, topic: &str, bodies: &[&str]) {
    let producer = cluster.client().await.producer("p");
    for body in bodies {
        producer.send_by_key(Outgoing::new(topic, (*body).to_owned()), "one").await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Sends `d0000`, `d0001`, ... until one is given: one that is sent before the consumer has begun
/// may or may not come.
async fn send_until_given(cluster: &Cluster, topic: &str, recorder: &Recorder) {
    let is_new = |delivery: &Delivery| delivery.body.starts_with(b"d");
    for body in numbered(5_000) {
        if recorder.seen().iter().any(is_new) {
            return;
        }
        send(cluster, topic, &[&format!("d{body}")]).await;
    }
    panic!("none of the new messages came");
}

/// What is in the topic, as a consumer sees it that begins with the first message.
async fn stored(cluster: &Cluster, topic: &str, count: usize) -> Vec<Delivery> {
    let (_consumer, recorder) =
        begin(cluster, topic, ConsumeFrom::First, MessageModel::Clustering).await;
    let mut stored = recorder.given(count).await;
    stored.sort_by_key(|delivery| delivery.queue_offset);
    stored
}

/// Waits for the message `last`; returns the bodies, in the queue's order.
async fn up_to(recorder: &Recorder, last: &str) -> Vec<String> {
    let came = || recorder.seen().iter().any(|delivery| delivery.body == last.as_bytes());
    eventually("the last message comes", came).await;
    let mut seen = recorder.seen();
    seen.sort_by_key(|delivery| delivery.queue_offset);
    seen.iter().map(|d| String::from_utf8_lossy(&d.body).into_owned()).collect()
}

async fn with_the_first_message(cluster: Cluster) {
    let topic = unique("topic");
    send(&cluster, &topic, &["a", "b", "c"]).await;
    for model in MODELS {
        let (_consumer, recorder) = begin(&cluster, &topic, ConsumeFrom::First, model).await;
        assert_eq!(up_to(&recorder, "c").await.len(), 3);
    }
}

async fn with_messages_stored_from_now_on(cluster: Cluster) {
    let topic = unique("topic");
    send(&cluster, &topic, &["a", "b", "c"]).await;
    let model = MessageModel::Broadcasting;
    let (_consumer, recorder) = begin(&cluster, &topic, ConsumeFrom::Last, model).await;
    send_until_given(&cluster, &topic, &recorder).await;
    send(&cluster, &topic, &["e"]).await;
    let seen = up_to(&recorder, "e").await;
    assert!(seen.iter().all(|body| body.as_str() > "c"), "{seen:?}");
}

async fn with_messages_of_a_time(cluster: Cluster) {
    let topic = unique("topic");
    let bodies = ["a", "b", "c", "d", "e"];
    send(&cluster, &topic, &bodies).await;
    let times: Vec<i64> =
        stored(&cluster, &topic, 5).await.iter().map(|d| d.store_timestamp_ms).collect();
    for model in MODELS {
        // Exactly a message's time, and times between two messages.
        for (from, first) in [(times[2], 2), (times[2] - 1, 2), (times[2] + 2, 3)] {
            let (_consumer, recorder) =
                begin(&cluster, &topic, ConsumeFrom::Timestamp(from), model).await;
            let seen = up_to(&recorder, "e").await;
            let newer: Vec<String> = bodies[first..].iter().map(|&body| body.into()).collect();
            assert!(seen.ends_with(&newer), "newer are skipped: {seen:?}");
            let exact = cluster.broker.is_some() && model == MessageModel::Broadcasting;
            assert!(!exact || seen.len() == 5 - first, "older come: {seen:?}");
        }
    }
}

async fn with_messages_of_a_time_that_several_have(cluster: Cluster) {
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    send(&cluster, &topic, &["a"]).await;
    // Stored together, most of them in the same millisecond.
    let batch = (0..50).map(|number| Outgoing::new(&topic, format!("b{number:02}"))).collect();
    let queue = producer.send_batch(batch).await.unwrap().remove(0).queue;
    tokio::time::sleep(Duration::from_millis(3)).await;
    producer.send_to(Outgoing::new(&topic, "z"), &queue).await.unwrap();
    let all = stored(&cluster, &topic, 52).await;
    let batch: Vec<&Delivery> = all.iter().filter(|d| d.body.starts_with(b"b")).collect();
    let from = batch[20].store_timestamp_ms;
    let due = batch.iter().filter(|d| d.store_timestamp_ms >= from).count();
    let (_consumer, recorder) =
        begin(&cluster, &topic, ConsumeFrom::Timestamp(from), MessageModel::Broadcasting).await;
    let seen = up_to(&recorder, "z").await;
    let came = seen.iter().filter(|body| body.starts_with('b')).count();
    assert!(came >= due, "{came} of {due}: {seen:?}");
}

async fn after_all_messages(cluster: Cluster) {
    let topic = unique("topic");
    send(&cluster, &topic, &["a", "b"]).await;
    let last = stored(&cluster, &topic, 2).await.remove(1).store_timestamp_ms;
    let from = ConsumeFrom::Timestamp(last + 3_600_000);
    let (_consumer, recorder) = begin(&cluster, &topic, from, MessageModel::Broadcasting).await;
    send_until_given(&cluster, &topic, &recorder).await;
    // 4.x gives the last message.
    assert!(recorder.seen().iter().all(|delivery| &delivery.body[..] != b"a"));
}
