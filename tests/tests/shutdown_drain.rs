//! A consumer that shuts down finishes what runs, gives the rest back, and nothing is lost or done
//! twice.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::message::Outgoing;
use support::{Cluster, Recorder, eventually, member, numbered, unique};

support::each_transport!(what_runs_is_finished_and_the_rest_comes_again, the_deadline_cuts_off);

async fn filled(cluster: &Cluster, topic: &str, count: usize) {
    let producer = cluster.client().await.producer("p");
    for body in numbered(count) {
        producer.send(Outgoing::new(topic, body)).await.unwrap();
    }
}

async fn what_runs_is_finished_and_the_rest_comes_again(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    filled(&cluster, &topic, 200).await;
    let client = cluster.client().await;
    let slow = Recorder::taking(Duration::from_millis(20));
    let mut options = member(&group, &topic);
    options.concurrency = 4;
    let consumer = client.start_consumer(options.clone(), slow.clone()).await.unwrap();
    slow.given(20).await;
    let report = consumer.shutdown(Duration::from_secs(10)).await;
    assert!(report.finished <= 4 && report.cut_off == 0, "{report:?}");
    assert!(report.given_back > 0, "{report:?}");
    assert_eq!(report.uncommitted, 0);
    assert_eq!(consumer.shutdown(Duration::ZERO).await, Default::default(), "once is enough");
    let before = slow.bodies();
    assert!(before.len() < 200);

    let rest = Recorder::new();
    let _consumer = client.start_consumer(options, rest.clone()).await.unwrap();
    let together = || {
        let mut all = slow.bodies();
        all.extend(rest.bodies());
        all.sort();
        all
    };
    eventually("the rest is handled", || together().len() >= 200).await;
    let mut all = together();
    all.dedup();
    assert_eq!(all, numbered(200), "nothing is lost");
    // Handlers run side by side: those behind the lowest unfinished message come again.
    assert!(together().len() < 200 + 4 * 4, "{} too many", together().len() - 200);
}

async fn the_deadline_cuts_off(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    filled(&cluster, &topic, 1).await;
    let client = cluster.client().await;
    let stuck = Recorder::taking(Duration::from_secs(3_600));
    let consumer = client.start_consumer(member(&group, &topic), stuck.clone()).await.unwrap();
    // Two of these references are the test's; the handler's future holds none, so wait for a fact.
    eventually("the handler runs", || Arc::strong_count(&stuck) > 1).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let started = tokio::time::Instant::now();
    let report = consumer.shutdown(Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((report.cut_off, report.finished), (1, 0), "{report:?}");

    let next = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), next.clone()).await.unwrap();
    assert_eq!(next.given(1).await[0].reconsume_times, 0, "it was not done, so it comes again");
}
