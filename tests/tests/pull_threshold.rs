//! What a slow handler has not got to yet is limited, by number and by bytes, for a queue and for
//! the consumer; the rest waits in the broker.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::{ConsumeMode, PullThreshold};
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(
    by_messages_of_a_queue,
    by_bytes_of_a_queue,
    by_messages_of_the_consumer,
    by_bytes_of_the_consumer,
    in_orderly_consumption_too,
);

const QUEUES: usize = 4;
const PULL_BATCH: usize = 4;
const BODY_BYTES: usize = 10_000;
const COUNT: usize = 2_000;
const ENOUGH: PullThreshold = PullThreshold {
    queue_messages: COUNT,
    queue_bytes: COUNT * BODY_BYTES * 2,
    messages: COUNT,
    bytes: COUNT * BODY_BYTES * 2,
};

/// How many messages a consumer holds that it has not begun to handle.
async fn held(cluster: &Cluster, threshold: PullThreshold, mode: ConsumeMode) -> usize {
    let (topic, group) = (unique("topic"), unique("group"));
    let producer = cluster.client().await.producer("p");
    for _ in 0..COUNT / 50 {
        let batch = (0..50).map(|_| Outgoing::new(&topic, vec![b'x'; BODY_BYTES])).collect();
        producer.send_batch(batch).await.unwrap();
    }
    let slow = Recorder::taking(Duration::from_millis(10));
    let mut options = member(&group, &topic);
    options.concurrency = 2;
    options.pull_batch = i32::try_from(PULL_BATCH).unwrap();
    options.threshold = threshold;
    options.mode = mode;
    let client = cluster.client().await;
    let consumer = client.start_consumer(options, slow.clone()).await.unwrap();
    slow.given(150).await;
    let report = consumer.shutdown(Duration::from_secs(5)).await;
    assert!(report.given_back > 0, "{report:?}");
    report.given_back
}

/// A pull may go beyond a limit once, in each queue.
const BEYOND: usize = QUEUES * PULL_BATCH;

async fn by_messages_of_a_queue(cluster: Cluster) {
    let threshold = PullThreshold { queue_messages: 20, ..ENOUGH };
    let held = held(&cluster, threshold, ConsumeMode::Concurrently).await;
    assert!(held <= QUEUES * 20 + BEYOND, "{held}");
}

async fn by_bytes_of_a_queue(cluster: Cluster) {
    let threshold = PullThreshold { queue_bytes: 20 * BODY_BYTES, ..ENOUGH };
    let held = held(&cluster, threshold, ConsumeMode::Concurrently).await;
    assert!(held <= QUEUES * 20 + BEYOND, "{held}");
}

async fn by_messages_of_the_consumer(cluster: Cluster) {
    let threshold = PullThreshold { messages: 40, ..ENOUGH };
    let held = held(&cluster, threshold, ConsumeMode::Concurrently).await;
    assert!(held <= 40 + BEYOND, "{held}");
}

async fn by_bytes_of_the_consumer(cluster: Cluster) {
    let threshold = PullThreshold { bytes: 40 * BODY_BYTES, ..ENOUGH };
    let held = held(&cluster, threshold, ConsumeMode::Concurrently).await;
    assert!(held <= 40 + BEYOND, "{held}");
}

async fn in_orderly_consumption_too(cluster: Cluster) {
    let threshold = PullThreshold { queue_messages: 20, ..ENOUGH };
    let held = held(&cluster, threshold, ConsumeMode::Orderly).await;
    assert!(held <= QUEUES * 20 + BEYOND, "{held}");
}
