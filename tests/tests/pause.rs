//! A paused consumer, or a paused queue, hands nothing to handlers until it is resumed.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::{ConsumeMode, ConsumerOptions};
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, eventually, member, numbered, sorted_bodies, unique};

support::each_transport!(a_consumer_pauses, a_queue_pauses, an_orderly_consumer_pauses);

const SECONDS_5: Duration = Duration::from_secs(5);

async fn paused_and_resumed(cluster: Cluster, options: ConsumerOptions) {
    let topic = options.subscriptions[0].topic.clone();
    let (client, recorder) = (cluster.client().await, Recorder::new());
    let producer = client.producer("p");
    producer.send(Outgoing::new(&topic, "0000")).await.unwrap();
    let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    recorder.given(1).await;
    consumer.pause();
    assert!(consumer.status().paused);
    eventually("no handler runs", || consumer.status().running == 0).await;
    let bodies = numbered(50);
    for body in &bodies[1..] {
        producer.send(Outgoing::new(&topic, body.clone())).await.unwrap();
    }
    // A pull that was under way brings messages: they are kept.
    let pulled = || consumer.status().queues.iter().any(|queue| queue.cached_messages > 0);
    eventually("messages wait", pulled).await;
    assert_eq!(recorder.seen().len(), 1);
    consumer.resume();
    let seen = recorder.given(bodies.len()).await;
    assert_eq!(sorted_bodies(&seen), bodies);
    let done = || consumer.status().queues.iter().all(|queue| queue.cached_messages == 0);
    eventually("all is done", done).await;
    let status = consumer.status();
    let queues = || status.queues.iter().filter(|status| *status.queue.topic == *topic);
    assert!(queues().all(|queue| !queue.paused && queue.last_pull_ms.is_some()), "{status:?}");
    assert!(queues().any(|queue| queue.last_consume_ms.is_some()), "{status:?}");
    assert_eq!(queues().filter_map(|queue| queue.commit_offset).sum::<i64>(), 50);
    assert_eq!(consumer.shutdown(SECONDS_5).await.given_back, 0);
}

async fn a_consumer_pauses(cluster: Cluster) {
    paused_and_resumed(cluster, member(&unique("group"), &unique("topic"))).await;
}

async fn an_orderly_consumer_pauses(cluster: Cluster) {
    let options = member(&unique("group"), &unique("topic"));
    let options = ConsumerOptions { mode: ConsumeMode::Orderly, ..options };
    paused_and_resumed(cluster, options).await;
}

async fn a_queue_pauses(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let (client, recorder) = (cluster.client().await, Recorder::new());
    let producer = client.producer("p");
    producer.send(Outgoing::new(&topic, "first")).await.unwrap();
    let consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    recorder.given(1).await;
    let queues = client.read_queues(&topic).await.unwrap();
    let has_all = || {
        let status = consumer.status();
        queues.iter().all(|queue| status.queues.iter().any(|status| status.queue == *queue))
    };
    eventually("the queues are here", has_all).await;
    let (paused, other) = (&queues[0], &queues[1]);
    consumer.pause_queues(std::slice::from_ref(paused)).unwrap();
    producer.send_to(Outgoing::new(&topic, "paused"), paused).await.unwrap();
    producer.send_to(Outgoing::new(&topic, "other"), other).await.unwrap();
    recorder.given(2).await;
    assert_eq!(recorder.bodies(), ["first", "other"]);
    consumer.resume_queues(std::slice::from_ref(paused)).unwrap();
    recorder.given(3).await;
    assert_eq!(recorder.bodies(), ["first", "other", "paused"]);
    let stranger = mq_core::names::MessageQueue::new("nowhere", "nobody", 0);
    assert!(consumer.pause_queues(&[stranger]).is_err());
    consumer.shutdown(SECONDS_5).await;
}
