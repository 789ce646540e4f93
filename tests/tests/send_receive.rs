//! What is sent is received, once, with everything that belongs to it.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::message::{Outgoing, SendStatus};
use support::{Cluster, Recorder, member, numbered, sorted_bodies, unique};

support::each_transport!(
    a_message_arrives_with_all_it_has,
    every_message_arrives_once,
    a_consumer_may_be_there_first,
);

async fn a_message_arrives_with_all_it_has(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let message = Outgoing::new(&topic, "hello").tag("on").key("k1").key("k2");
    let message = message.property("colour", "blue").unwrap();
    let receipt = client.producer("p").send(message).await.unwrap();
    assert_eq!(receipt.status, SendStatus::Ok);

    let recorder = Recorder::new();
    let consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let delivery = recorder.given(1).await.remove(0);
    assert_eq!(&delivery.body[..], b"hello");
    assert_eq!((delivery.topic(), delivery.tags()), (topic.as_str(), Some("on")));
    assert_eq!(delivery.keys().collect::<Vec<_>>(), ["k1", "k2"]);
    assert_eq!(delivery.property("colour"), Some("blue"));
    assert_eq!(delivery.queue, receipt.queue);
    assert_eq!(delivery.queue_offset, receipt.queue_offset);
    assert_eq!(delivery.msg_id(), receipt.msg_id);
    assert_eq!(delivery.offset_msg_id(), receipt.offset_msg_id);
    assert_eq!(delivery.reconsume_times, 0);
    consumer.shutdown(std::time::Duration::from_secs(5)).await;
    client.shutdown().await;
}

async fn every_message_arrives_once(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    let bodies = numbered(2_000);
    let mut sends = tokio::task::JoinSet::new();
    for chunk in bodies.chunks(50) {
        let (producer, topic, chunk) = (producer.clone(), topic.clone(), chunk.to_vec());
        sends.spawn(async move {
            for body in chunk {
                producer.send(Outgoing::new(&topic, body)).await.unwrap();
            }
        });
    }
    sends.join_all().await;
    let recorder = Recorder::new();
    let consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    recorder.given(bodies.len()).await;
    consumer.shutdown(std::time::Duration::from_secs(5)).await;
    assert_eq!(sorted_bodies(&recorder.seen()), bodies);
}

async fn a_consumer_may_be_there_first(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "first")).await.unwrap();
    assert_eq!(sorted_bodies(&recorder.given(1).await), ["first"]);
}
