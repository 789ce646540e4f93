//! A message sent one-way is not waited for, and arrives while nothing fails.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, numbered, sorted_bodies, unique};

support::each_transport!(one_way_messages_arrive);

async fn one_way_messages_arrive(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    let bodies = numbered(200);
    for body in &bodies {
        producer.send_oneway(Outgoing::new(&topic, body.clone())).await.unwrap();
    }
    let recorder = Recorder::new();
    let _consumer = client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    assert_eq!(sorted_bodies(&recorder.given(bodies.len()).await), bodies);
}
