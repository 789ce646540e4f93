//! Handlers that take several messages at once and say of each what becomes of it.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use mq_core::client::{BatchHandler, ConsumeMode, Outcome};
use mq_core::message::{Delivery, Outgoing};
use support::{Cluster, eventually, member, numbered, unique};

support::each_transport!(
    each_message_of_a_batch_has_its_outcome,
    a_prefix_that_is_acknowledged_does_not_come_again,
    a_batch_that_panics_comes_again,
);

type Answer = dyn Fn(&[Delivery]) -> Vec<Outcome> + Send + Sync;

/// Remembers the batches that it was given.
struct Batches {
    seen: Mutex<Vec<Vec<Delivery>>>,
    answer: Box<Answer>,
}

impl Batches {
    fn answering(
        answer: impl Fn(&[Delivery]) -> Vec<Outcome> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), answer: Box::new(answer) })
    }

    /// The bodies of each batch.
    fn bodies(&self) -> Vec<Vec<String>> {
        let text = |delivery: &Delivery| String::from_utf8_lossy(&delivery.body).into_owned();
        self.seen.lock().unwrap().iter().map(|batch| batch.iter().map(text).collect()).collect()
    }

    fn all(&self) -> Vec<Delivery> {
        self.seen.lock().unwrap().concat()
    }
}

#[async_trait]
impl BatchHandler for Batches {
    async fn handle(&self, deliveries: Vec<Delivery>) -> Vec<Outcome> {
        self.seen.lock().unwrap().push(deliveries.clone());
        (self.answer)(&deliveries)
    }
}

fn again() -> Outcome {
    Outcome::Retry { delay_level: 1, cause: "the test wants it".to_owned() }
}

async fn filled(cluster: &Cluster, topic: &str, count: usize) -> Vec<String> {
    let producer = cluster.client().await.producer("p");
    let bodies = numbered(count);
    for body in &bodies {
        producer.send_by_key(Outgoing::new(topic, body.clone()), "one").await.unwrap();
    }
    bodies
}

async fn each_message_of_a_batch_has_its_outcome(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = filled(&cluster, &topic, 60).await;
    let fails =
        |delivery: &Delivery| delivery.body.ends_with(b"3") && delivery.reconsume_times == 0;
    let batches = Batches::answering(move |deliveries| {
        deliveries.iter().map(|d| if fails(d) { again() } else { Outcome::Ack }).collect()
    });
    let mut options = member(&group, &topic);
    options.concurrency = 1;
    let client = cluster.client().await;
    let _consumer = client.start_batch_consumer(options, 7, batches.clone()).await.unwrap();
    eventually("all came, and what failed came again", || batches.all().len() == 66).await;
    let seen = batches.bodies();
    assert!(seen.iter().all(|batch| (1..=7).contains(&batch.len())), "{seen:?}");
    assert!(seen.iter().any(|batch| batch.len() == 7), "what waits comes together: {seen:?}");
    let mut all: Vec<String> = seen.concat();
    all.truncate(60);
    assert_eq!(all, bodies, "in the queue's order");
    let repeated: BTreeSet<String> = seen.concat().into_iter().skip(60).collect();
    let expected: BTreeSet<String> = bodies.into_iter().filter(|b| b.ends_with('3')).collect();
    assert_eq!(repeated, expected);
}

async fn a_prefix_that_is_acknowledged_does_not_come_again(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = filled(&cluster, &topic, 20).await;
    // Java's ack index: two of each batch, and nothing is said of the rest.
    let batches = Batches::answering(|deliveries| vec![Outcome::Ack; deliveries.len().min(2)]);
    let mut options = member(&group, &topic);
    options.mode = ConsumeMode::Orderly;
    options.suspend = std::time::Duration::from_millis(10);
    let client = cluster.client().await;
    let _consumer = client.start_batch_consumer(options, 5, batches.clone()).await.unwrap();
    let last = |batch: &Vec<String>| batch.len() <= 2 && batch.last() == bodies.last();
    eventually("the last is handled", || batches.bodies().iter().any(last)).await;
    let mut done: Vec<String> = Vec::new();
    for batch in batches.bodies() {
        let expected: Vec<String> =
            bodies[done.len()..].iter().take(batch.len()).cloned().collect();
        assert_eq!(batch, expected, "it goes on behind the {} that are done", done.len());
        done.extend(batch.into_iter().take(2));
    }
    assert_eq!(done, bodies);
}

async fn a_batch_that_panics_comes_again(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = filled(&cluster, &topic, 5).await;
    let batches = Batches::answering(|deliveries| {
        assert!(deliveries.iter().all(|d| d.reconsume_times > 0), "the test wants it");
        vec![Outcome::Ack; deliveries.len()]
    });
    let mut options = member(&group, &topic);
    options.mode = ConsumeMode::Orderly;
    options.suspend = std::time::Duration::from_millis(10);
    let client = cluster.client().await;
    let _consumer = client.start_batch_consumer(options, 1, batches.clone()).await.unwrap();
    eventually("each came twice", || batches.all().len() == 10).await;
    let expected: Vec<String> = bodies.iter().flat_map(|b| [b.clone(), b.clone()]).collect();
    assert_eq!(batches.bodies().concat(), expected);
}
