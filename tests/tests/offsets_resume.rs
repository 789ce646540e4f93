//! A group goes on where it stood; a new one begins where it says.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::message::Outgoing;
use support::{Cluster, Recorder, member, numbered, unique};

support::each_transport!(a_group_goes_on_where_it_stood);

async fn a_group_goes_on_where_it_stood(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let client = cluster.client().await;
    let producer = client.producer("p");
    let bodies = numbered(100);
    for round in bodies.chunks(25) {
        for body in round {
            producer.send(Outgoing::new(&topic, body.clone())).await.unwrap();
        }
        let recorder = Recorder::new();
        let consumer =
            client.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
        recorder.given(round.len()).await;
        let report = consumer.shutdown(Duration::from_secs(5)).await;
        assert_eq!((report.given_back, report.uncommitted), (0, 0), "{report:?}");
        assert_eq!(recorder.bodies(), round, "not one of the rounds before");
    }
}
