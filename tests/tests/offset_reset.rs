//! An administrator moves a group while it consumes, or while nobody does: exactly the expected
//! messages come (again).
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{Client, Consumer};
use mq_core::message::Outgoing;
use support::{Admin, Cluster, Recorder, member, numbered, sorted_bodies, unique};

support::each_transport!(
    to_the_beginning_while_three_consume,
    to_a_time_while_three_consume,
    to_the_end_while_three_consume,
    while_nobody_consumes,
);

const COUNT: usize = 60;
const SECONDS_5: Duration = Duration::from_secs(5);
/// Apart enough for a broker that looks for the nearest message in time.
const GAP: Duration = Duration::from_secs(1);

/// Three members of a group, each in a client of its own. They are there before the topic is, so
/// that no queue changes hands: on Apache RocketMQ 5 the forgotten pull of a former owner may take
/// a reset away.
struct Group {
    name: String,
    topic: String,
    client: Client,
    members: Vec<(Client, Consumer)>,
    recorder: Arc<Recorder>,
}

impl Group {
    async fn join(cluster: &Cluster, topic: &str) -> Self {
        let (name, recorder) = (unique("group"), Recorder::new());
        let mut members = Vec::new();
        for _ in 0..3 {
            let client = cluster.client().await;
            let options = member(&name, topic);
            let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
            members.push((client, consumer));
        }
        let client = cluster.client().await;
        Self { name, topic: topic.to_owned(), client, members, recorder }
    }

    /// Waits until everything is handled and told.
    async fn settled(&self, count: usize) {
        self.recorder.given(count).await;
        loop {
            let progress = self.client.progress(&self.name, &self.topic).await.unwrap();
            if progress.iter().all(|queue| queue.committed == Some(queue.max_offset)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn leave(self) {
        for (client, consumer) in self.members {
            consumer.shutdown(SECONDS_5).await;
            client.shutdown().await;
        }
    }
}

async fn send(client: &Client, topic: &str, bodies: &[String]) {
    let producer = client.producer("p");
    for body in bodies {
        producer.send(Outgoing::new(topic, body.clone())).await.unwrap();
    }
}

fn twice(bodies: &[String]) -> Vec<String> {
    bodies.iter().flat_map(|body| [body.clone(), body.clone()]).collect()
}

async fn to_the_beginning_while_three_consume(cluster: Cluster) {
    let (topic, bodies) = (unique("topic"), numbered(COUNT));
    let group = Group::join(&cluster, &topic).await;
    send(&group.client, &topic, &bodies).await;
    group.settled(COUNT).await;
    let targets = Admin::of(&cluster, &topic).await.reset(&group.name, &topic, 0).await;
    assert!(targets.0.values().all(|target| *target == 0), "{targets:?}");
    group.settled(2 * COUNT).await;
    assert_eq!(group.recorder.bodies(), twice(&bodies));
    group.leave().await;
}

async fn to_a_time_while_three_consume(cluster: Cluster) {
    let (topic, bodies) = (unique("topic"), numbered(COUNT));
    let (early, late) = bodies.split_at(COUNT / 2);
    let group = Group::join(&cluster, &topic).await;
    send(&group.client, &topic, early).await;
    tokio::time::sleep(GAP).await;
    let middle_ms = mq_core::clock::Clock::System.now_ms();
    send(&group.client, &topic, late).await;
    group.settled(COUNT).await;
    Admin::of(&cluster, &topic).await.reset(&group.name, &topic, middle_ms).await;
    group.settled(COUNT + late.len()).await;
    assert_eq!(group.recorder.bodies(), [early, &twice(late)].concat());
    group.leave().await;
}

async fn to_the_end_while_three_consume(cluster: Cluster) {
    let (topic, bodies) = (unique("topic"), numbered(COUNT + 8));
    let (before, after) = bodies.split_at(COUNT);
    let group = Group::join(&cluster, &topic).await;
    send(&group.client, &topic, before).await;
    group.settled(COUNT).await;
    Admin::of(&cluster, &topic).await.reset(&group.name, &topic, -1).await;
    send(&group.client, &topic, after).await;
    group.settled(bodies.len()).await;
    assert_eq!(group.recorder.bodies(), bodies, "each once");
    group.leave().await;
}

async fn while_nobody_consumes(cluster: Cluster) {
    if !cluster.has("5.0.0", "reset of groups that are not connected") {
        return;
    }
    let (topic, name, bodies) = (unique("topic"), unique("group"), numbered(COUNT));
    let client = cluster.client().await;
    send(&client, &topic, &bodies).await;
    for round in 0..2 {
        let recorder = Recorder::new();
        let options = member(&name, &topic);
        let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
        let seen = recorder.given(COUNT).await;
        assert_eq!(sorted_bodies(&seen), bodies, "round {round}");
        assert_eq!(consumer.shutdown(SECONDS_5).await.uncommitted, 0);
        let progress = client.progress(&name, &topic).await.unwrap();
        assert!(progress.iter().all(|queue| queue.lag() == 0), "{progress:?}");
        Admin::of(&cluster, &topic).await.reset(&name, &topic, 0).await;
    }
}
