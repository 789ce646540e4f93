//! A consumer that fails always: sixteen retries, each after RocketMQ's interval, 10 s to 2 h; then
//! the message is a dead letter.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::Outcome;
use mq_core::message::Outgoing;
use mq_core::names::dlq_topic;
use support::{Cluster, Recorder, member, unique};

support::each_transport!(with moved time: sixteen_retries_and_no_more);

const INTERVALS: [i64; 16] =
    [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
/// Time is moved in steps; a retry may be late by one.
const STEP_MS: i64 = 30_000;

async fn sixteen_retries_and_no_more(cluster: Cluster) {
    if cluster.broker.is_none() {
        println!("SKIPPED: nearly five hours pass, and this cluster's time cannot be moved");
        return;
    }
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let fails = |_: &_| Outcome::Retry { delay_level: 0, cause: "the test wants it".to_owned() };
    let recorder = Recorder::answering(fails);
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    client.producer("p").send(Outgoing::new(&topic, "hopeless")).await.unwrap();
    let mut last = recorder.given(1).await.pop().unwrap();
    for (times, seconds) in (1..).zip(INTERVALS) {
        let interval = Duration::from_secs(seconds.unsigned_abs());
        let count = usize::try_from(times).unwrap() + 1;
        let (given, ()) = tokio::join!(recorder.given(count), async {
            cluster.pass(interval).await;
            cluster.pass(Duration::from_secs(20)).await;
        });
        let again = given.last().unwrap().clone();
        assert_eq!(again.reconsume_times, times);
        let waited = again.store_timestamp_ms - last.store_timestamp_ms;
        let expected = seconds * 1_000..seconds * 1_000 + 2 * STEP_MS;
        assert!(expected.contains(&waited), "retry {times} came after {waited} ms");
        last = again;
    }
    let dead = Recorder::new();
    let reader = member(&unique("reader"), &dlq_topic(&group));
    let _reader = client.start_consumer(reader, dead.clone()).await.unwrap();
    assert_eq!(&dead.given(1).await[0].body[..], b"hopeless");
    assert_eq!(recorder.seen().len(), 17, "one attempt and sixteen retries");
}
