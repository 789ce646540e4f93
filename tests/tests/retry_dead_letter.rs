//! A message whose handler fails comes again, later each time; after its last attempt, or at once
//! when the handler says so, it is a dead letter.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{Handler, Outcome};
use mq_core::message::{Delivery, Outgoing};
use mq_core::names::dlq_topic;
use support::{Cluster, Recorder, eventually, member, sorted_bodies, unique};

support::each_transport!(with moved time:
    a_failed_message_comes_again_after_10_s,
    a_panic_is_a_failure,
    no_answer_in_time_is_a_failure,
    the_last_failure_makes_a_dead_letter,
    a_dead_letter_at_once,
);

/// The broker's first retry: delay level 3.
const FIRST_RETRY: Duration = Duration::from_secs(10);

fn fail() -> Outcome {
    Outcome::Retry { delay_level: 0, cause: "the test wants it".to_owned() }
}

async fn a_failed_message_comes_again_after_10_s(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let recorder =
        Recorder::answering(|d| if d.reconsume_times == 0 { fail() } else { Outcome::Ack });
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    let message = Outgoing::new(&topic, "again").tag("t").key("k");
    let receipt = client.producer("p").send(message).await.unwrap();
    recorder.given(1).await;
    let again = given_again(&cluster, &recorder, 2).await;
    assert_eq!(&again.body[..], b"again");
    assert_eq!(again.reconsume_times, 1);
    assert_eq!(again.topic(), topic, "the topic it was sent to, not the retry topic");
    assert_eq!((again.tags(), again.keys().next()), (Some("t"), Some("k")));
    assert_eq!(again.msg_id(), receipt.msg_id, "it is still the same message");
    let waited = again.store_timestamp_ms - recorder.seen()[0].store_timestamp_ms;
    assert!((10_000..20_000).contains(&waited), "it waited {waited} ms");
}

/// Lets time pass until `count` messages were given; returns the last.
async fn given_again(cluster: &Cluster, recorder: &Recorder, count: usize) -> Delivery {
    tokio::join!(cluster.pass(FIRST_RETRY + Duration::from_secs(1)), recorder.given(count))
        .1
        .pop()
        .expect("at least one was given")
}

async fn a_panic_is_a_failure(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let panicked = Arc::new(AtomicBool::new(false));
    let panics = panicked.clone();
    let recorder = Recorder::answering(move |_| {
        assert!(panics.swap(true, Ordering::SeqCst), "the test wants it");
        Outcome::Ack
    });
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "x")).await.unwrap();
    eventually("the handler panicked", || panicked.load(Ordering::SeqCst)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = given_again(&cluster, &recorder, 1).await;
    assert_eq!(again.reconsume_times, 1);
}

/// Never ends the first time.
struct Stuck {
    began: AtomicBool,
    then: Arc<Recorder>,
}

#[async_trait]
impl Handler for Stuck {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        if !self.began.swap(true, Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.then.handle(delivery).await
    }
}

async fn no_answer_in_time_is_a_failure(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let then = Recorder::new();
    let stuck = Arc::new(Stuck { began: AtomicBool::new(false), then: then.clone() });
    let mut options = member(&group, &topic);
    options.consume_timeout = Duration::from_secs(2);
    let _consumer = client.start_consumer(options, stuck.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "x")).await.unwrap();
    eventually("the handler runs", || stuck.began.load(Ordering::SeqCst)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.pass(Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(given_again(&cluster, &then, 1).await.reconsume_times, 1);
}

async fn the_last_failure_makes_a_dead_letter(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let recorder = Recorder::answering(|_| fail());
    let mut options = member(&group, &topic);
    options.max_attempts = Some(1);
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "hopeless").key("k")).await.unwrap();
    recorder.given(1).await;
    given_again(&cluster, &recorder, 2).await;
    let dead = dead_letter(&cluster, &group).await;
    assert_eq!(&dead.body[..], b"hopeless");
    assert_eq!(dead.keys().next(), Some("k"));
    assert_eq!(dead.property("RETRY_TOPIC"), Some(topic.as_str()));
}

async fn a_dead_letter_at_once(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let recorder = Recorder::answering(|_| Outcome::DeadLetter { cause: "not for us".to_owned() });
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "dead")).await.unwrap();
    let dead = dead_letter(&cluster, &group).await;
    assert_eq!(&dead.body[..], b"dead");
    assert_eq!(recorder.seen().len(), 1);
    assert_eq!(sorted_bodies(&recorder.seen()), ["dead"]);
}

/// What lies in a group's dead letter topic, read by a group of its own.
async fn dead_letter(cluster: &Cluster, group: &str) -> Delivery {
    let recorder = Recorder::new();
    let reader = member(&unique("reader"), &dlq_topic(group));
    let client = cluster.client().await;
    let _consumer = client.start_consumer(reader, recorder.clone()).await.unwrap();
    recorder.given(1).await.remove(0)
}
