//! A subscription by tags gives the messages that have one of them, and no others.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::client::ConsumeFrom;
use mq_core::client::ConsumerOptions;
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, sorted_bodies, unique};

support::each_transport!(only_the_wanted_tags_arrive, tags_of_one_hash_are_told_apart);

fn wanting(topic: &str, expression: &str) -> ConsumerOptions {
    let mut options = ConsumerOptions::new(unique("group")).subscribe(topic, expression);
    options.from = ConsumeFrom::First;
    options
}

async fn only_the_wanted_tags_arrive(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let producer = client.producer("p");
    for tag in ["on", "off", "", "new", "on"] {
        producer.send(Outgoing::new(&topic, format!("[{tag}]")).tag(tag)).await.unwrap();
    }
    let (some, all) = (Recorder::new(), Recorder::new());
    let _some = client.start_consumer(wanting(&topic, "on || new"), some.clone()).await.unwrap();
    let _all = client.start_consumer(wanting(&topic, "*"), all.clone()).await.unwrap();
    assert_eq!(sorted_bodies(&all.given(5).await).len(), 5);
    assert_eq!(sorted_bodies(&some.given(3).await), ["[new]", "[on]", "[on]"]);
}

/// "Aa" and "BB" have one hash code in Java, and brokers compare hash codes.
async fn tags_of_one_hash_are_told_apart(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let producer = client.producer("p");
    for (tag, body) in [("BB", "other"), ("Aa", "wanted"), ("BB", "other"), ("Aa", "last")] {
        producer.send_by_key(Outgoing::new(&topic, body).tag(tag), "one queue").await.unwrap();
    }
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(wanting(&topic, "Aa"), recorder.clone()).await.unwrap();
    assert_eq!(sorted_bodies(&recorder.given(2).await), ["last", "wanted"]);
}
