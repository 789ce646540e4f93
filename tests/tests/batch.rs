//! A batch is one request, split when it is too large, and many messages.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::Error;
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, numbered, unique};

support::each_transport!(
    a_batch_is_stored_in_order_in_one_queue,
    a_large_batch_is_split,
    a_batch_of_two_topics_is_refused,
);

async fn a_batch_is_stored_in_order_in_one_queue(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let bodies = numbered(100);
    let message = |body: &String| Outgoing::new(&topic, body.clone()).tag("t").key(body);
    let batch = bodies.iter().map(message).collect();
    let receipts = client.producer("p").send_batch(batch).await.unwrap();
    let first = receipts[0].queue_offset;
    for (receipt, offset) in receipts.iter().zip(first..) {
        assert_eq!(receipt.queue, receipts[0].queue);
        assert_eq!(receipt.queue_offset, offset);
        assert_eq!(receipt.offset_msg_id.len(), 32);
    }
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let mut seen = recorder.given(bodies.len()).await;
    seen.sort_by_key(|delivery| delivery.queue_offset);
    for ((delivery, receipt), body) in seen.iter().zip(&receipts).zip(&bodies) {
        assert_eq!(&delivery.body[..], body.as_bytes());
        assert_eq!(delivery.msg_id(), receipt.msg_id);
        assert_eq!(delivery.offset_msg_id(), receipt.offset_msg_id);
        assert_eq!(delivery.tags(), Some("t"));
        assert_eq!(delivery.keys().next(), Some(body.as_str()));
    }
}

async fn a_large_batch_is_split(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let body = |number: usize| vec![u8::try_from(number).unwrap(); 300_000];
    let batch = (0..20).map(|number| Outgoing::new(&topic, body(number))).collect();
    let receipts = client.producer("p").send_batch(batch).await.unwrap();
    assert_eq!(receipts.len(), 20);
    assert!(receipts.iter().all(|receipt| receipt.queue == receipts[0].queue));
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let mut seen = recorder.given(20).await;
    seen.sort_by_key(|delivery| delivery.queue_offset);
    for (number, delivery) in seen.iter().enumerate() {
        assert_eq!(delivery.body, body(number));
    }
}

async fn a_batch_of_two_topics_is_refused(cluster: Cluster) {
    let producer = cluster.client().await.producer("p");
    let topics = [unique("topic"), unique("topic")];
    let batch = topics.iter().map(|topic| Outgoing::new(topic, "x")).collect();
    assert!(matches!(producer.send_batch(batch).await, Err(Error::Message(_))));
    let delayed = vec![Outgoing::new(&topics[0], "x").delay_level(1)];
    assert!(matches!(producer.send_batch(delayed).await, Err(Error::Message(_))));
    assert!(producer.send_batch(Vec::new()).await.unwrap().is_empty());
}
