//! A consumer waits for topics that nobody has made yet, and has their first message soon after it
//! is sent: the broker says when a topic is made.
#![expect(clippy::unwrap_used, reason = "a test ends where its world does")]

use std::time::Duration;

use mq_core::client::Transport;
use mq_core::message::Outgoing;
use mq_core::protocol::body::{ConsumerData, HeartbeatData, SubscriptionData, to_json};
use mq_core::protocol::header::ConsumerGroupRequest;
use mq_core::protocol::{Command, RequestCode, ResponseCode};
use mq_core::remote::{Inbound, Remote, RemoteOptions};
use support::{Cluster, Recorder, member, unique};
use tokio::sync::mpsc;

support::each_transport!(a_topic_is_found_when_it_is_made, a_group_hears_of_its_new_topic);

const PATIENCE: Duration = Duration::from_secs(30);

async fn a_topic_is_found_when_it_is_made(cluster: Cluster) {
    let (topic, group) = (unique("topic"), unique("group"));
    let (waiting, sending, recorder) =
        (cluster.client().await, cluster.client().await, Recorder::new());
    let consumer = waiting.start_consumer(member(&group, &topic), recorder.clone()).await.unwrap();
    sending.producer("p").send(Outgoing::new(&topic, "x")).await.unwrap();
    recorder.given(1).await;
    consumer.shutdown(Duration::from_secs(5)).await;
}

/// Waits for the notice that a group is to deal its queues anew.
async fn notice(requests: &mut mpsc::Receiver<Inbound>, group: &str) {
    let noticed = async {
        loop {
            let command = requests.recv().await.unwrap().command;
            let header = command.decode_header::<ConsumerGroupRequest<'_>>();
            if command.request_code() == RequestCode::NotifyConsumerIdsChanged
                && header.is_ok_and(|header| header.consumer_group == group)
            {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, noticed).await.is_ok(), "no notice in time");
}

async fn a_group_hears_of_its_new_topic(cluster: Cluster) {
    if cluster.broker.is_none() {
        println!("SKIPPED: Apache RocketMQ does not tell groups of new topics");
        return;
    }
    let (topic, group) = (unique("topic"), unique("group"));
    let (inbound, mut requests) = mpsc::channel(64);
    let options = cluster.options();
    let remote = match &options.transport {
        Transport::InProcess(broker) => Remote::local(broker.connect(), inbound),
        Transport::Tcp => {
            let address = &options.name_servers[0];
            Remote::connect(address, &RemoteOptions::default(), inbound).await.unwrap()
        }
    };
    let heartbeat = HeartbeatData {
        client_id: unique("client"),
        consumer_data_set: vec![ConsumerData {
            group_name: group.clone(),
            subscription_data_set: vec![SubscriptionData::by_tags(&topic, "*", 1)],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    let heartbeat = Command::request(RequestCode::HeartBeat).body(to_json(&heartbeat));
    let answer = remote.call(heartbeat, PATIENCE).await.unwrap();
    assert_eq!(answer.response_code(), ResponseCode::Success);
    notice(&mut requests, &group).await;
    cluster.client().await.producer("p").send(Outgoing::new(&topic, "x")).await.unwrap();
    notice(&mut requests, &group).await;
}
