//! Orderly consumption: the messages of a queue one after another, a failing one in everybody's
//! way but only in its own queue.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mq_core::client::{ConsumeMode, ConsumerOptions, Handler, Outcome};
use mq_core::message::{Delivery, Outgoing};
use mq_core::names::dlq_topic;
use support::{Cluster, Recorder, eventually, member, numbered, unique};

support::each_transport!(
    messages_of_a_queue_come_one_by_one_in_order,
    a_failing_message_holds_up_its_queue_only,
    a_message_that_fails_too_often_is_a_dead_letter,
    a_queue_goes_to_the_next_member_at_once,
    a_handler_that_takes_too_long_is_called_again,
);

const SECONDS_5: Duration = Duration::from_secs(5);

fn orderly(group: &str, topic: &str) -> ConsumerOptions {
    let mut options = member(group, topic);
    options.mode = ConsumeMode::Orderly;
    options.suspend = Duration::from_millis(50);
    options
}

/// Puts each of `bodies` into every queue of the topic.
async fn fill(cluster: &Cluster, topic: &str, bodies: &[String]) {
    let producer = cluster.client().await.producer("p");
    let first = producer.send(Outgoing::new(topic, bodies[0].clone())).await.unwrap();
    for queue in producer.queues(topic).await.unwrap() {
        let skipped = usize::from(queue == first.queue);
        for body in &bodies[skipped..] {
            producer.send_to(Outgoing::new(topic, body.clone()), &queue).await.unwrap();
        }
    }
}

/// Remembers how many of its calls ran at once, in all and in one queue.
struct Busy {
    recorder: Arc<Recorder>,
    running: std::sync::Mutex<BTreeMap<i32, usize>>,
    most_of_queue: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Handler for Busy {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        let id = delivery.queue.queue_id;
        {
            let mut running = self.running.lock().unwrap();
            *running.entry(id).or_default() += 1;
            self.most_of_queue.fetch_max(running[&id], Ordering::SeqCst);
            self.most.fetch_max(running.values().sum(), Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        *self.running.lock().unwrap().get_mut(&id).unwrap() -= 1;
        self.recorder.handle(delivery).await
    }
}

fn bodies_of(seen: &[Delivery], queue_id: i32) -> Vec<String> {
    let of_queue = seen.iter().filter(|delivery| delivery.queue.queue_id == queue_id);
    of_queue.map(|delivery| String::from_utf8_lossy(&delivery.body).into_owned()).collect()
}

async fn messages_of_a_queue_come_one_by_one_in_order(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(100);
    fill(&cluster, &topic, &bodies).await;
    let busy = Arc::new(Busy {
        recorder: Recorder::new(),
        running: Default::default(),
        most_of_queue: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let client = cluster.client().await;
    let _consumer = client.start_consumer(orderly(&group, &topic), busy.clone()).await.unwrap();
    let seen = busy.recorder.given(4 * bodies.len()).await;
    for queue_id in 0..4 {
        assert_eq!(bodies_of(&seen, queue_id), bodies, "queue {queue_id}");
    }
    assert_eq!(busy.most_of_queue.load(Ordering::SeqCst), 1);
    assert!(busy.most.load(Ordering::SeqCst) > 1, "queues do not wait for each other");
}

async fn a_failing_message_holds_up_its_queue_only(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(20);
    fill(&cluster, &topic, &bodies).await;
    let (mended, failing) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (is_mended, fails) = (mended.clone(), failing.clone());
    let recorder = Recorder::answering(move |delivery| {
        let bad = delivery.queue.queue_id == 2 && &delivery.body[..] == b"0005";
        if bad && is_mended.load(Ordering::SeqCst) == 0 {
            fails.fetch_add(1, Ordering::SeqCst);
            return Outcome::Retry { delay_level: 0, cause: "not yet".to_owned() };
        }
        Outcome::Ack
    });
    let client = cluster.client().await;
    let mut options = orderly(&group, &topic);
    // A queue that rests takes no handler away from the others.
    options.concurrency = 1;
    let consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    let others = || recorder.seen().iter().filter(|d| d.queue.queue_id != 2).count();
    eventually("the other queues are handled", || others() == 60).await;
    eventually("it is tried again", || failing.load(Ordering::SeqCst) >= 3).await;
    mended.store(1, Ordering::SeqCst);
    eventually("the queue goes on", || {
        recorder.seen().iter().any(|d| d.queue.queue_id == 2 && &d.body[..] == b"0019")
    })
    .await;
    consumer.shutdown(SECONDS_5).await;
    let seen = recorder.seen();
    let tries: Vec<_> = seen.iter().filter(|d| d.queue.queue_id == 2).collect();
    let times: Vec<i32> =
        tries.iter().filter(|d| &d.body[..] == b"0005").map(|d| d.reconsume_times).collect();
    assert!(times.len() >= 4 && times.iter().copied().eq(0..times.len() as i32), "{times:?}");
    let mut order = bodies_of(&seen, 2);
    order.dedup();
    assert_eq!(order, bodies, "nothing overtakes it");
}

async fn a_message_that_fails_too_often_is_a_dead_letter(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let bodies = numbered(3);
    fill(&cluster, &topic, &bodies).await;
    let recorder = Recorder::answering(|delivery| match &delivery.body[..] {
        b"0001" => Outcome::Retry { delay_level: 0, cause: "no such\ntable".to_owned() },
        _ => Outcome::Ack,
    });
    let client = cluster.client().await;
    let mut options = orderly(&group, &topic);
    options.max_attempts = Some(2);
    let _consumer = client.start_consumer(options, recorder.clone()).await.unwrap();
    // Three tries of the middle one, in each of four queues.
    recorder.given(4 * 5).await;
    let reader = Recorder::new();
    let options = member(&unique("reader"), &dlq_topic(&group));
    let _reading = cluster.client().await.start_consumer(options, reader.clone()).await.unwrap();
    for dead in reader.given(4).await {
        assert_eq!(&dead.body[..], b"0001");
        assert_eq!(dead.property("RETRY_TOPIC"), Some(topic.as_str()));
        if cluster.broker.is_some() {
            assert_eq!(dead.cause(), Some("no such table"));
        }
    }
    for queue_id in 0..4 {
        let given = bodies_of(&recorder.seen(), queue_id);
        assert_eq!(given, ["0000", "0001", "0001", "0001", "0002"]);
    }
}

async fn a_queue_goes_to_the_next_member_at_once(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    fill(&cluster, &topic, &numbered(1)).await;
    let (first, second) = (Recorder::new(), Recorder::new());
    let client = cluster.client().await;
    let leaving = client.start_consumer(orderly(&group, &topic), first.clone()).await.unwrap();
    first.given(4).await;
    let other = cluster.client().await;
    let _staying = other.start_consumer(orderly(&group, &topic), second.clone()).await.unwrap();
    let began = std::time::Instant::now();
    leaving.shutdown(SECONDS_5).await;
    fill(&cluster, &topic, &numbered(1)).await;
    second.given(4).await;
    // A lock that nobody releases lives for more than half a minute.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let again = first.seen().len() + second.seen().len();
    assert_eq!(again, 8, "what was handled does not come again");
}

/// Never ends the first time.
struct Stuck {
    began: AtomicUsize,
    then: Arc<Recorder>,
}

#[async_trait]
impl Handler for Stuck {
    async fn handle(&self, delivery: Delivery) -> Outcome {
        if self.began.fetch_add(1, Ordering::SeqCst) == 0 {
            std::future::pending::<()>().await;
        }
        self.then.handle(delivery).await
    }
}

async fn a_handler_that_takes_too_long_is_called_again(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    client.producer("p").send(Outgoing::new(&topic, "x")).await.unwrap();
    let stuck = Arc::new(Stuck { began: AtomicUsize::new(0), then: Recorder::new() });
    let mut options = orderly(&group, &topic);
    options.consume_timeout = Duration::from_millis(200);
    let _consumer = client.start_consumer(options, stuck.clone()).await.unwrap();
    let again = stuck.then.given(1).await.remove(0);
    assert_eq!((&again.body[..], again.reconsume_times), (&b"x"[..], 1));
    assert_eq!(again.topic(), topic);
}
