//! A client that traces writes what happens to messages to the trace topic, in RocketMQ's form; one
//! that does not, writes nothing.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::sync::Arc;
use std::time::Duration;

use mq_core::client::{Client, ClientOptions, Outcome};
use mq_core::message::Outgoing;
use mq_core::protocol::trace::{TraceRecord, trace_records};
use support::{Cluster, Recorder, eventually, member, unique};

support::each_transport!(a_messages_path_is_written_down, the_last_traces_survive_a_shutdown);

/// A client that traces, the topic it traces to, and who reads that.
async fn tracing(cluster: &Cluster) -> (Client, Arc<Recorder>) {
    let topic = unique("traces");
    let options = ClientOptions { trace: Some(topic.clone()), ..cluster.options() };
    let client = Client::connect(options).await.unwrap();
    let (reader, recorder) = (cluster.client().await, Recorder::new());
    // Made before it is read, so that the reader need not wait for a new route.
    reader.producer("p").send(Outgoing::new(&topic, "no trace")).await.unwrap();
    let options = member(&unique("readers"), &topic);
    let consumer = reader.start_consumer(options, recorder.clone()).await.unwrap();
    // It reads until the test ends.
    std::mem::forget(consumer);
    std::mem::forget(reader);
    (client, recorder)
}

fn traced(recorder: &Recorder) -> Vec<TraceRecord> {
    let text = |body: &[u8]| String::from_utf8(body.to_vec()).unwrap();
    let seen = recorder.seen();
    seen.iter().flat_map(|d| trace_records(&text(&d.body)).collect::<Vec<_>>()).collect()
}

async fn a_messages_path_is_written_down(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let (client, recorder) = tracing(&cluster).await;
    let message = Outgoing::new(&topic, "hello").tag("on").key("k1").key("k2");
    let receipt = client.producer("senders").send(message).await.unwrap();
    let handler = Recorder::answering(|delivery| match delivery.reconsume_times {
        0 => Outcome::Retry { delay_level: 1, cause: "once".to_owned() },
        _ => Outcome::Ack,
    });
    let consumer = client.start_consumer(member(&group, &topic), handler.clone()).await.unwrap();
    handler.given(2).await;
    eventually("five traces are written", || traced(&recorder).len() >= 5).await;
    consumer.shutdown(Duration::from_secs(5)).await;
    let mut found = traced(&recorder);
    assert!(found.iter().all(|record| record.msg_id() == receipt.msg_id), "{found:?}");
    assert!(found.iter().all(|record| record.keys().eq(["k1", "k2"])), "{found:?}");
    found.sort_by_key(|record| match record {
        TraceRecord::Pub(_) => (0, 0),
        TraceRecord::SubBefore(record) => (1, record.retry_times),
        TraceRecord::SubAfter(record) => (2, record.success.into()),
        TraceRecord::EndTransaction(_) => (3, 0),
    });
    let [
        TraceRecord::Pub(sent),
        TraceRecord::SubBefore(first),
        TraceRecord::SubBefore(second),
        TraceRecord::SubAfter(failed),
        TraceRecord::SubAfter(done),
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!((&*sent.group, &*sent.topic, &*sent.tags), ("senders", &*topic, "on"));
    assert_eq!((sent.body_length, sent.msg_type, sent.success), (5, 0, true));
    assert_eq!(sent.offset_msg_id, receipt.offset_msg_id);
    assert!(sent.store_host.starts_with("127.0.0.1:"), "{}", sent.store_host);
    assert_eq!((&first.group, first.retry_times, second.retry_times), (&group, 0, 1));
    assert_eq!((&failed.request_id, failed.success), (&first.request_id, false));
    assert_eq!((&done.request_id, done.context_code), (&second.request_id, 0));
}

async fn the_last_traces_survive_a_shutdown(cluster: Cluster) {
    let topic = unique("topic");
    let (client, recorder) = tracing(&cluster).await;
    let batch = (0..300).map(|_| Outgoing::new(&topic, "x").key(&"k".repeat(200))).collect();
    let receipts = client.producer("senders").send_batch(batch).await.unwrap();
    client.producer("senders").send(Outgoing::new(&topic, "y").delay_level(3)).await.unwrap();
    client.shutdown().await;
    eventually("all traces are there", || traced(&recorder).len() >= 301).await;
    let found = traced(&recorder);
    let of = |id: &str| found.iter().filter(|record| record.msg_id() == id).count();
    assert!(receipts.iter().all(|receipt| of(&receipt.msg_id) == 1));
    let delayed = |record: &TraceRecord| matches!(record, TraceRecord::Pub(p) if p.msg_type == 3);
    assert!(found.iter().any(delayed));
}
