//! What is stored is found again: by place, by id, by key, by time; and how far a group is.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::Client;
use mq_core::clock::Clock;
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, numbered, sorted_bodies, unique};

support::each_transport!(messages_are_found, ends_and_times_are_told, lag_is_told);

const DEADLINE: Duration = Duration::from_secs(60);

/// Indexes are built behind the acknowledgement.
async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, looking).await;
    in_time.unwrap_or_else(|_| panic!("not found in time: {what}"))
}

async fn messages_are_found(cluster: Cluster) {
    let (topic, key) = (unique("topic"), unique("key"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    let mut sent = Vec::new();
    for body in numbered(6) {
        let message = Outgoing::new(&topic, body).key(&key).key("other");
        sent.push(producer.send(message).await.unwrap());
    }
    let third = &sent[2];
    let by_place = found("by place", async || {
        client.message_by_offset_id(&third.offset_msg_id).await.unwrap()
    })
    .await;
    assert_eq!((&by_place.body[..], by_place.queue_offset), (&b"0002"[..], third.queue_offset));
    assert_eq!(&by_place.queue, &third.queue);
    let by_id =
        found("by id", async || client.message_by_unique_key(&topic, &third.msg_id).await.unwrap())
            .await;
    assert_eq!(by_id, by_place);
    let all = found("by key", async || {
        let all = client.messages_by_key(&topic, &key).await.unwrap();
        (all.len() == sent.len()).then_some(all)
    })
    .await;
    assert_eq!(sorted_bodies(&all), numbered(6));
    assert!(client.messages_by_key(&topic, &unique("nobody")).await.unwrap().is_empty());
    assert!(client.message_by_unique_key(&topic, "nothing").await.unwrap().is_none());
    assert!(client.message_by_offset_id("no id").await.is_err());
}

async fn ends_and_times_are_told(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let producer = client.producer("p");
    let queue = producer.send(Outgoing::new(&topic, "0")).await.unwrap().queue;
    producer.send_to(Outgoing::new(&topic, "1"), &queue).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let middle_ms = Clock::System.now_ms();
    producer.send_to(Outgoing::new(&topic, "2"), &queue).await.unwrap();
    let told = found("the end", async || {
        let told =
            (client.min_offset(&queue).await.unwrap(), client.max_offset(&queue).await.unwrap());
        (told.1 == 3).then_some(told)
    })
    .await;
    assert_eq!(told, (0, 3));
    assert_eq!(client.offset_at(&queue, 0).await.unwrap(), 0);
    assert_eq!(client.offset_at(&queue, middle_ms).await.unwrap(), 2);
    let queues = client.read_queues(&topic).await.unwrap();
    assert!(queues.contains(&queue));
    assert!(client.read_queues(&unique("nowhere")).await.is_err());
}

async fn lag_is_told(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let send = async |client: &Client, bodies: &[String]| {
        let producer = client.producer("p");
        for body in bodies {
            producer.send(Outgoing::new(&topic, body.clone())).await.unwrap();
        }
    };
    let lag = async || -> i64 {
        let progress = client.progress(&group, &topic).await.unwrap();
        progress.iter().map(mq_core::client::QueueProgress::lag).sum()
    };
    send(&client, &numbered(12)).await;
    found("all is lag", async || (lag().await == 12).then_some(())).await;
    let recorder = Recorder::new();
    let consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    recorder.given(12).await;
    consumer.shutdown(Duration::from_secs(5)).await;
    assert_eq!(lag().await, 0);
    send(&client, &numbered(5)).await;
    found("the new is lag", async || (lag().await == 5).then_some(())).await;
}
