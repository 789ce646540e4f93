//! A message for an instant of its own is delivered then: not before, in the order of the instants,
//! and at once when the instant is over.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::Outcome;
use mq_core::message::{Delivery, Outgoing};
use mq_core::properties::key;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(with moved time:
    a_delay_passes_before_delivery,
    an_instant_is_kept,
    an_instant_that_is_over_is_now,
    the_earlier_instant_comes_first,
    what_is_too_far_away_is_refused,
    a_level_counts_before_an_instant,
    a_failed_one_comes_again_by_the_retry_rule,
);

const WHAT: &str = "timers";
const SINCE: &str = "5.0.0";

/// Apache RocketMQ rounds an instant down to the second before.
fn may_be_early_ms(cluster: &Cluster) -> i64 {
    if cluster.broker.is_some() { 0 } else { 2_000 }
}

/// What a consumer of `topic` was given, once that are `count`.
async fn given(cluster: &Cluster, topic: &str, count: usize) -> Vec<Delivery> {
    let recorder = Recorder::new();
    let client = cluster.client().await;
    let group = unique("group");
    let _consumer = client.start_consumer(member(&group, topic), recorder.clone()).await.unwrap();
    recorder.given(count).await
}

async fn a_delay_passes_before_delivery(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let delay = Duration::from_millis(3_456);
    producer.send(Outgoing::new(&topic, "late").tag("t").deliver_after(delay)).await.unwrap();
    let mark = producer.send(Outgoing::new(&topic, "mark")).await.unwrap();
    cluster.pass(delay + Duration::from_secs(1)).await;
    let seen = given(&cluster, &topic, 2).await;
    let find = |body: &str| seen.iter().find(|one| one.body == body).unwrap().clone();
    let (late, at_once) = (find("late"), find("mark"));
    assert_eq!((late.tags(), late.topic()), (Some("t"), topic.as_str()));
    assert_eq!(late.reconsume_times, 0);
    assert_eq!(at_once.msg_id(), mark.msg_id);
    let waited = late.store_timestamp_ms - late.born_timestamp_ms;
    let early = may_be_early_ms(&cluster);
    assert!((3_456 - early..20_000).contains(&waited), "it waited {waited} ms");
}

async fn an_instant_is_kept(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let at_ms = cluster.options().clock.now_ms() + 4_321;
    producer.send(Outgoing::new(&topic, "x").deliver_at(at_ms)).await.unwrap();
    cluster.pass(Duration::from_secs(6)).await;
    let seen = given(&cluster, &topic, 1).await;
    let late = seen[0].store_timestamp_ms - at_ms;
    let early = may_be_early_ms(&cluster);
    assert!((-early..10_000).contains(&late), "it came {late} ms after its instant");
}

async fn an_instant_that_is_over_is_now(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let past = cluster.options().clock.now_ms() - 1;
    let receipt = producer.send(Outgoing::new(&topic, "x").deliver_at(past)).await.unwrap();
    assert_eq!(receipt.recall_handle, None, "it is too late to take it back");
    let seen = given(&cluster, &topic, 1).await;
    assert_eq!(seen[0].queue_offset, receipt.queue_offset);
}

async fn the_earlier_instant_comes_first(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    producer.send(Outgoing::new(&topic, "mark")).await.unwrap();
    let queue = producer.queues(&topic).await.unwrap().remove(0);
    for seconds in [7, 3, 5] {
        let message = Outgoing::new(&topic, seconds.to_string());
        let message = message.deliver_after(Duration::from_secs(seconds));
        producer.send_to(message, &queue).await.unwrap();
    }
    cluster.pass(Duration::from_secs(9)).await;
    let mut seen = given(&cluster, &topic, 4).await;
    seen.retain(|one| one.body != "mark");
    seen.sort_by_key(|one| one.queue_offset);
    let order: Vec<_> = seen.iter().map(|one| &one.body[..]).collect();
    assert_eq!(order, [b"3", b"5", b"7"]);
    assert!(seen.iter().all(|one| one.queue == queue), "the queue they were sent to");
}

async fn what_is_too_far_away_is_refused(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let four_days = Duration::from_secs(4 * 24 * 3_600);
    let far = Outgoing::new(&topic, "x").deliver_after(four_days);
    assert_eq!(refusal(&producer.send(far).await.unwrap_err()), 13);
    let mut odd = Outgoing::new(&topic, "x");
    odd.properties.set(key::TIMER_DELIVER_MS, "tomorrow");
    assert_eq!(refusal(&producer.send(odd).await.unwrap_err()), 13);
}

fn refusal(error: &mq_core::Error) -> i32 {
    match error {
        mq_core::Error::Refused { code, .. } => *code,
        other => panic!("not refused by the broker: {other}"),
    }
}

async fn a_level_counts_before_an_instant(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let topic = unique("topic");
    let producer = cluster.client().await.producer("p");
    let mut message = Outgoing::new(&topic, "x").delay_level(1);
    message.properties.set(key::TIMER_DELAY_SEC, "3600");
    producer.send(message).await.unwrap();
    cluster.pass(Duration::from_secs(2)).await;
    assert_eq!(&given(&cluster, &topic, 1).await[0].body[..], b"x");
}

async fn a_failed_one_comes_again_by_the_retry_rule(cluster: Cluster) {
    if !cluster.has(SINCE, WHAT) {
        return;
    }
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let recorder = Recorder::answering(|one| match one.reconsume_times {
        0 => Outcome::Retry { delay_level: 1, cause: "the test wants it".to_owned() },
        _ => Outcome::Ack,
    });
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let delay = Duration::from_secs(if cluster.broker.is_some() { 3_600 } else { 3 });
    client.producer("p").send(Outgoing::new(&topic, "x").deliver_after(delay)).await.unwrap();
    cluster.pass(delay + Duration::from_secs(1)).await;
    recorder.given(1).await;
    while recorder.seen().len() < 2 {
        cluster.pass(Duration::from_secs(1)).await;
    }
    let again = recorder.seen();
    let waited = again[1].store_timestamp_ms - again[0].store_timestamp_ms;
    assert!((1_000..3_000_000).contains(&waited), "a second, by level 1; no hour: {waited} ms");
}
