//! Members of a group share the messages: every message is handled once, whoever joins and leaves.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{Client, Consumer};
use mq_core::message::Outgoing;
use support::{Cluster, Recorder, eventually, member, numbered, sorted_bodies, unique};

support::each_transport!(members_share_and_hand_over, groups_do_not_share);

const SECONDS_5: Duration = Duration::from_secs(5);

struct Member {
    client: Client,
    consumer: Consumer,
    recorder: Arc<Recorder>,
}

impl Member {
    async fn join(cluster: &Cluster, group: &str, topic: &str) -> Self {
        let (client, recorder) = (cluster.client().await, Recorder::new());
        let consumer = client.start_consumer(member(group, topic), recorder.clone()).await.unwrap();
        Self { client, consumer, recorder }
    }

    async fn leave(self) {
        self.consumer.shutdown(SECONDS_5).await;
        self.client.shutdown().await;
    }
}

async fn members_share_and_hand_over(cluster: Cluster) {
    const COUNT: usize = 3_000;
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    producer.send(Outgoing::new(&topic, "0000")).await.unwrap();
    let first = Member::join(&cluster, &group, &topic).await;
    first.recorder.given(1).await;

    let sending = {
        let (producer, topic) = (producer.clone(), topic.clone());
        async move {
            for body in numbered(COUNT).into_iter().skip(1) {
                producer.send(Outgoing::new(&topic, body)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let moving = async {
        let second = Member::join(&cluster, &group, &topic).await;
        second.recorder.given(20).await;
        let third = Member::join(&cluster, &group, &topic).await;
        third.recorder.given(20).await;
        let recorders = [second.recorder.clone(), third.recorder.clone()];
        second.leave().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        (third, recorders)
    };
    let ((), (third, [second_saw, third_saw])) = tokio::join!(sending, moving);

    let recorders = [first.recorder.clone(), second_saw, third_saw];
    let total = || recorders.iter().map(|recorder| recorder.seen().len()).sum::<usize>();
    eventually("all messages are handled", || total() >= COUNT).await;
    first.leave().await;
    third.leave().await;

    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for recorder in &recorders {
        for body in recorder.bodies() {
            *times.entry(body).or_default() += 1;
        }
    }
    assert_eq!(times.len(), COUNT, "none is lost");
    let doubled: Vec<&String> =
        times.iter().filter(|(_, times)| **times > 1).map(|(body, _)| body).collect();
    assert!(doubled.is_empty(), "handled more than once: {doubled:?}");
}

async fn groups_do_not_share(cluster: Cluster) {
    let topic = unique("topic");
    let client = cluster.client().await;
    let producer = client.producer("p");
    let bodies = numbered(50);
    for body in &bodies {
        producer.send(Outgoing::new(&topic, body.clone())).await.unwrap();
    }
    let (mail, sms) = (Recorder::new(), Recorder::new());
    for recorder in [&mail, &sms] {
        let options = member(&unique("group"), &topic);
        let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
        recorder.given(bodies.len()).await;
        consumer.shutdown(SECONDS_5).await;
    }
    assert_eq!(sorted_bodies(&mail.seen()), bodies);
    assert_eq!(sorted_bodies(&sms.seen()), bodies);
}
