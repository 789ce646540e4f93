//! A message of a transaction is seen once it is committed, and never when it is rolled back.
#![forbid(unsafe_code)]

use std::sync::Arc;

use async_trait::async_trait;
use mq_core::client::{TransactionChecker, TransactionState};
use mq_core::error::Error;
use mq_core::message::{Delivery, Outgoing};
use support::{Cluster, Recorder, each_transport, member, unique};

each_transport!(
    a_committed_message_is_seen_as_it_was_sent,
    a_rolled_back_message_is_never_seen,
    a_handle_decides_later,
    what_cannot_be_part_of_a_transaction_is_refused,
);

/// For tests in which nobody asks.
struct NotAsked;

#[async_trait]
impl TransactionChecker for NotAsked {
    async fn check(&self, _: Delivery) -> TransactionState {
        TransactionState::Unknown
    }
}

fn message(topic: &str, body: &'static str) -> Outgoing {
    Outgoing::new(topic, body).tag("paid").key(body).property("shop", "7").expect("a property")
}

async fn a_committed_message_is_seen_as_it_was_sent(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("tx-commit"));
    let producer = client.transaction_producer(&unique("tx"), Arc::new(NotAsked)).await;
    let producer = producer.expect("a producer");
    let reader = Recorder::new();
    let sent = producer
        .send_in_transaction(message(&topic, "order"), async |half| {
            assert_eq!(&*half.queue.topic, topic);
            TransactionState::Commit
        })
        .await
        .expect("the half message is stored");
    assert_eq!(sent.state, TransactionState::Commit);

    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    let seen = reader.given(1).await.remove(0);
    assert_eq!((&seen.body[..], seen.topic(), seen.tags()), (&b"order"[..], &*topic, Some("paid")));
    assert_eq!(seen.msg_id(), sent.receipt.msg_id);
    assert_eq!(seen.queue.queue_id, sent.receipt.queue.queue_id);
    assert_eq!(seen.property("shop"), Some("7"));
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["order"]);
    drop(consumer);
    client.shutdown().await;
}

async fn a_rolled_back_message_is_never_seen(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("tx-rollback"));
    let producer = client.transaction_producer(&unique("tx"), Arc::new(NotAsked)).await;
    let producer = producer.expect("a producer");
    let decisions = [
        ("a", TransactionState::Rollback),
        ("b", TransactionState::Commit),
        ("c", TransactionState::Unknown),
        ("d", TransactionState::Rollback),
        ("e", TransactionState::Commit),
    ];
    for (body, state) in decisions {
        let sent = producer.send_in_transaction(message(&topic, body), async |_| state).await;
        assert_eq!(sent.expect("the half message is stored").state, state);
    }
    let plain = client.producer("plain");
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    // What comes behind is seen, so that what is not seen is not on its way.
    let queues = plain.queues(&topic).await.expect("the topic is there");
    for queue in &queues {
        plain.send_to(message(&topic, "z"), queue).await.expect("it is stored");
    }
    reader.given(2 + queues.len()).await;
    let mut expected = vec!["b", "e"];
    expected.extend(vec!["z"; queues.len()]);
    assert_eq!(reader.bodies(), expected);
    drop(consumer);
    client.shutdown().await;
}

async fn a_handle_decides_later(cluster: Cluster) {
    let (client, topic) = (cluster.client().await, unique("tx-handle"));
    let producer = client.transaction_producer(&unique("tx"), Arc::new(NotAsked)).await;
    let producer = producer.expect("a producer");
    let first = producer.prepare(message(&topic, "first")).await.expect("stored");
    let second = producer.prepare(message(&topic, "second")).await.expect("stored");
    let third = producer.prepare(message(&topic, "third")).await.expect("stored");
    second.commit().await.expect("told");
    first.rollback().await.expect("told");
    drop(third);
    let reader = Recorder::new();
    let consumer = client.start_consumer(member(&unique("g"), &topic), reader.clone()).await;
    reader.given(1).await;
    assert_eq!(reader.bodies(), ["second"]);
    drop(consumer);
    client.shutdown().await;
}

async fn what_cannot_be_part_of_a_transaction_is_refused(cluster: Cluster) {
    let (client, group) = (cluster.client().await, unique("tx"));
    let producer = client.transaction_producer(&group, Arc::new(NotAsked)).await;
    let producer = producer.expect("a producer");
    let delayed = message(&unique("tx-delayed"), "late").delay_level(1);
    let refused = producer.prepare(delayed).await;
    assert!(matches!(refused, Err(Error::Message(_))), "{refused:?}");
    let again = client.transaction_producer(&group, Arc::new(NotAsked)).await;
    assert!(matches!(again, Err(Error::Config(_))), "{again:?}");
    client.shutdown().await;
}
