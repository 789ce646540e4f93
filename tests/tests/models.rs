//! Clustering gives each message to one member of a group, broadcasting to every one.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{
    Client, ClientOptions, ConsumeFrom, ConsumeMode, Consumer, ConsumerOptions, MessageModel,
    Outcome,
};
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, eventually, member, numbered, sorted_bodies, unique};

support::each_transport!(
    clustering_gives_each_message_to_one_member,
    broadcasting_gives_every_message_to_every_member,
    a_broadcasting_member_goes_on_where_it_stood,
    a_broadcasting_member_without_a_name_begins_where_it_says,
    what_fails_in_broadcasting_is_dropped,
    broadcasting_can_be_orderly,
);

const COUNT: usize = 10_000;
const SECONDS_5: Duration = Duration::from_secs(5);

fn broadcasting(group: &str, topic: &str) -> ConsumerOptions {
    let mut options = member(group, topic);
    options.model = MessageModel::Broadcasting;
    options
}

/// Sends the bodies in batches, each to the next queue.
async fn send(cluster: &Cluster, topic: &str, bodies: &[String]) {
    let producer = cluster.client().await.producer("p");
    for batch in bodies.chunks(100) {
        let batch = batch.iter().map(|body| Outgoing::new(topic, body.clone())).collect();
        producer.send_batch(batch).await.unwrap();
    }
}

/// Three members, each with a client of its own.
async fn three(cluster: &Cluster, options: &ConsumerOptions) -> Vec<(Consumer, Arc<Recorder>)> {
    let mut members = Vec::new();
    for _ in 0..3 {
        let (client, recorder) = (cluster.client().await, Recorder::new());
        let consumer = client.start_consumer(options.clone(), recorder.clone()).await.unwrap();
        members.push((consumer, recorder));
    }
    members
}

async fn clustering_gives_each_message_to_one_member(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(COUNT);
    send(&cluster, &topic, &bodies[..1]).await;
    let members = three(&cluster, &member(&group, &topic)).await;
    let total = || members.iter().map(|(_, recorder)| recorder.seen().len()).sum::<usize>();
    send(&cluster, &topic, &bodies[1..]).await;
    eventually("all are handled", || total() >= COUNT).await;
    for (consumer, _) in &members {
        consumer.shutdown(SECONDS_5).await;
    }
    let counts: Vec<usize> = members.iter().map(|(_, recorder)| recorder.seen().len()).collect();
    assert!(counts.iter().all(|count| *count > 0), "each has its share: {counts:?}");
    let mut all: Vec<String> = members.iter().flat_map(|(_, r)| r.bodies()).collect();
    all.sort();
    assert_eq!(all, bodies, "each once");
}

async fn broadcasting_gives_every_message_to_every_member(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(COUNT);
    send(&cluster, &topic, &bodies[..1]).await;
    let members = three(&cluster, &broadcasting(&group, &topic)).await;
    send(&cluster, &topic, &bodies[1..]).await;
    for (consumer, recorder) in &members {
        recorder.given(COUNT).await;
        consumer.shutdown(SECONDS_5).await;
        assert_eq!(recorder.bodies(), bodies, "each once");
    }
}

async fn a_broadcasting_member_goes_on_where_it_stood(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let folder = tempfile::tempdir().unwrap();
    let bodies = numbered(400);
    for round in bodies.chunks(100) {
        send(&cluster, &topic, round).await;
        let instance = Some("shop-1".to_owned());
        let client = Client::connect(ClientOptions { instance, ..cluster.options() });
        let client = client.await.unwrap();
        let mut options = broadcasting(&group, &topic);
        options.offsets_folder = Some(folder.path().to_owned());
        let recorder = Recorder::new();
        let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
        recorder.given(round.len()).await;
        consumer.shutdown(SECONDS_5).await;
        assert_eq!(recorder.bodies(), round, "not one of the rounds before");
        let file = folder.path().join(client.id()).join(&group).join("offsets.json");
        assert!(file.exists(), "{}", file.display());
        client.shutdown().await;
    }
}

async fn a_broadcasting_member_without_a_name_begins_where_it_says(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    send(&cluster, &topic, &numbered(10)).await;
    for _ in 0..2 {
        let recorder = Recorder::new();
        let client = cluster.client().await;
        let options = broadcasting(&group, &topic);
        let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
        assert_eq!(sorted_bodies(&recorder.given(10).await), numbered(10));
        consumer.shutdown(SECONDS_5).await;
    }
}

async fn what_fails_in_broadcasting_is_dropped(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let folder = tempfile::tempdir().unwrap();
    send(&cluster, &topic, &numbered(10)).await;
    let mut options = broadcasting(&group, &topic);
    options.offsets_folder = Some(folder.path().to_owned());
    let settings = ClientOptions { instance: Some("shop-2".to_owned()), ..cluster.options() };
    let recorder = Recorder::answering(|_| Outcome::Retry {
        delay_level: 1,
        cause: "the test wants it".to_owned(),
    });
    let client = Client::connect(settings.clone()).await.unwrap();
    let consumer = client.start_consumer(options.clone(), recorder.clone()).await.unwrap();
    recorder.given(10).await;
    consumer.shutdown(SECONDS_5).await;
    client.shutdown().await;

    let client = Client::connect(settings).await.unwrap();
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    send(&cluster, &topic, &numbered(11)[10..]).await;
    let seen = recorder.given(11).await;
    assert_eq!(sorted_bodies(&seen), numbered(11), "none came again");
}

async fn broadcasting_can_be_orderly(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(300);
    let producer = cluster.client().await.producer("p");
    for body in &bodies {
        producer.send_by_key(Outgoing::new(&topic, body.clone()), "one").await.unwrap();
    }
    let mut options = broadcasting(&group, &topic);
    options.mode = ConsumeMode::Orderly;
    options.from = ConsumeFrom::First;
    options.suspend = Duration::from_millis(20);
    options.max_attempts = Some(1);
    let answer = |body: &[u8]| match body {
        b"0007" => Outcome::DeadLetter { cause: "the test wants it".to_owned() },
        b"0009" => Outcome::Retry { delay_level: 0, cause: "the test wants it".to_owned() },
        _ => Outcome::Ack,
    };
    for _ in 0..2 {
        let recorder = Recorder::answering(move |delivery| answer(&delivery.body));
        let client = cluster.client().await;
        let consumer = client.start_consumer(options.clone(), recorder.clone()).await.unwrap();
        let seen = recorder.given(bodies.len() + 1).await;
        consumer.shutdown(SECONDS_5).await;
        let given: Vec<_> = seen.iter().map(|d| String::from_utf8_lossy(&d.body)).collect();
        let mut expected = bodies.clone();
        expected.insert(9, "0009".to_owned());
        assert_eq!(given, expected);
    }
}
