//! A pull consumer gives out messages when it is asked: shared by subscription or from chosen
//! queues, at least once, from wherever it is sent to.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeSet;
use std::time::Duration;

use mq_core::client::{Client, ConsumeFrom, PullConsumer, PullOptions};
use mq_core::message::{Delivery, Outgoing};
use mq_core::names::MessageQueue;
use support::{Cluster, numbered, sorted_bodies, unique};

support::each_transport!(
    members_share_by_subscription,
    what_was_not_committed_comes_again,
    a_chosen_queue_is_read_from_anywhere,
    a_paused_queue_rests,
    prefetch_is_bounded_and_tags_are_kept,
    a_reset_is_followed,
    a_pull_stands_for_itself,
);

const SECOND: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(60);

fn options(group: &str) -> PullOptions {
    PullOptions { from: ConsumeFrom::First, auto_commit: None, ..PullOptions::new(group) }
}

async fn send(client: &Client, topic: &str, bodies: &[String]) {
    let producer = client.producer("p");
    for body in bodies {
        producer.send(Outgoing::new(topic, body.clone())).await.unwrap();
    }
}

/// Polls until there are `count` messages.
async fn polled(consumer: &PullConsumer, count: usize) -> Vec<Delivery> {
    let mut seen = Vec::new();
    let polling = async {
        while seen.len() < count {
            seen.extend(consumer.poll(SECOND).await);
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, polling).await;
    assert!(in_time.is_ok(), "{} of {count} messages came", seen.len());
    seen
}

async fn members_share_by_subscription(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(100));
    let (one, other) = (cluster.client().await, cluster.client().await);
    send(&one, &topic, &bodies).await;
    let start = async |client: &Client| {
        client.start_pull_consumer(options(&group).subscribe(&topic, "*")).await.unwrap()
    };
    let (first, second) = (start(&one).await, start(&other).await);
    let all: BTreeSet<MessageQueue> = one.read_queues(&topic).await.unwrap().into_iter().collect();
    let shared = || {
        let (first, second) = (first.assignment(), second.assignment());
        !first.is_empty()
            && !second.is_empty()
            && &first | &second == all
            && first.is_disjoint(&second)
    };
    support::eventually("the queues are shared", shared).await;
    let mut seen = Vec::new();
    while sorted_bodies(&seen).into_iter().collect::<BTreeSet<_>>().len() < bodies.len() {
        seen.extend(first.poll(SECOND / 10).await);
        seen.extend(second.poll(SECOND / 10).await);
    }
    for consumer in [first, second] {
        consumer.commit().await.unwrap();
        consumer.shutdown().await.unwrap();
    }
    let progress = one.progress(&group, &topic).await.unwrap();
    assert!(progress.iter().all(|queue| queue.lag() == 0), "{progress:?}");
}

async fn what_was_not_committed_comes_again(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(20));
    let client = cluster.client().await;
    send(&client, &topic, &bodies).await;
    let wanted = PullOptions { poll_batch: 8, ..options(&group).subscribe(&topic, "*") };
    let consumer = client.start_pull_consumer(wanted.clone()).await.unwrap();
    let done = polled(&consumer, 8).await;
    consumer.commit().await.unwrap();
    let lost = polled(&consumer, 1).await;
    assert!(!lost.is_empty());
    consumer.shutdown().await.unwrap();

    let consumer = client.start_pull_consumer(wanted).await.unwrap();
    let rest = polled(&consumer, bodies.len() - done.len()).await;
    assert_eq!(sorted_bodies(&[done, rest].concat()), bodies, "all but the committed came again");
    // The poll says that what it gave out before is done.
    assert!(consumer.poll(Duration::ZERO).await.is_empty());
    consumer.shutdown().await.unwrap();
    let progress = client.progress(&group, &topic).await.unwrap();
    assert!(progress.iter().all(|queue| queue.lag() == 0), "{progress:?}");
}

/// The first queue of a topic, filled with these messages alone.
async fn filled(client: &Client, topic: &str, bodies: &[String]) -> MessageQueue {
    let producer = client.producer("p");
    let queue = producer.send(Outgoing::new(topic, bodies[0].clone())).await.unwrap().queue;
    for body in &bodies[1..] {
        producer.send_to(Outgoing::new(topic, body.clone()), &queue).await.unwrap();
    }
    queue
}

async fn a_chosen_queue_is_read_from_anywhere(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(10));
    let client = cluster.client().await;
    let queue = filled(&client, &topic, &bodies).await;
    let consumer = client.start_pull_consumer(options(&group)).await.unwrap();
    assert!(consumer.seek(&queue, 1).is_err(), "not assigned yet");
    consumer.assign([queue.clone()]).await.unwrap();
    assert_eq!(consumer.assignment(), [queue.clone()].into());
    assert_eq!(sorted_bodies(&polled(&consumer, 10).await), bodies);
    assert!(consumer.committed(&queue).await.unwrap().is_none_or(|offset| offset == 0));

    consumer.seek(&queue, 7).unwrap();
    assert_eq!(sorted_bodies(&polled(&consumer, 3).await), bodies[7..]);
    consumer.commit().await.unwrap();
    assert_eq!(consumer.committed(&queue).await.unwrap(), Some(10));

    consumer.seek_to_begin(&queue).await.unwrap();
    assert_eq!(sorted_bodies(&polled(&consumer, 10).await), bodies);
    consumer.seek_to_end(&queue).await.unwrap();
    consumer.commit().await.unwrap();
    assert_eq!(consumer.committed(&queue).await.unwrap(), Some(10));
    consumer.assign([]).await.unwrap();
    assert!(consumer.assignment().is_empty());
    consumer.shutdown().await.unwrap();
}

async fn a_paused_queue_rests(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(5));
    let client = cluster.client().await;
    let queue = filled(&client, &topic, &bodies).await;
    let consumer = client.start_pull_consumer(options(&group)).await.unwrap();
    consumer.assign([queue.clone()]).await.unwrap();
    consumer.pause(std::slice::from_ref(&queue)).unwrap();
    assert!(consumer.poll(SECOND).await.is_empty());
    consumer.resume(std::slice::from_ref(&queue)).unwrap();
    assert_eq!(sorted_bodies(&polled(&consumer, 5).await), bodies);
    consumer.shutdown().await.unwrap();
}

async fn prefetch_is_bounded_and_tags_are_kept(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    for (number, body) in numbered(40).into_iter().enumerate() {
        let tag = if number % 2 == 0 { "even" } else { "odd" };
        producer.send(Outgoing::new(&topic, body).tag(tag)).await.unwrap();
    }
    let wanted = PullOptions {
        prefetch_messages: 1,
        pull_batch: 2,
        auto_commit: Some(SECOND / 5),
        ..options(&group).subscribe(&topic, "odd || none")
    };
    let consumer = client.start_pull_consumer(wanted).await.unwrap();
    let seen = polled(&consumer, 20).await;
    let odd: Vec<String> = numbered(40).into_iter().skip(1).step_by(2).collect();
    assert_eq!(sorted_bodies(&seen), odd);
    let told = async {
        loop {
            assert!(consumer.poll(SECOND / 10).await.is_empty());
            let progress = client.progress(&group, &topic).await.unwrap();
            if progress.iter().all(|queue| queue.lag() == 0) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, told).await.unwrap();
    consumer.shutdown().await.unwrap();
}

async fn a_reset_is_followed(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(30));
    let client = cluster.client().await;
    send(&client, &topic, &bodies).await;
    let consumer =
        client.start_pull_consumer(options(&group).subscribe(&topic, "*")).await.unwrap();
    assert_eq!(sorted_bodies(&polled(&consumer, 30).await), bodies);
    consumer.commit().await.unwrap();
    let all = client.read_queues(&topic).await.unwrap().len();
    support::eventually("all queues are here", || consumer.assignment().len() == all).await;
    consumer.commit().await.unwrap();
    support::Admin::of(&cluster, &topic).await.reset(&group, &topic, 0).await;
    assert_eq!(sorted_bodies(&polled(&consumer, 30).await), bodies);
    consumer.shutdown().await.unwrap();
}

async fn a_pull_stands_for_itself(cluster: Cluster) {
    let (topic, group, bodies) = (unique("topic"), unique("group"), numbered(10));
    let client = cluster.client().await;
    let queue = filled(&client, &topic, &bodies).await;
    while client.max_offset(&queue).await.unwrap() < 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let found = client.pull(&group, &queue, 4, 3).await.unwrap();
    assert_eq!((found.next, found.min, found.max), (7, 0, 10));
    assert_eq!(sorted_bodies(&found.messages), bodies[4..7]);
    let end = client.pull(&group, &queue, 10, 3).await.unwrap();
    assert_eq!((end.next, end.messages.len()), (10, 0));
    let beyond = client.pull(&group, &queue, 99, 3).await.unwrap();
    assert!(beyond.messages.is_empty() && beyond.next < 99, "{beyond:?}");
}
