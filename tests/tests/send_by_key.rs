//! Messages of one key lie in one queue, in the order they were sent; a chosen queue is kept.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeMap;

use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(one_key_has_one_queue, a_chosen_queue_is_kept);

async fn one_key_has_one_queue(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    for round in 0..20 {
        for key in ["a", "b", "c", "d", "e"] {
            let message = Outgoing::new(&topic, format!("{round:02}")).key(key);
            producer.send_by_key(message, key).await.unwrap();
        }
    }
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let mut seen = recorder.given(100).await;
    seen.sort_by_key(|delivery| delivery.queue_offset);
    let mut by_key: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for delivery in seen {
        let key = delivery.keys().next().unwrap().to_owned();
        by_key.entry(key).or_default().push(delivery);
    }
    assert_eq!(by_key.len(), 5);
    for deliveries in by_key.values() {
        assert!(deliveries.iter().all(|d| d.queue == deliveries[0].queue));
        assert!(deliveries.is_sorted_by_key(|d| d.body.clone()), "in the order they were sent");
        assert_eq!(deliveries.len(), 20);
    }
}

async fn a_chosen_queue_is_kept(cluster: Cluster) {
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    producer.send(Outgoing::new(&topic, "makes the topic")).await.unwrap();
    let queues = producer.queues(&topic).await.unwrap();
    assert_eq!(queues.len(), 4, "a topic made by sending has four queues");
    for queue in &queues {
        let first = producer.send_to(Outgoing::new(&topic, "1"), queue).await.unwrap();
        let second = producer.send_to(Outgoing::new(&topic, "2"), queue).await.unwrap();
        assert_eq!((&first.queue, &second.queue), (queue, queue));
        assert_eq!(second.queue_offset, first.queue_offset + 1);
    }
}
